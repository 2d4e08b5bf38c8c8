"""
The opening handshake of a WebSocket: its ASGI interface, and the response to the peer.

Only as much of ASGI's WebSocket interface as it takes to accept or refuse. An accepted WebSocket is handed over to
Headcount (`direct_sessions.DirectWebSocketSession`), ended here, or, when the application answers it and not
Headcount, given to uvicorn's own class for WebSockets (`uvicorn_fallback.UvicornWebSocketFallback`).

Source: RFC 6455, section 4.2; https://asgi.readthedocs.io/en/latest/specs/www.html#websocket

Tests: tests/asgi/takeover/test_taking_over.py.
"""

import asyncio
import logging
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha1
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope
from uvicorn import Config
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from ...authorization.deferred import MakeCheck
from ...node.node_parts import NodeParts
from ...node.session import Session
from ..responses import Headers
from .direct_sessions import DirectWebSocketSession, SessionContext
from .uvicorn_fallback import UpgradableProtocol, UvicornWebSocketFallback

logger = logging.getLogger("headcount")

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


_ONCE: Final = (b"sec-websocket-key", b"sec-websocket-version")


def handshake_key(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """Return the key of a valid handshake (RFC 6455), or None: then a WebSocket library says what is wrong."""
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


def handshake_head(headers: Headers) -> bytes:
    """Make the response that opens a WebSocket up to its last value, which `handshake_tail` makes of the key."""
    lines = [b"HTTP/1.1 101 Switching Protocols", b"upgrade: websocket", b"connection: Upgrade"]
    for name, value in headers:
        if b"\n" in value or b"\r" in value:
            raise RuntimeError(f"The value of the header {name!r} contains a line break; remove it.")
        lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\nsec-websocket-accept: "


def handshake_tail(key: bytes) -> bytes:
    """Return the value that proves that a key was read, and the end of the response."""
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


def without_handle(target: str) -> str:
    """Return the target of a request without the secret handle of the stream that it replaces, for logs."""
    return _HANDLE.sub("replaces=…", target)


_HANDLE: Final = re.compile(r"\breplaces=[^&#\s]*")


class HandshakeProtocol(UpgradableProtocol, Protocol):
    """What a handshake needs of uvicorn's protocol object."""

    transport: asyncio.Transport
    logger: logging.Logger

    @property
    def parts(self) -> NodeParts:
        """The node whose streams this server takes over."""

    def context(self, parts: NodeParts) -> SessionContext:
        """Return what the streams of a node in this server share."""

    def detach(self) -> None:
        """Let go of the socket."""


class Handshake:
    """
    One handshake, between the request and its answer.

    Args:
        protocol: The one that got the request.
        key: From `handshake_key`.
        default_headers: Of the server's answers.
    """

    __slots__ = (
        "_accept",
        "_connected",
        "_default_headers",
        "_fallback",
        "_head",
        "_key",
        "_over",
        "_protocol",
        "_scope",
    )

    def __init__(self, protocol: HandshakeProtocol, key: bytes, default_headers: Headers) -> None:
        self._protocol = protocol
        self._key = key
        self._default_headers = default_headers
        self._scope: Scope = {}
        self._connected = False
        self._accept: Message | None = None
        """The application's acceptance. Held back until it is known which class takes the WebSocket from here."""
        self._head = b""
        """The response that follows from it."""
        self._over = False
        """Handed over, refused or closed."""
        self._fallback: UvicornWebSocketFallback | None = None

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let the application decide."""
        self._scope = scope
        failure: Exception | None = None
        try:
            await app(scope, self.receive, self.send)
        except Exception as error:
            failure = error
        self._scope = {}
        if self._fallback is not None:
            self._fallback.finish(failure)
            return
        if failure is not None:
            logger.error(
                "WebSocket handshake: the application raised an exception; the WebSocket is refused.", exc_info=failure
            )
        if not self._over:
            if self._accept is not None:
                self._close(1011, "")
            else:
                self._refuse_http(500)

    def websocket(self, parts: NodeParts, public_id: str, *, counted: bool, make_check: MakeCheck) -> Session | None:
        """
        Make the socket a stream of the node's; the caller must open it there.

        Returns:
            None when it cannot be: middleware held the answer back, or the peer has left.
        """
        if self._accept is None or self._over or self._fallback is not None or self._protocol.transport.is_closing():
            return None
        return self._hand_over(parts, public_id, counted=counted, make_check=make_check)

    async def receive(self) -> Message:
        """Return `websocket.connect` once. Headcount never asks for more, only another application does."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        if self._over or self._protocol.transport.is_closing():
            return {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        return await self._fall_back().receive()

    async def send(self, message: Message) -> None:
        """Accept or refuse."""
        kind = message["type"]
        if self._fallback is not None:
            await self._fallback.send(message)
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
                self._refuse_http(403)
        elif self._accept is not None and kind == "websocket.send":
            await self._fall_back().send(message)
        else:
            raise RuntimeError(f"Unexpected {kind} in a WebSocket handshake; accept or close it first.")

    def _answer(self, message: Message) -> bytes:
        headers = [*self._default_headers, *message.get("headers", ())]
        if message.get("subprotocol"):
            headers.append((b"sec-websocket-protocol", message["subprotocol"].encode("ascii")))
        return handshake_head(headers) + handshake_tail(self._key)

    def _decide(self) -> None:
        """Fall back to uvicorn: the loop has turned since the application accepted, and Headcount took nothing over."""
        if not self._over and self._fallback is None and not self._protocol.transport.is_closing():
            self._fall_back()

    def _fall_back(self) -> UvicornWebSocketFallback:
        if self._fallback is None:
            if self._accept is None:
                raise RuntimeError("Nothing to receive in a WebSocket handshake; accept or close it first.")
            self._fallback = UvicornWebSocketFallback(self._protocol, self._accept)
        return self._fallback

    def _refuse_http(self, status: int) -> None:
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
            self._hand_over(None, "", counted=False, make_check=None).refuse(code, reason)

    def _hand_over(
        self, parts: NodeParts | None, public_id: str, *, counted: bool, make_check: MakeCheck | None
    ) -> DirectWebSocketSession:
        self._over = True
        protocol = self._protocol
        context, transport = protocol.context(parts or protocol.parts), protocol.transport
        protocol.detach()
        session = DirectWebSocketSession(context, transport, public_id, counted=counted, make_check=make_check)
        transport.write(self._head)
        return session

    def _note(self, result: str) -> None:
        """Write uvicorn's line about a handshake to its log."""
        log = self._protocol.logger
        if self._scope and log.isEnabledFor(logging.INFO):
            client, path = get_client_addr(self._scope), get_path_with_query_string(self._scope)  # type: ignore[arg-type]
            log.info('%s - "WebSocket %s" %s', client, without_handle(path), result)
