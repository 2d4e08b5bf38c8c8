"""
Counts by label: at most so many labels apart, the rest under `(other)`.

    LabelCounts   counts one at a time; the caller remembers under which label each was counted
    LabelSums     adds what several nodes report, and remembers what `(other)` consists of
    bounded       a copy of finished counts with fewer labels

Labels come from visitors, so their number is bounded. `(other)` takes no place of theirs.
"""

from collections.abc import Callable, Iterable, Mapping

from ..errors import Malformed
from .labels import OTHER


class LabelCounts:
    """
    Counts by label, for at most `limit` labels and those of `reserved`; all others are counted under `(other)`.

        counts   {label: count}  counts >= 1

    Args:
        limit: Labels counted apart.
        reserved: Labels that are always counted apart.
    """

    __slots__ = ("_before", "_limit", "_reserved", "_shared", "counts")

    def __init__(self, limit: int, reserved: Iterable[str] = ()) -> None:
        self.counts: dict[str, int] = {}
        self._limit = limit
        self._reserved = frozenset(reserved)
        self._before: dict[str, int] | None = None
        # The one string that all connections under a label hold. Not `sys.intern`, which on some versions of Python
        # keeps what visitors send for ever.
        self._shared: dict[str, str] = {}

    def add(self, label: str) -> str:
        """Count one more. Returns the label it is counted under, shared; hand that to `remove`. O(1)."""
        count = self.counts.get(label, 0)
        if not count:
            apart = len(self.counts) - (OTHER in self.counts)
            if apart >= self._limit and label not in self._reserved:
                label = OTHER
                count = self.counts.get(OTHER, 0)
        label = self._shared.setdefault(label, label)
        if self._before is not None:
            self._before.setdefault(label, count)
        self.counts[label] = count + 1
        return label

    def remove(self, label: str) -> None:
        """Count one less under a label that `add` returned. O(1)."""
        count = self.counts[label]
        if self._before is not None:
            self._before.setdefault(label, count)
        if count == 1:
            del self.counts[label]
            del self._shared[label]
        else:
            self.counts[label] = count - 1

    def move(self, before: str, label: str) -> str:
        """Count under its own label what was counted under another one. Returns the label, shared. O(1)."""
        self.remove(before)
        return self.add(label)

    def set_reserved(self, labels: frozenset[str]) -> bool:
        """
        Count these labels apart from now on, however many others there are; others that were reserved no more.

        Returns:
            Whether a count changed: never here, where only the caller knows what `(other)` consists of; see `move`.
        """
        self._reserved = labels
        return False

    def note_changes(self, *, on: bool) -> None:
        """Start afresh to note changes, or stop and forget them."""
        self._before = {} if on else None

    def pop_changes(self) -> dict[str, int]:
        """Return `{label: count now}` of what changed since the last call, 0 for what is gone. O(changes)."""
        before = self._before or {}
        self._before = {}
        return {label: now for label, count in before.items() if (now := self.counts.get(label, 0)) != count}


class LabelSums(LabelCounts):
    """
    Sums by label. When a place becomes free, a label moves there out of `(other)`.

        counts   {label: sum}  counted apart, and `(other)`; sums >= 1
        _rest    {label: sum}  what `(other)` consists of, without what nodes reported under `(other)` themselves

    Args:
        limit: Labels counted apart.
        check: Raises Malformed for labels that may not be shown.
        reserved: Labels that are always counted apart.
    """

    __slots__ = ("_check", "_rest")

    def __init__(self, limit: int, check: Callable[[str], str], reserved: Iterable[str] = ()) -> None:
        super().__init__(limit, reserved)
        self._rest: dict[str, int] = {}
        self._check = check

    def shared(self, label: str) -> str:
        """Return the one string of a label that is counted apart, for all nodes that report it."""
        return self._shared.get(label, label)

    def change(self, label: str, by: int) -> None:
        """Add to the sum of a label. O(1)."""
        if not by:
            return
        if label in self.counts or label == OTHER:
            self._change(label, by)
            if label not in self.counts and label != OTHER and self._has_room:
                self._promote()
        elif label in self._rest:
            self._change(OTHER, by)
            left = self._rest[label] + by
            if left:
                self._rest[label] = left
            else:
                del self._rest[label]
        elif label in self._reserved or (self._has_room and self._is_valid(label)):
            self._change(label, by)
        else:
            self._rest[label] = by
            self._change(OTHER, by)

    def set_reserved(self, labels: frozenset[str]) -> bool:
        """
        Count these labels apart from now on, however many others there are; also what of them was under `(other)`.

        Returns:
            Whether a sum changed.
        """
        super().set_reserved(labels)
        found = labels & self._rest.keys()
        for label in found:
            count = self._rest.pop(label)
            self._change(OTHER, -count)
            self._change(label, count)
        return bool(found)

    @property
    def reserved(self) -> frozenset[str]:
        """The labels that are always counted apart."""
        return self._reserved

    @property
    def _has_room(self) -> bool:
        return len(self.counts) - (OTHER in self.counts) < self._limit

    def _change(self, label: str, by: int) -> None:
        before = self.counts.get(label, 0)
        if self._before is not None:
            self._before.setdefault(label, before)
        if before + by:
            self.counts[self._shared.setdefault(label, label)] = before + by
        else:
            del self.counts[label]
            del self._shared[label]

    def _is_valid(self, label: str) -> bool:
        try:
            return self._check(label) == label
        except Malformed:
            return False

    def _promote(self) -> None:
        """Give the place that has become free to a label of the rest."""
        for label in self._rest:
            if self._is_valid(label):
                count = self._rest.pop(label)
                self._change(OTHER, -count)
                self._change(label, count)
                return


def bounded(
    counts: Mapping[str, int], limit: int, kept: Iterable[str] = (), always: Iterable[str] = ()
) -> dict[str, int]:
    """
    Return the `limit` largest counts, largest first, and the sum of the rest under `(other)`. O(n log n).

    Args:
        counts: `{label: count}`.
        limit: Labels apart, `(other)` not among them.
        kept: Labels that are apart whatever their count.
        always: Labels that are there even at 0.
    """
    kept = set(kept)
    ranked = sorted((item for item in counts.items() if item[0] != OTHER), key=lambda item: (-item[1], item[0]))
    apart = [item for item in ranked if item[0] in kept]
    apart += [item for item in ranked if item[0] not in kept][: max(0, limit - len(apart))]
    shown = dict.fromkeys(always, 0) | dict(apart)
    rest = sum(counts.values()) - sum(count for _, count in apart)
    return shown | {OTHER: rest} if rest else shown
