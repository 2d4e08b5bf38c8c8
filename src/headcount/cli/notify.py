"""
`headcount notify`: send pages a message.

Tests: tests/cli/test_notify.py.
"""

import asyncio
import json
from typing import Any

import click
import msgspec

from .output import complain, span, write_json
from .target import DURATION, AskingCommand, Target, json_option, target_options


class _Message(click.ParamType[dict[str, Any]]):
    """A JSON object."""

    name = "message"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Return the object."""
        if isinstance(value, dict):
            return value
        try:
            found = json.loads(str(value))
        except ValueError as error:
            self.fail(f'{str(value)[:100]!r} is not JSON ({error}); write it as \'{{"type":"sale"}}\'.', param, ctx)
        if not isinstance(found, dict):
            self.fail(f'{str(value)[:100]!r} is not a JSON object; write it as \'{{"type":"sale"}}\'.', param, ctx)
        return found


@click.command(
    "notify",
    cls=AskingCommand,
    epilog="""
    \b
    Exit codes:
      0  the message was sent to all pages that were chosen, whether or not
         they acknowledged it
      1  error: not authorised, or a server did not answer
      2  wrong usage
      130  Ctrl-C

    \b
    Example:
      headcount notify URL --route /checkout --message '{"type":"sale"}'
    """,
)
@target_options(stream=False)
@click.option(
    "--message",
    required=True,
    type=_Message(),
    metavar="JSON",
    envvar="HEADCOUNT_MESSAGE",
    help="The message: a JSON object. The application reads it with onMessage.",
)
@click.option("--version", metavar="V", envvar="HEADCOUNT_VERSION", help="Only to pages of this version.")
@click.option("--route", metavar="PATH", envvar="HEADCOUNT_ROUTE", help="Only to pages on this route.")
@click.option(
    "--wait",
    default="5s",
    show_default=True,
    type=DURATION,
    envvar="HEADCOUNT_WAIT",
    help="Time to wait for pages to acknowledge the message, 60s at most; ends when all have.",
)
@json_option
def command(
    target: Target, message: dict[str, Any], version: str | None, route: str | None, wait: float, as_json: bool
) -> int:
    """
    Send pages a message, and count those that acknowledge it.

    A page acknowledges a message when its client has passed it on to the application. Clients of an older Headcount do
    not.
    """
    from ..client import notify

    if wait > 60:
        raise click.UsageError(f"--wait is {span(wait)}; give 60s or less.")
    found = asyncio.run(
        notify(
            target.url,
            message,
            version=version,
            route=route,
            wait=wait,
            base_path=target.base_path,
            **target.access,
        )
    )
    if as_json:
        write_json({"ok": not found.partial, **msgspec.to_builtins(found)})
    else:
        pages = "1 page" if found.sent == 1 else f"{found.sent:,} pages"
        if found.sent:
            click.echo(f"Sent to {pages}; {found.acknowledged:,} acknowledged it.")
        else:
            click.echo("Sent to no page: none is open on that version and route.")
    if found.partial:
        complain("A server did not answer, so its pages may not have the message, or are not counted.")
    return 1 if found.partial else 0
