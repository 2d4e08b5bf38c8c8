"""
What `headcount impact` says before a deploy: who is there now, how long they stay, and when it is quiet.

Tests: tests/tools/test_impact_report.py.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from ..client.rollout_messages import Minute
from ..core.rollouts import COMPARED, PERCENTS, AdoptionCurve, typical

HOUR: Final = 3_600_000
"""Milliseconds."""

MIN_SHARE: Final = 0.5
"""Share of an hour's minutes that must be known: an hour with fewer is not called quiet."""

Span = Callable[[float], str]
"""Returns a duration in seconds as people write it."""


class Quiet(NamedTuple):
    """
    The hour with the fewest connections.

    Attributes:
        start: In ms since 1970.
        mean: Connections, on average over its minutes.
        hours: How many hours are known well enough to be compared.
    """

    start: int
    mean: float
    hours: int


def quiet_hour(minutes: Sequence[Minute]) -> Quiet | None:
    """
    Return the quietest full hour.

    Args:
        minutes: Of a day. A time without one is unknown, and not quiet.

    Returns:
        None: no hour is known well enough.
    """
    hours: dict[int, list[int]] = {}
    for minute in minutes:
        if not minute.partial:
            hours.setdefault(minute.at // HOUR, []).append(minute.total)
    known = {hour: totals for hour, totals in hours.items() if len(totals) >= 60 * MIN_SHARE}
    if not known:
        return None
    means = {hour: sum(totals) / len(totals) for hour, totals in known.items()}
    quietest = min(means, key=lambda hour: (means[hour], -hour))
    return Quiet(quietest * HOUR, means[quietest], len(known))


def leaving(rollouts: Sequence[AdoptionCurve]) -> dict[int, float]:
    """Return after how many seconds so many per cent were on the new version: medians of the last rollouts."""
    usual = {percent: typical(_finished(rollouts), percent) for percent in PERCENTS}
    return {percent: after / 1_000 for percent, after in usual.items() if after is not None}


def sentences(
    *,
    total: int,
    versions: Mapping[str, int],
    route: str | None,
    on_route: int | None,
    partial: bool,
    rollouts: Sequence[AdoptionCurve],
    quiet: Quiet | None,
    clock: Callable[[int], str],
    span: Span,
) -> list[str]:
    """
    Say what a deploy would meet.

    Args:
        total: Open pages.
        versions: Of all of them.
        route: The one that was asked about; None: none.
        on_route: Pages on it; None: that is not known.
        partial: A node is missing from the figures.
        rollouts: The last ones, newest first.
        quiet: The quietest hour of the last day.
        clock: Returns a time of the day for ms since 1970.
        span: See `Span`.
    """
    pages = "1 page is" if total == 1 else f"{total:,} pages are"
    by_version = ", ".join(f"{count:,} on {version}" for version, count in _largest(versions))
    found = [f"{pages} open{': ' + by_version if by_version else ''}."]
    if partial:
        found.append("Figures are partial: a node is missing, so there may be more.")
    if route is not None:
        found.append(
            f"How many are on {route} is not known: the server does not track routes, hides them, or counts too many."
            if on_route is None
            else f"{on_route:,} of them {'is' if on_route == 1 else 'are'} on {route}."
        )
    usual = leaving(rollouts)
    if usual:
        number = len(_finished(rollouts))
        times = ", ".join(f"{percent} % after {span(seconds)}" for percent, seconds in usual.items())
        whose = "the last rollout" if number == 1 else f"the last {number} rollouts (medians)"
        found.append(f"Pages came to the new version in {whose}: {times}.")
    else:
        found.append("No rollout is finished yet, so it is not known how long old pages stay.")
    if quiet is None:
        found.append("No hour of the last day is known well enough to say when it is quiet.")
    else:
        hours = "hour" if quiet.hours == 1 else f"of {quiet.hours} hours"
        found.append(
            f"The quietest {hours} was {clock(quiet.start)} to {clock(quiet.start + HOUR)}, with {quiet.mean:,.0f} "
            "pages on average."
        )
    return found


def _finished(rollouts: Sequence[AdoptionCurve]) -> list[AdoptionCurve]:
    return [each for each in rollouts if each.state == "done"][:COMPARED]


def _largest(versions: Mapping[str, int]) -> list[tuple[str, int]]:
    ranked = sorted(versions.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) <= 5:
        return ranked
    return [*ranked[:4], ("other versions", sum(count for _, count in ranked[4:]))]
