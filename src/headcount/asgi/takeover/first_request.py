"""
The protocol of a connection's first request to `headcount serve`: it opens a stream, if the request is for one.

Nearly every connection begins with the request for a stream, and is one from then on. It would use little of uvicorn's
protocol object, with everything that this prepares for later requests. So the first request is read with the same
parser and nothing round it. Only a valid, ordinary request is served here. Any other goes, byte for byte, to the
protocol object that uvicorn would have made, which then replaces this one.
"""

import asyncio
from contextlib import suppress
from typing import Any, ClassVar, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from starlette.types import ASGIApp, Scope
from uvicorn import Config
from uvicorn.server import ServerState

from ...authorization.deferred import DeferredCheckMaker, HandshakeTemplate
from ...core.event_stream import chunk, frame
from ...core.frames import text_frame
from ...errors import ProtocolError
from ..endpoints import Endpoints
from ..request_head import RequestHead
from ..stream_request import StreamRefused
from .cached_heads import HANDSHAKE_HEAD, SSE_HEAD
from .direct_sessions import DirectSession, DirectSseSession, DirectWebSocketSession
from .handshake import handshake_key, handshake_tail, websocket_scope
from .pending_heads import MAX_HEAD, PendingHeads
from .protocol import HeadcountProtocol, host_and_port

_END: Final = b"\r\n\r\n"
_END_SIZE: Final = 4


class FirstRequestProtocol(asyncio.Protocol):
    """
    Serves the first request of a TCP connection, of a server that serves Headcount and nothing else.

    Args:
        config: uvicorn's.
        server_state: uvicorn's.
        settings: Further arguments of uvicorn's for a protocol.
    """

    __slots__ = (
        *(
            "_requests",
            "_config",
            "_headers",
            "_parser",
            "_query",
            "_settings",
            "_state",
            "_keep_alive",
            "_transport",
            "_url",
        ),
        "_complete",
    )

    endpoints: ClassVar[Endpoints]
    wrapped_app: ClassVar[ASGIApp]
    """The application that Headcount is wrapped round; it has neither paths nor a session."""
    address: ClassVar[tuple[str, int] | None]
    """The server's address, if all connections have the same; None: each is asked."""
    pending: ClassVar[PendingHeads]
    """The connections of this server that have not sent a whole request."""
    next_protocol: ClassVar[type[HeadcountProtocol]]
    """The class that serves all other requests."""
    templates: ClassVar[dict[object, HandshakeTemplate]]
    """By the server's address that a handshake came to; there are few."""

    def __init__(self, config: Config, server_state: ServerState, **settings: Any) -> None:
        self._config = config
        self._state = server_state
        self._settings = settings
        self._transport: asyncio.Transport
        self._parser: HttpRequestParser | None = None
        self._requests = 0
        """Requests that the parser found; there should be one."""
        self._url = self._query = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._keep_alive = False
        self._complete = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the request."""
        self._transport = transport
        self.pending.begin(transport)
        # uvicorn stops all of these when it stops, and needs nothing else of them.
        self._state.connections.add(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Open a stream, or let the next protocol answer."""
        if not self._transport.is_closing() and not self._open_stream(data):
            self._delegate(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget the connection: the peer left without a request."""
        self.pending.end(self._transport)
        self._state.connections.discard(self)

    def give_up(self) -> None:
        """Close silently: browsers open connections in advance, and take any word for the next answer."""
        self._transport.close()

    def shutdown(self) -> None:
        """Stop, because the server does."""
        self._transport.close()

    def on_message_begin(self) -> None:
        """Count requests: old parsers end one at a bare line feed, and would mix it up with the next."""
        self._requests += 1

    def on_url(self, url: bytes) -> None:
        """Add a piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Note whether the connection may stay open, which the parser knows until the request ends."""
        assert self._parser is not None
        self._keep_alive = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self._complete = True

    def _open_stream(self, data: bytes) -> bool:
        """Open the stream that is asked for. False: the next protocol answers, and says what is wrong."""
        end = data.find(_END) + _END_SIZE
        if not _END_SIZE <= end <= MAX_HEAD or not data.startswith(b"GET "):
            return False
        for_websocket = self._parse(data[:end])
        if for_websocket is None:
            return False
        # What a peer sends behind its request for an event stream is not read.
        key = handshake_key(self._headers) if for_websocket and end == len(data) else None
        if for_websocket and key is None:
            return False
        endpoints, transport = self.endpoints, self._transport
        scope = self._scope()
        endpoints.join_fleet(scope, type(self).wrapped_app)
        head = RequestHead(scope, "/ws" if for_websocket else "/sse", endpoints.rules)
        try:
            if not head.is_valid_own_request:
                return False
            admitted = endpoints.gate.admit(head)
        except (ProtocolError, StreamRefused):
            return False
        request = admitted.request
        context = self.next_protocol.context_of(endpoints.parts, asyncio.get_running_loop(), self._state.connections)
        session: DirectSession
        if key is None:
            response = SSE_HEAD(self._state.default_headers) + chunk(frame(admitted.connected))
            session = DirectSseSession(context, transport, admitted.id, request)
        else:
            response = (
                HANDSHAKE_HEAD(self._state.default_headers) + handshake_tail(key) + text_frame(admitted.connected)
            )
            make_check = DeferredCheckMaker(self._template(scope), scope["client"], self._headers)
            session = DirectWebSocketSession(
                context, transport, admitted.id, counted=request.counted, make_check=make_check
            )
        self._state.connections.discard(self)
        self.pending.end(transport)
        transport.write(response)
        admitted.enter(session)
        return True

    def _parse(self, data: bytes) -> bool | None:
        """Return whether the request is for a WebSocket; None: neither for that nor for an event stream."""
        self._parser = parser = HttpRequestParser(self)
        try:
            with suppress(HttpParserUpgrade):
                parser.feed_data(data)
            path, _, self._query = self._url.partition(b"?")
            # As uvicorn reads it: there may be a fragment, and old parsers let invalid characters pass.
            plain = self._query == (parse_url(self._url).query or b"")
        except HttpParserError:
            return None
        finally:
            self._parser = None  # it holds on to us
        for_websocket: bool = parser.should_upgrade()
        if (
            not plain
            or path != (self.endpoints.raw_ws_path if for_websocket else self.endpoints.raw_sse_path)
            or not self._complete
            or self._requests != 1
            or parser.get_http_version() != "1.1"
            or not (for_websocket or self._keep_alive)
            or self._config.root_path
            or self._config.is_ssl
        ):
            return None
        return for_websocket

    def _scope(self) -> Scope:
        """Return those keys of an ASGI scope that are needed."""
        info = self._transport.get_extra_info
        return {
            "headers": self._headers,
            "query_string": self._query,
            "server": self.address or host_and_port(info("sockname")),
            # Where no address may be kept, it is not even asked for.
            "client": None if self.endpoints.config.ip_tracking is False else host_and_port(info("peername")),
        }

    def _template(self, scope: Scope) -> HandshakeTemplate:
        template = self.templates.get(scope["server"])
        if template is None:
            path = self.endpoints.raw_ws_path
            request = {**scope, "http_version": "1.1", "root_path": "", "state": {**self._settings["app_state"]}}
            whole = websocket_scope(request, self._config, path)
            template = self.endpoints.template(whole, type(self).wrapped_app)
            self.templates[scope["server"]] = template
        return template

    def _delegate(self, data: bytes) -> None:
        protocol = self.next_protocol(self._config, self._state, **self._settings)
        self._state.connections.discard(self)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)
