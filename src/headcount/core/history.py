"""
The figures of the last hour and of the last day: for a dashboard that has just been opened, and for looking back.

A fixed number of samples, each of a fixed size, so an hour costs the same whatever happened in it. Each sample keeps
the versions with most connections apart, and the rest under `(other)`.

In a fleet, one node at a time adds a sample of all nodes' tallies to the backend's store, whether or not a viewer
watches. So every node returns the same history, and a restart of some nodes loses none of it. A node that is alone
keeps its own history, in memory and while it has streams.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec

from .counts import bounded
from .fleet_messages import Count, Version
from .labels import OTHER

INTERVAL: Final = 10.0
"""Seconds between two samples."""

LENGTH: Final = 360
"""Samples kept: an hour."""

MINUTE: Final = 60.0
"""Seconds between two samples of the last day."""

MINUTES: Final = 1_440
"""Samples kept of the last day."""

MAX_VERSIONS: Final = 8
"""Versions apart in one sample."""


class Sample(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The figures at one moment. `at` is in ms since 1970, `partial` if connections were unaccounted for."""

    at: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    total: Count
    versions: Annotated[dict[Version, Count], msgspec.Meta(max_length=MAX_VERSIONS + 1)]
    partial: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Sample).decode


def sample(at: int, versions: Mapping[str, int], *, partial: bool = False) -> Sample:
    """
    Make a sample.

    Args:
        at: Milliseconds since 1970.
        versions: `{version: count}`; `(other)` of the figures takes one of the places.
        partial: Connections are missing.
    """
    kept = bounded(versions, MAX_VERSIONS - (OTHER in versions))
    return Sample(at, sum(versions.values()), kept, partial)


def encode_sample(one: Sample) -> bytes:
    """Encode a sample for a store: JSON in one line."""
    return _encode(one)


def read_samples(lines: Iterable[bytes], limit: int) -> list[Sample]:
    """
    Decode the samples of a store, oldest first, one of each moment. What is malformed is passed over.

    Args:
        lines: In the order in which they were added.
        limit: Samples at most; the newest are kept.
    """
    found: dict[int, Sample] = {}
    for line in lines:
        try:
            one = _decode(line)
        except (msgspec.MsgspecError, UnicodeError):
            continue
        found[one.at] = one
    return [found[at] for at in sorted(found)][-limit:]


def to_dict(fine: Iterable[Sample], minutes: Iterable[Sample]) -> dict[str, Any]:
    """Return the wire's shape: `{intervalMs, samples: [{at, total, versions}], minutes: {intervalMs, samples}}`."""
    return {
        "intervalMs": round(INTERVAL * 1000),
        "samples": [msgspec.to_builtins(one) for one in fine],
        "minutes": {"intervalMs": round(MINUTE * 1000), "samples": [msgspec.to_builtins(one) for one in minutes]},
    }


class History:
    """The samples of a node that is alone, oldest first."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=LENGTH)
        self._minutes: deque[Sample] = deque(maxlen=MINUTES)
        self._due = float("-inf")
        self._minute_due = float("-inf")

    def is_due(self, now: float) -> bool:
        """Say whether it is time for a sample. `now` in monotonic seconds."""
        return now >= self._due

    def add(self, now: float, at: int, versions: Mapping[str, int]) -> None:
        """
        Keep a sample.

        Args:
            now: Monotonic seconds.
            at: Wall clock, in ms since 1970.
            versions: `{version: count}`.

        O(versions).
        """
        self._due = now + INTERVAL
        one = sample(at, versions)
        self._samples.append(one)
        if now >= self._minute_due:
            self._minute_due = now + MINUTE
            self._minutes.append(one)

    def to_dict(self) -> dict[str, Any]:
        """Return the wire's shape; see `to_dict` of the module."""
        return to_dict(self._samples, self._minutes)
