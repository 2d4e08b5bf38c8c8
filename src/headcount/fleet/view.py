"""
A node among the others: the figures of all nodes as they are known here.

    Watcher        whose figures this node asks for
    Publisher      to whom it publishes its own
    OwnShare       its own share, from the registry
    Refresher      figures of this moment
    Calls          questions to other nodes, and their commands
    Channel        the backend that carries all of it

No node sends figures unasked. While no viewer watches anywhere, nodes exchange nothing. `FleetView` starts and stops
these parts, hands each the messages that concern it, and is a source of figures for the node, as a registry is. Its
state is shared under the node's lock. What belongs to the backend happens in one event loop, that of the first request.

Tests: tests/fleet/backends/test_conformance.py.
"""

import asyncio
import logging
import threading
from collections.abc import Callable

from ..config import Config
from ..core import fleet_messages
from ..core.fleet import Fleet
from ..core.labels import UNKNOWN
from ..core.publication import Publication
from ..core.registry import Registry
from ..core.report_requests import SMALL_FLEET
from ..core.stats import NodeShare, Stats, StatsDelta
from .backends import Backend
from .calls import Calls, CommandHandler
from .channel import Channel
from .check_timer import CheckTimer
from .local_node import Releases
from .own_share import OwnShare
from .publisher import Publisher
from .refresher import Refresher
from .release_exchange import ReleaseExchange
from .watcher import Watcher

logger = logging.getLogger("headcount")


class FleetView:
    """
    The fleet as this node sees it. Implements `Receiver` for the backend and `FigureSource` for the node.

    Args:
        node: Id of this node.
        config: Checked settings.
        registry: This node's connections.
        lock: The node's.
        clock: Monotonic seconds.
        releases: Which version was declared current.
        changed: Schedules a push to the viewers; called with the lock held.
        shows_rows: Says whether a viewer here sees connections.
        handle_command: Runs another node's command.
    """

    def __init__(
        self,
        node: str,
        config: Config,
        registry: Registry,
        lock: threading.RLock,
        clock: Callable[[], float],
        *,
        releases: Releases,
        changed: Callable[[], None],
        shows_rows: Callable[[], bool],
        handle_command: CommandHandler,
    ) -> None:
        self.node = node
        self.channel = Channel(node)
        self.calls = Calls(self.channel, handle_command)
        self._lock = lock
        self._clock = clock
        self._changed = changed
        self._releases = releases
        self._fleet = Fleet(
            node,
            max_listed=config.max_listed_connections,
            max_versions=config.max_versions,
            max_routes=config.max_routes,
            reserved_versions=(config.version, UNKNOWN),
        )
        self._check_timer = CheckTimer(self.channel, clock, self._tick)
        publication = Publication(node, config.max_listed_connections)
        self._own_share = OwnShare(registry, self._fleet, publication, clock)
        self._publisher = Publisher(
            self.channel, self._own_share, publication, releases, lock, clock, self._check_timer.start
        )
        self._watcher = Watcher(
            self.channel,
            self._fleet,
            self._own_share,
            releases,
            config,
            lock,
            clock,
            changed=changed,
            shows_rows=shows_rows,
            start_ticking=self._check_timer.start,
        )
        self._refresher = Refresher(self.channel, self._fleet, self._watcher, lock, clock, changed)
        self._release_exchange = ReleaseExchange(self.channel, self.calls, releases)

    @property
    def active(self) -> bool:
        """A backend runs, in a loop that runs."""
        return self.channel.active

    @property
    def backend(self) -> Backend | None:
        """The way to the other nodes."""
        return self.channel.backend

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of the backend."""
        return self.channel.loop

    @property
    def ready(self) -> bool:
        """The reports of all nodes are here, or had time to come; until then viewers get no figures."""
        return self._watcher.ready

    def start(self, backend: Backend) -> None:
        """
        Reach the other nodes by a backend, in the running loop.

        Raises:
            OSError: The backend cannot be started here.
        """
        with self._lock:
            self._forget_loop()
            self.channel.open(backend)
            self._watcher.set_connected(False)
            try:
                backend.start(self)
            except OSError:
                self.channel.close()
                raise
            if self._watcher.watching:
                self._watcher.begin()

    def cut_off(self) -> None:
        """Know that there are other nodes out of reach: figures are partial until the backend reaches them."""
        with self._lock:
            self._watcher.set_connected(False)

    async def stop(self) -> None:
        """Leave the fleet: for the other nodes, this one is gone at once. Idempotent. In the backend's loop."""
        with self._lock:
            backend = self.channel.close()
            self._forget_loop()
        if backend is not None:
            await backend.stop()

    def abandon(self) -> None:
        """Stop without a word to the others, after the loop of the backend has closed or this node has left."""
        with self._lock:
            self.channel.close()
            self._forget_loop()
            self._watcher.abandon()

    async def leave(self) -> None:
        """Leave the fleet, from any loop."""
        if self.active:
            await self.channel.run(self.stop())

    def leave_soon(self) -> None:
        """Leave the fleet, from any loop, without waiting for it."""
        self.channel.call(lambda: self.channel.start_task(self.stop()))

    @property
    def report_age(self) -> float:
        """For how many seconds the most silent node has been silent. The lock is held."""
        return self._fleet.longest_silence(self._clock())

    @property
    def knows_the_fleet(self) -> bool:
        """The figures here are the fleet's. The lock is held."""
        if not self.active:
            return not self._fleet.disconnected
        alone = len(self._fleet) == 1 and not self._fleet.disconnected
        return alone or (self._watcher.watching and self.ready)

    def shares(self) -> list[NodeShare]:
        """Return what each expected node has reported, this one first. The lock is held; see `absorb`."""
        return self._fleet.shares(self._clock())

    def listen_if_cheap(self) -> None:
        """
        Listen to the other workers of one machine, if they are few: it costs next to nothing. The lock is held.

        In a large fleet a node listens only while a viewer watches there: that every node listens to all others does
        not scale.
        """
        if self.channel.detects_failures and 1 < len(self._fleet) <= SMALL_FLEET:
            self.touch(rows=False)

    def absorb(self) -> None:
        """Bring the figures up to what is known now; to be called before they are read. The lock is held."""
        if self._extend_deadlines():
            self._changed()
        self._own_share.absorb()

    @property
    def revision(self) -> int:
        """Number of changes so far."""
        return self._fleet.revision

    def watch(self) -> None:
        """Start to note changes for `drain_changes()`, and to listen to the other nodes."""
        self._watcher.watch()
        self._own_share.absorb()
        self._fleet.watch()

    def unwatch(self) -> None:
        """Stop noting changes. This node listens to the others a little longer."""
        self._fleet.unwatch()
        self._watcher.unwatch()

    def drain_changes(self) -> StatsDelta | None:
        """Return what changed since the last `drain_changes()` or `watch()`, or None."""
        self._extend_deadlines()
        self._own_share.absorb()
        return self._fleet.drain_changes()

    def snapshot(self) -> Stats:
        """Return the figures as they are known; see `absorb`."""
        return self._fleet.snapshot()

    def publish_soon(self) -> None:
        """Tell the nodes that watch what changed here, if anything did. To be called after every change."""
        self._publisher.publish_soon()

    def touch(self, *, rows: bool, linger: float | None = None) -> None:
        """
        Listen to the other nodes for a while, because a caller looks at the figures without watching them.

        Args:
            rows: It may see connections, so that those of other nodes are asked for.
            linger: Seconds; None: `watcher.LINGER`.
        """
        if self.active:
            self._watcher.touch(rows=rows, linger=linger)

    def reserve_version(self, version: str) -> None:
        """Count a version apart from now on, here as in the registry: it was declared current. The lock is held."""
        self._own_share.absorb()
        if self._fleet.reserve_version(version):
            self._changed()

    def viewers_changed(self) -> None:
        """Ask the other nodes for what the viewers here may see now. The lock is held."""
        self._watcher.viewers_changed()

    async def refresh(self, *, rows: bool = True) -> None:
        """
        Bring the figures up to what every node has now. Waits a second for those that do not answer.

        Args:
            rows: With connections.
        """
        if self.active:
            called = self._clock()
            await self.channel.run(self._refresher.refresh(called, rows=rows))

    def received(self, message: bytes) -> None:
        """Receive a message from another node. Never raises. Called by the backend, as all below."""
        decoded = fleet_messages.decode(message)
        if decoded is None or decoded.node == self.node:
            return
        with self._lock:
            if not self.channel.backend:
                return
            try:
                self._dispatch(decoded)
            except Exception:
                logger.exception("Fleet: a message from node %s failed and was ignored.", decoded.node)

    def joined(self, node: str) -> None:
        """Learn that a node is there."""
        with self._lock:
            if node != self.node:
                self._watcher.on_joined(node)

    def left(self, node: str) -> None:
        """Learn that a node is certainly gone."""
        with self._lock:
            self._on_left(node, None)

    def leave_message(self) -> bytes:
        """Return the last message of this node."""
        return self._publisher.leave_message()

    def connectivity_changed(self, *, connected: bool) -> None:
        """Learn whether the other nodes can be reached at all."""
        with self._lock:
            if self.channel.backend is None:
                return
            self._watcher.set_connected(connected)
            if not connected:
                return
            self.channel.announce(fleet_messages.Join(node=self.node, released=self._releases.released))
            self.channel.start_task(self._release_exchange.ask())
            if self._watcher.watching:
                self._watcher.begin()

    def _dispatch(self, message: fleet_messages.FleetMessage) -> None:
        if isinstance(message, fleet_messages.Report | fleet_messages.Join | fleet_messages.Interest):
            self._release_exchange.on_released(message.released)
        match message:
            case fleet_messages.Report():
                self._watcher.on_report(message)
                self._refresher.on_applied(message.node)
            case fleet_messages.Delta():
                self._watcher.on_delta(message)
                self._refresher.on_applied(message.node)
            case fleet_messages.Heartbeat():
                self._watcher.on_heartbeat(message)
                self._refresher.on_heartbeat(message)
                self._refresher.on_applied(message.node)
            case fleet_messages.Leave():
                self._on_left(message.node, message.sequence)
            case fleet_messages.Join():
                self._watcher.on_joined(message.node)
            case fleet_messages.Interest():
                self._publisher.on_interest(message)
            case fleet_messages.ReportRequest():
                self._publisher.on_report_request(message)
            case fleet_messages.FlushRequest():
                self._publisher.on_flush_request(message)
            case fleet_messages.ReleaseRequest():
                self._release_exchange.on_release_request(message)
            case _:
                self.calls.receive(message)

    def _on_left(self, node: str, sequence: int | None) -> None:
        self._publisher.on_left(node)
        self.calls.node_left(node)
        self._watcher.on_left(node, sequence)
        self._refresher.on_left(node)

    def _tick(self, now: float) -> bool:
        with self._lock:
            if self._extend_deadlines():
                self._changed()
            if self.channel.backend is None:
                return False
            self._publisher.tick(now)
            self._watcher.tick(now)
            return self._watcher.watching or len(self._publisher.schedule) > 0

    def _extend_deadlines(self) -> bool:
        """
        Forgive the other nodes a silence in which this one did not listen; to be called before old figures are shown.

        Returns:
            Whether anything changed: after a long time, figures are partial until the others speak.
        """
        late = self._check_timer.lateness()
        if not late or self.channel.backend is None:
            return False
        # This process was stopped or very busy: what the others said meanwhile still waits to be read.
        self._publisher.schedule.extend(late)
        return self._fleet.extend_deadlines(late)

    def _forget_loop(self) -> None:
        """Drop what belonged to a loop that is over, or to the fleet that this node leaves."""
        self._check_timer.stop()
        self._watcher.forget_loop()
        self._refresher.forget_loop()
        self._publisher.stop()
