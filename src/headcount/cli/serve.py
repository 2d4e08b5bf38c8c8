"""`headcount serve`."""

from typing import Any

import click

from ..errors import ConfigError


def _listed(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip()) or None


@click.command(
    "serve",
    epilog="""
    Limits and intervals are set in the environment, such as HEADCOUNT_MAX_CONNECTIONS or HEADCOUNT_STATS_INTERVAL;
    docs/settings.md lists them all.

    \b
    Example:
      headcount serve --version 2026.11.3 --route-tracking --admin-token "$TOKEN" \\
                      --allowed-origins https://www.example.com
    """,
)
@click.option("--host", default="127.0.0.1", show_default=True, envvar="HEADCOUNT_HOST", help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    envvar="HEADCOUNT_PORT",
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--version", help="Build id of the current deploy [default: a CI variable such as GIT_SHA].")
@click.option(
    "--update-strategy", type=click.Choice(["sse", "ws", "auto"]), help="What clients are told to use [default: sse]."
)
@click.option("--connection-tracking/--no-connection-tracking", default=None, help="Count connections [default: on].")
@click.option("--route-tracking/--no-route-tracking", default=None, help="Count routes [default: off].")
@click.option(
    "--ip-tracking",
    is_flag=False,
    flag_value="true",
    metavar="[anonymized|false]",
    help="Keep client addresses; 'anonymized' cuts them to /24 and /48 [default: off].",
)
@click.option(
    "--admin-token",
    metavar="TOKEN",
    help="Bearer token that may see the figures. Safer as HEADCOUNT_ADMIN_TOKEN: command lines are public.",
)
@click.option(
    "--authorize-url", metavar="URL", help="Ask this URL, with the viewer's cookies and Authorization; 2xx allows."
)
@click.option("--backend", help="How several processes find one another [default: memory, one process].")
@click.option("--base-path", metavar="PATH", help="Where the endpoints are [default: /__skew].")
@click.option(
    "--trusted-proxies",
    multiple=True,
    callback=_listed,
    metavar="NETWORK",
    help="Whose X-Forwarded-For is believed; may be repeated.",
)
@click.option(
    "--allowed-origins",
    multiple=True,
    callback=_listed,
    metavar="ORIGIN",
    help="Other origins whose pages may connect; may be repeated.",
)
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1), envvar="HEADCOUNT_WORKERS", help="Processes."
)
def command(host: str, port: int, workers: int, **settings: Any) -> None:
    """Serve Headcount on its own, for a back end in any language."""
    if workers > 1:
        raise click.UsageError(
            "This release counts one process, so --workers must be 1; more would each see a part only."
        )
    ip_tracking = settings["ip_tracking"]
    if ip_tracking in ("true", "on", "yes", "1"):
        settings["ip_tracking"] = True
    elif ip_tracking in ("false", "off", "no", "0"):
        settings["ip_tracking"] = False
    elif ip_tracking not in (None, "anonymized"):
        raise click.BadParameter(f"{ip_tracking!r} is not known; write --ip-tracking or --ip-tracking=anonymized.")
    try:
        from ..server import serve
    except ImportError:
        raise ConfigError("`headcount serve` needs a server; run: pip install 'headcount[serve]'") from None
    from ..asgi.app import Headcount

    headcount = Headcount(**{name: value for name, value in settings.items() if value is not None})
    config = headcount.config
    if config.admin_token is None and config.authorize_url is None:
        click.echo("Nobody may see the figures: give --admin-token or --authorize-url.", err=True)
    elif config.admin_token is not None and len(config.admin_token) < 16:
        click.echo("The admin token is short enough to be guessed; make one with: openssl rand -hex 24", err=True)

    def ready(url: str) -> None:
        click.echo(f"Headcount serves {url} for version {config.version}. Ctrl-C stops it.")

    try:
        serve(headcount, host, port, ready)
    except KeyboardInterrupt:
        click.echo("Stopped.")
