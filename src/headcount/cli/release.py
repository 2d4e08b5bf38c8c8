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
from .output import complain, span, write_json
from .release_wait import wait_settled
from .rollout import ERROR, HELD, INTERRUPTED
from .target import AskingCommand, Target, json_option, lost_after_option, target_options, timeout_option

if TYPE_CHECKING:
    from ..client import ReleaseResult

_ADDRESS: Final = re.compile(r"://|^(localhost|\d+(\.\d+){3}|\[[\da-f:]+\]):\d+(/|$)", re.IGNORECASE)
"""What is an address of a server, given where the version is expected."""


MAX_NAMED: Final = 5
"""Nodes that the error names; with --json, all are named."""

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
                        f"'{printable(version)}' counts as VERSION, and URL is missing. Give URL after VERSION, or set "
                        f"HEADCOUNT_URL. If it is the URL, write it with its scheme: https://{printable(version)}",
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
      3  with --when-settled, timed out: a node does not serve VERSION yet
      4  with --when-settled, lost contact for --lost-after, or when --timeout
         ended
      130  Ctrl-C
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
@timeout_option("Longest time for --when-settled to wait; 0: no limit.")
@lost_after_option("Longest time without contact to the server for --when-settled; 0: no limit.")
@json_option
def command(
    version: str | None,
    target: Target,
    unserved: bool,
    when_settled: bool,
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
    """
    from ..client import release

    _check(version, target, unserved=unserved, when_settled=when_settled, timeout=timeout)
    waited: dict[str, Any] = {}
    if when_settled and version is not None:
        started = time.monotonic()
        ended = wait_settled(target, version, timeout, lost_after)
        waited = {"waitedMs": round((time.monotonic() - started) * 1000)}
        if ended.code != HELD:
            if as_json:
                write_json({**_failed(version, ended.code, ended.reason), **waited})
            if ended.code != INTERRUPTED:
                complain(printable(ended.reason))
            return ended.code
    try:
        result = asyncio.run(
            release(target.url, version, unserved=unserved, base_path=target.base_path, **target.access)
        )
    except HeadcountError as error:
        if as_json:
            reason = target.denied(error) if isinstance(error, NotAuthorized) else str(error)
            write_json({**_failed(version, ERROR, reason), **waited})
        raise
    if as_json:
        write_json(_document(result) | waited)
    elif result.partial:
        complain(unreached(result))
    else:
        nodes = 1 if result.nodes is None else result.nodes.reached
        where = f" on {nodes} nodes" if nodes > 1 else ""
        verb = "was current already" if result.already_current else "is current"
        pages = "1 page" if result.told == 1 else f"{result.told:,} pages"
        click.echo(f"{printable(result.version)} {verb}{where}; {pages} received it.")
    return 1 if result.partial else 0


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
        for name, option in (("timeout", "--timeout"), ("lost_after", "--lost-after")):
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
