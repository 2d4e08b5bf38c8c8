"""Who may watch, how much of it, and for how long."""

import asyncio
import contextlib
import functools
import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from headcount import Grant, Headcount
from headcount.authorization.threads import MAX_THREADS
from headcount.node import listing
from headcount.node.node import Node
from headcount.node.viewers import Subscription

from .asgi_client import (
    ADMIN,
    SECRET,
    TRANSPORTS,
    VISITOR,
    WAYS,
    Call,
    Client,
    Clock,
    Site,
    Stream,
    WebSocket,
    admins_only,
    asynchronous,
    problem,
    sorted_connections,
    turn_until,
    turns,
)

both = pytest.mark.parametrize("transport", TRANSPORTS)
every_way = pytest.mark.parametrize("way", WAYS)
in_an_application = pytest.mark.parametrize("way", ["mounted", "wrapped"])

SUBSCRIBE = {"type": "subscribe-stats", "deltas": True}


def due_of(node: Node, subscription: Subscription) -> Any:
    """Return what the push policy knows of a subscription."""
    return node.viewers._policy._subscribers[subscription]


async def denied(client: Client, transport: str) -> Stream:
    """Subscribe in vain."""
    stream: Stream = await client.open(transport)
    await client.say(stream, SUBSCRIBE)
    await stream.next("stats-unauthorized")
    return stream


async def rechecked(site: Site, clock: Clock) -> None:
    """Let a minute pass and wait until the one viewer's right has been asked for again, and given."""
    (subscription,) = site.node.viewers.subscriptions.values()
    last = due_of(site.node, subscription).recheck_at
    clock.advance(60)
    await turn_until(lambda: due_of(site.node, subscription).recheck_at > last)


async def withdrawn(stream: Stream) -> None:
    """Wait until a viewer is told that its right has gone; figures may come before."""
    while (await stream.next())["type"] != "stats-unauthorized":
        pass


async def nothing_follows(site: Site, *streams: Stream) -> None:
    """Change the figures, let those who may watch be told, and see that these streams are not."""
    watcher = await site.admin.open("ws", "?viewer=1")
    site.headcount._authorizer.hook, hook = (lambda _: True), site.headcount._authorizer.hook
    figures = await site.admin.watch(watcher)
    site.headcount._authorizer.hook = hook
    before = figures.now["total"]
    await site.stranger.open("sse")
    await figures.total(before + 1)
    for stream in streams:
        await site.headcount.send(stream.public, {"type": "marker"})
        await stream.next("marker")
        assert stream.received[-2]["type"] == "stats-unauthorized"
    await watcher.leave()


@every_way
@both
@asynchronous
async def test_without_a_hook_nobody_is_authorised(way: str, transport: str) -> None:
    site = Site(way, hook=None)
    stream = await denied(site.admin, transport)
    problem(await site.admin.get("/admin/stats"), 403)
    answer = await site.stranger.get("/admin/connections")
    problem(answer, 401, "Bearer")
    assert (answer.header("www-authenticate") or "").startswith("Bearer")
    assert not stream.done
    assert site.total == 1


@every_way
@both
@asynchronous
async def test_one_hook_serves_post_websocket_and_admin_calls(way: str, transport: str) -> None:
    site = Site(way)
    await site.admin.watch(await site.admin.open(transport))
    await denied(site.visitor, transport)
    await denied(site.stranger, transport)
    for path in ("/admin/stats", "/admin/connections"):
        assert (await site.admin.get(path)).status == 200
        problem(await site.visitor.get(path), 403)
        problem(await site.stranger.get(path), 401)


@every_way
@asynchronous
async def test_hook_meets_the_same_request_on_every_way_in(way: str) -> None:
    seen: list[tuple[object, ...]] = []

    def hook(request: HTTPConnection) -> bool:
        names = sorted(set(request.headers) & {"cookie", "x-tenant", "user-agent", "host", "authorization"})
        session = request.session.get("role") if way != "alone" else None
        seen.append((session, request.cookies["role"], names, request.client, request.headers["x-tenant"]))
        return True

    site = Site(way, hook)
    client = Client(site.app, {**ADMIN, "x-tenant": "7", "user-agent": "Firefox"})
    for transport in TRANSPORTS:
        await client.watch(await client.open(transport))
    await client.get("/admin/stats")
    assert len(seen) == 3
    assert set(map(repr, seen)) == {repr(seen[0])}


async def _async_yes(request: HTTPConnection) -> bool:
    await asyncio.sleep(0)
    return admins_only(request)


def _not_async_itself(request: HTTPConnection) -> Awaitable[bool]:
    return _async_yes(request)


class _Callable:
    async def __call__(self, request: HTTPConnection) -> bool:
        return admins_only(request)


@every_way
@both
@pytest.mark.parametrize(
    "hook",
    [admins_only, _async_yes, _Callable(), functools.partial(_async_yes), _not_async_itself],
    ids=["sync", "async", "callable", "partial", "awaitable"],
)
@asynchronous
async def test_hook_may_be_any_kind_of_function(way: str, transport: str, hook: Any) -> None:
    site = Site(way, hook)
    await site.admin.watch(await site.admin.open(transport))
    await denied(site.visitor, transport)


@asynchronous
async def test_second_hook_is_refused_when_it_is_registered() -> None:
    from headcount import ConfigError

    site = Site()
    with pytest.raises(ConfigError, match="already"):
        site.headcount.authorize_stats(admins_only)


def _raises(_: HTTPConnection) -> bool:
    raise LookupError("no such user")


async def _waits_for_something_cancelled(_: HTTPConnection) -> bool:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future
    return True


@every_way
@both
@pytest.mark.parametrize(
    "hook",
    [
        _raises,
        _waits_for_something_cancelled,
        lambda _: "yes",
        lambda _: 1,
        lambda _: {"ok": True},
        lambda _: Grant,
        lambda _: Grant(expires_in="soon"),  # type: ignore[arg-type]
        lambda _: Grant(expires_in=float("nan")),
        lambda _: Grant(routes="no"),  # type: ignore[arg-type]
        lambda request: request.session["no such key"],
    ],
    ids=["raises", "cancelled", "text", "one", "dict", "class", "text expiry", "nan expiry", "text flag", "KeyError"],
)
@asynchronous
async def test_hook_that_fails_or_answers_nonsense_means_no(way: str, transport: str, hook: Any) -> None:
    site = Site(way, hook)
    stream = await denied(site.admin, transport)
    assert (await site.admin.get("/admin/stats")).status == 403
    failures = site.headcount._authorizer.errors + site.node.counters["authorize_errors"]
    assert failures == 2, "it is counted each time"
    assert not stream.done
    assert not site.node.viewers.subscriptions
    assert not site.node.viewers.pending


@every_way
@both
@asynchronous
async def test_hook_that_hangs_means_no_and_holds_nobody_up(way: str, transport: str) -> None:
    async def hangs(request: HTTPConnection) -> bool:
        if "role=admin" in request.headers.get("cookie", ""):
            return True
        await asyncio.Event().wait()
        return True

    site = Site(way, hangs, authorize_timeout=0.5)
    waiting = await site.visitor.open("ws")
    await site.visitor.say(waiting, SUBSCRIBE)
    await turn_until(lambda: site.node.viewers.pending)
    figures = await site.admin.watch(await site.admin.open(transport))
    waiting.say({"type": "route-update", "route": "/meanwhile"})
    await figures.until(lambda now: "/meanwhile" in now["routes"])
    assert not waiting.unread
    await waiting.next("stats-unauthorized")
    await denied(site.visitor, transport)
    assert site.headcount._authorizer.errors == 2, "it was `authorize_timeout` that ended both"
    assert not site.node.counters["authorize_errors"]


@every_way
@both
@asynchronous
async def test_hook_that_catches_its_cancellation_and_allows_is_too_late(way: str, transport: str) -> None:
    async def stubborn(request: HTTPConnection) -> bool:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return True

    site = Site(way, stubborn, authorize_timeout=0.02)
    await denied(site.visitor, transport)
    # On a busy machine, the time of the whole check may be over before the hook's own, or the same moment.
    assert site.headcount._authorizer.errors + site.headcount.node.counters["authorize_errors"] in {1, 2}


@asynchronous
async def test_check_whose_time_is_over_before_the_hook_begins_is_denied() -> None:
    class Stubborn:
        async def __call__(self) -> Grant | None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return Grant()

        def describe(self) -> None:
            return None

        def contains(self, nonce: bytes) -> bool:
            return False

        def visitor(self) -> tuple[bytes, str]:
            return b"", ""

        def question(self) -> None:
            return None

    site = Site(authorize_timeout=0.01)
    assert await site.node.check_runner.run(Stubborn()) is None


@asynchronous
async def test_hook_that_blocks_the_event_loop_past_its_time_and_allows_is_too_late() -> None:
    async def blocking(request: HTTPConnection) -> bool:
        time.sleep(0.05)
        return True

    site = Site(hook=blocking, authorize_timeout=0.02)
    await denied(site.visitor, "sse")
    assert site.headcount._authorizer.errors == 1


@every_way
@asynchronous
async def test_synchronous_hook_that_hangs_holds_nobody_up(way: str) -> None:
    release = threading.Event()

    def hangs(request: HTTPConnection) -> bool:
        if "role=admin" not in request.headers.get("cookie", ""):
            release.wait(20)
        return True

    site = Site(way, hangs, authorize_timeout=0.5)
    try:
        waiting = await site.visitor.open("ws")
        waiting.say(SUBSCRIBE)
        await turn_until(lambda: site.node.viewers.pending)
        await site.admin.watch(await site.admin.open("sse"))
        await waiting.next("stats-unauthorized")
    finally:
        release.set()


@asynchronous
async def test_synchronous_hooks_that_hang_leave_the_application_its_threads_and_make_no_more() -> None:
    release = threading.Event()

    def hangs(request: HTTPConnection) -> bool:
        if "role=admin" in request.headers.get("cookie", ""):
            return True
        return release.wait(30)

    site = Site("mounted", hangs, authorize_timeout=0.5)

    @site.framework.get("/synchronous")
    def synchronous() -> str:
        return threading.current_thread().name

    before = threading.active_count()
    try:
        strangers = [await site.stranger.open("ws") for _ in range(60)]
        for _ in range(2):
            for stranger in strangers:
                stranger.say(SUBSCRIBE)
            await turn_until(lambda: len(site.node.viewers.pending) == 60)
            assert (await Client(site.app, base="").get("/synchronous")).status == 200
            assert site.node.viewers.pending, "the answer came while they were being asked for"
            for stranger in strangers:
                await stranger.next("stats-unauthorized")
        assert threading.active_count() - before <= MAX_THREADS + 2, "what hangs has not been given up for done"
        assert site.headcount._authorizer.threads.running == MAX_THREADS
    finally:
        release.set()
    await turn_until(lambda: site.headcount._authorizer.threads.running == 0)
    await site.admin.watch(await site.admin.open("ws"))


@asynchronous
async def test_whoever_finds_no_thread_free_waits_for_one() -> None:
    """A crowd of viewers that comes back after a deploy is not turned away."""
    running = [0, 0]
    lock = threading.Lock()

    def hook(_: HTTPConnection) -> bool:
        with lock:
            running[0] += 1
            running[1] = max(running)
        time.sleep(0.005)
        with lock:
            running[0] -= 1
        return True

    site = Site("alone", hook)
    viewers = [await site.admin.open("ws") for _ in range(4 * MAX_THREADS)]
    for viewer in viewers:
        viewer.say(SUBSCRIBE)
    for viewer in viewers:
        await viewer.next("stats")
    assert running[1] <= MAX_THREADS


class _ByHeader(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        if "role=admin" not in conn.headers.get("cookie", ""):
            return None
        return AuthCredentials(["authenticated", "admin"]), SimpleUser("ada")


@in_an_application
@both
@asynchronous
async def test_user_of_the_authentication_middleware_is_there(way: str, transport: str) -> None:
    def hook(request: HTTPConnection) -> bool:
        return request.user.is_authenticated and "admin" in request.auth.scopes

    site = Site(way, hook, middleware=[Middleware(AuthenticationMiddleware, backend=_ByHeader())])
    await site.admin.watch(await site.admin.open(transport))
    await denied(site.visitor, transport)
    assert (await site.admin.get("/admin/stats")).status == 200


CallNext = Callable[[Request], Awaitable[Response]]


async def user_in_state(request: Request, call_next: CallNext) -> Response:
    """Do what many applications do: find out who it is, in `@app.middleware("http")`."""
    request.state.user = request.session.get("role")
    return await call_next(request)


@in_an_application
@both
@asynchronous
async def test_user_that_http_middleware_puts_into_the_state_is_there(way: str, transport: str) -> None:
    site = Site(way, lambda request: request.state.user == "admin", middleware=[user_in_state])
    await site.admin.watch(await site.admin.open(transport))
    await denied(site.visitor, transport)
    assert (await site.admin.get("/admin/stats")).status == 200


@in_an_application
@both
@asynchronous
async def test_state_of_the_lifespan_is_there_and_that_of_a_visitor_is_not_kept(
    way: str, transport: str, quick_ticks: None
) -> None:
    sessions = {"s1": {"role": "admin"}}

    async def only_if_signed_in(request: Request, call_next: CallNext) -> Response:
        session = request.state.sessions.get(request.cookies.get("sid"))
        if session is not None:
            request.state.user = session
        return await call_next(request)

    def hook(request: HTTPConnection) -> bool:
        user = getattr(request.state, "user", None)
        return request.state.sessions is sessions and user is not None and user["role"] == "admin"

    clock = Clock()
    site = Site(way, hook, middleware=[only_if_signed_in], clock=clock)
    client = Client(site.app, {"cookie": "sid=s1"}, state={"sessions": sessions})
    viewer = await client.open(transport)
    await client.watch(viewer)
    await rechecked(site, clock)
    assert not viewer.unread
    assert (await client.get("/admin/stats")).status == 200
    del sessions["s1"]
    clock.advance(60)
    await viewer.next("stats-unauthorized")


@in_an_application
@both
@pytest.mark.parametrize("refusal", [401, 403, "redirect", "error"])
@asynchronous
async def test_visitor_whom_the_application_refuses_is_denied(way: str, transport: str, refusal: object) -> None:
    async def refuse(request: Request, call_next: CallNext) -> Response:
        if request.url.path.endswith("/sse"):
            return await call_next(request)  # so that there is a stream to subscribe with
        if refusal == "redirect":
            return RedirectResponse("/log-in")
        if refusal == "error":
            raise RuntimeError("the user database is away")
        assert isinstance(refusal, int)
        return JSONResponse({"detail": "go away"}, refusal)

    site = Site(way, lambda _: True, middleware=[refuse])
    stream = await site.admin.open(transport)
    if transport == "ws" or way == "wrapped":
        await site.admin.say(stream, SUBSCRIBE)
        await stream.next("stats-unauthorized")
    elif refusal != "error":
        answer = await site.admin.post("/subscribe-stats", {"connectionId": stream.handle})
        assert answer.status == {"redirect": 307}.get(str(refusal), refusal)
    await turns()
    assert not site.node.viewers.subscriptions
    if way == "wrapped":
        problem(await site.admin.get("/admin/stats"), 403)


@pytest.mark.parametrize("status", [200, 400, 404, 429])
@asynchronous
async def test_whatever_the_application_answers_in_our_place_is_a_no(status: int) -> None:
    async def gate(request: Request, call_next: CallNext) -> Response:
        if request.url.path.endswith("/sse"):
            return await call_next(request)
        return HTMLResponse("<h1>Please sign in</h1>", status)

    site = Site("mounted", lambda _: True, middleware=[gate])
    await denied(site.admin, "ws")


@in_an_application
@both
@asynchronous
async def test_application_that_answers_every_path_does_not_get_in_the_way(way: str, transport: str) -> None:
    site = Site(way)

    @site.framework.get("/{path:path}")
    async def page(path: str) -> HTMLResponse:
        return HTMLResponse(f"<h1>{path}</h1>")

    await site.admin.watch(await site.admin.open(transport))
    await denied(site.visitor, transport)


@in_an_application
@asynchronous
async def test_middleware_that_hangs_means_no(way: str) -> None:
    async def hangs(request: Request, call_next: CallNext) -> Response:
        if request.url.path.endswith("/authorize"):
            await asyncio.Event().wait()
        return await call_next(request)

    site = Site(way, middleware=[hangs], authorize_timeout=0.02)
    await denied(site.admin, "ws")
    if way == "wrapped":
        problem(await site.admin.get("/admin/stats"), 403)


@pytest.mark.parametrize("base", ["/__skew", "/a/b/__skew", "/"])
@both
@asynchronous
async def test_mounted_below_a_prefix_of_a_proxy_the_session_is_found(base: str, transport: str) -> None:
    """uvicorn's --root-path: `path` begins with the prefix, and `root_path` is it."""

    class Prefixed(Client):
        def scope(self, method: str, target: str, headers: Any = None) -> Scope:
            scope = super().scope(method, target, headers)
            return {**scope, "root_path": "/proxy", "path": "/proxy" + scope["path"]}

    headcount = Headcount(version="v1", base_path=base if base != "/" else "/__skew")
    headcount.authorize_stats(admins_only)
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key=SECRET)
    app.mount(base, headcount)
    client = Prefixed(app, ADMIN, base=base.rstrip("/"))
    await client.watch(await client.open(transport))
    visitor = Prefixed(app, VISITOR, base=base.rstrip("/"))
    await denied(visitor, transport)


@both
@asynchronous
async def test_in_an_application_mounted_in_another_its_own_sessions_decide(transport: str, quick_ticks: None) -> None:
    clock = Clock()
    headcount = Headcount(version="v1")
    headcount.authorize_stats(admins_only)
    headcount.node.clock = clock
    shop = FastAPI()
    shop.add_middleware(SessionMiddleware, secret_key=SECRET)
    shop.mount(headcount.base_path, headcount)
    outer = FastAPI()
    outer.mount("/shop", shop)
    client = Client(outer, ADMIN, base="/shop/__skew")
    viewer = await client.open(transport)
    await client.watch(viewer)
    await denied(Client(outer, VISITOR, base="/shop/__skew"), transport)
    (subscription,) = headcount.node.viewers.subscriptions.values()
    asked = due_of(headcount.node, subscription).recheck_at
    clock.advance(60)
    await turn_until(lambda: due_of(headcount.node, subscription).recheck_at > asked)
    assert headcount.node.viewers.subscriptions, "asked again, the inner application was found again"


async def by_header(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    request.state.user = "admin" if "role=admin" in request.headers.get("cookie", "") else None
    return await call_next(request)


def _further_out(case: str, headcount: Headcount) -> tuple[ASGIApp, str]:
    """Make an application whose sessions are further out than what Headcount is mounted in; and where that is."""
    inner, outer = FastAPI(), FastAPI()
    inner.mount(headcount.base_path, headcount)
    if case == "middleware round the whole":
        return SessionMiddleware(inner, secret_key=SECRET), ""
    outer.mount("/api", inner)
    if case == "state of the outer application":
        outer.middleware("http")(by_header)
    else:
        outer.add_middleware(SessionMiddleware, secret_key=SECRET)
    return outer, "/api"


@pytest.mark.parametrize(
    "case", ["sessions of the outer application", "state of the outer application", "middleware round the whole"]
)
@asynchronous
async def test_where_sessions_are_out_of_reach_all_are_denied_alike_and_the_log_says_what_to_do(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one way in let in and thrown out with the next re-check, and another never let in."""
    headcount = Headcount(version="v1")

    @headcount.authorize_stats
    def hook(request: HTTPConnection) -> bool:
        user = request.state.user if case.startswith("state") else request.session.get("role")
        return bool(user == "admin")

    app, prefix = _further_out(case, headcount)
    client = Client(app, ADMIN, base=f"{prefix}/__skew")
    for transport in [*TRANSPORTS, *TRANSPORTS]:
        await denied(client, transport)
    problem(await client.get("/admin/stats"), 403)
    if not case.startswith("state"):
        (record,) = caplog.records
        assert "session" in record.getMessage()
        assert "headcount.wrap(" in record.getMessage()
    # And what it says helps.
    wrapped = Client(headcount.wrap(app), ADMIN)
    for transport in TRANSPORTS:
        await wrapped.watch(await wrapped.open(transport))
    await denied(Client(headcount.wrap(app), VISITOR), "sse")


@in_an_application
@both
@asynchronous
async def test_what_middleware_adds_to_the_headers_does_not_grow_with_each_time_of_asking(
    way: str, transport: str, quick_ticks: None
) -> None:
    clock = Clock()
    seen: list[list[str]] = []

    class Stamp:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                scope["headers"].append((b"x-user", b"ada"))
            await self._app(scope, receive, send)

    def hook(request: HTTPConnection) -> bool:
        seen.append(request.headers.getlist("x-user"))
        return True

    site = Site(way, hook, clock=clock)
    site.framework.add_middleware(Stamp)  # outermost, because Starlette's `Headers` copies the list
    await site.admin.watch(await site.admin.open(transport))
    await rechecked(site, clock)
    await rechecked(site, clock)
    assert seen[1]
    assert seen[1] == seen[2]


ROW = {"version", "route", "id"}


@every_way
@both
@pytest.mark.parametrize("deltas", [True, False])
@pytest.mark.parametrize("hidden", ["routes", "connections", "ips"])
@asynchronous
async def test_grant_hides_what_it_does_not_include(way: str, transport: str, deltas: bool, hidden: str) -> None:
    site = Site(way, lambda _: Grant(**{hidden: False}), ip_tracking=True, stats_interval=0.001)
    await site.stranger.open("ws", "?route=/first")
    viewer = await site.admin.open(transport, "?viewer=1")
    figures = await site.admin.watch(viewer, deltas=deltas)
    page = await site.stranger.open("sse", "?route=/second")
    await figures.total(2)
    await site.stranger.navigate(page, "/third")
    await figures.until(lambda now: now["revision"] == site.node.figures.stats().revision)
    assert figures.now["total"] == 2
    assert figures.now["versions"] == {"unknown": 2}
    assert figures.now["routes"] == ({} if hidden == "routes" else {"/first": 1, "/third": 1})
    rows = figures.now["connections"]
    assert len(rows) == (0 if hidden == "connections" else 2)
    assert all(set(row) == (ROW if hidden == "ips" else ROW | {"ip"}) for row in rows)
    told = json.dumps(viewer.received)
    assert ("192.0.2" in told) == (hidden == "routes")
    if hidden == "connections":
        assert page.public not in told

    shown = await site.admin.get("/admin/stats")
    assert shown.json == figures.now
    rows = await site.admin.get("/admin/connections")
    if hidden == "connections":
        problem(rows, 403, "connections")
    else:
        assert ("192.0.2" in rows.body.decode()) == (hidden == "routes")
        assert len(rows.json["connections"]) == 2


@both
@asynchronous
async def test_viewers_with_different_grants_each_see_their_own(transport: str) -> None:
    grants = {"admin": Grant(), "customer": Grant(connections=False, routes=False)}

    def hook(request: HTTPConnection) -> Grant:
        return grants[str(request.session["role"])]

    site = Site(hook=hook, ip_tracking=True, stats_interval=0.001)
    full = await site.admin.watch(await site.admin.open(transport))
    narrow = await site.visitor.watch(await site.visitor.open(transport))
    await site.stranger.open("ws", "?route=/new")
    for figures in (full, narrow):
        await figures.total(3)
    assert full.now["routes"]["/new"] == 1
    assert len(full.now["connections"]) == 3
    assert "192.0.2" in json.dumps(full.stream.received)
    assert (narrow.now["routes"], narrow.now["connections"]) == ({}, [])
    assert "192.0.2" not in json.dumps(narrow.stream.received)
    assert "/new" not in json.dumps(narrow.stream.received)


@every_way
@both
@asynchronous
async def test_grant_ends_by_itself(way: str, transport: str, quick_ticks: None) -> None:
    clock = Clock()
    site = Site(way, lambda _: Grant(expires_in=90), clock=clock)
    viewer = await site.admin.open(transport)
    await site.admin.watch(viewer)
    await rechecked(site, clock)
    assert not viewer.unread, "asked again it was still good"
    clock.advance(31)
    await viewer.next("stats-unauthorized")
    await nothing_follows(site, viewer)


@every_way
@both
@pytest.mark.parametrize("deltas", [True, False])
@asynchronous
async def test_grant_without_routes_shows_none_anywhere(way: str, transport: str, deltas: bool) -> None:
    site = Site(way, lambda _: Grant(routes=False), stats_interval=0.001)
    await site.stranger.open("ws", "?route=/secret/first")
    viewer = await site.admin.open(transport, "?viewer=1")
    figures = await site.admin.watch(viewer, deltas=deltas)
    page = await site.stranger.open("sse", "?route=/secret/second")
    await figures.total(2)
    await figures.until(lambda now: now["revision"] == site.node.figures.stats().revision)
    told = len(viewer.received)
    await site.stranger.navigate(page, "/secret/third")
    await figures.until(lambda now: now["revision"] == site.node.figures.stats().revision)
    assert len(viewer.received) > told
    if deltas:
        assert page.public not in json.dumps(viewer.received[told:]), "nor that this page has navigated"
    stats, rows = await site.admin.get("/admin/stats"), await site.admin.get("/admin/connections")
    assert "secret" not in json.dumps([viewer.received, stats.json, rows.json])
    for shown in (figures.now, stats.json, rows.json):
        assert [row["route"] for row in shown["connections"]] == ["/", "/"]
    problem(await site.admin.get("/admin/connections?route=/secret/first"), 403, "routes=True")
    problem(await site.admin.get("/admin/connections?route=/never"), 403, "routes=True")


@every_way
@pytest.mark.parametrize("seconds", [0, -5, float("-inf")])
@asynchronous
async def test_grant_that_has_ended_already_is_a_no(way: str, seconds: float) -> None:
    site = Site(way, lambda _: Grant(expires_in=seconds))
    for transport in TRANSPORTS:
        stream = await denied(site.admin, transport)
        assert [message["type"] for message in stream.received] == ["connected", "stats-unauthorized"]
    problem(await site.admin.get("/admin/stats"), 403)


@both
@pytest.mark.parametrize("deltas", [True, False])
@asynchronous
async def test_no_push_comes_after_a_grant_has_ended_though_no_tick_has_seen_it(transport: str, deltas: bool) -> None:
    clock = Clock()
    site = Site(hook=lambda _: Grant(expires_in=3), clock=clock)
    viewer = await site.admin.open(transport)
    await site.admin.watch(viewer, deltas=deltas)
    clock.advance(3)
    await site.stranger.open("ws")
    await viewer.next("stats-unauthorized")
    await nothing_follows(site, viewer)


@both
@asynchronous
async def test_no_figures_are_caught_up_with_after_a_grant_has_ended(transport: str) -> None:
    clock = Clock()
    site = Site(hook=lambda _: Grant(expires_in=3), clock=clock)
    viewer = await site.admin.open(transport)
    await site.admin.watch(viewer)
    viewer.block()
    await site.stranger.open("ws")
    await turn_until(lambda: viewer.attempts > len(viewer.sent))
    await site.stranger.open("ws")
    await turn_until(lambda: site.node.counters["conflated"])
    clock.advance(3)
    viewer.unblock()
    await viewer.next("stats-delta")
    await viewer.next("stats-unauthorized")
    assert not site.node.viewers.subscriptions


@both
@asynchronous
async def test_grant_that_is_renewed_with_another_time_is_prolonged(transport: str, quick_ticks: None) -> None:
    clock = Clock()
    ends = [clock.now + 90]
    site = Site(hook=lambda _: Grant(expires_in=ends[0] - clock.now), clock=clock)
    viewer = await site.admin.open(transport)
    await site.admin.watch(viewer)
    ends[0] += 1000
    await rechecked(site, clock)
    await rechecked(site, clock)
    assert site.node.viewers.subscriptions


@both
@asynchronous
async def test_grant_that_is_narrowed_shows_no_more_from_then_on(transport: str, quick_ticks: None) -> None:
    clock = Clock()
    grant = [Grant()]
    site = Site(hook=lambda _: grant[0], clock=clock, ip_tracking=True)
    viewer = await site.admin.open(transport)
    figures = await site.admin.watch(viewer)
    grant[0] = Grant(ips=False, routes=False)
    clock.advance(60)
    await figures.step("stats")
    assert figures.now["routes"] == {}
    await site.stranger.open("ws")
    await figures.total(2)
    assert "192.0.2" not in json.dumps(viewer.received[2:])
    grant[0] = Grant()
    clock.advance(60)
    await figures.step("stats")
    assert figures.now["connections"][0]["ip"] == "192.0.2.7"


@every_way
@both
@asynchronous
async def test_right_is_withdrawn_after_a_log_out_and_nothing_follows(
    way: str, transport: str, quick_ticks: None
) -> None:
    clock = Clock()
    sessions = {"s1": "admin"}
    asked: list[float] = []

    def hook(request: HTTPConnection) -> bool:
        asked.append(clock.now)
        return sessions.get(request.cookies.get("sid", "")) == "admin"

    site = Site(way, hook, clock=clock)
    client = Client(site.app, {"cookie": "sid=s1"})
    viewer = await client.open(transport)
    await client.watch(viewer)
    assert site.headcount.config.reauthorize_interval == 60
    del asked[:]
    await rechecked(site, clock)
    assert len(asked) == 1
    assert not viewer.unread
    del sessions["s1"]
    clock.advance(60)
    await viewer.next("stats-unauthorized")
    assert site.node.counters["withdrawn"] == 1
    await nothing_follows(site, viewer)
    assert not viewer.done, "it is still a page"


@both
@asynchronous
async def test_right_is_withdrawn_when_the_hook_fails_or_hangs(transport: str, quick_ticks: None) -> None:
    clock = Clock()
    mood: list[str] = []

    async def hook(_: HTTPConnection) -> bool:
        if mood == ["hangs"]:
            await asyncio.Event().wait()
        if mood == ["raises"]:
            raise LookupError
        return True

    site = Site(hook=hook, clock=clock, authorize_timeout=0.2)
    for how in ("hangs", "raises"):
        mood.clear()
        viewer = await site.admin.open(transport)
        await site.admin.watch(viewer)
        mood[:] = [how]
        clock.advance(60)
        await withdrawn(viewer)


@both
@asynchronous
async def test_right_is_asked_for_again_when_asking_was_broken_off(transport: str, quick_ticks: None) -> None:
    """A re-check that ends without an answer must not be the last one."""
    clock = Clock()
    asked = 0

    async def hook(_: HTTPConnection) -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        return asked < 3

    site = Site("alone", hook, clock=clock)
    viewer = await site.admin.open(transport)
    await site.admin.watch(viewer)
    clock.advance(60)
    await withdrawn(viewer)
    assert asked == 3


@both
@pytest.mark.parametrize("verdict", [True, False])
@asynchronous
async def test_while_a_recheck_hangs_no_figures_come_later_than_the_interval(
    transport: str, verdict: bool, quick_ticks: None
) -> None:
    clock = Clock()
    release: list[asyncio.Event] = []

    async def hook(_: HTTPConnection) -> bool:
        if release:
            await release[0].wait()
            return verdict
        return True

    site = Site(hook=hook, clock=clock)
    viewer = await site.admin.open(transport)
    figures = await site.admin.watch(viewer)
    (subscription,) = site.node.viewers.subscriptions.values()
    release.append(asyncio.Event())
    clock.advance(59)
    await turn_until(lambda: due_of(site.node, subscription).rechecking)
    await site.stranger.open("ws")
    await figures.total(2)
    clock.advance(1)
    await site.stranger.open("ws")
    await turn_until(lambda: site.node.counters["withheld"])
    assert not viewer.unread
    release[0].set()
    if verdict:
        await figures.step("stats")
        assert figures.now["total"] == 3
    else:
        await viewer.next("stats-unauthorized")


@both
@asynchronous
async def test_rights_are_asked_for_one_at_a_time_and_not_all_in_one_moment(transport: str, quick_ticks: None) -> None:
    clock = Clock()
    running = [0]
    release = asyncio.Event()
    release.set()

    async def hook(_: HTTPConnection) -> bool:
        running[0] += 1
        await release.wait()
        running[0] -= 1
        return True

    site = Site(hook=hook, clock=clock)
    for _ in range(20):
        await site.admin.watch(await site.admin.open(transport, "?viewer=1"))
    due = [due_of(site.node, each).recheck_at - clock.now for each in site.node.viewers.subscriptions.values()]
    assert all(40 <= seconds <= 59 for seconds in due)
    assert max(due) - min(due) > 1
    release.clear()
    clock.advance(60)
    await turn_until(lambda: running[0] == 20)
    clock.advance(600)
    (ticking,) = site.node.timers.by_loop.values()
    for _ in range(3):
        hand = ticking._hand
        await turn_until(lambda: ticking._hand != hand)  # noqa: B023  it is called in this round
    await turns()
    assert running[0] == 20, "while one answer is due, no second is asked for"
    release.set()
    await turn_until(lambda: running[0] == 0)


@every_way
@both
@pytest.mark.parametrize("by", ["public", "handle"])
@asynchronous
async def test_revoked_viewer_is_told_and_gets_nothing_more(way: str, transport: str, by: str) -> None:
    site = Site(way)
    viewer = await site.admin.open(transport)
    await site.admin.watch(viewer)
    assert await site.headcount.revoke(getattr(viewer, by)) is True
    await viewer.next("stats-unauthorized")
    assert await site.headcount.revoke(getattr(viewer, by)) is False
    await nothing_follows(site, viewer)
    # It may ask again: to deny it is the hook's part.
    await site.admin.watch(viewer)


@asynchronous
async def test_revoking_nobody_does_nothing() -> None:
    site = Site()
    page = await site.stranger.open("ws")
    viewer = await site.admin.open("ws")
    await site.admin.watch(viewer)
    for nobody in (page.public, page.handle, "", "x", viewer.public + ".forged", "é" * 500):
        assert await site.headcount.revoke(nobody) is False
    await turns()
    assert not page.unread
    assert not viewer.unread


@both
@asynchronous
async def test_viewers_own_stream_is_closed_some_time_after_its_right_has_gone(
    transport: str, quick_ticks: None
) -> None:
    clock = Clock()
    site = Site(clock=clock)
    viewer = await site.admin.open(transport, "?viewer=1")
    await site.admin.watch(viewer)
    await site.headcount.revoke(viewer.public)
    await viewer.next("stats-unauthorized")
    clock.advance(10.1)
    await viewer.ended()


class Desk:
    """A hook that answers when the test says so."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, asyncio.Future[bool | Grant]]] = []

    async def __call__(self, request: HTTPConnection) -> bool | Grant:
        future: asyncio.Future[bool | Grant] = asyncio.get_running_loop().create_future()
        self.questions.append((request.headers.get("x-who", ""), future))
        return await future

    async def asked(self, count: int) -> None:
        """Wait for the question number `count`."""
        await turn_until(lambda: len(self.questions) >= count)

    def answer(self, index: int, verdict: bool | Grant) -> None:
        """Answer a question."""
        self.questions[index][1].set_result(verdict)


def begin_post(client: Client, path: str, body: dict[str, Any], headers: dict[str, str]) -> Call:
    """Send a POST whose answer is not waited for."""
    call = Call(client.app, client.scope("POST", client.base + path, headers))
    call.put({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
    return call.start()


@every_way
@asynchronous
async def test_of_two_requests_at_once_the_newest_decides(way: str) -> None:
    """Somebody signs in while the question of the page that was not signed in is still open; and the reverse."""
    for first, second in ((False, True), (True, False)):
        desk = Desk()
        site = Site(way, desk)
        stream = await site.stranger.open("sse")
        calls = []
        for who in ("first", "second"):
            body = {"connectionId": stream.handle, "deltas": True}
            calls.append(begin_post(site.stranger, "/subscribe-stats", body, {"x-who": who}))
            await desk.asked(1)
        await calls[1].ended()
        desk.answer(0, first)
        await desk.asked(2)
        assert not stream.unread, "nobody waits for the first verdict any more"
        desk.answer(1, second)
        await calls[0].ended()
        await stream.next("stats" if second else "stats-unauthorized")
        assert [who for who, _ in desk.questions] == ["first", "second"]
        assert not site.node.viewers.pending
        assert bool(site.node.viewers.subscriptions) is second


@every_way
@asynchronous
async def test_flood_of_subscriptions_asks_the_hook_one_at_a_time(way: str) -> None:
    desk, clock = Desk(), Clock()
    site = Site(way, desk, clock=clock, max_messages_per_second=1_000)
    socket = await site.stranger.open("ws")
    for verdict in (False, True):
        clock.advance(10)
        asked = len(desk.questions)
        socket.say(SUBSCRIBE)
        await desk.asked(asked + 1)
        for _ in range(200):
            socket.say(SUBSCRIBE)
        await turn_until(lambda: socket.caught_up)
        await turns(50)
        assert len(desk.questions) == asked + 1
        desk.answer(asked, verdict)
        if not verdict:
            await turns(50)
            assert len(desk.questions) == asked + 1, "the next check waits for a second"
            assert not socket.unread
            await desk.asked(asked + 2)
            desk.answer(asked + 1, verdict)
        await socket.next("stats" if verdict else "stats-unauthorized")
        await turns(50)
        assert len(desk.questions) == asked + 2 - verdict, "the newest of them is decided, and the rest with it"
        assert not socket.unread
        assert not site.node.viewers.pending


@every_way
@asynchronous
async def test_one_stream_has_its_right_checked_at_most_once_a_second(way: str) -> None:
    clock = Clock()
    checks: list[float] = []

    def hook(request: HTTPConnection) -> bool:
        checks.append(clock.now)
        return "role=admin" in request.headers.get("cookie", "")

    site = Site(way, hook, clock=clock)
    for visitor, kind in ((site.stranger, "stats-unauthorized"), (site.admin, "stats")):
        socket = await visitor.open("ws")
        checks.clear()
        began = clock.now
        while clock.now < began + 10:
            socket.say(SUBSCRIBE)
            await turns(30)
            clock.advance(0.2)
        await turn_until(lambda: not site.node.viewers.pending)
        await socket.next(kind)
        assert 1 <= len(checks) <= 11, checks
        await socket.leave()


@asynchronous
async def test_a_verdict_that_is_used_again_is_checked_again_after_a_second_and_never_after_it_was_withdrawn() -> None:
    clock = Clock()
    allowed = [True]
    checks: list[float] = []

    def hook(_: HTTPConnection) -> bool:
        checks.append(clock.now)
        return allowed[0]

    site = Site(hook=hook, clock=clock)
    socket = await site.admin.open("ws")
    socket.say(SUBSCRIBE)
    await socket.next("stats")
    allowed[0] = False
    socket.say({"type": "unsubscribe-stats"})
    socket.say(SUBSCRIBE)
    await socket.next("stats")
    assert len(checks) == 1, "the same question in the same second"
    clock.advance(1.1)
    site.node.viewers.recheck(asyncio.get_running_loop(), clock.now)
    await socket.next("stats-unauthorized")
    assert len(checks) == 2
    clock.advance(10)
    allowed[0] = True
    socket.say(SUBSCRIBE)
    await socket.next("stats")
    allowed[0] = False
    assert await site.headcount.revoke(socket.public)
    await socket.next("stats-unauthorized")
    socket.say(SUBSCRIBE)
    await socket.next("stats-unauthorized")
    assert len(checks) == 4, "the verdict from before the withdrawal is void"


@both
@asynchronous
async def test_verdict_for_somebody_who_unsubscribed_meanwhile_changes_nothing(transport: str) -> None:
    desk = Desk()
    site = Site(hook=desk)
    stream: Stream = await site.stranger.open(transport)
    body = {"connectionId": stream.handle}
    if isinstance(stream, WebSocket):
        stream.say(SUBSCRIBE)
    else:
        begin_post(site.stranger, "/subscribe-stats", body, {})
    await desk.asked(1)
    await site.stranger.say(stream, {"type": "unsubscribe-stats"})
    desk.answer(0, True)
    await turn_until(lambda: not site.node.viewers.pending)
    assert not site.node.viewers.subscriptions
    assert not stream.unread


@both
@asynchronous
async def test_verdict_for_somebody_who_was_revoked_meanwhile_is_no(transport: str) -> None:
    desk = Desk()
    site = Site(hook=desk)
    stream: Stream = await site.stranger.open(transport)
    if isinstance(stream, WebSocket):
        stream.say(SUBSCRIBE)
    else:
        begin_post(site.stranger, "/subscribe-stats", {"connectionId": stream.handle}, {})
    await desk.asked(1)
    assert await site.headcount.revoke(stream.public) is True
    await stream.next("stats-unauthorized")
    desk.answer(0, True)
    await turn_until(lambda: not site.node.viewers.pending)
    assert not site.node.viewers.subscriptions
    assert not stream.unread


@every_way
@both
@asynchronous
async def test_verdict_for_somebody_who_left_meanwhile_changes_nothing(way: str, transport: str) -> None:
    desk = Desk()
    site = Site(way, desk)
    stream: Stream = await site.stranger.open(transport)
    call: Call | None = None
    if isinstance(stream, WebSocket):
        stream.say(SUBSCRIBE)
    else:
        call = begin_post(site.stranger, "/subscribe-stats", {"connectionId": stream.handle}, {})
    await desk.asked(1)
    await stream.leave()
    if call is not None:
        desk.answer(0, True)
        await call.ended()
    await turn_until(lambda: not site.node.viewers.pending)
    assert not site.node.viewers.subscriptions
    assert not site.node.sessions


@asynchronous
async def test_request_that_is_broken_off_leaves_the_next_one_a_verdict() -> None:
    desk = Desk()
    site = Site("alone", desk)
    stream = await site.stranger.open("sse")
    body = {"connectionId": stream.handle}
    first = begin_post(site.stranger, "/subscribe-stats", body, {})
    await desk.asked(1)
    second = begin_post(site.stranger, "/subscribe-stats", body, {})
    await second.ended()
    assert first.task is not None
    first.task.cancel()
    await stream.next("stats-unauthorized")
    assert not site.node.viewers.pending
    third = begin_post(site.stranger, "/subscribe-stats", body, {})
    await desk.asked(2)
    desk.answer(1, True)
    await third.ended()
    await stream.next("stats")


@asynchronous
async def test_right_is_not_lost_by_asking_again_while_it_is_rechecked(quick_ticks: None) -> None:
    clock = Clock()
    desk = Desk()
    site = Site("alone", desk, clock=clock)
    socket = await site.stranger.open("ws")
    socket.say(SUBSCRIBE)
    await desk.asked(1)
    desk.answer(0, True)
    await socket.next("stats")
    clock.advance(60)
    await desk.asked(2)  # the re-check
    socket.say(SUBSCRIBE)
    await desk.asked(3)
    desk.answer(2, True)
    await socket.next("stats")
    desk.answer(1, False)  # of the subscription before
    await turns(50)
    assert not socket.unread
    assert len(site.node.viewers.subscriptions) == 1


TOKEN = {"authorization": "Bearer correct-horse-battery-staple"}


@every_way
@both
@asynchronous
async def test_bearer_token_authorises_without_a_hook(way: str, transport: str) -> None:
    site = Site(way, hook=None, admin_token="correct-horse-battery-staple")
    client = Client(site.app, TOKEN)
    await client.watch(await client.open(transport))
    assert (await client.get("/admin/stats")).status == 200
    assert (
        await site.stranger.get("/admin/stats", {"authorization": "bearer  correct-horse-battery-staple "})
    ).status == 200
    for wrong in (
        "Bearer correct-horse-battery-stapl",
        "Bearer correct-horse-battery-staple2",
        "Bearer",
        "Basic correct-horse-battery-staple",
        "correct-horse-battery-staple",
        "",
    ):
        problem(await site.stranger.get("/admin/stats", {"authorization": wrong}), 401)
    for around in (" correct-horse-battery-staple", "correct-horse-battery-staple \t"):
        assert (await site.stranger.get("/admin/stats", {"authorization": f"Bearer {around}"})).status == 200
    for other in ("correct-horse-battery-staple\u00a0", "\u0085correct-horse-battery-staple"):
        problem(await site.stranger.get("/admin/stats", {"authorization": f"Bearer {other}"}), 401)
    problem(await site.stranger.get("/admin/stats?token=correct-horse-battery-staple"), 401)
    await denied(site.admin, transport)


@asynchronous
async def test_token_and_hook_each_authorise_and_a_wrong_token_leaves_it_to_the_hook() -> None:
    site = Site(admin_token="schlüssel zum schloss")
    utf8 = {"authorization": "Bearer " + "schlüssel zum schloss".encode().decode("latin-1")}
    assert (await site.stranger.get("/admin/stats", utf8)).status == 200
    assert (await site.admin.get("/admin/stats", {"authorization": "Bearer wrong"})).status == 200
    problem(await site.visitor.get("/admin/stats", {"authorization": "Bearer wrong"}), 401)


@every_way
@asynchronous
async def test_strangers_request_to_the_inner_path_is_nothing_and_decides_nothing(way: str) -> None:
    asked: list[HTTPConnection] = []

    def hook(request: HTTPConnection) -> bool:
        asked.append(request)
        return True

    site = Site(way, hook)
    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        answer = await site.admin.request(method, "/authorize")
        assert answer.status == 404
    forgeries: list[dict[str, Any] | None] = [
        {"headcount.authorize": True},
        {"headcount.authorize": {"grant": {}}},
        None,
    ]
    for forged in forgeries:
        call = Call(site.app, {**site.admin.scope("GET", "/__skew/authorize"), "extensions": forged})
        call.put({"type": "http.request", "body": b"", "more_body": False})
        call.start()
        await call.ended()
        assert call.sent[0]["status"] == 404
    assert not asked


@every_way
@asynchronous
async def test_admin_pages_through_all_connections(way: str) -> None:
    site = Site(way, max_listed_connections=3)
    pages = [await site.stranger.open("ws", f"?version=v{n % 2}&route=/{n % 3}") for n in range(10)]
    found: list[str] = []
    cursor = ""
    for _ in range(10):
        answer = await site.admin.get(f"/admin/connections?limit=4{cursor}")
        assert answer.json["total"] == 10
        assert len(answer.json["connections"]) <= 4
        found += [row["id"] for row in answer.json["connections"]]
        if answer.json["cursor"] is None:
            break
        cursor = f"&cursor={answer.json['cursor']}"
        if len(found) == 4:
            await pages[0].leave()
            await site.stranger.open("ws")  # newcomers and leavers do not move the others
            pages.append(await site.stranger.open("ws"))
            await pages.pop().leave()
    assert found[:10] == [page.public for page in pages[:10]]
    assert len(set(found)) == len(found)


@asynchronous
async def test_admin_filters_connections() -> None:
    site = Site()
    for number in range(10):
        await site.stranger.open("ws", f"?version=v{number % 2}&route=/{number % 5}")

    async def count(query: str) -> int:
        return len((await site.admin.get(f"/admin/connections{query}")).json["connections"])

    assert await count("?version=v1") == 5
    assert await count("?route=/3") == 2
    assert await count("?version=v1&route=/3") == 1
    assert await count("?version=none") == 0
    assert await count("?version=") == 0
    assert (await site.admin.get("/admin/connections?version=none")).json["total"] == 10, "it is that of all"
    assert await count("?limit=1000") == 10
    assert await count("?cursor=0") == 10


@every_way
@asynchronous
async def test_admin_sorts_connections_over_all_pages(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "CONNECTIONS_PER_STEP", 3)
    site = Site(way, ip_tracking=True, max_listed_connections=4)
    for number in range(11):
        await site.stranger.open("ws", f"?version=v{number % 3}&route=/{number % 4}:{number % 2}")
    for sort in ("id", "version", "-version", "route", "-route", "ip"):
        found = await sorted_connections(site.admin, sort, limit=4, total=11)
        assert {row["id"] for row in found} == {row.id for row in site.node.listing.list_connections(**EVERYBODY)[0]}
    answer = await site.admin.get("/admin/connections?sort=-route&version=v1&route=/1:1")
    assert [(row["version"], row["route"]) for row in answer.json["connections"]] == [("v1", "/1:1")]


EVERYBODY: Any = {"version": None, "route": None, "limit": 1000, "after": 0}


@asynchronous
async def test_who_leaves_while_connections_are_sorted_disturbs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "CONNECTIONS_PER_STEP", 1)
    site = Site()
    pages = [await site.stranger.open("ws", f"?route=/{number}") for number in range(6)]
    reading = asyncio.create_task(site.admin.get("/admin/connections?sort=route&limit=3"))
    for page in pages[2:]:
        await page.leave()
    rows = (await reading).json["connections"]
    assert [row["route"] for row in rows][:2] == ["/0", "/1"]


@asynchronous
async def test_what_a_viewer_may_not_see_is_not_told_by_an_order() -> None:
    grant = Grant(routes=False, ips=False)
    site = Site(hook=lambda _: grant, ip_tracking=True)
    await site.stranger.open("ws", "?route=/secret")
    for sort, right in (("route", "routes=True"), ("-route", "routes=True"), ("ip", "ips=True"), ("-ip", "ips=True")):
        problem(await site.admin.get(f"/admin/connections?sort={sort}"), 403, right)
    for sort in ("id", "-version"):
        answer = await site.admin.get(f"/admin/connections?sort={sort}")
        assert answer.json["connections"][0].keys() == {"id", "version", "route"}
        assert "secret" not in answer.body.decode()


@pytest.mark.parametrize(
    "query",
    [
        "?sort=", "?sort=age", "?sort=id&sort=ip", "?sort=id&cursor=5", "?sort=id&cursor=-id:a:a", "?cursor=id:a:a",
        "?limit=0", "?limit=1001", "?limit=-1", "?limit=ten", "?limit=1e3", "?limit=", "?limit=%C2%B2", "?limit=%D9%A3",
        "?limit=99999999999999999999", "?cursor=x", "?cursor=-1", "?cursor=" + "9" * 5000, "?limit=1&limit=2",
        "?version=a&version=b", "?" + "&".join(f"x{n}=1" for n in range(40)),
        "?verison=v1", "?cursor=5", "?version=v1&offset=3", "?%00=",
    ],
)  # fmt: skip
@asynchronous
async def test_admin_query_that_is_wrong_is_refused(query: str) -> None:
    site = Site()
    problem(await site.admin.get(f"/admin/connections{query}"), 400)


@pytest.mark.parametrize("cursor", ["x", "-1", "", "1.5", "9" * 19, "9" * 5000])
@asynchronous
async def test_wrong_cursor_is_told_where_cursors_come_from(cursor: str) -> None:
    answer = await Site().admin.get(f"/admin/connections?cursor={cursor}")
    problem(answer, 400, f"cursor is '{cursor[:40]}'; give the cursor")


@asynchronous
async def test_admin_answers_head_without_a_body() -> None:
    site = Site()
    get, head = await site.admin.get("/admin/stats"), await site.admin.request("HEAD", "/admin/stats")
    assert (head.status, head.body) == (200, b"")
    assert head.headers == get.headers
    assert (await site.visitor.request("HEAD", "/admin/stats"))[::2] == (403, b"")


def test_grant_takes_no_nonsense() -> None:
    for wrong in ({"routes": 1}, {"ips": None}, {"expires_in": "60"}, {"expires_in": True}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            Grant(**wrong)
    assert Grant(expires_in=0).expires_in == 0


class _StampsWebSocketsToo:
    """Pure ASGI middleware that finds the user for both kinds of connection, and only if there is one."""

    def __init__(self, app: ASGIApp, sessions: dict[str, str]) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            user = self._sessions.get(HTTPConnection(scope).cookies.get("sid", ""))
            if user is not None:
                scope.setdefault("state", {}).update(user=user)
        await self._app(scope, receive, send)


@in_an_application
@both
@asynchronous
async def test_user_stamped_by_plain_middleware_is_gone_after_the_log_out(
    way: str, transport: str, quick_ticks: None
) -> None:
    sessions = {"s1": "admin"}
    clock = Clock()
    site = Site(
        way,
        lambda request: getattr(request.state, "user", None) == "admin",
        middleware=[Middleware(_StampsWebSocketsToo, sessions=sessions)],
        clock=clock,
    )
    client = Client(site.app, {"cookie": "sid=s1"})
    viewer = await client.open(transport)
    await client.watch(viewer)
    sessions.clear()
    clock.advance(60)
    await viewer.next("stats-unauthorized")


@asynchronous
async def test_log_says_once_that_nobody_may_see_when_somebody_asks_in_vain(caplog: pytest.LogCaptureFixture) -> None:
    site = Site(hook=None)
    assert not caplog.messages, "not before somebody asks"
    for _ in range(3):
        problem(await site.stranger.get("/admin/stats"), 401)
    assert len(caplog.messages) == 1
    assert "register an authorize_stats hook, or set admin_token or authorize_url" in caplog.messages[0]


@asynchronous
async def test_log_says_no_such_thing_when_there_is_a_token_or_a_hook(caplog: pytest.LogCaptureFixture) -> None:
    for site in (Site(), Site(hook=None, admin_token="a token that nobody guesses")):
        problem(await site.stranger.get("/admin/stats"), 401)
    assert not caplog.messages


@pytest.mark.parametrize(("way", "hinted"), [("alone", True), ("mounted", False), ("wrapped", False)])
@asynchronous
async def test_log_says_which_middleware_a_hook_may_have_missed(
    way: str, hinted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def admins_only(request: HTTPConnection) -> bool:
        if "session" not in request.scope:
            return bool(request.session)  # as it fails in an application without sessions
        raise LookupError("its own mistake")

    problem(await Site(way, hook=admins_only).admin.get("/admin/stats"), 403)
    (message,) = caplog.messages
    assert message.startswith("authorize_stats failed; viewer denied.")
    assert ("HeadcountMiddleware" in message) == hinted
