"""
How far a long command is, on the standard error: the standard output is for results.

Tests: tests/cli/test_asking.py, tests/cli/test_swarm.py.
"""

import os
import sys
import time
from typing import Final, Self

import click
from rich.bar import Bar
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..tools.terminal import printable
from .tables import console

LINE_EVERY: Final = 10.0
"""Seconds between two lines where there is no terminal."""

BAR_WIDTH: Final = 12
"""Columns."""


class Progress:
    """
    One line with a bar that is rewritten, on a terminal; elsewhere plain lines. Shown inside `with`.

    Attributes:
        on_terminal: There is a terminal that can rewrite a line.
    """

    def __init__(self) -> None:
        self.on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._console = console(sys.stderr)
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False,
                          redirect_stderr=False)  # fmt: skip
        self._text = ""
        self._state: object = None
        self._written_at = float("-inf")

    def show(self, text: str, share: float | None = None, state: object = None) -> None:
        """
        Show how far the command is.

        Args:
            text: A line; cut where the terminal ends.
            share: How much is done, 0 to 1, drawn as a bar with a percentage; None: not known.
            state: Where there is no terminal, a line is written at once when this changes, and else every 10 s.
        """
        text = printable(text)
        if self.on_terminal:
            self._live.update(_line(text, share), refresh=True)
            return
        now = time.monotonic()
        if state == self._state and (text == self._text or now - self._written_at < LINE_EVERY):
            return
        self._text, self._state, self._written_at = text, state, now
        click.echo(text, err=True)

    def clear(self) -> None:
        """Remove the line from the terminal. The next `show` brings it back."""
        if self.on_terminal:
            self._live.update(Text(""), refresh=True)

    def __enter__(self) -> Self:
        if self.on_terminal:
            self._live.start()
            # rich hides the cursor, and a command that is killed could not bring it back.
            self._console.show_cursor(show=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.on_terminal:
            self._live.stop()


def _line(text: str, share: float | None) -> Table:
    line = Table.grid(padding=(0, 1))
    cells: list[Text | Bar] = []
    if share is not None:
        line.add_column(width=BAR_WIDTH, no_wrap=True)
        line.add_column(width=4, justify="right", no_wrap=True)
        cells += [Bar(1.0, 0.0, share, width=BAR_WIDTH, color="green", bgcolor="bright_black"), Text(f"{share:.0%}")]
    line.add_column()
    line.add_row(*cells, Text(text, no_wrap=True, overflow="ellipsis"))
    return line
