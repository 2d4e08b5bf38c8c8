"""
Accounting for connections of nodes that are gone: what the backend's store says, and which pages came back here. The
history of the fleet (fleet_history.py) comes from the same tallies, so it is added to from here.

core/tallies.py says what follows from an entry of the store, core/unaccounted.py holds it for this node.

Tests: tests/fleet/test_accounting.py, tests/fleet/backends/test_tallies.py, tests/server/test_unaccounted.py.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from ..config import Config
from ..core import fleet_messages, identity, page_lists
from ..core.fleet_figures import FleetFigures
from ..core.page_lists import PageVersions
from ..core.returned_pages import ReturnedPage, ReturnedPages
from ..core.tallies import Entry, first_joined, judge
from ..core.unaccounted import StoredAbsence
from ..errors import Busy
from .backends import Backend
from .fleet_history import INTERVAL_MS, FleetHistory
from .link import FleetLink
from .local_node import KnownState

logger = logging.getLogger("headcount")

MAX_UNVERIFIED: Final = 64
"""Nodes that only pages have named, and that are looked up with one heartbeat. Anybody can invent names."""

NODES_PER_INTERVAL: Final = 100
"""Nodes of a fleet in which each looks at all tallies in every interval of the history; in larger ones, less often."""

NOT_FORGOTTEN: Final = "The node was not forgotten: the backend did not answer. Try again."
"""The text of the `Busy` that `forget` raises."""


STORE: Final = "store"
"""What the backend's store says of the versions that the nodes serve, as a source of `CurrentVersion`."""


class Accounting:
    """
    Reads the tallies in the backend's store, and notes there which pages came back.

    In the backend's loop, unless a method says otherwise.

    Args:
        link: To the other nodes.
        figures: Holds what is unaccounted for.
        lock: The node's.
        clock: Monotonic seconds.
        config: Checked settings.
        mark_dirty: Schedules a push to the viewers.
        known_versions: Which versions are known.
        history: Of the fleet.
    """

    def __init__(
        self,
        link: FleetLink,
        figures: FleetFigures,
        lock: threading.RLock,
        clock: Callable[[], float],
        config: Config,
        mark_dirty: Callable[[], None],
        known_versions: KnownState,
        history: FleetHistory,
    ) -> None:
        self._link = link
        self._figures = figures
        self._lock = lock
        self._clock = clock
        self._grace = config.unaccounted_grace
        self._served: frozenset[str] = frozenset()
        """The versions that the other nodes serve, as the store says; an empty one if a node does not say."""
        self._versions_due = 0
        """Interval of the history in which this node asks again, also if it is not its turn to add the sample."""
        self._mark_dirty = mark_dirty
        self._known_versions = known_versions
        self._returns = ReturnedPages()
        self._listed_nodes: set[str] = set()
        """Nodes whose tallies the store has, or had a moment ago."""
        self._unverified: set[str] = set()
        """Nodes that pages have named since the last heartbeat, and that are not listed."""
        self._recording_returns = False
        self._slot: int | None = None
        """The last interval of the history in which this node asked whether it is its turn to add the sample."""
        self._history = history

    def page_returned(self, node: str, handle: str, version: str) -> None:
        """Note a page that names a stream of another node. From any loop."""
        with self._lock:
            if node not in self._listed_nodes and node not in self._unverified:
                if len(self._unverified) >= MAX_UNVERIFIED:
                    return  # what it stands for stays unaccounted for until the grace is over
                self._unverified.add(node)
            self._returns.add(node, handle, version, self._clock())

    def on_own_heartbeat(self) -> None:
        """Do what is due with each heartbeat. The lock is not held."""
        with self._lock:
            if self._figures.settle(self._clock()):
                self._mark_dirty()
        if self._returns and not self._recording_returns:
            self._link.start_task(self._record_returns())
        backend = self._link.backend
        now = None if backend is None else backend.tallies.now()
        if backend is None or now is None:
            return
        slot = now // INTERVAL_MS
        if slot != self._slot:
            self._link.start_task(self._begin_interval(backend, slot, first=self._slot is None))
        self._slot = slot

    async def read_tallies(self, backend: Backend) -> bool:
        """Read the tallies and apply what follows. Returns whether the store answered. Takes the lock itself."""
        asked = self._clock()
        if self._returns:
            await self._record_returns()
        entries = await backend.tallies.entries()
        if entries is None:
            return False
        wall = time.time() * 1000
        found = self._judge(backend, entries, wall)
        self._note_versions(entries)
        with self._lock:
            self._listed_nodes = set(entries)
            if self._link.backend is backend:
                self._figures.wall_offset = wall - self._clock() * 1000
                if self._figures.apply_tallies(found, asked, self._clock()):
                    self._mark_dirty()
        return True

    def _judge(self, backend: Backend, entries: Mapping[str, Entry], wall: float) -> dict[str, StoredAbsence]:
        """Judge what the store holds, and tidy it up."""
        found: dict[str, StoredAbsence] = {}
        joined = first_joined(backend.tallies.joined, entries.values())
        for node, entry in entries.items():
            judgement = judge(node, entry, self._grace, joined)
            absence = judgement.absence
            if absence is not None:
                absence = msgspec.structs.replace(absence, since=max(0, round(wall - entry.age * 1000)))
            found[node] = StoredAbsence(absence, judgement.remaining, entry.has_heartbeat, entry.tally.serves)
            if judgement.over and node != self._link.node:
                self._link.start_task(backend.tallies.drop(node))
            elif judgement.seen_alive is not None and judgement.seen_alive != entry.seen_alive:
                self._link.start_task(backend.tallies.keep_seen_alive(node, judgement.seen_alive))
        return found

    def _note_versions(self, entries: Mapping[str, Entry]) -> None:
        # Of nodes that are gone, too: their pages may be here.
        self._known_versions.learn_versions(entry.tally.serves for entry in entries.values())
        served = frozenset(
            entry.tally.serves
            for node, entry in entries.items()
            if entry.has_heartbeat and node != self._link.node and not (entry.tally.left or entry.tally.forgotten)
        )
        with self._lock:
            self._note_served(served)

    def _note_served(self, served: frozenset[str]) -> None:
        self._served = served
        if self._figures.note_served(STORE, served - {""}, silent="" in served):
            self._mark_dirty()
            release = self._figures.release
            if release.state == "orphaned":
                logger.warning(
                    "No node serves version %s, which was declared current, so it is not known which pages are "
                    "outdated. Declare the version that nodes serve: headcount release VERSION URL",
                    release.version,
                )

    def note_joined(self, serves: str) -> None:
        """Note which version a node serves that has just joined, before the store says so. The lock is held."""
        if serves not in self._served and self._listed_nodes:
            self._note_served(self._served | {serves})

    def agreement(self) -> tuple[str, float]:
        """Return the version that all live nodes serve, if they agree, and for how many seconds they have."""
        with self._lock:
            return self._figures.agreement or "", self._figures.agreed_for(self._clock())

    def adopt_agreement(self, version: str, seconds: float) -> None:
        """Learn from another node for how long all live nodes have served a version. The lock is not held."""
        with self._lock:
            if self._figures.adopt_agreement(version, seconds, self._clock()):
                self._mark_dirty()

    async def _begin_interval(self, backend: Backend, slot: int, *, first: bool) -> None:
        """Look which versions the nodes serve, and add the fleet's figures to the history if it is this node's turn."""
        turn = not first and await backend.tallies.claim_sample(slot)
        if not turn and slot < self._versions_due:
            return
        entries = await backend.tallies.entries()
        if entries is None:
            return
        self._note_versions(entries)
        self._versions_due = slot + 1 + len(entries) // NODES_PER_INTERVAL
        if not turn:
            return
        judged = self._judge(backend, entries, time.time() * 1000)  # nobody may have looked for long
        with self._lock:
            self._listed_nodes = set(entries)
        versions: Counter[str] = Counter()
        for entry in entries.values():
            if entry.has_heartbeat:
                versions.update(entry.tally.versions)
        partial = any(each.absence is not None for each in judged.values())
        await self._history.add(backend, slot, versions, partial=partial)

    async def forget(self, node: str) -> bool:
        """
        End the doubt about a node on all nodes. Returns whether there was any. Takes the lock itself.

        Raises:
            Busy: The store did not answer: it would bring the doubt back.
        """
        backend = self._link.backend
        entries = None if backend is None else await backend.tallies.entries((node,))
        if backend is None or entries is None:
            raise Busy(NOT_FORGOTTEN)
        has_absence = node in entries and not entries[node].tally.forgotten and not entries[node].has_heartbeat
        if has_absence and not await backend.tallies.forget(node):
            raise Busy(NOT_FORGOTTEN)
        self._link.announce(fleet_messages.Forget(node=self._link.node, gone=node))
        return self.end_absence(node) or has_absence

    def end_absence(self, node: str) -> bool:
        """End the doubt about a node here. Returns whether anything changed."""
        with self._lock:
            changed = self._figures.end_absence(node)
            if changed:
                self._mark_dirty()
        return changed

    async def _record_returns(self) -> None:
        """Note the pages in the store that came from nodes which are gone, or sent them away."""
        backend = self._link.backend
        if backend is None or self._recording_returns:
            return
        self._recording_returns = True
        try:
            with self._lock:
                self._returns.expire(self._clock())
                nodes = self._returns.nodes
            entries = await backend.tallies.entries(nodes) if nodes else None
            if entries is not None:
                with self._lock:
                    self._unverified.clear()
                    self._listed_nodes.update(entries)
                    for node in nodes:
                        if node not in entries:
                            self._returns.discard(node)
            for node, entry in (entries or {}).items():
                if _may_miss_pages(entry):
                    await self._record_returns_of(backend, node, entry)
        finally:
            self._recording_returns = False

    async def _record_returns_of(self, backend: Backend, node: str, entry: Entry) -> None:
        key, sent_away = entry.tally.key, _sent_away(entry)
        data = await backend.tallies.pages(node) if entry.tally.pages else None
        counted: PageVersions | None = None
        if data is not None:
            pages = page_lists.decode(data)
            if pages is None or pages.number != entry.tally.pages:
                return  # the node has just written another one
            counted = pages.versions(departed=sent_away)
        with self._lock:
            # A node that still runs learns of the page directly and removes it from its next list. Until then its old
            # list holds the page, and to record the return here as well would count it twice.
            newest = self._clock() - (self._link.heartbeat / 2 if entry.has_heartbeat and counted is not None else 0)
            # A page may reconnect here before its old node has written that it sent the page away.
            found = self._returns.pop_pages(
                node,
                lambda page: _proof(page, key, counted) if page.came <= newest else None,
                float("-inf") if sent_away or counted is not None else self._clock() - entry.age,
                keep=sent_away and counted is not None,
            )
        if found:
            backend.write_tally()  # first, or a page that is lost now would be in no tally
            await backend.tallies.note_returned(node, found)


def _proof(page: ReturnedPage, key: bytes, counted: PageVersions | None) -> tuple[str, str] | None:
    """Return the public id that the handle of a page proves, and the version that the page is counted under."""
    public = identity.returning_id(page.handle, key)
    version = page.version if public is None or counted is None else counted.of(public)
    return None if public is None or version is None else (public, version)


def _sent_away(entry: Entry) -> bool:
    """Say whether a node told pages to go, so that they may come before its last tally was written."""
    return entry.tally.left or entry.has_heartbeat


def _may_miss_pages(entry: Entry) -> bool:
    return not entry.has_heartbeat or bool(entry.tally.departed)
