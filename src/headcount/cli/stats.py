"""
`headcount stats`: the figures, once.

Tests: tests/cli/test_asking.py.
"""

import asyncio
import sys
import time

import click

from ..core.current_version import why_unknown
from ..core.rollout_gate import unaccounted_sentence
from .options import WholeNumber
from .output import connections, paint, write_json
from .target import AskingCommand, Target, json_option, target_options


@click.command("stats", cls=AskingCommand, epilog="Exit codes: 0 done, 1 an error, 2 wrong usage.")
@target_options(stream=False)
@click.option(
    "--limit",
    default=10,
    show_default=True,
    metavar="N",
    type=WholeNumber(1),
    envvar="HEADCOUNT_LIMIT",
    help="Most versions and routes to show; --json shows all.",
)
@click.option("--list", "listed", is_flag=True, envvar="HEADCOUNT_LIST", help="List the connections as well.")
@json_option
def command(target: Target, limit: int, listed: bool, as_json: bool) -> None:
    """Show the figures of a server, once."""
    from ..client import fetch_stats
    from .tables import counts_table, rows_table, write

    stats = asyncio.run(fetch_stats(target.url, base_path=target.base_path, **target.access))
    if as_json:
        write_json(stats.to_dict())
        return
    nodes = f"{stats.nodes.reporting} of {stats.nodes.expected} nodes reporting" if stats.nodes.expected > 1 else ""
    click.echo(paint(connections(stats.total), sys.stdout, bold=True) + (f"  ({nodes})" if nodes else ""))
    if stats.absences:
        sentence = unaccounted_sentence(stats.absences, time.time_ns() // 1_000_000)
        click.echo(paint(f"Partial: {sentence}.", sys.stdout, fg="yellow"))
    elif stats.partial:
        words = "the figures lack the nodes that are not reporting."
        if stats.nodes.reporting == stats.nodes.expected:  # all that this server knows of, while it cannot reach others
            words = "other nodes may be missing; see the server's log for the reason."
        click.echo(paint(f"Partial: {words}", sys.stdout, fg="yellow"))
    if stats.nodes.versions is not None and stats.current_version is None:
        reason = why_unknown(stats.nodes.versions, stats.nodes.reporting, stats.release)
        click.echo(paint(f"Current version not known: {reason}.", sys.stdout, fg="yellow"))
    for title, counts in (("Versions", stats.versions), ("Routes", stats.routes)):
        if counts:
            click.echo(f"\n{title}")
            write(counts_table(counts, stats.total, limit))
    if listed and stats.connections:
        rows = [[row.id, row.version, row.route, row.ip or ""] for row in stats.connections]
        click.echo()
        write(rows_table(["Id", "Version", "Route", "Address"], rows, whole=["Id", "Address"]))
        if stats.connections_truncated:
            click.echo(f"… and {stats.total - len(stats.connections):,} more")
