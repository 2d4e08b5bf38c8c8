"""Which builds may be deleted: every doubt keeps one, and without a doubt it goes."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.current_version import CurrentRelease
from headcount.core.kept_builds import Build, KeepRule, open_pages, why_stays, why_undecided
from headcount.core.labels import OTHER, UNKNOWN
from headcount.core.stats import Absence, Nodes, Stats, VersionCount

NOW = 1_000_000.0
OLD, NEW = Build("v1", NOW - 9_000), Build("v2", NOW - 4_000)
BUILDS = (OLD, NEW)
RULE = KeepRule(keep=1, min_age=3_600)
CLEAR = Stats(
    total=5,
    versions={"v2": 5},
    nodes=Nodes(2, 2, {"v2": 2}),
    away_known=True,
    release=CurrentRelease("declared", "v2"),
)
"""Figures that let v1 go."""


def changed(**fields: Any) -> Stats:
    return msgspec.structs.replace(CLEAR, **fields)


def test_a_build_without_pages_goes_and_the_current_one_stays() -> None:
    assert why_stays(OLD, BUILDS, CLEAR, RULE, NOW) is None
    assert why_stays(NEW, BUILDS, CLEAR, RULE, NOW) == ("current", "it is the current version (declared)")


@pytest.mark.parametrize(
    ("fields", "why", "detail"),
    [
        (
            {"absences": (Absence("aa", 1, {"v9": 1}),)},
            "undecided",
            "1 page of 1 absent node is unaccounted for",
        ),
        (
            {"absences": (Absence("aa"), Absence("bb", 0))},
            "undecided",
            "pages of 2 absent nodes are unaccounted for",
        ),
        (
            {"partial": True},
            "undecided",
            "figures are partial: other nodes may be missing; see the server's log for the reason",
        ),
        ({"nodes": Nodes(1, 2, {"v2": 2})}, "undecided", "figures are partial (1 of 2 nodes are reporting)"),
        (
            {"away_known": False},
            "undecided",
            "a node cannot say which pages are away; it was started less than 48 s ago, or is of an older Headcount",
        ),
        (
            {"nodes": Nodes(2, 2)},
            "undecided",
            "the server does not say which versions its nodes serve; update Headcount there",
        ),
        (
            {"release": None},
            "undecided",
            "the server does not say which versions its nodes serve; update Headcount there",
        ),
        (
            {"release": CurrentRelease("unsettled"), "nodes": Nodes(2, 2, {"v2": 1, "v3": 1})},
            "undecided",
            "the current version is not known: nodes serve v2 and v3, and no release was declared; declare one: "
            "headcount release VERSION URL",
        ),
        (
            {"release": CurrentRelease("orphaned", "v1")},
            "undecided",
            "the current version is not known: no node serves v1, which was declared; declare the version that nodes "
            "serve: headcount release VERSION URL",
        ),
        ({"nodes": Nodes(2, 2, {"v2": 1})}, "undecided", "a node does not say which version it serves"),
        (
            {"release": CurrentRelease("declared", "v3")},
            "undecided",
            "the current version is v3, and no build has that name (builds: v1, v2)",
        ),
        ({"release": CurrentRelease("declared", "v1")}, "current", "it is the current version (declared)"),
        ({"nodes": Nodes(2, 2, {"v2": 1, "v1": 1})}, "served", "1 node serves it"),
        ({"nodes": Nodes(4, 4, {"v2": 1, "v1": 3})}, "served", "3 nodes serve it"),
        ({"versions": {"v1": 1, "v2": 4}}, "open", "1 page is open"),
        ({"versions": {"v1": 2_000, "v2": 4}}, "open", "2,000 pages are open"),
        ({"of_version": VersionCount("v1", 2, 9)}, "open", "2 pages are open"),
        ({"of_version": VersionCount("v1", 0, 9)}, "open", "9 pages counted under (other) may run it"),
        ({"versions": {OTHER: 1, "v2": 4}}, "open", "1 page counted under (other) may run it"),
        (
            {"versions": {OTHER: 1, "v2": 4}, "of_version": VersionCount("v2", 0, 0)},
            "open",
            "1 page counted under (other) may run it",
        ),
        ({"away": {"v1": 1}}, "away", "1 page broke off and may return"),
        ({"away": {OTHER: 2}}, "away", "2 pages counted under (other) broke off, may return and may run it"),
        (
            {"versions": {UNKNOWN: 1, "v2": 4}},
            "unknown-pages",
            "1 page without a version is open and may run it",
        ),
        ({"total": 7}, "unknown-pages", "2 pages without a version are open and may run it"),
        (
            {"away": {UNKNOWN: 1}},
            "unknown-pages",
            "1 page without a version broke off, may return and may run it",
        ),
    ],
)
def test_each_doubt_keeps_it_and_says_which(fields: dict[str, Any], why: str, detail: str) -> None:
    assert why_stays(OLD, BUILDS, changed(**fields), RULE, NOW) == (why, detail)


def test_an_exact_number_of_zero_settles_what_other_cannot() -> None:
    figures = changed(versions={OTHER: 1, "v2": 4}, of_version=VersionCount("v1", 0, 0))
    assert why_stays(OLD, BUILDS, figures, RULE, NOW) is None
    assert open_pages("v1", figures) == (0, 0)
    assert open_pages("v3", figures) == (0, 1)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (KeepRule(2, 0), ("newest", "it is one of the 2 newest")),
        (KeepRule(1, 4_000.5), ("young", "a newer build was deployed too recently")),
        (KeepRule(1, 4_000), None),
    ],
)
def test_the_newest_and_the_young_stay(rule: KeepRule, why: tuple[str, str] | None) -> None:
    assert why_stays(OLD, BUILDS, CLEAR, rule, NOW) == why


def test_a_build_without_a_time_stays_and_counts_as_newer_than_any() -> None:
    undated = Build("v0", None)
    assert why_stays(undated, (*BUILDS, undated), CLEAR, RULE, NOW) == (
        "no-time",
        "it is not known when it was deployed",
    )
    third = Build("v1", NOW - 9_000)
    assert why_stays(third, (NEW, third, undated), CLEAR, KeepRule(2, 0), NOW) is None
    assert why_stays(third, (NEW, third), CLEAR, KeepRule(2, 0), NOW) is not None


def test_a_build_from_the_future_is_young() -> None:
    later = Build("v1", NOW + 50)
    even_later = Build("v2", NOW + 60)
    stays = why_stays(later, (later, even_later), CLEAR, KeepRule(1, 0), NOW)
    assert stays is not None
    assert stays.why == "young"
    for odd in (float("nan"), float("inf")):
        assert why_stays(Build("v1", odd), (Build("v1", odd), NEW), CLEAR, KeepRule(0, 0), NOW) is not None


def test_the_time_counts_from_the_next_newer_build_not_from_the_newest() -> None:
    """Until the next build came, pages of a build were opened, and may have been put to sleep since."""
    first, second, third = Build("v0", NOW - 900_000), Build("v1", NOW - 5_000), Build("v2", NOW - 10)
    builds = (third, second, first)
    assert why_stays(first, builds, CLEAR, KeepRule(1, 3_600), NOW) is None
    assert (why_stays(second, builds, CLEAR, KeepRule(1, 3_600), NOW) or ("",))[0] == "young"
    undated = Build("v2", None)
    assert (why_stays(second, (undated, second), CLEAR, KeepRule(1, 0), NOW) or ("",))[0] == "young"


def test_a_directory_without_builds_decides_nothing() -> None:
    assert why_undecided(CLEAR, ()) == "the current version is v2, and no build has that name (builds: none)"
    many = [Build(f"b{number}", NOW) for number in range(5)]
    assert "(builds: b0, b1, b2, …)" in (why_undecided(CLEAR, many) or "")


labels = st.sampled_from(["v1", "v2", "v3", UNKNOWN, OTHER])
counts = st.dictionaries(labels, st.integers(0, 3), max_size=4)
builds_of_a_team = st.lists(
    st.builds(Build, st.sampled_from(["v1", "v2", "v3"]), st.none() | st.floats(NOW - 9_000, NOW + 100)),
    min_size=1,
    max_size=3,
    unique_by=lambda build: build.id,
)
figures_of_a_fleet = st.builds(
    lambda versions, extra, away, serving, silent, missing, partial, known, absences, release, count: Stats(
        total=sum(versions.values()) + extra,
        versions={label: number for label, number in versions.items() if number},
        nodes=Nodes(sum(serving.values()) + silent - missing, sum(serving.values()) + silent, serving or None),
        partial=partial,
        away={label: number for label, number in away.items() if number},
        away_known=known,
        absences=absences,
        release=release,
        of_version=count,
    ),
    counts,
    st.sampled_from([0, 0, 1]),
    counts,
    st.dictionaries(st.sampled_from(["v1", "v2", "v3"]), st.integers(1, 2), max_size=2),
    st.sampled_from([0, 0, 1]),
    st.sampled_from([0, 0, 1]),
    st.sampled_from([False, False, True]),
    st.sampled_from([True, True, False]),
    st.sampled_from([(), (), (Absence("aa", 1, {"v1": 1}),)]),
    st.sampled_from(
        [None, CurrentRelease("unsettled"), CurrentRelease("orphaned", "v1"), *(CurrentRelease("declared", "v2"),) * 4]
    ),
    st.none() | st.builds(VersionCount, st.sampled_from(["v1", "v2"]), st.integers(0, 2), st.integers(0, 3)),
)


@given(figures_of_a_fleet, builds_of_a_team, st.integers(0, 3), st.sampled_from([0.0, 1_000.0]))
def test_what_goes_has_no_page_anywhere_that_could_run_it(
    stats: Stats, builds: list[Build], keep: int, min_age: float
) -> None:
    rule = KeepRule(keep, min_age)
    going = [build for build in builds if why_stays(build, builds, stats, rule, NOW) is None]
    for build in going:
        could_be = {build.id, UNKNOWN} | ({OTHER} if stats.of_version is None else set())
        assert not could_be & stats.versions.keys()
        assert not {build.id, UNKNOWN, OTHER} & stats.away.keys()
        if stats.of_version is not None and stats.of_version.version == build.id:
            assert stats.of_version.most == 0
        assert stats.total <= sum(stats.versions.values())
        assert not stats.partial
        assert not stats.absences
        assert stats.away_known
        assert stats.nodes.reporting == stats.nodes.expected
        assert build.id not in stats.nodes.by_version
        assert UNKNOWN not in stats.nodes.by_version
        assert stats.current_version not in (None, build.id)
        assert stats.current_version in {other.id for other in builds}
        assert build.deployed is not None
        assert NOW - build.deployed >= min_age
        dated = [other.deployed for other in builds if other.deployed is not None]
        assert NOW - min(time for time in dated if time > build.deployed) >= min_age
    staying = [build for build in builds if build not in going]
    assert len(staying) >= min(keep, len(builds))
    if going:
        newest = sorted((build.deployed or NOW * 2 for build in builds), reverse=True)[:keep]
        assert all(build.deployed not in newest or newest.count(build.deployed) < 1 for build in going)


@given(figures_of_a_fleet, builds_of_a_team, labels, st.integers(1, 3))
def test_another_page_never_lets_a_build_go(stats: Stats, builds: list[Build], label: str, more: int) -> None:
    """More open pages, of whatever version, never let a build go that stayed before."""
    crowded = msgspec.structs.replace(
        stats, total=stats.total + more, versions={**stats.versions, label: stats.versions.get(label, 0) + more}
    )
    for build in builds:
        if why_stays(build, builds, stats, RULE, NOW) is not None:
            assert why_stays(build, builds, crowded, RULE, NOW) is not None
