"""
Pages that leave, break off and come back, in a fleet of real servers on a real Redis, and what the gate makes of it.

The time for which a page is away is shortened by `AWAY_GRACE`.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kit.pages import BASE, Sse, WebSocket, ask
from kit.stores import Store

from .fleet import TOKEN
from .serving import Server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

GRACE = 8.0
BOTH = {"reporting": 2, "expected": 2, "versions": {"2026.11.3": 2}}
PATIENCE = 60.0


@asynccontextmanager
async def fleet(grace: float = GRACE) -> AsyncIterator[list[Server]]:
    """Start two servers that can say which pages are away."""
    with ExitStack() as stack:
        store = stack.enter_context(Store())
        servers = [
            stack.enter_context(
                Server(
                    "uvicorn",
                    admin_token="s3cret-of-the-tests",
                    backend=store.url,
                    fleet_name="farewells",
                    unaccounted_grace=120,
                    environment={"AWAY_GRACE": str(grace)},
                )
            )
            for _ in range(2)
        ]
        for server in servers:
            await asyncio.to_thread(server.wait_ready)
        yield servers


async def until(server: Server, what: str, **expected: Any) -> dict[str, Any]:
    """Ask a server until its figures hold this; None: they do not name it."""
    seen: dict[str, Any] = {}
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        _, seen = await ask(server.url, "GET", BASE + "/admin/stats", headers=TOKEN)
        if all(seen.get(name) == value for name, value in expected.items()):
            return dict(seen)
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what}: at last {seen}; {server.log[-2000:]}")


async def gate(server: Server) -> asyncio.subprocess.Process:
    """Start `headcount wait`."""
    return await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).parent / "headcount"), "wait", server.url, "--token", "s3cret-of-the-tests"),
        *("--version", "old", "--timeout", "3m", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def result(process: asyncio.subprocess.Process) -> dict[str, Any]:
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0, (out, err)
    return dict(json.loads(out))


async def test_the_gate_waits_for_who_broke_off_and_not_for_who_said_goodbye() -> None:
    async with fleet() as (one, two):
        await until(
            one, "both can say", awayKnown=True, nodes={"reporting": 2, "expected": 2, "versions": {"2026.11.3": 2}}
        )
        page = await Sse.open(two.url, version="old", route="/")
        socket = await WebSocket.open(two.url, version="old", route="/")
        waiting = await gate(one)
        await until(one, "both are counted", total=2)
        assert waiting.stderr is not None
        await asyncio.wait_for(waiting.stderr.readuntil(b"2 of 2 connections"), PATIENCE)
        page.fin()
        seen = await until(one, "one broke off at the other node", total=1)
        assert (seen["away"], seen["partial"]) == ({"old": 1}, False)
        back = await Sse.open(one.url, version="old", route="/", replaces=page.handle)
        await until(two, "it came back, to another node", total=2, away=None)
        socket.send_close()
        await until(one, "a close code is a farewell", total=1, away=None)
        # The handle belongs to the first node; any node takes the farewell, after the end of the stream as well.
        back.fin()
        await until(two, "it breaks off again", total=0, away={"old": 1})
        assert waiting.returncode is None
        status, answer = await ask(two.url, "POST", BASE + "/bye", {"connectionId": back.handle})
        assert (status, answer) == (200, {"ok": True})
        left = time.monotonic()
        told = await result(waiting)
        assert (told["left"], told["away"], told["most"]) == (0, 0, 2)
        print(f"open {time.monotonic() - left:.1f} s after the farewell")
        assert time.monotonic() - left < GRACE - 1, "without waiting for the grace"


async def test_the_gate_opens_when_the_time_of_a_page_that_broke_off_is_over() -> None:
    async with fleet() as (one, two):
        await until(one, "both can say", awayKnown=True)
        page = await Sse.open(two.url, version="old", route="/")
        waiting = await gate(one)
        await until(one, "it is counted", total=1)
        page.fin()
        broke_off = time.monotonic()
        await result(waiting)
        took = time.monotonic() - broke_off
        print(f"open {took:.1f} s after the end of the stream")
        assert GRACE - 0.5 < took < GRACE + 20


async def test_pages_that_are_away_are_unaccounted_for_when_their_node_dies_and_not_counted_twice() -> None:
    async with fleet(grace=120.0) as (one, two):
        viewer = await WebSocket.open(one.url, viewer="1", headers=TOKEN)
        await viewer.subscribe(one.url)
        gone, kept = [await Sse.open(two.url, version="old", route="/") for _ in range(2)]
        gone.fin()
        await until(one, "one is away", total=1, away={"old": 1}, unaccounted=None)
        await asyncio.sleep(3.5)  # the tally is written with each sign of life
        two.process.kill()
        seen = await until(one, "both are unaccounted for", total=0, unaccounted=2)
        assert "away" not in seen
        await Sse.open(one.url, version="old", route="/", replaces=gone.handle)
        await until(one, "the one that was away is back", total=1, unaccounted=1)
        kept.fin()


async def test_a_node_that_stops_hands_on_pages_that_are_away_as_on_their_way() -> None:
    async with fleet(grace=120.0) as (one, two):
        page = await Sse.open(two.url, version="old", route="/")
        page.fin()
        await until(one, "it is away", total=0, away={"old": 1})
        two.process.terminate()
        await asyncio.to_thread(two.wait, 30)
        seen = await until(one, "it is on its way", unaccounted=1)
        assert "away" not in seen
        assert [one["state"] for one in seen["absences"]] == ["leaving"]
