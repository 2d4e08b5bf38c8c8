"""
`headcount nodes`: the nodes of a fleet, and `headcount nodes forget`: declare one gone.

Tests: tests/cli/test_nodes.py.
"""

import asyncio
import sys
import time
from collections.abc import Collection
from typing import Any

import click
import msgspec

from ..core.identity import is_node_id
from ..core.labels import UNKNOWN
from ..core.stats import Absence, NodeShare
from ..tools.terminal import printable
from .options import Commands
from .output import paint, span, write_json
from .target import AskingCommand, Target, json_option, target_options


class _Nodes(Commands):
    """Lists the nodes unless the first word is a command, or a misspelt one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in ctx.help_option_names and not self._is_command(ctx, args)):
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write both usages: the group's own would show neither the URL nor that there are options."""
        formatter.write_usage(ctx.command_path, "[URL] [OPTIONS]")
        formatter.write_usage(ctx.command_path, "forget NODE [URL] [OPTIONS]")

    def _is_command(self, ctx: click.Context, args: list[str]) -> bool:
        """Return whether the first word is meant as a command. A host is written so only without a dot and a port."""
        word, *others = args
        if word in self.commands:
            return True
        if word.startswith("-") or word == "localhost" or not word.replace("-", "").isalpha():
            return False
        # `list` takes one argument, a URL.
        return self.resembling(ctx, word) is not None or bool(others and not others[0].startswith("-"))


@click.group(
    "nodes",
    cls=_Nodes,
    epilog="""
    Options: `headcount nodes list --help`, `headcount nodes forget --help`.
    """,
    context_settings={"help_option_names": ["-h", "--help"]},
)
def command() -> None:
    """
    List the nodes of a fleet: headcount nodes URL.

    Connections of a node that fell silent are unaccounted for until they come back or the grace is over. A node that is
    stopped or cut off keeps its pages, so its connections stay unaccounted for until the node comes back, or until
    `headcount nodes forget NODE URL` declares it gone.
    """


@command.command("list", cls=AskingCommand, epilog="Exit codes: 0 done, 1 an error, 2 wrong usage.")
@target_options(stream=False)
@json_option
def list_nodes(target: Target, as_json: bool) -> None:
    """Show what each node serves and reports, and which nodes have unaccounted connections."""
    from ..client import fetch_fleet
    from .tables import rows_table, write

    fleet = asyncio.run(fetch_fleet(target.url, base_path=target.base_path, **target.access))
    if as_json:
        write_json(
            {
                "nodes": [msgspec.structs.asdict(share) for share in fleet.shares],
                "absences": [absence.to_dict() for absence in fleet.absences],
                "strangers": list(fleet.strangers),
            }
        )
        return
    rows = [
        [share.node, share.version or UNKNOWN, f"{share.total:,}", _state(share, fleet.strangers)]
        for share in fleet.shares
    ]
    write(rows_table(["Node", "Serves", "Connections", "State"], rows, whole=["Node", "Connections"]))
    if not fleet.absences:
        return
    click.echo(f"\n{paint('Unaccounted for', sys.stdout, fg='yellow')}")
    now = time.time_ns() // 1_000_000
    rows = [
        [
            absence.node,
            "unknown" if absence.total is None else f"{absence.total:,}",
            f"{_STATES[absence.state]}, last heard from {span(max(0, now - absence.since) / 1000)} ago",
            ", ".join(f"{version}: {count:,}" for version, count in absence.versions.items()),
        ]
        for absence in fleet.absences
    ]
    write(rows_table(["Node", "Connections", "State", "Versions"], rows, whole=["Node", "Connections", "State"]))


@command.command("forget", cls=AskingCommand, epilog="Exit codes: 0 done, 1 an error, 2 wrong usage.")
@click.argument("node")
@target_options(stream=False)
@json_option
def forget(node: str, target: Target, as_json: bool) -> None:
    """
    Declare NODE gone for good, so that its connections no longer count as unaccounted for.

    NODE is the id that `headcount nodes URL` lists, or its beginning. Pages that are still open on that node are then
    counted nowhere, and `headcount wait` does not wait for them.
    """
    from ..client import fetch_fleet, forget_node

    if not is_node_id(node):
        raise click.UsageError(
            f"'{printable(node)}' is not a node id. Give the id first: headcount nodes forget NODE URL"
        )

    async def run() -> Absence:
        options: Any = {"base_path": target.base_path, **target.access}
        fleet = await fetch_fleet(target.url, **options)
        found = [absence for absence in fleet.absences if absence.node.startswith(node)]
        if len(found) != 1:
            ids = ", ".join(absence.node for absence in (found or fleet.absences)) or "none"
            if found:
                raise click.ClickException(f"The id {node} fits several nodes: {ids}. Give more of it.")
            raise click.ClickException(f"Node {node} has no unaccounted connections. Absent nodes: {ids}.")
        await forget_node(target.url, found[0].node, **options)
        return found[0]

    gone = asyncio.run(run())
    if as_json:
        write_json({"ok": True, "node": gone.node, "total": gone.total})
    else:
        click.echo(f"Node {gone.node} counts as gone now. {_accounted(gone.total)} as unaccounted for.")


def _state(share: NodeShare, strangers: Collection[str]) -> str:
    if share.node in strangers:
        return "another secret, not counted"
    return "reporting" if share.reporting else f"silent for {span(share.silent)}"


def _accounted(total: int | None) -> str:
    if total is None:
        return "Its connections no longer count"
    return "1 connection no longer counts" if total == 1 else f"{total:,} connections no longer count"


_STATES = {
    "vanished": "silent",
    "cut-off": "stopped or cut off",
    "leaving": "stopped properly",
    "unanswered": "pages do not answer",
}
