"""The rule of reconnecting: what protocol/fixtures/reconnect.json says, which vitest reads as well."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core import reconnect
from headcount.core.ends import ENDS
from headcount.core.reconnect import (
    BASE,
    CAP,
    FLOOR,
    LEAD_PART,
    MISSES,
    OUTLIVED,
    RENEWALS,
    Limit,
    Reconnect,
    Ways,
    after_delivery,
    after_drain,
    after_end,
    after_failure,
    after_life,
    after_opening,
    backoff,
    is_cut,
    is_refusal,
    next_way,
    post_outcome,
)

FIXTURE = json.loads((Path(__file__).parents[2] / "protocol/fixtures/reconnect.json").read_text())


def cases(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", FIXTURE[name], ids=lambda case: case["name"])


def end(case: dict[str, Any], random: float) -> Reconnect | None:
    lasted = None if case["openMs"] is None else case["openMs"] / 1000
    named = case["namedMs"] / 1000
    return after_end(case["attempt"], random, lasted=lasted, code=case["code"], named=named, refused=case["refused"])


def test_the_constants_are_those_of_the_protocol() -> None:
    names = "base cap floor longest stable fault_stable refused tolerance alike lead other_way"
    for name in names.split():
        first, *others = name.split("_")
        camel = first + "".join(other.capitalize() for other in others)
        assert getattr(reconnect, name.upper()) * 1000 == FIXTURE["constants"][f"{camel}Ms"]
    constants = FIXTURE["constants"]
    assert constants["outlived"] == OUTLIVED
    assert (constants["leadPart"], constants["renewals"], constants["misses"]) == (LEAD_PART, RENEWALS, MISSES)


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


@cases("limits")
def test_a_limit_is_learnt_from_equal_lives(case: dict[str, Any]) -> None:
    limit = Limit()
    for life in case["lives"]:
        limit = after_life(limit, life["endedAtMs"] / 1000, life["openMs"] / 1000)
        assert limit.cut_after * 1000 == pytest.approx(life["cutAfterMs"])


@cases("renewals")
def test_a_stream_is_renewed_before_a_known_limit(case: dict[str, Any]) -> None:
    limit = Limit(cut_after=case["cutAfterMs"] / 1000)
    delays = [after_opening(limit, random)[1] for random in (1.0, 0.0)]
    assert all(delay is not None for delay in delays)
    assert [(delay or 0) * 1000 for delay in delays] == pytest.approx(case["renewMs"])


def test_after_some_renewals_one_stream_runs_on_and_then_again() -> None:
    limit, renewed = Limit(cut_after=10.0), []
    for _ in range(2 * (RENEWALS + 1)):
        limit, delay = after_opening(limit, 0.5)
        renewed.append(delay is not None)
    assert renewed == 2 * ([True] * RENEWALS + [False])


def test_nothing_is_renewed_while_no_limit_is_known() -> None:
    assert after_opening(Limit(), 0.5) == (Limit(), None)


@cases("ways")
def test_the_kind_of_the_next_stream(case: dict[str, Any]) -> None:
    ways, prefers = Ways(), case["prefers"]
    for step in case["steps"]:
        way = next_way(ways, prefers)
        assert way == step["way"]
        if step["delivers"]:
            assert step["server"]
            ways = after_delivery(ways, prefers, way)
        else:
            ways, at_once = after_failure(ways, way, opened=step.get("opens", False))
            assert at_once == step.get("atOnce", False)


def test_a_time_that_the_server_named_is_kept_before_the_other_kind_is_tried() -> None:
    ways, at_once = after_failure(Ways(), "ws", opened=False, named=7.0)
    assert not at_once
    assert next_way(ways, "ws") == "sse"
    assert after_delivery(ways, "ws", "sse").misses == 0


@cases("answers")
def test_answers_that_would_be_the_same_the_next_time(case: dict[str, Any]) -> None:
    if case["refused"] is not None:
        assert is_refusal(case["status"]) == case["refused"]


@pytest.mark.parametrize("case", FIXTURE["cuts"], ids=lambda case: str(case["code"]))
def test_only_the_codes_of_the_server_tell_that_a_stream_was_not_ended_from_outside(case: dict[str, Any]) -> None:
    assert is_cut(case["code"]) == case["cut"]


def test_every_end_of_the_server_is_in_the_fixture() -> None:
    assert is_cut(None)
    assert {end.code for end in ENDS} <= {case["code"] for case in FIXTURE["cuts"]}


@cases("posts")
def test_what_an_answer_to_a_post_means(case: dict[str, Any]) -> None:
    kind = (case["contentType"] or "").partition(";")[0]
    assert post_outcome(case["status"], kind, ok=case["body"] == '{"ok":true}') == case["outcome"]


def counted_share(cut_after: float, random: Random, seconds: float = 600.0) -> float:
    """
    Return the part of a time for which a page is counted behind a proxy that ends streams after `cut_after`.

    The rule alone, played through: opening a stream takes 20 to 200 ms, and the proxy is up to 50 ms late.
    """
    now, counted, attempt = 0.0, 0.0, 0
    limit = Limit()
    now += 0.1
    while now < seconds:
        opened = now
        limit, renewal = after_opening(limit, random.random())
        life = cut_after + random.uniform(0, 0.05)
        if renewal is not None and renewal + 0.2 < life:
            now = opened + renewal + random.uniform(0.02, 0.2)
            counted += min(now, seconds) - opened  # the new stream has taken over
            continue
        now = opened + life
        counted += min(now, seconds) - opened
        limit = after_life(limit, now, life)
        following = after_end(attempt, random.random(), lasted=life)
        assert following is not None
        attempt = following.attempt
        now += following.delay + random.uniform(0.02, 0.2)
    return counted / seconds


@pytest.mark.parametrize("cut_after", [10.0, 15.0, 20.0, 29.0, 30.0, 60.0])
def test_pages_behind_a_proxy_that_ends_streams_are_counted(cut_after: float) -> None:
    random = Random(12)
    shares = [counted_share(cut_after, random) for _ in range(200)]
    assert sum(shares) / len(shares) >= 0.98
    assert min(shares) >= 0.97


def arrivals(away: float, random: Random, *, clients: int = 10_000) -> list[float]:
    """Return when each of many clients is back, in seconds from the return of a server that dies under all of them."""
    times = []
    for _ in range(clients):
        # Each had a stream that was stable.
        following = after_end(1, random.random(), lasted=3_600.0)
        now = 0.0
        while True:
            assert following is not None
            now += following.delay
            if now >= away:
                times.append(now - away)
                break
            following = after_end(following.attempt, random.random(), lasted=None)
    return times


@pytest.mark.parametrize("away", [1.0, 5.0, 30.0])
def test_a_server_that_dies_and_returns_gets_no_storm(away: float) -> None:
    times = arrivals(away, Random(12))
    per_tenth = Counter(int(time * 10) for time in times)
    # Without jitter, all of them would come in the same tenth of a second.
    assert max(per_tenth.values()) <= 0.11 * len(times) + 100
    if away == 5.0:
        assert max(per_tenth.values()) <= 0.04 * len(times)
        assert sorted(times)[int(0.95 * len(times))] <= 16.0


def test_a_server_that_restarts_every_minute_is_no_limit() -> None:
    random = Random(12)
    clients, mistaken = 1_000, 0
    for _ in range(clients):
        limit, attempt, opened = Limit(), 0, 0.0
        restarts = [60.0 * number for number in range(1, 31)]
        for restart, following_restart in pairwise(restarts):
            limit = after_life(limit, restart, restart - opened)
            following = after_end(attempt, random.random(), lasted=restart - opened)
            assert following is not None
            attempt, opened = following.attempt, restart + following.delay
            assert opened < following_restart
        mistaken += limit.cut_after > 0
    # Five lives may be alike by chance. It costs such a client a stream that it opens too early.
    assert mistaken <= 0.01 * clients
