"""
`headcount release`: declare a version current.

Tests: tests/cli/test_release.py, tests/cli/test_asking.py, tests/cli/test_wrong_answers.py.
"""

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click
import msgspec

from ..errors import name_some
from ..tools.terminal import printable
from .output import complain, write_json
from .rollout import HELD, INTERRUPTED
from .settling import wait_settled
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
            if isinstance(version, str) and not isinstance(values.get("url"), str) and _ADDRESS.search(version):
                values["version"], values["url"] = values.get("url"), version
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

    _check(version, target, unserved=unserved, when_settled=when_settled)
    waited: dict[str, Any] = {}
    if when_settled and version is not None:
        started = time.monotonic()
        result = wait_settled(target, version, timeout, lost_after)
        waited = {"waitedMs": round((time.monotonic() - started) * 1000)}
        if result.code != HELD:
            if as_json:
                failed = {"ok": False, "version": version, "exitCode": result.code, "reason": result.reason}
                write_json({**failed, **waited})
            if result.code != INTERRUPTED:
                complain(printable(result.reason))
            return result.code
    outcome = asyncio.run(release(target.url, version, unserved=unserved, base_path=target.base_path, **target.access))
    declared = outcome.version
    if as_json:
        answer: dict[str, Any] = {
            "ok": not outcome.partial,
            "version": declared,
            "told": outcome.told,
            "partial": outcome.partial,
        }
        answer |= waited
        if outcome.already_current is not None:
            answer["alreadyCurrent"] = outcome.already_current
        if outcome.unreached is not None:
            answer["unreached"] = msgspec.to_builtins(outcome.unreached)
        write_json(answer if outcome.nodes is None else {**answer, "nodes": msgspec.to_builtins(outcome.nodes)})
    elif outcome.partial:
        complain(unreached(outcome))
    else:
        nodes = 1 if outcome.nodes is None else outcome.nodes.reached
        where = f" on {nodes} nodes" if nodes > 1 else ""
        said = "was current already" if outcome.already_current else "is current"
        told = "1 page received it" if outcome.told == 1 else f"{outcome.told:,} pages received it"
        click.echo(f"{printable(declared)} {said}{where}; {told}.")
    return 1 if outcome.partial else 0


def _check(version: str | None, target: Target, *, unserved: bool, when_settled: bool) -> None:
    """Raise UsageError for arguments that contradict one another, or that stand in the wrong order."""
    if version is None:
        for name, given in (("--unserved", unserved), ("--when-settled", when_settled)):
            if given:
                raise click.UsageError(f"{name} needs the version; give it: headcount release VERSION URL {name}")
        return
    if not version.strip():
        raise click.UsageError("VERSION is empty; give the build id of the new deploy.")
    if _ADDRESS.search(version) or version.partition("/")[0] == urlsplit(target.url).netloc:
        raise click.UsageError(
            f"'{printable(version)}' is a URL, not a version. Give the version first: headcount release VERSION URL"
        )
    if unserved and when_settled:
        raise click.UsageError(
            "--unserved is for a version that no node serves, and --when-settled waits until all nodes serve it; give "
            "one of the two."
        )


def unreached(outcome: "ReleaseResult") -> str:
    """Return what a release that did not reach every node means, and what to do."""
    version, nodes = printable(outcome.version), outcome.nodes
    if nodes is None or nodes.reached >= nodes.expected:
        return (
            f"{version} is current on the node that answered, which cannot reach its backend and does not know the "
            "other nodes; see its log, and run the command again."
        )
    if outcome.unreached:
        named = [f"{printable(each.node)}{_REASONS.get(each.reason, '')}" for each in outcome.unreached]
        return (
            f"{version} is current on {nodes.reached} of {nodes.expected} nodes. Not reached: "
            f"{name_some(named, MAX_NAMED)}."
            " Run the command again when they can be reached; `headcount nodes` lists them."
        )
    return (
        f"{version} is current on {nodes.reached} of {nodes.expected} nodes; the others did not answer. Run the "
        "command again when they do."
    )
