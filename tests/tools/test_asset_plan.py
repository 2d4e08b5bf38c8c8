"""What `headcount assets` asks the server, and what a list of builds looks like."""

from collections.abc import Mapping

import pytest

from headcount.core.current_version import CurrentRelease
from headcount.core.kept_builds import Build, KeepRule
from headcount.core.labels import OTHER
from headcount.core.stats import Nodes, Stats, VersionCount
from headcount.tools.asset_plan import MAX_EXACT, MAX_LINES, AssetPlan, parse_builds

NOW = 10_000.0
NEWEST = Build("new", NOW - 10)
RULE = KeepRule(1, 0)


class Server:
    """Answers with figures, and with the exact number of a version that is asked for."""

    def __init__(self, versions: Mapping[str, int], exact: Mapping[str, int] | None = None) -> None:
        self.versions = dict(versions)
        self.exact = exact or {}
        self.asked: list[str | None] = []
        self.partial = False

    def fetch(self, version: str | None) -> Stats:
        self.asked.append(version)
        count = self.exact.get(version or "", 0)
        return Stats(
            total=sum(self.versions.values()),
            versions=self.versions,
            nodes=Nodes(1, 1, {"new": 1}),
            away_known=True,
            partial=self.partial,
            release=CurrentRelease("declared", "new"),
            of_version=None if version is None else VersionCount(version, count, count),
        )


def plan_of(server: Server, *builds: Build) -> AssetPlan:
    return AssetPlan([NEWEST, *builds], RULE, server.fetch, lambda: NOW)


def test_one_request_decides_while_all_versions_are_counted_apart() -> None:
    server = Server({"new": 1, "a": 2})
    plan = plan_of(server, Build("a", 2.0), Build("b", 1.0))
    assert [(each.build.id, each.stay and each.stay.why, each.pages) for each in plan.decide()] == [
        ("new", "current", 1),
        ("a", "open", 2),
        ("b", None, 0),
    ]
    assert server.asked == [None]
    assert (plan.current, plan.undecided) == ("new", None)


def test_exact_numbers_are_asked_for_while_versions_are_counted_together_but_not_too_many() -> None:
    builds = [Build(f"b{number:02}", 100.0 - number) for number in range(MAX_EXACT + 4)]
    server = Server({"new": 1, OTHER: 5}, {"b01": 3})
    decisions = plan_of(server, *builds).decide()[1:]
    assert server.asked == [None, *(build.id for build in builds[:MAX_EXACT])]
    assert [each.build.id for each in decisions if each.stay is None] == [
        build.id for build in builds[:MAX_EXACT] if build.id != "b01"
    ]
    assert (decisions[1].stay and decisions[1].stay.detail, decisions[1].pages) == ("3 pages are open", 3)
    left = decisions[-1]
    assert (left.stay and left.stay.detail, left.pages) == ("5 pages counted under (other) may run it", None)


def test_a_build_is_asked_about_again_with_its_exact_number_before_it_goes() -> None:
    server = Server({"new": 1, OTHER: 5})
    plan = plan_of(server, Build("a", 1.0))
    assert plan.decide()[1].stay is None
    assert plan.confirm(Build("a", 1.0)).stay is None
    assert server.asked == [None, "a", "a"]
    server.versions["a"] = 1
    assert plan.confirm(Build("a", 1.0)).pages == 1
    server.versions.pop("a")
    server.partial = True
    decision = plan.confirm(Build("a", 1.0))
    assert (decision.stay and decision.stay.why, decision.pages) == ("undecided", None)
    assert plan.undecided == "figures are partial: other nodes may be missing; see the server's log for the reason"


def test_a_list_has_a_build_a_line_and_a_time_with_its_zone() -> None:
    lines = [
        "v1\t1970-01-01T00:00:10+00:00\n",
        "\n",
        "v 2\n",
        "v3\t1970-01-01T01:00:20+01:00\r\n",
        "v4\t1970-01-01T00:00:05Z",
    ]
    assert parse_builds(lines) == [Build("v 2", None), Build("v3", 20.0), Build("v1", 10.0), Build("v4", 5.0)]
    assert parse_builds([]) == []


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["v1", "v1"], "Line 2 names build v1 again"),
        (["unknown"], "Line 1 does not begin with a build id: 'unknown'"),
        (["(other)"], "Line 1 does not begin with a build id"),
        (["a\0"], "Line 1 does not begin with a build id"),
        (["x" * 200], "Line 1 does not begin with a build id"),
        (["v1\tyesterday"], "Line 1 has no valid time: 'yesterday'"),
        (["v1\t2026-11-28T10:00:00"], "Line 1 has no valid time"),
        (["v1\t2026-11-28T10:00:00Z\tmore"], "Line 1 has no valid time"),
        ([f"v{number}" for number in range(MAX_LINES + 1)], "There are more than 10,000 lines"),
    ],
)
def test_any_other_line_is_refused_with_its_number(lines: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        parse_builds(lines)
