"""
Ids of nodes, and two ids for each connection.

`id` is public: viewers see it in the list. The *handle* is secret: a page's POSTs name their connection by it, and only
that page ever gets it. A handle is the id and two keyed hashes of it, so it is checked without remembering anything,
and knowing every id gives no power over a connection. Both begin with the id of the node that owns the connection.

The first hash needs the key, which never leaves the node. The second one needs only the *return key*: other nodes have
it, so that they can tell a page of a node that is gone from somebody who knows the node's id. It gives no power over a
connection that is open.

Source: docs/adr/0004-two-ids.md
"""

from functools import lru_cache
from hashlib import blake2b
from hmac import compare_digest
from typing import Final

NODE_BYTES: Final = 6
"""48 random bits name a node: among 1,000 nodes, two of one id are less likely than one in 500 million."""

NODE_LENGTH: Final = 2 * NODE_BYTES
"""Characters of a node id that this program draws."""

MAX_NODE_ID: Final = 32
"""Characters of a node id that this program accepts from another node, which may run another version."""

NODE_ID_PATTERN: Final = "^[0-9a-f]+$"

ID_BYTES: Final = 10
"""80 random bits after the node's id: no two connections of a node are alike, and the ids do not count connections."""

IDS_AT_ONCE: Final = 64
"""Ids for which random bytes are drawn at once: asking the system for them costs a third of a microsecond."""

MAX_HANDLE: Final = 128
"""Characters; longer ones are malformed."""


def public_id(node_id: str, random: bytes) -> str:
    """Make the id of a connection from that of its node and `ID_BYTES` fresh random bytes."""
    return node_id + random.hex()


def split_random(random: bytes) -> list[bytes]:
    """Cut random bytes into those of single ids."""
    return [random[at : at + ID_BYTES] for at in range(0, len(random), ID_BYTES)]


def is_node_id(text: str) -> bool:
    """Say whether a text can be the id of a node, of whatever version of this program."""
    return 0 < len(text) <= MAX_NODE_ID and not text.strip("0123456789abcdef")


def owner_of(connection_id: str) -> str | None:
    """Return the id of the node that an id or a handle names as its owner; None: it names none."""
    owner = connection_id[:NODE_LENGTH]
    return owner if len(owner) == NODE_LENGTH and is_node_id(owner) else None


def handle_for(public: str, key: bytes) -> str:
    """Make the secret handle of a connection."""
    name = _bytes(public)
    begun = _begun_hashes(key)
    own, returning = begun[0].copy(), begun[1].copy()
    own.update(name)
    returning.update(name)
    return f"{public}.{own.hexdigest()}{returning.hexdigest()}"


def id_of(handle: str, key: bytes) -> str | None:
    """
    Return the public id that a handle proves, or None if it proves nothing.

    The comparison takes the same time whatever the guess.
    """
    public, dot, _ = handle.partition(".")
    if not dot or not compare_digest(_bytes(handle), _bytes(handle_for(public, key))):
        return None
    return public


@lru_cache(maxsize=16)
def return_key(key: bytes) -> bytes:
    """Return the key by which other nodes check a handle of this node, after it is gone. It does not reveal `key`."""
    return blake2b(b"return", key=key, digest_size=16).digest()


@lru_cache(maxsize=16)
def _begun_hashes(key: bytes) -> tuple[blake2b, blake2b]:
    """Return both hashes of a handle before its id. Half of what they cost is due to their keys."""
    return blake2b(key=key, digest_size=_OWN_BYTES), blake2b(key=return_key(key), digest_size=_RETURN_BYTES)


def returning_id(handle: str, key: bytes) -> str | None:
    """Return the public id of a connection of the node whose return key is `key`; None: that node never made it."""
    public, dot, mac = handle.partition(".")
    if not dot or not key or len(mac) != 2 * (_OWN_BYTES + _RETURN_BYTES):
        return None
    expected = blake2b(_bytes(public), key=key, digest_size=_RETURN_BYTES).hexdigest()
    return public if compare_digest(_bytes(mac[2 * _OWN_BYTES :]), _bytes(expected)) else None


_OWN_BYTES: Final = 12
_RETURN_BYTES: Final = 4
"""32 bits, for as long as a node's grace lasts: guessing one handle takes two billion streams."""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
