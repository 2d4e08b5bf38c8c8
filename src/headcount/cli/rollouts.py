"""
`headcount rollout`: how fast pages came to the current version, and in earlier rollouts.

Tests: tests/cli/test_rollouts.py.
"""

import asyncio
import time

import click

from ..core.rollouts import to_dict
from ..tools import rollout_report
from ..tools.terminal import printable
from .output import span, write_json
from .target import AskingCommand, Target, json_option, target_options


@click.command("rollout", cls=AskingCommand, epilog="Exit codes: 0 done, 1 an error, 2 wrong usage.")
@target_options(stream=False)
@json_option
@click.option("--csv", "as_csv", is_flag=True, envvar="HEADCOUNT_CSV", help="Write CSV, one row for each rollout.")
def command(target: Target, as_json: bool, as_csv: bool) -> None:
    """
    Show when 50, 90 and 99 % of the connections were on a version after its release, for the last 20 releases.

    The half-life is the time in which half of the connections on other versions were gone. A time with `<` may have
    been earlier, because figures were partial before it.
    """
    from ..client import fetch_adoption
    from .tables import rows_table, write

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude one another; give one of them.")
    rollouts = asyncio.run(fetch_adoption(target.url, base_path=target.base_path, **target.access))
    if as_json:
        write_json({"rollouts": [to_dict(each) for each in rollouts]})
    elif as_csv:
        click.echo(rollout_report.to_csv(rollouts), nl=False)
    else:
        for sentence in rollout_report.sentences(rollouts, _clock, span):
            click.echo(printable(sentence))
        if rollouts:
            head = list(rollout_report.HEAD)
            click.echo()
            write(rows_table(head, [rollout_report.row(each, _clock) for each in rollouts], whole=head[1:]))


def _clock(at: int) -> str:
    """Return a time of the server in the time zone of this terminal."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at / 1000))
