"""What a node adds to the fleet's history when it is its turn. The store is in memory, and time is an argument."""

import threading
from typing import Any

import pytest

from headcount.core import rollouts
from headcount.core.fleet_figures import FleetFigures
from headcount.core.fleet_messages import Declaration
from headcount.core.history import read_samples
from headcount.core.kept_history import WholeHistory
from headcount.fleet.fleet_history import FleetHistory
from headcount.fleet.link import FleetLink
from headcount.node.releases import Releases

from .backends.memory_backend import Hub, MemoryBackend

pytestmark = pytest.mark.anyio

NOW = 10**12


class Fleet:
    """Two nodes of one store, as far as their history goes."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.nodes = [Node(self.hub, name) for name in ("aaaaaaaaaaaa", "bbbbbbbbbbbb")]

    def declare(self, version: str, at: int) -> None:
        """Declare a version current on both."""
        for node in self.nodes:
            node.releases.released = Declaration(at, version)
            node.figures.declare(version, at, insisted=True)

    async def add(self, slot: int, *, partial: bool = False, node: int = 0, **versions: int) -> None:
        """Let a node add a sample."""
        await self.nodes[node].history.add(self.nodes[node].backend, slot, versions, partial=partial)

    async def read(self) -> WholeHistory:
        """Return what the nodes read, which is the same."""
        one, two = [(await node.history.read()).read(NOW) for node in self.nodes]
        assert one == two
        for node in self.nodes:
            assert (await node.history.read_rollouts()).catch_up(NOW) == one.rollouts
        return one


class Node:
    def __init__(self, hub: Hub, name: str) -> None:
        self.backend: Any = MemoryBackend(name, hub)
        self.link = FleetLink(name)
        self.link.backend = self.backend
        self.figures = FleetFigures(name)
        self.releases = Releases("v1", print)
        self.history = FleetHistory(self.link, self.figures, self.releases, threading.RLock())


async def test_a_release_makes_a_rollout_that_every_node_returns() -> None:
    fleet = Fleet()
    fleet.declare("v1", 1)
    await fleet.add(6, v1=10)
    fleet.declare("v2", 65_000)
    for node in fleet.nodes:
        node.releases.released = Declaration(69_000, "v2", began=65_000)  # its stage was changed
    for slot, on in enumerate((2, 5, 9, 9, 9, 10), start=7):
        await fleet.add(slot, node=slot % 2, v1=10 - on, v2=on)
    whole = await fleet.read()
    assert [each.outdated for each in whole.fine] == [0, 8, 5, 1, 1, 1, 0]
    [rollout] = whole.rollouts.rollouts
    assert (rollout.version, rollout.previous, rollout.at, rollout.declared) == ("v2", "v1", 65_000, True)
    assert [(each.percent, each.after) for each in rollout.reached] == [(50, 15_000), (90, 25_000), (99, 55_000)]
    assert rollouts.decode(fleet.hub.rollouts) == whole.rollouts, "the node of the minute has written it"
    await fleet.add(13, v3=9)
    assert rollouts.decode(fleet.hub.rollouts) != (await fleet.read()).rollouts, "what it lacks is applied by who reads"


async def test_what_is_not_declared_has_no_time_of_a_declaration() -> None:
    fleet = Fleet()
    fleet.declare("v1", 1)
    fleet.nodes[0].releases.released = Declaration(7, "v2")
    await fleet.add(6, v1=1)
    assert (await fleet.read()).fine[0].declared == 0
    await Fleet().add(6, v1=1)


async def test_nothing_is_outdated_while_no_version_is_current() -> None:
    fleet = Fleet()
    await fleet.add(6, v1=1, v2=1)
    [one] = (await fleet.read()).minutes
    assert (one.current, one.outdated, one.total) == (None, None, 2)


async def test_a_minute_is_partial_if_a_node_was_missing_in_any_part_of_it() -> None:
    fleet = Fleet()
    for slot in range(5, 19):
        await fleet.add(slot, node=slot % 2, partial=slot in (6, 14), v1=1)
    assert [(each.at, each.partial) for each in (await fleet.read()).minutes] == [
        (60_000, True),
        (120_000, False),
        (180_000, True),
    ]


async def test_rollouts_that_a_late_node_overwrote_come_back() -> None:
    fleet = Fleet()
    fleet.declare("v1", 1)
    await fleet.add(6, v1=10)
    late = fleet.hub.rollouts
    fleet.declare("v2", 65_000)
    for slot in range(7, 19):
        await fleet.add(slot, v2=10)
    before = (await fleet.read()).rollouts
    assert len(before.rollouts) == 1
    for overwritten in (late, None, b"malformed"):
        fleet.hub.rollouts = overwritten
        assert (await fleet.read()).rollouts == before
    for slot in range(19, 25):
        await fleet.add(slot, v2=10)
    assert rollouts.decode(fleet.hub.rollouts).rollouts[0].at == before.rollouts[0].at == 65_000


async def test_while_the_store_does_not_answer_the_last_history_is_read_and_samples_are_added_blindly() -> None:
    fleet = Fleet()
    fleet.declare("v1", 1)
    await fleet.add(6, v1=10)
    before = await fleet.read()

    async def nothing(*_: int) -> None:
        return None

    for node in fleet.nodes:
        node.backend.tallies.history = nothing
    assert await fleet.read() == before
    await fleet.add(12, v1=11)
    assert [each.total for each in read_samples(fleet.hub.minutes, 9)] == [10, 11]
