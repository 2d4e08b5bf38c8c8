"""`headcount release`."""

import asyncio

import click

from .output import shown, write_json
from .target import Target, json_option, target_options


@click.command("release", epilog="Exit codes: 0 done, 1 an error, 2 wrong usage.")
@click.argument("version")
@target_options(stream=False)
@json_option
def command(version: str, target: Target, as_json: bool) -> None:
    """
    Declare a version current; every open page is told.

    From then on `headcount wait --outdated` and the metrics compare with it.
    """
    from ..client import release

    if not version.strip():
        raise click.UsageError("The version is empty; give the build id that is current now.")
    if "://" in version or version.startswith("localhost:"):
        raise click.UsageError(f"{shown(version)} is a URL; the version comes first: headcount release VERSION URL")
    asyncio.run(release(target.url, version, base_path=target.base_path, **target.access))
    if as_json:
        write_json({"ok": True, "version": version})
    else:
        click.echo(f"{shown(version)} is current.")
