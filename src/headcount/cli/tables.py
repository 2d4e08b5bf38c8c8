"""
Tables on the standard output. rich measures wide characters and fits the columns to the terminal.

Tests: tests/cli/test_asking.py.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

import click
from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..tools.terminal import printable
from .output import colours

BAR_WIDTH: Final = 16
"""Columns of a bar that stands for all connections."""

MAX_LABEL: Final = 44
"""Columns of a label in a table of counts."""


def console(stream: TextIO) -> Console:
    """Make a console that writes to a stream. It reads no markup: labels are what strangers chose."""
    system = "auto" if colours(stream) else None
    return Console(file=stream, color_system=system, markup=False, highlight=False, emoji=False)  # type: ignore[arg-type]


def write(renderable: RenderableType) -> None:
    """Write to the standard output, without the blanks that fill a line up."""
    terminal = console(sys.stdout)
    with terminal.capture() as capture:
        terminal.print(renderable)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def counts_table(counts: Mapping[str, int], total: int, limit: int) -> RenderableType:
    """Return a table of the largest counts with their share and a bar; the last row sums up the rest."""
    table = Table.grid(padding=(0, 1))
    table.add_column(min_width=12, max_width=MAX_LABEL)
    table.add_column(min_width=8, justify="right", no_wrap=True)
    table.add_column(min_width=6, justify="right", no_wrap=True)
    table.add_column(width=BAR_WIDTH + 1)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for label, count in ranked[:limit]:
        share = count / total if total else 0.0
        bar = Padding(Bar(1.0, 0.0, share, width=BAR_WIDTH), (0, 0, 0, 1))
        table.add_row(_cell(label), f"{count:,}", f"{share:.1%}", bar)
    if len(ranked) > limit:
        rest = sum(count for _, count in ranked[limit:])
        table.add_row(f"{len(ranked) - limit:,} more", f"{rest:,}")
    return Padding(table, (0, 0, 0, 2))


def rows_table(head: Sequence[str], rows: Sequence[Sequence[str]], whole: Sequence[str]) -> RenderableType:
    """Return a table with a head. The columns named in `whole` are never cut; the others share what is left."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    for number, name in enumerate(head):
        width = max(len(name), *(Text(printable(row[number])).cell_len for row in rows)) if name in whole else None
        table.add_column(name, min_width=width, no_wrap=name in whole)
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(label: str) -> Text:
    return Text(printable(label), no_wrap=True, overflow="ellipsis")
