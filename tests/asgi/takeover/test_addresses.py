"""What a hook and the memory of a process know of a visitor's address when uvicorn's sockets are taken over."""

import gc
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from authorization.test_kept_headers import ADDRESS_HEADERS

from .inside import Inside, Peer, make, on_both_loops, post, running, sse, text, until, ws
from .test_references import APPS

ADDRESS = "203.0.113.99"
HEADERS = tuple(f"{name}: {ADDRESS}" for name in ADDRESS_HEADERS)
WAYS = pytest.mark.parametrize("way", sorted(APPS))


def hooked(met: list[Any], **settings: Any) -> Any:
    """Make a Headcount whose hook notes what it learns of the address."""
    headcount = make(**settings)
    headcount._authorizer.hook = None

    @headcount.authorize_stats
    def look(request: HTTPConnection) -> bool:
        named = {name for name, value in request.headers.items() if ADDRESS in value}
        met.append((request.client and request.client.host, bool(named)))
        return True

    return headcount


async def watch(inside: Inside, *headers: str) -> list[Peer]:
    """Watch over a WebSocket, and over an event stream by a POST; ask for the figures once."""
    socket, stream = await ws(inside, "/__skew/ws", *headers), await sse(inside, "/__skew/sse", *headers)
    assert inside.taken == 2
    socket.send(text({"type": "subscribe-stats"}))
    assert (await socket.message())["type"] == "stats"
    body = {"connectionId": stream.handle}  # type: ignore[attr-defined]
    answer = await inside.ask(post("/subscribe-stats", body, *headers))
    assert (await answer.head()).startswith(b"HTTP/1.1 200 ")
    answer.fin()
    assert (await stream.event())["type"] == "stats"
    for subscription in list(inside.headcount.node.viewers.subscriptions.values()):
        await subscription.check()
    return [socket, stream]


@WAYS
@pytest.mark.parametrize(("tracking", "host"), [(False, None), ("anonymized", "203.0.113.0"), (True, ADDRESS)], ids=str)
@on_both_loops
async def test_behind_a_proxy_the_hook_meets_the_visitor_or_nobody_and_never_the_proxy(
    way: str, tracking: bool | str, host: str | None
) -> None:
    met: list[Any] = []
    headcount = hooked(met, ip_tracking=tracking)
    app, wrapped = APPS[way](headcount)
    # uvicorn's default is to believe a proxy on this machine; `headcount serve` has it off.
    async with running(headcount, app, wrapped_app=wrapped, proxy_headers=way != "alone") as inside:
        for peer in await watch(inside, f"X-Forwarded-For: {ADDRESS}"):
            peer.fin()
        if way == "alone":
            host = {None: None, "203.0.113.0": "127.0.0.0", ADDRESS: "127.0.0.1"}[host]
        assert met == [(host, tracking is True)] * 4
        await inside.empty()


@WAYS
@on_both_loops
async def test_without_tracking_the_process_keeps_no_byte_of_an_address(way: str) -> None:
    met: list[Any] = []
    headcount = hooked(met)
    app, wrapped = APPS[way](headcount)
    async with running(headcount, app, wrapped_app=wrapped, proxy_headers=True) as inside:
        page = await ws(inside, "/__skew/ws", *HEADERS)  # one that never watches
        page.fin()
        await inside.empty()
        page = await ws(inside, "/__skew/ws", *HEADERS)
        socket, stream = await ws(inside, "/__skew/ws", *HEADERS), await sse(inside, "/__skew/sse", *HEADERS)
        socket.send(text({"type": "subscribe-stats"}))
        await socket.message()
        body = {"connectionId": stream.handle}  # type: ignore[attr-defined]
        answer = await inside.ask(post("/subscribe-stats", body, "Connection: close", *HEADERS))
        assert (await answer.rest()).startswith(b"HTTP/1.1 200 ")
        answer.fin()
        await until(lambda: not inside.state.tasks, "the server has forgotten the POST")
        assert inside.taken == 3
        assert set(met) == {(None, False)}
        assert _places_of(ADDRESS, headcount.node) == []
        for peer in (page, socket, stream):
            peer.fin()
        await inside.empty()


def test_that_the_search_above_finds_what_is_kept() -> None:
    headcount = make()
    headcount.node.counters[ADDRESS] = 1
    assert _places_of(ADDRESS, headcount.node) == ["defaultdict"]


def _places_of(needle: str, root: object) -> list[str]:
    """Return the kinds of objects that hold a text, among all that the root leads to: sessions, viewers, checks."""
    wanted, seen, found = needle.encode(), set[int](), []
    todo: list[object] = [root]
    while todo:
        thing = todo.pop()
        for other in _referents(thing):
            if isinstance(other, str | bytes | bytearray):
                data = other.encode("utf-8", "replace") if isinstance(other, str) else bytes(other)
                if wanted in data:
                    found.append(type(thing).__name__)
            elif id(other) not in seen and not isinstance(other, type) and type(other).__name__ not in _APART:
                seen.add(id(other))
                todo.append(other)
    return sorted(found)


_APART = ("module", "frame", "function", "builtin_function_or_method", "Server", "Inside", "Config", "dict_keys")
"""Code, and the server, which leads to this test."""


def _referents(thing: object) -> list[object]:
    fields = getattr(thing, "__struct_fields__", None)  # some of msgspec's hide from the collector
    found = gc.get_referents(thing)
    if isinstance(thing, dict):
        found += thing.keys()  # the collector has no use for strings
    if fields is not None and not isinstance(thing, type):
        found += [getattr(thing, name) for name in fields]
    if type(thing).__name__ == "EventLoop" or type(thing).__module__.startswith(("asyncio", "uvloop")):
        return []
    return found
