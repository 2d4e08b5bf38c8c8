"""
The command line: one file for each command, imported when the command is called.

Tests: tests/cli/test_asking.py, tests/cli/test_extras.py.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, NoReturn

import click

from ..errors import ConfigError, HeadcountError, WrongSetting
from .options import Commands, name_the_source, with_suggestion
from .output import complain, wrapped

_COMMANDS = {
    "assets": ("assets", "Find builds of the front end that no open page runs, and delete them."),
    "completion": ("completion", "Print the completion script of a shell."),
    "config": ("config", "Show every setting, its value and its source."),
    "demo": ("demo", "Run a small shop with visitors, two versions and the admin view."),
    "doctor": ("doctor", "Find what breaks streams between here and a server."),
    "impact": ("impact", "Show whom a deploy would meet now, how long pages stay, and when it is quiet."),
    "nodes": ("nodes", "List the nodes of a fleet, or declare one gone."),
    "notify": ("notify", "Send pages a message, and count those that acknowledge it."),
    "release": ("release", "Declare a version current and notify every open page."),
    "rollout": ("rollouts", "Show how fast pages came to the current version, and in earlier rollouts."),
    "serve": ("serve", "Run Headcount as a server, for a back end in any language."),
    "stats": ("stats", "Show the figures of a server, once."),
    "swarm": ("swarm", "Put load on a server: real connections that navigate, reconnect and reload."),
    "top": ("top", "Watch the figures of a server in the terminal."),
    "wait": ("wait", "Wait until at most N connections of a version are left."),
}

_EXTRAS = {"demo": "demo", "serve": "serve", "top": "tui"}
"""What to install for a command, if it is not `client`."""


@contextmanager
def _naming_what_is_missing(command: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        package, _, _ = (error.name or "").partition(".")
        if package in ("", "headcount"):
            raise
        name = command()
        extra = _EXTRAS.get(name, "client")
        raise ConfigError(f"`headcount {name}` needs {package}; run: pip install 'headcount[{extra}]'") from None


class _Commands(Commands):
    """Imports a command when it is called: `--help` needs no server and no framework."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        with _naming_what_is_missing(lambda: cmd_name):
            command: click.Command = importlib.import_module(f"headcount.cli.{module}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """
        Call the command that was chosen.

        Raises:
            ConfigError: It needs a package that is not installed.
        """
        with _naming_what_is_missing(lambda: ctx.invoked_subcommand or ""):
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_COMMANDS.items())])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("headcount"), "-V", "--version", prog_name="headcount")
def cli() -> None:
    """
    Show how many pages are open right now, on which version and on which route.

    Every option can also be set as HEADCOUNT_<NAME> in the environment.
    """


def main() -> NoReturn:
    """
    Run a command. Exit codes: 0 done, 1 error, 2 wrong usage, 130 Ctrl-C. An error is one sentence on stderr.

    An invalid option and an invalid variable are both wrong usage; the sentence names the one that was used.
    """
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, click.BadParameter):
            name_the_source(error)
        if isinstance(error, click.NoSuchOption):
            error = with_suggestion(error)
        if not isinstance(error, click.UsageError):
            complain(error.format_message())
            sys.exit(error.exit_code)
        _show(error)
        sys.exit(error.exit_code)
    except WrongSetting as error:
        _show(click.UsageError(str(error)))
        sys.exit(2)
    except HeadcountError as error:
        complain(str(error))
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _show(error: click.ClickException) -> None:
    sentence = wrapped(f"Error: {error.format_message()}", sys.stderr).removeprefix("Error: ")
    error.format_message = lambda: sentence  # type: ignore[method-assign]
    error.show()
