"""
Response heads, encoded again when uvicorn refreshes its own headers: once a second.

Tests: tests/asgi/takeover/test_first_request.py.
"""

from collections.abc import Callable
from typing import Final

from ...core import event_stream
from ..responses import OK, VARY, Headers
from .handshake import handshake_head


class CachedHead:
    """
    The head of all responses of a kind.

    Args:
        make: Makes it, with uvicorn's own headers.
    """

    def __init__(self, make: Callable[[Headers], bytes]) -> None:
        self._make = make
        self._default_headers: object = None
        self._made = b""

    def __call__(self, default_headers: Headers) -> bytes:
        """Return it, made anew when uvicorn has made its own headers anew."""
        if default_headers is not self._default_headers:
            self._default_headers, self._made = default_headers, self._make(default_headers)
        return self._made


def _head(headers: Headers) -> bytes:
    lines = [b"HTTP/1.1 200 OK", *(name + b": " + value for name, value in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


HANDSHAKE_HEAD: Final = CachedHead(handshake_head)
SSE_HEAD: Final = CachedHead(
    lambda headers: _head((*headers, *event_stream.HEADERS, VARY, (b"transfer-encoding", b"chunked")))
)
OK_RESPONSE: Final = CachedHead(lambda headers: _head((*headers, *OK.headers, VARY)) + OK.body)
