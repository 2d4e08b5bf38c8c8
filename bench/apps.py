"""What Headcount is measured against and in: applications for plain uvicorn, `uvicorn apps:NAME`."""

import os

from fastapi import FastAPI
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from headcount import Headcount

_CONNECTED = b'{"type":"connected","version":"v1","connectionId":"0123456789012345678901234567.0123456789012345678901"}'


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """The least that an ASGI application can do to hold a stream: one task that waits in `receive()`."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": _CONNECTED.decode()})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    elif scope["type"] == "http" and scope["path"].endswith("/sse"):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: " + _CONNECTED + b"\n\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
    elif scope["type"] == "http":
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"11")]})
        await send({"type": "http.response.body", "body": b'{"ok":true}'})


def _headcount() -> Headcount:
    return Headcount(version="v1", route_tracking=True, admin_token=os.environ.get("HEADCOUNT_ADMIN_TOKEN"))


wrapped_headcount = _headcount()
wrapped = wrapped_headcount.wrap(bare)

mounted_headcount = _headcount()


@mounted_headcount.authorize_stats
async def admins_only(request: HTTPConnection) -> bool:
    """As in the README."""
    return request.session.get("role") == "admin"


mounted = FastAPI()
mounted.add_middleware(SessionMiddleware, secret_key="for the benchmark only")
mounted.mount(mounted_headcount.base_path, mounted_headcount)

framework = FastAPI()
"""What the framework itself adds to a stream that does nothing."""
framework.add_middleware(SessionMiddleware, secret_key="for the benchmark only")
framework.mount("/__skew", bare)
