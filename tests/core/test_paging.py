"""Sorted pages: in portions, over many nodes, while rows come and go, they are what sorting everything gives."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.paging import Merge, Order, Position, Selection, parse_order, read_cursor, write_cursor
from headcount.core.stats import ConnectionInfo
from headcount.errors import Malformed

orders = st.builds(Order, st.sampled_from(["id", "version", "route", "ip"]), st.booleans())
texts = st.sampled_from(["v1", "v2", "(other)", "a:b", "", "/", "/é", "/🦆", "\uffee", "B", "b"])
ips = st.sampled_from([None, "192.0.2.7", "2001:db8::1", ""])


def rows_of() -> st.SearchStrategy[list[ConnectionInfo]]:
    row = st.builds(ConnectionInfo, st.text("0123456789abcdef", min_size=1, max_size=3), texts, texts, ips)
    return st.lists(row, max_size=20, unique_by=lambda row: row.id)


def everything(order: Order, rows: list[ConnectionInfo]) -> list[ConnectionInfo]:
    """Sorted by what the protocol says, independently of `Order`."""
    return sorted(rows, key=lambda row: (getattr(row, order.by) or "", row.id), reverse=order.descending)


@given(orders, rows_of(), st.integers(1, 7), st.integers(1, 5))
def test_pages_one_after_the_other_are_everything_in_order(
    order: Order, rows: list[ConnectionInfo], limit: int, slice_length: int
) -> None:
    found: list[ConnectionInfo] = []
    after: Position | None = None
    while True:
        selection = Selection(order, limit, after)
        for start in range(0, len(rows), slice_length):
            selection.feed(rows[start : start + slice_length])
        assert len(selection.rows) <= limit
        found += selection.rows
        if not selection.more:
            break
        after = read_cursor(write_cursor(order, selection.rows[-1]), order)
        assert after == order.position(selection.rows[-1])
    assert found == everything(order, rows)


@given(orders, rows_of(), st.integers(1, 7), st.integers(1, 3), st.data())
def test_a_page_over_many_nodes_is_a_page_of_all_their_rows(
    order: Order, rows: list[ConnectionInfo], limit: int, portion: int, data: st.DataObject
) -> None:
    nodes: dict[str, list[ConnectionInfo]] = {name: [] for name in "abc"}
    for row in rows:
        nodes[data.draw(st.sampled_from("abc"))].append(row)
    merge = Merge(order, limit)
    asked: dict[str, Position | None] = dict.fromkeys(nodes)
    told = 0
    for _ in range(5):
        for node, after in asked.items():
            selection = Selection(order, portion, after)
            selection.feed(nodes[node])
            told += len(selection.rows)
            merge.feed(node, selection.rows, more=selection.more)
        asked = {**merge.wanted()}
        portion = min(limit, 2 * portion)
        if not asked:
            break
    assert not asked, "twice as much each time, all have soon told enough"
    assert merge.rows == everything(order, rows)[:limit]
    assert merge.more == (len(rows) > limit)


def test_a_node_that_has_nothing_for_the_page_is_asked_once() -> None:
    order = parse_order("version")
    merge = Merge(order, 4)
    merge.feed("a", [ConnectionInfo("a1", "v1", "/"), ConnectionInfo("a2", "v1", "/")], more=True)
    merge.feed("b", [ConnectionInfo("b1", "v8", "/"), ConnectionInfo("b2", "v9", "/")], more=True)
    assert merge.wanted() == {"a": ("v1", "a2")}
    merge.feed("a", [ConnectionInfo("a3", "v1", "/"), ConnectionInfo("a4", "v2", "/")], more=True)
    assert merge.wanted() == {}
    assert [row.id for row in merge.rows] == ["a1", "a2", "a3", "a4"]
    assert merge.more


def test_a_node_that_says_that_it_has_more_and_tells_nothing_is_not_asked_for_ever() -> None:
    merge = Merge(parse_order("id"), 4)
    merge.feed("a", [], more=True)
    assert merge.wanted() == {}
    assert (merge.rows, merge.more) == ([], False)


@pytest.mark.parametrize("text", ["id", "-id", "version", "-version", "route", "-route", "ip", "-ip"])
def test_an_order_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_order(text)) == text


@pytest.mark.parametrize("text", ["", "-", "--id", "Id", "hidden", "id,version", "__class__", "x" * 5000])
def test_an_order_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match=re.escape(f"sort is {text[:40]!r}; write id, version, route, ip")):
        parse_order(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "abc:5",
        "version",
        "version:",
        "version:c1",
        "-version:c1:v1",
        "route:c1:v1",
        "version:" + "c" * 65 + ":v1",
        "version:c1:" + "v" * 513,
    ],
)
def test_a_cursor_of_another_list_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="with the same sort"):
        read_cursor(text, parse_order("version"))
