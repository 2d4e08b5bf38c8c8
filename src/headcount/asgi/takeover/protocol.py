"""
uvicorn's protocol class, which offers the socket of each request for a stream.

The offer travels in the request's scope as an ASGI extension (`handover.py`). Headcount takes it up once the stream has
begun; an application that does not know it notices nothing.

Tests: tests/asgi/takeover/test_taking_over.py, tests/asgi/takeover/test_references.py.
"""

import asyncio
import copy
from typing import Any, ClassVar

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ...core.payload import Payload
from ...node.node_parts import NodeParts
from ..endpoints import Endpoints
from ..handover import EXTENSION
from ..stream_request import StreamRequest
from .declined_upgrade import parser_behind_head
from .direct_sessions import DirectSseSession, SessionContext
from .handshake import Handshake, handshake_key, websocket_scope, without_handle
from .pending_heads import MAX_HEAD, MAX_WEBSOCKET_MESSAGE, PendingHeads


class HeadcountProtocol(HttpToolsProtocol):
    """Serves one TCP connection as uvicorn does, and lets go of it when it has become a stream."""

    endpoints: ClassVar[Endpoints]
    context_class: ClassVar[type[SessionContext]] = SessionContext
    behind_middleware: ClassVar[bool] = True
    """Responses may pass the application's middleware."""
    _shared_context: ClassVar[SessionContext | None] = None

    pending: ClassVar[PendingHeads]
    """The connections of this server that have not sent a whole request."""
    head_bytes = 0
    """Bytes received since the last ones that were a piece of a body or the end of a head, or of a request."""
    _upgrades: bool | None = None
    _current_cycle: RequestResponseCycle | None = None
    """While several requests are here: the one that is being answered. uvicorn's `cycle` is the last."""
    address: ClassVar[tuple[str, int] | None] = None
    """Of this side of every connection; None: each tells its own."""
    stopping = False
    """The server has stopped this connection, and will not stop the stream that it becomes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """
        Begin, as uvicorn does, with other questions to the transport.

        uvicorn asks for its `socket`, for which uvloop makes an object with three more in it, 0.4 kB, and keeps it as
        long as the connection is open.
        """
        self.connections.add(self)
        self.pending.begin(transport)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.client = host_and_port(transport.get_extra_info("peername"))
        self.server = self.address or host_and_port(transport.get_extra_info("sockname"))
        self.scheme = "http" if transport.get_extra_info("sslcontext") is None else "https"

    def on_message_begin(self) -> None:
        """Read a request."""
        self._upgrades = None
        # The previous request may have come in the same data. If it was answered while it was read, the keep-alive
        # timeout has begun, and this request ends it.
        self._unset_keepalive_if_required()
        super().on_message_begin()

    def _should_upgrade(self) -> bool:
        # uvicorn calls this several times for each handshake, and goes through the headers each time.
        if self._upgrades is None:
            # A handshake is a GET (RFC 6455, section 4.1). Any other request may have a body, which is not of frames.
            self._upgrades = self.parser.get_method() == b"GET" and super()._should_upgrade()
        return self._upgrades

    def data_received(self, data: bytes) -> None:
        """
        Read.

        The parser gets at most as many bytes at a time as a head may still have: what it has taken without the end of
        a head is too long. Behind the head of a request whose upgrade is declined there are its body and further
        requests.
        """
        self._unset_keepalive_if_required()
        rest: bytes | memoryview = data
        try:
            while True:
                room = MAX_HEAD - self.head_bytes
                piece = rest if len(rest) <= room else memoryview(rest)[:room]
                self.head_bytes += len(piece)
                try:
                    self.parser.feed_data(piece)
                except HttpParserUpgrade as upgrade:
                    if self._should_upgrade():
                        self.handle_websocket_upgrade()
                        return
                    self._unsupported_upgrade_warning()
                    rest = memoryview(rest)[upgrade.args[0] :]
                    if not self._decline_upgrade():
                        return
                    continue
                if len(piece) == len(rest) and self.head_bytes < MAX_HEAD:
                    break
                if self.transport.is_closing():
                    return
                if self.head_bytes >= MAX_HEAD:
                    self._refuse_size()
                    return
                rest = memoryview(rest)[len(piece) :]
        except HttpParserError:
            message = "Invalid HTTP request received."
            if (suppressed := self.pending.log_throttle.suffix_if_due("invalid")) is not None:
                self.logger.warning("%s%s", message, suppressed)
            self.send_400_response(message)
            return
        self._note_pending()

    def _unsupported_upgrade_warning(self) -> None:
        if (suppressed := self.pending.log_throttle.suffix_if_due("upgrade")) is not None:
            self.logger.warning("Unsupported upgrade request.%s", suppressed)

    def _note_pending(self) -> None:
        """Limit the time until the next request is whole, if none is being answered."""
        cycle, transport = self.cycle, self.transport
        if (
            (cycle is None or cycle.response_complete)
            and self.timeout_keep_alive_task is None
            and not transport.is_closing()
        ):
            # What an application answered before it had read all of it may be a long upload; ours are short.
            in_body = cycle is not None and cycle.more_body
            self.pending.begin(transport, self.head_bytes, restart=in_body and self.behind_middleware)

    def _refuse_size(self) -> None:
        self.pending.counters["incomplete_request:size"] += 1
        self._refuse(b"431 Request Header Fields Too Large", f"The head of a request has at most {MAX_HEAD} bytes.")

    def give_up(self) -> None:
        """Close the connection, because its request took too long; with 408, if it has begun."""
        if self.head_bytes:
            self._refuse(b"408 Request Timeout", f"The head must arrive within {self.pending.timeout:g} s.")
        else:
            self.transport.close()

    def _refuse(self, status: bytes, sentence: str) -> None:
        """Answer the request that is not whole, if its answer is the next that the peer expects, and close."""
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and not cycle.more_body):
            text = sentence.encode()
            self.transport.write(
                b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b" % (status, len(text), text)
            )
        self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Add a piece of the body."""
        self.head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self.head_bytes = 0
        super().on_message_complete()

    def _decline_upgrade(self) -> bool:
        """Go on as if the request had no Upgrade header. False: nothing of what follows may be read."""
        if self.scope["method"] == "CONNECT":
            # What follows is for the host that it names, whatever it looks like.
            self.cycle.disconnected = True
            self.send_400_response("CONNECT is not supported.")
            return False
        # uvicorn has taken the request for complete.
        self.cycle.more_body = True
        self.cycle.message_event.clear()
        self.parser = parser_behind_head(self, self.headers)
        return True

    def on_headers_complete(self) -> None:
        """Offer the socket of an event stream."""
        self.head_bytes = 0
        self.pending.end(self.transport)
        ahead = self.cycle
        path = self.url.partition(b"?")[0]
        # With TLS there is more between us and the socket, and what could be saved is little beside what that costs.
        if (
            self.endpoints.raw_base in path
            and self.scheme != "https"
            and not (self.parser.should_upgrade() and self._should_upgrade())
        ):
            self._start_response(offers_socket=path.endswith(self.endpoints.raw_sse_path))
        else:
            super().on_headers_complete()
        if self._current_cycle is None and ahead is not None and not ahead.response_complete:
            self._current_cycle = ahead

    def _start_response(self, *, offers_socket: bool) -> None:
        transport = self.transport
        response = ResponseTransport(self, transport)
        if b"replaces=" in self.url:
            self.access_logger = _AccessLog(self.access_logger)  # type: ignore[assignment]
        if offers_socket:
            self.scope["extensions"] = {EXTENSION: response}  # type: ignore[dict-item]
        # uvicorn gives the new cycle this transport.
        self.transport = response  # type: ignore[assignment]
        try:
            super().on_headers_complete()
        finally:
            self.transport = transport

    def on_response_complete(self) -> None:
        """Let go of an offer that was not taken up, before it is garbage that only the collector finds."""
        # Of several requests at once, `cycle` is the last.
        if self.cycle is not None and self.cycle.response_complete:
            self._withdraw()
        self._current_cycle = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything that would keep this object alive: it is in a circle with each of its requests."""
        self.pending.end(self.transport)
        self._withdraw()
        if self._current_cycle is not None:
            # uvicorn tells the last request only, and an event stream with another request behind it would never end.
            self._current_cycle.disconnected = True
            self._current_cycle.message_event.set()
            self._current_cycle = None
        super().connection_lost(exc)
        self.pipeline.clear()
        self.cycle = None  # type: ignore[assignment]

    def shutdown(self) -> None:
        """Stop, because the server does."""
        self.stopping = True
        super().shutdown()

    def _withdraw(self) -> None:
        if self.cycle is not None:
            written_to: object = self.cycle.transport
            if isinstance(written_to, ResponseTransport):
                written_to.withdraw()

    def handle_websocket_upgrade(self) -> None:
        """Answer the handshake of a stream; every other one is for uvicorn's WebSocket class."""
        path, _, query = self.url.partition(b"?")
        names_ours = path.isascii() and path.endswith(self.endpoints.raw_ws_path)
        key = handshake_key(self.headers) if names_ours else None
        ours = key is not None and self.scheme != "https" and self.scope["method"] == "GET"
        ahead = self._current_cycle or self.cycle
        written_to: object = ahead.transport if ahead is not None and not ahead.response_complete else None
        if written_to is not None and (ours or isinstance(written_to, ResponseTransport)):
            # The answer would be taken for that to the request ahead; which, if it is a stream, would never end.
            self.send_400_response("Wait for the response to the previous request before opening a WebSocket.")
        elif not ours or key is None:
            if names_ours:
                # Its own object, because uvicorn's is the application's, too.
                self.config = copy.copy(self.config)
                self.config.ws_max_size = min(self.config.ws_max_size, MAX_WEBSOCKET_MESSAGE)
            self.upgrade_by_uvicorn()
        elif not self.transport.is_closing():
            handshake = Handshake(self, key, self.server_state.default_headers)
            scope = websocket_scope({**self.scope, "query_string": query}, self.config, path)
            scope["extensions"] = {EXTENSION: handshake}
            self.flow.pause_reading()  # until it is decided who reads
            task = self.loop.create_task(handshake.run(self.app, scope))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def upgrade_by_uvicorn(self) -> None:
        """Let uvicorn's own WebSocket class answer the handshake."""
        self.flow.resume_reading()
        super().handle_websocket_upgrade()
        self.parser = None  # type: ignore[assignment]  # it is in a circle with this object, which is out of use now

    def detach(self) -> None:
        """Let go of the socket, which belongs to a stream now, and of everything that would keep this object alive."""
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if self.cycle is not None:
            # It has not been answered in full, as far as uvicorn knows, and must not be: its peer "has left".
            self.cycle.disconnected = True
            self.cycle = None  # type: ignore[assignment]
        self._current_cycle = None
        self.parser = None  # type: ignore[assignment]

    @property
    def parts(self) -> NodeParts:
        """The node whose streams this server takes over."""
        return self.endpoints.parts

    def context(self, parts: NodeParts) -> SessionContext:
        """Return what the streams of a node in this server share."""
        return self.context_of(parts, self.loop, self.connections)

    @classmethod
    def context_of(cls, parts: NodeParts, loop: asyncio.AbstractEventLoop, connections: set[Any]) -> SessionContext:
        """Return what the streams of a node in a server share."""
        context = cls._shared_context
        if (
            context is None
            or context.parts is not parts
            or context.loop is not loop
            or context.connections is not connections
        ):
            context = cls._shared_context = cls.context_class(parts, loop, connections)
        return context


class _AccessLog:
    """uvicorn's access log, without secret handles."""

    __slots__ = ("_logger",)

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def info(self, text: str, *values: Any) -> None:
        """Write a line."""
        self._logger.info(text, *(without_handle(value) if isinstance(value, str) else value for value in values))


class ResponseTransport:
    """
    The transport of one response of ours. Writes its head and the beginning of its body at once, which saves a system
    call and a packet, and offers the socket when the response turns out to be a stream.

    Args:
        protocol: The one that got the request.
        transport: The socket.
    """

    __slots__ = ("_handed_over", "_head", "_protocol", "_transport", "_written", "behind_middleware")

    def __init__(self, protocol: HeadcountProtocol, transport: asyncio.Transport) -> None:
        self._protocol: HeadcountProtocol | None = protocol
        self._transport = transport
        self._head: bytes | None = None
        """Held back until more comes, or the loop turns."""
        self._written: tuple[bytes, bytes] | None = None
        """Head and first piece of the body, while nothing else was written."""
        self.behind_middleware = protocol.behind_middleware
        self._handed_over = False
        """The socket is a stream's now, and nothing of the request may touch it any more."""

    def sse(
        self, parts: NodeParts, public_id: str, connected: Payload, request: StreamRequest
    ) -> DirectSseSession | None:
        """Take the socket over; see `handover.SseOffer`."""
        protocol = self._protocol
        if protocol is None or not self._is_intact(protocol, connected):
            return None
        self._protocol = self._written = None
        self._handed_over = True
        context = protocol.context(parts)
        protocol.detach()
        session = DirectSseSession(context, self._transport, public_id, request)
        if protocol.stopping:
            context.loop.call_soon(session.shutdown)
        return session

    def withdraw(self) -> None:
        """Take the offer back, because the request has been answered."""
        self._protocol = self._written = None

    def write(self, data: bytes) -> None:
        """Write a piece of the response."""
        if self._handed_over:
            return
        head, self._head = self._head, None
        if head is not None:
            self._written = (head, data)
            self._transport.write(head + data)
        elif self._written is None and self._protocol is not None and data.startswith(b"HTTP/1.1 200 "):
            self._head = data
            self._protocol.loop.call_soon(self._flush)
        else:
            self._written = None
            self._transport.write(data)

    def is_closing(self) -> bool:
        """See `asyncio.Transport`."""
        return self._handed_over or self._transport.is_closing()

    def close(self) -> None:
        """See `asyncio.Transport`."""
        if not self._handed_over:
            self._flush()
            self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head is not None and not self._transport.is_closing():
            self._transport.write(head)

    def _is_intact(self, protocol: HeadcountProtocol, connected: Payload) -> bool:
        """Say whether the response arrived here as Headcount sent it, in chunks, and is the only one."""
        if self._written is None or self._written[1] != connected.event_chunk:
            return False  # middleware holds it back, or changes it
        head, cycle = self._written[0], protocol.cycle
        written_to: object = cycle.transport if cycle is not None else None
        return (
            b"\r\ntransfer-encoding: chunked\r\n" in head
            and head.count(b"\r\ncontent-encoding:") == head.count(b"\r\ncontent-encoding: identity\r\n")
            and written_to is self  # and not that of a request which came after it
            and not protocol.pipeline
            and not cycle.disconnected
            and not self._transport.is_closing()
            and not protocol.flow.write_paused
        )


def host_and_port(address: Any) -> Any:
    """Return an address as ASGI has it: `(host, port)`; `(path, None)` of a Unix socket; None of its unnamed peer."""
    if isinstance(address, tuple):
        return (str(address[0]), int(address[1]))
    return (address, None) if address else None
