"""`headcount stats`."""

import asyncio
import shutil
import sys

import click

from .output import counts_table, paint, table, write_json
from .target import Target, json_option, target_options


@click.command("stats", epilog="Exit codes: 0 done, 1 an error, 2 wrong usage.")
@target_options(stream=False)
@click.option(
    "--limit",
    default=10,
    show_default=True,
    type=click.IntRange(1),
    envvar="HEADCOUNT_LIMIT",
    help="Versions and routes to show; --json shows all.",
)
@click.option("--list", "listed", is_flag=True, envvar="HEADCOUNT_LIST", help="List the connections, too.")
@json_option
def command(target: Target, limit: int, listed: bool, as_json: bool) -> None:
    """Show the figures of a server, once."""
    from ..client import fetch_stats

    stats = asyncio.run(fetch_stats(target.url, base_path=target.base_path, **target.access))
    if as_json:
        write_json(stats.to_dict())
        return
    width = shutil.get_terminal_size().columns
    nodes = f"{stats.nodes.reporting} of {stats.nodes.expected} nodes report" if stats.nodes.expected > 1 else ""
    noun = "connection" if stats.total == 1 else "connections"
    click.echo(paint(f"{stats.total:,} {noun}", sys.stdout, bold=True) + (f"  ({nodes})" if nodes else ""))
    if stats.partial:
        words = "the share of some node is missing."
        if stats.nodes.reporting == stats.nodes.expected:  # all that this server knows of, while it cannot reach others
            words = "other nodes may be missing; the server's log says why."
        click.echo(paint(f"Partial: {words}", sys.stdout, fg="yellow"))
    if stats.versions:
        click.echo()
        click.echo("\n".join(counts_table("Versions", stats.versions, stats.total, limit, width)))
    if stats.routes:
        click.echo()
        click.echo("\n".join(counts_table("Routes", stats.routes, stats.total, limit, width)))
    if listed and stats.connections:
        rows = [[row.id, row.version, row.route, row.ip or ""] for row in stats.connections]
        click.echo()
        click.echo("\n".join(table(["Id", "Version", "Route", "Address"], rows, [0, 24, max(16, width - 72), 0])))
        if stats.connections_truncated:
            click.echo(f"… and {stats.total - len(stats.connections):,} more")
