"""
The protocol class of `headcount serve` for all that a door does not open (door.py), where there is no application whose
middleware a request must pass.

That a page has navigated is told all the time, and answered as soon as it has been read: no task is made for it, and
none of ASGI's messages. It is the plain, good case only that takes this way: whatever is unusual about a request, or
wrong with it, goes the ordinary one, so there is one place that says what is wrong.
"""

from typing import ClassVar, NoReturn, cast

from starlette.types import ASGIApp, Scope

from ...core import messages
from ...errors import ProtocolError, UnknownConnection
from .. import commands
from ..responses import Problem
from .cached_heads import DONE
from .protocol import HeadcountProtocol
from .streams import CountingStreamContext


class ServeProtocol(HeadcountProtocol):
    """Serves one TCP connection of a server that serves Headcount and nothing else."""

    beneath: ClassVar[ASGIApp]
    """What Headcount is wrapped round: it knows no path and no session."""

    home_class = CountingStreamContext
    _direct = False
    """The request that is being read may be one to answer at once."""
    _body = b""

    # ---- what the parser calls

    def on_headers_complete(self) -> None:
        """Wait for the body of what may be answered at once."""
        self._direct = self._may_be_direct()
        if self._direct:
            self._body = b""
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if not self._direct:
            super().on_body(body)
        else:
            self._body += body
            if len(self._body) > messages.MAX_MESSAGE:
                self._go_the_ordinary_way()

    def on_message_complete(self) -> None:
        """Answer at once, or go the ordinary way after all."""
        if self._direct:
            if self._navigate():
                self._direct = False
                return
            self._go_the_ordinary_way()
        super().on_message_complete()

    # ---- what the transport calls

    def data_received(self, data: bytes) -> None:
        """Read; what is not whole by now goes the ordinary way, because the rest of the body may take its time."""
        super().data_received(data)
        if self._direct and not self.transport.is_closing():
            self._go_the_ordinary_way()

    # ---- inside

    def _may_be_direct(self) -> bool:
        path, _, query = self.url.partition(b"?")
        if (
            path != self.headcount.route_path
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
        headcount, node = self.headcount, self.headcount.node
        scope = cast(Scope, self.scope)
        headcount.meet(scope, type(self).beneath)
        try:
            if headcount.admit("/route", scope):
                return False  # from another origin: the answer says that it may
            commands.check_type(scope)
            handle, message = commands.read("/route", self._body)
            node.handle(node.find(handle), message, _never)
        except (Problem, ProtocolError, UnknownConnection):
            return False
        self.transport.write(DONE(self.server_state.default_headers))
        self.on_response_complete()
        return True

    def _go_the_ordinary_way(self) -> None:
        body, self._body, self._direct = self._body, b"", False
        super().on_headers_complete()
        if body:
            super().on_body(body)


def _never() -> NoReturn:
    raise AssertionError("to navigate takes no right")
