"""
uvicorn protocol of `headcount serve`: every request that FirstRequestProtocol did not turn into a stream.

There is no application whose middleware a request must pass. Route updates are frequent, so one is answered as soon as
it has been read, without a task and without ASGI's messages. Only a valid, ordinary request is answered so. Any other
is delegated to uvicorn, so there is one place that says what is wrong.

Tests: tests/asgi/takeover/test_taking_over.py.
"""

from typing import ClassVar, NoReturn, cast

from starlette.types import ASGIApp, Scope

from ...core import messages
from ...errors import ProtocolError, UnknownConnection
from .. import client_posts
from ..request_head import RequestHead
from ..responses import Problem
from .cached_heads import OK_RESPONSE
from .direct_sessions import CountingSessionContext
from .protocol import HeadcountProtocol


class ServeProtocol(HeadcountProtocol):
    """Serves one TCP connection of a server that serves Headcount and nothing else."""

    wrapped_app: ClassVar[ASGIApp]
    """The application that Headcount is wrapped round; it has neither paths nor a session."""

    context_class = CountingSessionContext
    behind_middleware = False
    _answers_at_once = False
    """The request that is being read is a route update to be answered at once, as far as is known."""
    _body = b""

    def on_headers_complete(self) -> None:
        """Wait for the body of a request that may be answered at once."""
        self._answers_at_once = self._may_answer_at_once()
        if self._answers_at_once:
            self.head_bytes = 0
            self.pending.end(self.transport)
            self._body = b""
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Add a piece of the body."""
        if not self._answers_at_once:
            super().on_body(body)
        else:
            self._body += body
            if len(self._body) > messages.MAX_MESSAGE:
                self._delegate()

    def on_message_complete(self) -> None:
        """Answer at once, or delegate."""
        if self._answers_at_once:
            if self._navigate():
                self._answers_at_once = False
                self.head_bytes = 0
                return
            self._delegate()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Read. A request that is not complete by now is delegated, because its body may take long."""
        super().data_received(data)
        if self._answers_at_once and not self.transport.is_closing():
            self._delegate()

    def _may_answer_at_once(self) -> bool:
        path, _, query = self.url.partition(b"?")
        if (
            path != self.endpoints.raw_route_path
            or self.parser.get_method() != b"POST"
            or (self.cycle is not None and not self.cycle.response_complete)
            or self.pipeline
            or self.expect_100_continue
            or self.root_path
            or self.scheme == "https"
            or self.parser.get_http_version() != "1.1"
            or not self.parser.should_keep_alive()
            or self.parser.should_upgrade()
        ):
            return False
        self.scope["query_string"] = query
        return True

    def _navigate(self) -> bool:
        endpoints, node = self.endpoints, self.endpoints.node
        scope = cast(Scope, self.scope)
        endpoints.join_fleet(scope, type(self).wrapped_app)
        head = RequestHead(scope, "/route", endpoints.rules)
        try:
            if not head.is_valid_own_request:
                return False
            client_posts.check_content_type(head)
            handle, message = client_posts.read_command("/route", self._body)
            node.on_message(node.find(handle), message, _no_check)
        except (Problem, ProtocolError, UnknownConnection):
            return False
        self.transport.write(OK_RESPONSE(self.server_state.default_headers))
        self.on_response_complete()
        return True

    def _delegate(self) -> None:
        body, self._body, self._answers_at_once = self._body, b"", False
        super().on_headers_complete()
        if body:
            super().on_body(body)


def _no_check() -> NoReturn:
    raise AssertionError("a route update needs no right")
