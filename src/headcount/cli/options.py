"""
Parts of several commands: the address to listen on, number types, groups, and whose value an error names.

Tests: tests/cli/test_serve.py, tests/cli/test_demo.py, tests/cli/test_asking.py, tests/cli/test_nodes.py.
"""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Commands(click.Group):
    """A group that names the command that a wrong one resembles."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command."""
        name = args[0]
        if name not in self.list_commands(ctx) and not name.startswith("-"):
            near = self.resembling(ctx, name)
            what = f" Did you mean {near!r}?" if near else f" `{ctx.command_path} --help` lists the commands."
            raise click.UsageError(f"There is no command {name!r}.{what}", ctx)
        return super().resolve_command(ctx, args)

    def resembling(self, ctx: click.Context, name: str) -> str | None:
        """Return the command whose name is close to a wrong one; None: there is none."""
        return next(iter(difflib.get_close_matches(name, self.list_commands(ctx), 1)), None)


def with_suggestion(error: click.NoSuchOption) -> click.NoSuchOption:
    """Return the error with the one option that the wrong one resembles, if there is one."""
    command = None if error.ctx is None else error.ctx.command
    known = [name for each in (command.params if command else ()) for name in (*each.opts, *each.secondary_opts)]
    wrong = error.option_name
    if wrong.startswith("--"):
        near = difflib.get_close_matches(wrong, known, 1, 0.7)
    else:  # a letter, such as -V or -t: what it may stand for
        near = [name for name in known if name.startswith(f"--{wrong[1:2].lower()}")]
    hint = f" Did you mean {near[0]!r}?" if len(near) == 1 else ""
    return click.NoSuchOption(wrong, f"No such option {wrong!r}.{hint}", ctx=error.ctx)


class WholeNumber(click.IntRange):
    """An integer; click calls it "integer range" in errors."""

    name = "whole number"


class Number(click.FloatRange):
    """A number; click calls it "float range" in errors."""

    name = "number"


class _Port(WholeNumber):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.startswith("tcp://"):
            self.fail(
                f"{value!r} was set by Kubernetes for a Service called headcount; set enableServiceLinks: false in the "
                "pod, or give --port.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


def listening(command: _Command) -> _Command:
    """Add `--host` and `--port`."""
    host = click.option(
        "--host",
        default="127.0.0.1",
        show_default=True,
        metavar="ADDRESS",
        envvar="HEADCOUNT_HOST",
        help="Address to listen on; 0.0.0.0: every IPv4 address.",
    )
    port = click.option(
        "--port",
        default=8000,
        show_default=True,
        metavar="N",
        type=_Port(0, 65535),
        envvar="HEADCOUNT_PORT",
        help="Port to listen on; 0: any free port.",
    )
    return host(port(command))


def name_the_source(error: click.BadParameter) -> None:
    """Make an error name the variable that the invalid value came from, if it did not come from the option."""
    if error.ctx is None or error.param is None or error.param.name is None or error.param_hint is not None:
        return
    if isinstance(error, click.MissingParameter) and isinstance(error.param.envvar, str) and not error.message:
        error.message = f"Give it, or set {error.param.envvar}."  # type: ignore[misc]
    if error.ctx.get_parameter_source(error.param.name) is ParameterSource.ENVIRONMENT:
        variable = error.param.envvar
        error.param_hint = f"'{variable}'" if isinstance(variable, str) else None
