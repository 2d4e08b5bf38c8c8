"""
`headcount release`: declare a version current.

Tests: tests/cli/test_asking.py.
"""

import asyncio

import click

from ..tools.terminal import printable
from .output import write_json
from .target import Target, json_option, target_options


@click.command("release", epilog="Exit codes: 0 done, 1 an error, 2 wrong usage.")
@click.argument("version")
@target_options(stream=False)
@json_option
def command(version: str, target: Target, as_json: bool) -> None:
    """
    Declare a version current and notify every open page.

    Pages on any other version are outdated from then on, for `headcount wait --outdated` and for the metrics.
    """
    from ..client import release

    if not version.strip():
        raise click.UsageError("VERSION is empty; give the build id of the new deploy.")
    if "://" in version or version.startswith("localhost:"):
        raise click.UsageError(
            f"{printable(version)} is a URL, not a version; the version comes first: headcount release VERSION URL"
        )
    asyncio.run(release(target.url, version, base_path=target.base_path, **target.access))
    if as_json:
        write_json({"ok": True, "version": version})
    else:
        click.echo(f"{printable(version)} is current.")
