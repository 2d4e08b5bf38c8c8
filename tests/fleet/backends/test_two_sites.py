"""Two processes of one application, as far as they can know: what comes to one and concerns the other."""

import asyncio
import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from starlette.requests import HTTPConnection

from asgi.asgi_client import ADMIN, WAYS, Client, Clock, Site, asynchronous, problem, sorted_connections, turn_until
from asgi.test_abuse import POST_BODIES, UNCHARGED
from authorization.test_kept_headers import ADDRESS, ADDRESS_HEADERS
from headcount import Busy, Grant, UnknownConnection
from headcount.asgi import client_posts
from headcount.core import fleet_messages
from headcount.core.message_rate import BURST
from headcount.core.paging import LocalPage, SortedRows, parse_order
from headcount.core.stats import ConnectionInfo
from headcount.core.ticket import EndedTicket
from headcount.fleet import remote_commands
from headcount.fleet.backends.redis import RedisBackend
from headcount.fleet.view import FleetView
from kit.stores import Store


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store("valkey") as store:
        yield store


class Two:
    """Two sites of one fleet. `await` it once."""

    def __init__(self, store: Store, way: str = "mounted", hook: Any = None, **settings: Any) -> None:
        arguments = {"stats_interval": 0.01, "backend": store.url, "fleet_name": "two", **settings}
        hooks = {} if hook is None else {"hook": hook}
        self.sites = [Site(way, **hooks, **arguments) for _ in range(2)]

    async def __aenter__(self) -> "list[Site]":
        for site in self.sites:
            assert (await site.stranger.get("/health")).status == 200
        for _ in range(500):
            found = [await site.headcount.stats() for site in self.sites]
            if all(stats.nodes.reporting == stats.nodes.expected == 2 for stats in found):
                return self.sites
            await asyncio.sleep(0.01)
        raise AssertionError(f"they do not find one another: {found}")

    async def __aexit__(self, *_: object) -> None:
        for site in self.sites:
            await site.node.leave()


def both(store: Store, *arguments: Any, **settings: Any) -> Two:
    store.ask("FLUSHALL")
    return Two(store, *arguments, **settings)


@pytest.mark.parametrize("way", WAYS)
def test_a_subscription_posted_to_the_other_is_decided_on_that_request_and_again_at_the_owner(
    way: str, store: Store
) -> None:
    asked: list[str] = []
    allowed = True

    def hook(request: HTTPConnection) -> bool | Grant:
        session = request.session if "session" in request.scope else request.cookies
        asked.append(request.headers.get("x-asked-at", "nowhere"))
        return session.get("role") == "admin" and allowed and Grant(ips=False)

    @asynchronous
    async def check() -> None:
        nonlocal allowed
        async with both(store, way, hook, ip_tracking=True, reauthorize_interval=0.1) as (owner, other):
            page = await owner.admin.open("sse", "?route=/mine")
            answer = await other.visitor.post("/subscribe-stats", {"connectionId": page.handle})
            assert answer.status == 200
            await page.next("stats-unauthorized")
            answer = await other.admin.post(
                "/subscribe-stats", {"connectionId": page.handle, "deltas": True}, {"x-asked-at": "other"}
            )
            assert answer.status == 200
            figures = await page.figures()
            assert figures.now["routes"] == {"/mine": 1}
            assert "ip" not in figures.now["connections"][0], "the grant is what was granted there"
            before = len(asked)
            await turn_until(lambda: len(asked) > before + 2, "it is asked again, at the owner", 20)
            assert set(asked[before:]) == {"other"}, "on the headers of that request"
            assert owner.node.viewers.subscriptions
            allowed = False
            await page.next("stats-unauthorized")
            assert not owner.node.viewers.subscriptions
            answer = await other.stranger.post("/route", {"connectionId": page.handle, "route": "/next"})
            assert answer.status == 200
            assert owner.node.figures.stats().routes == {"/next": 1}

    check()


@pytest.mark.parametrize("way", WAYS)
def test_no_address_of_a_viewer_goes_through_the_store_without_tracking(
    way: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    send = RedisBackend.send

    def record(backend: RedisBackend, node: str, data: bytes, *others: Any) -> None:
        sent.append(data)
        send(backend, node, data, *others)

    @asynchronous
    async def check() -> None:
        async with both(store, way, reauthorize_interval=0.1) as (owner, other):
            monkeypatch.setattr(RedisBackend, "send", record)
            page = await owner.admin.open("sse")
            browser = Client(other.app, {**ADMIN, **dict.fromkeys(ADDRESS_HEADERS, ADDRESS)}, client=ADDRESS)
            assert (await browser.post("/subscribe-stats", {"connectionId": page.handle})).status == 200
            await page.figures()
            traffic = b"".join(sent)
            assert ADMIN["cookie"].encode() in traffic, "what it takes to check again is sent"
            assert ADDRESS.encode() not in traffic

    check()


def test_the_servers_own_state_is_there_when_the_owner_asks_again(store: Store) -> None:
    seen: list[tuple[Any, Any]] = []

    def hook(request: HTTPConnection) -> bool:
        seen.append((getattr(request.state, "pool", None), getattr(request.state, "user", None)))
        return True

    @asynchronous
    async def check() -> None:
        async with both(store, "mounted", hook, reauthorize_interval=0.1) as (owner, other):
            # What the first request brought is the owner's; a middleware had put a user in there, too.
            clients = [
                Client(site.app, state={"pool": f"pool of {name}", "user": "somebody else"})
                for site, name in ((owner, "owner"), (other, "other"))
            ]
            owner.headcount._endpoints._inner_requests._state = {"pool": "pool of owner", "user": "somebody else"}
            page = await clients[0].open("sse")
            request = Client(other.app, state={"pool": "pool of other"})
            assert (await request.post("/subscribe-stats", {"connectionId": page.handle})).status == 200
            await page.next("stats")
            assert seen[-1] == ("pool of other", None)
            count = len(seen)
            await turn_until(lambda: len(seen) > count + 1, "it is asked again", 20)
            assert set(seen[count:]) == {("pool of owner", None)}

    check()


def test_unsubscribing_at_the_other_ends_it(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (owner, other):
            page = await owner.admin.open("sse")
            assert (await other.admin.post("/subscribe-stats", {"connectionId": page.handle})).status == 200
            await page.next("stats")
            assert (await other.stranger.post("/unsubscribe-stats", {"connectionId": page.handle})).status == 200
            assert not owner.node.viewers.subscriptions

    check()


def test_an_unsubscribe_is_not_overtaken_by_a_subscribe_that_is_still_being_decided(store: Store) -> None:
    release = asyncio.Event()

    async def hook(_: HTTPConnection) -> bool:
        await release.wait()
        return True

    @asynchronous
    async def check() -> None:
        async with both(store, "mounted", hook) as (owner, other):
            page = await owner.admin.open("sse")
            waiting = asyncio.ensure_future(other.admin.post("/subscribe-stats", {"connectionId": page.handle}))
            await turn_until(lambda: owner.node.viewers.pending)
            assert (await other.admin.post("/unsubscribe-stats", {"connectionId": page.handle})).status == 200
            release.set()
            assert (await waiting).status == 200
            assert not owner.node.viewers.subscriptions
            assert not page.unread

    check()


def test_messages_revocations_and_broadcasts_reach_the_others_pages(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (owner, other):
            pages = [await site.stranger.open("ws", f"?version=v{n}") for n, site in enumerate((owner, other))]
            await other.headcount.send(pages[0].public, {"type": "hello", "text": "line\nline"})
            assert (await pages[0].next("hello"))["text"] == "line\nline"
            assert await other.headcount.broadcast({"type": "all"}) == 2
            assert await other.headcount.broadcast({"type": "some"}, version="v0") == 1
            await pages[0].next("all")
            await pages[0].next("some")
            await pages[1].next("all")
            viewer = await owner.admin.open("ws", "?viewer=1")
            await owner.admin.watch(viewer)
            assert await other.headcount.revoke(viewer.public)
            await viewer.next("stats-unauthorized")
            assert not await other.headcount.revoke(viewer.public)
            assert not await other.headcount.revoke("0" * 32)
            for unknown in (pages[0].public[:-1] + "x", "0" * 32, "", "x"):
                with pytest.raises(UnknownConnection):
                    await other.headcount.send(unknown, {"type": "lost"})
            with pytest.raises(TypeError):
                await other.headcount.send(pages[0].public, {"type": object()})

    check()


@pytest.mark.parametrize("how", ["silent", "unreachable", "not yet known", "left"])
def test_who_revokes_a_right_is_told_when_its_owner_did_not_do_it(
    how: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (owner, other):
            viewer = await owner.admin.open("ws", "?viewer=1")
            await owner.admin.watch(viewer)
            view = other.node.membership.view
            assert isinstance(view, FleetView)
            backend = view.backend
            assert backend is not None
            match how:
                case "silent":
                    monkeypatch.setattr(owner.node.membership.view.calls, "receive", lambda _: None)
                    monkeypatch.setattr(view.calls, "call", partial(view.calls.call, timeout=0.05))
                case "unreachable":
                    monkeypatch.setattr(backend, "send", lambda _, __, failed: failed())
                case "not yet known":
                    monkeypatch.setattr(backend, "knows", AsyncMock(return_value=False))
                case "left":
                    await other.node.leave()
            with pytest.raises(Busy, match="may still be watching"):
                await other.headcount.revoke(viewer.public)
            assert owner.node.viewers.subscriptions

    check()


def test_a_right_that_may_exist_while_the_store_is_away_is_not_called_withdrawn() -> None:
    @asynchronous
    async def check() -> None:
        with Store("valkey") as own:
            async with both(own) as (owner, other):
                viewer = await owner.admin.open("ws", "?viewer=1")
                await owner.admin.watch(viewer)
                view = other.node.membership.view
                assert isinstance(view, FleetView)
                backend = view.backend
                assert isinstance(backend, RedisBackend)
                own.kill()
                await turn_until(lambda: backend._commands is None)
                backend._members.clear()  # the owner has joined since this node last looked
                with pytest.raises(Busy, match="may still be watching"):
                    await other.headcount.revoke(viewer.public)
                assert owner.node.viewers.subscriptions

    check()


def _redis_of(site: Site) -> RedisBackend:
    view = site.node.membership.view
    assert isinstance(view, FleetView)
    assert isinstance(view.backend, RedisBackend)
    return view.backend


@pytest.mark.parametrize("how", ["killed", "emptied", "expired", "taken out"])
def test_what_cannot_be_known_of_the_owner_is_no_answer_about_its_viewer(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner serves its viewer, and Redis does not say so: it is away, was emptied, or took the owner for dead."""

    @asynchronous
    async def check() -> None:
        with Store("valkey") as own:
            async with both(own) as (owner, other):
                viewer = await owner.admin.open("ws", "?viewer=1")
                await owner.admin.watch(viewer)
                await owner.stranger.open("ws")
                backend, keys = _redis_of(other), "{headcount:two}"
                _redis_of(owner).write_tally()
                await turn_until(lambda: own.ask("HEXISTS", f"{keys}:tallies", owner.node.id) == b":1")
                monkeypatch.setattr(_redis_of(owner), "_put", lambda *_, **__: None)  # it gives no sign any more
                await asyncio.sleep(0)
                match how:
                    case "killed":
                        # Redis said that it knew no such node, and went away before it could be asked again.
                        monkeypatch.setattr(backend, "knows", AsyncMock(return_value=False))
                        own.kill()
                        await turn_until(lambda: backend._commands is None)
                    case "emptied":
                        own.ask("FLUSHALL")
                    case "expired":
                        own.ask("DEL", f"{keys}:node:{owner.node.id}")
                    case "taken out":
                        own.ask("SREM", f"{keys}:nodes", owner.node.id)
                backend._members.clear()  # the owner has joined since this node last looked
                with pytest.raises(Busy, match="may still be watching"):
                    await other.headcount.revoke(viewer.public)
                with pytest.raises(Busy, match="may not have arrived"):
                    await other.headcount.send(viewer.public, {"type": "lost"})
                assert owner.node.viewers.subscriptions

    check()


def test_a_node_that_has_not_met_its_fleet_knows_of_no_connection_whether_it_is_open(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        site = Site(backend=store.url)
        with pytest.raises(Busy, match="may still be watching"):
            await site.headcount.revoke("ab" * 16)
        with pytest.raises(Busy, match="may not have arrived"):
            await site.headcount.send("ab" * 16, {"type": "lost"})
        assert (await site.node.commands.release("v2")).partial
        assert (await site.headcount.stats()).partial
        assert (await site.stranger.get("/health")).status == 200
        await turn_until(lambda: not site.node.figures.stats().partial)
        await site.node.leave()

    check()


def test_a_node_that_left_its_fleet_does_not_say_that_it_is_all_of_it(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (_, other):
            await other.node.leave()
            assert (await other.node.commands.release("v2")).partial

    check()


def test_a_release_names_the_node_that_did_not_answer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (owner, other):
            assert (await other.node.commands.release("v2")).unreached == ()
            monkeypatch.setattr(remote_commands, "ALL_TIMEOUT", 0.2)
            monkeypatch.setattr(owner.node.membership.view, "_dispatch", lambda _: None)
            outcome = await other.node.commands.release("v3")
            assert outcome.unreached == ((owner.node.id, "silent"),)
            assert (outcome.reached, outcome.expected, outcome.partial) == (1, 2, True)

    check()


def test_pages_of_connections_are_partial_when_a_node_refuses(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (owner, other):
            await owner.stranger.open("ws")
            monkeypatch.setattr(owner.node.listing, "list_connections", Mock(side_effect=ZeroDivisionError))
            page = await other.node.commands.list_connections(version=None, route=None, limit=10)
            assert (page.rows, page.partial) == ([], True)

    check()


def test_pages_of_connections_are_partial_when_nobody_knows_which_nodes_there_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (owner, other):
            await owner.stranger.open("ws")
            monkeypatch.setattr(_redis_of(other), "members", AsyncMock(return_value=None))
            page = await other.node.commands.list_connections(version=None, route=None, limit=10)
            assert (page.rows, page.partial) == ([], True)
            order = parse_order("id")
            rows = await other.node.commands.list_sorted(order, version=None, route=None, limit=10)
            assert (rows.rows, rows.partial) == ([], True)

    check()


def test_a_node_is_not_forgotten_while_the_store_is_away() -> None:
    @asynchronous
    async def check() -> None:
        with Store("valkey") as own:
            async with both(own, admin_token="t" * 16) as (owner, other):
                own.kill()
                await turn_until(lambda: _redis_of(other)._commands is None)
                body, token = {"node": owner.node.id}, {"authorization": f"Bearer {'t' * 16}"}
                answer = await other.stranger.post("/admin/nodes/forget", body, token)
                problem(answer, 503, "not forgotten")

    check()


TOKEN = "token of the fleet's dashboard"


async def ticket_of(site: Site) -> Client:
    """Log in at a site; returns a client with the cookie."""
    answer = await site.stranger.post("/log-in", {"token": TOKEN})
    return Client(site.app, {"cookie": (answer.header("set-cookie") or "").partition(";")[0]})


def at(site: Site, client: Client) -> Client:
    """Return the same browser, whose requests come to another site."""
    return Client(site.app, client._headers)


@pytest.mark.parametrize("way", WAYS)
def test_log_out_at_one_ends_the_ticket_at_the_other_and_all_streams_that_stand_on_it(way: str, store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store, way, None, admin_token=TOKEN) as (owner, other):
            browser, somebody = await ticket_of(owner), await ticket_of(other)
            streams = [await at(site, browser).open(kind) for site in (owner, other) for kind in ("sse", "ws")]
            for stream, site in zip(streams, (owner, owner, other, other), strict=True):
                await at(site, browser).watch(stream)
            # Decided at the other on a POST that came there, and asked again at the owner.
            posted = await browser.open("sse")
            await at(other, browser).post("/subscribe-stats", {"connectionId": posted.handle})
            await posted.figures()
            apart = await at(owner, somebody).open("ws")
            await at(owner, somebody).watch(apart)
            assert (await browser.post("/log-out", {})).status == 200
            assert len(owner.node.viewers.subscriptions) == 1, "before the answer, on both"
            assert len(other.node.viewers.subscriptions) == 0
            for stream in [*streams, posted]:
                while (await stream.next())["type"] != "stats-unauthorized":
                    pass
            for site in (owner, other):
                problem(await at(site, browser).get("/admin/stats"), 403)
                assert (await at(site, somebody).get("/admin/stats")).status == 200

    check()


def test_a_node_that_joins_later_knows_which_tickets_were_ended(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store, "mounted", None, admin_token=TOKEN) as (owner, other):
            browser, somebody = await ticket_of(owner), await ticket_of(owner)
            assert (await browser.post("/log-out", {})).status == 200
            late = Site("mounted", None, backend=store.url, fleet_name="two", admin_token=TOKEN)
            assert (await late.stranger.get("/health")).status == 200
            await turn_until(lambda: late.node.log_outs.ended() == owner.node.log_outs.ended() != ())
            problem(await at(late, browser).get("/admin/stats"), 403)
            assert (await at(late, somebody).get("/admin/stats")).status == 200
            assert len(other.node.log_outs.ended()) == 1
            await late.node.leave()

    check()


def test_a_log_out_while_the_store_was_away_is_told_when_it_is_back() -> None:
    @asynchronous
    async def check() -> None:
        with Store("valkey") as own:
            async with both(own, "mounted", None, admin_token=TOKEN) as (owner, other):
                browser = await ticket_of(owner)
                own.kill()
                await turn_until(lambda: _redis_of(owner)._commands is None)
                assert (await browser.post("/log-out", {})).status == 200
                problem(await browser.get("/admin/stats"), 403)
                assert other.node.log_outs.ended() == ()
                own.start()
                await turn_until(lambda: len(other.node.log_outs.ended()) == 1, "it hears of it", 30)
                problem(await at(other, browser).get("/admin/stats"), 403)

    check()


def test_a_node_that_was_cut_off_alone_tells_the_others_which_tickets_were_ended_meanwhile(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store, "mounted", None, admin_token=TOKEN) as (owner, other):
            browser = await ticket_of(owner)
            tickets = owner.node.log_outs.tickets.read(dict([browser._headers["cookie"].split("=", 1)]))
            await owner.node.log_outs.end_here(tickets)
            assert other.node.log_outs.ended() == ()
            view = owner.node.membership.view
            assert isinstance(view, FleetView)
            view.connectivity_changed(connected=False)
            view.connectivity_changed(connected=True)
            await turn_until(lambda: other.node.log_outs.ended() == tuple(tickets))

    check()


def test_a_neighbour_on_the_same_store_ends_no_ticket_and_fills_nothing(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store, "mounted", None, admin_token=TOKEN) as (owner, other):
            browser = await ticket_of(owner)
            (real,) = owner.node.log_outs.tickets.read(dict([browser._headers["cookie"].split("=", 1)]))
            forged = [
                EndedTicket(real.expires, nonce, bytes(24))
                for nonce in (real.nonce, *(bytes([n] * 16) for n in range(99)))
            ]
            neighbour = other.node.membership.view
            assert isinstance(neighbour, FleetView)
            neighbour.link.announce(fleet_messages.EndTickets(node=other.node.id, re=0, tickets=tuple(forged)))
            await other.node.membership.remote.end_tickets(forged)
            assert owner.node.log_outs.ended() == ()
            assert (await browser.get("/admin/stats")).status == 200

    check()


def test_tabs_that_are_reported_to_the_other_are_counted_at_the_owner(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (owner, other):
            stream = await owner.admin.open("sse", "?shared=1")
            await owner.admin.watch(stream)
            tabs = [{"key": f"tab-{number}-of-this-browser", "version": "v1", "route": "/a"} for number in range(2)]
            body = {"connectionId": stream.handle}
            assert (await other.visitor.post("/tabs", {**body, "set": tabs})).status == 200
            assert owner.node.figures.stats().routes == {"/a": 2}
            assert owner.node.viewers.subscriptions, "and it goes on to watch"
            (told,) = [message for message in stream.received if message["type"] == "tabs"]
            assert set(told["ids"]) == {tab["key"] for tab in tabs}
            assert (await other.visitor.post("/tabs", {**body, "remove": [tabs[0]["key"]]})).status == 200
            assert owner.node.figures.stats().routes == {"/a": 1}
            own = await owner.visitor.open("sse")
            problem(await other.visitor.post("/tabs", {"connectionId": own.handle, "set": tabs}), 400, "shared=1")

    check()


def test_a_report_to_the_other_that_removes_a_tab_that_is_away_counts_the_tabs_that_it_sets(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (owner, other):
            old = await owner.visitor.open("sse", "?shared=1&version=v1")
            gone, new = ({"key": f"tab-{number}-of-this-browser"} for number in range(2))
            assert (await owner.visitor.post("/tabs", {"connectionId": old.handle, "set": [gone]})).status == 200
            await old.leave()
            await turn_until(lambda: owner.node.figures.stats().away == {"v1": 1})
            stream = await owner.visitor.open("sse", "?shared=1&version=v1")
            report = {"connectionId": stream.handle, "set": [new], "remove": [gone["key"]]}
            assert (await other.visitor.post("/tabs", report)).status == 200
            await turn_until(lambda: owner.node.figures.stats().total == 1)

    check()


@pytest.mark.parametrize("path", sorted(client_posts.PATHS - UNCHARGED.keys()))
def test_what_is_posted_to_the_other_is_charged_to_the_stream_at_its_owner(path: str, store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (owner, other):
            owner.node.clock = Clock()
            page = await owner.admin.open("sse", "?shared=1" if path == "/tabs" else "")
            body = {"connectionId": page.handle, **POST_BODIES[path]}
            assert (await other.admin.post(path, body)).status == 200
            for _ in range(BURST - 1):
                assert (await owner.admin.post("/unsubscribe-stats", {"connectionId": page.handle})).status == 200
            problem(await other.admin.post(path, body), 429, "Too many messages; send at most 20 a second.")

    check()


def test_a_stream_takes_the_place_of_one_at_the_other(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (owner, other):
            old = await owner.visitor.open("sse", "?version=v1&route=/a")
            viewer = await other.admin.open("ws", "?viewer=1")
            figures = await other.admin.watch(viewer)
            await figures.total(1)
            await other.visitor.open("ws", f"?version=v1&route=/b&replaces={old.handle}")
            await old.ended()
            await figures.until(lambda now: now["routes"] == {"/b": 1})
            for guess in (old.public, f"{old.handle}x", "0" * 12, "." * 500):
                await other.visitor.open("sse", f"?route=/b&replaces={guess}")
            await figures.total(5)

    check()


def test_tabs_whose_next_stream_comes_to_the_other_never_leave_the_figures(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (owner, other):
            keys = [f"tab-{number}-of-this-browser" for number in range(4)]
            tabs = [{"key": key, "version": "v1", "route": "/a"} for key in keys]
            old = await owner.visitor.open("sse", "?shared=1")
            assert (await owner.visitor.post("/tabs", {"connectionId": old.handle, "set": tabs})).status == 200
            viewers = [await site.admin.watch(await site.admin.open("ws", "?viewer=1")) for site in (owner, other)]
            for figures in viewers:
                await figures.total(4)
            # The leader has closed; the tab that leads now reports itself, and a moment later the others.
            await owner.visitor.post("/tabs", {"connectionId": old.handle, "remove": keys[:1]})
            await old.leave()
            new = await other.visitor.open("sse", f"?shared=1&replaces={old.handle}")
            await asyncio.sleep(0.2)
            for some in (tabs[1:2], tabs[2:]):
                assert (await other.visitor.post("/tabs", {"connectionId": new.handle, "set": some})).status == 200
                await asyncio.sleep(0.2)
            await turn_until(
                lambda: owner.node.figures.local_stats().total == 0, "it holds them no longer than it has to"
            )
            for figures in viewers:
                seen = [4]
                while seen[-1] != 3 or figures.stream.unread:
                    await figures.step()
                    seen.append(figures.now["total"])
                assert min(seen) == 3, seen
            assert other.node.figures.local_stats().versions == {"v1": 3}

    check()


def test_a_limit_is_proven_by_streams_of_the_other_and_known_to_both(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as sites:
            ahead = 0.0
            for site in sites:
                site.node.clock = lambda: time.monotonic() + ahead
            streams = [await sites[0].visitor.open("sse", "?version=v1&cutAfter=600000") for _ in range(3)]
            assert sites[0].node.cut_after is None
            ahead = 550.0
            for stream in streams:
                await sites[1].visitor.open("ws", f"?version=v1&cutAfter=600000&replaces={stream.handle}")
                await stream.ended()
            await turn_until(lambda: sites[0].node.cut_after == 600.0, "the node that had the streams knows it")
            assert sites[1].node.cut_after_here is None
            for site in sites:
                assert json.loads((await site.admin.get("/admin/nodes")).body)["cutAfterMs"] == 600_000
                scraped = {scope: (await site.admin.get(f"/metrics?scope={scope}")).body for scope in ("fleet", "node")}
                line = f'headcount_cut_after_seconds{{node="{site.node.id}"}} 600.0'.encode()
                assert line in scraped["fleet"], "all nodes show the same limit"
                assert (line in scraped["node"]) == (site is sites[0]), "of a node, its own is asked"

    check()


def test_a_site_that_joins_late_learns_which_version_is_current(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (one, two):
            await one.headcount.release("v2")
            assert two.node.releases.current == "v2"
            late = Site(backend=store.url, fleet_name="two")
            page = await late.stranger.open("sse", "?version=v1")
            await page.next("version")
            assert late.node.releases.current == "v2"
            for site, version in ((late, "v3"), (one, "v2"), (two, "v4"), (late, "v2")):
                assert await site.headcount.release(version) >= 0
                assert {each.node.releases.current for each in (one, two, late)} == {version}, "the newest wins"
                assert (await page.next("version"))["version"] == version
            await one.headcount.release("v2")
            assert not page.unread, "the same again is no news"
            await late.node.leave()

    check()


def test_a_release_that_was_declared_while_the_store_was_away_is_learnt_afterwards() -> None:
    @asynchronous
    async def check() -> None:
        with Store("valkey") as own:
            async with both(own) as (one, two):
                own.kill()
                await turn_until(lambda: one.node.figures.stats().partial and two.node.figures.stats().partial)
                await one.headcount.release("v2")
                assert two.node.releases.current == "v1"
                own.start()
                await turn_until(lambda: two.node.releases.current == "v2", patience=20)

    check()


def test_the_version_that_is_current_is_counted_apart_however_many_others_there_are(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store, max_versions=2) as sites:
            for number in range(6):
                await sites[number % 2].stranger.open("sse", f"?version=old{number}")
            await sites[0].headcount.release("new")
            for site in sites:
                await site.stranger.open("sse", "?version=new")
            for site in sites:
                versions = (await site.headcount.stats()).versions
                assert (versions["new"], sum(versions.values())) == (2, 8)

    check()


def test_all_nodes_count_the_version_that_is_asked_for_apart(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store, max_versions=2) as sites:
            for number in range(8):
                await sites[number % 2].stranger.open("sse", f"?version=made-up-{number}")
            viewer = await sites[0].admin.open("ws", "?viewer=1")
            figures = await sites[0].admin.watch(viewer)
            for site in sites:
                await site.stranger.open("sse", "?version=v0")
            assert "v0" not in (await sites[0].headcount.stats()).versions
            found = (await sites[0].admin.get("/admin/stats?version=v0")).json
            assert found["ofVersion"] == {"version": "v0", "least": 2, "most": 2}
            assert found["versions"]["v0"] == 2
            await sites[1].stranger.open("sse", "?version=v0")
            now = await figures.total(11)
            assert now["versions"]["v0"] == 3
            assert sum(now["versions"].values()) == 11
            assert {"v0", "v1"} <= sites[1].node.known_versions

    check()


def test_a_node_that_cannot_tell_a_version_apart_may_have_any_number_of_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store, max_versions=2) as (one, other):
            # As a node of an older Headcount: it learns of no version and does not say what it knows.
            monkeypatch.setattr(type(other.node), "known_versions", frozenset())
            monkeypatch.setattr(other.node, "learn_versions", lambda _: None)
            for number in range(4):
                await other.stranger.open("sse", f"?version=made-up-{number}")
            await other.stranger.open("sse", "?version=v0")
            found = (await one.admin.get("/admin/stats?version=v0")).json["ofVersion"]
            assert found == {"version": "v0", "least": 0, "most": 3}

    check()


def test_a_node_that_comes_later_knows_what_the_others_know(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store, max_versions=2) as (one, _):
            await one.headcount.release("released")
            await one.admin.get("/admin/stats?version=awaited")
            late = Site(backend=store.url, fleet_name="two", version="v2", stats_interval=0.01)
            await late.stranger.get("/health")
            await turn_until(lambda: late.node.known_versions >= {"v1", "v2", "released", "awaited"})
            await turn_until(lambda: "v2" in one.node.known_versions)
            await late.node.leave()
            assert "v2" in one.node.known_versions, "its pages may come back to this node"

    check()


def test_a_page_of_another_node_is_not_believed_blindly(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as (one, two):
            bad = [ConnectionInfo(two.node.id + "0", "v1", "/\x1b[2J"), ConnectionInfo("0" * 32, "v1", "/")]
            good = ConnectionInfo(two.node.id + "1", "v1", "/")
            monkeypatch.setattr(two.node.listing, "list_connections", lambda **_: LocalPage([*bad, good], None))
            found = (await one.admin.get("/admin/connections")).json["connections"]
            assert [row["id"] for row in found] == [good.id]

            async def list_sorted(*_: Any, **__: Any) -> SortedRows:
                return SortedRows([*bad, good], more=False)

            monkeypatch.setattr(two.node.listing, "list_sorted", list_sorted)
            found = (await one.admin.get("/admin/connections?sort=route")).json["connections"]
            assert [row["id"] for row in found] == [good.id]

    check()


def test_lists_of_connections_are_asked_for_only_by_who_may_see_them(store: Store) -> None:
    granted = Grant(connections=False)

    @asynchronous
    async def check() -> None:
        async with Two(store, "mounted", lambda _: granted, ip_tracking=True, metrics_token="scrape of this test") as (
            one,
            first,
        ):
            await first.node.leave()  # what `Two` asked for is over
            two = Site("mounted", hook=None, backend=store.url, fleet_name="two", ip_tracking=True)
            await two.stranger.open("sse", "?version=v1")
            view, one_view = two.node.membership.view, one.node.membership.view
            assert isinstance(view, FleetView)
            assert isinstance(one_view, FleetView)
            one_view._collector._rows_until = 0.0
            while (await one.admin.get("/admin/stats")).json["total"] != 1:
                await asyncio.sleep(0.01)
            scrape = {"authorization": "Bearer scrape of this test"}
            for _ in range(2):
                answer = await one.stranger.get("/metrics", scrape)
                assert b'headcount_connections{version="v1"} 1.0' in answer.body, answer
                assert (await one.admin.get("/admin/stats")).json["total"] == 1
                assert (await one.admin.get("/admin/history")).status == 200
                assert one.node.id in view._publisher.schedule
                assert view._publisher.schedule.rows == 0, "nobody may see them"
                assert view._publisher.publication.rows == 0
            nonlocal granted
            granted = Grant()
            (row,) = (await one.admin.get("/admin/stats")).json["connections"]
            assert row["ip"] == "192.0.2.7"
            await two.node.leave()

    store.ask("FLUSHALL")
    check()


def test_the_history_of_a_day_is_the_same_whichever_node_is_asked(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store, "mounted", lambda _: True) as (one, other):
            await one.stranger.open("sse", "?version=v1")
            await other.stranger.open("ws", "?version=v2")
            for site, slot in ((one, 600), (other, 601), (other, 606), (one, 607)):
                view = site.node.membership.view
                assert isinstance(view, FleetView)
                backend = view.backend
                assert backend is not None
                async with asyncio.timeout(10):
                    while (entries := await backend.tallies.entries()) is None or sum(
                        sum(each.tally.versions.values()) for each in entries.values() if each.has_heartbeat
                    ) < 2:
                        await asyncio.sleep(0.01)
                await view.accounting._begin_interval(backend, slot, first=False)
            for site in (one, other):
                told = (await site.stranger.get("/admin/history")).json
                # Each node adds samples of its own, too, which are of this year.
                fine, minutes = (
                    [each for each in samples if each["at"] < 10_000_000]
                    for samples in (told["samples"], told["minutes"]["samples"])
                )
                assert [each["at"] for each in fine] == [6_000_000, 6_010_000, 6_060_000, 6_070_000]
                assert [each["at"] for each in minutes] == [6_000_000, 6_060_000]
                for each in (*fine, *minutes):
                    assert (each["total"], each["versions"]) == (2, {"v1": 1, "v2": 1})

    check()


def test_a_vanished_node_s_pages_are_unaccounted_for_as_long_as_the_setting_says(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        for settings, seconds in (({}, 120.0), ({"unaccounted_grace": 7.0}, 7.0)):
            async with both(store, "mounted", lambda _: True, **settings) as (one, _):
                await one.stranger.get("/admin/stats")
                view = one.node.membership.view
                assert isinstance(view, FleetView)
                # How it ends is in tests/server/test_unaccounted.py, with seconds that a test can wait for.
                assert (view.accounting._grace, view._figures._unaccounted._grace) == (seconds, seconds)

    check()


def test_forged_handles_do_nothing_and_ask_no_hook(store: Store) -> None:
    asked: list[object] = []

    def hook(request: HTTPConnection) -> bool:
        asked.append(request)
        return True

    @asynchronous
    async def check() -> None:
        async with both(store, "mounted", hook) as (owner, other):
            page = await owner.admin.open("sse")
            before = int(store.info("stats")["total_commands_processed"])
            for handle in (page.public, page.public + ".AAAA", page.handle[:-2] + "zz", "0" * 32 + ".AAAA", "ü" * 40):
                for path, body in (("/route", {"route": "/x"}), ("/subscribe-stats", {}), ("/unsubscribe-stats", {})):
                    problem(await other.admin.post(path, {"connectionId": handle, **body}), 404, "connectionId")
            assert asked == []
            assert owner.node.figures.stats().routes == {"/": 1}
            flood = [f"{number:012x}" + "0" * 20 + ".x" for number in range(300)]
            answers = await asyncio.gather(
                *(other.stranger.post("/route", {"connectionId": handle, "route": "/x"}) for handle in flood)
            )
            assert {answer.status for answer in answers} <= {404, 503}
            assert any(answer.status == 503 and answer.header("retry-after") == "1" for answer in answers)
            after = int(store.info("stats")["total_commands_processed"])
            assert after - before < 100, "made-up nodes are not looked for one by one"

    check()


def test_a_page_of_all_connections_goes_over_both(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        async with both(store) as sites:
            pages = [await sites[n % 2].stranger.open("sse", f"?version=v{n % 3}") for n in range(12)]
            for site in sites:
                found: list[str] = []
                cursor: str | None = "0"
                while cursor is not None:
                    answer = await site.admin.get(f"/admin/connections?limit=5&cursor={cursor}")
                    assert len(answer.json["connections"]) <= 5
                    assert (answer.json["total"], answer.json["partial"]) == (12, False)
                    found += [row["id"] for row in answer.json["connections"]]
                    cursor = answer.json["cursor"]
                assert sorted(found) == sorted(page.public for page in pages)
                answer = await site.admin.get("/admin/connections?version=v1")
                assert len(answer.json["connections"]) == 4
            for wrong in ("x", "0123456789ab:", ":5", "0123456789ab:-1", "0123456789ab:" + "9" * 30):
                problem(await sites[0].admin.get(f"/admin/connections?cursor={wrong}"), 400, "cursor")

    check()


@pytest.mark.parametrize("sort", ["version", "-route"])
def test_connections_are_sorted_over_both(store: Store, sort: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_commands, "MIN_PORTION", 1)

    @asynchronous
    async def check() -> None:
        async with both(store) as sites:
            # Nearly all that comes first is on one of them, which is asked again and again.
            for number in range(14):
                site = sites[0] if number % 7 else sites[1]
                await site.stranger.open("sse", f"?version=v{number // 3}&route=/{number % 5}")
            for site in sites:
                found = await sorted_connections(site.admin, sort, limit=6, total=14)
                assert len({row["id"] for row in found}) == 14
            answer = await sites[0].admin.get("/admin/connections?sort=route&version=v1")
            assert [row["route"] for row in answer.json["connections"]] == ["/0", "/3", "/4"]

    check()
