"""
Options of several commands: the address to listen on, number types, and whose value an error names.

Tests: tests/cli/test_serve.py, tests/cli/test_demo.py.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

_Command = TypeVar("_Command", bound=Callable[..., Any])


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
