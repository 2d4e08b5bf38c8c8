"""
The timers of one event loop: one tick twice a second, however many connections there are.

Keepalives come from a wheel: each session sits in one slot and is served when the hand passes, so the work is spread
evenly over the interval, and 10,000 connections need one timer.
"""

import asyncio
import math
from typing import TYPE_CHECKING, Final

from ..core.ends import NO_TABS, NOT_AUTHORISED, STALLED
from .listening_sockets import Listener
from .session import Session

if TYPE_CHECKING:
    from .node import Node

TICK: Final = 0.5
"""Seconds. Also how soon a server that stops is noticed, which has 3 s in all."""


class LoopTimers:
    """
    Keepalives, slow peers, re-checks, viewers without a right, and a server that stops, for the sessions of one loop.

    Runs while it has sessions.
    """

    def __init__(self, node: "Node", loop: asyncio.AbstractEventLoop) -> None:
        self.stalled: dict[Session, float] = {}
        """Busy sessions, and when they are dropped."""
        self._node = node
        self._loop = loop
        # Rounded down: the interval is the longest silence that clients were told of.
        self._turn = max(1, math.floor(node.config.keepalive_interval / TICK))
        self._slots: list[set[Session]] = []
        self._wheels: dict[Listener | None, int] = {}
        """
        Where in `_slots` the wheel begins of those who came in by a listener: when that is closed, they must go, and no
        others. Mostly there is one.
        """
        self._count = 0
        self._viewers: set[Session] = set()
        self._hand = 0
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[None] | None = None

    def add(self, session: Session, listener: Listener | None) -> None:
        """Serve a session, until the listener that it came in by is closed."""
        # Those who come together are spread over the half of the wheel that the hand reaches last: a stream that has
        # just begun needs no keepalive, and whoever tests with one does not want to meet it.
        begin = self._wheels.get(listener)
        if begin is None:
            begin = self._wheels[listener] = len(self._slots)
            self._slots += [set() for _ in range(self._turn)]
        self._next = (self._next + 1) % max(1, self._turn // 2)
        session.slot = begin + (self._hand - self._next) % self._turn
        self._slots[session.slot].add(session)
        self._count += 1
        if not session.counted:
            self._viewers.add(session)
        if self._timer is None:
            self._timer = self._loop.call_later(TICK, self._tick)

    def discard(self, session: Session) -> bool:
        """Stop serving a session. Returns True when it was the last: the pulse is over then."""
        slot = self._slots[session.slot]
        if session in slot:
            slot.discard(session)
            self._count -= 1
        self._viewers.discard(session)
        self.stalled.pop(session, None)
        if self._count:
            return False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return True

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        # A task, because middleware round a `send` may want to know in which one it is.
        self._work = self._loop.create_task(self._serve())

    async def _serve(self) -> None:
        node = self._node
        now = node.clock()
        self._hand = (self._hand + 1) % self._turn
        for listener, begin in list(self._wheels.items()):
            if listener is not None and not listener.open:
                self._drain(self._slots[begin : begin + self._turn])
                continue
            for session in list(self._slots[begin + self._hand]):
                if not session.busy:
                    session.keepalive()
        for session in [session for session, deadline in self.stalled.items() if now >= deadline]:
            session.end(STALLED.because(f"The client read nothing for {node.config.send_timeout:g} s."))
        for session in list(self._viewers):
            if session.deadline is not None and now >= session.deadline:
                session.end(NO_TABS if session.id in node.tabs else NOT_AUTHORISED)
        node.recheck(self._loop, now)
        node.remember(now)
        node.forget_dead_loops()

    def _drain(self, wheel: list[set[Session]]) -> None:
        """Tell those to go whose server is stopping."""
        for session in [session for slot in wheel for session in slot]:
            session.end(self._node.going_away())
