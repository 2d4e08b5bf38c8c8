"""The difference of two snapshots by comparing them: what the deltas of the server must equal."""

from collections.abc import Mapping
from typing import TypeVar

from headcount.core.stats import Stats, StatsDelta, is_move

T = TypeVar("T")


def diff(before: Stats, after: Stats) -> StatsDelta:
    """Return what changed from `before` to `after`, so that `apply(before, diff(before, after)) == after`."""
    rows = {row.id: row for row in before.connections}
    kept = {row.id for row in after.connections}
    changed = tuple(row for row in after.connections if rows.get(row.id) != row)
    return StatsDelta(
        base=before.revision,
        revision=after.revision,
        total=after.total,
        versions=_diff_counts(before.versions, after.versions),
        routes=_diff_counts(before.routes, after.routes),
        set=changed,
        removed=tuple(row.id for row in before.connections if row.id not in kept),
        connections_truncated=_changed(before.connections_truncated, after.connections_truncated),
        nodes=_changed(before.nodes, after.nodes),
        partial=_changed(before.partial, after.partial),
        absences=_changed(before.absences, after.absences),
        release=_changed(before.release, after.release),
        moved=frozenset(row.id for row in changed if is_move(rows.get(row.id), row)),
    )


def _diff_counts(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    changed = {key: count for key, count in after.items() if before.get(key) != count}
    changed.update(dict.fromkeys(before.keys() - after.keys(), 0))
    return changed


def _changed(before: T, after: T) -> T | None:
    return None if before == after else after
