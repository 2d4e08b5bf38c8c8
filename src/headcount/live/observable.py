"""
Values that can be read, derived, watched and awaited.

A `Store` holds one immutable state; an `Observable` is a function of it. Reading one that nobody watches costs a
comparison, because it is computed when it is read and kept until the state is another object. No library: what there is
for Python brings an effect system, and types as Any (docs/adr/0009-no-signals-library.md).
"""

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

S = TypeVar("S")
T = TypeVar("T")
U = TypeVar("U")
S_co = TypeVar("S_co", covariant=True)


class Store(Protocol[S_co]):
    """Where observables read from."""

    def read(self) -> S_co:
        """Return the state now; the same object while nothing changed."""

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each change, in the running loop, until the returned function is called."""


class Observable(Generic[T]):
    """
    A value computed from a store.

    Args:
        store: Its source.
        compute: From the store's state to the value; pure.
    """

    __slots__ = ("_cached", "_compute", "_store")

    def __init__(self, store: Store[S], compute: Callable[[S], T]) -> None:
        self._store: Store[object] = store
        self._compute: Callable[..., T] = compute
        self._cached: tuple[object, T] | None = None

    @property
    def value(self) -> T:
        """The value now."""
        state = self._store.read()
        cached = self._cached
        if cached is None or cached[0] is not state:
            # In one assignment: a script may read in one thread what another one keeps up to date.
            self._cached = cached = (state, self._compute(state))
        return cached[1]

    def map(self, compute: Callable[[T], U]) -> "Observable[U]":
        """Return a value derived from this one."""
        return Observable(self._store, lambda _: compute(self.value))

    def subscribe(self, callback: Callable[[T], object]) -> Callable[[], None]:
        """
        Call `callback` with each new value, not with the present one.

        Returns:
            A function that ends it.

        Must be called in an event loop, and calls back in it.
        """
        last = self.value

        def check() -> None:
            nonlocal last
            value = self.value
            if value != last:
                last = value
                callback(value)

        return self._store.listen(check)

    async def changed(self) -> T:
        """Wait for the next value that differs from the present one, and return it."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        end = self.subscribe(lambda value: None if future.done() else future.set_result(value))
        try:
            return await future
        finally:
            end()

    def __repr__(self) -> str:
        return f"Observable({self.value!r})"
