"""The rule of reconnecting: what protocol/fixtures/reconnect.json says, which vitest reads as well."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core import reconnect
from headcount.core.reconnect import BASE, CAP, FLOOR, Reconnect, after_drain, after_end, backoff

FIXTURE = json.loads((Path(__file__).parents[2] / "protocol/fixtures/reconnect.json").read_text())


def cases(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", FIXTURE[name], ids=lambda case: case["name"])


def end(case: dict[str, Any], random: float) -> Reconnect | None:
    lasted = None if case["openMs"] is None else case["openMs"] / 1000
    return after_end(case["attempt"], random, lasted=lasted, code=case["code"], named=case["namedMs"] / 1000)


def test_the_constants_are_those_of_the_protocol() -> None:
    for name in ("base", "cap", "floor", "longest", "stable"):
        assert getattr(reconnect, name.upper()) * 1000 == FIXTURE["constants"][f"{name}Ms"]


@cases("ends")
def test_the_end_of_a_stream(case: dict[str, Any]) -> None:
    if case["delayMs"] is None:
        assert end(case, 0.5) is None
        return
    least, middle, most = (end(case, random) for random in (0.0, 0.5, 1.0))
    assert least is not None
    assert middle is not None
    assert most is not None
    assert [least.delay * 1000, most.delay * 1000] == pytest.approx(case["delayMs"])
    assert least.delay < middle.delay < most.delay, "no delay is without jitter"
    assert least.attempt == middle.attempt == most.attempt == case["attemptAfter"]


@cases("drains")
def test_drain(case: dict[str, Any]) -> None:
    seconds = None if case["reconnectMs"] is None else case["reconnectMs"] / 1000
    assert [after_drain(seconds, random) * 1000 for random in (0.0, 1.0)] == pytest.approx(case["delayMs"])


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_the_jitter_is_drawn_after_the_cap(attempt: int, random: float) -> None:
    assert backoff(attempt, random) == max(FLOOR, random * min(CAP, BASE * 2 ** min(attempt, 20)))
