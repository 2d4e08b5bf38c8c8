"""Calls and coroutines in an event loop, from any thread."""

import asyncio
import gc
import inspect
import threading
from collections.abc import Iterator

import pytest

from headcount.loops import Tasks, call_in_loop, catch_up_with, run_in_loop, running_loop

pytestmark = pytest.mark.anyio


@pytest.fixture
def other() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def closed_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.close()
    return loop


def test_without_a_loop_none_is_running() -> None:
    assert running_loop() is None


async def test_the_running_loop_is_found() -> None:
    assert running_loop() is asyncio.get_running_loop()


async def test_a_call_in_the_running_loop_happens_at_once() -> None:
    calls: list[tuple[int, str]] = []
    assert call_in_loop(asyncio.get_running_loop(), lambda *args: calls.append(args), 1, "a")
    assert calls == [(1, "a")]


async def test_an_error_of_a_call_in_the_running_loop_reaches_the_caller() -> None:
    def fail() -> None:
        raise RuntimeError("of the call")

    with pytest.raises(RuntimeError, match="of the call"):
        call_in_loop(asyncio.get_running_loop(), fail)


async def test_a_call_in_another_loop_happens_there(other: asyncio.AbstractEventLoop) -> None:
    called = threading.Event()
    found: list[asyncio.AbstractEventLoop | None] = []

    def call() -> None:
        found.append(running_loop())
        called.set()

    assert call_in_loop(other, call)
    assert called.wait(5)
    assert found == [other]


def test_a_call_from_a_thread_without_a_loop_happens_in_the_loop(other: asyncio.AbstractEventLoop) -> None:
    called = threading.Event()
    assert call_in_loop(other, called.set)
    assert called.wait(5)


async def test_a_call_in_a_closed_loop_does_not_happen() -> None:
    calls: list[None] = []
    assert not call_in_loop(closed_loop(), calls.append, None)
    assert not calls


async def where() -> tuple[asyncio.AbstractEventLoop, asyncio.Task[object] | None]:
    await asyncio.sleep(0)
    return asyncio.get_running_loop(), asyncio.current_task()


async def test_a_coroutine_of_the_running_loop_runs_in_this_task() -> None:
    loop = asyncio.get_running_loop()
    assert await run_in_loop(loop, where()) == (loop, asyncio.current_task())


async def test_a_coroutine_runs_in_another_loop(other: asyncio.AbstractEventLoop) -> None:
    assert (await run_in_loop(other, where()))[0] is other


async def test_an_error_of_another_loop_reaches_the_caller(other: asyncio.AbstractEventLoop) -> None:
    async def fail() -> None:
        raise ValueError("over there")

    with pytest.raises(ValueError, match="over there"):
        await run_in_loop(other, fail())


@pytest.mark.filterwarnings("error")
async def test_a_coroutine_for_a_closed_loop_raises_and_is_closed() -> None:
    coroutine = where()
    with pytest.raises(RuntimeError):
        await run_in_loop(closed_loop(), coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


async def test_a_task_is_held_until_it_ends() -> None:
    tasks, ended = Tasks(), asyncio.Event()

    async def wait() -> str:
        await ended.wait()
        return "done"

    task = tasks.start(wait())
    gc.collect()
    assert list(tasks) == [task]
    assert len(tasks) == 1
    ended.set()
    assert await task == "done"
    await asyncio.sleep(0)
    assert not len(tasks)


async def test_a_task_that_fails_is_released() -> None:
    async def fail() -> None:
        raise ValueError("in a task")

    tasks = Tasks()
    task = tasks.start(fail(), asyncio.get_running_loop())
    with pytest.raises(ValueError, match="in a task"):
        await task
    assert not len(tasks)


async def test_whoever_catches_up_with_a_loop_waits_for_what_it_does(other: asyncio.AbstractEventLoop) -> None:
    begun, release, done = threading.Event(), threading.Event(), False

    def work() -> None:
        nonlocal done
        begun.set()
        release.wait(10)
        done = True

    other.call_soon_threadsafe(work)
    await asyncio.to_thread(begun.wait, 10)
    assert not await catch_up_with(other, 0.01)
    waiting = asyncio.ensure_future(catch_up_with(other, 10))
    release.set()
    assert await waiting
    assert done


async def test_a_closed_loop_and_the_running_one_have_been_caught_up_with() -> None:
    assert await catch_up_with(closed_loop(), 10)
    assert await catch_up_with(asyncio.get_running_loop(), 10)
