"""
The opening handshake of a WebSocket: what ASGI sees of it, and what the peer is answered.

Only as much of ASGI's WebSocket interface as it takes to accept or refuse. What comes after that is handed over to
Headcount (`streams.WebSocketStream`), ended here, or, when somebody else than Headcount answers, given to uvicorn's own
class for WebSockets (`usual.UvicornWebSocketFallback`).

Source: RFC 6455, section 4.2; https://asgi.readthedocs.io/en/latest/specs/www.html#websocket
"""

import logging
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha1
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope
from uvicorn import Config
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from ...authorization.deferred import MakeCheck
from ...node.node import Node
from ...node.session import Session
from ..responses import Headers
from .streams import WebSocketStream
from .uvicorn_fallback import UvicornWebSocketFallback

if TYPE_CHECKING:
    from .protocol import HeadcountProtocol

logger = logging.getLogger("headcount")

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


_ONCE: Final = (b"sec-websocket-key", b"sec-websocket-version")


def acceptable(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """Return the key of a handshake that RFC 6455 allows, or None: then let a WebSocket library say what is wrong."""
    found = dict(headers)
    if len(found) != len(headers) and sum(name in _ONCE for name, _ in headers) > len(_ONCE):
        return None
    key = found.get(b"sec-websocket-key", b"")
    if len(key) != 24 or found.get(b"sec-websocket-version") != b"13":
        return None
    connection = found.get(b"connection", b"").lower()
    if connection != b"upgrade" and b"upgrade" not in [token.strip() for token in connection.split(b",")]:
        return None
    if found.get(b"upgrade", b"").lower() != b"websocket":
        return None
    try:
        return key if len(b64decode(key, validate=True)) == 16 else None
    except ValueError:
        return None


def accepting(headers: Headers) -> bytes:
    """Make the answer that opens a WebSocket, but for its last value, which `proof` makes of the request's key."""
    lines = [b"HTTP/1.1 101 Switching Protocols", b"upgrade: websocket", b"connection: Upgrade"]
    for name, value in headers:
        if b"\n" in value or b"\r" in value:
            raise RuntimeError(f"The value of the header {name!r} holds a line break.")
        lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\nsec-websocket-accept: "


def proof(key: bytes) -> bytes:
    """Return what shows that a key was read, and the end of the answer."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest()) + b"\r\n\r\n"


def websocket_scope(request: Mapping[str, Any], config: Config, raw_path: bytes) -> Scope:
    """
    Make the scope of a handshake, as uvicorn's WebSocket classes do.

    Args:
        request: The scope of the HTTP request, as far as it is known: headers, query, addresses, root path.
        config: uvicorn's.
        raw_path: As it came.
    """
    root_path: str = request["root_path"]
    scope: Scope = {
        **request,
        "type": "websocket",
        "asgi": {"version": config.asgi_version, "spec_version": "2.4"},
        "scheme": "ws",
        "path": root_path + unquote(raw_path.decode("ascii")),
        "raw_path": root_path.encode("ascii") + raw_path,
        "subprotocols": [
            name.strip().decode("latin-1")
            for header, value in request["headers"]
            if header == b"sec-websocket-protocol"
            for name in value.split(b",")
        ],
    }
    scope.pop("method", None)
    return scope


class Handshake:
    """
    One handshake, between the request and its answer.

    Args:
        protocol: Whose request it is.
        key: From `acceptable`.
        default_headers: Of the server's answers.
    """

    __slots__ = ("_accept", "_default_headers", "_head", "_key", "_over", "_protocol", "_scope", "_told", "_usual")

    def __init__(self, protocol: "HeadcountProtocol", key: bytes, default_headers: Headers) -> None:
        self._protocol = protocol
        self._key = key
        self._default_headers = default_headers
        self._scope: Scope = {}
        self._told = False
        self._accept: Message | None = None
        """What the application accepted it with. Held back until it is known who goes on from here."""
        self._head = b""
        """The answer that follows from it."""
        self._over = False
        """Handed over, refused or closed."""
        self._usual: UvicornWebSocketFallback | None = None

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let the application decide."""
        self._scope = scope
        failure: Exception | None = None
        try:
            await app(scope, self.receive, self.send)
        except Exception as error:
            failure = error
        self._scope = {}
        if self._usual is not None:
            self._usual.finish(failure)
            return
        if failure is not None:
            logger.error("The application failed in the handshake of a WebSocket.", exc_info=failure)
        if not self._over:
            if self._accept is not None:
                self._close(1011, "")
            else:
                self._refuse(500)

    def websocket(self, node: Node, public_id: str, *, counted: bool, make_check: MakeCheck) -> Session | None:
        """
        Make the socket a stream of the node's; the caller must open it there.

        Returns:
            None when it cannot be: middleware held the answer back, or the peer has left.
        """
        if self._accept is None or self._over or self._usual is not None or self._protocol.transport.is_closing():
            return None
        return self._hand_over(node, public_id, counted=counted, make_check=make_check)

    async def receive(self) -> Message:
        """Tell of the request, once. Only others than Headcount come here again."""
        if not self._told:
            self._told = True
            return {"type": "websocket.connect"}
        if self._over or self._protocol.transport.is_closing():
            return {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        return await self._as_usual().receive()

    async def send(self, message: Message) -> None:
        """Accept or refuse."""
        kind = message["type"]
        if self._usual is not None:
            await self._usual.send(message)
        elif self._over or self._protocol.transport.is_closing():
            return  # as uvicorn does when the peer has left
        elif kind == "websocket.accept" and self._accept is None:
            self._head = self._answer(message)
            self._accept = message
            self._note("[accepted]")
            self._protocol.loop.call_soon(self._decide)
        elif kind == "websocket.close":
            if self._accept is not None:
                self._close(message.get("code", 1000), message.get("reason") or "")
            else:
                self._refuse(403)
        elif self._accept is not None and kind == "websocket.send":
            await self._as_usual().send(message)
        else:
            raise RuntimeError(f"{kind} is not expected in a handshake.")

    def _answer(self, message: Message) -> bytes:
        headers = [*self._default_headers, *message.get("headers", ())]
        if message.get("subprotocol"):
            headers.append((b"sec-websocket-protocol", message["subprotocol"].encode("ascii")))
        return accepting(headers) + proof(self._key)

    def _decide(self) -> None:
        """Answer the peer, because the loop has turned since the application accepted, and Headcount is not there."""
        if not self._over and self._usual is None and not self._protocol.transport.is_closing():
            self._as_usual()

    def _as_usual(self) -> UvicornWebSocketFallback:
        if self._usual is None:
            if self._accept is None:
                raise RuntimeError("There is nothing to receive in a handshake; accept or close it.")
            self._usual = UvicornWebSocketFallback(self._protocol, self._accept)
        return self._usual

    def _refuse(self, status: int) -> None:
        self._over = True
        transport = self._protocol.transport
        if transport.is_closing():
            return
        self._note(str(status))
        transport.write(
            b"HTTP/1.1 %d %s\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            % (status, HTTPStatus(status).phrase.encode())
        )
        transport.close()

    def _close(self, code: int, reason: str) -> None:
        if self._protocol.transport.is_closing():
            self._over = True
        else:
            self._hand_over(None, "", counted=False, make_check=None).dismiss(code, reason)

    def _hand_over(
        self, node: Node | None, public_id: str, *, counted: bool, make_check: MakeCheck | None
    ) -> WebSocketStream:
        self._over = True
        protocol = self._protocol
        home, transport = protocol.home(node or protocol.headcount.node), protocol.transport
        protocol.release()
        stream = WebSocketStream(home, transport, public_id, counted=counted, make_check=make_check)
        transport.write(self._head)
        return stream

    def _note(self, result: str) -> None:
        """Write uvicorn's line about a handshake to its log."""
        log = self._protocol.logger
        if self._scope and log.isEnabledFor(logging.INFO):
            client, path = get_client_addr(self._scope), get_path_with_query_string(self._scope)  # type: ignore[arg-type]
            log.info('%s - "WebSocket %s" %s', client, path, result)
