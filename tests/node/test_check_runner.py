"""Whose right is checked next, and that nobody's crowd holds up anybody else."""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from headcount import Grant
from headcount.errors import Busy
from headcount.node import check_queue
from headcount.node.check_queue import CheckQueue
from headcount.node.check_runner import CheckRunner


class Hook:
    """An application's hook that answers when a test says so."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.most = 0
        self.open = asyncio.Event()
        self.begun: list[str] = []

    def check(self, name: str, credentials: bytes = b"", address: str = "1.1.1.1") -> Any:
        hook = self

        class Check:
            async def __call__(self) -> Grant | None:
                hook.begun.append(name)
                hook.running.append(name)
                hook.most = max(hook.most, len(hook.running))
                try:
                    await hook.open.wait()
                    await asyncio.sleep(0)
                finally:
                    hook.running.remove(name)
                return Grant() if credentials.startswith(b"good") else None

            def describe(self) -> dict[str, Any] | None:
                return None

            def visitor(self) -> tuple[bytes, str] | None:
                return credentials, address

            def question(self) -> object | None:
                return None

        return Check()


def runner_of(limit: int, timeout: float = 10.0) -> CheckRunner:
    runner = CheckRunner(timeout, defaultdict(int), asyncio.get_running_loop().time)
    runner.queue.limit = limit
    return runner


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def run(test: Callable[[], Any]) -> Callable[[], None]:
    def wrapped() -> None:
        asyncio.run(test())

    wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
    return wrapped


@run
async def test_unproven_checks_run_three_quarters_at_once_and_viewers_with_a_right_always_have_a_place() -> None:
    hook = Hook()
    runner = runner_of(8)
    crowd = [asyncio.create_task(runner.run(hook.check("crowd"))) for _ in range(400)]
    await turns()
    assert hook.running == ["crowd"] * 6
    again = [asyncio.create_task(runner.run(hook.check("viewer"), has_right=True)) for _ in range(3)]
    await turns()
    assert hook.running == ["crowd"] * 6 + ["viewer"] * 2
    hook.open.set()
    await asyncio.gather(*again, *crowd)
    assert hook.begun[8] == "viewer", "before all unproven checks that came earlier"
    assert hook.most == 8
    assert runner.queue._running == runner.queue._unproven_running == runner.queue.waiting == 0


@run
async def test_who_asks_once_waits_for_one_turn_of_a_crowd_and_not_for_the_crowd() -> None:
    hook = Hook()
    runner = runner_of(4)
    crowd = [asyncio.create_task(runner.run(hook.check("crowd"))) for _ in range(400)]
    await turns()
    admin = asyncio.create_task(runner.run(hook.check("admin", b"good"), for_request=True))
    other = asyncio.create_task(runner.run(hook.check("other", b"good", "2.2.2.2")))
    await turns()
    hook.open.set()
    assert await admin == await other == Grant()
    assert max(hook.begun.index("admin"), hook.begun.index("other")) <= 3 + 3
    await asyncio.gather(*crowd)
    assert Counter(hook.begun) == {"crowd": 400, "admin": 1, "other": 1}


@run
async def test_credentials_that_were_granted_go_first_and_those_that_are_made_up_do_not() -> None:
    hook = Hook()
    hook.open.set()
    runner = runner_of(4)
    assert await runner.run(hook.check("viewer", b"good cookie")) == Grant()
    assert await runner.run(hook.check("stranger", b"bad cookie")) is None
    hook.open.clear()
    crowd = [asyncio.create_task(runner.run(hook.check("crowd", b"bad %d" % number))) for number in range(100)]
    await turns()
    hook.begun.clear()
    viewer = asyncio.create_task(runner.run(hook.check("viewer", b"good cookie")))
    await turns()
    assert hook.begun == ["viewer"]
    assert b"good cookie" not in runner._proven_until, "no credential is kept"
    hook.open.set()
    assert await viewer == Grant()
    await asyncio.gather(*crowd)


@run
async def test_who_waits_too_long_or_behind_too_many_is_denied_and_counted() -> None:
    hook = Hook()
    runner = runner_of(4, timeout=0.05)
    crowd = [asyncio.create_task(runner.run(hook.check("crowd"))) for _ in range(3)]
    await turns()
    assert await runner.run(hook.check("late")) is None
    assert runner._counters["authorize_errors"] == 1
    assert "late" not in hook.begun
    hook.open.set()
    await asyncio.gather(*crowd)
    assert runner.queue._running == runner.queue.waiting == 0


def test_the_denial_of_those_who_waited_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        hook = Hook()
        runner = runner_of(4, timeout=0.02)
        busy = [asyncio.create_task(runner.run(hook.check("crowd"))) for _ in range(10)]
        await asyncio.gather(*busy)

    caplog.set_level(logging.WARNING)
    asyncio.run(main())
    assert len([record for record in caplog.records if "were waiting for authorize_stats" in record.getMessage()]) == 1


@run
async def test_the_queue_is_bounded_and_a_cancelled_turn_is_given_on() -> None:
    queue = CheckQueue(4)
    for _ in range(3):
        await queue.enter("a", priority=False)
    waiting = [asyncio.create_task(queue.enter("a", priority=False)) for _ in range(check_queue.MAX_WAITING)]
    await turns()
    with pytest.raises(Busy):
        await queue.enter("b", priority=False)
    await queue.enter("viewer", priority=True)
    queue.leave(priority=True)
    waiting[1].cancel()
    await turns()
    queue.leave(priority=False)
    waiting[0].cancel()  # its turn has just come
    await turns()
    await asyncio.wait_for(waiting[2], 1)
    for task in waiting[3:]:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert queue.waiting == 0
    assert (queue._running, queue._unproven_running) == (3, 3)


def test_places_are_shared_by_several_event_loops_and_survive_one_that_is_closed() -> None:
    queue = CheckQueue(1)
    queue.limit = 2

    async def take() -> None:
        await queue.enter("a", priority=False)
        await queue.enter("viewer", priority=True)

    asyncio.run(take())

    async def wait_in_vain() -> None:
        task = asyncio.create_task(queue.enter("viewer", priority=True))
        await turns()
        turn = queue._priority[0]
        queue._priority.append(turn)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(wait_in_vain())
    assert len(queue._priority) == 1, "of a loop that is closed"
    queue.leave(priority=False)
    queue.leave(priority=True)
    assert queue._running == 0
