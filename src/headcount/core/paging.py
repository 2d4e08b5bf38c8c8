"""
Pages of connections in an order: the portion of one node, and one page out of the portions of all.

Rows are in the order of `(value, id)`, which no two of them share. So a page begins after the last row of the one
before it, wherever that row is by then, and nothing has to be remembered between two pages. Values are compared as
text, by code point; a connection without an address comes before those that have one.

Source: protocol/README.md#asking-for-the-figures-once
"""

from collections.abc import Callable, Iterable
from heapq import nlargest, nsmallest
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Final, NamedTuple, TypeAlias

from ..errors import Malformed
from .labels import MAX_ROUTE
from .stats import ConnectionInfo

Position: TypeAlias = tuple[str, str]
"""`(value, id)` of a row: where it stands in its order."""

_POSITIONS: Final[dict[str, Callable[[ConnectionInfo], Position]]] = {
    "id": attrgetter("id", "id"),
    "version": attrgetter("version", "id"),
    "route": attrgetter("route", "id"),
    "ip": lambda row: (row.ip or "", row.id),
}

_MAX_ID: Final = 64


class Order(NamedTuple):
    """What rows are sorted by: a field of theirs."""

    by: str
    descending: bool

    def __str__(self) -> str:
        """Return what `parse_order` reads."""
        return f"-{self.by}" if self.descending else self.by

    def position(self, row: ConnectionInfo) -> Position:
        """Return where a row stands."""
        return _POSITIONS[self.by](row)

    def is_after(self, one: Position, other: Position) -> bool:
        """Say whether `one` comes later than `other`."""
        return one < other if self.descending else one > other


def parse_order(text: str) -> Order:
    """
    Read `version`, or `-version` for the other way round.

    Raises:
        Malformed: There is no such field.
    """
    order = Order(text.removeprefix("-"), text.startswith("-"))
    if order.by not in _POSITIONS:
        raise Malformed(f"sort is {text[:40]!r}; write {', '.join(_POSITIONS)}, or one of them with - before it.")
    return order


def write_cursor(order: Order, row: ConnectionInfo) -> str:
    """Return what names the page after this row."""
    value, connection_id = order.position(row)
    return f"{order}:{connection_id}:{value}"


def read_cursor(text: str, order: Order) -> Position:
    """
    Return where the page begins: after this.

    Raises:
        Malformed: It was not written for this order.
    """
    written_for, _, rest = text.partition(":")
    connection_id, colon, value = rest.partition(":")
    if written_for != str(order) or not colon or len(connection_id) > _MAX_ID or len(value) > MAX_ROUTE:
        raise Malformed(
            f"cursor is {text[:40]!r}; give the cursor of the previous page with the same sort, or leave it "
            "out for the first page."
        )
    return value, connection_id


class Cursor(NamedTuple):
    """Where a page of unsorted connections begins: after a position in a node."""

    node: str
    after: int


START: Final = Cursor("", 0)
"""Of the first page."""


class LocalPage(NamedTuple):
    """A page of one node's connections, oldest first."""

    rows: list[ConnectionInfo]
    next: int | None
    """Where the next page begins; None: this was the last."""


class ConnectionPage(NamedTuple):
    """A page of the connections of all nodes, node by node."""

    rows: list[ConnectionInfo]
    cursor: Cursor | None
    """Where the next page begins; None: this was the last."""
    partial: bool
    """A node did not answer."""


class SortedRows(NamedTuple):
    """The first connections after a position in an order, of one node or of all."""

    rows: list[ConnectionInfo]
    more: bool
    """There are others after those."""
    partial: bool = False
    """A node did not answer."""


class Selection:
    """
    The first rows after a position. Rows may be fed in portions of any size, so that no stream waits for all.

    Args:
        order: Of the rows.
        limit: How many are wanted.
        after: None: from the beginning.
    """

    def __init__(self, order: Order, limit: int, after: Position | None = None) -> None:
        self._order = order
        self._limit = limit
        self._after = after
        self._found: list[tuple[Position, ConnectionInfo]] = []

    def feed(self, rows: Iterable[ConnectionInfo]) -> None:
        """Take rows into account. O(rows)."""
        position, is_after, after = self._order.position, self._order.is_after, self._after
        placed = ((position(row), row) for row in rows)
        coming = placed if after is None else (each for each in placed if is_after(each[0], after))
        choose = nlargest if self._order.descending else nsmallest
        self._found = choose(self._limit + 1, chain(self._found, coming), key=itemgetter(0))

    @property
    def rows(self) -> list[ConnectionInfo]:
        """The first `limit` of them, in order."""
        return [row for _, row in self._found[: self._limit]]

    @property
    def more(self) -> bool:
        """There are others after those."""
        return len(self._found) > self._limit


class Merge:
    """
    One page out of portions of many nodes, each of which is sorted and begins after the same position.

    Args:
        order: Of the rows.
        limit: How many are wanted.
    """

    def __init__(self, order: Order, limit: int) -> None:
        self._order = order
        self._selection = Selection(order, limit)
        self._limit = limit
        self._ends: dict[str, Position] = {}
        """Of nodes that have more: where their last portion ends."""

    def feed(self, node: str, rows: list[ConnectionInfo], *, more: bool) -> None:
        """Take a node's next portion into account."""
        self._selection.feed(rows)
        if more and rows:
            self._ends[node] = self._order.position(rows[-1])
        else:
            self._ends.pop(node, None)

    def wanted(self) -> dict[str, Position]:
        """
        Return the nodes whose next portion may belong to the page, and after what it begins; none: the page is whole.

        A node that sent `limit` rows is never among them.
        """
        rows = self._selection.rows
        if len(rows) < self._limit:
            return dict(self._ends)
        last = self._order.position(rows[-1])
        return {node: end for node, end in self._ends.items() if self._order.is_after(last, end)}

    @property
    def rows(self) -> list[ConnectionInfo]:
        """The page."""
        return self._selection.rows

    @property
    def more(self) -> bool:
        """There is a page after it."""
        return self._selection.more or bool(self._ends)
