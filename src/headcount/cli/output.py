"""
How every command writes: JSON, colours, sentences and durations. Needs no extra; tables are in `tables.py`.

Tests: tests/cli/test_asking.py.
"""

import json
import os
import shutil
import sys
from typing import Any, TextIO

import click


def write_json(value: Any) -> None:
    """Write one JSON document, on one line when something else reads it."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(value, ensure_ascii=False, indent=indent))


def colours(stream: TextIO) -> bool:
    """Return whether to write in colour: on a terminal, unless NO_COLOR is set or TERM is dumb."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, stream: TextIO, **style: Any) -> str:
    """Style a text if the stream shows colours."""
    return click.style(text, **style) if colours(stream) else text


def complain(sentence: str) -> None:
    """Write an error to the standard error."""
    click.echo(wrapped(f"headcount: {sentence}", sys.stderr), err=True)


def wrapped(text: str, stream: TextIO) -> str:
    """Wrap a sentence to the width of the terminal. Elsewhere it stays one line, for programs and logs."""
    if not stream.isatty():
        return text
    return click.wrap_text(text, max(40, shutil.get_terminal_size().columns))


def span(seconds: float) -> str:
    """Return a duration as people write it: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = whole % 3_600 // 60
    return f"{whole // 3_600} h {minutes} min" if minutes else f"{whole // 3_600} h"


def connections(count: int) -> str:
    """Return a number of connections with its noun: `1 connection`, `1,200 connections`."""
    return f"{count:,} {'connection' if count == 1 else 'connections'}"
