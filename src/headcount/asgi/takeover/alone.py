"""
The protocol class of `headcount serve`, where there is no application whose middleware a request must pass.

What is asked for all the time is then answered as soon as it has been read: a stream is opened, a page has navigated.
No task is made for it, and none of ASGI's messages. It is the plain, good case only that takes this way: whatever is
unusual about a request, or wrong with it, goes the ordinary one, so there is one place that says what is wrong.
"""

from collections.abc import Callable
from typing import ClassVar, NoReturn, cast

from starlette.types import ASGIApp, Scope

from ...core import event_stream, messages
from ...core.frames import text_frame
from ...errors import ProtocolError, UnknownConnection
from ...listeners import Listener
from .. import commands
from ..asking import AskingLater, Common
from ..opening import Opening
from ..responses import OK, Headers, Problem
from ..scope import is_anybody
from .handshake import acceptable, accepting, proof
from .protocol import HeadcountProtocol
from .streams import CountingHome, SseStream, WebSocketStream


class AloneProtocol(HeadcountProtocol):
    """Serves one TCP connection of a server that serves Headcount and nothing else."""

    beneath: ClassVar[ASGIApp]
    """What Headcount is wrapped round: it knows no path and no session."""

    home_class = CountingHome
    _commons: ClassVar[dict[object, Common]]
    """By the address of ours that a handshake came to; there are few. Each class has a dictionary of its own."""
    _heads: ClassVar[dict[Callable[[Headers], bytes], tuple[object, bytes]]] = {}
    """What all answers of a kind begin with."""
    _direct: str | None = None
    """The endpoint of the request that is being read, if it may be one to answer at once."""
    _body = b""
    _opening: Opening | None = None
    """The request was for a stream. Whatever its peer sends after it is not read."""
    _listener: Listener | None = None
    """What that stream comes in by."""

    # ---- what the parser calls

    def on_message_begin(self) -> None:
        """Read a request, unless one before it asked for a stream."""
        if self._opening is None:
            super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Wait for the body of what may be answered at once."""
        if self._opening is not None:
            return
        endpoint = self._endpoint()
        if endpoint is None:
            super().on_headers_complete()
        else:
            self._direct = endpoint
            self._body = b""

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._opening is not None:
            return
        if self._direct is None:
            super().on_body(body)
        else:
            self._body += body
            if len(self._body) > messages.MAX_MESSAGE:
                self._go_the_ordinary_way()

    def on_message_complete(self) -> None:
        """Answer at once, or go the ordinary way after all."""
        if self._opening is not None:
            return
        if self._direct is not None:
            if self._answer(self._direct):
                self._direct = None
                return
            self._go_the_ordinary_way()
        super().on_message_complete()

    # ---- what the transport calls

    def data_received(self, data: bytes) -> None:
        """Read, and then open what is to be a stream: not before, because the parser is in use until here."""
        super().data_received(data)
        if self._opening is not None:
            opening, self._opening = self._opening, None
            self._open_stream(opening)
        elif self._direct is not None and not self.transport.is_closing():
            self._go_the_ordinary_way()  # the rest of the body may take its time

    def handle_websocket_upgrade(self) -> None:
        """Answer the handshake of a stream."""
        if self._opening is not None:
            return
        path, _, query = self.url.partition(b"?")
        key = acceptable(self.headers) if path == self.headcount.stream_paths[1] else None
        if (
            key is None
            or self.scheme == "https"
            or self.scope["method"] != "GET"
            or self.root_path
            or not self._answered
            or self.transport.is_closing()
        ):
            super().handle_websocket_upgrade()
            return
        headcount, node = self.headcount, self.headcount.node
        scope = cast(Scope, self.scope)
        scope["query_string"] = query
        headcount.meet(scope, type(self).beneath)
        listener = node.listeners.adopt(self.server)
        opening = None
        try:
            foreign = headcount.admit("/ws", scope) or is_anybody(scope, headcount.config.allowed_origins)
            if not foreign and not node.closed_to_streams(listener):
                opening = headcount.opening(scope)  # last: what goes the ordinary way after all is read there
        except (Problem, ProtocolError):
            pass
        if opening is None:
            super().handle_websocket_upgrade()
            return
        public, handle = node.identify()
        common = self._commons.get(self.server)
        if common is None:
            common = headcount.common(self.websocket_scope(path, query), type(self).beneath)
            self._commons[self.server] = common
        ask_later = AskingLater(common, self.client, self.headers)
        home, transport = self.home(node), self.transport
        hello = self._kept(accepting) + proof(key) + text_frame(headcount.connected(handle))
        self.release()
        stream = WebSocketStream(home, transport, public, counted=opening.counted, make_ask=ask_later)
        transport.write(hello)
        opening.open(node, stream, listener)

    # ---- inside

    @property
    def _answered(self) -> bool:
        """Nothing that was asked before is still to be answered."""
        return self.cycle is None or self.cycle.response_complete

    def _endpoint(self) -> str | None:
        """Return what a request asks for, if it may be answered at once."""
        path, _, query = self.url.partition(b"?")
        method = self.parser.get_method()
        if path == self.headcount.stream_paths[0] and method == b"GET":
            endpoint = "/sse"
        elif path == self.headcount.route_path and method == b"POST":
            endpoint = "/route"
        else:
            return None
        if (
            not self._answered
            or self.pipeline
            or self.expect_100_continue
            or self.root_path
            or self.scheme == "https"
            or self.parser.get_http_version() != "1.1"
            or not self.parser.should_keep_alive()
            or self.parser.should_upgrade()
        ):
            return None
        self.scope["query_string"] = query
        return endpoint

    def _answer(self, endpoint: str) -> bool:
        headcount, node = self.headcount, self.headcount.node
        scope = cast(Scope, self.scope)
        headcount.meet(scope, type(self).beneath)
        try:
            if headcount.admit(endpoint, scope):
                return False  # from another origin: the answer says that it may
            if endpoint == "/sse":
                self._listener = node.listeners.adopt(self.server)
                if node.closed_to_streams(self._listener):
                    return False
                self._opening = headcount.opening(scope)
                return True
            commands.check_type(scope)
            handle, message = commands.read(endpoint, self._body)
            node.handle(node.find(handle), message, _never)
        except (Problem, ProtocolError, UnknownConnection):
            return False
        self.transport.write(self._kept(_ok))
        self.on_response_complete()
        return True

    def _open_stream(self, opening: Opening) -> None:
        headcount, node = self.headcount, self.headcount.node
        if self.transport.is_closing():
            return
        public, handle = node.identify()
        home, transport = self.home(node), self.transport
        hello = self._kept(_opening_stream) + event_stream.chunk(event_stream.frame(headcount.connected(handle)))
        self.release()
        stream = SseStream(
            home, transport, public, counted=opening.counted, visible_keepalives=opening.visible_keepalives
        )
        transport.write(hello)
        opening.open(node, stream, self._listener)

    def _go_the_ordinary_way(self) -> None:
        body, self._body, self._direct = self._body, b"", None
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def _kept(self, make: Callable[[Headers], bytes]) -> bytes:
        """Return the beginning of an answer, made anew when uvicorn has changed its own headers, once a second."""
        default_headers = self.server_state.default_headers
        known = self._heads.get(make)
        if known is None or known[0] is not default_headers:
            known = self._heads[make] = (default_headers, make(default_headers))
        return known[1]


def _opening_stream(headers: Headers) -> bytes:
    return _head((*headers, *event_stream.HEADERS, (b"transfer-encoding", b"chunked")))


def _ok(headers: Headers) -> bytes:
    return _head((*headers, *OK.headers)) + OK.body


def _head(headers: Headers) -> bytes:
    lines = [b"HTTP/1.1 200 OK", *(name + b": " + value for name, value in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _never() -> NoReturn:
    raise AssertionError("to navigate takes no right")
