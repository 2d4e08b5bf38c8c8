"""
The timers of event loops: one tick twice a second for each loop, however many connections there are.

Keepalives come from a wheel: each session sits in one slot and is served when the hand passes, so the work is spread
evenly over the interval, and 10,000 connections need one timer.

Tests: tests/asgi/test_slow_peers.py, tests/asgi/test_isolation.py.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from ..config import Config
from ..core.ends import NO_ANSWER, NO_TABS, NOT_AUTHORISED, STALLED, End
from .listening_sockets import Listener
from .session import Session
from .twisted_reactor import ReactorShutdown

TICK: Final = 0.5
"""Seconds. Also how soon a server that stops is noticed, which has 3 s in all."""


ASK_TURNS: Final = 3
"""Keepalive intervals after which a client is asked again whether it is there: 45 s by default."""

ANSWER_TURNS: Final = 2
"""Keepalive intervals that it has to answer."""


class TimerCallbacks(NamedTuple):
    """What the timers call in their node."""

    is_shared: Callable[[str], bool]
    """Says whether an id is that of a stream that tabs share."""
    going_away: Callable[[], End]
    """Makes the end of one stream of a server that stops."""
    on_tick: Callable[[asyncio.AbstractEventLoop, float], None]
    """Does what else is due regularly: in the running loop, at a time."""
    before_drain: Callable[[], Coroutine[Any, Any, None]]
    """Does what must be done before the streams of a server that stops are ended: then its process may end at once."""
    shut_down: Callable[[], Coroutine[Any, Any, None]]
    """Ends all streams at once, because the event loop is about to stop; the loop may stop when it has been awaited."""


class LoopTimers:
    """
    Keepalives, slow peers, viewers without a right, and a server that stops, for the sessions of one loop.

    Runs while it has sessions.

    Args:
        loop: Where it runs.
        config: Checked settings.
        clock: Monotonic seconds.
        callbacks: What the timers call in the node.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, config: Config, clock: Callable[[], float], callbacks: TimerCallbacks
    ) -> None:
        self.busy_deadlines: dict[Session, float] = {}
        """Busy sessions, and when they are dropped."""
        self._callbacks = callbacks
        self._clock = clock
        self._loop = loop
        self._send_timeout = config.send_timeout
        # Rounded down: clients were given the interval as the longest silence.
        self._slots_per_wheel = max(1, math.floor(config.keepalive_interval / TICK))
        """So many ticks the hand takes for one round, which is one keepalive interval."""
        self._slots: list[set[Session]] = []
        self._wheels: dict[Listener | None, int] = {}
        """
        Where in `_slots` the wheel of a listener's sessions begins: when the listener is closed, they are drained, and
        no others. Mostly there is one.
        """
        self._listeners: list[Listener | None] = []
        """The listener of each wheel."""
        self._count = 0
        self._uncounted: set[Session] = set()
        """Sessions that are not counted: of viewers, and streams that tabs share. They may have a deadline."""
        self._hand = 0
        self._rounds = 0
        """Rounds of the hand so far."""
        self._answer_time = ANSWER_TURNS * config.keepalive_interval
        self.asked: dict[Session, float] = {}
        """Sessions that were asked whether they are there, and when they are dropped. Oldest first."""
        self._spread = 0
        """Slots behind the hand at which the last session was put; see `add`."""
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[None] | None = None
        self._shutdown = ReactorShutdown(callbacks.shut_down)

    def add(self, session: Session, listener: Listener | None) -> None:
        """Serve a session, until the listener that it came in by is closed."""
        # Sessions that come together are spread over the half of the wheel that the hand reaches last: a stream that
        # has just begun needs no keepalive, and a test of a new stream should not meet one.
        begin = self._wheels.get(listener)
        if begin is None:
            begin = self._wheels[listener] = len(self._slots)
            self._slots += [set() for _ in range(self._slots_per_wheel)]
            self._listeners.append(listener)
        self._spread = (self._spread + 1) % max(1, self._slots_per_wheel // 2)
        session.slot = begin + (self._hand - self._spread) % self._slots_per_wheel
        self._slots[session.slot].add(session)
        self._count += 1
        if not session.counted:
            self._uncounted.add(session)
        if self._timer is None:
            self._timer = self._loop.call_later(TICK, self._tick)

    def discard(self, session: Session) -> bool:
        """Stop serving a session. Returns True when it was the last: no timer is left then."""
        slot = self._slots[session.slot]
        if session in slot:
            slot.discard(session)
            self._count -= 1
        self._uncounted.discard(session)
        self.busy_deadlines.pop(session, None)
        self.asked.pop(session, None)
        if self._count:
            return False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._shutdown.forget()
        return True

    def listener_of(self, session: Session) -> Listener | None:
        """Return the listener that a session came in by; None: not known."""
        return self._listeners[session.slot // self._slots_per_wheel]

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        # A task, because middleware round a `send` may want to know in which one it is.
        self._work = self._loop.create_task(self._serve())

    async def _serve(self) -> None:
        now = self._clock()
        self._hand = (self._hand + 1) % self._slots_per_wheel
        self._rounds += not self._hand
        for listener, begin in list(self._wheels.items()):
            if listener is not None and not listener.still_listens():
                await self._callbacks.before_drain()
                self._drain(self._slots[begin : begin + self._slots_per_wheel])
                continue
            for session in list(self._slots[begin + self._hand]):
                # Streams of one slot are asked in one turn, those of the next slot in the next.
                ask = (self._rounds + session.slot) % ASK_TURNS == 0
                if not session.busy and session.keepalive(ask):
                    self.asked.setdefault(session, now + self._answer_time)
        for session in [session for session, deadline in self.busy_deadlines.items() if now >= deadline]:
            session.end(STALLED.lasting(self._send_timeout))
        for session in [session for session, deadline in list(self.asked.items()) if now >= deadline]:
            session.end(NO_ANSWER)
        for session in list(self._uncounted):
            if session.deadline is not None and now >= session.deadline:
                session.end(NO_TABS if self._callbacks.is_shared(session.id) else NOT_AUTHORISED)
        self._callbacks.on_tick(self._loop, now)

    def _drain(self, wheel: list[set[Session]]) -> None:
        """End the streams whose server is stopping."""
        for session in [session for slot in wheel for session in slot]:
            session.end(self._callbacks.going_away())


class Timers:
    """
    The timers of all event loops in which a node has sessions.

    Args:
        config: Checked settings.
        clock: Monotonic seconds.
        callbacks: What they call in the node.
    """

    def __init__(self, config: Config, clock: Callable[[], float], callbacks: TimerCallbacks) -> None:
        self.by_loop: dict[asyncio.AbstractEventLoop, LoopTimers] = {}
        self._config = config
        self._clock = clock
        self._callbacks = callbacks

    def add(self, session: Session, listener: Listener | None) -> None:
        """Serve a session, until the listener that it came in by is closed. In its loop."""
        self._of(session.loop).add(session, listener)

    def discard(self, session: Session) -> None:
        """Stop serving a session."""
        timers = self.by_loop.get(session.loop)
        if timers is not None and timers.discard(session):
            del self.by_loop[session.loop]

    def listener_of(self, session: Session) -> Listener | None:
        """Return the listener that a session came in by, also when it has just been discarded; None: not known."""
        timers = self.by_loop.get(session.loop)
        return None if timers is None else timers.listener_of(session)

    def mark_busy(self, session: Session) -> None:
        """Note that a session is busy, perhaps before it was added; it is dropped after `send_timeout`."""
        self._of(session.loop).busy_deadlines.setdefault(session, self._clock() + self._config.send_timeout)

    def mark_writable(self, session: Session) -> None:
        """Note that a session is busy no longer: its message went out after all."""
        timers = self.by_loop.get(session.loop)
        if timers is not None:
            timers.busy_deadlines.pop(session, None)

    def heard(self, session: Session) -> None:
        """Note that a session's client is there: a POST of it came. From any loop."""
        timers = self.by_loop.get(session.loop)
        if timers is not None:
            timers.asked.pop(session, None)

    def is_only(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Say whether all sessions are in one loop, this one."""
        return len(self.by_loop) == 1 and loop in self.by_loop

    def forget_closed_loops(self) -> list[asyncio.AbstractEventLoop]:
        """Forget the loops that are closed, and return them."""
        closed = [loop for loop in self.by_loop if loop.is_closed()]
        for loop in closed:
            del self.by_loop[loop]
        return closed

    def _of(self, loop: asyncio.AbstractEventLoop) -> LoopTimers:
        timers = self.by_loop.get(loop)
        if timers is None:
            timers = self.by_loop[loop] = LoopTimers(loop, self._config, self._clock, self._callbacks)
        return timers
