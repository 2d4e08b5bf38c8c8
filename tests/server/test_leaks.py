"""Nothing is left of streams that are gone."""

import asyncio
from collections.abc import Sized
from typing import Any

import pytest

from kit.pages import Sse, WebSocket, all_of, ask

from .serving import Server

pytestmark = [pytest.mark.anyio, pytest.mark.exclusive]

WAVES, WAVE = 10, 2_000
WARM_UP = 3
"""Waves after which allocators and caches have their size."""
MEGABYTE = 2**20


@pytest.mark.parametrize("command", ["uvicorn", "uvicorn-takeover", "alone"])
async def test_twenty_thousand_connections_leave_nothing_behind(command: str) -> None:
    # A page that broke off is kept for a while, and then forgotten.
    with Server(command, environment={"AWAY_GRACE": "0.5"}) as server:
        server.wait_ready()
        cookie = server.sign_in()
        # Some stay: what the gone ones leave in what is shared would else be thrown away with it.
        residents: list[Sse | WebSocket] = [await Sse.open(server.url), await WebSocket.open(server.url, cookie=cookie)]
        await residents[1].subscribe(server.url)
        states: list[dict[str, Any]] = []
        memory: list[int] = []
        for number in range(WAVES):
            await _wave(server, cookie, number)
            await residents[1].until_figures([("unknown", "/")] * len(residents))  # the last push has gone out, too
            states.append(await _quiet(server, residents))
            memory.append(server.memory())
        assert states[-1]["counters"]["opened"] == WAVES * WAVE + len(residents)
        assert states[-1]["counters"]["closed"] == WAVES * WAVE
        for state in states[WARM_UP:]:
            # One thing kept of every hundredth stream would be twenty a wave.
            for name, size in {**state["sizes"], "tasks": state["tasks"], "sockets": state["sockets"]}.items():
                assert size < {**states[0], **states[0]["sizes"]}[name] + 20, name
        # 300 bytes for each of the 14,000 connections since would show.
        grown = max(memory[WARM_UP:]) - memory[WARM_UP - 1]
        assert grown < 4 * MEGABYTE, f"{[size // 1024 for size in memory]} kB after each wave"
        assert "Traceback" not in server.log


async def _wave(server: Server, cookie: str, number: int) -> None:
    """Open, watch, navigate and leave, in every way there is."""
    url = server.url
    pages: list[Sse | WebSocket] = await all_of(
        [
            (Sse if index % 2 else WebSocket).open(
                url, cookie=cookie, version=f"v{index % 7}", route=f"/{number}/{index}", **_viewer(index)
            )
            for index in range(WAVE)
        ]
    )
    await all_of([page.subscribe(url, cookie, deltas=index % 3 > 0) for index, page in enumerate(pages[:20])])
    await all_of([page.navigate(url, f"/{number}") for index, page in enumerate(pages[:200]) if not _viewer(index)])
    for page in pages[:20]:
        await page.until(lambda s: s.figures is not None)
    for index, page in enumerate(pages):
        if page.transport.is_closing():
            continue  # a viewer that did not ask to watch within 10 s, which a busy machine takes
        leave: list[Any] = [page.fin, page.rst, page.half_close]
        if isinstance(page, WebSocket):
            leave.append(page.send_close)
        leave[index // 2 % len(leave)]()
    for page in pages:
        await page.until(lambda s: s.ended)


def _viewer(index: int) -> dict[str, Any]:
    return {"viewer": 1} if index % 100 == 50 else {}


async def _quiet(server: Server, residents: Sized) -> dict[str, Any]:
    """Wait until the server has noticed and forgotten that all others have left; return what is inside then."""
    async with asyncio.timeout(60):
        while True:
            _, inside = await ask(server.url, "GET", "/debug")
            if inside["sessions"] == inside["total"] == len(residents) and not inside["sizes"]["AwayPages._pages"]:
                answer: dict[str, Any] = inside
                return answer
            await asyncio.sleep(0.05)
