"""The history of a node that is alone, and what a store keeps of one."""

import json

from headcount.core.history import INTERVAL, LENGTH, MINUTE, MINUTES, Current
from headcount.core.kept_history import History, KeptHistory

NOW = 10**12


def test_a_sample_is_due_at_first_and_then_after_the_interval() -> None:
    history = History()
    assert history.is_due(0)
    history.add(0, 1_000, {"v1": 2, "v2": 1})
    assert not history.is_due(INTERVAL - 0.1)
    assert history.is_due(INTERVAL)


def test_the_wire_has_the_last_hour_and_the_last_day() -> None:
    history = History()
    for number in range(13):
        history.add(number * INTERVAL, number, {"v1": number})
    told = history.kept.read(NOW).to_dict()
    assert (told["intervalMs"], told["minutes"]["intervalMs"]) == (10_000, 60_000)
    assert [one["at"] for one in told["samples"]] == list(range(13))
    assert [one["at"] for one in told["minutes"]["samples"]] == [0, 6, 12]
    assert told["samples"][2] == {"at": 2, "total": 2, "versions": {"v1": 2}}
    assert told["rollouts"] == []


def test_only_the_last_hour_and_the_last_day_are_kept() -> None:
    history = History()
    for number in range(int(MINUTES * MINUTE / INTERVAL) + 12):
        history.add(number * INTERVAL, number, {})
    told = history.kept.read(NOW).to_dict()
    assert len(told["samples"]) == LENGTH
    assert len(told["minutes"]["samples"]) == MINUTES
    assert told["minutes"]["samples"][0]["at"] == 12
    kept = KeptHistory([b"x"] * (LENGTH + 1), [b"x"] * (MINUTES + 1))
    assert tuple(map(len, History(kept).kept[:2])) == (LENGTH, MINUTES), "nor does a file that is longer"


def test_a_release_has_a_curve_before_its_first_minute_is_over() -> None:
    history = History()
    history.add(0, 0, {"v1": 2}, Current("v1"))
    history.add(10, 10_000, {"v1": 1, "v2": 1}, Current("v2", 5_000))
    assert history.kept.rollouts is not None
    assert [each["version"] for each in history.kept.read(NOW).to_dict()["rollouts"]] == ["v2"]
    assert history.kept.read(NOW).to_dict()["samples"][1] == {
        "at": 10_000,
        "total": 2,
        "versions": {"v1": 1, "v2": 1},
        "outdated": 1,
        "current": "v2",
    }


def test_a_process_goes_on_where_the_last_one_stopped_and_is_partial_until_pages_are_back() -> None:
    before = History()
    for number in range(7):
        before.add(number * 10, number * 10_000, {"v1": 9}, Current("v1"))
    after = History(before.kept, whole_from=33)
    for number in range(7):
        added = after.add(number * 10, (8 + number) * 10_000, {"v2": 9 if number > 3 else 1}, Current("v2"))
    samples = after.kept.read(NOW).to_dict()["samples"]
    assert [each["total"] for each in samples] == [9] * 7 + [1] * 4 + [9] * 3
    assert [each.get("partial", False) for each in samples] == [False] * 7 + [True] * 4 + [False] * 3
    [rollout] = after.kept.read(NOW).to_dict()["rollouts"]
    assert rollout["reached"][-1] == {"percent": 99, "afterMs": 40_000, "partial": True}
    assert added.minute is not None
    assert json.loads(added.minute)["partial"] is True, "one of the samples of the minute was"
    assert added.rollouts == after.kept.rollouts


def test_what_a_sample_adds_is_what_is_kept() -> None:
    history, kept = History(), KeptHistory()
    for number in range(20):
        added = history.add(number * 10, number * 10_000, {"v1": number}, Current("v1" if number < 9 else "v2"))
        kept = KeptHistory(
            [*kept.fine, added.sample or b""],
            [*kept.minutes, *([added.minute] if added.minute else [])],
            added.rollouts or kept.rollouts,
        )
    assert kept.read(NOW).to_dict() == history.kept.read(NOW).to_dict()
    assert kept.rollouts == history.kept.rollouts
