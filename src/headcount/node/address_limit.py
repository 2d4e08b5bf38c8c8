"""
How many connections each address has open, for `max_connections_per_address`.

    _of     {session id: key}   streams and tabs whose address is known
    _streams, _pages {key: n}   streams, and connections that are counted or watch: each is at most the limit

No address is kept, only a keyed hash of it, and the key is lost with the process. IPv6 hosts own a /64, so they share
its number.

Tests: tests/node/test_address_limit.py.
"""

import ipaddress
import os
import threading

from ..core.keyed_hash import KEY_BYTES, keyed_hash


class AddressLimit:
    """
    Counts by address. Thread-safe.

    Args:
        limit: Most connections of one address.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._hash_key = os.urandom(KEY_BYTES)
        self._of: dict[str, tuple[bytes, bool, bool]] = {}
        self._streams: dict[bytes, int] = {}
        self._pages: dict[bytes, int] = {}

    def key(self, address: str | None) -> bytes | None:
        """Return what stands for an address; None: it is not known, and not limited."""
        try:
            network = ipaddress.ip_address(address or "")
        except ValueError:
            return None
        if isinstance(network, ipaddress.IPv6Address):
            network = network.ipv4_mapped or network
        packed = network.packed[:8] if isinstance(network, ipaddress.IPv6Address) else network.packed
        return keyed_hash(self._hash_key, packed)

    def is_full(self, key: bytes) -> bool:
        """Say whether an address has as many connections as it may."""
        return max(self._streams.get(key, 0), self._pages.get(key, 0)) >= self._limit

    def has_room(self, stream_id: str, tabs: int) -> bool:
        """Say whether so many tabs may be added to a stream."""
        found = self._of.get(stream_id)
        return found is None or self._pages.get(found[0], 0) + tabs <= self._limit

    def add(self, stream_id: str, key: bytes, *, shared: bool) -> None:
        """Add a stream. One that tabs share is no page; they are."""
        self._add(stream_id, key, is_stream=True, is_page=not shared)

    def add_tab(self, tab_id: str, stream_id: str) -> None:
        """Add a tab of a stream."""
        found = self._of.get(stream_id)
        if found is not None:
            self._add(tab_id, found[0], is_stream=False, is_page=True)

    def discard(self, session_id: str) -> None:
        """Remove a stream or a tab."""
        with self._lock:
            found = self._of.pop(session_id, None)
            if found is not None:
                self._change(*found, by=-1)

    def _add(self, session_id: str, key: bytes, *, is_stream: bool, is_page: bool) -> None:
        with self._lock:
            if session_id not in self._of:
                self._of[session_id] = key, is_stream, is_page
                self._change(key, is_stream, is_page, by=1)

    def _change(self, key: bytes, is_stream: bool, is_page: bool, *, by: int) -> None:
        for counts, here in ((self._streams, is_stream), (self._pages, is_page)):
            if here:
                counts[key] = counts.get(key, 0) + by
                if not counts[key]:
                    del counts[key]
