"""Driving a coroutine one step in place, and handing over what is left."""

import asyncio
import gc
from collections.abc import Generator
from typing import Any

import pytest

from headcount.asgi.one_step import Suspended, run_one_step


class Error(Exception):
    """Raised by what is driven."""


def test_what_meets_no_pause_finishes_in_place() -> None:
    done = []

    async def send() -> str:
        done.append(1)
        await nothing()
        done.append(2)
        return "sent"

    async def nothing() -> None:
        return

    assert run_one_step(send()) == "sent"
    assert done == [1, 2]


def test_what_is_no_coroutine_is_driven_as_well() -> None:
    class Ready:
        def __await__(self) -> Generator[Any, None, str]:
            yield from ()
            return "at once"

    class Pausing:
        def __await__(self) -> Generator[Any, None, None]:
            yield
            done.append(1)

    done: list[int] = []
    assert run_one_step(Ready()) == "at once"
    rest = run_one_step(Pausing())
    assert isinstance(rest, Suspended)
    assert done == []
    asyncio.run(finish(rest))
    assert done == [1]


def test_what_is_raised_before_the_first_pause_is_raised_here() -> None:
    async def send() -> None:
        raise Error

    with pytest.raises(Error):
        run_one_step(send())


async def finish(rest: Suspended[None]) -> None:
    await rest


def test_what_waits_for_a_future_is_finished_by_awaiting_the_rest() -> None:
    async def scenario() -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        got = []

        async def send() -> None:
            got.append(await future)
            await asyncio.sleep(0)
            got.append(2)

        rest = run_one_step(send())
        assert rest is not None
        task = asyncio.create_task(finish(rest))
        await asyncio.sleep(0)
        assert got == []
        future.set_result(1)
        await task
        assert got == [1, 2]

    asyncio.run(scenario())


def test_a_future_that_is_done_before_the_rest_is_awaited_is_no_trouble() -> None:
    async def scenario() -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def send() -> None:
            got.append(await future)

        got: list[int] = []
        rest = run_one_step(send())
        assert rest is not None
        future.set_result(1)
        await rest
        assert got == [1]

    asyncio.run(scenario())


def test_a_bare_pause_is_handed_over_too() -> None:
    async def scenario() -> None:
        got = []

        async def send() -> None:
            for number in range(3):
                await asyncio.sleep(0)
                got.append(number)

        rest = run_one_step(send())
        assert rest is not None
        assert got == []
        await rest
        assert got == [0, 1, 2]

    asyncio.run(scenario())


@pytest.mark.parametrize("pauses", [1, 2])
def test_what_is_raised_after_a_pause_is_raised_to_whoever_awaits_the_rest(pauses: int) -> None:
    async def scenario() -> None:
        async def send() -> None:
            for _ in range(pauses):
                await asyncio.sleep(0)
            raise Error

        rest = run_one_step(send())
        assert rest is not None
        with pytest.raises(Error):
            await rest

    asyncio.run(scenario())


def test_a_future_that_fails_fails_inside_the_coroutine() -> None:
    async def scenario() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        caught = []

        async def send() -> None:
            try:
                await future
            except Error as error:
                caught.append(error)
                await asyncio.sleep(0)
                caught.append(error)

        rest = run_one_step(send())
        assert rest is not None
        future.set_exception(Error())
        await rest
        assert len(caught) == 2

    asyncio.run(scenario())


def test_cancelling_a_task_with_the_rest_runs_the_coroutine_s_finally() -> None:
    async def scenario() -> None:
        ended = []

        async def send() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(0)
                ended.append(True)

        rest = run_one_step(send())
        assert rest is not None
        task = asyncio.create_task(finish(rest))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]

    asyncio.run(scenario())


@pytest.mark.parametrize("with_task", [True, False], ids=["by a task that never started", "at once"])
def test_a_rest_that_is_dropped_runs_the_coroutine_s_finally(with_task: bool) -> None:
    async def scenario() -> None:
        ended = []

        async def send() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append(True)

        rest = run_one_step(send())
        assert rest is not None
        if with_task:
            task = asyncio.create_task(finish(rest))
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            del task
        del rest
        gc.collect()
        assert ended == [True]

    asyncio.run(scenario())


def test_a_cancellation_after_the_first_pause_reaches_the_coroutine_too() -> None:
    async def scenario() -> None:
        ended = []

        async def send() -> None:
            await asyncio.sleep(0)
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                ended.append(True)
                raise

        rest = run_one_step(send())
        assert rest is not None
        task = asyncio.create_task(finish(rest))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]

    asyncio.run(scenario())


def test_a_coroutine_may_survive_its_cancellation() -> None:
    async def scenario() -> None:
        async def send() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                return

        rest = run_one_step(send())
        assert rest is not None
        task = asyncio.create_task(finish(rest))
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(scenario())


def test_a_second_cancellation_reaches_a_coroutine_that_still_cleans_up_after_the_first() -> None:
    async def scenario() -> None:
        never = asyncio.get_running_loop().create_future
        ended = []

        async def send() -> None:
            try:
                await never()
            except asyncio.CancelledError:
                try:
                    await never()
                except asyncio.CancelledError:
                    ended.append("inner")
                    await asyncio.sleep(0)
                    ended.append("after another pause")
                    raise

        rest = run_one_step(send())
        assert rest is not None
        task = asyncio.create_task(finish(rest))
        for _ in range(2):
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == ["inner", "after another pause"]

    asyncio.run(scenario())
