"""
The widgets of `headcount top`: counts with bars, and the curve of a total.

Tests: tests/tools/test_top.py.
"""

from collections.abc import Mapping
from typing import NamedTuple

from rich.bar import Bar
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from textual.widget import Widget

from .terminal import printable


class Mark(NamedTuple):
    """A remark on a label, such as `current`, and its colour."""

    word: str
    colour: str


class Counts(Widget):
    """The largest counts with their share and a bar, as many as fit."""

    DEFAULT_CSS = "Counts { height: 1fr; width: 1fr; }"

    def __init__(self, title: str, *, id: str) -> None:  # noqa: A002  Textual's name for it
        super().__init__(id=id)
        self.border_title = title
        self._counts: Mapping[str, int] = {}
        self._total = 0
        self._marks: Mapping[str, Mark] = {}
        self._known = False
        """Counts have come."""

    def show(self, counts: Mapping[str, int], total: int, marks: Mapping[str, Mark] | None = None) -> None:
        """Show counts; `marks` are remarks on labels."""
        marks = marks or {}
        known, self._known = self._known, True
        if not known or (counts, total, marks) != (self._counts, self._total, self._marks):
            self._counts, self._total, self._marks = counts, total, marks
            self.refresh()

    def render(self) -> RenderableType:
        """Draw the rows that fit."""
        width, height = self.size
        if not self._counts:
            return Text("none" if self._known else "…", style="dim")
        ranked = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        rest = len(ranked) - height
        if rest > 0:
            ranked = ranked[: height - 1]
            rest += 1
        bar_width = max(0, min(24, (width - 24) // 2))
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column(justify="right", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        if bar_width:
            table.add_column(width=bar_width, no_wrap=True)
        for label, count in ranked:
            share = count / self._total if self._total else 0.0
            mark = self._marks.get(label)
            name = Text(printable(label) if mark is None else f"{printable(label)} ({mark.word})")
            name.stylize("" if mark is None else f"bold {mark.colour}")
            cells: list[RenderableType] = [name, Text(f"{count:,}"), Text(f"{share:.0%}")]
            if bar_width:
                color = "cyan" if mark is None else mark.colour
                cells.append(Bar(1.0, 0.0, share, width=bar_width, color=color))
            table.add_row(*cells)
        if rest > 0:
            table.add_row(Text(f"… {rest:,} more", style="dim"))
        return table


class Curve(Widget):
    """
    A total over time, newest on the right. It is drawn from zero, so a drop of a tenth looks like a tenth. Times
    without figures are gaps.
    """

    DEFAULT_CSS = "Curve { height: 2; width: 1fr; }"

    def __init__(self, *, id: str) -> None:  # noqa: A002  Textual's name for it
        super().__init__(id=id)
        self._values: list[int | None] = []

    def show(self, values: list[int | None]) -> None:
        """Show values."""
        if values != self._values:
            self._values = values
            self.refresh()

    def render(self) -> RenderableType:
        """Draw the newest that fit."""
        width, height = self.size
        values = self._values[-width:]
        top = max((value for value in values if value is not None), default=0) or 1
        lines = []
        for row in range(height):
            # The height in eighths of a row, without the part in the rows below.
            eighths = [round((value or 0) / top * height * 8) - (height - 1 - row) * 8 for value in values]
            line = "".join(" ▁▂▃▄▅▆▇█"[max(0, min(8, filled))] for filled in eighths)
            lines.append(line.rjust(width))
        return Text("\n".join(lines), style="cyan", no_wrap=True)
