"""The samples of the last hour and of the last day."""

import pytest

from headcount.core.history import (
    INTERVAL,
    LENGTH,
    MAX_VERSIONS,
    MINUTE,
    MINUTES,
    History,
    encode_sample,
    read_samples,
    sample,
    to_dict,
)
from headcount.core.labels import OTHER


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
    told = history.to_dict()
    assert (told["intervalMs"], told["minutes"]["intervalMs"]) == (10_000, 60_000)
    assert [one["at"] for one in told["samples"]] == list(range(13))
    assert [one["at"] for one in told["minutes"]["samples"]] == [0, 6, 12]
    assert told["samples"][2] == {"at": 2, "total": 2, "versions": {"v1": 2}}


def test_only_the_last_hour_and_the_last_day_are_kept() -> None:
    history = History()
    for number in range(int(MINUTES * MINUTE / INTERVAL) + 12):
        history.add(number * INTERVAL, number, {})
    told = history.to_dict()
    assert len(told["samples"]) == LENGTH
    assert len(told["minutes"]["samples"]) == MINUTES
    assert told["minutes"]["samples"][0]["at"] == 12


def test_a_sample_keeps_the_largest_versions_apart() -> None:
    one = sample(1, {f"v{number:02}": number + 1 for number in range(20)})
    assert one.total == 210
    assert len(one.versions) == MAX_VERSIONS + 1
    assert one.versions[OTHER] == 210 - sum(range(13, 21))
    assert next(iter(one.versions)) == "v19"


def test_other_of_the_figures_takes_one_of_the_places() -> None:
    one = sample(1, {OTHER: 5, **{f"v{number:02}": number + 1 for number in range(20)}})
    assert len(one.versions) == MAX_VERSIONS
    assert sum(one.versions.values()) == 215


def test_samples_of_a_store_are_read_in_order_and_one_of_each_moment() -> None:
    lines = [encode_sample(sample(at, {"v1": at})) for at in (30, 10, 20, 20)]
    assert [one.at for one in read_samples(lines, 10)] == [10, 20, 30]
    assert [one.at for one in read_samples(lines, 2)] == [20, 30]
    assert b"\n" not in encode_sample(sample(1, {"a\u2028b": 1}))


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"at":-1,"total":1,"versions":{}}', b'{"at":1}', b"\xff"])
def test_a_malformed_sample_is_passed_over(line: bytes) -> None:
    good = encode_sample(sample(1, {"v1": 1}))
    assert [one.at for one in read_samples([line, good], 5)] == [1]


def test_no_samples_are_a_history_too() -> None:
    assert to_dict((), ())["samples"] == []
