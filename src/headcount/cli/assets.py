"""
`headcount assets`: which builds of the front end may be deleted, and their deletion.

Tests: tests/cli/test_assets.py.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import click

from ..build_directory import BuildDirectory
from ..core.kept_builds import Build, KeepRule, Stay
from ..core.stats import Stats
from ..errors import ConfigError, HeadcountError
from ..tools.asset_plan import MAX_LINES, AssetPlan, Decision, parse_builds
from ..tools.terminal import printable
from .options import Commands, WholeNumber
from .output import complain, span, write_json
from .target import DURATION, AskingCommand, Target, json_option, target_options

F = TypeVar("F", bound=Callable[..., Any])

_EXIT_CODES: Final = """
    \b
    Exit codes:
      0  done, whether or not a build may go
      1  error: not authorised, no Headcount at the URL, a build could not be
         deleted, or the figures cannot decide about any build
      2  wrong usage
      130  Ctrl-C
    """

_MAX_LINE: Final = 1_024


class _Line(NamedTuple):
    """What was decided about a build, and what became of one that may go."""

    decision: Decision
    outcome: str

    def state(self, undecided: str | None) -> str:
        """Return how a table puts it. `undecided`: what stands below the table, once."""
        stay = self.decision.stay
        if stay is None:
            return self.outcome
        return "stays" if stay.detail == undecided else f"stays: {stay.detail}"


@click.group("assets", cls=Commands)
def command() -> None:
    """Find builds of the front end that no open page runs, and delete them."""


def _rule_options(function: F) -> F:
    keep = click.option(
        "--keep",
        type=WholeNumber(1),
        default=3,
        show_default=True,
        metavar="N",
        envvar="HEADCOUNT_KEEP",
        help="Number of newest builds that stay.",
    )
    min_age = click.option(
        "--min-age",
        type=DURATION,
        default="1h",
        show_default=True,
        envvar="HEADCOUNT_MIN_AGE",
        help="Time for which a build stays after a newer one was deployed.",
    )
    return keep(min_age(function))


@command.command("list", cls=AskingCommand, epilog=_EXIT_CODES)
@click.argument("directory", metavar="DIR")
@target_options(stream=False, url_option=True)
@_rule_options
@json_option
def list_builds(directory: str, target: Target, keep: int, min_age: float, as_json: bool) -> int:
    """
    Show which builds may be deleted, and why the others stay.

    DIR holds one directory for each build, named after its build id. With '-', the builds are read from the standard
    input instead, for files in a store such as S3: one a line, the build id, a tab, and the time of its deployment.
    """
    if directory == "-":
        try:
            # One line more than is allowed, so that its excess is noticed.
            read = iter(lambda: sys.stdin.readline(_MAX_LINE), "")
            builds = parse_builds(list(itertools.islice(read, MAX_LINES + 1)))  # one too many is an error
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    else:
        builds = _builds_in(_directory(directory))
    plan = _plan(builds, KeepRule(keep, min_age), target)
    _report(plan, [_Line(decision, "may go") for decision in plan.decide()], target, as_json=as_json)
    return _end(plan)


@command.command("prune", cls=AskingCommand, epilog=_EXIT_CODES)
@click.argument("directory", metavar="DIR")
@target_options(stream=False, url_option=True)
@_rule_options
@click.option("--dry-run", is_flag=True, envvar="HEADCOUNT_DRY_RUN", help="Delete nothing; show what would be deleted.")
@json_option
def prune(directory: str, target: Target, keep: int, min_age: float, dry_run: bool, as_json: bool) -> int:
    """
    Delete the builds in DIR that no open page runs any more.

    DIR holds one directory for each build, named after its build id. A build stays while the figures leave any doubt:
    while they are partial, while a page of it is away, or while a page is open that does not say its version. It also
    stays while a node serves it, while it is current or among the newest --keep, and for --min-age after a newer build
    was deployed. Pages that are asleep are not counted; --min-age is for those.
    """
    builds = _directory(directory)
    plan = _plan(_builds_in(builds), KeepRule(keep, min_age), target)
    decisions = plan.decide()
    lines = [_Line(decision, "would be deleted" if dry_run else "may go") for decision in decisions]
    errors: list[str] = []
    interrupted = False
    try:
        for number, decision in enumerate(decisions if not dry_run else ()):
            if decision.stay is None:
                lines[number] = _Line(decision, "not deleted whole; run this again")
                lines[number] = _delete(builds, plan, decision, errors)
        if not dry_run and plan.undecided is None:
            builds.delete_leftovers()
    except KeyboardInterrupt:
        interrupted = True
    except OSError as error:
        errors.append(
            f"What is left of a deleted build remains: {error.strerror}. Check the permissions, and run this again."
        )
    _report(plan, lines, target, as_json=as_json, dry_run=dry_run)
    for sentence in errors:
        complain(printable(sentence))
    return 130 if interrupted else (1 if errors else _end(plan))


def _delete(builds: BuildDirectory, plan: AssetPlan, decision: Decision, errors: list[str]) -> _Line:
    """Delete a build if figures of this moment allow it."""
    try:
        decision = plan.confirm(decision.build)
        if decision.stay is not None:
            return _Line(decision, "")
        if builds.delete(decision.build):
            return _Line(decision, "deleted")
        changed = Stay("undecided", "it has changed or was deleted meanwhile")
        return _Line(decision._replace(stay=changed), "")
    except HeadcountError as error:
        errors.append(str(error))
        return _Line(Decision(decision.build, Stay("undecided", "there are no figures any more"), None), "")
    except OSError as error:
        name = decision.build.id
        errors.append(
            f"Build {name} was not deleted whole: {error.strerror}. Check the permissions, and run this again."
        )
        return _Line(decision, "not deleted whole; run this again")


def _directory(directory: str) -> BuildDirectory:
    try:
        return BuildDirectory(directory)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def _builds_in(directory: BuildDirectory) -> list[Build]:
    try:
        return directory.builds()
    except OSError as error:
        raise click.ClickException(
            f"Cannot read {printable(str(directory.path))}: {error.strerror}. Check its permissions."
        ) from None


def _plan(builds: Sequence[Build], rule: KeepRule, target: Target) -> AssetPlan:
    from ..client import fetch_stats

    def fetch(version: str | None) -> Stats:
        return asyncio.run(fetch_stats(target.url, base_path=target.base_path, version=version, **target.access))

    return AssetPlan(builds, rule, fetch, time.time)


def _end(plan: AssetPlan) -> int:
    """Return the exit code, after a sentence if no build could be decided about."""
    if plan.undecided is None:
        return 0
    complain(printable(f"No build may go now: {plan.undecided}."))
    return 1


def _report(
    plan: AssetPlan, lines: Sequence[_Line], target: Target, *, as_json: bool, dry_run: bool | None = None
) -> None:
    if as_json:
        write_json(
            {
                "url": target.base,
                "currentVersion": plan.current,
                "undecided": plan.undecided,
                **({} if dry_run is None else {"dryRun": dry_run}),
                "builds": [_as_json(line, deletes=dry_run is not None) for line in lines],
            }
        )
        return
    if not lines:
        click.echo("There are no builds.")
        return
    now = time.time()
    rows = [("Build", "Deployed", "Open pages", "State")]
    for line in lines:
        build, _, pages = line.decision
        age = "unknown" if build.deployed is None else f"{span(now - build.deployed)} ago"
        rows.append(
            (
                printable(build.id),
                age,
                "unknown" if pages is None else f"{pages:,}",
                printable(line.state(plan.undecided)),
            )
        )
    _write_aligned(rows)


def _write_aligned(rows: Sequence[Sequence[str]]) -> None:
    """Write a table with nothing cut off, however narrow the terminal is: build ids and reasons must be whole."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def _as_json(line: _Line, *, deletes: bool) -> dict[str, Any]:
    build, stay, pages = line.decision
    return {
        "build": build.id,
        "mayGo": stay is None,
        "reason": None if stay is None else stay.why,
        "detail": None if stay is None else stay.detail,
        "openPages": pages,
        "deployed": None if build.deployed is None else round(build.deployed * 1000),
        **({"deleted": line.outcome == "deleted"} if deletes else {}),
    }
