"""The beginnings of answers, encoded once a second: uvicorn's own headers among them change that often."""

from collections.abc import Callable
from typing import Final

from ...core import event_stream
from ..responses import OK, Headers
from .handshake import accepting


class CachedHead:
    """
    What all answers of a kind begin with.

    Args:
        make: Makes it, with uvicorn's own headers.
    """

    def __init__(self, make: Callable[[Headers], bytes]) -> None:
        self._make = make
        self._of: object = None
        self._made = b""

    def __call__(self, default_headers: Headers) -> bytes:
        """Return it, made anew when uvicorn has."""
        if default_headers is not self._of:
            self._of, self._made = default_headers, self._make(default_headers)
        return self._made


def _head(headers: Headers) -> bytes:
    lines = [b"HTTP/1.1 200 OK", *(name + b": " + value for name, value in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


ACCEPTING: Final = CachedHead(accepting)
OPENING_STREAM: Final = CachedHead(
    lambda headers: _head((*headers, *event_stream.HEADERS, (b"transfer-encoding", b"chunked")))
)
DONE: Final = CachedHead(lambda headers: _head((*headers, *OK.headers)) + OK.body)
