"""Staged releases at one node: who hears of the version, when, and what is counted of what pages do."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from headcount import ConfigError, Grant
from headcount.core.current_version import OWN
from headcount.core.invitations import AWAY

from .asgi_client import TRANSPORTS, Client, Clock, Site, asynchronous, problem, turn_until

both = pytest.mark.parametrize("transport", TRANSPORTS)
KEYS = ("the-key-of-one-tab", "the-key-of-a-second-tab")


class StagedSite(Site):
    """A site whose node takes the time from the test, also that of the wall."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        super().__init__(clock=self.clock, **settings)
        self.node.releases._clock = lambda: round(self.clock.now * 1_000)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and the node notice."""
        self.clock.advance(seconds)
        self.node.rollout.tick()

    async def rollout(self) -> dict[str, Any]:
        """What the endpoint says."""
        answer: dict[str, Any] = (await self.admin.get("/admin/rollout")).json
        return answer

    async def release_change(self, change: str) -> None:
        """Change the stage."""
        assert (await self.admin.post("/admin/release", {"change": change})).status == 200

    async def release(self, **body: Any) -> Any:
        """Declare or change."""
        return await self.admin.post("/admin/release", {"unserved": True, **body})


async def told(site: Site, pages: list[Any]) -> int:
    """How many pages have been told by now."""
    await site.settled()
    return sum("version" in [message["type"] for message in drained(page)] for page in pages)


def drained(page: Any) -> list[dict[str, Any]]:
    """What a page received since this was asked last."""
    new = page.received[getattr(page, "seen", 0) :]
    page.seen = len(page.received)
    return list(new)


@both
@asynchronous
async def test_pages_hear_of_a_staged_release_one_after_another(transport: str) -> None:
    site = StagedSite()
    pages = [await site.visitor.open(transport, "?version=v1") for _ in range(40)]
    new = await site.visitor.open(transport, "?version=v2")
    answer = await site.release(version="v2", over=100)
    assert (answer.status, answer.json["told"], answer.json["version"]) == (200, 1, "v2")
    assert (await new.next("version"))["version"] == "v2"
    assert await told(site, pages) == 0
    assert (await site.admin.get("/admin/stats")).json["currentVersion"] == "v2", "figures know it at once"
    counts = []
    for _ in range(10):
        site.pass_time(10)
        counts.append(await told(site, pages))
    assert sum(counts) == 40
    assert max(counts) < 20, "they are spread"
    assert (await site.rollout())["state"] == "done"


@both
@asynchronous
async def test_a_page_that_opens_meanwhile_waits_for_its_turn_and_one_that_comes_later_does_not(transport: str) -> None:
    site = StagedSite()
    await site.release(version="v2", over=100)
    site.pass_time(99.9)
    page = await site.visitor.open(transport, "?version=v1")
    assert "currentVersion" not in page.connected
    assert await told(site, [page]) == 0
    assert (await site.visitor.get("/health?version=v1")).json["outdated"] is None
    assert (await site.visitor.get("/health?version=v2")).json["outdated"] is False
    current = await site.visitor.open(transport, "?version=v2")
    assert current.connected["currentVersion"] == "v2"
    site.pass_time(0.1)
    assert await told(site, [page]) == 1
    late = await site.visitor.open(transport, "?version=v1")
    assert late.connected["currentVersion"] == "v2"
    assert await told(site, [late]) == 1
    assert (await site.visitor.get("/health?version=v1")).json["outdated"] is True


@asynchronous
async def test_whoever_is_due_is_asked_also_when_another_page_opens_before_the_timer_looks() -> None:
    site = StagedSite()
    pages = [await site.visitor.open("ws", "?version=v1") for _ in range(20)]
    await site.release(version="v2", over=100)
    site.clock.advance(100)
    late = await site.visitor.open("ws", "?version=v1")
    site.node.rollout.tick()
    assert await told(site, [*pages, late]) == 21


@both
@asynchronous
async def test_a_page_that_was_asked_and_reconnects_is_asked_again_but_counted_once(transport: str) -> None:
    site = StagedSite()
    first = await site.visitor.open(transport, "?version=v1")
    await site.release(version="v2", over=100, percent=100)
    site.pass_time(99.999)
    asked = await told(site, [first])
    second = await site.visitor.open(transport, f"?version=v1&replaces={first.handle}")
    site.pass_time(0.001)
    assert asked + await told(site, [second]) >= 1
    assert (await site.rollout())["invited"] == 1
    await second.leave()
    third = await site.visitor.open(transport, f"?version=v1&replaces={second.handle}")
    assert await told(site, [third]) == 1
    assert ((await site.rollout())["invited"], (await site.rollout())["silent"]) == (1, 1)


@both
@asynchronous
async def test_only_pages_on_the_route_are_asked_and_others_when_they_come_there(transport: str) -> None:
    site = StagedSite()
    here = await site.visitor.open(transport, "?version=v1&route=/checkout")
    there = await site.visitor.open(transport, "?version=v1&route=/")
    await site.release(version="v2", route="/checkout")
    site.pass_time(1)
    assert (await told(site, [here]), await told(site, [there])) == (1, 0)
    assert (await site.rollout())["waiting"] == 1
    await site.visitor.post("/route", {"connectionId": there.handle, "route": "/checkout"})
    site.pass_time(1)
    assert await told(site, [there]) == 1
    assert (await site.rollout())["route"] == "/checkout"


@asynchronous
async def test_a_share_of_the_pages_is_asked_and_more_later() -> None:
    site = StagedSite()
    pages = [await site.visitor.open("ws", "?version=v1") for _ in range(200)]
    await site.release(version="v2", percent=10)
    first = await told(site, pages)
    assert 5 <= first <= 40
    site.pass_time(1_000)
    assert await told(site, pages) == 0
    await site.release(version="v2", percent=50, over=10)
    assert await told(site, pages) == 0, "it goes on from where it was"
    site.pass_time(10)
    second = await told(site, pages)
    assert 50 <= first + second <= 150
    await site.release(version="v2")
    assert await told(site, pages) >= 200 - first - second, "without a stage, everybody hears of it"
    found = await site.rollout()
    assert (found["state"], found["invited"], found["waiting"], found["silent"]) == ("at-once", 200, 0, 200)


@asynchronous
async def test_pages_on_other_routes_begin_at_nothing_when_a_stage_is_widened() -> None:
    site = StagedSite()
    here = [await site.visitor.open("ws", "?version=v1&route=/checkout") for _ in range(20)]
    there = [await site.visitor.open("ws", "?version=v1&route=/") for _ in range(40)]
    await site.release(version="v2", route="/checkout")
    assert (await told(site, here), await told(site, there)) == (20, 0)
    await site.release(version="v2", over=100)
    site.pass_time(1)
    assert await told(site, there) < 10
    site.pass_time(50)
    assert 5 < await told(site, there) < 35
    site.pass_time(50)
    assert (await site.rollout())["waiting"] == 0


@asynchronous
async def test_a_stage_is_paused_resumed_and_aborted() -> None:
    site = StagedSite()
    pages = [await site.visitor.open("ws", "?version=v1") for _ in range(100)]
    await site.release(version="v2", over=100)
    site.pass_time(30)
    before = await told(site, pages)
    assert (await site.admin.post("/admin/release", {"change": "pause"})).status == 200
    site.pass_time(1_000)
    assert await told(site, pages) == 0
    found = await site.rollout()
    assert (found["state"], found["share"], found["endsAt"]) == ("paused", 0.3, None)
    assert (await site.admin.post("/admin/release", {"change": "pause"})).status == 200, "again"
    assert (await site.admin.post("/admin/release", {"change": "resume"})).status == 200
    assert await told(site, pages) == 0
    site.pass_time(35)
    middle = await told(site, pages)
    assert 0 < middle < 100 - before
    assert (await site.admin.post("/admin/release", {"change": "abort"})).status == 200
    site.pass_time(1_000)
    assert await told(site, pages) == 0
    found = await site.rollout()
    assert (found["state"], found["share"], found["waiting"]) == ("aborted", 0.65, 100 - before - middle)
    again = await site.admin.post("/admin/release", {"change": "resume"})
    problem(again, 409, "The staged release of v2 was aborted; declare it again")


@asynchronous
async def test_pages_know_a_release_by_the_same_number_in_all_its_stages() -> None:
    site = StagedSite()
    new = await site.visitor.open("ws", "?version=v2")

    async def number() -> int:
        await site.settled()
        found: int = (await site.admin.get("/admin/stats")).json["release"]["number"]
        assert (await site.visitor.get("/health?version=v2")).json["release"]["number"] == found
        return found

    await site.release(version="v2", percent=10)
    first = await number()
    assert (await new.next("version"))["release"]["number"] == first
    site.pass_time(1)
    await site.release(version="v2", over=100)
    for change in ("pause", "resume", "abort"):
        site.pass_time(1)
        await site.release_change(change)
        assert await number() == first, change
    site.pass_time(1)
    await site.release(version="v2")
    assert await number() == first, "it goes on, without a stage"
    site.pass_time(1)
    await site.release(version="v3")
    await site.release(version="v2")
    assert await number() > first


@asynchronous
async def test_what_cannot_be_changed_is_refused() -> None:
    site = StagedSite()
    none = await site.admin.post("/admin/release", {"change": "pause"})
    problem(none, 409, "No staged release is current")
    await site.release(version="v2")
    assert (await site.admin.post("/admin/release", {"change": "pause"})).status == 409
    await site.release(version="v3", over=5)
    site.pass_time(5)
    problem(await site.admin.post("/admin/release", {"change": "abort"}), 409, "is over")
    both_given = await site.admin.post("/admin/release", {"change": "pause", "version": "v2"})
    problem(both_given, 400, "send the change alone")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"over": -1}, "over is -1"),
        ({"over": 10**9}, "30 days"),
        ({"percent": 0}, "percent is 0"),
        ({"percent": 101}, "percent is 101"),
        ({"over": "soon"}, "over"),
        ({"route": "/a\x00"}, "route"),
        ({"change": "stop"}, "change"),
    ],
)
@asynchronous
async def test_a_stage_that_cannot_be_is_refused(body: dict[str, Any], words: str) -> None:
    site = StagedSite()
    answer = await site.release(version="v2", **body)
    problem(answer, 400, words)
    assert (await site.rollout())["state"] == "none"


@asynchronous
async def test_python_declares_a_stage_and_refuses_one_that_cannot_be() -> None:
    site = StagedSite()
    page = await site.visitor.open("ws", "?version=v1")
    assert await site.headcount.release("v2", over=60, percent=100, route="/") == 0
    site.pass_time(60)
    assert await told(site, [page]) == 1
    for wrong in ({"over": float("nan")}, {"percent": 0.0}, {"route": "/\x00"}):
        with pytest.raises(ConfigError):
            await site.headcount.release("v3", **wrong)


@both
@asynchronous
async def test_what_pages_reply_is_counted(transport: str) -> None:
    site = StagedSite()
    pages = [await site.visitor.open(transport, "?version=v1") for _ in range(5)]
    await site.release(version="v2")
    for page in pages:
        assert (await page.next("version"))["reply"] is True

    async def reply(page: Any, reply: str, reason: str = "", version: str = "v2") -> None:
        message = {"version": version, "reply": reply, "reason": reason}
        if transport == "ws":
            page.say({"type": "release-reply", **message})
        else:
            answer = await site.visitor.post("/release-reply", {"connectionId": page.handle, **message})
            assert answer.status == 200
        await site.settled()

    await reply(pages[0], "accepted")
    await reply(pages[1], "deferred", "form")
    await reply(pages[2], "deferred", "no reason that is known")
    await reply(pages[3], "refused")
    await reply(pages[4], "accepted", version="v9")
    found = await site.rollout()
    assert {name: found[name] for name in ("invited", "accepted", "refused", "deferred", "silent", "gone")} == {
        "invited": 5,
        "accepted": 1,
        "refused": 1,
        "deferred": {"form": 1, "other": 1},
        "silent": 1,
        "gone": 0,
    }
    for page in pages:
        await page.leave()
    site.pass_time(AWAY)
    found = await site.rollout()
    assert (found["accepted"], found["refused"], found["deferred"], found["gone"]) == (1, 1, {}, 3)


@asynchronous
async def test_a_page_that_reloads_says_so_by_a_beacon_which_is_text() -> None:
    site = StagedSite()
    page = await site.visitor.open("sse", "?version=v1")
    await site.release(version="v2")
    body = json.dumps(
        {"connectionId": page.handle, "type": "release-reply", "version": "v2", "reply": "accepted"}
    ).encode()
    text = {"content-type": "text/plain;charset=UTF-8"}
    foreign = {"origin": "https://elsewhere.example", "sec-fetch-site": "cross-site"}
    problem(await site.visitor.post("/release-reply", body, text | foreign), 403, "another site")
    problem(await site.visitor.post("/release-reply", body, {"content-type": "text/html"}), 415, "send JSON")
    assert (await site.rollout())["silent"] == 1
    assert (await site.visitor.post("/release-reply", body, text)).status == 200
    assert (await site.visitor.post("/bye", {"connectionId": page.handle})).status == 200
    found = await site.rollout()
    assert (found["accepted"], found["gone"]) == (1, 0)


@both
@asynchronous
async def test_tabs_of_a_shared_stream_have_turns_of_their_own_and_reply_by_their_keys(transport: str) -> None:
    site = StagedSite()
    stream = await site.visitor.open(transport, "?shared=1")
    tabs = [{"key": key, "version": "v1"} for key in KEYS]
    await site.visitor.post("/tabs", {"connectionId": stream.handle, "set": tabs, "remove": []})
    await stream.next("tabs")
    await site.release(version="v2", over=100)
    await site.settled()
    assert not [message for message in drained(stream) if message["type"] in ("version", "to")]
    site.pass_time(100)
    await site.settled()
    heard = [message for message in drained(stream) if message["type"] in ("version", "to")]
    assert [message["type"] for message in heard] == ["version"], "one message for all tabs"
    body = {"connectionId": stream.handle, "version": "v2", "reply": "deferred", "reason": "media", "tab": KEYS[0]}
    assert (await site.visitor.post("/release-reply", body)).status == 200
    unknown = {**body, "tab": "a-key-of-nobody-at-all"}
    assert (await site.visitor.post("/release-reply", unknown)).status == 200
    found = await site.rollout()
    assert (found["invited"], found["deferred"], found["silent"]) == (2, {"media": 1}, 1)
    await stream.leave()
    site.clock.advance(10)  # its tabs are not held any longer


@both
@asynchronous
async def test_tabs_that_were_asked_hear_of_the_version_again_on_their_next_stream(transport: str) -> None:
    site = StagedSite()
    tabs = [{"key": key, "version": "v1"} for key in KEYS]
    first = await site.visitor.open(transport, "?shared=1")
    await site.visitor.post("/tabs", {"connectionId": first.handle, "set": tabs, "remove": []})
    await site.release(version="v2", over=100)
    site.pass_time(99.999)
    await site.settled()
    found = await site.rollout()
    second = await site.visitor.open(transport, f"?shared=1&replaces={first.handle}")
    assert "currentVersion" not in second.connected
    await site.visitor.post("/tabs", {"connectionId": second.handle, "set": tabs, "remove": []})
    await second.next("tabs")
    await site.settled()
    told = [message for message in drained(second) if message["type"] == "to"]
    assert [each["message"]["version"] for each in told] == ["v2"] * len(told)
    assert sum(len(each["tabs"]) for each in told) == found["invited"] >= 1
    assert (await site.rollout())["invited"] == found["invited"]
    await second.leave()
    site.clock.advance(10)  # its tabs are not held any longer


@asynchronous
async def test_a_stranger_can_neither_change_nor_see_a_rollout() -> None:
    site = StagedSite()
    assert (await site.stranger.get("/admin/rollout")).status == 401
    assert (await site.stranger.post("/admin/release", {"change": "abort"})).status == 401


@asynchronous
async def test_without_a_release_there_is_none() -> None:
    site = StagedSite()
    assert await site.rollout() == {"version": None, "state": "none", "total": 0, "outdated": None, "partial": False}


@asynchronous
async def test_the_timer_of_the_loop_asks_whoever_is_due() -> None:
    site = Site()
    page = await site.visitor.open("ws", "?version=v1")
    await site.admin.post("/admin/release", {"version": "v2", "unserved": True, "over": 0.2})
    await turn_until(lambda: "version" in [message["type"] for message in page.received], "the page is asked")


@asynchronous
async def test_a_stage_of_a_route_goes_on_until_it_is_paused_or_aborted() -> None:
    site = StagedSite()
    await site.release(version="v2", route="/checkout")
    found = await site.rollout()
    assert (found["state"], found["share"]) == ("running", 1.0)
    page = await site.visitor.open("ws", "?version=v1&route=/")
    await site.release_change("pause")
    await site.visitor.navigate(page, "/checkout")
    await site.settled()
    site.pass_time(1)
    assert await told(site, [page]) == 0
    assert await told(site, [await site.visitor.open("ws", "?version=v1&route=/checkout")]) == 0
    await site.release_change("resume")
    await site.visitor.navigate(page, "/")
    await site.visitor.navigate(page, "/checkout")
    await site.settled()
    site.pass_time(1)
    assert await told(site, [page]) == 1
    await site.release_change("abort")
    assert (await site.rollout())["state"] == "aborted"


@both
@asynchronous
async def test_nobody_is_asked_while_no_node_serves_the_version_and_everybody_when_one_does_again(
    transport: str,
) -> None:
    site = StagedSite(version="v2", settle_time=0)
    await site.admin.post("/admin/release", {"version": "v2", "over": 10})
    before = await site.visitor.open(transport, "?version=v0")
    served = site.node._registry._current
    served.note(OWN, ["v1"], silent=False)
    assert (await site.admin.get("/admin/stats")).json["release"]["state"] == "orphaned"
    late = await site.visitor.open(transport, "?version=v0")
    site.pass_time(100)
    assert await told(site, [before, late]) == 0
    served.note(OWN, ["v2"], silent=False)
    site.pass_time(1)
    assert await told(site, [before, late]) == 2


@both
@asynchronous
async def test_a_page_that_was_asked_elsewhere_hears_of_the_release_at_once(transport: str) -> None:
    """The server was started anew, or the page is on another node now: it says by which release it was asked."""
    site = StagedSite()
    await site.release(version="v2", percent=1)
    number = (await site.admin.get("/admin/stats")).json["release"]["number"]
    page = await site.visitor.open(transport, f"?version=v1&release={number}")
    assert page.connected["currentVersion"] == "v2"
    assert await told(site, [page]) == 1
    for other in (number - 1, "x", "9" * 40, ""):
        stranger = await site.visitor.open(transport, f"?version=v1&release={other}")
        assert "currentVersion" not in stranger.connected, other
        assert await told(site, [stranger]) == 0
    found = await site.rollout()
    assert (found["invited"], found["silent"], found["waiting"]) == (1, 1, 4)


@asynchronous
async def test_a_stage_after_all_were_told_takes_nothing_back() -> None:
    site = StagedSite()
    await site.release(version="v2")
    number = (await site.admin.get("/admin/stats")).json["release"]["number"]
    site.pass_time(1)
    await site.release(version="v2", over=600)
    page = await site.visitor.open("ws", "?version=v1")
    assert page.connected["currentVersion"] == "v2"
    assert await told(site, [page]) == 1
    assert (await site.admin.get("/admin/stats")).json["release"]["number"] == number


@asynchronous
async def test_a_slow_peer_ends_outside_of_the_nodes_lock() -> None:
    """Hooks run then, and one may wait for a thread that needs the node."""
    site = StagedSite(max_queued_messages=1)
    page = await site.visitor.open("ws", "?version=v1")
    page.block()
    free: list[bool] = []

    @site.headcount.on_connection_close
    def closed(connection: Any, reason: str) -> None:
        free.append(lock_is_free(site))

    for number in range(2, 9):
        await site.release(version=f"v{number}")
        site.pass_time(1)
    page.unblock()
    await turn_until(lambda: free, "the stream is ended")
    assert all(free)


def lock_is_free(site: Site) -> bool:
    """Say whether another thread could take the node's lock now."""
    with ThreadPoolExecutor(1) as threads:
        taken: bool = threads.submit(site.node._lock.acquire, timeout=1).result()
        if taken:
            threads.submit(site.node._lock.release)
    return taken


@asynchronous
async def test_an_api_refuses_nobody_whose_turn_has_not_come() -> None:
    site = StagedSite()
    request = HTTPConnection(Client(site.app).scope("GET", "/", {"x-headcount-version": "v1"}))
    await site.release(version="v2", over=100)
    assert not site.headcount.is_client_outdated(request)
    site.pass_time(100)
    assert site.headcount.is_client_outdated(request)


@asynchronous
async def test_who_may_not_see_routes_may_not_choose_pages_by_route() -> None:
    site = StagedSite(hook=lambda _: Grant(routes=False, release=True))
    problem(
        await site.admin.post("/admin/notify", {"message": {}, "route": "/a", "wait": 0}), 403, "Grant(routes=True)"
    )
    problem(await site.release(version="v2", route="/a"), 403, "Grant(routes=True)")
    assert (await site.release(version="v2", over=5)).status == 200
