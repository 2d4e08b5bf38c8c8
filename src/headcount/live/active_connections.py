"""
The figures of an application as observable values, wherever they come from.

Inside the server process they are the node's own (live/in_process.py), anywhere else those of a viewer's stream
(client/). Both are an `ActiveConnections` over a store of `LiveState`, so code that reads one reads the other.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Literal, Self, TypeAlias

import msgspec

from ..core.current_version import CurrentRelease
from ..core.stats import ConnectionInfo, Stats
from ..errors import ClientError, NotAuthorized
from .observable import Observable, Store

Status: TypeAlias = Literal["idle", "connecting", "open", "reconnecting", "closed"]


class LiveState(msgspec.Struct, frozen=True, kw_only=True):
    """
    Everything that can be known at one moment. Immutable: every change is another object.

    Attributes:
        stats: The figures; empty unless `authorized` is True.
        your_id: Public id of the viewer's own stream.
        authorized: None while pending, False if denied, True if authorised.
        status: Of the stream; `closed` is for good.
        error: A sentence, while something is wrong.
        is_stale: The figures are old: those of a stream that was lost, or of before a gap.
        current_version: The version that was declared current, else the one that all nodes serve; None: not known.
        release: Why that version is current, or why none is, and its number; None: the server does not say.
    """

    stats: Stats = Stats()
    your_id: str | None = None
    authorized: bool | None = None
    status: Status = "idle"
    error: str | None = None
    is_stale: bool = False
    current_version: str | None = None
    release: CurrentRelease | None = None


class ActiveConnections:
    """
    The figures of an application, live. Each attribute is an `Observable`: read `.value`, derive with `.map(fn)`, watch
    with `.subscribe(fn)` or `await .changed()`.

    Attributes:
        total: Open connections.
        versions: `{version: count}`.
        routes: `{route: count}`; empty without route tracking.
        connections: Rows, at most `max_listed_connections`.
        your_id: Public id of the viewer's own stream, which is in no list; None inside the server process.
        authorized: None while pending, False if denied, True if authorised; the figures are empty unless it is True.
        stats: All figures at one revision.
        status: `idle`, `connecting`, `open`, `reconnecting`, or `closed` for good.
        error: A sentence while something is wrong, else None.
        is_stale: The figures are old: those of a stream that was lost, or of before a gap.
        partial: A node is missing from the figures.
        current_version: The version that was declared current, else the one that all nodes serve; None: not known.
        release: `.state` says why that version is current, or why none is, and `.number` orders the releases of a
            fleet; None: the server does not say.
        state: All of it at one moment.
    """

    def __init__(self, store: Store[LiveState]) -> None:
        self.state: Observable[LiveState] = Observable(store, lambda state: state)
        self.stats: Observable[Stats] = Observable(store, lambda state: state.stats)
        self.total: Observable[int] = Observable(store, lambda state: state.stats.total)
        self.versions: Observable[Mapping[str, int]] = Observable(store, lambda state: state.stats.versions)
        self.routes: Observable[Mapping[str, int]] = Observable(store, lambda state: state.stats.routes)
        self.connections: Observable[tuple[ConnectionInfo, ...]] = Observable(
            store, lambda state: state.stats.connections
        )
        self.your_id: Observable[str | None] = Observable(store, lambda state: state.your_id)
        self.authorized: Observable[bool | None] = Observable(store, lambda state: state.authorized)
        self.status: Observable[Status] = Observable(store, lambda state: state.status)
        self.error: Observable[str | None] = Observable(store, lambda state: state.error)
        self.is_stale: Observable[bool] = Observable(store, lambda state: state.is_stale)
        self.partial: Observable[bool] = Observable(store, lambda state: state.stats.partial)
        self.current_version: Observable[str | None] = Observable(store, lambda state: state.current_version)
        self.release: Observable[CurrentRelease | None] = Observable(store, lambda state: state.release)

    async def __aiter__(self) -> AsyncGenerator[Stats, None]:
        """
        Give the figures as soon as there are any, then the newest whenever they changed; a slow reader misses those
        between. Ends when the stream was closed by `aclose()`.

        Raises:
            NotAuthorized: The viewer has no right, or has lost it.
        """
        last: Stats | None = None
        while True:
            state = self.state.value
            if state.authorized is False:
                raise NotAuthorized(state.error or NOT_AUTHORIZED)
            if state.status == "closed":
                return
            if state.authorized and state.stats is not last:
                last = state.stats
                yield last
            if self.state.value is state:
                await self.state.changed()

    async def wait_for(self, condition: Callable[[Stats], Any]) -> Stats:
        """
        Wait until `condition` holds of the figures, and return them. It is called at once and after each change.

        Raises:
            NotAuthorized: The viewer has no right, or has lost it.
            ClientError: The stream was closed before it held.
        """
        # Closed here and now, or the loop would have to do it later, when it may be gone.
        async with aclosing(self.__aiter__()) as figures:
            async for stats in figures:
                if condition(stats):
                    return stats
        raise ClientError("The stream was closed before the condition held.")

    async def __aenter__(self) -> Self:
        """Return itself; a stream that has to be opened is opened."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Let go of what was opened."""


REFUSED_CREDENTIAL = "You are not authorised: the server does not accept this token; give the server's admin token."

NOT_AUTHORIZED = "This viewer is not authorised to see statistics; give the admin token, or sign in as a user who is."
