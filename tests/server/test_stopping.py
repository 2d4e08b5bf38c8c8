"""Servers that are told to stop while pages are open: they stop, soon, and send the pages away spread over time."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kit.machine import slowdown
from kit.pages import Sse, WebSocket, all_of

from .serving import TAKEN_OVER, Server

pytestmark = [pytest.mark.anyio, pytest.mark.exclusive]

SECONDS = 3.0
"""In which a server must be gone, on an idle machine."""
SPREAD = 5_000
"""The default of `reconnect_spread`, in ms."""

CASES = [
    (server, number)
    for server in (
        "uvicorn",
        "uvicorn-plain",
        "uvicorn-fd",
        "hypercorn",
        "granian",
        "gunicorn",
        "headcount-serve",
        *TAKEN_OVER,
    )
    for number in (signal.SIGTERM, signal.SIGINT)
]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[tuple[str, signal.Signals], Server]]:
    """Start one for each case, all at once."""
    with ExitStack() as stack:
        started = {(command, number): stack.enter_context(Server(command)) for command, number in CASES}
        for server in started.values():
            server.wait_ready()
        yield started


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1].name}")
async def test_a_server_with_open_streams_stops_and_tells_every_page_when_to_come_back(
    case: tuple[str, signal.Signals], servers: dict[tuple[str, signal.Signals], Server]
) -> None:
    command, number = case
    server = servers[case]
    pages = await all_of([Sse.open(server.url) for _ in range(500)])
    sockets = await all_of([WebSocket.open(server.url) for _ in range(100)])

    started = time.monotonic()
    if number == signal.SIGTERM:
        server.process.terminate()  # process supervisors tell the process that they started,
    else:
        os.killpg(server.process.pid, signal.SIGINT)  # terminals tell all in the foreground
    await asyncio.to_thread(server.wait, 30)
    seconds = time.monotonic() - started
    limit = SECONDS * slowdown()
    assert seconds < limit, f"it took {seconds:.1f} s of {limit:.1f}"

    for page in pages:
        await page.until(lambda s: s.ended)
    delays = []
    for page in pages:
        drains = page.of_type("drain")
        assert len(drains) == 1, page.messages
        assert page.messages[-1] is drains[0], "nothing comes after a drain"
        assert page.retries == [drains[0]["reconnectMs"]]
        assert page.finished, "the stream ends as HTTP has it, not by cutting it"
        delays.append(drains[0]["reconnectMs"])
    quarters = Counter(min(delay * 4 // SPREAD, 3) for delay in delays)
    # 125 of 500 are due in each quarter; 75 is five standard deviations away.
    assert set(quarters) == {0, 1, 2, 3}, quarters
    assert min(quarters.values()) > 75, quarters

    for sock in sockets:
        await sock.until(lambda s: s.ended)
    codes = Counter(sock.close_code for sock in sockets)
    if command == "granian":
        # Granian cuts WebSockets when it begins to stop. Ctrl-C reaches its worker too, which may close some before.
        if number == signal.SIGTERM:
            assert codes == {1006: 100}
        else:
            assert set(codes) <= {1006, 1012}
    else:
        assert codes == {1012: 100}
    if command in ("hypercorn", "headcount-serve", *TAKEN_OVER):
        # They leave open WebSockets to us; uvicorn closes them itself, with the right code and no drain.
        waits = [sock.of_type("drain")[0]["reconnectMs"] for sock in sockets]
        assert len(set(waits)) > 50
    elif command != "granian":
        assert not any(sock.of_type("drain") for sock in sockets), "docs/deployment.md says so"

    if command != "headcount-serve":
        assert server.marks == ["started", "stopped"], "the application's own shutdown has run"
    assert "Traceback" not in server.log
    assert "ERROR" not in server.log, server.log[-3000:]


async def test_a_server_whose_only_pages_are_on_another_address_stops_as_well() -> None:
    # Listening on all addresses, the address that streams came in by is not the listener's own.
    with Server("uvicorn", host="0.0.0.0") as server:
        server.wait_ready()
        pages = [await Sse.open(f"http://127.0.0.{number}:{server.port}") for number in (1, 2, 3)]
        server.process.terminate()
        await asyncio.to_thread(server.wait, SECONDS * slowdown())
        for page in pages:
            await page.until(lambda s: s.ended)
            assert len(page.of_type("drain")) == 1


async def test_a_server_without_streams_stops_at_once() -> None:
    with Server("uvicorn") as server:
        server.wait_ready()
        page = await Sse.open(server.url)
        page.fin()
        server.process.terminate()
        await asyncio.to_thread(server.wait, SECONDS * slowdown())
        assert server.marks == ["started", "stopped"]
