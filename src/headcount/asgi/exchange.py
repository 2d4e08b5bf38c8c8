"""
One HTTP request to an endpoint, and the way to answer it.

Tests: tests/asgi/test_endpoints.py, tests/asgi/test_small_endpoints.py.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from ..authorization.authorizer import Grant
from ..core.visibility import Visibility
from .request_head import RequestHead
from .responses import Headers, respond_json


class Exchange(NamedTuple):
    """What a handler of an endpoint is given."""

    head: RequestHead
    receive: Receive
    send: Send
    cors: Headers
    """To be sent with every response: what caches and pages of other origins must know."""
    wrapped_app: ASGIApp | None
    """The application that Headcount is wrapped round, if it is."""
    grant: Grant | None = None
    """The viewer's, where the operation asks for one."""

    @property
    def scope(self) -> Scope:
        """The ASGI scope."""
        return self.head.scope

    @property
    def visibility(self) -> Visibility:
        """What the viewer may see of the figures; whoever answers with figures passes them through it."""
        assert self.grant is not None, "the operation asks for a grant"
        return Visibility.of(self.grant)

    async def respond_json(self, content: Mapping[str, Any]) -> None:
        """Answer 200 and a JSON object."""
        await respond_json(self.send, content, self.cors)
