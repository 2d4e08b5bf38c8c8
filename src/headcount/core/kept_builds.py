"""
Which builds of the front end may be deleted: those that no open page runs, as far as the figures can say.

Every doubt keeps a build. While the figures are incomplete, or it is not known which pages are away or which version is
current, no build may go. A page that does not say its version, or that is counted under `(other)`, may run any build.
The figures know nothing of a page that is asleep, in the back/forward cache or not counted at all: `keep` and `min_age`
are for those.

Tests: tests/core/test_kept_builds.py.
"""

from collections.abc import Collection
from typing import Final, Literal, NamedTuple, TypeAlias

from .current_version import why_unknown
from .labels import OTHER, UNKNOWN
from .stats import Stats

Why: TypeAlias = Literal[
    "undecided", "current", "served", "open", "away", "unknown-pages", "newest", "young", "no-time"
]
"""
Why a build stays. `undecided`: the figures cannot decide about any build. `unknown-pages`: open pages that do not say
which version they run. `no-time`: it is not known when the build was deployed.
"""


class Build(NamedTuple):
    """
    One build of the front end.

    Attributes:
        id: Its build id: the version that its pages report.
        deployed: When it was deployed, in seconds since 1970; None: not known.
    """

    id: str
    deployed: float | None


class KeepRule(NamedTuple):
    """
    Which builds stay whatever the figures say.

    Attributes:
        keep: How many of the newest.
        min_age: Seconds for which a build stays after the next newer one was deployed. Until then, pages of it were
            opened.
    """

    keep: int = 3
    min_age: float = 3_600.0


class Stay(NamedTuple):
    """Why a build stays: a word for programs, and a clause for people, such as `3 pages are open`."""

    why: Why
    detail: str


NAMED: Final = 3
"""Builds that a sentence names."""


def why_undecided(stats: Stats, builds: Collection[Build]) -> str | None:
    """
    Say why no build may go, as a clause; None: the figures can decide.

    Args:
        stats: The figures.
        builds: All builds that there are.
    """
    nodes = stats.nodes
    if stats.absences:
        number = f"{_pages(stats.unaccounted)} of" if stats.unaccounted else "pages of"
        count = len(stats.absences)
        verb = "is" if stats.unaccounted == 1 else "are"
        return f"{number} {count} absent {'node' if count == 1 else 'nodes'} {verb} unaccounted for"
    if nodes.reporting < nodes.expected:
        return f"figures are partial ({nodes.reporting} of {nodes.expected} nodes are reporting)"
    if stats.partial:
        return "figures are partial: other nodes may be missing; see the server's log for the reason"
    if not stats.away_known:
        return "a node cannot say which pages are away; it was started less than 48 s ago, or is of an older Headcount"
    if stats.release is None or nodes.versions is None:
        return "the server does not say which versions its nodes serve; update Headcount there"
    current = stats.current_version
    if current is None:
        reason = why_unknown(nodes.versions, nodes.reporting, stats.release)
        return f"the current version is not known: {reason}"
    if UNKNOWN in nodes.by_version:
        return "a node does not say which version it serves"
    ids = sorted(build.id for build in builds)
    if current not in ids:
        # A misnamed directory, or the figures of another application: all its counts would be zero.
        named = ", ".join(ids[:NAMED]) + (", …" if len(ids) > NAMED else "")
        return f"the current version is {current}, and no build has that name (builds: {named or 'none'})"
    return None


def why_stays(build: Build, builds: Collection[Build], stats: Stats, rule: KeepRule, now: float) -> Stay | None:
    """
    Say why a build stays; None: it may go.

    Args:
        build: The build.
        builds: All builds that there are, this one included.
        stats: The figures. With the exact number of this build's pages, if `of_version` is about it.
        rule: What stays anyway.
        now: Seconds since 1970.
    """
    undecided = why_undecided(stats, builds)
    if undecided is not None:
        return Stay("undecided", undecided)
    if stats.release is not None and build.id == stats.release.version:
        return Stay("current", f"it is the current version ({stats.release.state})")
    serving = (stats.nodes.versions or {}).get(build.id, 0)
    if serving:
        return Stay("served", "1 node serves it" if serving == 1 else f"{serving:,} nodes serve it")
    if build.deployed is None:
        return Stay("no-time", "it is not known when it was deployed")
    newer = [other.deployed for other in builds if other.deployed is None or other.deployed > build.deployed]
    if len(newer) < rule.keep:
        return Stay("newest", f"it is one of the {rule.keep} newest" if rule.keep > 1 else "it is the newest")
    replaced = min((deployed for deployed in newer if deployed is not None), default=None)
    if replaced is None or not now - replaced >= rule.min_age:
        return Stay("young", "a newer build was deployed too recently")
    return _pages_that_stay(build.id, stats)


def open_pages(version: str, stats: Stats) -> tuple[int, int]:
    """
    Count the open pages of a version.

    Returns:
        As many as there are for certain, and as many as there may be, without those that do not say their version.
    """
    counted = stats.versions.get(version, 0)
    count = stats.of_version
    if count is not None and count.version == version:
        return max(counted, count.least), max(counted, count.least, count.most)
    return counted, counted + stats.versions.get(OTHER, 0)


def _pages_that_stay(version: str, stats: Stats) -> Stay | None:
    certain, possible = open_pages(version, stats)
    if certain:
        return Stay("open", f"{_pages(certain)} {_be(certain)} open")
    if possible:
        return Stay("open", f"{_pages(possible)} counted under {OTHER} may run it")
    away, others = stats.away.get(version, 0), stats.away.get(OTHER, 0)
    if away:
        return Stay("away", f"{_pages(away)} broke off and may return")
    if others:
        return Stay("away", f"{_pages(others)} counted under {OTHER} broke off, may return and may run it")
    unnamed = max(stats.versions.get(UNKNOWN, 0), stats.total - sum(stats.versions.values()))
    if unnamed > 0:
        return Stay("unknown-pages", f"{_pages(unnamed)} without a version {_be(unnamed)} open and may run it")
    if unnamed := stats.away.get(UNKNOWN, 0):
        return Stay("unknown-pages", f"{_pages(unnamed)} without a version broke off, may return and may run it")
    return None


def _pages(count: int) -> str:
    return "1 page" if count == 1 else f"{count:,} pages"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"
