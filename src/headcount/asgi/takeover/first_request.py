"""
What a connection to `headcount serve` meets first: it opens a stream, if that is what is asked for.

Nearly every connection begins with the request for a stream, and is one from then on. Of the protocol object that
uvicorn makes, with all that it prepares for requests to come, such a request would use little and leave nothing. So a
door reads the first request with the same parser and nothing round it. It takes the plain, good case only; with
whatever else, the bytes go as they came to the object that uvicorn would have made, and the door is gone.
"""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from starlette.types import ASGIApp, Scope
from uvicorn import Config
from uvicorn.server import ServerState

from ...authorization.deferred import DeferredCheck, HandshakeTemplate
from ...core import event_stream
from ...core.frames import text_frame
from ...errors import ProtocolError
from ..responses import Problem
from ..scope import is_anybody
from .cached_heads import ACCEPTING, OPENING_STREAM
from .handshake import acceptable, proof, websocket_scope
from .protocol import HeadcountProtocol, host_and_port
from .streams import SseStream, Stream, WebSocketStream

if TYPE_CHECKING:
    from ..app import Headcount

_END: Final = b"\r\n\r\n"


class FirstRequestProtocol(asyncio.Protocol):
    """
    Serves the first request of a TCP connection, of a server that serves Headcount and nothing else.

    Args:
        config: uvicorn's.
        server_state: uvicorn's.
        settings: What else uvicorn tells a protocol.
    """

    __slots__ = (
        *("_begun", "_config", "_headers", "_parser", "_query", "_settings", "_state", "_stays", "_transport", "_url"),
        "_whole",
    )

    headcount: ClassVar["Headcount"]
    beneath: ClassVar[ASGIApp]
    """What Headcount is wrapped round: it knows no path and no session."""
    address: ClassVar[tuple[str, int] | None]
    """Of this side of every connection; None: each tells its own."""
    ordinary: ClassVar[type[HeadcountProtocol]]
    """What takes all other requests."""
    commons: ClassVar[dict[object, HandshakeTemplate]]
    """By the address of ours that a handshake came to; there are few."""

    def __init__(self, config: Config, server_state: ServerState, **settings: Any) -> None:
        self._config = config
        self._state = server_state
        self._settings = settings
        self._transport: asyncio.Transport
        self._parser: HttpRequestParser | None = None
        self._begun = 0
        """Requests that the parser sees where there should be one."""
        self._url = self._query = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._stays = False
        self._whole = False

    # ---- what the transport and uvicorn call

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the request."""
        self._transport = transport
        # uvicorn tells all of these to stop when it does, and asks no more of them.
        self._state.connections.add(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Open a stream, or let somebody else answer."""
        if not self._transport.is_closing() and not self._opens(data):
            self._go_the_ordinary_way(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Be gone: the peer has left and asked for nothing."""
        self._state.connections.discard(self)

    def shutdown(self) -> None:
        """Stop, because the server does."""
        self._transport.close()

    # ---- what the parser calls

    def on_message_begin(self) -> None:
        """Take notice of a request. Old parsers end one at a bare line feed, and would mix it up with the next."""
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Take notice of whether the connection may stay open, which the parser knows until the request ends."""
        assert self._parser is not None
        self._stays = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        """Take notice that there is no body, or that it has come."""
        self._whole = True

    # ---- inside

    def _opens(self, data: bytes) -> bool:
        """Open the stream that is asked for. False: somebody else says what is wrong, or answers what is not ours."""
        end = data.find(_END) + len(_END)
        if end < len(_END) or not data.startswith(b"GET "):
            return False
        for_websocket = self._parse(data[:end])
        if for_websocket is None:
            return False
        # What a peer sends behind its request for an event stream is not read.
        key = acceptable(self._headers) if for_websocket and end == len(data) else None
        if for_websocket and key is None:
            return False
        headcount, node, transport = self.headcount, self.headcount.node, self._transport
        scope = self._scope()
        headcount.meet(scope, type(self).beneath)
        listener = node.listeners.adopt(scope["server"])
        try:
            if (
                headcount.admit("/ws" if for_websocket else "/sse", scope)  # the answer says that its origin may
                or (for_websocket and is_anybody(scope, headcount.config.allowed_origins))
                or node.closed_to_streams(listener)
            ):
                return False
            opening = headcount.opening(scope)  # last: what goes the ordinary way after all is read there
        except (Problem, ProtocolError):
            return False
        public, handle = node.identify()
        connected = headcount.connected(handle)
        home = self.ordinary.home_of(node, asyncio.get_running_loop(), self._state.connections)
        stream: Stream
        if key is None:
            hello = OPENING_STREAM(self._state.default_headers) + event_stream.chunk(event_stream.frame(connected))
            stream = SseStream(
                home, transport, public, counted=opening.counted, visible_keepalives=opening.visible_keepalives
            )
        else:
            hello = ACCEPTING(self._state.default_headers) + proof(key) + text_frame(connected)
            ask_later = DeferredCheck(self._common(scope), scope["client"], self._headers)
            stream = WebSocketStream(home, transport, public, counted=opening.counted, make_check=ask_later)
        self._state.connections.discard(self)
        transport.write(hello)
        opening.open(node, stream, listener)
        return True

    def _parse(self, data: bytes) -> bool | None:
        """Return whether it is a WebSocket that is asked for; None: neither that nor an event stream."""
        self._parser = parser = HttpRequestParser(self)
        try:
            with suppress(HttpParserUpgrade):
                parser.feed_data(data)
            path, _, self._query = self._url.partition(b"?")
            # As uvicorn reads it, there may be a fragment, and characters that old parsers let pass are none of a URL.
            plain = self._query == (parse_url(self._url).query or b"")
        except HttpParserError:
            return None
        finally:
            self._parser = None  # it holds on to us
        for_websocket: bool = parser.should_upgrade()
        if (
            not plain
            or path != self.headcount.stream_paths[for_websocket]
            or not self._whole
            or self._begun != 1
            or parser.get_http_version() != "1.1"
            or not (for_websocket or self._stays)
            or self._config.root_path
            or self._config.is_ssl
        ):
            return None
        return for_websocket

    def _scope(self) -> Scope:
        """Return as much of an ASGI scope as is asked for."""
        ask = self._transport.get_extra_info
        return {
            "headers": self._headers,
            "query_string": self._query,
            "server": self.address or host_and_port(ask("sockname")),
            # Where nobody may know an address, nobody asks for it.
            "client": None if self.headcount.config.ip_tracking is False else host_and_port(ask("peername")),
        }

    def _common(self, scope: Scope) -> HandshakeTemplate:
        common = self.commons.get(scope["server"])
        if common is None:
            path = self.headcount.stream_paths[1]
            request = {**scope, "http_version": "1.1", "root_path": "", "state": {**self._settings["app_state"]}}
            whole = websocket_scope(request, self._config, path)
            common = self.commons[scope["server"]] = self.headcount.common(whole, type(self).beneath)
        return common

    def _go_the_ordinary_way(self, data: bytes) -> None:
        protocol = self.ordinary(self._config, self._state, **self._settings)
        self._state.connections.discard(self)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)
