"""
Two ids for each connection.

`id` is public: viewers see it in the list. The *handle* is secret: it is what a page's POSTs name their connection by,
and only that page is ever told. A handle is the id and a keyed hash of it, so nothing has to be remembered to check
one, and knowing every id gives nobody power over a connection.

Source: docs/adr/0004-two-ids.md
"""

from hashlib import blake2b
from hmac import compare_digest
from typing import Final

NODE_BYTES: Final = 6
"""48 random bits name a node: among 1,000 nodes, two of one name are less likely than one in 500 million."""

NODE_LENGTH: Final = 2 * NODE_BYTES
"""Characters that a node's name has, and that its ids begin with."""

ID_BYTES: Final = 10
"""80 random bits after the node's name: no two connections of a node meet, and nobody counts connections by them."""

MAX_HANDLE: Final = 128
"""Characters; longer ones are malformed."""


def public_id(node_id: str, random: bytes) -> str:
    """Name a connection. `random` holds `ID_BYTES` fresh random bytes; `node_id` tells its owner in a fleet."""
    return node_id + random.hex()


def is_node(text: str) -> bool:
    """Say whether a text can be a node's name."""
    return len(text) == NODE_LENGTH and not text.strip("0123456789abcdef")


def handle_for(public: str, key: bytes) -> str:
    """Make the secret handle of a connection."""
    return f"{public}.{_mac(public, key)}"


def id_of(handle: str, key: bytes) -> str | None:
    """
    Return the public id that a handle proves, or None if it proves nothing.

    The comparison takes the same time whatever the guess.
    """
    public, dot, mac = handle.partition(".")
    if not dot or not compare_digest(mac.encode("utf-8", "surrogatepass"), _mac(public, key).encode()):
        return None
    return public


def _mac(public: str, key: bytes) -> str:
    return blake2b(public.encode("utf-8", "surrogatepass"), key=key, digest_size=16).hexdigest()
