"""Which subscriber is due what, and when: without a loop, a clock or a socket."""

import random
from collections import deque
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headcount.core.push_policy import MAX_BYTES_PER_SECOND, Due, Push, PushPolicy
from headcount.core.visibility import EVERYTHING, Visibility

INTERVAL = 60.0


class Right(NamedTuple):
    """What a viewer may see."""

    routes: bool = True
    connections: bool = True
    ips: bool = True
    expires_in: float | None = None


def idle(_: str) -> bool:
    return False


def policy_with(*keys: str, deltas: bool = True, right: Right | None = None) -> PushPolicy[str]:
    """Return a policy whose subscribers have just been sent a snapshot at revision 0."""
    policy: PushPolicy[str] = PushPolicy(INTERVAL)
    for key in keys:
        policy.add(key, right or Right(), deltas=deltas, now=0.0, recheck_after=50.0)
        assert policy.restart(key, 0, 0.0, busy=False) is Due.SNAPSHOT
    return policy


def test_a_new_subscriber_gets_a_snapshot_and_then_deltas() -> None:
    policy = policy_with("a")
    flush = policy.flush(0, 3, 1.0, idle)
    assert flush.pushes == [Push("a", EVERYTHING, 1, Due.DELTA)]
    assert (flush.expired, flush.withheld, flush.conflated) == ([], 0, 0)
    assert policy.flush(3, 4, 1.0, idle).pushes[0].due is Due.DELTA


def test_a_large_message_delays_the_next_flush_and_a_small_one_does_not() -> None:
    policy = policy_with("a")
    policy.pause_after([MAX_BYTES_PER_SECOND // 2, 300])
    assert policy.pause == 0.5
    policy.pause_after([300])
    assert policy.pause < 0.001
    policy.pause_after([])
    assert policy.pause == 0


def test_a_flush_without_changes_sends_nothing() -> None:
    assert policy_with("a").flush(None, None, 1.0, idle).pushes == []


def test_whoever_asked_for_no_deltas_gets_snapshots() -> None:
    policy = policy_with("a", deltas=False)
    assert [push.due for push in policy.flush(0, 1, 1.0, idle).pushes] == [Due.SNAPSHOT]


def test_a_busy_subscriber_is_conflated_and_gets_one_snapshot_when_it_caught_up() -> None:
    policy = policy_with("a", "b")
    for revision in range(5):
        flush = policy.flush(revision, revision + 1, 1.0, lambda key: key == "a")
        assert [push.key for push in flush.pushes] == ["b"]
        assert flush.conflated == 1
    assert policy.snapshot_is_due("a")
    assert not policy.snapshot_is_due("b")
    assert policy.restart("a", 5, 1.0, busy=False) is Due.SNAPSHOT
    assert not policy.snapshot_is_due("a")
    assert [push.due for push in policy.flush(5, 6, 1.0, idle).pushes] == [Due.DELTA, Due.DELTA]


def test_one_that_is_no_longer_busy_gets_a_snapshot_with_the_next_flush() -> None:
    policy = policy_with("a")
    policy.flush(0, 1, 1.0, lambda _: True)
    assert [push.due for push in policy.flush(1, 2, 1.0, idle).pushes] == [Due.SNAPSHOT]


def test_figures_that_have_moved_on_are_flushed_first() -> None:
    policy = policy_with("a")
    assert policy.restart("a", 7, 1.0, busy=False) is Due.FLUSH
    assert [push.due for push in policy.flush(0, 7, 1.0, idle).pushes] == [Due.SNAPSHOT]


def test_a_push_that_a_newer_chain_has_overtaken_is_void() -> None:
    policy = policy_with("a")
    (push,) = policy.flush(0, 1, 1.0, idle).pushes
    assert policy.is_current(push)
    assert policy.restart("a", 1, 1.0, busy=False) is Due.SNAPSHOT
    assert not policy.is_current(push)


def test_a_push_that_met_a_busy_subscriber_is_made_up_for_by_a_snapshot() -> None:
    policy = policy_with("a")
    first = policy.flush(0, 1, 1.0, idle).pushes[0]
    policy.missed("a")
    assert not policy.is_current(first)
    assert [push.due for push in policy.flush(1, 2, 1.0, idle).pushes] == [Due.SNAPSHOT]


def test_nobody_is_sent_anything_until_the_figures_are_ready_and_then_everybody() -> None:
    policy = policy_with("a")
    assert policy.flush(0, 1, 1.0, idle, ready=False).pushes == []
    assert policy.restart("a", 1, 1.0, busy=False, ready=False) is Due.NOTHING
    assert [push.due for push in policy.flush(None, None, 1.0, idle).pushes] == [Due.SNAPSHOT]


def test_what_was_flushed_before_the_figures_were_ready_is_made_up_for() -> None:
    policy = policy_with("a")
    policy.flush(0, 1, 1.0, idle, ready=False)
    assert [push.due for push in policy.flush(None, None, 1.0, idle).pushes] == [Due.SNAPSHOT]


def test_without_a_verdict_in_time_figures_are_withheld_until_there_is_one() -> None:
    policy = policy_with("a")
    flush = policy.flush(0, 1, INTERVAL, idle)
    assert (flush.pushes, flush.withheld) == ([], 1)
    assert policy.restart("a", 1, INTERVAL, busy=False) is Due.NOTHING
    assert policy.confirm("a", Right(), INTERVAL, 50.0), "a snapshot is due"
    assert policy.restart("a", 1, INTERVAL, busy=False) is Due.SNAPSHOT


def test_an_expired_right_ends_and_is_sent_nothing() -> None:
    policy = policy_with("a", right=Right(expires_in=10.0))
    flush = policy.flush(0, 1, 10.0, idle)
    assert (flush.pushes, flush.expired) == ([], ["a"])
    assert policy.restart("a", 1, 10.0, busy=False) is Due.WITHDRAW
    assert policy.rechecks(10.0, lambda _: True) == ([], ["a"])


def test_the_same_expiry_again_does_not_prolong_a_right() -> None:
    policy = policy_with("a", right=Right(expires_in=10.0))
    assert not policy.confirm("a", Right(expires_in=10.0), 5.0, 50.0)
    assert policy.flush(0, 1, 10.0, idle).expired == ["a"]


def test_another_expiry_replaces_the_one_before() -> None:
    policy = policy_with("a", right=Right(expires_in=10.0))
    policy.confirm("a", Right(expires_in=20.0), 5.0, 50.0)
    assert policy.flush(0, 1, 24.0, idle).expired == []
    assert policy.flush(1, 2, 25.0, idle).expired == ["a"]


def test_a_right_that_shows_something_else_starts_a_new_chain() -> None:
    policy = policy_with("a")
    assert [policy.shows_connections, policy.confirm("a", Right(connections=False), 1.0, 50.0)] == [True, True]
    assert not policy.shows_connections
    assert policy.visibility("a") == Visibility(connections=False)


def test_a_right_is_checked_again_once_at_a_time() -> None:
    policy = policy_with("a", "b")
    assert policy.rechecks(49.0, lambda _: True) == ([], [])
    assert policy.rechecks(50.0, lambda key: key == "a") == (["a"], [])
    assert policy.rechecks(50.0, lambda _: True) == (["b"], [])
    policy.recheck_ended("a")
    policy.confirm("a", Right(), 50.0, 50.0)
    assert policy.rechecks(51.0, lambda _: True) == ([], [])
    assert policy.rechecks(100.0, lambda _: True) == (["a"], [])


def test_a_check_that_was_broken_off_is_due_again() -> None:
    policy = policy_with("a")
    policy.rechecks(50.0, lambda _: True)
    policy.recheck_ended("a")
    assert policy.rechecks(50.5, lambda _: True) == (["a"], [])
    policy.remove("a")
    policy.recheck_ended("a")


def test_a_removed_subscriber_is_sent_nothing() -> None:
    policy = policy_with("a")
    (push,) = policy.flush(0, 1, 1.0, idle).pushes
    assert policy.remove("a")
    assert not policy.remove("a")
    assert not policy.is_current(push)
    assert not policy.snapshot_is_due("a")
    assert policy.flush(1, 2, 1.0, idle).pushes == []
    assert (len(policy), list(policy), "a" in policy) == (0, [], False)


def test_other_figures_start_new_chains() -> None:
    policy = policy_with("a")
    policy.reset(4)
    assert [push.due for push in policy.flush(None, None, 1.0, idle).pushes] == [Due.SNAPSHOT]


class Viewer:
    """A subscriber as its client sees it: applies what it is sent, and refuses a delta that leaves a hole."""

    def __init__(self, right: Right) -> None:
        self.right = right
        self.busy = False
        self.at: int | None = None
        """Revision that it has."""
        self.on_the_way: deque[tuple[Push[int], int | None, int]] = deque()
        """Chosen in another loop, and not yet sent: push, base and revision."""

    def apply(self, due: Due, base: int | None, revision: int) -> None:
        assert not self.busy, "sent while busy"
        if due is Due.DELTA:
            assert self.at == base, "a hole in the chain"
        self.at = revision


class World:
    """Figures that change, viewers that read more or less fast, and a policy that must keep up with them."""

    def __init__(self) -> None:
        self.policy: PushPolicy[int] = PushPolicy(INTERVAL)
        self.viewers: dict[int, Viewer] = {}
        self.gone: list[Viewer] = []
        self.now = 0.0
        self.newest = 0
        self.numbers = 0
        self.ready = True

    def subscribe(self, right: Right, *, deltas: bool, late: bool) -> None:
        self.numbers += 1
        self.viewers[self.numbers] = Viewer(right)
        self.policy.add(self.numbers, right, deltas=deltas, now=self.now, recheck_after=50.0)
        if not late:
            self.restart(self.numbers)

    def restart(self, key: int) -> None:
        viewer = self.viewers[key]
        due = self.policy.restart(key, self.newest, self.now, busy=viewer.busy, ready=self.ready)
        if due is Due.SNAPSHOT:
            assert self.newest == self.policy.flushed, "the snapshot would be ahead of the chain"
            viewer.apply(due, None, self.newest)
        elif due is Due.FLUSH:
            self.flush()
        elif due is Due.WITHDRAW:
            self.withdraw(key)

    def withdraw(self, key: int) -> None:
        self.policy.remove(key)
        self.gone.append(self.viewers.pop(key))

    def flush(self) -> None:
        base = self.policy.flushed
        changed = self.newest != base
        flush = self.policy.flush(
            base if changed else None,
            self.newest if changed else None,
            self.now,
            lambda key: self.viewers[key].busy,
            ready=self.ready,
        )
        for push in flush.pushes:
            assert not self.viewers[push.key].busy
            self.viewers[push.key].on_the_way.append((push, base, self.newest))
        for key in flush.expired:
            self.withdraw(key)

    def deliver(self, key: int) -> None:
        viewer = self.viewers[key]
        if not viewer.on_the_way:
            return
        push, base, revision = viewer.on_the_way.popleft()
        if not self.policy.is_current(push):
            return
        if viewer.busy:
            self.policy.missed(key)
        else:
            viewer.apply(push.due, base, revision)

    def deliver_all(self, key: int) -> None:
        while self.viewers[key].on_the_way:
            self.deliver(key)

    def catch_up(self, key: int) -> None:
        self.viewers[key].busy = False
        if self.policy.snapshot_is_due(key):
            self.restart(key)

    def recheck(self, key: int, verdict: str) -> None:
        rechecks = self.policy.rechecks(self.now, lambda other: other == key)
        for expired in rechecks.expired:
            self.withdraw(expired)
        for due in rechecks.due:
            self.policy.recheck_ended(due)
            if verdict == "denied":
                self.withdraw(due)
            elif verdict != "broken off":
                self.confirm(due, other=verdict == "other")

    def confirm(self, key: int, *, other: bool) -> None:
        viewer = self.viewers[key]
        if other:
            viewer.right = viewer.right._replace(connections=not viewer.right.connections)
        if self.policy.confirm(key, viewer.right, self.now, 50.0):
            self.restart(key)

    def set_ready(self, ready: bool) -> None:
        self.ready = ready
        if ready:
            self.flush()

    def check(self) -> None:
        for viewer in self.gone:
            assert not any(self.policy.is_current(push) for push, _, _ in viewer.on_the_way)
        assert set(self.policy) == set(self.viewers)

    def settle(self) -> None:
        """Let everybody read: whoever still has a right then has the newest figures."""
        self.ready = True
        self.flush()  # whose right has expired is gone now
        for key, viewer in self.viewers.items():
            viewer.busy = False
            self.deliver_all(key)
            self.confirm(key, other=False)
            self.catch_up(key)
        for key, viewer in self.viewers.items():
            self.deliver_all(key)
            assert viewer.at == self.newest
        self.check()


EXPIRIES = [None, 5.0, 90.0]
VERDICTS = ["same", "other", "denied", "broken off"]


class Pushing(RuleBasedStateMachine):
    """Any order of changes, flushes, slow peers, verdicts and loops that come late."""

    @initialize()
    def start(self) -> None:
        self.world = World()

    def someone(self, data: Any) -> int:
        key: int = data.draw(st.sampled_from(sorted(self.world.viewers)))
        return key

    @rule(connections=st.booleans(), expires_in=st.sampled_from(EXPIRIES), deltas=st.booleans(), late=st.booleans())
    def subscribe(self, connections: bool, expires_in: float | None, deltas: bool, late: bool) -> None:
        self.world.subscribe(Right(connections=connections, expires_in=expires_in), deltas=deltas, late=late)

    @rule(changes=st.integers(1, 3), flushed=st.booleans())
    def change(self, changes: int, flushed: bool) -> None:
        self.world.newest += changes
        if flushed:
            self.world.flush()

    @rule()
    def flush(self) -> None:
        self.world.flush()

    @precondition(lambda self: self.world.viewers)
    @rule(data=st.data())
    def deliver(self, data: Any) -> None:
        self.world.deliver(self.someone(data))

    @precondition(lambda self: self.world.viewers)
    @rule(data=st.data())
    def block(self, data: Any) -> None:
        self.world.viewers[self.someone(data)].busy = True

    @precondition(lambda self: self.world.viewers)
    @rule(data=st.data())
    def catch_up(self, data: Any) -> None:
        self.world.catch_up(self.someone(data))

    @rule(seconds=st.sampled_from([0.5, 10.0, 55.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    @precondition(lambda self: self.world.viewers)
    @rule(data=st.data(), verdict=st.sampled_from(VERDICTS))
    def recheck(self, data: Any, verdict: str) -> None:
        self.world.recheck(self.someone(data), verdict)

    @precondition(lambda self: self.world.viewers)
    @rule(data=st.data())
    def unsubscribe(self, data: Any) -> None:
        self.world.withdraw(self.someone(data))

    @rule(ready=st.booleans())
    def other_nodes(self, ready: bool) -> None:
        self.world.set_ready(ready)

    @invariant()
    def check(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()


TestPushing = Pushing.TestCase
TestPushing.settings = settings(settings(), stateful_step_count=40)


@pytest.mark.parametrize("seed", range(10))
def test_a_long_life_of_three_viewers_leaves_no_hole(seed: int) -> None:
    """Deep histories, in which a push is late, its viewer busy and its chain another one, all at once."""
    chance, world = random.Random(seed), World()
    for _ in range(2_000):
        key = chance.choice(list(world.viewers)) if world.viewers else None
        if key is None or (len(world.viewers) < 3 and chance.random() < 0.1):
            right = Right(connections=chance.random() < 0.5, expires_in=chance.choice(EXPIRIES))
            world.subscribe(right, deltas=chance.random() < 0.8, late=chance.random() < 0.1)
            continue
        match chance.choices(range(9), [20, 10, 20, 8, 12, 5, 4, 1, 2])[0]:
            case 0:
                world.newest += 1
                world.flush()
            case 1:
                world.newest += 1
            case 2:
                world.deliver(key)
            case 3:
                world.viewers[key].busy = True
            case 4:
                world.catch_up(key)
            case 5:
                world.confirm(key, other=chance.random() < 0.5)
            case 6:
                world.now += chance.choice([0.5, 55.0])
                world.recheck(key, chance.choice(VERDICTS))
            case 7:
                world.withdraw(key)
            case 8:
                world.set_ready(chance.random() < 0.7)
    world.settle()
