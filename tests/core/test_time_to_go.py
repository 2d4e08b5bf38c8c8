"""The estimate of the time to go: what protocol/fixtures/time-to-go.json says, which vitest reads as well."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.time_to_go import MIN_INTERVAL, NEVER, WINDOW, Sample, Samples, decay, time_to_go

CASES = json.loads((Path(__file__).parents[2] / "protocol/fixtures/time-to-go.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_time_to_go(case: dict[str, Any]) -> None:
    samples = [Sample(at / 1000, left) for at, left in case["samples"]]
    if not samples:
        assert case["timeToGoMs"] is decay(samples) is None
        return
    seconds = time_to_go(samples[-1].left, case["bound"], decay(samples))
    if case["timeToGoMs"] is None:
        assert seconds is None
    elif case["timeToGoMs"] == "never":
        assert seconds == NEVER
    else:
        assert seconds == pytest.approx(case["timeToGoMs"] / 1000)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 1_000)), min_size=1, max_size=50))
def test_the_newest_sample_is_kept_and_old_and_dense_ones_are_not(steps: list[tuple[float, int]]) -> None:
    samples, now = Samples(), 0.0
    for step, left in steps:
        now += step
        samples.add(Sample(now, left))
    kept = list(samples)
    assert kept[-1] == Sample(now, steps[-1][1])
    assert kept[0].at >= now - WINDOW
    assert all(later.at - earlier.at >= MIN_INTERVAL for earlier, later in pairwise(kept[:-1]))


def test_many_samples_a_second_estimate_what_few_do() -> None:
    many, few = Samples(), Samples()
    for tick in range(2_400):
        sample = Sample(tick / 20, round(100_000 * 2 ** (-tick / 1_200)))
        many.add(sample)
        if tick % 200 == 199:
            few.add(sample)
    assert many.decay() == pytest.approx(few.decay(), rel=0.01)
    assert len(list(many)) <= 121
