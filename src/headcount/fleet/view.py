"""
A node among the others: whose figures it asks for, and to whom it tells its own.

Nobody sends figures unasked. While somebody watches here, this node listens, says so every heartbeat (`Interest`), and
asks each node whose report it misses (`Want`), a few at a time, so that no answer is lost in a flood of them. While
somebody watches elsewhere, this node publishes what changed, the first change at once and then as often as they ask
for, and a heartbeat when nothing did. While nobody does, nodes exchange nothing.

To the node it is a source of figures, as a registry is: `watch`, `take`, `snapshot`. Its state is shared under the
node's lock; what belongs to the backend happens in one event loop, the one in which the first request came.
"""

import asyncio
import itertools
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import msgspec

from ..config import Config
from ..core import fleet_messages
from ..core.fleet import Fleet
from ..core.labels import UNKNOWN
from ..core.publication import Publication
from ..core.registry import Registry
from ..core.stats import NodeShare, Stats, StatsDelta
from .backends import Backend
from .calls import Calls

LINGER: Final = 10.0
"""Seconds that the others are listened to after the last look, because dashboards reload and programs poll."""

CATCH_UP: Final = 1.0
"""Seconds that a viewer waits for the figures of nodes that do not answer, before it is told that some are missing."""

WINDOW: Final = 64
"""Reports that are asked for at once."""

FEW_NODES: Final = 8
"""Nodes that may all send as many rows as there is room for."""

QUIET_AFTER: Final = 1.0
"""Seconds after the last delta in which a node that falls quiet says so, and once more after as many: should that delta
have been lost, nobody waits a whole heartbeat for it, even if one of these is lost, too."""

WANT_TIMEOUT: Final = 1.0
"""Seconds after which a report is asked for again."""

AT_ONCE: Final = 0.025
"""Seconds between two deltas of a node in a small fleet: then a viewer waits for the next push of its own node, and not
for that of another before. A viewer cannot ask for less."""

EASY: Final = 400
"""Deltas a second, of all nodes, that are no burden: up to so many, a node waits less than `stats_interval`."""

NODES_PER_SECOND: Final = 2_000
"""Deltas a second, of all nodes, above which they are asked to publish less often: it is what one viewer's node and one
Redis bear easily (docs/scaling.md)."""

MAX_WATCHERS: Final = 4_096
"""Nodes that watch at once; more are not served."""

FEW: Final = 3
"""Nodes that are asked at once what one of them is enough to tell."""

RELEASE_TIMEOUT: Final = 2.0
"""Seconds in which they must."""

logger = logging.getLogger("headcount")


class FleetView:
    """
    See above.

    Args:
        node: Id of this node.
        config: Checked settings.
        registry: This node's connections.
        lock: The node's.
        clock: Monotonic seconds.
        changed: Schedules a flush; called with the lock held.
        shows_rows: Says whether a viewer here sees connections.
        obey: Does what another node asks for.
        released: Says which version was declared current.
        learn_release: Takes another node's word for it; called without the lock, in the backend's loop.
    """

    def __init__(
        self,
        node: str,
        config: Config,
        registry: Registry,
        lock: threading.RLock,
        clock: Callable[[], float],
        *,
        changed: Callable[[], None],
        shows_rows: Callable[[], bool],
        obey: Callable[[fleet_messages.Command], Awaitable[fleet_messages.Answer]],
        released: Callable[[], fleet_messages.Released | None] = lambda: None,
        learn_release: Callable[[fleet_messages.Released], None] = lambda _: None,
    ) -> None:
        self.node = node
        self.ready = True
        """The others have told what they have, or had time to; until then viewers are better told nothing."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where the backend runs."""
        self.forwarding = Calls(self, obey)
        self._config = config
        self._registry = registry
        self._lock = lock
        self._clock = clock
        self._changed = changed
        self._shows_rows = shows_rows
        self._released = released
        self._learn_release = learn_release
        self._backend: Backend | None = None
        self._fleet = Fleet(
            node,
            max_listed=config.max_listed_connections,
            max_versions=config.max_versions,
            max_routes=config.max_routes,
            reserved_versions=(config.version, UNKNOWN),
        )
        self._publication = Publication(node, config.max_listed_connections)
        self._absorbed = 0
        """Revision of the registry up to which its changes are in the fleet and in the publication."""
        self._noting = False
        self._watched = False
        self._watching = False
        self._lingers_until = 0.0
        self._rows_until = 0.0
        self._members_known = False
        self._connected = True
        self._interests: dict[str, tuple[fleet_messages.Interest, float]] = {}
        """What other nodes want to be told, and until when that holds."""
        self._interest_due = 0.0
        self._told_rows = 0
        self._wanted: dict[str, float] = {}
        """Nodes that were asked for their report, and when."""
        self._to_want: list[str] = []
        self._published_at = float("-inf")
        self._said_too_large = False
        self._said_quiet = 0
        """How often since the last delta, up to 2."""
        self._publish_timer: asyncio.TimerHandle | None = None
        self._ready_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._ticked_at = 0.0
        self._sync_lock: asyncio.Lock | None = None
        self._sync_started = float("-inf")
        self._sync_rows = False
        self._sync: tuple[int, dict[str, int | None], asyncio.Future[None]] | None = None
        self._whole: list[asyncio.Future[None]] = []
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()

    # ---- coming and going

    @property
    def active(self) -> bool:
        """There is a backend, in a loop that runs."""
        return self._backend is not None and self.loop is not None and not self.loop.is_closed()

    @property
    def backend(self) -> Backend | None:
        """The way to the others."""
        return self._backend

    def start(self, backend: Backend) -> None:
        """
        Reach the others by a backend, in the running loop.

        Raises:
            OSError: It cannot be started here.
        """
        with self._lock:
            self.loop = asyncio.get_running_loop()
            self._forget_loop()
            self._forget_interests()
            self._backend = backend
            self._connected = False
            self._look()
            try:
                backend.start(self)
            except OSError:
                self._backend = None
                raise
            if self._watching:
                self._begin_watching()

    def cut_off(self) -> None:
        """Know that there are others who cannot be reached: all figures are partial from now on."""
        with self._lock:
            self._connected = False
            self._look()

    async def stop(self) -> None:
        """Leave the fleet: for the others, this node is gone at once. Idempotent. In the backend's loop."""
        with self._lock:
            backend, self._backend = self._backend, None
            self._forget_loop()
            self._forget_interests()
        if backend is not None:
            await backend.stop()

    def stop_soon(self) -> None:
        """Leave the fleet, from whichever loop, without waiting for it."""
        self.call_at_home(lambda: self._run(self.stop()))

    @property
    def report_age(self) -> float:
        """For how many seconds the node that has been silent longest has said nothing."""
        return self._fleet.longest_silence(self._clock())

    def shares(self) -> list[NodeShare]:
        """Return what each node that is expected has told, this one first."""
        self._absorb()
        return self._fleet.shares(self._clock())

    def knows_the_fleet(self) -> bool:
        """Say whether the figures here are the fleet's; of few workers on one machine, see to it that they will be."""
        if not self.active:
            return not self._fleet.disconnected
        if (
            self._backend is not None
            and self._backend.detects_failures
            and len(self._fleet) <= FEW_NODES
            and len(self._fleet) > 1
        ):
            self.touch(rows=False)
        return (len(self._fleet) == 1 and not self._fleet.disconnected) or (self._watching and self.ready)

    # ---- a source of figures; the lock is held

    @property
    def revision(self) -> int:
        """Number of changes so far."""
        self._absorb()
        return self._fleet.revision

    def watch(self) -> None:
        """Start to note changes for `drain_changes()`, and to listen to the others."""
        self._watched = True
        self._watch_others()
        self._absorb()
        self._fleet.watch()

    def unwatch(self) -> None:
        """Stop noting changes. The others are listened to a little longer."""
        self._watched = False
        self._fleet.unwatch()
        self._lingers_until = self._clock() + LINGER

    def drain_changes(self) -> StatsDelta | None:
        """Return what changed since the last `drain_changes()` or `watch()`, or None."""
        self._notice_lateness()
        self._absorb()
        return self._fleet.drain_changes()

    def snapshot(self) -> Stats:
        """Return the figures as they are known here now."""
        if self._notice_lateness():
            self._changed()
        self._absorb()
        return self._fleet.snapshot()

    def publish_soon(self) -> None:
        """Tell those who watch elsewhere what changed here, if anything did. To be called after every change."""
        if self._interests and (self._publication.pending or self._absorbed != self._registry.revision):
            self.call_at_home(self._publish_in_time)

    def touch(self, *, rows: bool, linger: float | None = None) -> None:
        """
        Listen to the others for a while, because somebody looks at the figures without watching them.

        Args:
            rows: It may see connections, so that those of other nodes are asked for.
            linger: Seconds; None: `LINGER`.
        """
        if self.active:
            now = self._clock()
            self._lingers_until = max(self._lingers_until, now + (LINGER if linger is None else linger))
            if rows:
                self._rows_until = now + LINGER
            self._watch_others()

    def reserve_version(self, version: str) -> None:
        """Count a version apart from now on, here as in the registry: one that was declared current."""
        self._absorb()
        if self._fleet.reserve_version(version):
            self._changed()

    def viewers_changed(self) -> None:
        """Look again what the viewers here may see."""
        if self._watching and self.active and self._quota() != self._told_rows:
            self.call_at_home(self._say_interest)
            self.call_at_home(self._want)

    # ---- fresh figures

    async def fresh(self, *, rows: bool = True) -> None:
        """
        Bring the figures up to what every node has now. Waits a second for those that do not answer.

        Args:
            rows: With connections.
        """
        if not self.active or self.loop is None:
            return
        called = self._clock()
        await self.at_home(self._fresh(called, rows=rows))

    async def at_home(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run in the backend's loop, from whichever."""
        assert self.loop is not None
        if self.loop is asyncio.get_running_loop():
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    async def _fresh(self, called: float, *, rows: bool) -> None:
        with self._lock:
            self.touch(rows=rows)
        if self._sync_lock is None:
            self._sync_lock = asyncio.Lock()
        async with self._sync_lock:
            if self._sync_started >= called and (self._sync_rows or not rows):
                return  # it began after we were called, so it has what we want
            self._sync_started, self._sync_rows = self._clock(), rows
            deadline = self._clock() + CATCH_UP
            with suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP):
                    await self._learn_members()
            await self._ask_all(deadline)
            await self._wait_whole(deadline)

    async def _ask_all(self, deadline: float) -> None:
        with self._lock:
            backend = self._backend
            others: dict[str, int | None] = {node: None for node in self._fleet.responsive_nodes() if node != self.node}
            if not others or backend is None or self.loop is None:
                return
            re, asked = next(self._numbers), self._clock()
            future: asyncio.Future[None] = self.loop.create_future()
            self._sync = (re, others, future)
        backend.announce(fleet_messages.encode(fleet_messages.FlushRequest(node=self.node, re=re)))
        patience = max(0.0, deadline - asked)
        try:
            await asyncio.wait_for(future, patience)
        except TimeoutError:
            # What it told before may be old by now, and whoever asks for the figures of this moment should know. Where
            # the store took the time to say who there is, it had none to answer.
            with self._lock:
                if patience >= CATCH_UP / 2 and self._fleet.mark_silent(others, asked):
                    self._changed()
        finally:
            self._sync = None

    async def _wait_whole(self, deadline: float) -> None:
        with self._lock:
            if self._is_whole() or self.loop is None:
                return
            future: asyncio.Future[None] = self.loop.create_future()
            self._whole.append(future)
        try:
            await asyncio.wait_for(future, max(0.0, deadline - self._clock()))
        except TimeoutError:
            pass
        finally:
            if future in self._whole:
                self._whole.remove(future)

    # ---- what the backend tells; in its loop

    def received(self, message: bytes) -> None:
        """Take a message from another node. Never raises."""
        told = fleet_messages.decode(message)
        if told is None or told.node == self.node:
            return
        with self._lock:
            if self._backend is None:
                return
            try:
                self._take(told)
            except Exception:
                logger.exception("A message of node %s could not be used; nothing else is affected.", told.node)

    def joined(self, node: str) -> None:
        """Learn that a node is there."""
        with self._lock:
            if self._backend is None or node == self.node or not (self._watching or self._backend.detects_failures):
                return
            new = self._fleet.expect(node, self._clock())
            if not self._watching:
                return
            if new:
                self._changed()
            self._wanted.pop(node, None)  # what was sent before it could be reached is lost
            self._send(node, self._interest())
            self._want(node)

    def left(self, node: str) -> None:
        """Learn that a node is certainly gone."""
        with self._lock:
            self._gone(node, None)

    def leave_message(self) -> bytes:
        """Return the last message of this node."""
        return fleet_messages.encode(fleet_messages.Leave(node=self.node, sequence=self._publication.sequence))

    def connectivity_changed(self, *, connected: bool) -> None:
        """Learn whether the others can be reached at all."""
        with self._lock:
            if self._backend is None:
                return
            self._connected = connected
            self._look()
            if not connected:
                return
            self._backend.announce(
                fleet_messages.encode(fleet_messages.Join(node=self.node, released=self._released()))
            )
            self._run(self._ask_for_release())
            if self._watching:
                self._begin_watching()

    def _take(self, told: fleet_messages.FleetMessage) -> None:
        now = self._clock()
        if isinstance(told, fleet_messages.Report | fleet_messages.Join | fleet_messages.Interest):
            self._hear_of_release(told.released)
        match told:
            case fleet_messages.Report():
                self._wanted.pop(told.node, None)
                if self._watching:
                    self._after(told.node, self._fleet.receive(told, now))
                    self._want()
            case fleet_messages.Delta():
                if self._watching:
                    self._after(told.node, self._fleet.update(told, now))
            case fleet_messages.Heartbeat():
                if self._watching:
                    self._after(told.node, self._fleet.heartbeat(told.node, told.sequence, now))
                if told.re and self._sync is not None and self._sync[0] == told.re and told.node in self._sync[1]:
                    self._sync[1][told.node] = told.sequence
                    self._synced(told.node)
            case fleet_messages.Leave():
                self._gone(told.node, told.sequence)
            case fleet_messages.Join():
                self.joined(told.node)
            case fleet_messages.Interest():
                self._take_interest(told, now)
            case fleet_messages.ReportRequest():
                self._answer_want(told)
            case fleet_messages.ReleaseRequest():
                self._send(told.node, fleet_messages.Answer(node=self.node, re=told.re, released=self._released()))
            case fleet_messages.FlushRequest():
                self._absorb()
                self._publish()
                self._send(
                    told.node, fleet_messages.Heartbeat(node=self.node, sequence=self._publication.sequence, re=told.re)
                )
            case _:
                self.forwarding.take(told)

    # ---- watching the others

    def _watch_others(self) -> None:
        if self._watching:
            return
        self._watching = True
        self._start_noting()
        if self.active:
            self.ready = False
            self.call_at_home(self._begin_watching)

    def _begin_watching(self) -> None:
        with self._lock:
            if self._backend is None or self.loop is None or not self._watching:
                return
            self._backend.listen(on=True)
            if self._connected:
                # While they cannot be reached, their silence lasts as long as that, however often somebody looks.
                self._fleet.restart_deadlines(self._clock())
            self._say_interest()
            self._start_ticking()
            if not self.ready and self._ready_timer is None:
                self._ready_timer = self.loop.call_later(CATCH_UP, self._be_ready)
            self._run(self._learn_members())

    def _stop_watching(self) -> None:
        self._watching = False
        self._members_known = False
        self._look()
        self.ready = True
        self._wanted.clear()
        self._to_want.clear()
        self._fleet.forget_others()
        if self._backend is not None:
            self._backend.listen(on=False)
            self._backend.announce(fleet_messages.encode(fleet_messages.Interest(node=self.node, ttl=0.0)))
        self._told_rows = 0
        self._stop_noting()

    async def _learn_members(self) -> None:
        backend = self._backend
        if backend is None:
            return
        members = await backend.members()
        with self._lock:
            if members is None or not self._watching or self._backend is not backend:
                return
            now = self._clock()
            changed = False
            for node in members:
                if node != self.node:
                    changed |= self._fleet.expect(node, now)
            # A store that was emptied does not know those yet that have not found back to it.
            for node in self._fleet.never_reported() - set(members):
                changed |= self._fleet.leave(node)
            self._members_known = True
            self._look()
            if changed:
                self._changed()
            self.viewers_changed()
            self._want()
            self._check_whole()

    def _look(self) -> None:
        """Tell the fleet whether everybody who is there can be known."""
        blind = not (self._connected and self._members_are_known())
        if self._fleet.set_disconnected(disconnected=blind, now=self._clock()):
            self._changed()

    def _members_are_known(self) -> bool:
        return self._backend is None or self._backend.detects_failures or self._members_known

    def _interest(self) -> fleet_messages.Interest:
        self._told_rows = self._quota()
        assert self._backend is not None
        return fleet_messages.Interest(
            node=self.node,
            ttl=3 * self._backend.heartbeat,
            interval=_interval(len(self._fleet), self._config.stats_interval),
            rows=self._told_rows,
            released=self._released(),
        )

    def _say_interest(self) -> None:
        with self._lock:
            if self._backend is not None and self._watching:
                self._interest_due = self._clock() + self._backend.heartbeat
                self._backend.announce(fleet_messages.encode(self._interest()))

    def _quota(self) -> int:
        """Return how many rows of each node it takes to show as many as there may be, and some to fill gaps with."""
        limit = min(self._config.max_listed_connections, fleet_messages.MAX_ROWS)
        if not (self._shows_rows() or self._clock() < self._rows_until) or not self._members_are_known():
            return 0
        totals = list(self._fleet.totals())
        if len(totals) <= FEW_NODES:
            return limit
        if sum(totals) <= limit:
            # Nodes that have not reported yet may have many; a thousand rows of each of a thousand are not needed.
            guess = 2 * limit // len(totals) + 5
            return max(self._told_rows, guess) if len(self._fleet.unreported()) > FEW_NODES else limit
        low, high = 1, limit
        while low < high:
            middle = (low + high) // 2
            if sum(min(total, middle) for total in totals) >= limit:
                high = middle
            else:
                low = middle + 1
        return min(limit, max(self._told_rows, low + low // 2 + 5))

    def _want(self, node: str | None = None) -> None:
        """Ask for reports that are missing: of one node, or of all."""
        if self._backend is None or not self._watching:
            return
        now = self._clock()
        if node is not None:
            if node not in self._wanted and node not in self._to_want:
                self._to_want.append(node)
        elif not self._to_want and not self._wanted:
            self._to_want = [one for one in self._fleet.missing_nodes(rows=self._told_rows > 0) if one != self.node]
        while self._to_want and len(self._wanted) < WINDOW:
            one = self._to_want.pop()
            if one in self._fleet:
                self._wanted[one] = now
                self._send(one, fleet_messages.ReportRequest(node=self.node, rows=self._told_rows))

    def _after(self, node: str, changed: bool) -> None:
        """Go on after a node has spoken."""
        if changed:
            self._changed()
        if self._fleet.is_stale(node):
            self._want(node)
        if self._sync is not None:
            self._synced(node)
        self._check_whole()

    def _synced(self, node: str) -> None:
        if self._sync is None:
            return
        _, others, future = self._sync
        told = others.get(node)
        if told is not None and self._fleet.sequence(node) >= told:
            del others[node]
            if not others and not future.done():
                future.set_result(None)

    def _gone(self, node: str, sequence: int | None) -> None:
        if self._interests.pop(node, None) is not None:
            self._interest_changed()
        self._wanted.pop(node, None)
        self.forwarding.left(node)
        if self._fleet.leave(node, sequence):
            self._changed()
        if self._sync is not None and self._sync[1].pop(node, 0) != 0 and not self._sync[1]:
            future = self._sync[2]
            if not future.done():
                future.set_result(None)
        self._check_whole()

    def _is_whole(self) -> bool:
        if not self._watching or not self.active:
            return True
        return self._members_known and not self._fleet.is_incomplete(rows=self._told_rows > 0)

    def _check_whole(self) -> None:
        if (self.ready and not self._whole) or not self._is_whole():
            return
        self._be_ready()
        for future in self._whole:
            if not future.done():
                future.set_result(None)

    def _be_ready(self) -> None:
        with self._lock:
            if self._ready_timer is not None:
                self._ready_timer.cancel()
                self._ready_timer = None
            if not self.ready:
                self.ready = True
                self.viewers_changed()
                self._changed()

    # ---- which version is current

    def _hear_of_release(self, released: fleet_messages.Released | None) -> None:
        known = self._released()
        if released is not None and (known is None or known < released):
            self._loop.call_soon(self._learn_release, released)

    async def _ask_for_release(self) -> None:
        """Ask a few of the others which version was declared current, until somebody answers: we may have missed it."""
        others = await self.forwarding.others()
        random.shuffle(others)
        for begin in range(0, min(len(others), 3 * FEW), FEW):
            answers = await self.forwarding.call_some(
                others[begin : begin + FEW],
                lambda re: fleet_messages.ReleaseRequest(node=self.node, re=re),
                RELEASE_TIMEOUT,
            )
            for answer in answers:
                self._hear_of_release(answer.released)
            if answers:
                return

    # ---- being watched

    def _take_interest(self, told: fleet_messages.Interest, now: float) -> None:
        if not told.ttl:
            self._interests.pop(told.node, None)
            self._interest_changed()
            return
        if told.node not in self._interests and len(self._interests) >= MAX_WATCHERS:
            return
        self._interests[told.node] = (told, now + told.ttl)
        self._interest_changed()

    def _interest_changed(self) -> None:
        if not self._interests:
            self._publication.show_rows(0, _NOTHING)
            self._stop_noting()
            return
        self._start_noting()
        self._show_rows(max(told.rows for told, _ in self._interests.values()))
        self._start_ticking()

    def _forget_interests(self) -> None:
        if self._interests:
            self._interests.clear()
            self._interest_changed()

    def _show_rows(self, rows: int) -> None:
        if rows > self._publication.rows or (not rows and self._publication.rows):
            # What is pending belongs to the chain that ends here.
            self._publish()
            self._publication.show_rows(rows, self._registry.snapshot())
            self._publish_in_time()

    def _answer_want(self, told: fleet_messages.ReportRequest) -> None:
        if told.node not in self._interests and self._backend is not None:
            # It watches, so what it said before must have been lost, or is still on its way.
            ttl = 3 * self._backend.heartbeat
            self._take_interest(
                fleet_messages.Interest(node=told.node, ttl=ttl, interval=1.0, rows=told.rows), self._clock()
            )
        self._absorb()
        if told.rows > self._publication.rows:
            self._show_rows(told.rows)
        report = self._publication.report(self._registry.snapshot(), rows=told.rows > 0, released=self._released())
        data = fleet_messages.encode(report)
        while report.rows and len(data) > fleet_messages.MAX_BYTES:
            report = msgspec.structs.replace(report, rows=report.rows[: len(report.rows) // 2])
            data = fleet_messages.encode(report)
        if len(data) > fleet_messages.MAX_BYTES:
            if not self._said_too_large:
                self._said_too_large = True
                logger.error(
                    "This node's figures take %d MB, which is more than other nodes accept, so theirs are partial. "
                    "Lower max_routes or max_versions, or have pages send patterns such as /order/:id as routes.",
                    len(data) >> 20,
                )
        elif self._backend is not None:
            self._backend.send(told.node, data)

    def _publish_in_time(self) -> None:
        with self._lock:
            if self._publish_timer is not None or self.loop is None or not self._interests:
                return
            interval = max(AT_ONCE, min(told.interval for told, _ in self._interests.values()))
            # Not in place: what else happens in this turn of the loop goes into the same delta.
            delay = max(0.0, self._published_at + interval - self._clock())
            self._publish_timer = self.loop.call_later(delay, self._publish_late)

    def _publish_late(self) -> None:
        with self._lock:
            self._publish_timer = None
            self._publish()

    def _publish(self) -> None:
        if self._backend is None or not self._interests:
            return
        self._absorb()
        delta = self._publication.drain_changes()
        if delta is not None:
            self._published_at = self._clock()
            self._said_quiet = 0
            data = fleet_messages.encode(delta)
            if len(data) <= fleet_messages.MAX_BYTES:  # else all ask for the whole
                self._backend.publish(data)

    # ---- our own share

    def _absorb(self) -> None:
        """Take what changed in the registry into the fleet and the publication. O(changes) while they are noted."""
        if self._absorbed == self._registry.revision:
            return
        self._absorbed = self._registry.revision
        change = self._registry.drain_changes() if self._noting else None
        base = self._fleet.sequence(self.node)
        if change is not None:
            if self._interests:
                self._publication.absorb(change)
            else:
                self._publication.skip(change.total)  # kept for nobody, it would only grow
            own = fleet_messages.Delta(
                node=self.node,
                base=base,
                sequence=base + 1,
                total=change.total,
                versions=dict(change.versions),
                routes=dict(change.routes),
                rows=change.set,
                removed=change.removed,
            )
            self._fleet.update(own, self._clock())
        else:
            now = self._registry.snapshot()
            self._publication.start(now)
            self._fleet.receive(
                fleet_messages.Report(
                    node=self.node,
                    sequence=base + 1,
                    total=now.total,
                    versions=dict(now.versions),
                    routes=dict(now.routes),
                    rows=now.connections,
                ),
                self._clock(),
            )

    def _start_noting(self) -> None:
        if not self._noting:
            self._absorb()
            self._registry.watch()
            self._noting = True
            self._publication.start(self._registry.snapshot())

    def _stop_noting(self) -> None:
        if self._noting and not self._watching and not self._interests:
            self._absorb()
            self._registry.unwatch()
            self._noting = False

    # ---- time

    def _start_ticking(self) -> None:
        if self._tick_timer is None and self.loop is not None and self._backend is not None:
            self._ticked_at = self._clock()
            self._tick_timer = self.loop.call_later(self._step, self._tick)

    @property
    def _step(self) -> float:
        assert self._backend is not None
        return min(0.25, self._backend.heartbeat / 4)

    def _tick(self) -> None:
        with self._lock:
            if self._notice_lateness():
                self._changed()
            self._tick_timer = None
            if self._backend is None:
                return
            now = self._ticked_at = self._clock()
            self._tick_watched(now)
            self._tick_watching(now)
            if self._watching or self._interests:
                self._tick_timer = self._loop.call_later(self._step, self._tick)

    def _notice_lateness(self) -> bool:
        """
        Forgive the others what they could not be heard to say; to be done before anything old is told.

        Returns:
            Whether anything changed: after a long time, figures are partial until the others are heard.
        """
        if self._tick_timer is None or self._backend is None:
            return False
        late = self._clock() - self._ticked_at - self._step
        if late <= 1:
            return False
        # This process was stopped or very busy: what the others said meanwhile still waits to be read.
        self._ticked_at += late
        self._interests = {node: (told, until + late) for node, (told, until) in self._interests.items()}
        return self._fleet.extend_deadlines(late)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        assert self.loop is not None
        return self.loop

    def _tick_watched(self, now: float) -> None:
        assert self._backend is not None
        over = [node for node, (_, until) in self._interests.items() if now >= until]
        for node in over:
            del self._interests[node]
        if over:
            self._interest_changed()
        quiet = self._backend.heartbeat if self._said_quiet == 2 else min(QUIET_AFTER, self._backend.heartbeat)
        if self._interests and now - self._published_at >= quiet:
            self._publish()
            if now - self._published_at >= quiet:
                self._published_at = now
                self._said_quiet = min(2, self._said_quiet + 1)
                beat = fleet_messages.Heartbeat(node=self.node, sequence=self._publication.sequence)
                self._backend.publish(fleet_messages.encode(beat))

    def _tick_watching(self, now: float) -> None:
        if not self._watching:
            return
        if not self._watched and now >= self._lingers_until:
            self._stop_watching()
            return
        if not self._watched:
            self._absorb()  # nobody else does
        backend = self._backend
        assert backend is not None
        expired = self._fleet.expire(now, drop=not backend.detects_failures)
        if expired.changed:
            self._changed()
        for node in expired.dropped:
            backend.forget(node)
        for node in [node for node, asked in self._wanted.items() if now - asked >= WANT_TIMEOUT]:
            del self._wanted[node]
        if now >= self._interest_due:
            self._say_interest()
            self._run(self._learn_members())
        self._want()
        self._check_whole()

    # ---- inside

    def _send(self, node: str, message: fleet_messages.FleetMessage) -> None:
        if self._backend is not None:
            self._backend.send(node, fleet_messages.encode(message))

    def call_at_home(self, call: Callable[[], None]) -> None:
        """Call in the backend's loop, at once if that is the running one."""
        if self.loop is None:
            return
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self.loop:
            call()
            return
        try:
            self.loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # closed meanwhile

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _forget_loop(self) -> None:
        """Drop what belonged to a loop that is over."""
        for timer in (self._tick_timer, self._publish_timer, self._ready_timer):
            if timer is not None:
                timer.cancel()
        self._tick_timer = self._publish_timer = self._ready_timer = None
        self._sync_lock = None
        self._sync_started = float("-inf")
        self._sync = None
        self._whole.clear()
        self._members_known = False
        self.ready = True


def _interval(nodes: int, stats_interval: float) -> float:
    """Return for how many seconds each of so many nodes is asked to gather what changed there."""
    return min(60.0, max(min(stats_interval, max(AT_ONCE, nodes / EASY)), nodes / NODES_PER_SECOND))


_NOTHING = Stats()
