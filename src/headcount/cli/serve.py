"""
`headcount serve`: Headcount as a server.

Tests: tests/cli/test_serve.py.
"""

from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from ..config import SERVER, Config, without_password
from ..environment import from_text, variable_of
from ..errors import ConfigError, NoVersion, WrongSetting
from .options import WholeNumber, listening

if TYPE_CHECKING:
    from ..asgi.app import Headcount

NO_VERSION: Final = (
    "The version is missing; give --version or set HEADCOUNT_VERSION to the build id of this deploy, for example the "
    "commit: --version $(git rev-parse --short HEAD)"
)


def _parse(_context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    return text if text is None else from_text(str(parameter.name), text)


def _report(sentence: str) -> None:
    click.echo(sentence, err=True)


def _split(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip()) or None


_FIRST_TUNING = Config.__struct_fields__.index("stats_interval")
_TUNING = (name for name in Config.__struct_fields__[_FIRST_TUNING:] if name != "known_versions")
_ENVIRONMENT_ONLY = ("cookie", "metrics_token", "authorize_headers", *_TUNING)


@click.command(
    "serve",
    epilog=f"""
    Settings without an option are read from the environment: {", ".join(map(variable_of, _ENVIRONMENT_ONLY))}.

    \b
    Example:
      export HEADCOUNT_ADMIN_TOKEN=$(openssl rand -hex 24)
      headcount serve --version 2026.11.3 --route-tracking \\
                      --allowed-origins https://www.example.com
    """,
)
@listening
@click.option("--version", metavar="V", help="Build id of the current deploy [default: a CI variable such as GIT_SHA].")
@click.option(
    "--update-strategy",
    type=click.Choice(["sse", "ws", "auto"]),
    help="Kind of stream that clients try first [default: auto].",
)
@click.option("--connection-tracking/--no-connection-tracking", default=None, help="Count connections [default: on].")
@click.option("--route-tracking/--no-route-tracking", default=None, help="Count routes [default: off].")
@click.option(
    "--ip-tracking",
    is_flag=False,
    flag_value="true",
    metavar="[true|anonymized|false]",
    callback=_parse,
    help="Keep client addresses; anonymized: only their /24 or /48 network. Without a value: true [default: false].",
)
@click.option(
    "--admin-token",
    metavar="TOKEN",
    help="Bearer token that may see the figures. Safer in HEADCOUNT_ADMIN_TOKEN: other users can read command lines.",
)
@click.option(
    "--authorize-url",
    metavar="URL",
    help="URL that decides who may see the figures: it gets the viewer's cookies and Authorization header; 2xx allows.",
)
@click.option(
    "--backend",
    metavar="[auto|memory|local|URL]",
    help="How processes find one another; auto: the workers of this machine; redis://…: many machines [default: auto]. "
    "With a password safer in HEADCOUNT_BACKEND: other users can read command lines.",
)
@click.option(
    "--fleet-name",
    metavar="NAME",
    help="Name of this application among others on the same Redis [default: the base path].",
)
@click.option(
    "--fleet-secret",
    metavar="SECRET",
    callback=_parse,
    help="Secret that all processes on one Redis share, so that others on it can neither read nor forge what they "
    "exchange. Safer in HEADCOUNT_FLEET_SECRET: other users can read command lines.",
)
@click.option("--base-path", metavar="PATH", help="Path of the endpoints [default: /__skew].")
@click.option(
    "--trusted-proxies",
    multiple=True,
    callback=_split,
    metavar="NETWORK",
    help="Address or network of a proxy whose X-Forwarded-For is trusted; may be repeated [default: none].",
)
@click.option(
    "--allowed-origins",
    multiple=True,
    callback=_split,
    metavar="ORIGIN",
    help="Other origin whose pages may connect; may be repeated [default: none].",
)
@click.option(
    "--public-origins",
    multiple=True,
    callback=_split,
    metavar="ORIGIN",
    help="Origin under which the application is reached, if a proxy changes Host; may be repeated [default: none].",
)
@click.option(
    "--allowed-hosts",
    multiple=True,
    callback=_split,
    metavar="HOST",
    help="Name under which this server answers, such as *.example.com; may be repeated [default: all names].",
)
@click.option(
    "--known-versions",
    multiple=True,
    callback=_split,
    metavar="[fleet|V]",
    help="Count only versions that nodes serve or that were released (fleet), and these; all others as unknown; may be "
    "repeated [default: every version counts].",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    metavar="N",
    type=WholeNumber(1),
    envvar="HEADCOUNT_WORKERS",
    help="Processes that share the address and count together.",
)
@click.pass_context
def command(ctx: click.Context, /, host: str, port: int, workers: int, **settings: Any) -> int | None:
    """Run Headcount as a server, for a back end in any language."""
    try:
        from ..server.serve import serve
    except ImportError:
        raise ConfigError("`headcount serve` needs uvicorn; run: pip install 'headcount[serve]'") from None
    given = {name: value for name, value in settings.items() if value is not None}
    config = _make(ctx, given).config
    if SERVER in config.trusted_proxies:
        raise click.UsageError(
            "trusted_proxies is 'server', but `headcount serve` is the server; give the address of the proxy.", ctx
        )
    if workers > 1 and config.backend == "memory":
        raise click.UsageError(
            f"The memory backend counts only one process, but --workers is {workers}; leave the backend out, so that "
            "the workers count together.",
            ctx,
        )

    on_command_line = ctx.get_parameter_source("backend") is ParameterSource.COMMANDLINE
    if on_command_line and without_password(config.backend) != config.backend:
        click.echo(
            "The password in --backend can be read by other users of this machine; set HEADCOUNT_BACKEND instead.",
            err=True,
        )
    if "*" in config.allowed_origins:
        click.echo(
            "Pages of every site may connect and are counted. To watch, they need a bearer token: cookies authorise "
            "only pages of origins that are listed by name.",
            err=True,
        )

    def ready(origin: str) -> None:
        # Only after the start, so that an error of the start is not lost between other lines.
        if config.admin_token is None and config.authorize_url is None:
            click.echo("Nobody may see the figures: set HEADCOUNT_ADMIN_TOKEN or give --authorize-url.", err=True)
        by = f" with {workers} workers" if workers > 1 else ""
        click.echo(
            f"Headcount serves {origin}{config.base_path} for version {config.version}{by}. Press Ctrl-C to stop."
        )
        page = f"The dashboard is {origin}{config.base_path}/dashboard/"
        if config.admin_token is not None:
            click.echo(f"{page}; log in with the admin token.")
        elif config.authorize_url is not None:
            click.echo(f"{page}; the authorize URL decides who sees figures.")

    try:
        if not serve(lambda: _make(ctx, given), host, port, ready, workers=workers, report=_report):
            return 1
    except KeyboardInterrupt:
        click.echo("Stopped.")
        return 130
    return None


def _make(ctx: click.Context, settings: dict[str, Any]) -> "Headcount":
    """Make a Headcount; errors name options and variables instead of Python arguments."""
    from ..asgi.app import Headcount

    try:
        return Headcount(**settings)
    except NoVersion:
        raise click.UsageError(NO_VERSION, ctx) from None
    except WrongSetting as wrong:
        raise wrong_usage(wrong, ctx) from None


def wrong_usage(wrong: WrongSetting, ctx: click.Context) -> click.UsageError:
    """Return an error that names the option or the variable with the invalid value."""
    source = wrong.variable or f"--{wrong.setting.replace('_', '-')}"
    return click.UsageError(f"{source} {wrong.complaint}", ctx)
