"""
`headcount doctor`: what breaks streams between here and a server.

Tests: tests/cli/test_doctor.py.
"""

import asyncio
import shutil
import sys
from typing import TYPE_CHECKING, Final

import click

from ..tools.terminal import printable
from .output import paint, span, write_json
from .target import DURATION, AskingCommand, Target, json_option, target_options

if TYPE_CHECKING:
    from ..tools.doctor import Finding

HOLD: Final = 65.0
"""Seconds: the limits that are common, 30 and 60 s, are below it."""

_LABELS: Final = {"ok": ("ok   ", "green"), "note": ("note ", "blue"), "warning": ("warn ", "yellow")}


@click.command(
    "doctor",
    cls=AskingCommand,
    epilog="""
    \b
    Exit codes:
      0  no fault found; there may be warnings
      1  at least one fault, or an error
      2  wrong usage
    """,
)
@target_options(stream=False)
@click.option(
    "--hold",
    type=DURATION,
    envvar="HEADCOUNT_HOLD",
    help="Time for which streams are held, to find when they are cut off; 0: not at all [default: 65s].",
)
@click.option(
    "--quick",
    is_flag=True,
    envvar="HEADCOUNT_QUICK",
    help="Hold streams only until a keepalive is due; does not find limits of a minute or more.",
)
@json_option
def command(target: Target, hold: float | None, quick: bool, as_json: bool) -> int:
    """
    Find what breaks streams between here and a server.

    Opens real SSE and WebSocket streams through all proxies on the way, and reports what arrives and when. With a token
    that may see statistics, these streams are not counted.
    """
    from ..client.access import Access
    from ..tools.doctor import Report, examine
    from .progress import Progress

    base = target.base
    if hold is None and not quick:
        hold = HOLD
    if not as_json:
        click.echo(f"Examining {printable(base)}.")
    with Progress() as progress:

        def show(finding: "Finding") -> None:
            progress.clear()
            if not as_json:
                _print(finding)
                if finding.check == "reach" and finding.level == "ok" and hold != 0:
                    length = "half a minute" if hold is None else span(hold + 5)
                    click.echo(f"       The other checks take about {length}.")

        report = Report(show, progress.show)
        asyncio.run(examine(base, Access(**target.access), report, hold=hold))
    if as_json:
        write_json(
            {
                "url": base,
                "ok": report.healthy,
                "findings": [finding._asdict() for finding in report.findings],
            }
        )
    else:
        faults = sum(finding.level == "fault" for finding in report.findings)
        warnings = sum(finding.level == "warning" for finding in report.findings)
        verdict = "No fault" if not faults else "1 fault" if faults == 1 else f"{faults} faults"
        counted = "" if not warnings else ", 1 warning" if warnings == 1 else f", {warnings} warnings"
        click.echo(paint(f"{verdict}{counted}.", sys.stdout, bold=True, fg="green" if not faults else "red"))
    return 0 if report.healthy else 1


def _print(finding: "Finding") -> None:
    word, colour = _LABELS.get(finding.level, ("FAULT", "red"))
    width = max(40, min(120, shutil.get_terminal_size().columns))
    text = click.wrap_text(printable(finding.says), width, " " * 7, " " * 7).lstrip()
    click.echo(f"{paint(word, sys.stdout, fg=colour, bold=finding.level == 'fault')}  {text}")
    do = f"{finding.do} See {finding.see}.".strip() if finding.see and finding.level != "ok" else finding.do
    if do:
        click.echo(click.wrap_text(printable(do), width, " " * 7, " " * 7))
