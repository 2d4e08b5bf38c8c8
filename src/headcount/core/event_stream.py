"""
Server-Sent Events framing, the writing half.

Our messages are JSON on one line, so a frame is always exactly one `data:` line: no splitting at line breaks is needed
(msgspec escapes them). No `id:`: a stream cannot be resumed, a viewer that comes back starts from a whole `stats`.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from typing import Final

KEEPALIVE: Final = b":\n\n"
"""A comment: keeps proxies and kernels busy without waking the page's code."""

HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    # no-transform: compressing proxies buffer; the rest: no cache may keep a stream.
    (b"cache-control", b"private, no-cache, no-store, no-transform, must-revalidate, max-age=0"),
    # nginx buffers responses by default.
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
)


def frame(message: bytes) -> bytes:
    """Wrap one JSON message, which must not contain a line break."""
    return b"data: " + message + b"\n\n"


def retry(delay: int) -> bytes:
    """Set the delay after which the browser reconnects by itself, in milliseconds."""
    return b"retry: %d\n\n" % delay


def chunk(data: bytes) -> bytes:
    """Wrap bytes, which must not be empty, in a chunk of an HTTP/1.1 response (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK: Final = b"0\r\n\r\n"
