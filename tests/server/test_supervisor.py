"""`headcount serve --workers`: one process that watches over others, and says what happens to them."""

import asyncio
import os
import signal
import subprocess
import time

import psutil
import pytest

from kit.pages import Sse, all_of
from kit.processes import BIN

from .serving import Server

pytestmark = pytest.mark.anyio


def _workers(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


async def _until_workers(server: Server, count: int, but: set[int]) -> None:
    deadline = time.monotonic() + 15
    while len({worker.pid for worker in _workers(server) if worker.status() != "zombie"} - but) < count:
        assert time.monotonic() < deadline, server.log
        await asyncio.sleep(0.02)


async def _until_said(server: Server, sentence: str) -> None:
    deadline = time.monotonic() + 15
    while server.log.count(sentence) != 1:
        assert time.monotonic() < deadline, server.log
        await asyncio.sleep(0.02)


async def test_a_worker_that_dies_is_replaced_and_that_is_said_once() -> None:
    with Server("headcount-workers") as server:
        server.wait_ready()
        await _until_said(server, "with 4 workers")
        victim = _workers(server)[0].pid
        os.kill(victim, signal.SIGKILL)
        await _until_said(server, f"Worker {victim} was killed by SIGKILL; starting a new worker now.")
        await _until_workers(server, 4, {victim})
        pages = await all_of([Sse.open(server.url) for _ in range(40)])
        assert len({page.handle[:12] for page in pages}) >= 3


@pytest.mark.exclusive
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_all_workers_drain_within_three_seconds_and_none_is_left(number: signal.Signals) -> None:
    with Server("headcount-workers") as server:
        server.wait_ready()
        pages = await all_of([Sse.open(server.url) for _ in range(200)])
        workers = _workers(server)
        started = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(server.process.pid, number)  # terminals tell all in the foreground
        else:
            server.process.send_signal(number)
        code = await asyncio.to_thread(server.wait, 10)
        assert time.monotonic() - started < 3
        assert code == (130 if number == signal.SIGINT else -signal.SIGTERM), "as with one process"
        for page in pages:
            await page.until(lambda s: s.ended)
            assert len(page.of_type("drain")) == 1
        assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers)
        assert "Traceback" not in server.log


async def test_workers_end_when_their_parent_is_killed() -> None:
    with Server("headcount-workers") as server:
        server.wait_ready()
        workers = _workers(server)
        server.process.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, workers, 6)
        assert not alive


def _serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADCOUNT_")}
    return subprocess.run(
        [BIN / "headcount", "serve", "--port", "0", "--version", "v1", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment,
    )


async def test_wrong_settings_are_said_once_and_nothing_is_started() -> None:
    done = _serve("--workers", "3", "--base-path", "wrong/")
    assert done.returncode == 2
    assert done.stderr.count("--base-path") == 1


async def test_several_workers_that_count_one_process_are_refused() -> None:
    done = _serve("--workers", "3", "--backend", "memory")
    assert done.returncode == 2
    assert "leave the backend out" in done.stderr
