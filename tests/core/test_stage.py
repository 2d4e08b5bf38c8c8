"""Which share of the pages is asked, and when."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.stage import MAX_OVER, Stage

moments = st.integers(0, 2**41)
stages = st.builds(
    Stage,
    over=st.integers(0, MAX_OVER),
    since=moments,
    start=st.floats(0, 1),
    until=st.floats(0, 1),
    state=st.sampled_from(["running", "paused", "aborted"]),
)


def test_without_a_stage_everybody_is_asked_at_once() -> None:
    assert Stage().everybody
    assert Stage().share(0) == 1.0
    assert not Stage(over=1).everybody


def test_the_share_grows_evenly_from_start_to_until() -> None:
    stage = Stage(over=10_000, since=1_000, start=0.2, until=0.6)
    assert [round(stage.share(now), 3) for now in (0, 1_000, 3_500, 6_000, 11_000, 99_000)] == [
        *(0.2, 0.2, 0.3, 0.4, 0.6, 0.6)
    ]
    assert [stage.is_over(now) for now in (10_999, 11_000)] == [False, True]
    assert stage.ends_at() == 11_000


@given(st.integers(0, 100), st.integers(1, 100), st.integers(1, 10**7))
def test_every_stage_is_over_at_its_end(start: int, until: int, over: int) -> None:
    stage = Stage(over=over, since=1, start=min(start, until) / 100, until=until / 100)
    assert stage.is_over(1 + over)
    assert stage.share(1 + over) == until / 100


def test_with_a_route_only_an_abort_ends_it() -> None:
    stage = Stage(over=10, since=0, route="/checkout")
    assert not stage.is_over(10**9)
    assert stage.halted(10**9, "aborted").is_over(10**9)


@given(stages, moments, moments)
def test_the_share_never_falls_and_stays_between_0_and_1(stage: Stage, one: int, other: int) -> None:
    early, late = sorted((one, other))
    assert 0.0 <= stage.share(early) <= stage.share(late) <= 1.0


@given(stages, moments, st.integers(0, 2**41))
def test_a_pause_loses_and_adds_nothing(stage: Stage, now: int, length: int) -> None:
    stage = msgspec.structs.replace(stage, state="running", until=max(stage.start, stage.until))
    now = max(now, stage.since)
    paused = stage.halted(now, "paused")
    assert paused.share(now) == paused.share(now + length) == pytest.approx(stage.share(now))
    resumed = paused.resumed(now + length)
    for after in (0, 1, 10_000, stage.over):
        assert resumed.share(now + length + after) == pytest.approx(stage.share(now + after), abs=1e-3)


def test_what_was_aborted_stays_where_it_was() -> None:
    aborted = Stage(over=1_000, since=0).halted(250, "aborted")
    assert (aborted.share(10**9), aborted.is_over(250), aborted.ends_at()) == (0.25, True, None)


def test_a_stage_survives_the_wire_and_none_is_as_before() -> None:
    stage = Stage(over=600_000, since=5, until=0.1, route="/checkout", state="paused")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(stage), type=Stage) == stage
    assert msgspec.msgpack.encode(Stage()) == msgspec.msgpack.encode({})


@pytest.mark.parametrize(
    "hostile", [{"over": -1}, {"start": 2.0}, {"until": -0.1}, {"state": "x"}, {"route": "/" * 600}]
)
def test_what_another_node_sends_is_bounded(hostile: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(hostile, Stage)
