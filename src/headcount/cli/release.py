"""
`headcount release`: declare a version current.

Tests: tests/cli/test_asking.py, tests/cli/test_wrong_answers.py.
"""

import asyncio
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click
import msgspec

from ..tools.terminal import printable
from .output import complain, write_json
from .target import Target, json_option, target_options

if TYPE_CHECKING:
    from ..client import ReleaseResult

_ADDRESS: Final = re.compile(r"://|^(localhost|\d+(\.\d+){3}|\[[\da-f:]+\]):\d+(/|$)", re.IGNORECASE)
"""What is an address of a server, given where the version is expected."""


@click.command(
    "release", epilog="Exit codes: 0 every node declared it, 1 an error or a node was not reached, 2 wrong usage."
)
@click.argument("version")
@target_options(stream=False)
@json_option
def command(version: str, target: Target, as_json: bool) -> int:
    """
    Declare a version current and notify every open page.

    Pages on any other version are outdated from then on, for `headcount wait --outdated` and for the metrics.
    """
    from ..client import release

    if not version.strip():
        raise click.UsageError("VERSION is empty; give the build id of the new deploy.")
    if _ADDRESS.search(version) or version.partition("/")[0] == urlsplit(target.url).netloc:
        raise click.UsageError(
            f"'{printable(version)}' is a URL, not a version. Give the version first: headcount release VERSION URL"
        )
    outcome = asyncio.run(release(target.url, version, base_path=target.base_path, **target.access))
    if as_json:
        answer = {"ok": not outcome.partial, "version": version, "told": outcome.told, "partial": outcome.partial}
        if outcome.already_current is not None:
            answer["alreadyCurrent"] = outcome.already_current
        write_json(answer if outcome.nodes is None else {**answer, "nodes": msgspec.to_builtins(outcome.nodes)})
    elif outcome.partial:
        complain(unreached(outcome))
    else:
        nodes = 1 if outcome.nodes is None else outcome.nodes.reached
        where = f" on {nodes} nodes" if nodes > 1 else ""
        said = "was current already" if outcome.already_current else "is current"
        click.echo(f"{printable(version)} {said}{where}.")
    return 1 if outcome.partial else 0


def unreached(outcome: "ReleaseResult") -> str:
    """Return what a release that did not reach every node means, and what to do."""
    version, nodes = printable(outcome.version), outcome.nodes
    if nodes is None or nodes.reached >= nodes.expected:
        return (
            f"{version} is current on the node that answered, which cannot reach its backend and does not know the "
            "other nodes; see its log, and run the command again."
        )
    return (
        f"{version} is current on {nodes.reached} of {nodes.expected} nodes; the others did not answer. Run the "
        "command again when they do."
    )
