"""
When `headcount wait` may go on: the rules, without a clock and without a stream.

Figures that are partial, stale or missing never meet the condition, whatever number they show, and the time for which
it must hold starts anew after them. Nor do figures while connections are unaccounted for: those of a node that fell
silent may be open still, and those of one that stopped may be on their way to another. That time goes on meanwhile,
because they have the same time to come back. While the nodes serve several versions and none was declared current,
nobody knows which connections are outdated. Who waits for the release of a version waits until it is current, and in
vain once another one was declared in its place. Connections whose version is not counted apart count as connections
that are waited for, unless the server says that they are none of those.

A page whose connection breaks off is not among the connections until it is back. The server says how many such pages
are away, and they count like those that are left. While a node cannot say, nobody can tell them from pages that were
closed: then the condition must hold for as long as such a page may take (`HOLD`), else for a moment (`KNOWN_HOLD`).

Strangers can open connections of any version. More of those that are waited for keep the gate shut; but a share of the
most that were seen would then be a share of made-up ones, and open it once they have gone. So a share is of a number
that was held for a while (`Base`), or that the operator names.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from .away_pages import GRACE
from .current_version import CurrentRelease, why_unknown
from .labels import OTHER, UNKNOWN
from .stats import Absence, Nodes, Stats, VersionCount
from .time_to_go import Sample, Samples, time_to_go

HOLD: Final = GRACE
"""
Seconds for which the condition must hold unless an operator says otherwise, while a node cannot say which pages broke
off. Also the seconds that pages have which a node told to reconnect, however short the way of most is.
"""

KNOWN_HOLD: Final = 1.0
"""The same while all nodes say which pages broke off: longer than the figures of two nodes are apart."""


class Selection(NamedTuple):
    """Which connections are waited for: `release` are the outdated ones, once `version` is current."""

    kind: Literal["version", "not-version", "outdated", "release"]
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
        version = self.named(current)
        if version is None or (self.kind == "release" and current != version):
            return None
        count = stats.of_version
        if count is None or count.version != version:
            least = stats.versions.get(version, 0)
            # Whatever is counted apart: those under `(other)` may be of any version.
            most = least if version == UNKNOWN else least + stats.versions.get(OTHER, 0)
            count = VersionCount(version, least, most)
        return count.most if self.kind == "version" else stats.total - count.least

    def away(self, stats: Stats, current: str | None) -> int:
        """Count the pages that broke off and may come back as such connections. See `left`."""
        version = self.named(current)
        if version is None:
            return 0
        least = stats.away.get(version, 0)
        return least + stats.away.get(OTHER, 0) if self.kind == "version" else sum(stats.away.values()) - least

    def named(self, current: str | None) -> str | None:
        """Return the version whose number decides; None: it is not known."""
        return current if self.kind == "outdated" else self.version

    def __str__(self) -> str:
        match self.kind:
            case "version":
                return f"on version {self.version}"
            case "not-version":
                return f"not on version {self.version}"
            case _:
                return "outdated"


BASE_HELD: Final = 30.0
"""Seconds for which a number must have been left, at least, before a share is of it."""


class Bound(NamedTuple):
    """
    How many may be left, at most: a number, or a share in per cent of `of`, else of the base.

    Not a share of all connections: new ones on the new version would open the gate, though no old one has gone.
    """

    value: float
    percent: bool = False
    of: int | None = None
    """The number that the share is of, as the operator names it."""

    def base(self, seen: int) -> int:
        """Return what the share is of: `of`, else what was seen."""
        return seen if self.of is None else self.of

    def allows(self, left: int, seen: int) -> bool:
        """Say whether `left` is at or under it."""
        return left * 100 <= self.value * self.base(seen) if self.percent else left <= self.value

    def at_most(self, seen: int) -> int:
        """Return the bound as a number of connections."""
        return int(self.value * self.base(seen) / 100) if self.percent else int(self.value)

    def __str__(self) -> str:
        return f"{self.value:.15g}{'%' if self.percent else ''}"


class Base:
    """
    The largest number that was left for `BASE_HELD` without a break: what a share is of.

    Before anything was left that long, it is the smallest number that was seen. So a share is never of more than was
    there all the time.
    """

    def __init__(self) -> None:
        self._held: int | None = None
        self._least: int | None = None
        self._began = 0.0
        self._recent: deque[tuple[int, float]] = deque()
        """Numbers, and until when they were left. Each is smaller than those after it, so the first is the smallest."""

    @property
    def count(self) -> int:
        """The base."""
        return (self._least or 0) if self._held is None else self._held

    def add(self, now: float, left: int) -> None:
        """Add the number that is left from now on."""
        recent = self._recent
        if recent:
            recent[-1] = (recent[-1][0], now)
            while recent[0][1] <= now - BASE_HELD:
                recent.popleft()
            if now - self._began >= BASE_HELD:
                self._held = max(self._held or 0, recent[0][0])
        else:
            self._began = now
        while recent and recent[-1][0] >= left:
            recent.pop()
        recent.append((left, now))
        self._least = left if self._least is None else min(self._least, left)

    def interrupt(self) -> None:
        """Note that the number is not known: what is left later was not left all the time."""
        self._recent.clear()


Unknown: TypeAlias = Literal["no contact", "partial", "unaccounted", "version unknown", "not current"]


class Verdict(NamedTuple):
    """
    Where it stands.

    Attributes:
        left: Connections that are waited for; None: not known.
        total: All connections.
        bound: How many may be left.
        base: What a share is of.
        held: Seconds for which it has held so far; None: it does not hold.
        done: It has held long enough.
        unknown: Why nothing is known; None: it is.
        rate: Connections a minute that leave; None: not enough data.
        to_go: Seconds until the bound; 0: reached, infinite: the number does not shrink, None: not enough data.
        absences: Nodes whose connections are unaccounted for.
        away: Pages that are waited for, broke off and may come back.
    """

    left: int | None
    total: int
    bound: int
    base: int
    held: float | None
    done: bool
    unknown: Unknown | None
    rate: float | None
    to_go: float | None
    absences: tuple[Absence, ...] = ()
    away: int = 0

    @property
    def unaccounted(self) -> int:
        """Connections that are unaccounted for, as far as their number is known."""
        return sum(absence.total or 0 for absence in self.absences)


def away_sentence(away: int) -> str:
    """Say how many pages broke off, as a part of a sentence."""
    return f"{away:,} {'page' if away == 1 else 'pages'} broke off and may return within {GRACE:g} s"


def pages_that_broke_off(away: int) -> str:
    """Say how many pages broke off, as the object of a sentence."""
    what, they = ("page", "it") if away == 1 else ("pages", "they")
    return f"{away:,} {what} that broke off; {they} may return within {GRACE:g} s"


def unaccounted_sentence(absences: Sequence[Absence], now: int) -> str:
    """
    Say which connections are unaccounted for, as the end of a sentence.

    Args:
        absences: At least one.
        now: Milliseconds since 1970.
    """
    total = sum(absence.total or 0 for absence in absences)
    number = f"{total:,} {'connection' if total == 1 else 'connections'}"
    if any(absence.total is None for absence in absences):
        number = f"at least {number}" if total else "an unknown number of connections"
    first = min(absences, key=lambda absence: absence.since)
    seconds = max(0, now - first.since) // 1000
    if not total and all(absence.state == "cut-off" for absence in absences):
        names = ", ".join(absence.node for absence in absences[:3])
        what, whose = f"node {names} has", "its"
        if len(absences) > 1:
            what, whose = f"{len(absences)} nodes ({names}) have", "their"
        return f"{what} been stopped or cut off for {seconds} s; the number of {whose} open connections is unknown"
    verb = "is" if total == 1 and number.startswith("1") else "are"
    if len(absences) == 1:
        why = {
            "vanished": "",
            "cut-off": " (it is stopped or cut off)",
            "leaving": " (it was stopped properly)",
            "unanswered": " (their pages do not answer)",
        }
        node = f"node {first.node}{why[first.state]}"
        return f"{number} of {node} {verb} unaccounted for; the node was last heard from {seconds} s ago"
    names = ", ".join(absence.node for absence in absences[:3]) + (", …" if len(absences) > 3 else "")
    return (
        f"{number} of {len(absences)} nodes ({names}) {verb} unaccounted for; the first was last heard from "
        f"{seconds} s ago"
    )


def reason_sentence(judge: "Judge", verdict: "Verdict", stats: Stats, now: int) -> str:
    """
    Say why the condition holds, or does not.

    Args:
        judge: The rules.
        verdict: Of these figures.
        stats: The figures.
        now: Milliseconds since 1970.
    """
    if verdict.left is None:
        return f"Waiting: {unknown_sentence(verdict, stats.nodes, stats.release, judge.selection.version, now)}."
    if verdict.held is not None and not stats.away_known:
        return f"No node has run for {GRACE:g} s yet, or one cannot say which pages broke off; ask again later."
    verb, connections = ("is", "connection") if verdict.left == 1 else ("are", "connections")
    left = f"{verdict.left:,} {connections} {verb} {judge.selection}"
    away = f", and {away_sentence(verdict.away)}" if verdict.away else ""
    return f"{left}{away}; the limit is {judge.bound}."


def unknown_sentence(
    verdict: "Verdict", nodes: Nodes | None, release: CurrentRelease | None, awaited: str | None, now: int
) -> str:
    """
    Say why figures that were received cannot be used, as the end of a sentence.

    Args:
        verdict: Of them.
        nodes: Who reported them, as far as that is known.
        release: What they say of the current version.
        awaited: The version whose release is waited for, if one is.
        now: Milliseconds since 1970.
    """
    serving, reporting = (None, 1) if nodes is None else (nodes.versions, nodes.reporting)
    match verdict.unknown:
        case "unaccounted":
            return unaccounted_sentence(verdict.absences, now)
        case "not current" if release is not None and release.current is not None:
            return f"{release.current} is current, not {awaited}"
        case "not current":
            return f"{awaited} is not current: {why_unknown(serving, reporting, release)}"
        case "version unknown":
            return why_unknown(serving, reporting, release)
    if nodes is None or nodes.reporting == nodes.expected:
        return "figures are partial (some nodes cannot be reached)"
    return f"figures are partial ({nodes.reporting} of {nodes.expected} nodes are reporting)"


class Judge:
    """
    Watches the figures until the bound has held.

    Args:
        selection: Which connections.
        bound: How many may be left.
        hold: Seconds for which it must hold without a break.
        now: The time, in seconds on any clock.
        known_hold: The same while all nodes say which pages broke off; None: as long.
        include_away: Pages that broke off count as not gone.
    """

    def __init__(
        self,
        selection: Selection,
        bound: Bound,
        hold: float,
        now: float,
        known_hold: float | None = None,
        *,
        include_away: bool = True,
    ) -> None:
        self.selection = selection
        self.bound = bound
        self.hold = hold
        """Seconds for which it must hold, as of the last figures."""
        self._longest_hold = hold
        self.include_away = include_away
        """Pages that broke off count as not gone."""
        self._known_hold = hold if known_hold is None else known_hold
        self._leaving: set[str] = set()
        """Nodes whose pages are on their way to others."""
        self._settled_at = now
        """When those that broke off on their way have had time to come back."""
        self.started = now
        self.contact = now
        """When there were figures last, and it was known which connections are waited for."""
        self.most = 0
        """The most that were left at any time: where a progress bar begins. No share is of it."""
        self.since: float | None = None
        """Since when it holds; None: it does not."""
        self.declared_instead: str | None = None
        """The version that was declared while the release of another one was waited for; None: none was."""
        self._declared: str | None = None
        """The version that was declared last, as far as was seen."""
        self._has_looked = False
        """Which version was declared at the beginning is known."""
        self._samples = Samples()
        self._base = Base()

    @property
    def base(self) -> int:
        """What a share is of."""
        return self.bound.base(self._base.count)

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
        left = self.selection.left(stats, current)
        self._note_declared(stats)
        if left is not None or self.selection.kind == "release":
            self.contact = now
        if left is not None:
            self.most = max(self.most, left)
        away = self.selection.away(stats, current)
        waited = (left or 0) + (away if self.include_away else 0)
        self._note_leaving(stats, now)
        if stats.absences:
            since = self.since if self.since is not None else now
            verdict = self._unknown("unaccounted", stats)
            complete = stats.nodes.reporting >= stats.nodes.expected
            if complete and left is not None and self.bound.allows(waited, self.base):
                self.since = since
            return verdict
        if stats.partial:
            return self._unknown("partial", stats)
        if left is None:
            return self._unknown("not current" if self.selection.kind == "release" else "version unknown", stats)
        self._base.add(now, left)
        if not self.bound.allows(waited, self.base):
            self.since = None
        elif self.since is None:
            self.since = now
        held = None if self.since is None else now - self.since
        self.hold = self._known_hold if stats.away_known else self._longest_hold
        if self.since is not None:
            self.hold = max(self.hold, min(self._longest_hold, self._settled_at - self.since))
        self._samples.add(Sample(now, left))
        share = self._samples.decay()
        rate = None if share is None else share * left * 60
        bound = self.bound.at_most(self.base)
        to_go = time_to_go(left, bound, share)
        done = held is not None and held >= self.hold
        return Verdict(left, stats.total, bound, self.base, held, done, None, rate, to_go, away=away)

    def lost(self, now: float) -> float:
        """Return for how long nothing has been known, in seconds."""
        return now - self.contact

    def reset(self) -> None:
        """Let the time that it must hold start anew."""
        self.since = None

    def _note_declared(self, stats: Stats) -> None:
        """
        Note a declaration in place of the one that is waited for.

        Only by the figures of all nodes: a node that was cut off may still have an older declaration. One that was
        there at the beginning is that of the last deploy, unless the awaited one came in between.
        """
        release = stats.release
        if self.selection.kind != "release" or stats.partial or release is None:
            return
        declared = release.version if release.state in ("declared", "orphaned") else None
        if declared is not None and declared != self._declared:
            if self._has_looked and declared != self.selection.version:
                self.declared_instead = declared
            self._declared = declared
        self._has_looked = True

    def _note_leaving(self, stats: Stats, now: float) -> None:
        """Give the pages that a node told to reconnect as long as those that broke off: an attempt may fail."""
        leaving = {absence.node for absence in stats.absences if absence.state == "leaving"}
        if leaving - self._leaving:
            self._settled_at = now + self._longest_hold
        self._leaving = leaving

    def _unknown(self, why: Unknown, stats: Stats | None) -> Verdict:
        self.since = None
        self._base.interrupt()
        total = 0 if stats is None else stats.total
        absences = () if stats is None else stats.absences
        bound, base = self.bound.at_most(self.base), self.base
        return Verdict(None, total, bound, base, None, False, why, None, None, absences)
