"""
The applications that the servers in these tests run, named on their command lines as users name theirs.

Settings come from `HEADCOUNT_*`, as in production. `MARKER` names a file that the lifespan writes "started" and
"stopped" to; `FLEET_CLOCK` is the part of the real seconds that a node waits for Redis, and `FLEET_SILENCE` of those
after which it suspects and drops a silent node. `/debug` shows what no client
may see: what is left behind when the streams are gone.

They are written with Starlette, which starts in half the time of FastAPI: the tests start hundreds. FastAPI is in
fastapi_app.py, tests/asgi, tests/e2e and the shop.
"""

import asyncio
import os
import socket
import stat
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from headcount import Headcount


def _note(line: str) -> None:
    if "MARKER" in os.environ:
        with Path(os.environ["MARKER"]).open("a") as marker:
            marker.write(line + "\n")


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    _note("started")
    yield
    _note("stopped")


def _make() -> tuple[Starlette, Headcount]:
    headcount = Headcount(route_tracking=True)

    @headcount.authorize_stats
    async def admins_only(request: HTTPConnection) -> bool:
        return request.session.get("role") == "admin"

    async def sign_in(request: Request) -> JSONResponse:
        request.session["role"] = "admin"
        return JSONResponse({"ok": True})

    async def deploy(request: Request) -> JSONResponse:
        told = await headcount.release(request.query_params["version"])
        return JSONResponse({"pid": os.getpid(), "told": told})

    async def call(request: Request) -> JSONResponse:
        """Call what an application may call, with the public id of a page."""
        page = request.query_params["page"]
        await headcount.send(page, {"type": "hello", "pid": os.getpid()})
        stats, revoked = await headcount.stats(), await headcount.revoke(page)
        return JSONResponse({"pid": os.getpid(), "total": stats.total, "revoked": revoked})

    async def debug(request: Request) -> JSONResponse:
        return JSONResponse(_inside(headcount, _port(request)))

    async def taken_over(_: Request) -> JSONResponse:
        return JSONResponse(_taken_over(headcount))

    async def peer_timeouts(request: Request) -> JSONResponse:
        return JSONResponse(_peer_timeouts(_port(request)))

    routes = [
        Route("/sign-in", sign_in, methods=["POST"]),
        Route("/call", call, methods=["POST"]),
        Route("/deploy", deploy, methods=["POST"]),
        Route("/debug", debug),
        Route("/debug/taken-over", taken_over),
        Route("/debug/peer-timeouts", peer_timeouts),
    ]
    app = Starlette(routes=routes, lifespan=_lifespan)
    app.add_middleware(SessionMiddleware, secret_key="only for tests")
    return app, headcount


def _mounted() -> tuple[Starlette, Headcount]:
    app, headcount = _make()
    app.mount(headcount.base_path, headcount)
    return app, headcount


def _wrapped() -> tuple[ASGIApp, Headcount, Starlette]:
    app, headcount = _make()
    return headcount.wrap(app), headcount, app


def _inside(headcount: Headcount, port: int) -> dict[str, Any]:
    node = headcount.node
    sizes: Counter[str] = Counter()
    _measure(headcount, sizes, set())
    return {
        "pid": os.getpid(),
        "server": f"uvicorn/{uvicorn.__version__}",
        "total": node.figures.local_stats().total,
        "sessions": len(node.sessions),
        "taken_over": _taken_over(headcount),
        "subscriptions": len(node.viewers.subscriptions),
        "sizes": sizes,
        "tasks": len(asyncio.all_tasks()),
        "sockets": sum(map(len, _peer_timeouts(port).values())),
        "counters": dict(node.counters),
    }


def _taken_over(headcount: Headcount) -> int:
    """Count the streams that are on the bare socket."""
    return sum("takeover" in type(session).__module__ for session in headcount.node.sessions.values())


def _measure(thing: Any, sizes: Counter[str], seen: set[int]) -> None:
    """
    Add up how much every container holds that can be reached from a Headcount, as `{"LoopTimers.busy_deadlines": 3}`.

    Whatever grows with the connections is in it, also what is invented after this was written.
    """
    if id(thing) in seen:
        return
    seen.add(id(thing))
    kind = type(thing)
    names = [*getattr(thing, "__dict__", ()), *(name for base in kind.__mro__ for name in _slots(base))]
    for name in names:
        value = getattr(thing, name, None)
        inner = [value]
        if isinstance(value, (dict, list, set, deque)) and name != "counters":
            sizes[f"{kind.__name__}.{name}"] += len(value)
            inner = list(value.values() if isinstance(value, dict) else value)
        for one in inner:
            if type(one).__module__.startswith("headcount."):
                _measure(one, sizes, seen)
            elif isinstance(one, set):
                sizes[f"{kind.__name__}.{name}[]"] += len(one)


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _port(request: Request) -> int:
    return int(request.scope["server"][1])  # granian tells a string


def _peer_timeouts(port: int) -> dict[str, list[int]]:
    """Read TCP_USER_TIMEOUT, in ms, of this process's listeners on a port and of the connections they accepted."""
    found: dict[str, list[int]] = {"listening": [], "accepted": []}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of the listing itself
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getsockname()[1] == port:
                    kind = "listening" if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else "accepted"
                    found[kind].append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    return found


if "FLEET_CLOCK" in os.environ:
    from headcount.fleet.backends import redis, redis_timing

    # Headcount has no setting for it: all nodes of a fleet must agree, and these are started together.
    _part = float(os.environ["FLEET_CLOCK"])
    _timing = redis_timing.Timing(*(seconds * _part for seconds in redis_timing.DEFAULT_TIMING))
    redis.RedisBackend = partial(redis.RedisBackend, timing=_timing)  # type: ignore[misc, assignment]
if "FLEET_SILENCE" in os.environ:
    from headcount.core.liveness import Liveness

    _defaults = Liveness.__init__.__kwdefaults__
    assert _defaults is not None
    _defaults.update({name: seconds * float(os.environ["FLEET_SILENCE"]) for name, seconds in _defaults.items()})
if "AWAY_GRACE" in os.environ:
    from headcount.core import away_pages

    away_pages.GRACE = float(os.environ["AWAY_GRACE"])  # type: ignore[misc]
mounted, mounted_headcount = _mounted()
wrapped, wrapped_headcount, wrapped_app = _wrapped()
