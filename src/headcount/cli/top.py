"""
`headcount top`: the figures in the terminal, live.

Tests: tests/cli/test_top.py.
"""

import asyncio
import sys

import click

from ..errors import ConfigError, Unreachable
from .output import complain
from .target import AskingCommand, Target, target_options


@click.command(
    "top",
    cls=AskingCommand,
    epilog="""
    \b
    Keys:
      /        filter by a part of an id, version, route or address; enter
               ends the input, esc clears the filter
      v r n c  versions, routes, nodes or connections on the whole screen;
               the same key again shows all
      space    pause and resume
      q        quit

    \b
    Exit codes: 0 quit, 1 error, 2 wrong usage, 130 Ctrl-C.
    """,
)
@target_options(stream=True)
def command(target: Target) -> int:
    """Watch the figures of a server in the terminal. Reconnects when the server restarts."""
    from ..client import fetch_nodes, fetch_stats, use_active_connections

    try:
        from ..tools.top import Top
    except ImportError:
        raise ConfigError("`headcount top` needs textual; run: pip install 'headcount[tui]'") from None
    if not sys.stdout.isatty() or not sys.stdin.isatty():
        raise ConfigError("`headcount top` needs a terminal; use `headcount stats` to print the figures once.")
    try:
        # A wrong URL or token ends the command now; a server that is down may still start.
        asyncio.run(fetch_stats(target.url, base_path=target.base_path, **target.access))
    except Unreachable as error:
        click.echo(f"{error} Waiting for the server.", err=True)
    live = use_active_connections(
        target.url, update_strategy=target.update_strategy, base_path=target.base_path, **target.access
    )
    app = Top(live, lambda: fetch_nodes(target.url, base_path=target.base_path, **target.access))
    ended = app.run()
    if ended is not None:
        complain(ended)
        return 1
    return app.return_code or 0
