"""
`headcount top`: the figures in a terminal, live. It uses the client and knows nothing else of the server.

Readable at 80x24 and without colour: each colour repeats what a word says.
"""

import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import localtime, monotonic, strftime
from typing import ClassVar, Final
from urllib.parse import urlsplit

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.events import Event, Key, MouseDown, Paste, Resize
from textual.theme import BUILTIN_THEMES
from textual.widgets import DataTable, Footer, Input, Static

from ..client import RemoteConnections
from ..core.labels import UNKNOWN
from ..core.stats import Absence, ConnectionInfo, Nodes, NodeShare
from ..errors import HeadcountError
from ..live.active_connections import LiveState
from .terminal import printable
from .top_widgets import Counts, Curve, Mark

REFRESH: Final = 0.25
"""Seconds between two updates of the screen; the server pushes no more often."""

SAMPLE: Final = 1.0
"""Seconds between two points of the curve."""

HISTORY: Final = 300
"""Points of the curve."""

MAX_ROWS: Final = 500
"""Most connections in the list; the filter finds the others that the server lists."""

NODES_INTERVAL: Final = 5.0
"""Seconds between two requests for the counts of the nodes, each of which every node must answer; sooner when a node
joins or leaves."""

MAX_ABSENT_NODES: Final = 2
"""Nodes whose connections are unaccounted for that the status names; `headcount nodes` lists all."""

PLAIN_THEME: Final = "ansi-dark"
"""Textual's theme of the terminal's own colours; there is none of that name before Textual 8."""

WIDE: Final = 110
"""Columns of a terminal that is wide enough for the nodes beside versions and routes."""

PARTS: Final = ("versions", "routes", "nodes", "connections")


class Top(App[str]):
    """
    The dashboard. It returns an error in a sentence, or None when the user quit.

    Args:
        live: The figures, not opened; the dashboard opens and closes them.
        fetch_nodes: Fetches the counts of the nodes; raises HeadcountError.
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
        # Textual's own action shows a hint instead of quitting.
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
        # For NO_COLOR, Textual turns its colours into greys on a dark background, also on a light terminal. With the
        # theme of the terminal's own colours it writes no colour at all.
        self._plain = bool(os.environ.get("NO_COLOR")) and PLAIN_THEME in BUILTIN_THEMES
        super().__init__(ansi_color=self._plain)
        if self._plain:
            self.theme = PLAIN_THEME
        self._live = live
        self._fetch_nodes = fetch_nodes
        self._host = urlsplit(live.url).netloc.rpartition("@")[2]
        self._paused = False
        self._filter = ""
        self._typing = False
        """Whether keys are text for the filter, not shortcuts."""
        self._shown: LiveState | None = None
        self._rows: dict[str, ConnectionInfo] = {}
        self._maximised: str | None = None
        self._nodes_at_fetch: Nodes | None = None
        self._nodes_fetched_at = float("-inf")
        self._history: deque[int | None] = deque(maxlen=HISTORY)
        self._sampled = monotonic()
        self._fresh_at = monotonic()

    def compose(self) -> ComposeResult:
        """Build the screen."""
        yield Static(id="status", markup=False)
        with Horizontal(id="total"):
            yield Static(id="number", markup=False)
            yield Curve(id="curve")
        with Horizontal(id="counts"):
            yield Counts("Versions", id="versions")
            yield Counts("Routes", id="routes")
            yield Counts("Nodes", id="nodes")
        # The focus comes after the first keys: to select them then would let the next key replace them.
        yield Input(placeholder="part of an id, version, route or address", id="filter", select_on_focus=False)
        table: DataTable[Text] = DataTable(id="connections", cursor_type="row", zebra_stripes=False)
        table.border_title = "Connections: …"
        yield table
        yield Footer(show_command_palette=False)

    async def on_mount(self) -> None:
        """Open the stream and start to show it."""
        self.screen.set_class(self._plain, "plain")
        table = self._table()
        table.add_column("Id", key="id", width=10)
        table.add_column("Version", key="version")
        table.add_column("Route", key="route")
        table.add_column("Address", key="ip")
        self.screen.set_focus(table)
        self.run_worker(self._live.open(), name="stream", exit_on_error=False)
        self.set_interval(REFRESH, self.refresh_figures)

    async def on_unmount(self) -> None:
        """Close the stream."""
        await self._live.aclose()

    async def on_event(self, event: Event) -> None:
        """
        Handle keys and pasted text, one after another.

        A widget gets keys and focus through a queue of its own. What is typed quickly after `/` would find the focus
        still on the list, and run as shortcuts. So the filter's keys are handled here, before the next key.
        """
        if isinstance(event, Key | Paste) and not event.is_forwarded:
            if isinstance(event, Key) and event.key.startswith("alt+") and event.is_printable:
                # Escape and the next key came in one piece.
                self.action_clear()
                event = Key(event.key.removeprefix("alt+"), event.character)
            if await self._handle_input(event):
                return
        await super().on_event(event)
        if isinstance(event, MouseDown):
            self._typing = self.focused is self._field()

    async def _handle_input(self, event: Key | Paste) -> bool:
        """Handle what concerns the filter. Returns False for all else."""
        if isinstance(event, Paste):
            if line := event.text.strip().partition("\n")[0].rstrip():
                self.action_filter()
                self._insert(line)
            return True
        if event.key == "escape":
            self.action_clear()
        elif not self._typing:
            if event.key != "slash":
                return False
            self.action_filter()
        elif event.key in ("enter", "tab", "shift+tab"):
            self._leave_filter()
        elif event.character is not None and event.is_printable:
            self._insert(event.character)
        else:
            # The focus may be elsewhere, when the terminal was in the background.
            self.screen.set_focus(self._field())
            if not await self._check_bindings(event.key, priority=True):
                await self._check_bindings(event.key)
        return True

    def refresh_figures(self) -> None:
        """Show the newest figures."""
        if not self.query("#status"):
            return  # the screen is being closed
        state, now = self._live.state.value, monotonic()
        if state.authorized is False:
            self.exit(state.error or "The server denied access to the figures.")
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
        self._refresh_nodes(state, now)
        if state is self._shown:
            return
        self._shown = state
        stats = state.stats
        self.query_one("#number", Static).update(self._number(state))
        current = {state.current_version: Mark("current", "green")} if state.current_version is not None else {}
        if state.authorized:
            self.query_one("#versions", Counts).show(stats.versions, stats.total, current)
            self.query_one("#routes", Counts).show(stats.routes, stats.total)
        self._list(state)

    def _refresh_nodes(self, state: LiveState, now: float) -> None:
        """Fetch the counts of the nodes if they are shown and it is time."""
        known = state.stats.nodes
        self.screen.set_class(known.expected > 1, "several")
        due = now - self._nodes_fetched_at >= (NODES_INTERVAL if known == self._nodes_at_fetch else 1.0)
        if self.query_one("#nodes", Counts).display and state.status == "open" and state.authorized and due:
            self._nodes_fetched_at, self._nodes_at_fetch = now, known
            self.run_worker(self._fetch_node_counts(), group="nodes", exclusive=True)

    async def _fetch_node_counts(self) -> None:
        panel = self.query_one("#nodes", Counts)
        try:
            shares = await self._fetch_nodes()
        except HeadcountError as error:
            panel.border_subtitle = printable(str(error))
            return
        panel.border_subtitle = ""
        names = {share.node: f"{share.node} {share.version or UNKNOWN}" for share in shares}
        marks = {
            names[share.node]: Mark(f"silent {share.silent:.0f} s", "yellow") for share in shares if not share.reporting
        }
        counts = {names[share.node]: share.total for share in shares}
        panel.show(counts, sum(share.total for share in shares), marks)

    def action_filter(self) -> None:
        """Open the filter."""
        field = self._field()
        field.add_class("shown")
        self.screen.set_focus(field)
        self._typing = True

    def action_clear(self) -> None:
        """Clear the filter and show all parts."""
        field = self._field()
        field.value = ""
        field.remove_class("shown")
        self._show_only(None)
        self._leave_filter()

    def action_interrupt(self) -> None:
        """Exit with the code of Ctrl-C."""
        self.exit(return_code=130)

    def action_pause(self) -> None:
        """Pause or resume."""
        self._paused = not self._paused
        self._shown = None
        self.refresh_figures()

    def action_maximise(self, part: str) -> None:
        """Show one part on the whole screen below the status, or all parts again."""
        self._show_only(None if self._maximised == part else part)

    def on_resize(self, event: Resize) -> None:
        """Hide the nodes on a narrow terminal, and lay all parts out anew at once."""
        self.screen.set_class(event.size.width < WIDE, "narrow")
        if (
            self.query("#connections") and self._table().columns
        ):  # the first size comes before there is anything to show
            self.refresh_figures()
            self.screen.refresh(layout=True)

    def _show_only(self, part: str | None) -> None:
        self._maximised = part
        self.screen.set_class(part is not None, "one")
        for other in PARTS:
            self.screen.set_class(other == part, other)

    @on(Input.Changed)
    def filter_changed(self, event: Input.Changed) -> None:
        """List the connections that match, in the server's order."""
        self._filter = event.value.strip().lower()
        if not self.query("#connections"):
            return  # the application is closing
        self._table().clear()
        self._rows.clear()
        self._list(self._live.state.value)

    def _leave_filter(self) -> None:
        """Move the focus from the filter to the list, so that keys are shortcuts again."""
        self._typing = False
        self.screen.set_focus(self._table())

    def _insert(self, text: str) -> None:
        """Insert a text at the filter's cursor, in place of what is selected."""
        field = self._field()
        field.replace(text, *field.selection)

    def _field(self) -> Input:
        return self.query_one("#filter", Input)

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
        if state.stats.absences:
            known = all(absence.total is not None for absence in state.stats.absences)
            number = f"{state.stats.unaccounted:,}" if known or state.stats.unaccounted else "unknown number"
            text.append(f"  {number} unaccounted", style="bold yellow")
            text.append(f" ({_absent_nodes(state.stats.absences)})", style="yellow")
        if away := sum(state.stats.away.values()):
            text.append(f"  {away:,} broke off, may return", style="yellow")
        if state.error:
            text.append(f"  {printable(state.error)}", style="red")
            return text
        served = _nodes_by_version(nodes)
        if state.current_version is not None:
            text.append(f"  current: {printable(state.current_version)}")
            if len(nodes.versions or ()) > 1:
                text.append(f" (nodes by version {served})", style="yellow")
        elif state.authorized and nodes.versions:
            release = state.stats.release
            text.append("  current: unknown", style="bold yellow")
            if release is not None and release.state == "orphaned":
                text.append(f", no node serves {printable(release.version or '')}, which was declared", style="yellow")
            text.append(f" (nodes by version {served})", style="yellow")
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
        elif stats.total and stats.nodes.versions:
            text.append("outdated: unknown", style="yellow")
        return text

    def _list(self, state: LiveState) -> None:
        """Update the list; only rows that changed are redrawn."""
        table = self._table()
        text = self._filter
        rows = [row for row in state.stats.connections if not text or matches(row, text)]
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
        count = f"{len(rows):,} match" if text else f"{listed:,} of {total:,}" if listed < total else f"{total:,}"
        table.border_title = f"Connections: {count if state.authorized else '…'}"


def _nodes_by_version(nodes: Nodes) -> str:
    """Return how many nodes serve each version; `unknown` are those that do not say."""
    counts = sorted(nodes.by_version.items(), key=lambda item: (item[0] == UNKNOWN, item[0]))
    return printable(", ".join(f"{version}: {count:,}" for version, count in counts))


def _absent_nodes(absences: Sequence[Absence]) -> str:
    """Return the nodes whose connections are unaccounted for, each with the time when it was heard last."""
    nodes = [
        f"{printable(absence.node)} since {strftime('%H:%M:%S', localtime(absence.since / 1000))}"
        if absence.since
        else printable(absence.node)
        for absence in absences[:MAX_ABSENT_NODES]
    ]
    more = len(absences) - len(nodes)
    return f"{', '.join(nodes)}, {more:,} more" if more else ", ".join(nodes)


def matches(row: ConnectionInfo, text: str) -> bool:
    """Return whether a field of a connection contains a text in lower case."""
    return any(text in part.lower() for part in (row.id, row.version, row.route, row.ip or ""))


def cells(row: ConnectionInfo) -> tuple[str, str, str, str]:
    """Return a row's cells. An id is cut to its end, which is unique; its start is the same for all of a node."""
    return row.id[-8:], printable(row.version)[:40], printable(row.route)[:80], row.ip or ""
