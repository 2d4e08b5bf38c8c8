"""
WebSocket frames, the writing half: what a server sends is not masked and, here, never in fragments.

Source: RFC 6455, section 5.2
"""

from typing import Final

_FINAL: Final = 0x80
_TEXT: Final = 0x1
_CLOSE: Final = 0x8
_PONG: Final = 0xA


def text_frame(data: bytes) -> bytes:
    """Wrap UTF-8 text."""
    return _frame(_TEXT, data)


def close_frame(code: int, reason: str = "") -> bytes:
    """Say that this side closes, and why; `reason` is cut to the 123 bytes that fit."""
    return _frame(_CLOSE, code.to_bytes(2, "big") + cut_reason(reason).encode())


def pong_frame(data: bytes) -> bytes:
    """Answer a ping that carried `data`, at most 125 bytes."""
    return _frame(_PONG, data)


def cut_reason(text: str) -> str:
    """Cut a sentence to what fits in a close frame: 123 bytes of UTF-8."""
    return text.encode("utf-8", "replace")[:123].decode("utf-8", "ignore")


def _frame(opcode: int, data: bytes) -> bytes:
    size = len(data)
    if size < 126:
        return bytes((_FINAL | opcode, size)) + data
    if size < 1 << 16:
        return bytes((_FINAL | opcode, 126)) + size.to_bytes(2, "big") + data
    return bytes((_FINAL | opcode, 127)) + size.to_bytes(8, "big") + data
