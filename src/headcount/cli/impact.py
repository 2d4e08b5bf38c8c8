"""
`headcount impact`: whom a deploy would meet now, how long pages stay, and when it is quiet.

Tests: tests/cli/test_impact.py.
"""

import asyncio
import time
from typing import TYPE_CHECKING

import click

from ..core.labels import OTHER
from ..tools import impact_report
from ..tools.terminal import printable
from .output import span, write_json
from .target import AskingCommand, Target, json_option, target_options

if TYPE_CHECKING:
    from ..client import Minute, Stats
    from ..core.rollouts import AdoptionCurve


@click.command("impact", cls=AskingCommand, epilog="Exit codes: 0 done, 1 an error, 2 wrong usage.")
@target_options(stream=False)
@click.option("--route", metavar="PATH", envvar="HEADCOUNT_ROUTE", help="Say how many pages are on this route.")
@json_option
def command(target: Target, route: str | None, as_json: bool) -> None:
    """
    Show whom a deploy would meet now, how long pages stay, and when it is quiet.

    Says how many pages are open, on which versions, when 50, 90 and 99 % of them were on the new version in the last
    rollouts, and which hour of the last day had the fewest.
    """
    stats, rollouts, minutes = asyncio.run(_fetch(target))
    # Under too many routes, one that is not listed is counted with others.
    is_listed = not stats.total or (bool(stats.routes) and OTHER not in stats.routes)
    on_route = stats.routes.get(route, 0 if is_listed else None) if route is not None else None
    quiet = impact_report.quiet_hour(minutes)
    if as_json:
        usual = impact_report.leaving(rollouts)
        write_json(
            {
                "total": stats.total,
                "versions": dict(stats.versions),
                "route": route,
                "onRoute": on_route,
                "partial": stats.partial,
                "reachedAfterMs": {str(percent): round(seconds * 1_000) for percent, seconds in usual.items()},
                "quietHour": None if quiet is None else {"at": quiet.start, "mean": round(quiet.mean, 1)},
            }
        )
        return
    for sentence in impact_report.sentences(
        total=stats.total,
        versions=stats.versions,
        route=route,
        on_route=on_route,
        partial=stats.partial,
        rollouts=rollouts,
        quiet=quiet,
        clock=_clock,
        span=span,
    ):
        click.echo(printable(sentence))


async def _fetch(target: Target) -> "tuple[Stats, list[AdoptionCurve], list[Minute]]":
    from ..client import fetch_adoption, fetch_minutes, fetch_stats

    url, base = target.url, target.base_path
    stats = await fetch_stats(url, base_path=base, **target.access)
    rollouts = await fetch_adoption(url, base_path=base, **target.access)
    return stats, rollouts, await fetch_minutes(url, base_path=base, **target.access)


def _clock(at: int) -> str:
    """Return the time of the day in the time zone of this terminal."""
    return time.strftime("%H:%M", time.localtime(at / 1_000))
