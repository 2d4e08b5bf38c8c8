"""`headcount top`."""

import asyncio
import sys

import click

from ..errors import ConfigError, Unreachable
from .output import complain
from .target import Target, target_options


@click.command(
    "top",
    epilog="""
    \b
    Keys:
      /        filter by part of an id, version, route or address; esc clears it
      v r n c  the whole screen for versions, routes, nodes or the list of
               connections, and back
      space    hold the picture still
      q        quit

    \b
    Exit codes: 0 you quit, 1 an error, 2 wrong usage, 130 Ctrl-C.
    """,
)
@target_options(stream=True)
def command(target: Target) -> int:
    """Watch the figures of a server in the terminal. It survives restarts of the server."""
    from ..client import fetch_nodes, fetch_stats, use_active_connections

    try:
        from ..tools.top import Top
    except ImportError:
        raise ConfigError("`headcount top` needs textual; run: pip install 'headcount[tui]'") from None
    if not sys.stdout.isatty() or not sys.stdin.isatty():
        raise ConfigError("`headcount top` needs a terminal; use `headcount stats` to read the figures once.")
    try:
        # A wrong address or token is told here; a server that is not there yet may come.
        asyncio.run(fetch_stats(target.url, base_path=target.base_path, **target.access))
    except Unreachable as error:
        click.echo(f"{error} Waiting for it.", err=True)
    live = use_active_connections(
        target.url, update_strategy=target.update_strategy, base_path=target.base_path, **target.access
    )
    app = Top(live, lambda: fetch_nodes(target.url, base_path=target.base_path, **target.access))
    ended = app.run()
    if ended is not None:
        complain(ended)
        return 1
    return app.return_code or 0
