"""
`headcount wait`: the gate of a deploy.

Tests: tests/cli/test_asking.py.
"""

import asyncio
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.core import ParameterSource

from ..core.rollout_gate import HOLD, KNOWN_HOLD, Bound, Judge, Selection, Verdict, away_sentence, pages_that_broke_off
from ..core.rollouts import PERCENTS, AdoptionCurve, compared, usual_time
from ..core.time_to_go import NEVER
from ..tools.terminal import printable
from .output import complain, connections, paint, span, write_json
from .rollout import ERROR, HELD, INTERRUPTED, Result, RolloutFollower, Situation
from .target import (
    DURATION,
    AskingCommand,
    Target,
    json_option,
    lost_after_option,
    target_options,
    timeout_option,
)


class _BoundType(click.ParamType[Bound]):
    name = "N|N%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Bound:
        if isinstance(value, Bound):
            return value
        text = str(value).strip()
        number, percent = text.removesuffix("%").strip(), text.endswith("%")
        if not (number.isascii() and number.replace(".", "", 1).isdigit() and (percent or number.isdigit())):
            self.fail(f"{value!r} is not a number or a percentage; write it as 5 or 1%.", param, ctx)
        if percent and float(number) > 100:
            self.fail(f"{value!r} is out of range; give 0% to 100%.", param, ctx)
        return Bound(float(number), percent)


@click.command(
    "wait",
    cls=AskingCommand,
    epilog="""
    \b
    Exit codes:
      0  the condition held for --for
      1  error: not authorised, no Headcount at URL, or --require-seen
      2  wrong usage
      3  timed out: too many connections are left; or, with --release,
         another version was declared
      4  lost contact: no figures for --lost-after, or none when --timeout
         ended; or the current version was not known for --lost-after
      130  Ctrl-C

    \b
    Example, after a deploy:
      headcount release "$BUILD_ID" https://www.example.com
      headcount wait https://www.example.com --outdated --below 20
    """,
)
@target_options(stream=True)
@click.option(
    "--version", envvar="HEADCOUNT_VERSION", metavar="V", help="Version whose connections must go (the old one)."
)
@click.option(
    "--not-version",
    envvar="HEADCOUNT_NOT_VERSION",
    metavar="V",
    help="Version that may stay (the new one): connections on any other must go, unknown ones included.",
)
@click.option(
    "--outdated",
    is_flag=True,
    envvar="HEADCOUNT_OUTDATED",
    help="Wait for connections that are not on the current version: the released one, else that of all nodes.",
)
@click.option(
    "--release",
    envvar="HEADCOUNT_RELEASE",
    metavar="V",
    help="Wait until V is the current version, and then as with --outdated.",
)
@click.option(
    "--below",
    "--at-most",
    type=_BoundType(),
    default="0",
    show_default=True,
    envvar="HEADCOUNT_BELOW",
    help="Most connections that may be left, as a number or as a share of --of.",
)
@click.option(
    "--of",
    type=click.IntRange(min=1),
    metavar="N",
    envvar="HEADCOUNT_OF",
    help="Total for --below N% [default: the largest number of remaining connections that lasted 30 s].",
)
@click.option(
    "--for",
    "hold",
    type=DURATION,
    envvar="HEADCOUNT_FOR",
    help="Time for which the condition must hold without a break [default: "
    f"{KNOWN_HOLD:g}s, or {HOLD:g}s while a node cannot say which pages broke off; at most half of --timeout].",
)
@click.option(
    "--include-away/--exclude-away",
    "include_away",
    default=None,
    envvar="HEADCOUNT_INCLUDE_AWAY",
    help="Count pages that broke off as still open until they are back [default: include, unless --for is given].",
)
@click.option(
    "--require-seen",
    is_flag=True,
    envvar="HEADCOUNT_REQUIRE_SEEN",
    help="Fail if no page was seen on --version and no node serves it: it may be misspelt.",
)
@timeout_option("Longest time to wait; 0: no limit.")
@lost_after_option("Longest time without contact to the server, or without a current version; 0: no limit.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    target: Target,
    version: str | None,
    not_version: str | None,
    outdated: bool,
    release: str | None,
    below: Bound,
    of: int | None,
    hold: float | None,
    include_away: bool | None,
    require_seen: bool,
    timeout: float,
    lost_after: float,
    as_json: bool,
) -> int:
    """
    Wait until at most N connections of a version are left.

    Partial, stale or missing figures never count as zero: the condition does not hold then, and --for starts again. The
    same goes, with --outdated, while the nodes serve several versions and no release was declared; and, with
    --release V, while another version is current or none is. The command also does not exit with 0 while connections of
    a silent node are unaccounted for.

    A page whose connection breaks without a goodbye still counts as open until it reconnects, for at most 48 s. That
    covers a proxy outage of 15 s; for longer ones, set --for. --for defaults to 48s while a node cannot report such
    pages: it started less than 48 s ago or runs an older Headcount.
    """
    selection = _selection(context, version, not_version, release, outdated=outdated)
    if include_away is None:
        include_away = hold is None
    known_hold = hold
    if hold is None:
        hold, known_hold = (min(each, timeout / 2 or each) for each in (HOLD, KNOWN_HOLD))
    if timeout and hold > timeout:
        raise click.UsageError(
            f"--for {span(hold)} is longer than --timeout {span(timeout)}, so the condition could never hold; give a "
            "longer --timeout, or 0 for no limit."
        )
    if of is not None and not below.percent:
        raise click.UsageError(
            f"--of {of} needs a percentage, but --below is {below}; give --below N%, or leave --of out."
        )
    if require_seen and selection.kind != "version":
        raise click.UsageError("--require-seen checks the spelling of --version; give both, or leave it out.")
    # Before the clock starts: on a busy machine the import may take a second.
    importlib.import_module("headcount.client")
    from .progress import Progress

    judge = Judge(selection, below._replace(of=of), hold, time.monotonic(), known_hold, include_away=include_away)
    with Progress() as progress:
        line = _ProgressLine(
            judge, short=progress.on_terminal, usual=lambda verdict: _usual_time(follower.rollouts, verdict)
        )
        last = Situation(judge.look(judge.started, None, None))

        def show(situation: Situation) -> None:
            nonlocal last
            last = situation
            progress.show(line.text(situation), line.share(situation.verdict), line.state(situation))

        follower = RolloutFollower(target, judge, timeout, lost_after, show)
        try:
            result = asyncio.run(follower.run())
        except KeyboardInterrupt:
            result = Result(INTERRUPTED, last.verdict, "Interrupted by Ctrl-C.")
    code, verdict, reason = result
    never_seen = selection.kind == "version" and judge.most == 0 and not last.is_served(selection.version)
    if code == HELD and never_seen and require_seen:
        code, reason = (
            ERROR,
            f"No page was seen on version {selection.version}, and no node serves it; check the spelling.",
        )
    waited = time.monotonic() - judge.started
    if as_json:
        write_json(
            {
                "ok": code == HELD,
                "exitCode": code,
                "reason": reason,
                "left": verdict.left,
                "most": judge.most,
                "total": None if verdict.unknown == "no contact" else verdict.total,
                "unaccounted": None if verdict.unknown == "no contact" else verdict.unaccounted,
                "away": None if verdict.left is None else verdict.away,
                "bound": str(below),
                **({"of": judge.base} if below.percent else {}),
                "waitedMs": round(waited * 1000),
            }
        )
    elif code == HELD:
        word = paint("Done", sys.stdout, fg="green", bold=True)
        left = f"{verdict.left:,} of {connections(verdict.total)} {printable(str(selection))}"
        click.echo(f"{word}: {left}, after {span(waited)}.")
        if verdict.away:
            click.echo(f"Did not wait for {pages_that_broke_off(verdict.away)}.")
        if never_seen:
            # They may have gone before. Or the version is misspelt, and then this gate is open for ever.
            click.echo(f"No page was seen on version {printable(str(selection.version))}; check the spelling.")
    if code not in (HELD, INTERRUPTED):
        complain(printable(reason))
    return code


def _selection(
    context: click.Context, version: str | None, not_version: str | None, release: str | None, *, outdated: bool
) -> Selection:
    """
    Return which connections to wait for. Options on the command line win over the environment, because a build may set
    HEADCOUNT_VERSION for other reasons.
    """
    for name, value in (("--version", version), ("--not-version", not_version), ("--release", release)):
        if value == "":
            raise click.UsageError(f"{name} is empty; give the build id, and check that the variable it is in is set.")
    found = {
        "version": Selection("version", version) if version else None,
        "not_version": Selection("not-version", not_version) if not_version else None,
        "outdated": Selection("outdated") if outdated else None,
        "release": Selection("release", release) if release else None,
    }
    given = {name: selection for name, selection in found.items() if selection is not None}
    typed = {name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    chosen = [selection for name, selection in given.items() if name in typed or not typed]
    if len(chosen) != 1:
        names = [f"--{name.replace('_', '-')}" for name in (typed or given)]
        came = f"{' and '.join(sorted(names, key=len))} are given" if names else "none is given"
        raise click.UsageError(f"Give exactly one of --version, --not-version, --outdated and --release; {came}.")
    return chosen[0]


def _usual_time(rollouts: Sequence[AdoptionCurve], verdict: Verdict) -> float | None:
    """Return for how many seconds the last rollouts went from where this one is to its limit; None: not known."""
    if not verdict.left or not verdict.total:
        return None
    share, goal = 1 - verdict.left / verdict.total, 1 - verdict.bound / verdict.total
    # Curves end at 99 per cent.
    found = usual_time(compared(rollouts), share, min(goal, PERCENTS[-1] / 100))
    return None if found is None else found / 1_000


class _ProgressLine:
    """
    What the progress line says.

    Args:
        judge: The rules.
        short: For a terminal, where the bar says a part of it and the line is cut.
        usual: Returns for how many seconds the last rollouts went from where this one is to the limit; None: not known.
    """

    def __init__(self, judge: Judge, *, short: bool, usual: Callable[[Verdict], float | None]) -> None:
        self._judge = judge
        self._short = short
        self._usual = usual

    def text(self, situation: Situation) -> str:
        """Return the line."""
        verdict, judge = situation.verdict, self._judge
        if verdict.left is None:
            error = (situation.error or "").rstrip(".") if verdict.unknown == "no contact" else ""
            return f"Waiting: {situation.unknown}" + (f" ({error})" if error else "")
        total = f"{verdict.total:,}" if self._short else connections(verdict.total)
        parts = [f"{verdict.left:,} of {total} {judge.selection}"]
        if verdict.away:
            parts.append(away_sentence(verdict.away))
        if verdict.held is None:
            share = f" of {verdict.base:,}" if judge.bound.percent else ""
            limit = [f"limit {judge.bound}{share}"]
            known = verdict.to_go is not None and not verdict.away
            pace = [_time_to_go(verdict.to_go)] if known and verdict.to_go is not None else []
            if verdict.rate:
                pace.append(f"{verdict.rate:,.0f}/min")
            # On a terminal the end of the line may be cut: it holds what does not change.
            parts += pace + limit if self._short else limit + pace
            if verdict.to_go is None:
                usual = self._usual(verdict)
                parts.append(
                    "not enough data yet for an estimate"
                    if usual is None
                    else f"about {span(usual)} to go, as in the last rollouts"
                )
        elif judge.hold:
            parts.append(f"within the limit for {span(verdict.held)} of {span(judge.hold)}")
        return ", ".join(parts)

    def share(self, verdict: Verdict) -> float | None:
        """Return how much of the way from the most connections to the limit is done; None: not known."""
        if verdict.left is None or not self._judge.most:
            return None
        if verdict.held is not None:
            return 1.0
        way = max(1, self._judge.most - verdict.bound)
        return min(1.0, max(0.0, (self._judge.most - verdict.left) / way))

    @staticmethod
    def state(situation: Situation) -> object:
        """Return what makes a line worth writing at once where there is no terminal."""
        return situation.verdict.unknown, situation.verdict.held is not None, situation.error


def _time_to_go(seconds: float) -> str:
    return "not falling" if seconds == NEVER else f"about {span(seconds)} to go"
