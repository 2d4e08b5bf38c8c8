"""Values that are read, derived, watched and awaited."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

import pytest

from headcount.live.observable import Observable

T = TypeVar("T")


class Box(Generic[T]):
    """A store that holds what it is given and counts what is asked of it."""

    def __init__(self, state: T) -> None:
        self.state = state
        self.listeners: list[Callable[[], None]] = []

    def read(self) -> T:
        return self.state

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.listeners.append(callback)
        return lambda: self.listeners.remove(callback)

    def put(self, state: T) -> None:
        self.state = state
        for listener in list(self.listeners):
            listener()


class Doubling:
    """Doubles a number, and remembers for which it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, number: int) -> int:
        self.asked.append(number)
        return number * 2


def test_nothing_is_computed_until_it_is_read() -> None:
    box, doubling = Box(1), Doubling()
    observable = Observable(box, doubling)
    derived = observable.map(lambda number: number + 1)
    box.put(2)
    assert doubling.asked == []
    assert derived.value == 5
    assert doubling.asked == [2]


def test_a_value_is_kept_until_the_state_is_another_object() -> None:
    box, doubling = Box(1_000), Doubling()
    observable = Observable(box, doubling)
    assert (observable.value, observable.value) == (2_000, 2_000)
    assert doubling.asked == [1_000]
    box.put(int("1000"))  # equal, and another object
    assert (observable.value, observable.value) == (2_000, 2_000)
    assert doubling.asked == [1_000, 1_000]
    box.put(3)
    assert observable.value == 6


def test_none_is_a_state_and_a_value_like_any_other() -> None:
    calls = list[None]()
    observable: Observable[None] = Observable(Box(None), calls.append)
    assert observable.value is None
    assert observable.value is None
    assert calls == [None]


def test_an_error_is_not_kept() -> None:
    box = Box(0)
    observable = Observable(box, lambda number: 6 // number)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            _ = observable.value
    box.put(3)
    assert observable.value == 2


def test_a_derived_value_follows_its_source_and_is_kept_as_well() -> None:
    box, doubling = Box(1), Doubling()
    derived = Observable(box, lambda number: number).map(doubling).map(str)
    assert (derived.value, derived.value) == ("2", "2")
    assert doubling.asked == [1]
    box.put(4)
    assert derived.value == "8"
    assert doubling.asked == [1, 4]


def test_subscribers_are_called_with_new_values_only() -> None:
    box = Box(10)
    seen: list[int] = []
    Observable(box, lambda number: number // 10).subscribe(seen.append)
    assert seen == []
    for state in (11, 12, 20, 21, 10, 10):
        box.put(state)
    assert seen == [2, 1]


def test_subscribers_of_a_derived_value_are_called_when_that_one_changes() -> None:
    box = Box(1)
    seen: list[bool] = []
    Observable(box, lambda number: number).map(lambda number: number > 5).subscribe(seen.append)
    for state in (2, 3, 6, 7, 1):
        box.put(state)
    assert seen == [True, False]


def test_a_subscription_ends_without_touching_others() -> None:
    box = Box(1)
    observable = Observable(box, lambda number: number)
    first: list[int] = []
    second: list[int] = []
    end = observable.subscribe(first.append)
    observable.subscribe(second.append)
    box.put(2)
    end()
    box.put(3)
    assert (first, second) == ([2], [2, 3])
    assert len(box.listeners) == 1


def test_reading_listens_to_nothing() -> None:
    box = Box(1)
    observable = Observable(box, lambda number: number)
    _ = observable.value, observable.map(str).value
    assert box.listeners == []


def test_changed_waits_for_a_value_that_differs() -> None:
    async def scenario() -> None:
        box = Box(10)
        waiting = asyncio.create_task(Observable(box, lambda number: number // 10).changed())
        await asyncio.sleep(0)
        box.put(11)
        await asyncio.sleep(0)
        assert not waiting.done()
        box.put(20)
        box.put(30)
        assert await waiting == 2
        assert box.listeners == []

    asyncio.run(scenario())


def test_changed_that_is_cancelled_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        box = Box(1)
        waiting = asyncio.create_task(Observable(box, lambda number: number).changed())
        await asyncio.sleep(0)
        assert len(box.listeners) == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert box.listeners == []

    asyncio.run(scenario())


def test_its_repr_shows_the_value() -> None:
    assert repr(Observable(Box(1), lambda number: number)) == "Observable(1)"
