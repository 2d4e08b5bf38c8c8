"""
`headcount release`: declare a version current.

Tests: tests/cli/test_release.py, tests/cli/test_asking.py, tests/cli/test_wrong_answers.py.
"""

import asyncio
import os
import re
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click
import msgspec
from click.core import ParameterSource

from ..core.labels import parse_build_id
from ..errors import HeadcountError, Malformed, NotAuthorized, name_some
from ..tools.release_gate import HOLD
from ..tools.terminal import printable
from .options import Number
from .output import complain, span, write_json
from .release_wait import wait_settled
from .rollout import ERROR, HELD, INTERRUPTED
from .stage_progress import follow_stage
from .target import DURATION, AskingCommand, Target, json_option, lost_after_option, target_options, timeout_option

if TYPE_CHECKING:
    from ..client import ReleaseResult
    from ..node.releases import StageChange

_ADDRESS: Final = re.compile(r"://|^(localhost|\d+(\.\d+){3}|\[[\da-f:]+\]):\d+(/|$)", re.IGNORECASE)
"""What is an address of a server, given where the version is expected."""


MAX_NAMED: Final = 5
"""Nodes that the error names; with --json, all are named."""

_CHANGES: Final = {"pause": "Paused", "resume": "Resumed", "abort": "Aborted"}

_REASONS: Final = {
    "silent": " (did not answer)",
    "refused": " (its clock is more than a day behind)",
    "stranger": " (has another secret)",
    "disconnected": " (the store between the nodes cannot be reached)",
}


class _ReleaseCommand(AskingCommand):
    """
    Takes a single argument that is an address for the URL. Every other one is the version, also `www.example.com`: a
    version may look so.
    """

    def make_parser(self, ctx: click.Context) -> Any:
        parser: Any = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            values, rest, order = parse(args)
            version = values.get("version")
            if isinstance(version, str) and not isinstance(values.get("url"), str):
                if _ADDRESS.search(version):
                    values["version"], values["url"] = values.get("url"), version
                elif not os.environ.get("HEADCOUNT_URL"):
                    raise click.UsageError(
                        f"'{printable(version)}' was read as VERSION, so URL is missing; give URL after it, or set "
                        f"HEADCOUNT_URL. If {printable(version)} is the URL, write https://{printable(version)}.",
                        ctx,
                    )
            return values, rest, order

        parser.parse_args = parse_args
        return parser


@click.command(
    "release",
    cls=_ReleaseCommand,
    epilog="""
    \b
    Exit codes:
      0  every node declared it
      1  error: not authorised, no node serves VERSION, the fleet has not
         settled, or a node was not reached
      2  wrong usage
      3  with --when-settled, timed out: a node does not serve VERSION yet;
         in stages, aborted or replaced by another release
      4  lost contact for --lost-after, or, with --when-settled, when
         --timeout ended
      130  Ctrl-C; a release in stages goes on

    \b
    Examples:
      headcount release v2 URL --over 10m
      headcount release v2 URL --percent 10 --route /checkout
      headcount release URL --pause
    """,
)
@click.argument("version", required=False, metavar="[VERSION]")
@target_options(stream=False)
@click.option(
    "--unserved",
    is_flag=True,
    envvar="HEADCOUNT_UNSERVED",
    help="Declare a version that no node serves: another server delivers the front end.",
)
@click.option(
    "--when-settled",
    is_flag=True,
    envvar="HEADCOUNT_WHEN_SETTLED",
    help="Wait until every live node serves VERSION, then declare it.",
)
@click.option(
    "--over",
    type=DURATION,
    envvar="HEADCOUNT_OVER",
    help="Ask pages in stages: the first outdated page at once, the last after this time.",
)
@click.option(
    "--percent",
    type=Number(0, 100, min_open=True),
    metavar="N",
    envvar="HEADCOUNT_PERCENT",
    help="Ask only so many of the outdated pages.",
)
@click.option("--route", metavar="PATH", envvar="HEADCOUNT_ROUTE", help="Ask only pages on this route.")
@click.option(
    "--detach", is_flag=True, envvar="HEADCOUNT_DETACH", help="Do not follow the stages: end when they have begun."
)
@click.option("--pause", is_flag=True, envvar="HEADCOUNT_PAUSE", help="Pause the staged release that is current.")
@click.option("--resume", is_flag=True, envvar="HEADCOUNT_RESUME", help="Resume it.")
@click.option("--abort", is_flag=True, envvar="HEADCOUNT_ABORT", help="Ask no further page. The version stays current.")
@timeout_option("Longest time for --when-settled to wait; 0: no limit.")
@lost_after_option("Longest time without contact to the server while the command waits; 0: no limit.")
@json_option
def command(
    version: str | None,
    target: Target,
    unserved: bool,
    when_settled: bool,
    over: float | None,
    percent: float | None,
    route: str | None,
    detach: bool,
    pause: bool,
    resume: bool,
    abort: bool,
    timeout: float,
    lost_after: float,
    as_json: bool,
) -> int:
    """
    Declare a version current and notify every open page.

    Pages on any other version are outdated from then on, for `headcount wait --outdated` and for the metrics. To roll
    back, declare the older version.

    Without VERSION, it is the version that the fleet has settled on: the one that all live nodes have served for the
    server's settle_time. A single argument is the URL if it begins with http:// or https://, or is localhost or an
    IP address with a port; else it is VERSION, and HEADCOUNT_URL holds the URL.

    With --over, --percent or --route, outdated pages are asked in stages, and the command shows how far it is. VERSION
    is current at once all the same, so all other pages are outdated. --percent 10, and later --percent 100 --over 10m,
    goes on from where it was.
    """
    from ..client import change_stage, release

    change = _change(pause=pause, resume=resume, abort=abort)
    is_staged = (over, percent, route) != (None, None, None)
    _check(version, target, unserved=unserved, when_settled=when_settled, timeout=timeout)
    _check_stage(version, change, is_staged=is_staged, detach=detach, when_settled=when_settled)
    waited: dict[str, Any] = {}
    if when_settled and version is not None:
        started = time.monotonic()
        ended = wait_settled(target, version, timeout, lost_after)
        waited = {"waitedMs": round((time.monotonic() - started) * 1000)}
        if ended.code != HELD:
            if as_json:
                write_json({**_failed(version, ended.code, ended.reason), **waited})
            complain("Nothing was declared." if ended.code == INTERRUPTED else printable(ended.reason))
            return ended.code
    try:
        if change is not None:
            declaring = change_stage(target.url, change, base_path=target.base_path, **target.access)
        else:
            declaring = release(
                target.url,
                version,
                unserved=unserved,
                over=over,
                percent=percent,
                route=route,
                base_path=target.base_path,
                **target.access,
            )
        result = asyncio.run(declaring)
    except HeadcountError as error:
        if as_json:
            reason = target.denied(error) if isinstance(error, NotAuthorized) else str(error)
            write_json({**_failed(version, ERROR, reason), **waited})
        raise
    if is_staged and not detach:
        return _follow(target, result, lost_after, waited, as_json=as_json)
    if as_json:
        write_json(_document(result) | waited)
    elif result.partial:
        complain(unreached(result))
    elif change is not None:
        click.echo(f"{_CHANGES[change]} the staged release of {printable(result.version)}.")
    elif is_staged:
        click.echo(f"{printable(result.version)} is current, and pages are asked in stages.")
    else:
        nodes = 1 if result.nodes is None else result.nodes.reached
        where = f" on {nodes} nodes" if nodes > 1 else ""
        verb = "was current already" if result.already_current else "is current"
        pages = "1 page" if result.told == 1 else f"{result.told:,} pages"
        received = f"{pages} received it"
        if result.already_current and not result.told:
            received = "no page had to receive it"
        click.echo(f"{printable(result.version)} {verb}{where}; {received}.")
    return 1 if result.partial else 0


def _follow(
    target: Target, result: "ReleaseResult", lost_after: float, waited: dict[str, Any], *, as_json: bool
) -> int:
    """Follow the stages. Returns the exit code."""
    if result.partial:
        complain(unreached(result))
    ended, rollout = follow_stage(target, result.version, lost_after)
    ok = ended.code == HELD and not result.partial
    code = ended.code if ok or ended.code != HELD else ERROR
    if as_json:
        document = _document(result) | waited | {"ok": ok, "exitCode": code, "reason": ended.reason}
        write_json(document | {"rollout": None if rollout is None else msgspec.to_builtins(rollout)})
    elif ended.code == HELD:
        click.echo(f"{printable(result.version)}: {ended.reason}")
    elif ended.code == INTERRUPTED:
        complain(f"{ended.reason}; `headcount release URL --pause` pauses it.")
    else:
        complain(printable(ended.reason))
    return code


def _failed(version: str | None, code: int, reason: str) -> dict[str, Any]:
    return {"ok": False, "version": version, "exitCode": code, "reason": reason}


def _document(result: "ReleaseResult") -> dict[str, Any]:
    """Return what --json writes of a release that was declared."""
    document: dict[str, Any] = {
        "ok": not result.partial,
        "version": result.version,
        "told": result.told,
        "partial": result.partial,
    }
    if result.already_current is not None:
        document["alreadyCurrent"] = result.already_current
    if result.unreached is not None:
        document["unreached"] = msgspec.to_builtins(result.unreached)
    if result.nodes is not None:
        document["nodes"] = msgspec.to_builtins(result.nodes)
    return document


def _check(version: str | None, target: Target, *, unserved: bool, when_settled: bool, timeout: float) -> None:
    """Raise UsageError for arguments that contradict one another, or that stand in the wrong order."""
    if not when_settled:
        context = click.get_current_context()
        is_staged = any(context.params.get(name) is not None for name in ("over", "percent", "route"))
        for name, option in (("timeout", "--timeout"), ("lost_after", "--lost-after")):
            if name == "lost_after" and is_staged:
                continue
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"{option} limits the wait of --when-settled; give both, or neither.")
    if version is None:
        for option, given in (("--unserved", unserved), ("--when-settled", when_settled)):
            if given:
                raise click.UsageError(f"{option} needs the version; give it: headcount release VERSION URL {option}")
        return
    if not version.strip():
        raise click.UsageError("VERSION is empty; give the build id of the new deploy.")
    if _ADDRESS.search(version) or version.partition("/")[0] == urlsplit(target.url).netloc:
        raise click.UsageError(
            f"'{printable(version)}' is a URL, not a version. Give the version first: headcount release VERSION URL"
        )
    try:
        parse_build_id(version)
    except Malformed as error:
        raise click.UsageError(f"VERSION is not a build id. {error}") from None
    if unserved and when_settled:
        raise click.UsageError(
            "--unserved is for a version that no node serves, and --when-settled waits until all nodes serve it; give "
            "one of the two."
        )
    if when_settled and 0 < timeout <= HOLD:
        raise click.UsageError(
            f"--timeout is {span(timeout)}, but --when-settled needs longer than {HOLD:g} s: all nodes must serve "
            "VERSION for that long. Give more; 0 is no limit."
        )


def _change(*, pause: bool, resume: bool, abort: bool) -> "StageChange | None":
    """Return how the stage is to be changed. UsageError: in two ways at once."""
    given: list[StageChange] = []
    if pause:
        given.append("pause")
    if resume:
        given.append("resume")
    if abort:
        given.append("abort")
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(f'--{each}' for each in given)} exclude one another; give one.")
    return given[0] if given else None


def _check_stage(
    version: str | None, change: "StageChange | None", *, is_staged: bool, detach: bool, when_settled: bool
) -> None:
    """Raise UsageError for options of a staged release that contradict one another."""
    if change is not None and (version is not None or is_staged or when_settled):
        raise click.UsageError(
            f"--{change} changes the staged release that is current, and goes with no other option: headcount release "
            f"URL --{change}"
        )
    if detach and not is_staged:
        raise click.UsageError("--detach ends the command before the stages of --over, --percent or --route; give one.")


def unreached(result: "ReleaseResult") -> str:
    """Return what a release that did not reach every node means, and what to do."""
    version, nodes = printable(result.version), result.nodes
    if nodes is None or nodes.reached >= nodes.expected:
        return (
            f"{version} is current on the node that answered, which cannot reach its backend and does not know the "
            "other nodes; see its log, and run the command again."
        )
    if result.unreached:
        named = [f"{printable(each.node)}{_REASONS.get(each.reason, '')}" for each in result.unreached]
        return (
            f"{version} is current on {nodes.reached} of {nodes.expected} nodes. Not reached: "
            f"{name_some(named, MAX_NAMED)}."
            " Run the command again when they can be reached; `headcount nodes` lists them."
        )
    return (
        f"{version} is current on {nodes.reached} of {nodes.expected} nodes; the others did not answer. Run the "
        "command again when they do."
    )
