"""Frames of WebSockets, as clients send them."""

from struct import Struct
from typing import Final

UNCHANGED: Final = b"\0\0\0\0"
"""Clients must mask; with zeros the data stays as it is."""

_short = Struct("!BB4x").pack
_long = Struct("!BBH4x").pack
_longest = Struct("!BBQ4x").pack


def frame(opcode: int, data: bytes, *, fin: bool = True, mask: bytes | None = UNCHANGED) -> bytes:
    """
    Make one frame.

    Args:
        fin: Whether it is the last of its message.
        mask: Four bytes; None: not masked, which clients must not do.
    """
    first = opcode | 0x80 if fin else opcode
    size = len(data)
    if size < 126:
        head = _short(first, 0x80 | size)
    elif size < 1 << 16:
        head = _long(first, 0xFE, size)
    else:
        head = _longest(first, 0xFF, size)
    if mask is UNCHANGED:
        return head + data
    head = head[:-4]
    if mask is None:
        return bytes((first, head[1] & 0x7F)) + head[2:] + data
    key = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
