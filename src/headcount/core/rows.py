"""
A bounded choice of rows out of many, kept up to date in O(1) for each row that comes or goes.

    shown  {id: ConnectionInfo}  the choice, at most `limit`, in the order in which they came into it
    spare  {id: ConnectionInfo}  those who come next when a shown one goes, at most `spare_limit`

Rows beyond both are forgotten, and `dropped` says so: only their owner can name them again.
"""

from .labels import MAX_ROUTE, MAX_VERSION, may_be_shown
from .stats import ConnectionInfo, is_move


class Rows:
    """
    See above.

    Args:
        limit: Rows shown.
        spare_limit: Rows kept to fill gaps with.
    """

    __slots__ = ("_before", "_spare_limit", "dropped", "limit", "shown", "spare")

    def __init__(self, limit: int, spare_limit: int) -> None:
        self.shown: dict[str, ConnectionInfo] = {}
        self.spare: dict[str, ConnectionInfo] = {}
        self.dropped = False
        self.limit = limit
        self._spare_limit = spare_limit
        self._before: dict[str, ConnectionInfo | None] = {}
        """`{id: row as it was at the last take(), None: it was not shown}`, of rows that changed since."""

    def __contains__(self, connection_id: object) -> bool:
        return connection_id in self.shown or connection_id in self.spare

    def put(self, row: ConnectionInfo) -> bool:
        """Take a row in, or replace it. Returns whether it is kept."""
        before = self.shown.get(row.id)
        if before is not None:
            if before != row:
                self._before.setdefault(row.id, before)
                self.shown[row.id] = row
        elif row.id in self.spare or len(self.shown) >= self.limit:
            if row.id not in self.spare and len(self.spare) >= self._spare_limit:
                self.dropped = True
                return False
            self.spare[row.id] = row
        else:
            self._show(row)
        return True

    def drop(self, connection_id: str) -> None:
        """Take a row out, if it is there; a spare one moves up."""
        if self.spare.pop(connection_id, None) is not None:
            return
        before = self.shown.pop(connection_id, None)
        if before is None:
            return
        self._before.setdefault(connection_id, before)
        self._fill()

    def grow(self, limit: int) -> None:
        """Show up to `limit`, if that is more than now."""
        self.limit = max(self.limit, limit)
        while self.spare and len(self.shown) < self.limit:
            self._fill()

    def take(self) -> tuple[list[ConnectionInfo], list[str], list[str]]:
        """
        Return the rows shown that are new or changed since the last call, the ids of those gone, and the ids of those
        that have only another route. O(changes).
        """
        changed: list[ConnectionInfo] = []
        removed: list[str] = []
        moved: list[str] = []
        for connection_id, before in self._before.items():
            row = self.shown.get(connection_id)
            if row is None:
                if before is not None:
                    removed.append(connection_id)
            elif row != before:
                changed.append(row)
                if is_move(before, row):
                    moved.append(connection_id)
        self._before = {}
        return changed, removed, moved

    def take_touched(self) -> tuple[list[ConnectionInfo], list[str]]:
        """
        Return the rows shown that came or changed since the last call, and the ids of those that went.

        Also of rows that are again as they were, and of those that came and went: for readers that may have seen any
        state in between. O(changes).
        """
        shown = [self.shown[connection_id] for connection_id in self._before if connection_id in self.shown]
        gone = [connection_id for connection_id in self._before if connection_id not in self.shown]
        self._before = {}
        return shown, gone

    def forget_changes(self) -> None:
        """Let the next `take()` start from here."""
        self._before = {}

    def _fill(self) -> None:
        if self.spare:
            self._show(self.spare.pop(next(iter(self.spare))))

    def _show(self, row: ConnectionInfo) -> None:
        self._before.setdefault(row.id, None)
        self.shown[row.id] = row


def plausible(row: ConnectionInfo, node: str) -> bool:
    """
    Say whether a row that another node sent can be one of its own: no longer, and of no other characters, than ours.

    One that is not its own could take another node's out of a list.
    """
    ip = row.ip or ""
    return (
        row.id.startswith(node)
        and (len(row.id) <= 64 and len(row.version) <= MAX_VERSION and len(row.route) <= MAX_ROUTE and len(ip) <= 64)
        and (row.id.isascii() and row.id.isalnum())
        and (may_be_shown(row.version) and may_be_shown(row.route) and may_be_shown(ip))
    )
