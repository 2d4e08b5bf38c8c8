"""
The values that nodes store in Redis: made for one key and field, and believed only if they were made for it.

Tests: tests/fleet/backends/test_redis_values.py, tests/fleet/backends/test_tallies.py.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from ...core import tallies
from ...core.labels import OTHER, is_version
from ...core.sealing import is_sealed
from ...core.tallies import SeenAlive, Tally
from ..border import Border

MAX_STORED: Final = 2 * tallies.MAX_TALLY
"""Bytes of a stored value other than a list of pages; a longer one is nobody's."""

MAX_RETURNED: Final = 200_000
"""Pages that came back and are read, of one node."""

STRANGER: Final = Tally(unknown=True)
"""Stands for the tally of a node of another fleet."""


class RedisValues:
    """
    Makes and reads stored values.

    Args:
        border: Which nodes are of this fleet.
        now: Returns Redis's time in ms; 0: not known.
    """

    def __init__(self, border: Border, now: Callable[[], int]) -> None:
        self._border = border
        self._now = now

    def seal(self, context: str, data: bytes) -> bytes:
        """Return a value as Redis may have it, sealed for one context."""
        return self._border.seal(context, data, self._now())

    def encode(self, node: str, tally: Tally) -> bytes:
        """Encode the tally of a node, which another one may have written."""
        fingerprint = self._border.fingerprint
        stamped = msgspec.structs.replace(tally, fleet=fingerprint) if fingerprint else tally
        return self.seal(f"tallies:{node}", tallies.encode(stamped))

    def read_tally(self, node: str, data: bytes) -> Tally | None:
        """Return the tally of a node, `STRANGER` for that of another fleet; None: it is malformed."""
        opened = self._border.open_value(f"tallies:{node}", data) if len(data) <= MAX_STORED else None
        tally = None if opened is None else tallies.decode_tally(opened)
        if tally is not None:
            return STRANGER if self._border.is_foreign(tally.fleet) else tally
        return STRANGER if self._border.sealed or is_sealed(data) else None

    def read_seen_alive(self, node: str, data: bytes | None) -> SeenAlive | None:
        """Return that a node was seen to live; None: nobody of this fleet says so."""
        if data is None or len(data) > MAX_STORED:
            return None
        return tallies.decode_seen_alive(self._border.open_value(f"doubts:{node}", data))

    def read_all(self, context: str, values: Iterable[Any]) -> list[bytes]:
        """Return what is authentic among the values of a list."""
        short = (value for value in values if isinstance(value, bytes) and len(value) <= MAX_STORED)
        return [opened for value in short if (opened := self._border.open_value(context, value)) is not None]

    def mark_returned(self, node: str, page: str, version: str) -> bytes:
        """Return the value of a page of a node that came back."""
        return self._border.mark(_returned(node, page), version.encode())

    def count_returned(self, node: str, answer: Any) -> dict[str, int]:
        """Count the pages of a node that came back, by version."""
        read = self._border.read_mark
        versions = (
            opened.decode("utf-8", "replace")
            for page, value in (pairs_of(answer) or [])[:MAX_RETURNED]
            if len(value) <= MAX_STORED
            and (opened := read(_returned(node, page.decode("utf-8", "replace")), value)) is not None
        )
        return dict(Counter(version for version in versions if version == OTHER or is_version(version)))


def pairs_of(answer: Any) -> list[tuple[bytes, bytes]] | None:
    """Return the fields and values of a hash; None: the answer is no hash."""
    if isinstance(answer, dict):
        answer = [part for pair in answer.items() for part in pair]
    if not isinstance(answer, list) or len(answer) % 2:
        return None
    pairs = zip(answer[::2], answer[1::2], strict=True)
    return [(name, value) for name, value in pairs if isinstance(name, bytes) and isinstance(value, bytes)]


def _returned(node: str, page: str) -> str:
    return f"back:{node}:{page}"
