"""
When `headcount wait` may go on: the rules, without a clock and without a stream.

Figures that are partial, stale or missing never meet the condition, whatever number they show, and the time for which
it must hold starts anew after them. Connections whose version is not counted apart count as connections that are
waited for.
"""

from typing import Literal, NamedTuple, TypeAlias

from ..core.labels import OTHER
from ..core.stats import Stats
from ..core.time_to_go import Sample, Samples, time_to_go


class Selection(NamedTuple):
    """Which connections are waited for. `version` is None for `outdated`."""

    kind: Literal["version", "not-version", "outdated"]
    version: str | None = None

    def left(self, stats: Stats, current: str | None) -> int | None:
        """
        Count them.

        Args:
            stats: The figures.
            current: The version that is current now; None: it is not known.

        Returns:
            The most that it can be, or None when it cannot be known.
        """
        version = current if self.kind == "outdated" else self.version
        if version is None:
            return None
        of_version = stats.versions.get(version, 0)
        if self.kind == "version":
            # Beyond the limit of versions that are counted apart nobody knows which they are.
            return of_version or stats.versions.get(OTHER, 0)
        return stats.total - of_version

    def __str__(self) -> str:
        match self.kind:
            case "version":
                return f"on version {self.version}"
            case "not-version":
                return f"not on version {self.version}"
            case _:
                return "outdated"


class Bound(NamedTuple):
    """How many may be left, at most: a number, or a share of all connections in per cent."""

    value: float
    percent: bool = False

    def allows(self, left: int, total: int) -> bool:
        """Say whether `left` of `total` is at or under it."""
        return left * 100 <= self.value * total if self.percent else left <= self.value

    def at_most(self, total: int) -> int:
        """Return the bound as a number of connections."""
        return int(self.value * total / 100) if self.percent else int(self.value)

    def __str__(self) -> str:
        return f"{self.value:g}{'%' if self.percent else ''}"


Unknown: TypeAlias = Literal["no contact", "partial", "version unknown"]


class Verdict(NamedTuple):
    """
    Where it stands.

    Attributes:
        left: Connections that are waited for; None: not known.
        total: All connections.
        bound: How many may be left.
        held: Seconds for which it has held so far; None: it does not hold.
        done: It has held long enough.
        unknown: Why nothing is known; None: it is.
        rate: Connections a minute that leave; None: not enough data.
        to_go: Seconds until the bound; 0: reached, infinite: the number does not shrink, None: not enough data.
    """

    left: int | None
    total: int
    bound: int
    held: float | None
    done: bool
    unknown: Unknown | None
    rate: float | None
    to_go: float | None


class Judge:
    """
    Watches the figures until the bound has held.

    Args:
        selection: Which connections.
        bound: How many may be left.
        hold: Seconds for which it must hold without a break.
        now: The time, in seconds on any clock.
    """

    def __init__(self, selection: Selection, bound: Bound, hold: float, now: float) -> None:
        self.selection = selection
        self.bound = bound
        self.hold = hold
        self.started = now
        self.contact = now
        """When the figures were known last."""
        self.most = 0
        """The most that were left at any time: where a progress bar begins."""
        self.since: float | None = None
        """Since when it holds; None: it does not."""
        self._samples = Samples()

    def look(self, now: float, stats: Stats | None, current: str | None) -> Verdict:
        """
        Judge the figures of this moment.

        Args:
            now: On the same clock as before, not earlier.
            stats: The figures; None: they are stale, or there are none.
            current: The version that is current.
        """
        if stats is None:
            return self._unknown("no contact", None)
        self.contact = now
        if stats.partial:
            return self._unknown("partial", stats)
        left = self.selection.left(stats, current)
        if left is None:
            return self._unknown("version unknown", stats)
        self.most = max(self.most, left)
        if not self.bound.allows(left, stats.total):
            self.since = None
        elif self.since is None:
            self.since = now
        held = None if self.since is None else now - self.since
        self._samples.add(Sample(now, left))
        share = self._samples.decay()
        rate = None if share is None else share * left * 60
        bound = self.bound.at_most(stats.total)
        to_go = time_to_go(left, bound, share)
        return Verdict(left, stats.total, bound, held, held is not None and held >= self.hold, None, rate, to_go)

    def lost(self, now: float) -> float:
        """Return for how long nothing has been known, in seconds."""
        return now - self.contact

    def reset(self) -> None:
        """Let the time that it must hold start anew."""
        self.since = None

    def _unknown(self, why: Unknown, stats: Stats | None) -> Verdict:
        self.since = None
        total = 0 if stats is None else stats.total
        return Verdict(None, total, self.bound.at_most(total), None, False, why, None, None)
