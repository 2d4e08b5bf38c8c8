"""`headcount swarm`: real pages from one process, on loopback only."""

import asyncio
import itertools
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from headcount.client import use_active_connections
from headcount.tools.swarm import Plan, Swarm, Tally
from kit.listener import Listener
from kit.proxy import Proxy

from .processes import TOKEN, VERSION, Serve
from .running import Command, run
from .terminal import Terminal

pytestmark = pytest.mark.anyio
OUTDATED = ("--versions", "v1", "--reload-within", "1s", "--navigate", "0", "--json")


@pytest.fixture(scope="module")
def server() -> Iterator[Serve]:
    with Serve(stats_interval=0.02, reconnect_spread=0.2) as serving:
        yield serving


def swarm(server: Serve, *arguments: str) -> Command:
    return Command("swarm", server.origin, "--token", TOKEN, "--rate", "2000", *arguments)


async def ended(command: Command) -> dict[str, Any]:
    command.signal(signal.SIGINT)
    assert await asyncio.to_thread(command.end) == 0, command.output
    assert "Traceback" not in command.output
    told: dict[str, Any] = json.loads(command.output[command.output.rindex('{"connections"') :])
    return told


@pytest.mark.parametrize("strategy", ["sse", "ws", "auto"])
async def test_pages_are_counted_by_version_and_route_and_say_goodbye(server: Serve, strategy: str) -> None:
    old, new = f"old-{strategy}", f"new-{strategy}"
    async with asyncio.timeout(60), use_active_connections(server.url, token=TOKEN) as live:
        await live.wait_for(lambda stats: stats.total == 0)
        arguments = [
            "--connections",
            "300",
            "--versions",
            f"{old}:2,{new}:1",
            "--routes",
            "/a,/b",
            "--navigate",
            "0.5s",
        ]
        with swarm(server, *arguments, "--update-strategy", strategy, "--json") as command:
            stats = await live.wait_for(lambda stats: stats.total == 300)
            assert stats.versions == {old: 200, new: 100}
            assert set(stats.routes) == {"/a", "/b"}
            first = {row.id: row.route for row in stats.connections}
            await live.wait_for(lambda stats: sum(first.get(row.id) != row.route for row in stats.connections) > 50)
            told = await ended(command)
        assert told["everOpen"] == told["mostOpen"] == 300
        assert told["navigations"] > 50
        assert (told["refused"], told["lost"], told["failedNavigations"], told["errors"]) == (0, 0, 0, {})
        assert told["openedAfterMs"]["median"] <= told["openedAfterMs"]["p99"]
        stats = await live.wait_for(lambda stats: stats.total == 0)
        assert not {old, new} & stats.away.keys(), "no page is taken for one that broke off"


async def test_after_a_release_pages_reload_onto_it(server: Serve) -> None:
    async with asyncio.timeout(60), use_active_connections(server.url, token=TOKEN) as live:
        arguments = ["--release", "released", "--release-after", "0.5s", "--reload-within", "1s", "--json"]
        with swarm(server, "--connections", "50", *arguments) as command:
            await live.wait_for(lambda stats: stats.versions.get(VERSION, 0) > 0)
            await live.wait_for(lambda stats: stats.versions == {"released": 50})
            told = await ended(command)
        assert told["reloads"] == 50


async def test_pages_acknowledge_messages_and_reply_to_the_release_that_each_was_asked_to_follow() -> None:
    """Half of the pages have event streams. A part of the release asks some pages and leaves the others alone."""
    with Serve(stats_interval=0.02, version="v2") as own, swarm(own, "--connections", "50", *OUTDATED) as command:
        async with asyncio.timeout(60), use_active_connections(own.url, token=TOKEN) as live:
            await live.wait_for(lambda stats: stats.total == 50)
            notice = await operate("notify", own.origin, "--message", '{"type":"sale"}')
            assert notice == "Sent to 50 pages; 50 acknowledged it.\n"
            await operate("release", "v2", own.origin, "--percent", "50")
            found = await rollout(own, lambda found: found["invited"] and not found["silent"])
            assert found["accepted"] == found["invited"]
            assert found["waiting"] == 50 - found["invited"] > 0
            await operate("release", "v2", own.origin)
            found = await rollout(own, lambda found: found["accepted"] == 50)
            assert (found["gone"], found["silent"], found["waiting"]) == (0, 0, 0)
        await ended(command)


async def operate(*arguments: str) -> str:
    done = await asyncio.to_thread(run, *arguments, "--token", TOKEN)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def rollout(server: Serve, until: Any) -> dict[str, Any]:
    while True:
        answer = await asyncio.to_thread(
            httpx.get, f"{server.url}/admin/rollout", headers={"authorization": f"Bearer {TOKEN}"}
        )
        if until(found := answer.json()):
            return dict(found)
        await asyncio.sleep(0.05)


async def test_a_release_that_fails_is_told_and_no_success(server: Serve) -> None:
    arguments = ["--connections", "5", "--release", "next", "--release-after", "0.2s", "--duration", "1s"]
    done = await asyncio.to_thread(run, "swarm", server.origin, "--token", "wrong", *arguments)
    assert done.returncode == 1
    assert "headcount: The release failed. You are not authorised: the server does not accept this token" in done.stderr
    assert done.stdout.startswith("5 of 5 pages were open")


async def test_a_release_that_is_not_answered_before_the_end_is_waited_for(server: Serve) -> None:
    arguments = ["--connections", "5", "--release", "next", "--release-after", "4s", "--duration", "4.5s"]
    async with Proxy(server.port) as proxy, use_active_connections(server.url, token=TOKEN) as live:
        origin = f"http://127.0.0.1:{proxy.port}"
        running = asyncio.create_task(asyncio.to_thread(run, "swarm", origin, "--token", "wrong", *arguments))
        async with asyncio.timeout(60):
            await live.wait_for(lambda stats: stats.total == 5)
        proxy.delay = 1.0  # the question and the answer take a second each
        done = await running
    assert done.returncode == 1, done.stdout
    assert "headcount: The release failed. You are not authorised" in done.stderr


async def test_pages_lose_their_connection_and_come_back(server: Serve) -> None:
    async with asyncio.timeout(60), use_active_connections(server.url, token=TOKEN) as live:
        with swarm(server, "--connections", "50", "--reconnect", "0.3s", "--navigate", "0", "--json") as command:
            ids: set[str] = set()

            def seen(stats: Any) -> bool:
                ids.update(row.id for row in stats.connections)
                return len(ids) > 200  # more than are asserted below: a row may be here before its page has counted it

            await live.wait_for(seen)
            told = await ended(command)
        assert told["reconnects"] >= 100
        assert told["lost"] == 0


async def test_a_restart_of_the_server_is_survived() -> None:
    with Serve(reconnect_spread=0.2) as own, swarm(own, "--connections", "40", "--json") as command:
        async with asyncio.timeout(60), use_active_connections(own.url, token=TOKEN) as live:
            await live.wait_for(lambda stats: stats.total == 40)
            await asyncio.to_thread(own.stop)
            await asyncio.to_thread(own.start)
            await live.wait_for(lambda stats: stats.total == 40 and not live.is_stale.value)
        told = await ended(command)
    assert told["reconnects"] >= 40
    assert told["drains"] >= 40


async def test_pages_behind_a_proxy_that_ends_streams_stay_in_the_figures(server: Serve) -> None:
    """The whole of it, 200 pages and ten minutes, is bench/cuts.py; the rule alone is played in tests/core."""
    pages = 20
    async with Proxy(server.port) as proxy, use_active_connections(server.url, token=TOKEN) as live:
        await live.wait_for(lambda stats: stats.total == 0)
        proxy.life = 2.5
        plan = Plan(pages, {"v1": 1}, ("/",), navigate=0.0)
        swarm = Swarm(f"http://127.0.0.1:{proxy.port}/__skew", plan)
        running = asyncio.create_task(swarm.run())
        try:
            async with asyncio.timeout(90):
                while swarm.tally.events["renewals"] < pages:
                    await asyncio.sleep(0.05)
            # Each page has learnt the limit by now, or is about to.
            totals = []
            for _ in range(50):
                totals.append(live.total.value)
                await asyncio.sleep(0.1)
        finally:
            running.cancel()
            await asyncio.wait([running])
        assert max(totals) <= pages, "no page is counted twice while it changes streams"
        # Without renewals it is about 80 %, and with delays that grow from cut to cut less than half.
        assert sum(totals) / len(totals) >= 0.9 * pages
        async with asyncio.timeout(30):
            await live.wait_for(lambda stats: stats.total == 0)


FIXTURE = json.loads((Path(__file__).parents[2] / "protocol/fixtures/reconnect.json").read_text())


def answering(status: int, kind: str | None, body: str = "hi") -> bytes:
    content_type = f"Content-Type: {kind}\r\n" if kind else ""
    return (
        f"HTTP/1.1 {status} X\r\n{content_type}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
    )


@asynccontextmanager
async def swarming(swarm: Swarm) -> AsyncIterator[Tally]:
    running = asyncio.create_task(swarm.run())
    try:
        async with asyncio.timeout(60):
            yield swarm.tally
    finally:
        running.cancel()
        await asyncio.wait([running])


@pytest.mark.parametrize("case", FIXTURE["posts"], ids=lambda case: case["name"])
async def test_a_navigation_arrives_when_headcount_says_so(case: dict[str, Any], server: Serve) -> None:
    own = answering(case["status"], case["contentType"], case["body"])
    async with Proxy(server.port) as proxy:
        proxy.answer = lambda method, _: own if method == "POST" else None
        plan = Plan(1, {"v1": 1}, ("/",), navigate=0.05, strategy="sse")
        async with swarming(Swarm(f"http://127.0.0.1:{proxy.port}/__skew", plan)) as tally:
            while not tally.events["posted"] and not tally.events["failed navigations"]:
                await asyncio.sleep(0.01)
            assert tally.open == 1, "its stream stays open meanwhile"
    assert bool(tally.failure) == (case["outcome"] != "done") == (not tally.events["posted"])
    for part in case["says"]:
        assert part in tally.failure


@pytest.mark.parametrize(("status", "kind"), [(200, "text/html"), (404, "text/html"), (501, "text/html")])
async def test_navigations_that_never_reach_headcount_are_no_success(status: int, kind: str, server: Serve) -> None:
    own = answering(status, kind)
    arguments = ["--connections", "5", "--update-strategy", "sse", "--navigate", "0.2s", "--duration", "2s"]
    async with Proxy(server.port) as proxy:
        proxy.answer = lambda method, _: own if method == "POST" else None
        done = await asyncio.to_thread(run, "swarm", f"http://127.0.0.1:{proxy.port}", *arguments)
    assert done.returncode == 1, done.stdout
    assert "headcount: No navigation reached Headcount." in done.stderr
    assert f"/__skew/route answered {status} with {kind}, not Headcount" in done.stderr
    assert done.stdout.startswith("5 of 5 pages were open")


@pytest.mark.parametrize("bad", ["ws", "sse"])
async def test_with_auto_pages_use_the_kind_of_stream_that_gets_through(bad: str, server: Serve) -> None:
    async with Proxy(server.port) as proxy:
        proxy.answer = lambda _, path: answering(200, "text/html") if path == f"/__skew/{bad}" else None
        plan = Plan(6, {"v1": 1}, ("/",), navigate=0.0, strategy="auto")
        async with swarming(Swarm(f"http://127.0.0.1:{proxy.port}/__skew", plan)) as tally:
            while tally.open < 6:
                await asyncio.sleep(0.01)
    assert proxy.requests.count(f"GET /__skew/{bad}") == 3, "half of the pages prefer it, and each tries it once"


async def test_it_ends_when_time_is_up_and_says_what_happened(server: Serve) -> None:
    done = await asyncio.to_thread(run, "swarm", server.origin, "--connections", "20", "--duration", "1s")
    assert done.returncode == 0
    assert done.stdout.startswith("20 of 20 pages were open, 20 at once.\nTime to open a stream: ")
    assert "0 of 20 open" in done.stderr


async def test_progress_is_one_line_on_a_terminal(server: Serve) -> None:
    with Terminal("swarm", server.origin, "--connections", "20", "--duration", "2s") as terminal:
        await asyncio.to_thread(terminal.until, "████████████ 100% 20 of 20 open")
        assert await asyncio.to_thread(terminal.end) == 0
        assert "20 of 20 pages were open" in terminal.text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["http://127.0.0.1:9"], 1, "no server is listening"),
        (["https://www.example.com"], 2, "add --yes if you may put it under load"),
        (["{url}", "--versions", "v1:many"], 2, "write it as v1:3,v2:1"),
        (["{url}", "--routes", "products"], 2, "Each route needs a leading slash"),
        (["{url}", "--connections", "0"], 2, "--connections"),
        (["{url}", "--release", "v2", "--duration", "5s"], 2, "give a shorter --release-after"),
        (["{url}/elsewhere"], 1, "base path"),
    ],
)
async def test_what_goes_wrong_is_said_in_a_sentence(
    server: Serve, arguments: list[str], code: int, words: str
) -> None:
    done = await asyncio.to_thread(run, "swarm", *[word.format(url=server.url) for word in arguments])
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_server_that_is_full_is_told(server: Serve) -> None:
    with Serve(max_connections=10) as own:
        done = await asyncio.to_thread(
            run, "swarm", own.origin, "--connections", "20", "--duration", "1s", "--json", "--update-strategy", "sse"
        )
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["everOpen"] == 10
    assert told["refused"] >= 10
    assert "503 Service Unavailable" in told["errors"]


@pytest.mark.parametrize("together", [True, False])
async def test_a_page_answers_pings_of_its_websocket(together: bool) -> None:
    ponged = asyncio.get_running_loop().create_future()
    hello = b'{"type":"connected","connectionId":"a.b"}'
    long = b'{"type":"news","text":"' + b"x" * 70_000 + b'"}'
    frames = (
        bytes((0x81, len(hello))) + hello,
        b"\x81\x7f" + len(long).to_bytes(8, "big") + long,
        b"\x89\x04ab\x89\x04",
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        sent = b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + b"".join(frames)
        # In one piece, or cut within the length of the long frame and within the ping.
        cuts = [0, len(sent)] if together else [0, len(sent) - len(long) - 12, len(sent) - 3, len(sent)]
        for start, end in itertools.pairwise(cuts):
            writer.write(sent[start:end])
            await writer.drain()
            await asyncio.sleep(0.05)  # else they come in one piece all the same
        ponged.set_result(await reader.readexactly(10))
        writer.close()

    async with asyncio.timeout(30), Listener(serve) as server:
        plan = Plan(1, {"v1": 1}, ("/",), navigate=0, strategy="ws")
        life = asyncio.create_task(Swarm(f"{server.url}/__skew", plan).run())
        head, mask, text = (pong := await ponged)[:2], pong[2:6], pong[6:]
        life.cancel()
        await asyncio.wait([life])
    assert head == b"\x8a\x84"
    assert bytes(byte ^ mask[at % 4] for at, byte in enumerate(text)) == b"ab\x89\x04"
