"""The dashboard's own behaviour, key by key, with figures that are put into it."""

import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from textual.events import Key, Paste
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from headcount.client import RemoteConnections, use_active_connections
from headcount.core.current_version import CurrentRelease
from headcount.core.stats import Absence, ConnectionInfo, Nodes, NodeShare, Stats
from headcount.errors import Refused
from headcount.tools import top
from headcount.tools.terminal import printable
from headcount.tools.top import Top, matches
from headcount.tools.top_widgets import Counts, Curve, Mark

pytestmark = pytest.mark.anyio

ROWS = (
    ConnectionInfo("node0001aaaa", "v1", "/shopping", "192.0.2.7"),
    ConnectionInfo("node0002bbbb", "v2", "/"),
    ConnectionInfo("node0003cccc", "v2", "/checkout\u202e"),
)


MIXED = Stats(total=3, versions={"v1": 3}, nodes=Nodes(3, 3, {"v2": 2, "v1": 1}))
ORPHANED = Stats(total=3, nodes=Nodes(3, 3, {"v1": 2}), release=CurrentRelease("orphaned", "v2"))
SHARES = [
    NodeShare("node", 2, reporting=True, silent=0.0, version="v1"),
    NodeShare("other", 0, reporting=False, silent=6.2),
]


async def two_nodes() -> list[NodeShare]:
    return SHARES


async def no_nodes() -> list[NodeShare]:
    raise Refused("No Headcount at https://shop.example/__skew.")


def dashboard(
    monkeypatch: pytest.MonkeyPatch,
    fetch_nodes: Callable[[], Coroutine[Any, Any, list[NodeShare]]] = no_nodes,
    **changes: Any,
) -> tuple[Top, RemoteConnections]:
    live = use_active_connections("https://shop.example")

    async def open_nothing() -> RemoteConnections:
        return live

    monkeypatch.setattr(live, "open", open_nothing)
    show(live, **changes)
    return Top(live, fetch_nodes), live


def show(live: RemoteConnections, **changes: Any) -> None:
    stats = Stats(total=3, versions={"v1": 1, "v2": 2}, routes={"/shopping": 1, "/": 2}, connections=ROWS, revision=1)
    live._store.set(**{"stats": stats, "authorized": True, "status": "open", "current_version": "v2", **changes})


def status(app: Top) -> str:
    return str(app.query_one("#status", Static).content)


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (40, 12)])
async def test_everything_has_its_place(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    app, _ = dashboard(monkeypatch)
    async with app.run_test(size=size) as pilot:
        app.refresh_figures()
        await pilot.pause()
        for part in ("#status", "#number", "#versions", "#routes", "#connections"):
            region = app.query_one(part).region
            assert region.width > 0
            assert region.height > 0
        assert "shop.example  live  current: v2" in status(app)
        assert "3 connections" in str(app.query_one("#number", Static).content)
        assert app.query_one("#connections", DataTable).row_count == 3


async def test_filter_lists_what_matches_and_escape_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    app, live = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        app.refresh_figures()
        await pilot.press("/", *"SHOP")
        table = app.query_one("#connections", DataTable)
        assert table.row_count == 1
        assert table.border_title == "Connections: 1 match"
        show(live, stats=Stats(total=1, connections=ROWS[1:2], revision=2))
        app.refresh_figures()
        assert table.row_count == 0
        await pilot.press("escape")
        assert table.row_count == 1
        assert app.focused is table


async def settle(pilot: Pilot[Any], done: Callable[[], bool]) -> None:
    """Wait until the keys have had their effect; a pause ends earlier on a busy machine."""
    deadline = time.monotonic() + 30
    await pilot.pause()
    while not done() and time.monotonic() < deadline:
        await pilot.pause(0.01)


def type_at_once(app: Top, *keys: str) -> None:
    """Press keys without a pause, as a fast typist or a terminal without bracketed paste does."""
    names = {"/": "slash", " ": "space"}
    for key in keys:
        character = key.removeprefix("alt+")
        app.post_message(Key(names.get(key, key), character if len(character) == 1 else None))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["/", "q"], "q"),
        (["/", *"/products/1"], "/products/1"),
        (["/", *"vrnc q"], "vrnc q"),
        (["/", "v", "backspace", "r", "left", "x"], "xr"),
        (["/", "a", "escape", "/", "b"], "b"),
        (["escape", "/", "n"], "n"),
        (["/", "a", "enter", "/", "n"], "an"),
        (["v", "v", "/", "q"], "q"),
    ],
    ids=repr,
)
async def test_keys_after_the_slash_go_to_the_filter_at_any_speed(
    monkeypatch: pytest.MonkeyPatch, keys: list[str], value: str
) -> None:
    app, _ = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        type_at_once(app, *keys)
        await settle(pilot, lambda: app._filter == value)
        assert app.is_running
        assert app.query_one("#filter", Input).value == value
        assert app.query_one("#filter").region.height > 0
        assert app._filter == value
        assert shown(app) == ["#versions", "#routes", "#connections"]
        assert "PAUSED" not in status(app)


async def test_the_focus_that_comes_late_leaves_the_first_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        type_at_once(app, "/", "v")
        await pilot.pause()
        type_at_once(app, "2")
        await settle(pilot, lambda: app._filter == "v2")
        assert app._filter == "v2"


@pytest.mark.parametrize("end", ["enter", "tab", "shift+tab", "escape", "alt"])
async def test_keys_after_the_filter_are_shortcuts_at_any_speed(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    app, _ = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        type_at_once(app, "/", *"v2", *(["alt+c"] if end == "alt" else [end, "c"]))
        cleared = end in ("escape", "alt")
        await settle(pilot, lambda: shown(app) == ["#connections"])
        assert app._filter == ("" if cleared else "v2")
        assert (app.query_one("#filter").region.height > 0) is not cleared
        assert shown(app) == ["#connections"]
        assert app.focused is app.query_one("#connections")


async def test_pasted_text_is_a_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        app.post_message(Paste("/shopping\nq"))
        app.post_message(Key("x", "x"))
        await settle(pilot, lambda: app._filter == "/shoppingx")
        assert app._filter == "/shoppingx"
        type_at_once(app, "escape", "/", "v")
        app.post_message(Paste("1"))
        await settle(pilot, lambda: app._filter == "v1")
        assert app._filter == "v1"
        type_at_once(app, "escape")
        app.post_message(Paste("\n"))
        await settle(pilot, lambda: app.query_one("#filter").region.height == 0)
        assert app.query_one("#filter").region.height == 0, "there is nothing to filter by"


async def test_a_click_decides_where_keys_go(monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("/", *"v2")
        await pilot.click("#connections")
        type_at_once(app, "c")
        await settle(pilot, lambda: shown(app) == ["#connections"])
        assert shown(app) == ["#connections"]
        await pilot.click("#filter", offset=(20, 1))
        type_at_once(app, "c")
        await settle(pilot, lambda: app._filter == "v2c")
        assert app._filter == "v2c"


async def test_rows_follow_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    app, live = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)):
        app.refresh_figures()
        moved = ConnectionInfo(ROWS[0].id, "v1", "/moved")
        new = ConnectionInfo("node0004dddd", "v3", "/new")
        show(live, stats=Stats(total=900, connections=(moved, new), connections_truncated=True, revision=2))
        app.refresh_figures()
        table = app.query_one("#connections", DataTable)
        shown = {tuple(map(str, table.get_row(key))) for key in table.rows}
        assert shown == {("0001aaaa", "v1", "/moved", ""), ("0004dddd", "v3", "/new", "")}
        assert table.border_title == "Connections: 2 of 900"


SINCE = 1_764_338_531_000
HEARD = time.strftime("%H:%M:%S", time.localtime(SINCE / 1000))


async def test_connections_that_are_unaccounted_for_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    app, live = dashboard(monkeypatch)
    async with app.run_test(size=(120, 24)):
        app.refresh_figures()
        assert "unaccounted" not in status(app)
        for absences, says in (
            (
                (Absence("one", 4, since=SINCE), Absence("two", 1_200, state="leaving", since=SINCE + 5_000)),
                f"1,204 unaccounted (one since {HEARD}, two since {HEARD[:-1]}6)",
            ),
            ((Absence("one", None, state="cut-off"),), "unknown number unaccounted (one)"),
            ((Absence("one", None), Absence("two", 7)), "7 unaccounted (one, two)"),
            (tuple(Absence(node, 1) for node in "abcd"), "4 unaccounted (a, b, 2 more)"),
        ):
            show(live, stats=Stats(total=3, partial=True, absences=absences, revision=2))
            app.refresh_figures()
            assert f"PARTIAL  {says}  current: v2" in status(app)


async def test_a_part_can_have_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        assert shown(app) == ["#versions", "#routes", "#connections"]
        for key, part in (("v", "#versions"), ("r", "#routes"), ("n", "#nodes"), ("c", "#connections")):
            await pilot.press(key)
            assert shown(app) == [part]
            assert app.query_one("#status").display, "what says how it stands stays in sight"
            await pilot.press(key)
            assert shown(app) == ["#versions", "#routes", "#connections"]
        await pilot.press("v", "r")
        assert shown(app) == ["#routes"]
        await pilot.press("escape")
        assert shown(app) == ["#versions", "#routes", "#connections"]
        await pilot.press("c", "/", *"shop")
        assert app.query_one("#filter").region.height > 0, "it is seen what is typed"
        assert app.query_one("#connections", DataTable).row_count == 1


def shown(app: Top) -> list[str]:
    parts = ("#versions", "#routes", "#nodes", "#connections")
    return [part for part in parts if app.query_one(part).region.height > 0]


async def test_rows_stay_in_order_when_a_filter_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        app.refresh_figures()
        table = app.query_one("#connections", DataTable)
        before = [key.value for key in table.rows]
        await pilot.press("/", *"v2")
        assert [key.value for key in table.rows] == before[1:]
        await pilot.press("escape")
        assert [key.value for key in table.rows] == before == [row.id for row in ROWS]


@pytest.mark.parametrize(("width", "keys", "seen"), [(120, (), True), (80, (), False), (80, ("n",), True)])
async def test_nodes_are_shown_where_there_are_several_and_room(
    monkeypatch: pytest.MonkeyPatch, width: int, keys: tuple[str, ...], seen: bool
) -> None:
    stats = Stats(total=2, partial=True, nodes=Nodes(1, 2))
    app, _ = dashboard(monkeypatch, two_nodes, stats=stats)
    async with app.run_test(size=(width, 24)) as pilot:
        app.refresh_figures()
        await pilot.press(*keys)
        await pilot.pause()
        assert ("#nodes" in shown(app)) is seen
        app.refresh_figures()
        await app.workers.wait_for_complete([worker for worker in app.workers if worker.group == "nodes"])
        panel = app.query_one("#nodes", Counts)
        assert panel._counts == ({"node v1": 2, "other unknown": 0} if seen else {})
        assert panel._marks == ({"other unknown": Mark("silent 6 s", "yellow")} if seen else {})


async def test_nodes_that_cannot_be_had_are_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("n")
        app.refresh_figures()
        await app.workers.wait_for_complete([worker for worker in app.workers if worker.group == "nodes"])
        assert "No Headcount" in str(app.query_one("#nodes").border_subtitle)


async def test_ctrl_c_ends_it_as_it_ends_other_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("/", "ctrl+c")
        await pilot.pause()
    assert (app.return_value, app.return_code) == (None, 130)


async def test_pause_holds_the_picture_still(monkeypatch: pytest.MonkeyPatch) -> None:
    app, live = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        app.refresh_figures()
        await pilot.press("space")
        show(live, stats=Stats(total=7, revision=2))
        app.refresh_figures()
        assert "PAUSED" in status(app)
        assert "3 connections" in str(app.query_one("#number", Static).content)
        await pilot.press("space")
        assert "7 connections" in str(app.query_one("#number", Static).content)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "connecting", "authorized": None}, "connecting"),
        (
            {"status": "reconnecting", "is_stale": True, "error": "No.\x1b[2J"},
            "RECONNECTING, figures are 12 s old  No.�[2J",
        ),
        ({"status": "open", "is_stale": True}, "catching up"),
        ({"stats": Stats(partial=True, nodes=Nodes(4, 5))}, "PARTIAL  4 of 5 nodes"),
        ({"stats": MIXED, "current_version": None}, "current: unknown (nodes by version v1: 1, v2: 2)"),
        ({"stats": MIXED, "current_version": "v2"}, "current: v2 (nodes by version v1: 1, v2: 2)"),
        (
            {"stats": ORPHANED, "current_version": None},
            "current: unknown, no node serves v2, which was declared (nodes by version v1: 2, unknown: 1)",
        ),
    ],
)
async def test_what_colour_says_a_word_says_too(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    app, _ = dashboard(monkeypatch, **changes)
    monkeypatch.setattr(top, "monotonic", lambda: 1_000.0)
    async with app.run_test(size=(80, 24)):
        app._fresh_at = 988.0
        app.refresh_figures()
        assert words in status(app)


async def test_what_is_not_known_is_no_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    app, live = dashboard(
        monkeypatch, status="reconnecting", authorized=None, stats=Stats(), error="There is no such host."
    )
    async with app.run_test(size=(80, 24)):
        app.refresh_figures()
        assert str(app.query_one("#number", Static).content) == "no figures yet"
        assert app.query_one("#connections", DataTable).border_title == "Connections: …"
        for part in ("#versions", "#routes"):
            assert str(app.query_one(part, Counts).render()) == "…"
        show(live, stats=Stats(revision=1))
        app.refresh_figures()
        assert app.query_one("#connections", DataTable).border_title == "Connections: 0"
        assert str(app.query_one("#versions", Counts).render()) == "none"


async def test_a_resize_shows_the_figures_that_came_meanwhile_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    app, live = dashboard(monkeypatch, authorized=None, status="connecting")
    monkeypatch.setattr(top, "REFRESH", 3_600.0)  # nothing but the resize refreshes the figures
    async with app.run_test(size=(80, 24)) as pilot:
        show(live)
        await pilot.resize_terminal(130, 40)
        await settle(pilot, lambda: "3 connections" in str(app.query_one("#number", Static).content))
        assert "3 connections" in str(app.query_one("#number", Static).content)
        await settle(pilot, lambda: app.query_one("#connections").region.right == 130)
        assert app.query_one("#connections").region.right == 130


async def test_losing_the_right_ends_it_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    app, live = dashboard(monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        show(live, authorized=False, error="Your right has ended.")
        app.refresh_figures()
        await pilot.pause()
    assert app.return_value == "Your right has ended."


def text_of(widget: Counts | Curve, monkeypatch: pytest.MonkeyPatch, width: int, height: int) -> str:
    from io import StringIO

    from rich.console import Console
    from textual.geometry import Size

    monkeypatch.setattr(type(widget), "size", Size(width, height))
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(widget.render())
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_counts_that_do_not_fit_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts("Routes", id="routes")
    counts.show({f"/{number}": 100 - number for number in range(20)}, 1_810)
    lines = text_of(counts, monkeypatch, 40, 5).splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("/0")
    assert lines[-1].startswith("… 16 more")


def test_bars_are_drawn_in_eighths_of_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts("Routes", id="routes")
    counts.show({"/half": 32, "/all": 64, "/few": 1}, 64)
    lines = text_of(counts, monkeypatch, 40, 5).splitlines()
    assert [line.split()[3] for line in lines] == ["████████", "████", "▏"]


def test_curve_is_drawn_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = Curve(id="curve")
    curve.show([0, 8, 16, 15])
    assert text_of(curve, monkeypatch, 4, 2).splitlines() == ["  █▇", " ███"]
    curve.show([16, None, 16, 16])
    assert text_of(curve, monkeypatch, 4, 2).splitlines() == ["█ ██", "█ ██"], "where nothing was known is a gap"
    curve.show([0, 0])
    assert text_of(curve, monkeypatch, 4, 2).split() == []


def test_small_parts() -> None:
    assert printable("a\u202eb\x1b") == "a�b�"
    assert matches(ROWS[0], "192.0.2")
    assert not matches(ROWS[1], "192.0.2")
