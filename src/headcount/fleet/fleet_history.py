"""
The history of the fleet: one node in turn adds a sample of all nodes' tallies to the backend's store, and once a minute
brings the rollouts in the store up to it.

A node may be late with that, and so replace newer rollouts by older ones. The next node applies the samples that they
lack, and so does whoever reads them: nothing is lost, and every node returns the same.

Tests: tests/fleet/test_fleet_history.py, tests/fleet/backends/test_tallies.py, tests/server/test_unaccounted.py.
"""

import threading
from collections.abc import Mapping
from typing import Final

from ..core import history, rollouts
from ..core.fleet_figures import FleetFigures
from ..core.history import Current
from ..core.kept_history import KeptHistory
from .backends import Backend
from .link import FleetLink
from .local_node import ReleaseState

INTERVAL_MS: Final = round(history.INTERVAL * 1000)

SLOTS_OF_A_MINUTE: Final = round(history.MINUTE / history.INTERVAL)


class FleetHistory:
    """
    Adds to the history in the backend's store, and reads it. In the backend's loop.

    Args:
        link: To the other nodes.
        figures: Know which version is current.
        releases: Know when it was declared.
        lock: The node's.
    """

    def __init__(self, link: FleetLink, figures: FleetFigures, releases: ReleaseState, lock: threading.RLock) -> None:
        self._link = link
        self._figures = figures
        self._releases = releases
        self._lock = lock
        self._read = KeptHistory()
        """As it was read last."""

    async def read(self) -> KeptHistory:
        """Return the fleet's history; while the store does not answer, as it was read last."""
        backend = self._link.backend
        found = None if backend is None else await backend.tallies.history()
        if found is not None:
            self._read = found
        return self._read

    async def read_rollouts(self) -> KeptHistory:
        """Return what of the history brings the rollouts up to the last sample: mostly little of it. See `read`."""
        backend = self._link.backend
        found = None if backend is None else await _recent(backend)
        return self._read if found is None else found

    async def add(self, backend: Backend, slot: int, versions: Mapping[str, int], *, partial: bool) -> None:
        """
        Add the sample of an interval.

        Args:
            backend: Whose store it is for.
            slot: Number of the interval.
            versions: `{version: count}` of all nodes.
            partial: Connections are unaccounted for.
        """
        at = slot * INTERVAL_MS
        one = history.sample(at, versions, partial=partial, current=self._current())
        data = history.encode_sample(one)
        if slot % SLOTS_OF_A_MINUTE:
            await backend.tallies.add_sample(data)
            return
        kept = await _recent(backend)
        recent = [] if kept is None else history.read_samples(kept.fine, history.SAMPLES_OF_A_MINUTE)
        await backend.tallies.add_sample(data, minute=history.encode_sample(history.minute(one, recent)))
        if kept is not None:
            known = kept._replace(fine=[*kept.fine, data]).catch_up(at)
            await backend.tallies.keep_rollouts(rollouts.encode(known))

    def _current(self) -> Current:
        with self._lock:
            version, released = self._figures.release.current, self._releases.released
        declared = 0 if released is None or released.version != version else released.release_id
        return Current(version, declared)


async def _recent(backend: Backend) -> KeptHistory | None:
    """Return the samples of the last minute and the rollouts; the whole history, if the rollouts lack older ones."""
    kept = await backend.tallies.history(history.SAMPLES_OF_A_MINUTE, 1)
    if kept is None:
        return None
    last, oldest = rollouts.decode(kept.rollouts).last, history.read_samples(kept.fine, history.LENGTH)[:1]
    if last is None or (oldest and last.at < oldest[0].at):
        return await backend.tallies.history()
    return kept
