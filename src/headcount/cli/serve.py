"""`headcount serve`."""

from typing import TYPE_CHECKING, Any, Final

import click

from ..config import Config
from ..environment import from_text, variable_of
from ..errors import ConfigError, NoVersion, WrongSetting
from .options import WholeNumber, listening

if TYPE_CHECKING:
    from ..asgi.app import Headcount

NO_VERSION: Final = (
    "The version is missing; give --version or set HEADCOUNT_VERSION to the build id of this deploy, for example the "
    "commit: --version $(git rev-parse --short HEAD)"
)


def _meant(_context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    return text if text is None else from_text(str(parameter.name), text)


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)


def _listed(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip()) or None


_FIRST = Config.__struct_fields__.index("stats_interval")
_NO_OPTIONS = ("cookie", "metrics_token", *Config.__struct_fields__[_FIRST:])


@click.command(
    "serve",
    epilog=f"""
    The rest is set in the environment: {", ".join(map(variable_of, _NO_OPTIONS))}.

    \b
    Example:
      export HEADCOUNT_ADMIN_TOKEN=$(openssl rand -hex 24)
      headcount serve --version 2026.11.3 --route-tracking \\
                      --allowed-origins https://www.example.com
    """,
)
@listening
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
    metavar="[true|anonymized|false]",
    callback=_meant,
    help="Keep client addresses; alone it means true, and 'anonymized' cuts them to /24 and /48 [default: false].",
)
@click.option(
    "--admin-token",
    metavar="TOKEN",
    help="Bearer token that may see the figures. Safer as HEADCOUNT_ADMIN_TOKEN: command lines are public.",
)
@click.option(
    "--authorize-url", metavar="URL", help="Ask this URL, with the viewer's cookies and Authorization; 2xx allows."
)
@click.option(
    "--backend",
    metavar="[memory|local|URL]",
    help="How several processes find one another: redis://… for many machines [default: the workers of this machine].",
)
@click.option("--fleet-name", metavar="NAME", help="Tells applications on one Redis apart [default: the base path].")
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
    "--workers",
    default=1,
    show_default=True,
    metavar="N",
    type=WholeNumber(1),
    envvar="HEADCOUNT_WORKERS",
    help="Processes that share the address; their figures are one.",
)
@click.pass_context
def command(ctx: click.Context, /, host: str, port: int, workers: int, **settings: Any) -> int | None:
    """Serve Headcount on its own, for a back end in any language."""
    try:
        from ..server.serve import serve
    except ImportError:
        raise ConfigError("`headcount serve` needs a server; run: pip install 'headcount[serve]'") from None
    given = {name: value for name, value in settings.items() if value is not None}
    config = _make(ctx, given).config
    if workers > 1 and config.backend == "memory":
        raise click.UsageError(
            f"The backend memory counts one process, and --workers asks for {workers}; leave the backend out, and they "
            "count as one.",
            ctx,
        )

    if "*" in config.allowed_origins:
        click.echo(
            "Pages of every site may connect and be counted. They watch with a bearer token only: cookies give a right "
            "to origins that are listed by name.",
            err=True,
        )

    def ready(origin: str) -> None:
        # Only now: whoever cannot start has another thing to read.
        if config.admin_token is None and config.authorize_url is None:
            click.echo("Nobody may see the figures: set HEADCOUNT_ADMIN_TOKEN or give --authorize-url.", err=True)
        elif config.admin_token is not None and len(config.admin_token) < 16:
            click.echo("The admin token is short enough to be guessed; make one with: openssl rand -hex 24", err=True)
        by = f" with {workers} workers" if workers > 1 else ""
        click.echo(f"Headcount serves {origin}{config.base_path} for version {config.version}{by}. Ctrl-C stops it.")

    try:
        if not serve(lambda: _make(ctx, given), host, port, ready, workers=workers, say=_say):
            return 1
    except KeyboardInterrupt:
        click.echo("Stopped.")
        return 130
    return None


def _make(ctx: click.Context, settings: dict[str, Any]) -> "Headcount":
    """Make it, with words for operators where the settings' own are for programmers."""
    from ..asgi.app import Headcount

    try:
        return Headcount(**settings)
    except NoVersion:
        raise click.UsageError(NO_VERSION, ctx) from None
    except WrongSetting as wrong:
        raise wrong_usage(wrong, ctx) from None


def wrong_usage(wrong: WrongSetting, ctx: click.Context) -> click.UsageError:
    """Name the option or the variable that held a wrong value."""
    told = wrong.variable or f"--{wrong.setting.replace('_', '-')}"
    return click.UsageError(f"{told} {wrong.complaint}", ctx)
