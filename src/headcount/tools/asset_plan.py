"""
What `headcount assets` does with each build: asks for figures, applies the rule, and asks again before a deletion.

Tests: tests/tools/test_asset_plan.py.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from ..core.kept_builds import Build, KeepRule, Stay, open_pages, why_stays, why_undecided
from ..core.labels import OTHER, UNKNOWN, is_version
from ..core.stats import Stats

Fetch = Callable[[str | None], Stats]
"""Returns fresh figures, with the exact number of one version if one is named. Raises what `fetch_stats` raises."""

MAX_EXACT: Final = 16
"""
Builds whose exact number a run asks for while versions are counted under `(other)`. The server keeps a count of its own
for each version that was asked for, and forgets the oldest of 64: more would push out versions that others ask for.
"""

MAX_LINES: Final = 10_000


class Decision(NamedTuple):
    """
    What was decided about one build.

    Attributes:
        build: The build.
        stay: Why it stays; None: it may go.
        pages: Its open pages, as far as they are counted apart; None: the figures cannot say.
    """

    build: Build
    stay: Stay | None
    pages: int | None


class AssetPlan:
    """
    Decides about the builds of a front end.

    Args:
        builds: All that there are, newest first.
        rule: What stays anyway.
        fetch: Asks the server.
        clock: Seconds since 1970.
    """

    def __init__(self, builds: Sequence[Build], rule: KeepRule, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._builds = builds
        self._rule = rule
        self._fetch = fetch
        self._clock = clock
        self._exact: set[str] = set()
        """Builds whose exact number was asked for."""
        self.undecided: str | None = None
        """Why the figures cannot decide about any build, as of the last ones; None: they can."""
        self.current: str | None = None
        """The current version, as of the last figures; None: not known."""

    def decide(self) -> list[Decision]:
        """Decide about all builds."""
        stats = self._ask(None)
        return [self._decision(build, stats) for build in self._builds]

    def confirm(self, build: Build) -> Decision:
        """Decide about one build with figures of this moment: a page may have been opened since."""
        stats = self._ask(build.id if build.id in self._exact else None)
        return self._decision(build, stats)

    def _decision(self, build: Build, stats: Stats) -> Decision:
        stay = why_stays(build, self._builds, stats, self._rule, self._clock())
        certain, possible = open_pages(build.id, stats)
        if stay is not None and stay.why == "open" and not certain and self._may_ask_exactly(build.id):
            self._exact.add(build.id)
            stats = self._ask(build.id)
            stay = why_stays(build, self._builds, stats, self._rule, self._clock())
            certain, possible = open_pages(build.id, stats)
        known = self.undecided is None and (certain or certain == possible)
        return Decision(build, stay, certain if known else None)

    def _may_ask_exactly(self, build: str) -> bool:
        return build not in self._exact and len(self._exact) < MAX_EXACT

    def _ask(self, version: str | None) -> Stats:
        stats = self._fetch(version)
        self.undecided = why_undecided(stats, self._builds)
        self.current = stats.current_version
        return stats


def parse_builds(lines: Sequence[str]) -> list[Build]:
    """
    Read a list of builds, one a line: a build id, and after a tab the time at which it was deployed.

    Returns:
        The builds, newest first.

    Raises:
        ValueError: A line is not such a line, names a build that was there before, or there are too many.
    """
    found: dict[str, Build] = {}
    for number, line in enumerate(lines, 1):
        if number > MAX_LINES:
            raise ValueError(f"There are more than {MAX_LINES:,} lines; list one line for each build.")
        name, _, time = line.rstrip("\r\n").partition("\t")
        if not line.strip():
            continue
        if not is_version(name) or name in (UNKNOWN, OTHER):
            raise ValueError(
                f"Line {number} does not begin with a build id: {name[:60]!r}. Write the build id, a tab and the time "
                "of its deployment."
            )
        if name in found:
            raise ValueError(f"Line {number} names build {name} again; list one line for each build.")
        found[name] = Build(name, _parse_time(time.strip(), number) if time.strip() else None)
    return sorted(found.values(), key=lambda build: (-(build.deployed or float("inf")), build.id))


def _parse_time(text: str, number: int) -> float:
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise ValueError(text)
        return time.timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f"Line {number} has no valid time: {text[:60]!r}. Write it with its time zone, such as "
            "2026-11-28T10:00:00+00:00."
        ) from None
