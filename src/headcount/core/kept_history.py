"""
The history as a store keeps it, and that of a node that is alone.

In a fleet, one node at a time adds a sample of all nodes' tallies to the backend's store, whether or not a viewer
watches, and once a minute brings the rollouts up to it. So every node returns the same history, and a restart of some
nodes loses none of it. A node that is alone keeps its own history while it has streams, in memory and, with
`state_file`, in files.

What the store has of the rollouts may lag behind its samples: whoever reads it applies the samples that it lacks.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from . import rollouts
from .history import (
    INTERVAL,
    LENGTH,
    MINUTE,
    MINUTES,
    NOT_KNOWN,
    SAMPLES_OF_A_MINUTE,
    Current,
    Sample,
    encode_sample,
    minute,
    read_samples,
    sample,
    to_dict,
)
from .rollouts import Rollouts


class KeptHistory(NamedTuple):
    """What a store holds of a history: encoded samples of the last hour and of the last day, and rollouts."""

    fine: Sequence[bytes] = ()
    minutes: Sequence[bytes] = ()
    rollouts: bytes | None = None

    def catch_up(self, now: int) -> Rollouts:
        """Return the rollouts, up to the last sample. `now` is in ms since 1970."""
        return _catch_up(self.rollouts, [*read_samples(self.minutes, MINUTES), *read_samples(self.fine, LENGTH)], now)

    def read(self, now: int) -> "WholeHistory":
        """Decode all of it. `now` is in ms since 1970. O(samples)."""
        fine, minutes = read_samples(self.fine, LENGTH), read_samples(self.minutes, MINUTES)
        return WholeHistory(fine, minutes, _catch_up(self.rollouts, [*minutes, *fine], now))


class WholeHistory(NamedTuple):
    """A history, decoded: samples of the last hour and of the last day, and rollouts; oldest first."""

    fine: Sequence[Sample]
    minutes: Sequence[Sample]
    rollouts: Rollouts

    def to_dict(self) -> dict[str, Any]:
        """Return the wire's shape: see `history.to_dict`, and `rollouts` as `rollouts.to_list` returns them."""
        return {**to_dict(self.fine, self.minutes), "rollouts": rollouts.to_list(self.rollouts)}


def _catch_up(known: bytes | None, samples: Iterable[Sample], now: int) -> Rollouts:
    by_time = {each.at: each for each in samples}
    return rollouts.fold(rollouts.decode(known), [by_time[at] for at in sorted(by_time)], now)


class Added(NamedTuple):
    """What is to be kept of a sample that was added: encoded, and None where nothing is due."""

    sample: bytes | None
    minute: bytes | None
    rollouts: bytes | None


class History:
    """
    The history of a node that is alone, oldest first, encoded: so its size is bounded whatever versions there are.

    Args:
        kept: What an earlier process kept.
        whole_from: Monotonic seconds from which samples are whole. Before that, pages of an earlier process may not
            have come back yet.
    """

    def __init__(self, kept: KeptHistory = KeptHistory(), whole_from: float = float("-inf")) -> None:  # noqa: B008
        self._fine: deque[bytes] = deque(kept.fine, LENGTH)
        self._minutes: deque[bytes] = deque(kept.minutes, MINUTES)
        self._rollouts = kept.rollouts
        self._whole_from = whole_from
        self._due = float("-inf")
        self._minute_due = float("-inf")

    def is_due(self, now: float) -> bool:
        """Say whether it is time for a sample. `now` in monotonic seconds."""
        return now >= self._due

    def add(self, now: float, at: int, versions: Mapping[str, int], current: Current = NOT_KNOWN) -> Added:
        """
        Keep a sample.

        Args:
            now: Monotonic seconds.
            at: Wall clock, in ms since 1970.
            versions: `{version: count}`.
            current: Which version is current.

        Returns:
            What is to be written, if the history is to outlive the process.

        O(versions); once a minute, O(samples of an hour).
        """
        self._due = now + INTERVAL
        one = sample(at, versions, partial=now < self._whole_from, current=current)
        self._fine.append(line := encode_sample(one))
        if now < self._minute_due:
            return Added(line, None, None)
        self._minute_due = now + MINUTE
        recent = read_samples(list(self._fine)[-SAMPLES_OF_A_MINUTE:], SAMPLES_OF_A_MINUTE)
        self._minutes.append(whole := encode_sample(minute(one, recent)))
        self._rollouts = rollouts.encode(self.kept.catch_up(at))
        return Added(line, whole, self._rollouts)

    @property
    def kept(self) -> KeptHistory:
        """All of it, encoded."""
        return KeptHistory(tuple(self._fine), tuple(self._minutes), self._rollouts)
