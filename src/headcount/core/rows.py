"""
A bounded choice of rows out of many, kept up to date in O(1) for each row that comes or goes.

    shown  {id: entry}  the choice, at most `limit`, in the order in which the entries came into it
    spare  {id: entry}  the entries that move up, oldest first, when a shown one goes; at most `spare_limit`

An entry is a row (`Rows`), or something that has one (`Registry`). A row beyond both is not kept, and `overflowed` says
so: only its owner can name it again.

Tests: tests/core/test_registry.py, tests/core/test_fleet_figures.py, tests/core/test_publication.py.
"""

from typing import Generic, NamedTuple, TypeVar

from .labels import MAX_ROUTE, is_version, may_be_shown
from .stats import ConnectionInfo, is_move

Entry = TypeVar("Entry")


class RowChanges(NamedTuple):
    """
    What changed in a choice of rows.

    Attributes:
        set: Rows that are new in it or changed.
        removed: Ids of those gone.
        moved: Ids of those in `set` that have only another route.
    """

    set: tuple[ConnectionInfo, ...]
    removed: tuple[str, ...]
    moved: frozenset[str]


class RowChoice(Generic[Entry]):
    """
    The choice, for any kind of entry. Notes no changes until `note_changes` is called.

    Args:
        limit: Entries shown.
        spare_limit: Entries kept to fill gaps with; None: all.
    """

    __slots__ = ("_before", "_spare_limit", "limit", "overflowed", "shown", "spare")

    def __init__(self, limit: int, spare_limit: int | None) -> None:
        self.shown: dict[str, Entry] = {}
        self.spare: dict[str, Entry] = {}
        self.overflowed = False
        self.limit = limit
        self._spare_limit = spare_limit
        self._before: dict[str, ConnectionInfo | None] | None = None
        """`{id: row as it was at the last `pop_changes()`, None: it was not shown}`, of rows that changed since."""

    def row_of(self, entry: Entry) -> ConnectionInfo:
        """Return the row of an entry."""
        raise NotImplementedError

    def __contains__(self, connection_id: object) -> bool:
        return connection_id in self.shown or connection_id in self.spare

    def __len__(self) -> int:
        return len(self.shown) + len(self.spare)

    def add(self, connection_id: str, entry: Entry) -> bool:
        """Add an entry whose id is new. Returns whether it is kept. O(1)."""
        if len(self.shown) < self.limit:
            if self._before is not None:
                self._before.setdefault(connection_id, None)
            self.shown[connection_id] = entry
        elif self._spare_limit is not None and len(self.spare) >= self._spare_limit:
            self.overflowed = True
            return False
        else:
            self.spare[connection_id] = entry
        return True

    def note(self, connection_id: str, entry: Entry) -> None:
        """Note what an entry is now. To be called before its row changes."""
        if self._before is not None and connection_id in self.shown:
            self._before.setdefault(connection_id, self.row_of(entry))

    def pop(self, connection_id: str) -> Entry | None:
        """Remove an entry and return it; a spare one moves up. None: there was no such entry. O(1)."""
        entry = self.spare.pop(connection_id, None)
        if entry is None:
            entry = self.shown.pop(connection_id, None)
            if entry is not None:
                if self._before is not None:
                    self._before.setdefault(connection_id, self.row_of(entry))
                if self.spare:
                    self._fill()
        return entry

    def grow(self, limit: int) -> None:
        """Show up to `limit` entries, if that is more than now."""
        self.limit = max(self.limit, limit)
        while self.spare and len(self.shown) < self.limit:
            self._fill()

    def note_changes(self, *, on: bool) -> None:
        """Start afresh to note changes, or stop and forget them."""
        self._before = {} if on else None

    def pop_changes(self) -> RowChanges:
        """Return what changed in the choice since the last call. O(changes)."""
        changed: list[ConnectionInfo] = []
        removed: list[str] = []
        moved: list[str] = []
        for connection_id, before in (self._before or {}).items():
            entry = self.shown.get(connection_id)
            if entry is None:
                if before is not None:
                    removed.append(connection_id)
                continue
            row = self.row_of(entry)
            if row != before:
                changed.append(row)
                if is_move(before, row):
                    moved.append(connection_id)
        self._before = {}
        return RowChanges(tuple(changed), tuple(removed), frozenset(moved))

    def _fill(self) -> None:
        connection_id = next(iter(self.spare))
        if self._before is not None:
            self._before.setdefault(connection_id, None)
        self.shown[connection_id] = self.spare.pop(connection_id)


class Rows(RowChoice[ConnectionInfo]):
    """A choice whose entries are the rows themselves."""

    __slots__ = ()

    def row_of(self, entry: ConnectionInfo) -> ConnectionInfo:
        """Return the entry."""
        return entry

    def put(self, row: ConnectionInfo) -> bool:
        """Add a row, or replace it. Returns whether it is kept. O(1)."""
        before = self.shown.get(row.id)
        if before is not None:
            if before != row:
                self.note(row.id, before)
                self.shown[row.id] = row
            return True
        if row.id in self.spare:
            self.spare[row.id] = row
            return True
        return self.add(row.id, row)

    def pop_touched(self) -> tuple[list[ConnectionInfo], list[str]]:
        """
        Return the rows shown that came or changed since the last call, and the ids of those that went.

        Also of rows that are again as they were, and of those that came and went: for readers that may have seen any
        state in between. O(changes).
        """
        touched, self._before = self._before or {}, {}
        shown = [self.shown[connection_id] for connection_id in touched if connection_id in self.shown]
        return shown, [connection_id for connection_id in touched if connection_id not in self.shown]


def is_valid_row(row: ConnectionInfo, node: str) -> bool:
    """
    Say whether a row that another node sent can be one of its own: no longer, and of no other characters, than ours.

    A row of a third node could take that node's row out of a list.
    """
    ip = row.ip or ""
    return (
        row.id.startswith(node)
        and (len(row.id) <= 64 and len(row.route) <= MAX_ROUTE and len(ip) <= 64)
        and (row.id.isascii() and row.id.isalnum())
        and (is_version(row.version) and may_be_shown(row.route) and may_be_shown(ip))
    )
