"""python-socketio with its admin instrumentation, keeping each socket's route: `uvicorn instrumented:app`."""

from typing import Any

import socketio  # type: ignore[import-not-found]

# Pings are left out, as are the keepalives of the others.
sio = socketio.AsyncServer(async_mode="asgi", ping_interval=3600, ping_timeout=3600)
# The mode that tells admins of each socket; the other one tells them a number every two seconds.
sio.instrument(auth=False, mode="development", server_stats_interval=2)

routes: dict[str, str] = {}


async def connect(sid: str, _environ: dict[str, Any]) -> None:
    routes[sid] = "/"


async def disconnect(sid: str, _reason: str) -> None:
    routes.pop(sid, None)


async def route(sid: str, path: str) -> None:
    routes[sid] = path


sio.on("connect", connect)
sio.on("disconnect", disconnect)
sio.on("route-update", route)


async def healthy(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer whatever is not Socket.IO's."""
    if scope["type"] == "http":
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


app = socketio.ASGIApp(sio, other_asgi_app=healthy)
