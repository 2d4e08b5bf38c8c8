"""
`headcount top`: the figures in a terminal, live. It stands on the client and knows nothing else of the server.

Readable at 80x24 and without colour: whatever colour says, a word says too.
"""

import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import ClassVar, Final, NamedTuple
from urllib.parse import urlsplit

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.events import Resize
from textual.theme import BUILTIN_THEMES
from textual.widget import Widget
from textual.widgets import DataTable, Footer, Input, Static

from ..client import RemoteConnections
from ..core.stats import ConnectionInfo, Nodes, NodeShare
from ..errors import HeadcountError
from ..live.active_connections import LiveState

REFRESH: Final = 0.25
"""Seconds between two looks at the figures; the server pushes no more often."""

SAMPLE: Final = 1.0
"""Seconds between two points of the curve."""

HISTORY: Final = 300
"""Points of the curve."""

MAX_ROWS: Final = 500
"""Connections that are listed at once; the filter finds the others that the server lists."""

NODES_EVERY: Final = 5.0
"""Seconds between two questions what each node has; sooner when one comes or goes. Each costs a word of every node."""

PLAIN_THEME: Final = "ansi-dark"
"""Textual's theme of the terminal's own colours; what is older than Textual 8 has none of that name."""

WIDE: Final = 110
"""Columns from which on the nodes have a place beside versions and routes."""

PARTS: Final = ("versions", "routes", "nodes", "connections")


class Mark(NamedTuple):
    """What is told of a label beside its count."""

    word: str
    colour: str


class Counts(Widget):
    """The largest of some counts with share and bar, as many as fit."""

    DEFAULT_CSS = "Counts { height: 1fr; width: 1fr; }"

    def __init__(self, title: str, *, id: str) -> None:  # noqa: A002  Textual's name for it
        super().__init__(id=id)
        self.border_title = title
        self._counts: Mapping[str, int] = {}
        self._total = 0
        self._marks: Mapping[str, Mark] = {}

    def show(self, counts: Mapping[str, int], total: int, marks: Mapping[str, Mark] | None = None) -> None:
        """Show other counts; `marks` says what else is to be told of labels."""
        marks = marks or {}
        if (counts, total, marks) != (self._counts, self._total, self._marks):
            self._counts, self._total, self._marks = counts, total, marks
            self.refresh()

    def render(self) -> RenderableType:
        """Draw the rows that fit."""
        width, height = self.size
        if not self._counts:
            return Text("none", style="dim")
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
            cells = [name, Text(f"{count:,}"), Text(f"{share:.0%}")]
            if bar_width:
                cells.append(Text(bar(share, bar_width), style="cyan" if mark is None else mark.colour))
            table.add_row(*cells)
        if rest > 0:
            table.add_row(Text(f"… {rest:,} more", style="dim"))
        return table


class Curve(Widget):
    """
    A total over time, newest on the right, drawn from zero: a tenth fewer looks like a tenth fewer. Where nothing was
    known is a gap.
    """

    DEFAULT_CSS = "Curve { height: 2; width: 1fr; }"

    def __init__(self, *, id: str) -> None:  # noqa: A002  Textual's name for it
        super().__init__(id=id)
        self._values: list[int | None] = []

    def show(self, values: list[int | None]) -> None:
        """Show other values."""
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
            # The height in eighths of a row, less what the rows below this one hold.
            eighths = [round((value or 0) / top * height * 8) - (height - 1 - row) * 8 for value in values]
            line = "".join(" ▁▂▃▄▅▆▇█"[max(0, min(8, filled))] for filled in eighths)
            lines.append(line.rjust(width))
        return Text("\n".join(lines), style="cyan", no_wrap=True)


class Top(App[str]):
    """
    The dashboard. Its return value is a sentence when it had to end, None when somebody ended it.

    Args:
        live: Not opened yet; the dashboard opens and closes it.
        fetch_nodes: Asks what each node has; raises HeadcountError.
    """

    TITLE = "headcount"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    #status { height: auto; max-height: 3; padding: 0 1; background: $boost; }
    #total { height: 2; padding: 0 1; }
    #number { width: auto; min-width: 24; height: 2; }
    #counts { height: 1fr; min-height: 5; }
    Counts { border: round $primary; padding: 0 1; }
    #connections { height: 1fr; min-height: 5; border: round $primary; scrollbar-size-horizontal: 0; }
    #filter { height: 3; display: none; }
    #filter.shown { display: block; }
    #nodes { display: none; }
    .several #nodes { display: block; }
    .narrow #nodes { display: none; }
    .one #counts, .one #versions, .one #routes, .one #nodes, .one #connections { display: none; }
    .plain #connections > .datatable--cursor { text-style: reverse; }
    .versions #counts, .routes #counts, .nodes #counts { display: block; }
    .versions #versions, .routes #routes, .nodes #nodes, .connections #connections { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        # Textual's own explains another key instead of quitting.
        Binding("ctrl+c", "interrupt", "Quit", show=False, priority=True),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("escape", "clear", "Clear"),
        Binding("v", "maximise('versions')", "Versions"),
        Binding("r", "maximise('routes')", "Routes"),
        Binding("n", "maximise('nodes')", "Nodes"),
        Binding("c", "maximise('connections')", "List"),
        Binding("space", "pause", "Pause", key_display="space"),
    ]

    def __init__(self, live: RemoteConnections, fetch_nodes: Callable[[], Awaitable[list[NodeShare]]]) -> None:
        # Textual makes greys of its colours for NO_COLOR, on a dark ground that it paints over a light terminal's. With
        # the terminal's own colours it leaves all of them out.
        self._plain = bool(os.environ.get("NO_COLOR")) and PLAIN_THEME in BUILTIN_THEMES
        super().__init__(ansi_color=self._plain)
        if self._plain:
            self.theme = PLAIN_THEME
        self._live = live
        self._fetch_nodes = fetch_nodes
        self._host = urlsplit(live.url).netloc.rpartition("@")[2]
        self._paused = False
        self._filter = ""
        self._shown: LiveState | None = None
        self._rows: dict[str, ConnectionInfo] = {}
        self._maximised: str | None = None
        self._nodes_known: Nodes | None = None
        self._nodes_asked_at = float("-inf")
        self._history: deque[int | None] = deque(maxlen=HISTORY)
        self._sampled = monotonic()
        self._fresh_at = monotonic()

    def compose(self) -> ComposeResult:
        """Lay it out."""
        yield Static(id="status", markup=False)
        with Horizontal(id="total"):
            yield Static(id="number", markup=False)
            yield Curve(id="curve")
        with Horizontal(id="counts"):
            yield Counts("Versions", id="versions")
            yield Counts("Routes", id="routes")
            yield Counts("Nodes", id="nodes")
        yield Input(placeholder="part of an id, version, route or address", id="filter")
        table: DataTable[Text] = DataTable(id="connections", cursor_type="row", zebra_stripes=False)
        table.border_title = "Connections"
        yield table
        yield Footer(show_command_palette=False)

    async def on_mount(self) -> None:
        """Open the stream and look at it from now on."""
        self.screen.set_class(self._plain, "plain")
        table = self._table()
        table.add_column("Id", key="id", width=10)
        table.add_column("Version", key="version")
        table.add_column("Route", key="route")
        table.add_column("Address", key="ip")
        table.focus()
        self.run_worker(self._live.open(), name="stream", exit_on_error=False)
        self.set_interval(REFRESH, self.look)

    async def on_unmount(self) -> None:
        """Close the stream."""
        await self._live.aclose()

    def look(self) -> None:
        """Show what is known now."""
        if not self.query("#status"):
            return  # the timer came while the screen is taken down
        state, now = self._live.state.value, monotonic()
        if state.authorized is False:
            self.exit(state.error or "The server does not let this viewer see the figures.")
            return
        if state.authorized and not state.is_stale:
            self._fresh_at = now
        while now - self._sampled >= SAMPLE:
            self._sampled += SAMPLE
            if state.authorized:
                self._history.append(None if state.is_stale else state.stats.total)
            if not self._paused:
                self.query_one("#curve", Curve).show(list(self._history))
        self.query_one("#status", Static).update(self._status(state, now))
        if self._paused:
            return
        self._look_at_nodes(state, now)
        if state is self._shown:
            return
        self._shown = state
        stats = state.stats
        self.query_one("#number", Static).update(self._number(state))
        current = {state.current_version: Mark("current", "green")} if state.current_version is not None else {}
        self.query_one("#versions", Counts).show(stats.versions, stats.total, current)
        self.query_one("#routes", Counts).show(stats.routes, stats.total)
        self._list(state)

    def _look_at_nodes(self, state: LiveState, now: float) -> None:
        """Ask what each node has when that is shown and it is time."""
        known = state.stats.nodes
        self.screen.set_class(known.expected > 1, "several")
        due = now - self._nodes_asked_at >= (NODES_EVERY if known == self._nodes_known else 1.0)
        if self.query_one("#nodes", Counts).display and state.status == "open" and state.authorized and due:
            self._nodes_asked_at, self._nodes_known = now, known
            self.run_worker(self._ask_nodes(), group="nodes", exclusive=True)

    async def _ask_nodes(self) -> None:
        panel = self.query_one("#nodes", Counts)
        try:
            shares = await self._fetch_nodes()
        except HeadcountError as error:
            panel.border_subtitle = printable(str(error))
            return
        panel.border_subtitle = ""
        marks = {share.node: Mark(f"silent {share.silent:.0f} s", "yellow") for share in shares if not share.reporting}
        panel.show({share.node: share.total for share in shares}, sum(share.total for share in shares), marks)

    def action_filter(self) -> None:
        """Let a filter be typed."""
        field = self.query_one("#filter", Input)
        field.add_class("shown")
        field.focus()

    def action_clear(self) -> None:
        """Drop the filter, and give every part its place again."""
        field = self.query_one("#filter", Input)
        field.value = ""
        field.remove_class("shown")
        self._give_room(None)
        self._table().focus()

    def action_interrupt(self) -> None:
        """End as commands do that are told to by Ctrl-C."""
        self.exit(return_code=130)

    def action_pause(self) -> None:
        """Hold the picture still, or go on."""
        self._paused = not self._paused
        self._shown = None
        self.look()

    def action_maximise(self, part: str) -> None:
        """Give a part the whole screen but for what says how it stands, or its place again."""
        self._give_room(None if self._maximised == part else part)

    def on_resize(self, event: Resize) -> None:
        """Leave the nodes out where there is no room for them."""
        self.screen.set_class(event.size.width < WIDE, "narrow")

    def _give_room(self, part: str | None) -> None:
        self._maximised = part
        self.screen.set_class(part is not None, "one")
        for other in PARTS:
            self.screen.set_class(other == part, other)

    @on(Input.Changed)
    def filter_changed(self, event: Input.Changed) -> None:
        """List what matches, in the server's order."""
        self._filter = event.value.strip().lower()
        self._table().clear()
        self._rows.clear()
        self._list(self._live.state.value)

    @on(Input.Submitted)
    def filter_done(self) -> None:
        """Go from the filter to the list."""
        self._table().focus()

    def _table(self) -> "DataTable[Text]":
        return self.query_one("#connections", DataTable)

    def _status(self, state: LiveState, now: float) -> Text:
        text = Text()
        text.append(printable(self._host), style="bold")
        if self._paused:
            text.append("  PAUSED", style="bold yellow")
        match state.status:
            case "open" if not state.is_stale and state.authorized:
                text.append("  live", style="green")
            case "open":
                text.append("  catching up", style="yellow")
            case "reconnecting":
                text.append("  RECONNECTING", style="bold red")
                if state.authorized:
                    text.append(f", figures are {now - self._fresh_at:.0f} s old", style="red")
            case _:
                text.append(f"  {state.status}", style="yellow")
        if state.stats.partial:
            text.append("  PARTIAL", style="bold yellow")
        nodes = state.stats.nodes
        if nodes.expected > 1 or nodes.reporting != nodes.expected:
            text.append(f"  {nodes.reporting} of {nodes.expected} nodes")
        if state.error:
            text.append(f"  {printable(state.error)}", style="red")
        elif state.current_version is not None:
            text.append(f"  current: {printable(state.current_version)}")
        return text

    def _number(self, state: LiveState) -> Text:
        stats = state.stats
        if state.authorized is None:
            return Text("no figures yet", style="dim")
        text = Text(f"{stats.total:,}", style="bold")
        text.append(f" {'connection' if stats.total == 1 else 'connections'}\n", style="")
        if state.current_version is not None and stats.total:
            outdated = stats.total - stats.versions.get(state.current_version, 0)
            text.append(
                f"{outdated:,} outdated ({outdated / stats.total:.0%})", style="yellow" if outdated else "green"
            )
        return text

    def _list(self, state: LiveState) -> None:
        """Bring the list up to date: only rows that changed are touched."""
        table = self._table()
        words = self._filter
        rows = [row for row in state.stats.connections if not words or matches(row, words)]
        wanted = {row.id: row for row in rows[:MAX_ROWS]}
        for key in [key for key in self._rows if key not in wanted]:
            table.remove_row(key)
            del self._rows[key]
        for key, row in wanted.items():
            before = self._rows.get(key)
            if before is None:
                table.add_row(*(Text(cell, no_wrap=True) for cell in cells(row)), key=key)
            elif before != row:
                for column, cell in zip(("id", "version", "route", "ip"), cells(row), strict=True):
                    table.update_cell(key, column, Text(cell, no_wrap=True), update_width=True)
            self._rows[key] = row
        listed, total = len(wanted), state.stats.total
        told = f"{len(rows):,} match" if words else f"{listed:,} of {total:,}" if listed < total else f"{total:,}"
        table.border_title = f"Connections: {told}"


def matches(row: ConnectionInfo, words: str) -> bool:
    """Say whether a connection has a filter's text (in lower case) somewhere."""
    return any(words in part.lower() for part in (row.id, row.version, row.route, row.ip or ""))


def cells(row: ConnectionInfo) -> tuple[str, str, str, str]:
    """Return a row's cells. The last letters of an id tell connections apart; the first say which node it is on."""
    return row.id[-8:], printable(row.version)[:40], printable(row.route)[:80], row.ip or ""


def printable(label: str) -> str:
    """Return a label without what a terminal would obey or what would hide in it."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in label)


def bar(share: float, width: int) -> str:
    """Draw a share of a width in eighths of a column."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
