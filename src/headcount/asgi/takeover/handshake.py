"""
The opening handshake of a WebSocket: what ASGI sees of it, and what the peer is answered.

Only as much of ASGI's WebSocket interface as it takes to accept or refuse. What comes after that is either handed over
(`streams.WebSocketStream`) or ended here.

Source: RFC 6455, section 4.2; https://asgi.readthedocs.io/en/latest/specs/www.html#websocket
"""

import logging
from base64 import b64decode, b64encode
from collections.abc import Iterable
from hashlib import sha1
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.types import ASGIApp, Message, Scope

from ...node import Node
from ...session import Session
from ..handover import MakeAsk
from .streams import WebSocketStream

if TYPE_CHECKING:
    from .protocol import HeadcountProtocol

logger = logging.getLogger("headcount")

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

Headers = Iterable[tuple[bytes, bytes]]


def acceptable(headers: Headers) -> bytes | None:
    """Return the key of a handshake that RFC 6455 allows, or None: then let a WebSocket library say what is wrong."""
    key = version = None
    for name, value in headers:
        if name == b"sec-websocket-key":
            if key is not None:
                return None
            key = value
        elif name == b"sec-websocket-version":
            version = value
    if version != b"13" or key is None or len(key) != 24:
        return None
    try:
        return key if len(b64decode(key, validate=True)) == 16 else None
    except ValueError:
        return None


def accepted(key: bytes, headers: Headers) -> bytes:
    """Make the answer that opens a WebSocket."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"upgrade: websocket",
        b"connection: Upgrade",
        b"sec-websocket-accept: " + b64encode(sha1(key + _GUID, usedforsecurity=False).digest()),
    ]
    for name, value in headers:
        if b"\n" in value or b"\r" in value:
            raise RuntimeError(f"The value of the header {name!r} holds a line break.")
        lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n\r\n"


class Handshake:
    """
    One handshake, between the request and its answer.

    Args:
        protocol: Whose request it is.
        key: From `acceptable`.
        default_headers: Of the server's answers.
    """

    __slots__ = ("_accepted", "_closed", "_default_headers", "_key", "_protocol", "_taken", "_told", "_transport")

    def __init__(self, protocol: "HeadcountProtocol", key: bytes, default_headers: Headers) -> None:
        self._protocol: HeadcountProtocol | None = protocol
        self._transport = protocol.transport
        self._key = key
        self._default_headers = default_headers
        self._told = self._accepted = self._closed = self._taken = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let the application decide."""
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            logger.exception("The application failed in the handshake of a WebSocket.")
        if self._taken or self._closed:
            return
        if self._accepted:
            self._close(1011, "")
        else:
            self._refuse(500)

    def websocket(self, node: Node, public_id: str, *, counted: bool, make_ask: MakeAsk) -> Session | None:
        """
        Make the socket a stream of the node's; the caller must open it there.

        Returns:
            None when it cannot be: middleware held the answer back, or the peer has left.
        """
        if not self._accepted or self._closed or self._transport.is_closing():
            return None
        return self._hand_over(node, public_id, counted=counted, make_ask=make_ask)

    async def receive(self) -> Message:
        """Tell of the request, once."""
        if self._told:
            # Only Headcount answers at its path, and it does not come here.
            raise RuntimeError(
                "This WebSocket is answered by something else than the Headcount whose protocol the server was given; "
                "mount that one here, or start the server without its protocol."
            )
        self._told = True
        return {"type": "websocket.connect"}

    async def send(self, message: Message) -> None:
        """Accept or refuse."""
        if self._taken or self._closed or self._transport.is_closing():
            return  # as uvicorn does when the peer has left
        kind = message["type"]
        if kind == "websocket.accept" and not self._accepted:
            self._accept(message)
        elif kind == "websocket.close":
            if self._accepted:
                self._close(message.get("code", 1000), message.get("reason") or "")
            else:
                self._refuse(403)
        else:
            raise RuntimeError(f"{kind} is not expected in a handshake.")

    def _accept(self, message: dict[str, Any] | Message) -> None:
        headers = [*self._default_headers, *message.get("headers", ())]
        if message.get("subprotocol"):
            headers.append((b"sec-websocket-protocol", message["subprotocol"].encode("ascii")))
        head = accepted(self._key, headers)
        self._accepted = True
        self._transport.write(head)

    def _refuse(self, status: int) -> None:
        self._closed = True
        self._transport.write(
            b"HTTP/1.1 %d %s\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            % (status, HTTPStatus(status).phrase.encode())
        )
        self._transport.close()

    def _close(self, code: int, reason: str) -> None:
        self._closed = True
        self._hand_over(None, "", counted=False, make_ask=None).dismiss(code, reason)

    def _hand_over(
        self, node: Node | None, public_id: str, *, counted: bool, make_ask: MakeAsk | None
    ) -> WebSocketStream:
        protocol, self._protocol = self._protocol, None
        assert protocol is not None
        self._taken = True
        home = protocol.home(node or protocol.headcount.node)
        protocol.release()
        stream = WebSocketStream(home, self._transport, public_id, counted=counted, make_ask=make_ask)
        self._transport.resume_reading()
        return stream
