"""What is left of a request once its stream has begun, and of a stream that is over: nothing, without a collector."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from headcount import Headcount
from headcount.asgi.takeover.direct_sessions import DirectSession
from headcount.asgi.takeover.first_request import FirstRequestProtocol
from headcount.asgi.takeover.protocol import HeadcountProtocol

from .inside import (
    BASE,
    Inside,
    frame,
    garbage_of,
    get,
    make,
    on_both_loops,
    post,
    running,
    sse,
    text,
    until,
    upgrade,
    ws,
)


async def _beneath(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("nothing", 404)(scope, receive, send)


class _Relay(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)


APPS: dict[str, Callable[[Headcount], tuple[ASGIApp, ASGIApp | None]]] = {
    "mounted": lambda headcount: (Starlette(routes=[Mount(headcount.base_path, headcount)]), None),
    "wrapped": lambda headcount: (headcount.wrap(_beneath), None),
    "alone": lambda headcount: (headcount.wrap(_beneath), _beneath),
}


async def opens_sse(inside: Inside) -> None:
    peer = await sse(inside)
    peer.fin()


async def opens_ws(inside: Inside) -> None:
    peer = await ws(inside)
    peer.fin()


async def navigates(inside: Inside) -> None:
    peer = await sse(inside)
    other = await inside.ask(post("/route", {"connectionId": peer.handle, "route": "/a"}))  # type: ignore[attr-defined]
    await other.head()
    other.send(post("/route", {"connectionId": "forged", "route": "/a"}))
    await other.head()
    other.fin()
    peer.fin()


async def watches(inside: Inside) -> None:
    peer = await ws(inside)
    peer.send(text({"type": "subscribe-stats", "deltas": True}))
    assert (await peer.message())["type"] == "stats"
    peer.fin()


async def is_refused(inside: Inside) -> None:
    for request in (
        get(f"{BASE}/sse?version=" + "v" * 129),
        get(f"{BASE}/sse", "Origin: https://evil.example"),
        get(f"{BASE}/nothing"),
        upgrade(f"{BASE}/nothing"),
        upgrade(f"{BASE}/ws", "Origin: https://evil.example"),
    ):
        peer = await inside.ask(request)
        await peer.head()
        peer.fin()
    peer = await inside.ask(upgrade(f"{BASE}/ws?version=" + "v" * 129))
    await peer.head()
    assert (await peer.closed())[0] == 4400
    assert await peer.rest() == b""


async def leaves_at_once(inside: Inside) -> None:
    for request in (get(), upgrade(), get(f"{BASE}/health") * 3 + get(), post("/route", b"{}")[:-1]):
        peer = await inside.ask(request)
        peer.rst()
    await until(lambda: not inside.state.connections, "the server has noticed")


async def talks_nonsense(inside: Inside) -> None:
    for request in (b"\x16\x03\x01", get() + b"nonsense", get()[:-2] + b"x" * 100):
        peer = await inside.ask(request)
        peer.fin()
    peer = await ws(inside)
    peer.send(frame(1, b"nonsense"))
    assert (await peer.closed())[0] == 4400
    assert await peer.rest() == b""
    peer = await ws(inside)
    peer.send(frame(8, b"\x03\xe8bye"))
    assert (await peer.closed())[0] == 1000
    assert await peer.rest() == b""


async def is_told_to_leave(inside: Inside) -> None:
    peers = [await sse(inside), await ws(inside)]
    for connection in list(inside.state.connections):
        connection.shutdown()
    assert b"reconnectMs" in await peers[0].rest()
    assert (await peers[1].closed())[0] == 1012
    await peers[1].rest()


WORK: list[Callable[[Inside], Awaitable[None]]] = [
    *(opens_sse, opens_ws, navigates, watches, is_refused, leaves_at_once, talks_nonsense, is_told_to_leave),
]


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
@on_both_loops
async def test_nothing_waits_for_the_collector(work: Callable[[Inside], Awaitable[None]], app: str) -> None:
    headcount = make()
    served, wrapped_app = APPS[app](headcount)
    async with running(headcount, served, wrapped_app=wrapped_app) as inside:

        async def twice() -> None:
            for _ in range(2):
                await work(inside)
                await inside.empty()
            # Of the last callbacks, too.
            await asyncio.sleep(0.01)

        await twice()  # what is made once, such as a home, is not what is looked for
        assert await garbage_of(twice) == []


@pytest.mark.parametrize("app", APPS)
@on_both_loops
async def test_of_a_request_that_became_a_stream_only_the_stream_is_left(app: str) -> None:
    gc.collect()
    others = gc.get_objects()  # kept, so that their ids are not used again
    known = set(map(id, others))
    headcount = make()
    served, wrapped_app = APPS[app](headcount)
    async with running(headcount, served, wrapped_app=wrapped_app) as inside:
        gc.disable()
        try:
            peers = [*[await sse(inside) for _ in range(5)], *[await ws(inside) for _ in range(5)]]
            await until(lambda: not inside.state.tasks)
            await asyncio.sleep(0.01)
            alive = [thing for thing in gc.get_objects() if id(thing) not in known]
        finally:
            gc.enable()
        kinds = [type(thing).__name__ for thing in alive]
        assert sum(isinstance(thing, DirectSession) for thing in alive) == 10
        assert not [thing for thing in alive if isinstance(thing, HeadcountProtocol | FirstRequestProtocol)]
        for name in (
            "RequestResponseCycle",
            "ResponseTransport",
            "Handshake",
            "FlowControl",
            "HttpRequestParser",
            "SseSession",
        ):
            assert name not in kinds, name
        host = (b"host", b"shop.example")
        scopes = [
            thing
            for thing in alive
            if type(thing) is dict and type(thing.get("headers")) is list and host in thing["headers"]
        ]
        assert scopes == []
        del alive, others
        for peer in peers:
            peer.fin()
        await inside.empty()


@on_both_loops
async def test_streams_that_stay_on_asgi_are_let_go_of_as_well() -> None:
    headcount = make()
    app = Starlette(routes=[Mount(headcount.base_path, headcount)], middleware=[Middleware(_Relay)])
    async with running(headcount, app) as inside:

        async def work() -> None:
            for _ in range(3):
                peer = await sse(inside)
                await until(lambda: inside.over_asgi == 1)
                peer.fin()
                await inside.empty()
            await asyncio.sleep(0.01)

        await work()
        found = await garbage_of(work, "headcount.asgi.takeover", "uvicorn.")
        assert found == []
