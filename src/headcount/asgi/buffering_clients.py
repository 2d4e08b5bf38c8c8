"""
Test clients that read a response to its end before they return it, which a stream does not have.

They call the application without a server, and would hang without a word. An error in the test says why.

Source: starlette/testclient.py before 1.9; httpx's ASGITransport.
"""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from starlette.types import Receive, Scope

_STREAMS_SINCE: Final = (1, 9)
"""The version of Starlette whose TestClient returns a response before it has ended."""

_ASGI_TRANSPORT: Final = ("127.0.0.1", 123)
"""The default client address of httpx's ASGITransport."""


_ASGI_TRANSPORT_RECEIVE: Final = "ASGITransport.handle_async_request.<locals>.receive"
"""Name of the `receive` function of httpx's ASGITransport. daphne's requests have no `spec_version`, either."""


def refuse_buffering_client(scope: Scope, receive: Receive) -> None:
    """
    Raise an error instead of opening a stream that a test client would wait for without end.

    Args:
        scope: Of the request.
        receive: Of the request. Middleware may have wrapped it.

    Raises:
        RuntimeError: The request comes from such a test client.
    """
    if "http.response.debug" in (scope.get("extensions") or ()):
        if not _test_client_streams():
            raise RuntimeError(
                "This TestClient reads a response to its end before it returns it, and a stream of Headcount has no "
                "end. Install starlette>=1.9, use its WebSocket (websocket_connect), or test with a real server."
            )
    elif "spec_version" not in scope["asgi"] and (
        scope.get("client") == _ASGI_TRANSPORT or getattr(receive, "__qualname__", "") == _ASGI_TRANSPORT_RECEIVE
    ):
        raise RuntimeError(
            "httpx's ASGITransport reads a response to its end before it returns it, and a stream of Headcount has no "
            "end. Test with Starlette's TestClient, or with a real server."
        )


@cache
def _test_client_streams() -> bool:
    try:
        numbers = version("starlette").split(".")[:2]
        return tuple(int(number) for number in numbers) >= _STREAMS_SINCE
    except (PackageNotFoundError, ValueError):
        return True
