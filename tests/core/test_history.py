"""The samples of the last hour and of the last day."""

import pytest

from headcount.core.history import (
    MAX_SAMPLE,
    MAX_TIME,
    MAX_VERSIONS,
    Current,
    encode_sample,
    minute,
    read_samples,
    sample,
    to_dict,
)
from headcount.core.labels import OTHER


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


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{", b"[]", b"\xff", b'{"at":1}', b'{"at":-1,"total":1,"versions":{}}'),
        b'{"at":253402300800000,"total":0,"versions":{}}',
    ],
)
def test_a_malformed_sample_is_passed_over(line: bytes) -> None:
    good = encode_sample(sample(1, {"v1": 1}))
    assert [one.at for one in read_samples([line, good], 5)] == [1]


def test_no_samples_are_a_history_too() -> None:
    assert to_dict((), ())["samples"] == []


def test_a_sample_says_what_is_outdated_only_while_a_version_is_current() -> None:
    counts = {"v1": 3, "v2": 4, "unknown": 2}
    assert sample(1, counts, current=Current("v2")).outdated == 5
    assert sample(1, counts, current=Current("v3")).outdated == 9
    assert sample(1, counts, current=Current(None, 7)) == sample(1, counts)
    assert sample(1, counts).outdated is None
    assert to_dict([sample(1, {"v1": 3}, current=Current("v2", 7))], ())["samples"] == [
        {"at": 1, "total": 3, "versions": {"v1": 3}, "outdated": 3, "current": "v2"}
    ]


def test_the_current_version_is_apart_however_small_it_is() -> None:
    one = sample(1, {"v2": 1, **{f"v{number:02}": number + 10 for number in range(20)}}, current=Current("v2"))
    assert len(one.versions) == MAX_VERSIONS + 1
    assert (one.versions["v2"], one.count_of("v2"), one.count_of("v19"), one.count_of("v00")) == (1, 1, 29, None)
    assert sample(1, {"v1": 3}).count_of("v2") == 0
    assert sample(1, {"v1": 3}, partial=True).count_of("v1") is None


def test_no_names_make_a_sample_larger_than_its_limit() -> None:
    names = [f"{number:02}" + "\U0001f986" * 126 for number in range(20)]
    for current in (Current(), Current(names[0], 2**50), Current("v" * 128)):
        one = sample(MAX_TIME, {**dict.fromkeys(names, 2**30), OTHER: 5}, partial=True, current=current)
        assert MAX_SAMPLE / 2 < len(encode_sample(one)) <= MAX_SAMPLE
        assert one.total == sum(one.versions.values()) == 20 * 2**30 + 5
        assert read_samples([encode_sample(one)], 1) == [one]


def test_a_minute_is_partial_if_any_sample_of_it_is() -> None:
    one = sample(120_000, {"v1": 1})
    before = [sample(at, {}, partial=at in (60_000, 130_000)) for at in range(50_000, 140_000, 10_000)]
    assert minute(one, before) == one, "what was before it does not count"
    assert minute(one, [*before, sample(70_000, {}, partial=True)]).partial
