"""The last hour: samples of a fixed number and size."""

from headcount.core.history import INTERVAL, LENGTH, MAX_VERSIONS, History
from headcount.core.labels import OTHER


def test_a_sample_is_due_at_first_and_then_after_the_interval() -> None:
    history = History()
    assert history.is_due(0)
    history.add(0, 1_000, 3, {"v1": 2, "v2": 1})
    assert not history.is_due(INTERVAL - 0.1)
    assert history.is_due(INTERVAL)
    assert history.to_dict() == {
        "intervalMs": 10_000,
        "samples": [{"at": 1_000, "total": 3, "versions": {"v1": 2, "v2": 1}}],
    }


def test_the_biggest_versions_stay_apart_and_the_rest_adds_up() -> None:
    history = History()
    versions = {f"v{number}": number for number in range(1, 21)}
    history.add(0, 0, sum(versions.values()), versions)
    (sample,) = history.to_dict()["samples"]
    assert len(sample["versions"]) == MAX_VERSIONS + 1
    assert sample["versions"]["v20"] == 20
    assert sample["versions"][OTHER] == sum(range(1, 13))
    assert sum(sample["versions"].values()) == sample["total"]


def test_other_of_the_figures_and_other_of_the_sample_are_one() -> None:
    history = History()
    versions = {OTHER: 50} | {f"v{number}": 2 for number in range(10)}
    history.add(0, 0, 70, versions)
    (sample,) = history.to_dict()["samples"]
    assert sample["versions"][OTHER] == 50 + 2 * 3


def test_an_hour_is_kept() -> None:
    history = History()
    for number in range(LENGTH + 5):
        history.add(number * INTERVAL, number, 0, {})
    samples = history.to_dict()["samples"]
    assert (len(samples), samples[0]["at"]) == (LENGTH, 5)
