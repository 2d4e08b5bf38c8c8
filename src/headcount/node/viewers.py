"""
The viewers of a node: who receives figures, by which right, and when what is sent.

Rights and pushes are one state: a verdict starts, changes or ends what is pushed, and a push first asks whether the
right still holds. `core/push_policy.py` decides what each viewer is due, and `check_runner.py` runs the checks of
rights; here are the lock, the loops and the encoded snapshots. Every change of the figures marks them dirty; a flush
collects the changes, encodes them once for each visibility that a viewer has, and hands them to the sessions. The first
change after a quiet time is flushed at once, then at most every `stats_interval`.

Tests: tests/asgi/test_authorization.py, tests/asgi/test_figures.py, tests/asgi/test_slow_peers.py.
"""

import asyncio
import logging
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVarTuple

from ..authorization.authorizer import AuthorizationCheck, Grant
from ..config import Config
from ..core import messages
from ..core.payload import Payload
from ..core.push_policy import Due, Push, PushPolicy
from ..core.stats import Stats, StatsDelta
from ..core.visibility import Visibility
from ..fleet.local_node import FigureSource
from ..fleet.node_view import HasView
from ..loops import Tasks, call_in_loop, running_loop
from .check_pace import CheckPace
from .check_runner import CheckRunner
from .session import Session

Ts = TypeVarTuple("Ts")

UnlockedCall: TypeAlias = Callable[[], object]
"""A call that must wait until the node's lock is released; in the running loop."""

logger = logging.getLogger("headcount")

_UNAUTHORIZED = Payload(messages.STATS_UNAUTHORIZED)


class PendingSubscription(NamedTuple):
    """A subscription that is not decided yet."""

    check: AuthorizationCheck
    deltas: bool


class Subscription:
    """A viewer's session and what checks its right. When it is sent what, the push policy knows."""

    __slots__ = ("check", "session")

    def __init__(self, session: Session, check: AuthorizationCheck) -> None:
        self.session = session
        self.check = check


class Viewers:
    """
    The subscriptions of one node, and the observers: functions of the application that are called after each push.

    Args:
        config: Checked settings.
        clock: Monotonic seconds.
        lock: The node's, which guards the figures too.
        counters: The node's.
        figures: Where the figures come from at first.
        is_shared: Says whether tabs share the stream of an id, which needs no right to stay open.
        check_runner: Runs the checks of rights.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float],
        lock: threading.RLock,
        counters: defaultdict[str, int],
        figures: FigureSource,
        is_shared: Callable[[str], bool],
        check_runner: CheckRunner,
    ) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        """By public id."""
        self.observers: dict[object, tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = {}
        """Functions of the application that are called after every flush, and in which loop."""
        self.pending: dict[str, PendingSubscription | None] = {}
        """The newest undecided subscription of each session whose right is being checked; None: it was cancelled."""
        self._config = config
        self._clock = clock
        self._lock = lock
        self._counters = counters
        self._figures = figures
        self._membership: HasView
        self._is_shared = is_shared
        self._pace = CheckPace(clock, lock, check_runner, self._is_open)
        self._policy: PushPolicy[Subscription] = PushPolicy(config.reauthorize_interval)
        self._tasks = Tasks()
        self._flush_loop: asyncio.AbstractEventLoop | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self._last_flush = float("-inf")
        self._stats = Stats(revision=-1)
        self._snapshots: dict[Visibility, bytes] = {}
        """Encoded since the last flush."""

    def use_figures(self, figures: FigureSource) -> None:
        """Read figures from another source from now on."""
        with self._lock:
            if self._figures is figures:
                return
            watched = bool(self.subscriptions or self.observers)
            if watched:
                self._figures.note_changes(on=False)
            self._figures = figures
            self._stats = Stats(revision=-1)
            self._snapshots.clear()
            if watched:
                figures.note_changes(on=True)
                self._policy.reset(figures.revision)
                self.mark_dirty()

    def use_membership(self, membership: HasView) -> None:
        """Reach the other nodes by this membership from now on. To be called before anything else, and after a fork."""
        self._membership = membership

    def stats(self) -> Stats:
        """Return the figures now. O(1) when nothing changed since the last call."""
        with self._lock:
            if self._stats.revision != self._revision():
                self._stats = self._figures.snapshot()
            return self._stats

    def shows_rows(self) -> bool:
        """Say whether anybody who watches here sees connections. The lock is held. O(viewers)."""
        return bool(self.observers) or self._policy.shows_connections

    def observe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """
        Call `callback` in the running loop after every flush.

        Returns:
            A function that ends it.
        """
        key, loop = object(), asyncio.get_running_loop()
        with self._lock:
            self._start_noting()
            self.observers[key] = (loop, callback)

        def end() -> None:
            with self._lock:
                self.observers.pop(key, None)
                self._stop_noting()

        return end

    def notify_observers(self) -> None:
        """Call the observers, each in its loop: something has changed that is not among the figures."""
        for key, (loop, _) in list(self.observers.items()):
            call_in_loop(loop, self._notify, key)

    def subscribe(self, session: Session, pending: PendingSubscription) -> Coroutine[Any, Any, None] | None:
        """
        Note that a session asks for figures.

        Returns:
            The coroutine that decides it, which the caller must run; None if one runs for this session already. That
            one decides the newest subscription next, so a flood of them is checked one at a time.
        """
        with self._lock:
            deciding = session.id in self.pending
            self.pending[session.id] = pending
        return None if deciding else self._decide(session)

    def unsubscribe(self, session: Session) -> None:
        """End a session's subscription, decided or not."""
        with self._lock:
            self._cancel_pending(session.id)
            self._drop_subscription(session.id)

    def revoke(self, session: Session) -> bool:
        """Withdraw a session's right. Returns False if it had none and no subscription was pending."""
        with self._lock:
            if not self._cancel_pending(session.id) and session.id not in self.subscriptions:
                return False
            send = self._withdraw(session)
        send()
        return True

    def drop(self, connection_id: str) -> None:
        """Forget a session that ended. The lock is held."""
        self.pending.pop(connection_id, None)
        self._pace.forget(connection_id)
        if connection_id in self.subscriptions:
            self._drop_subscription(connection_id)

    def recheck(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Check the rights again that it is time for, of viewers in the running `loop`. O(viewers)."""
        if not self.subscriptions:
            return
        with self._lock:
            rechecks = self._policy.rechecks(now, lambda subscription: subscription.session.loop is loop)
            sends = [self._withdraw(subscription.session) for subscription in rechecks.expired]
        for send in sends:
            send()
        for subscription in rechecks.due:
            self._tasks.start(self._recheck(subscription), loop)

    def caught_up(self, session: Session) -> None:
        """Note that all messages of a session are sent: a viewer that fell behind gets the newest snapshot."""
        with self._lock:
            subscription = self.subscriptions.get(session.id)
            due = subscription is not None and self._policy.snapshot_is_due(subscription)
        if subscription is not None and due:
            self._send_snapshot(subscription)

    def mark_dirty(self) -> None:
        """Schedule a flush, in a loop in which somebody waits for it, and tell the other nodes. The lock is held."""
        self._membership.view.publish_soon()
        if not self.subscriptions and not self.observers:
            return
        if self._flush_loop is not None and not self._flush_loop.is_closed():
            return
        self._flush_loop = None
        delay = self._last_flush + max(self._config.stats_interval, self._policy.pause) - self._clock()
        for loop in self._waiting_loops():
            if call_in_loop(loop, self._flush_after, loop, delay):
                self._flush_loop = loop
                return

    def forget_closed_loops(self) -> None:
        """Forget observers in closed loops, and flush elsewhere what was to be flushed in one. The lock is held."""
        for key in [key for key, (loop, _) in self.observers.items() if loop.is_closed()]:
            del self.observers[key]
            self._stop_noting()
        if self._flush_loop is not None and self._flush_loop.is_closed():
            self.mark_dirty()

    def _is_open(self, connection_id: str) -> bool:
        return connection_id in self.pending or connection_id in self.subscriptions

    def _revision(self) -> int:
        self._membership.view.sync()
        return self._figures.revision

    async def _decide(self, session: Session) -> None:
        pending = None
        try:
            while True:
                with self._lock:
                    pending = self.pending.get(session.id)
                    if pending is None:
                        self.pending.pop(session.id, None)
                        return
                    delay, grant = self._pace.next_check(session.id, pending.check)
                recheck_after = self._recheck_delay()
                if grant is not None:
                    recheck_after = delay
                elif delay > 0:
                    await asyncio.sleep(delay)
                    with self._lock:
                        pending = self.pending.get(session.id)
                        if pending is None:
                            continue
                if grant is None and self._config.connection_tracking:
                    grant = await self._pace.check(session.id, pending.check)
                send = _nothing
                with self._lock:
                    # Else it unsubscribed, was revoked, left or asked anew meanwhile, and this verdict is void.
                    if self.pending.get(session.id) is pending:
                        self.pending[session.id] = None
                        send = self._apply_verdict(session, pending, grant, recheck_after)
                send()
        except BaseException:
            send = _nothing
            with self._lock:
                left = self.pending.pop(session.id, None)
                if left is not None and left is not pending:
                    send = self._withdraw(session)  # nobody decides it now that the request before it was broken off
            send()
            raise

    def _apply_verdict(
        self, session: Session, pending: PendingSubscription, grant: Grant | None, recheck_after: float
    ) -> UnlockedCall:
        """Start or refuse a subscription. Returns what the caller must call without the lock."""
        if grant is None:
            return self._withdraw(session)
        self._start_noting()
        before = self.subscriptions.get(session.id)
        if before is not None:
            self._policy.remove(before)
        subscription = self.subscriptions[session.id] = Subscription(session, pending.check)
        self._policy.add(subscription, grant, deltas=pending.deltas, now=self._clock(), recheck_after=recheck_after)
        self._membership.view.viewers_changed()
        if not self._is_shared(session.id):
            session.deadline = None
        return _call_unlocked(session.loop, self._send_snapshot, subscription)

    def _cancel_pending(self, connection_id: str) -> bool:
        """Forget a pending subscription. Returns whether there was one."""
        if self.pending.get(connection_id) is None:
            return False
        self.pending[connection_id] = None
        return True

    async def _recheck(self, subscription: Subscription) -> None:
        try:
            grant = await self._pace.check(subscription.session.id, subscription.check, has_right=True)
        finally:
            with self._lock:
                self._policy.recheck_ended(subscription)
        send = _nothing
        with self._lock:
            if subscription not in self._policy:
                return
            if grant is None:
                self._counters["withdrawn"] += 1
                send = self._withdraw(subscription.session)
            elif self._policy.confirm(subscription, grant, self._clock(), self._recheck_delay()):
                send = partial(self._send_snapshot, subscription)
        send()

    def _recheck_delay(self) -> float:
        # Viewers that came together are not checked together.
        return self._config.reauthorize_interval * random.uniform(0.8, 0.95)  # noqa: S311  not a secret

    def _withdraw(self, session: Session) -> UnlockedCall:
        """
        Withdraw a right or deny it. Here and now, whichever loop the session is in: no figure is chosen any more.

        In another loop, figures that were chosen before may just be sent. They come before `stats-unauthorized`, and
        whoever waits for that loop (`loops.catch_up_with`) has waited for them.

        The lock is held. Returns what the caller must call without it, which tells the session.
        """
        self._pace.withdraw(session.id)
        self._drop_subscription(session.id)
        if not session.counted and not self._is_shared(session.id) and session.deadline is None:
            session.deadline = self._clock() + self._config.viewer_timeout
        return _call_unlocked(session.loop, session.send, _UNAUTHORIZED)

    def _drop_subscription(self, connection_id: str) -> None:
        with self._lock:
            subscription = self.subscriptions.pop(connection_id, None)
            if subscription is not None:
                self._policy.remove(subscription)
                self._stop_noting()

    def _start_noting(self) -> None:
        if not self.subscriptions and not self.observers:
            self._figures.note_changes(on=True)
            self._policy.reset(self._figures.revision)

    def _stop_noting(self) -> None:
        if not self.subscriptions and not self.observers:
            self._figures.note_changes(on=False)
            self._snapshots.clear()
            if self._flush_timer is not None and self._flush_loop is not None:
                call_in_loop(self._flush_loop, self._flush_timer.cancel)
                self._flush_timer = self._flush_loop = None

    def _waiting_loops(self) -> Iterator[asyncio.AbstractEventLoop]:
        for subscription in self.subscriptions.values():
            yield subscription.session.loop
        for loop, _ in self.observers.values():
            yield loop

    def _flush_after(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        if delay > 0:
            self._flush_timer = loop.call_later(delay, self._begin_flush, loop)
        else:
            self._begin_flush(loop)

    def _begin_flush(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not in place: what else happens in this turn of the loop goes into the same push. In a task: middleware
        # round a `send`, which is begun in place, may want to know in which one that is.
        self._tasks.start(self._flush(), loop)

    async def _flush(self) -> None:
        with self._lock:
            self._membership.view.sync()  # before the next line: what this changes goes into this push
            self._flush_loop = self._flush_timer = None
            delta = self._figures.pop_changes()
            if delta is not None:
                self._last_flush = self._clock()
                self._snapshots.clear()
                self._counters["flushes"] += 1
            chosen, sends = self._choose(delta)
            observers = list(self.observers.items()) if delta is not None else []
        for send in sends:
            send()
        for push, payload in chosen:
            call_in_loop(push.key.session.loop, self._push, push, payload)
        for key, (loop, _) in observers:
            call_in_loop(loop, self._notify, key)

    def _choose(self, delta: StatsDelta | None) -> tuple[list[tuple[Push[Subscription], Payload]], list[UnlockedCall]]:
        """Return what each subscriber is sent, encoded once a visibility, and what tells those whose right is over."""
        base, revision = (None, None) if delta is None else (delta.base, delta.revision)
        flush = self._policy.flush(base, revision, self._clock(), _is_busy, ready=self._membership.view.figures_ready)
        sends = [self._withdraw(subscription.session) for subscription in flush.expired]
        for name, count in (("withheld", flush.withheld), ("conflated", flush.conflated)):
            if count:
                self._counters[name] += count
        deltas: dict[Visibility, Payload] = {}
        chosen: list[tuple[Push[Subscription], Payload]] = []
        for push in flush.pushes:
            if push.due is Due.DELTA and delta is not None:
                payload = deltas.get(push.visibility)
                if payload is None:
                    payload = deltas[push.visibility] = Payload(messages.stats_delta(delta, push.visibility))
            else:
                payload = self._snapshot(push.key, push.visibility)
            chosen.append((push, payload))
        self._policy.pause_after(len(payload.json) for _, payload in chosen)
        return chosen, sends

    def _push(self, push: Push[Subscription], payload: Payload) -> None:
        # For a session of another loop, time has passed since the choice.
        if not self._policy.is_current(push):
            return
        session = push.key.session
        if session.busy:
            with self._lock:
                self._policy.missed(push.key)
                self._counters["conflated"] += 1
        else:
            session.transmit(payload)

    def _send_snapshot(self, subscription: Subscription) -> None:
        """
        Send the newest snapshot now, or with the next flush when the figures have moved since the last.

        In the session's loop and without the lock, because the server's `send` and its middleware run.
        """
        send = _nothing
        with self._lock:
            if subscription not in self._policy:
                return
            session = subscription.session
            due = self._policy.restart(
                subscription,
                self._revision(),
                self._clock(),
                busy=session.busy,
                ready=self._membership.view.figures_ready,
            )
            if due is Due.SNAPSHOT:
                send = partial(session.transmit, self._snapshot(subscription, self._policy.visibility(subscription)))
            elif due is Due.FLUSH:
                self.mark_dirty()
            elif due is Due.WITHDRAW:
                send = self._withdraw(session)
        send()

    def _snapshot(self, subscription: Subscription, visibility: Visibility) -> Payload:
        body = self._snapshots.get(visibility)
        if body is None:
            body = self._snapshots[visibility] = messages.stats(self.stats(), visibility)
        return Payload(messages.addressed(body, subscription.session.id))

    def _notify(self, key: object) -> None:
        observer = self.observers.get(key)
        if observer is None:
            return  # it ended meanwhile
        try:
            observer[1]()
        except Exception:  # the application's own function; those after it are still called
            self._counters["observer_errors"] += 1
            logger.exception("An observer of use_active_connections() raised; other observers are not affected.")


def _call_unlocked(loop: asyncio.AbstractEventLoop, call: Callable[[*Ts], object], *args: *Ts) -> UnlockedCall:
    """
    Call a function in a loop soon; for the running loop, return the call, for when the lock is released.

    A stream that ends in it runs the application's hooks, which may wait for a thread that waits for the lock. For
    another loop the order in which the lock was taken is the order of the calls.
    """
    if loop is running_loop():
        return partial(call, *args)
    call_in_loop(loop, call, *args)
    return _nothing


def _nothing() -> object:
    return None


def _is_busy(subscription: Subscription) -> bool:
    return subscription.session.busy
