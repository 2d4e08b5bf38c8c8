"""
What is kept in place of credentials and addresses: a hash that nobody can make or look up without the key.

The key is random, of one process, and lost with it. Hashes that others check have formats of their own
(core/identity.py, core/ticket.py, core/sealing.py).
"""

from hashlib import blake2b
from typing import Final

KEY_BYTES: Final = 32

HASH_BYTES: Final = 16
"""Two inputs of one process have the same hash with a probability of 2**-128."""


def keyed_hash(key: bytes, *parts: bytes) -> bytes:
    """Return a hash of `HASH_BYTES` bytes. It covers where a part ends: `(b"ab", b"c")` and `(b"a", b"bc")` differ."""
    digest = blake2b(key=key, digest_size=HASH_BYTES)
    for part in parts:
        digest.update(b"%d:%b" % (len(part), part))
    return digest.digest()
