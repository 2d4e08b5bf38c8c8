"""
Messages and stored values that only nodes with the same secret can make and read.

    C1 01 · fingerprint (8) · length (1), id of the node · session (8) · number (8) · time (8) · ciphertext · tag (16)

    key         PBKDF2 of the secret, salted with the prefix of the fleet's channels; cached
    ciphertext  the data, XOR SHAKE256(cipher key, header)
    tag         keyed BLAKE2b of the header, the context and the ciphertext: encrypt, then authenticate

No header comes twice under one key: node and session are random, the number counts. So no part of a key stream is used
twice. The *context* is where the data belongs (a channel; a key and its field): it is not sent, and what is moved
elsewhere does not open. The first byte is one that msgpack never begins with, so a node without the secret takes
the whole for a message of an unknown kind.

A *mark* is a tag without encryption, for many small values that are no secret.

Replays: a channel message opens once. `ReplayGuard` knows the number of the last message of each node, and refuses what
is older than a minute by the clock of the store, or than this node.

Source: docs/adr/0020-fleet-secret.md
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b, pbkdf2_hmac, shake_256
from hmac import compare_digest
from typing import Final, NamedTuple

from .identity import MAX_NODE_ID, is_node_id

MAX_SECRETS: Final = 4
"""Secrets of one node: the one that it uses, and former ones that it accepts."""

MIN_SECRET: Final = 16
"""
Characters of a secret or a token. Nothing else keeps it from being guessed: who can read the store, or has a ticket,
asks nobody; for the others see authorization/tokens.py.
"""

SESSION_BYTES: Final = 8

FINGERPRINT_BYTES: Final = 8

MAX_AGE: Final = 60.0
"""Seconds by which a message may be older or newer than the clock of the store."""

SLACK: Final = 5.0
"""Seconds by which two nodes may differ about that clock."""

MAX_SENDERS: Final = 8_192
"""Nodes whose last message is remembered. Only nodes with the secret are remembered."""

_MAGIC: Final = b"\xc1\x01"
_MARK_MAGIC: Final = b"\xc1\x02"
_TAG: Final = 16
_ROUNDS: Final = 20_000


class Key(NamedTuple):
    """What follows from one secret for one fleet."""

    fingerprint: bytes
    """Tells secrets apart, and reveals nothing of them."""
    cipher: bytes
    mac: bytes


@lru_cache(maxsize=32)
def derive(secret: str, fleet: str) -> Key:
    """
    Derive the key of a fleet. About 10 ms, the first time.

    Args:
        secret: Of any length.
        fleet: Where the fleet meets: another fleet with the same secret has another key.
    """
    salt = b"headcount fleet secret\0" + fleet.encode("utf-8", "surrogatepass")
    master = pbkdf2_hmac("sha256", secret.encode("utf-8", "surrogatepass"), salt, _ROUNDS)
    parts = [blake2b(name, key=master, digest_size=32).digest() for name in (b"fingerprint", b"cipher", b"mac")]
    return Key(parts[0][:FINGERPRINT_BYTES], parts[1], parts[2])


def is_sealed(data: bytes) -> bool:
    """Say whether data claims to be sealed, by whatever secret."""
    return data[:1] == _MAGIC[:1]


class Opened(NamedTuple):
    """What was sealed, and by whom. All of it is authentic."""

    node: str
    session: bytes
    number: int
    at: int
    """When it was sealed, in ms by the clock of the store."""
    data: bytes


class Sealer:
    """
    Seals for one node, and opens what nodes with one of its secrets have sealed.

    Args:
        keys: The first one seals.
        node: Id of this node.
        session: Random bytes, `SESSION_BYTES`, that no other sealer of this node has.
    """

    def __init__(self, keys: Sequence[Key], node: str, session: bytes) -> None:
        self._key = keys[0]
        self._keys = {key.fingerprint: key for key in keys}
        name = node.encode("ascii")
        self._begin = _MAGIC + self._key.fingerprint + bytes([len(name)]) + name + session
        self._number = 0

    def seal(self, context: str, data: bytes, at: int) -> bytes:
        """Seal data for a context. `at` is the time of the store's clock in ms. About 6 µs, and 14 ns a byte."""
        self._number += 1
        header = self._begin + self._number.to_bytes(8) + max(0, at).to_bytes(8)
        body = _xor(self._key, header, data)
        return header + body + _tag(self._key, header, context, body)

    def open(self, context: str, sealed: bytes) -> Opened | None:
        """Open what was sealed for a context. Returns None for all that no node with a secret of ours sealed for it."""
        start = len(_MAGIC) + FINGERPRINT_BYTES
        if sealed[: len(_MAGIC)] != _MAGIC or len(sealed) <= start or not 0 < sealed[start] <= MAX_NODE_ID:
            return None
        key = self._keys.get(sealed[len(_MAGIC) : start])
        end = start + 1 + sealed[start]
        length = end + SESSION_BYTES + 16
        if key is None or len(sealed) < length + _TAG:
            return None
        header, body, tag = sealed[:length], sealed[length:-_TAG], sealed[-_TAG:]
        if not compare_digest(tag, _tag(key, header, context, body)):
            return None
        node = header[start + 1 : end].decode("ascii", "replace")
        session = header[end : end + SESSION_BYTES]
        number, at = int.from_bytes(header[-16:-8]), int.from_bytes(header[-8:])
        return Opened(node, session, number, at, _xor(key, header, body)) if is_node_id(node) else None

    def mark(self, context: str, data: bytes) -> bytes:
        """Return data with a tag for a context. It can be read by anybody, and made by nobody else. About 2 µs."""
        header = _MARK_MAGIC + self._key.fingerprint
        return header + data + _tag(self._key, header, context, data)

    def read_mark(self, context: str, marked: bytes) -> bytes | None:
        """Return the data that `mark` was given for this context; None: no node with a secret of ours did that."""
        length = len(_MARK_MAGIC) + FINGERPRINT_BYTES
        header, data, tag = marked[:length], marked[length:-_TAG], marked[-_TAG:]
        key = self._keys.get(header[len(_MARK_MAGIC) :])
        if key is None or header[: len(_MARK_MAGIC)] != _MARK_MAGIC or len(marked) < length + _TAG:
            return None
        return data if compare_digest(tag, _tag(key, header, context, data)) else None


def _tag(key: Key, header: bytes, context: str, body: bytes) -> bytes:
    where = context.encode("utf-8", "surrogatepass")
    # Lengths first, so that no two of (header, context, body) give the same bytes.
    mac = blake2b(len(header).to_bytes(4) + len(where).to_bytes(4) + header + where, key=key.mac, digest_size=_TAG)
    mac.update(body)
    return mac.digest()


def _xor(key: Key, header: bytes, data: bytes) -> bytes:
    stream = shake_256(key.cipher + header).digest(len(data))
    return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))


class _Last(NamedTuple):
    session: bytes
    number: int
    at: int


class ReplayGuard:
    """
    Refuses a message that was received before, or that is too old to know.

    The messages of a node come in the order in which it sealed them; what is late is lost, as it may be.
    """

    def __init__(self) -> None:
        self._last: dict[str, _Last] = {}

    def admit(self, opened: Opened, now: int, since: int) -> bool:
        """
        Say whether a message is new, and remember it.

        Args:
            opened: It.
            now: The time of the store's clock, in ms.
            since: When this node came, by the same clock. Messages of before are not for it.
        """
        if abs(opened.at - now) > MAX_AGE * 1000 or opened.at < since - SLACK * 1000:
            return False
        last = self._last.get(opened.node)
        if last is not None and last.session == opened.session:
            new = opened.number > last.number
        else:  # it left, and came again
            new = last is None or opened.at > last.at
        if new:
            self._last.pop(opened.node, None)
            self._last[opened.node] = _Last(opened.session, opened.number, opened.at)
            while len(self._last) > MAX_SENDERS:
                del self._last[next(iter(self._last))]
        return new
