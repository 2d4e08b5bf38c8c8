"""
The rest of a request whose upgrade the server declines, such as `Upgrade: h2c` of Java's HttpClient.

A server may ignore the header (RFC 9110, section 7.8), and the request is an ordinary one then. But httptools stops at
the end of its head and takes it for complete. It would drop what follows in the same packet, and read what follows in
the next one, the body, as a request. So another parser goes on there. It is given a head that says the same about the
body, of which nobody hears.
"""

from collections.abc import Iterable
from typing import Any, Final

from httptools import HttpRequestParser

_FRAMING: Final = (b"content-length", b"transfer-encoding")
"""The headers that say where a body ends (RFC 9112, section 6)."""


def parser_behind_head(protocol: Any, headers: Iterable[tuple[bytes, bytes]]) -> HttpRequestParser:
    """
    Make a parser that expects the body of a request, and after it further requests.

    Args:
        protocol: Has the callbacks, as `HttpRequestParser` wants them. If the request has no body, its
            `on_message_complete` is called at once.
        headers: Of the request, with names in lower case.

    Raises:
        HttpParserError: The headers do not say where the body ends.
    """
    callbacks = _Callbacks()
    parser = HttpRequestParser(callbacks)
    if hasattr(parser, "set_dangerous_leniencies"):  # httptools 0.6.3; as uvicorn sets it
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
    # No method but CONNECT makes a difference to the body.
    lines = [b"POST / HTTP/1.1", *(name + b": " + value for name, value in headers if name in _FRAMING)]
    parser.feed_data(b"\r\n".join(lines) + b"\r\n\r\n")
    callbacks.protocol = protocol
    if callbacks.complete:
        protocol.on_message_complete()
    return parser


class _Callbacks:
    """Calls the protocol's callbacks, once there is a protocol."""

    __slots__ = ("complete", "protocol")

    def __init__(self) -> None:
        self.protocol: Any = None
        self.complete = False
        """The request ends with its head."""

    def on_message_begin(self) -> None:
        if self.protocol is not None:
            self.protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self.protocol is not None:
            self.protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.protocol is not None:
            self.protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.protocol is not None:
            self.protocol.on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.protocol.on_body(body)

    def on_message_complete(self) -> None:
        if self.protocol is not None:
            self.protocol.on_message_complete()
        else:
            self.complete = True
