"""`headcount wait`: the gate of a deploy."""

import asyncio
import importlib
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
from click.core import ParameterSource

from ..core.stats import Stats
from ..errors import ClientError, NotAuthorized, Refused
from ..tools.rollout_gate import Bound, Judge, Selection, Unknown, Verdict
from .output import complain, paint, shown, span, write_json
from .target import DURATION, Target, json_option, target_options

if TYPE_CHECKING:
    from ..live.active_connections import LiveState

HELD: Final = 0
ERROR: Final = 1
TIMED_OUT: Final = 3
LOST: Final = 4

_TICK: Final = 1.0
"""Seconds between two looks when nothing changed: for the time that it must hold, and for the terminal."""

_BAR: Final = 19
"""Columns of the progress bar and its percentage."""

_CONFIRM_TIMEOUT: Final = 10.0
"""Seconds."""

_LINE_EVERY: Final = 10.0
"""Seconds between two lines where there is no terminal."""

_UNKNOWN: Final[dict[Unknown, str]] = {
    "no contact": "no contact with the server",
    "partial": "a node whose share is missing",
    "version unknown": "no word on which version is current",
}


class _BoundType(click.ParamType[Bound]):
    name = "N|N%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Bound:
        if isinstance(value, Bound):
            return value
        text = str(value).strip()
        number, percent = text.removesuffix("%").strip(), text.endswith("%")
        if not (number.isascii() and number.replace(".", "", 1).isdigit() and (percent or number.isdigit())):
            self.fail(f"{value!r} is no bound; write how many may be left, as 5 or 1%.", param, ctx)
        if percent and float(number) > 100:
            self.fail(f"{value!r} is more than all; write 0% to 100%.", param, ctx)
        return Bound(float(number), percent)


@click.command(
    "wait",
    epilog="""
    \b
    Exit codes:
      0  it holds, and has held for --for
      1  an error: no right to see the figures, or no Headcount at URL
      2  wrong usage
      3  time-out: too many are left
      4  lost contact: nothing was known for --lost-after, or when the time was up

    \b
    Example, after a deploy:
      headcount release "$BUILD_ID" https://www.example.com
      headcount wait https://www.example.com --outdated --below 1% --for 30s
    """,
)
@target_options(stream=True)
@click.option("--version", envvar="HEADCOUNT_VERSION", metavar="V", help="Wait for those on this version to go.")
@click.option(
    "--not-version",
    envvar="HEADCOUNT_NOT_VERSION",
    metavar="V",
    help="Wait for those not on this version to go, unknown ones included.",
)
@click.option(
    "--outdated",
    is_flag=True,
    envvar="HEADCOUNT_OUTDATED",
    help="The same, of the version declared current, else the server's.",
)
@click.option(
    "--below",
    type=_BoundType(),
    default="0",
    show_default=True,
    envvar="HEADCOUNT_BELOW",
    help="How many may be left at most, or which share of all connections.",
)
@click.option(
    "--for",
    "hold",
    type=DURATION,
    default="0s",
    show_default=True,
    envvar="HEADCOUNT_FOR",
    help="For how long it must hold without a break.",
)
@click.option(
    "--timeout",
    type=DURATION,
    default="30m",
    show_default=True,
    envvar="HEADCOUNT_TIMEOUT",
    help="Give up after this long; 0: never.",
)
@click.option(
    "--lost-after",
    type=DURATION,
    default="60s",
    show_default=True,
    envvar="HEADCOUNT_LOST_AFTER",
    help="Give up when nothing has been known for this long; 0: never.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    target: Target,
    version: str | None,
    not_version: str | None,
    outdated: bool,
    below: Bound,
    hold: float,
    timeout: float,
    lost_after: float,
    as_json: bool,
) -> int:
    """
    Wait until at most so many connections of a version are left.

    Figures that are partial, old or missing are never taken for zero: they hold nothing, and --for starts anew.
    """
    selection = _selection(context, version, not_version, outdated=outdated)
    if timeout and hold > timeout:
        raise click.UsageError(
            f"It must hold for {span(hold)}, and the time is up after {span(timeout)}: give a longer --timeout, or 0."
        )
    # Before the clock starts: on a busy machine it may take a second.
    importlib.import_module("headcount.client")
    progress = _Progress(selection, below, hold)
    judge = Judge(selection, below, hold, time.monotonic())
    code, verdict, why = asyncio.run(_Waiting(target, judge, timeout, lost_after, progress.show).run())
    progress.end()
    waited = time.monotonic() - judge.started
    if as_json:
        write_json(
            {
                "ok": code == HELD,
                "exitCode": code,
                "reason": why,
                "left": verdict.left,
                "most": judge.most,
                "total": None if verdict.unknown == "no contact" else verdict.total,
                "bound": str(below),
                "waitedMs": round(waited * 1000),
            }
        )
    elif code == HELD:
        left = "none" if verdict.left == 0 else f"{verdict.left:,}"
        word = paint("Done", sys.stdout, fg="green", bold=True)
        click.echo(
            f"{word}: {left} of {verdict.total:,} {_noun(verdict.total)} left {shown(str(selection))}, "
            f"after {span(waited)}."
        )
        if selection.kind == "version" and judge.most == 0:
            # All may have gone before; or somebody misspelt it, and then this gate is open for ever.
            click.echo(f"Nobody was seen on version {shown(str(selection.version))}: is it written as pages say it?")
    if code != HELD:
        complain(why)
    return code


def _selection(context: click.Context, version: str | None, not_version: str | None, *, outdated: bool) -> Selection:
    """
    Return what is waited for. What stands on the command line wins over the environment, where a build's
    HEADCOUNT_VERSION may stand for other reasons.
    """
    for name, value in (("--version", version), ("--not-version", not_version)):
        if value == "":
            raise click.UsageError(f"{name} is empty; give the build id, and look whether its variable is set.")
    found = {
        "version": Selection("version", version) if version else None,
        "not_version": Selection("not-version", not_version) if not_version else None,
        "outdated": Selection("outdated") if outdated else None,
    }
    given = {name: selection for name, selection in found.items() if selection is not None}
    said = {name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    chosen = [selection for name, selection in given.items() if name in said or not said]
    if len(chosen) != 1:
        names = [f"--{name.replace('_', '-')}" for name in (said or given)]
        told = f"{' and '.join(sorted(names, key=len))} are given" if names else "none of them is given"
        raise click.UsageError(f"Give one of --version, --not-version and --outdated; {told}.")
    return chosen[0]


class _Result(NamedTuple):
    code: int
    verdict: Verdict
    why: str


class _Waiting:
    """
    Follows the figures until it holds, or there is no more use in waiting.

    Args:
        target: The server.
        judge: The rules.
        timeout: Seconds; 0: for ever.
        lost_after: Seconds without any knowledge; 0: for ever.
        show: Told how it stands.
    """

    def __init__(
        self,
        target: Target,
        judge: Judge,
        timeout: float,
        lost_after: float,
        show: Callable[[Verdict, str | None], None],
    ) -> None:
        self._target = target
        self._judge = judge
        self._deadline = judge.started + timeout if timeout else float("inf")
        self._lost_after = lost_after or float("inf")
        self._show = show
        self._doubted: LiveState | None = None
        """What a stream shows whose server did not answer when it was asked."""

    async def run(self) -> _Result:
        """Wait."""
        from ..client import use_active_connections

        judge, target = self._judge, self._target
        try:
            # A wrong address or token is told at once; a server that is not there yet may come.
            await self._fetch()
        except NotAuthorized as error:
            return _Result(ERROR, judge.look(judge.started, None, None), target.denied(error))
        except Refused as error:
            return _Result(ERROR, judge.look(judge.started, None, None), str(error))
        except ClientError as error:
            self._show(judge.look(judge.started, None, None), str(error))
        live = use_active_connections(
            target.url, update_strategy=target.update_strategy, base_path=target.base_path, **target.access
        )
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        live.state.subscribe(lambda _: loop.call_soon(changed.set))
        opening = asyncio.create_task(live.open())
        try:
            while True:
                changed.clear()
                if opening.done():
                    opening.result()
                result, pause = await self._look(live.state.value)
                if result is not None:
                    return result
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await changed.wait()
        finally:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            await live.aclose()

    async def _look(self, state: "LiveState") -> tuple[_Result | None, float]:
        """Judge a state. Returns how it ends, or after how many seconds to look again at the latest."""
        judge = self._judge
        known = state.status == "open" and state.authorized is True and not state.is_stale
        if known and state is self._doubted:
            known = await self._answers()
        now = time.monotonic()
        verdict = judge.look(now, state.stats if known else None, state.current_version)
        if state.authorized is False:
            return _Result(ERROR, verdict, state.error or "The server does not let this viewer see the figures."), 0
        if known or state.status == "reconnecting" or self._doubted is not None:
            self._show(verdict, state.error)
        if verdict.done:
            return await self._confirm(verdict, state), 0.01
        lost = judge.lost(now)
        about = state.error or "Nothing came from it."
        if lost >= self._lost_after:
            return _Result(LOST, verdict, f"Contact with the server is lost for {span(lost)}. {about}"), 0
        if now >= self._deadline:
            if verdict.unknown == "no contact":
                return _Result(LOST, verdict, f"The time is up, and there is {_UNKNOWN['no contact']}. {about}"), 0
            return _Result(TIMED_OUT, verdict, self._too_late(verdict)), 0
        pause = min(_TICK, self._deadline - now, self._lost_after - lost)
        return None, max(0.01, pause if verdict.held is None else min(pause, judge.hold - verdict.held))

    async def _confirm(self, verdict: Verdict, state: "LiveState") -> _Result | None:
        """
        Ask once more before it is said to hold.

        A stream that is cut off without a word goes on to show its last figures for a while; only an answer that is
        asked for now proves that they are still true.
        """
        judge = self._judge
        try:
            async with asyncio.timeout(self._patience()):
                stats = await self._fetch()
        except NotAuthorized as error:
            return _Result(ERROR, verdict, self._target.denied(error))
        except (ClientError, TimeoutError):
            judge.reset()
            self._doubted = state
            return None
        again = judge.look(time.monotonic(), stats, state.current_version)
        self._show(again, None)
        return _Result(HELD, again, "It holds.") if again.done else None

    async def _answers(self) -> bool:
        """Ask a server that is in doubt. True: it is not any more."""
        with suppress(ClientError, NotAuthorized, TimeoutError):
            async with asyncio.timeout(self._patience()):
                await self._fetch()
                self._doubted = None
        return self._doubted is None

    def _patience(self) -> float:
        """Return for how long an answer is waited for, in seconds."""
        now = time.monotonic()
        return max(1.0, min(_CONFIRM_TIMEOUT, self._deadline - now, self._lost_after - self._judge.lost(now)))

    def _too_late(self, verdict: Verdict) -> str:
        if verdict.left is None:
            return f"The time is up, and there is {_UNKNOWN[verdict.unknown or 'partial']}."
        still = f"{verdict.left:,} of {verdict.total:,} {_noun(verdict.total)} are still"
        held = "." if verdict.held is None else ", which has not held for long enough."
        return f"The time is up: {still} {shown(str(self._judge.selection))}{held}"

    async def _fetch(self) -> Stats:
        from ..client import fetch_stats

        return await fetch_stats(self._target.url, base_path=self._target.base_path, **self._target.access)


class _Progress:
    """One line that is written over on a terminal, plain lines elsewhere; on stderr, so that stdout is for results."""

    def __init__(self, selection: Selection, bound: Bound, hold: float) -> None:
        self._terminal = sys.stderr.isatty()
        self._selection = selection
        self._bound = bound
        self._hold = hold
        self._most = 0
        self._said = ""
        self._said_at = float("-inf")
        self._kind: object = None

    def show(self, verdict: Verdict, error: str | None) -> None:
        """Write how it stands."""
        self._most = max(self._most, verdict.left or 0)
        text = self._text(verdict, error)
        if self._terminal:
            if text != self._said:
                bar = self._bar(verdict)
                # Cut to the line: what is broken into two lines cannot be written over.
                width = shutil.get_terminal_size().columns - 1 - (_BAR if bar else 0)
                click.echo(f"\r\x1b[K{bar}{shown(text, width).rstrip()}", err=True, nl=False)
        else:
            # Whatever changes what people do is said at once; a falling number now and then.
            kind = (verdict.unknown, verdict.held is not None, error)
            now = time.monotonic()
            if kind == self._kind and (text == self._said or now - self._said_at < _LINE_EVERY):
                return
            self._kind, self._said_at = kind, now
            click.echo(text, err=True)
        self._said = text

    def end(self) -> None:
        """Leave the line."""
        if self._terminal and self._said:
            click.echo("\r\x1b[K", err=True, nl=False)

    def _text(self, verdict: Verdict, error: str | None) -> str:
        if verdict.unknown is not None:
            why = _UNKNOWN[verdict.unknown]
            return f"Waiting: {why}" + (
                f" ({shown(error).rstrip('.')})" if error and verdict.unknown == "no contact" else ""
            )
        # A line of a terminal is short, and its bar says some of it.
        noun = "" if self._terminal else f" {_noun(verdict.total)}"
        parts = [f"{verdict.left:,} of {verdict.total:,}{noun} {shown(str(self._selection))}"]
        if verdict.held is None:
            pace = [] if verdict.to_go is None else [f"{span(verdict.to_go)} to go"]
            if verdict.rate is not None:
                pace.append(f"{verdict.rate:,.0f}{'/min' if self._terminal else ' go a minute'}")
            bound = [f"at most {self._bound} may be"]
            # What does not change is at the end, where a short line is cut.
            parts += pace + (bound if self._bound.value else []) if self._terminal else bound + pace
        elif self._hold:
            parts.append(f"holds for {span(verdict.held)} of {span(self._hold)}")
        return ", ".join(parts)

    def _bar(self, verdict: Verdict) -> str:
        if verdict.left is None or not self._most:
            return ""
        way = max(1, self._most - verdict.bound)
        done = min(1.0, max(0.0, (self._most - verdict.left) / way)) if verdict.held is None else 1.0
        full = round(done * (_BAR - 7))
        return paint("█" * full + "░" * (_BAR - 7 - full), sys.stderr, fg="green") + f" {done:>4.0%}  "


def _noun(count: int) -> str:
    return "connection" if count == 1 else "connections"
