"""Threads for functions that may hang: how many there are, and that nobody's place is lost."""

import asyncio
import contextvars
import threading

import pytest

from headcount.authorization.threads import Threads

word: contextvars.ContextVar[str] = contextvars.ContextVar("word")


def test_result_and_exception_come_back_and_context_is_there() -> None:
    threads = Threads()

    def stops() -> None:
        raise StopIteration

    async def main() -> None:
        word.set("told")
        assert await threads.run(word.get) == "told"
        with pytest.raises(ValueError, match="x"):
            await threads.run(int, "x")
        with pytest.raises(RuntimeError, match="StopIteration"):
            await threads.run(stops)
        assert await threads.run(lambda: threading.current_thread().daemon)

    asyncio.run(main())
    assert threads.running == 0


def test_a_place_is_free_when_its_thread_has_ended_and_not_before() -> None:
    threads = Threads(1)
    release = threading.Event()

    async def main() -> None:
        hanging = asyncio.create_task(threads.run(release.wait, 20))
        await asyncio.sleep(0)
        hanging.cancel()
        await asyncio.wait([hanging])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await threads.run(int, 1)
        assert threads.running == 1
        waiting = asyncio.create_task(threads.run(int, 2))
        await asyncio.sleep(0)
        release.set()
        assert await waiting == 2

    asyncio.run(main())
    assert threads.running == 0


def test_a_place_given_to_whoever_was_cancelled_goes_to_the_next() -> None:
    threads = Threads(1)

    async def main() -> None:
        await threads._enter()
        first, second = (asyncio.create_task(threads._enter()) for _ in range(2))
        await asyncio.sleep(0)
        threads._leave()
        first.cancel()  # in the same moment
        await asyncio.wait([first, second], timeout=10)
        assert first.cancelled()
        assert second.done()
        threads._leave()

    asyncio.run(main())
    assert threads.running == 0


def test_loops_share_the_places_and_one_that_is_closed_holds_none() -> None:
    threads = Threads(1)
    release = threading.Event()

    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(threads.run(release.wait, 20)), loop.create_task(threads.run(int, 1))]
    loop.run_until_complete(asyncio.sleep(0))
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def main() -> None:
        waiting = asyncio.create_task(threads.run(int, 3))
        await asyncio.sleep(0)
        release.set()
        assert await waiting == 3

    asyncio.run(main())
    assert threads.running == 0
