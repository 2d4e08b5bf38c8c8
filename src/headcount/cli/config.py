"""
`headcount config`: every setting, its value and its source.

Tests: tests/cli/test_config_and_completion.py.
"""

import os
from typing import Any, Final

import click

from ..config import HIDDEN, VERSION_VARIABLES, Config, without_secrets
from ..errors import NoVersion, WrongSetting
from ..tools.terminal import printable
from .output import complain, write_json
from .serve import NO_VERSION, wrong_usage
from .serve import command as serve
from .target import json_option

_PROCESS_OPTIONS: Final = ("host", "port", "workers")

_MAX_VALUE: Final = 60
"""Columns of a value; a longer one is cut."""


@click.command(
    "config",
    params=list(serve.params),
    epilog="Exit codes: 0 the settings are valid, 1 the version is missing, 2 a setting or option is invalid.",
)
@json_option
@click.pass_context
def command(context: click.Context, /, as_json: bool, **options: Any) -> int:
    """
    Show every setting, its value and its source.

    Accepts the options of `headcount serve` and shows the settings it would run with. Secrets are masked.
    """
    given = {name: value for name, value in options.items() if name in Config.__struct_fields__ and value is not None}
    missing = False
    try:
        try:
            config = Config.load(given)
        except NoVersion:
            missing = True
            config = Config.load({**given, "version": "missing"})
    except WrongSetting as wrong:
        raise wrong_usage(wrong, context) from None
    rows: list[tuple[str, Any, str]] = []
    for name in Config.__struct_fields__:
        value = getattr(config, name)
        if name == "version" and missing:
            rows.append((name, None, "missing"))
            continue
        rows.append((name, _masked(name, value), _source(name, given)))
    for name in _PROCESS_OPTIONS:
        if name in options:
            source = context.get_parameter_source(name)
            sources = {
                click.core.ParameterSource.COMMANDLINE: "option",
                click.core.ParameterSource.ENVIRONMENT: f"HEADCOUNT_{name.upper()}",
            }
            rows.append((name, options[name], sources.get(source, "default") if source is not None else "default"))
    if as_json:
        write_json({name: {"value": value, "source": source} for name, value, source in rows})
    else:
        _print_table([("Setting", "Value", "Source"), *((name, _text(value), source) for name, value, source in rows)])
    if missing:
        complain(NO_VERSION)
        return 1
    return 0


def _version_variable() -> str | None:
    names = ("HEADCOUNT_VERSION", *VERSION_VARIABLES)
    return next((name for name in names if os.environ.get(name)), None)


def _source(name: str, given: dict[str, Any]) -> str:
    if name in given:
        return "option"
    if name == "version":
        return _version_variable() or "default"
    variable = f"HEADCOUNT_{name.upper()}"
    return variable if variable in os.environ else "default"


def _masked(name: str, value: Any) -> Any:
    if name in HIDDEN:
        return "********" if value else None
    if isinstance(value, str):
        return without_secrets(name, value)
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    match value:
        case None:
            return "none"
        case True:
            return "on"
        case False:
            return "off"
        case float():
            return f"{value:g}"
        case list():
            return ", ".join(map(str, value)) or "none"
        case _:
            return str(value)


def _print_table(rows: list[tuple[str, str, str]]) -> None:
    # Without rich, which comes with an extra: this command must work on a server.
    cells = [tuple(map(_cut, row)) for row in rows]
    first, second = (max(len(row[column]) for row in cells) for column in (0, 1))
    for name, value, source in cells:
        click.echo(f"{name:<{first}}  {value:<{second}}  {source}")


def _cut(value: str) -> str:
    text = printable(value)
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 1]}…"
