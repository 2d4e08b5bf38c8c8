"""
The figures of the last hour and of the last day: for a dashboard that has just been opened, and for looking back.

A fixed number of samples, each of a bounded size, so an hour costs the same whatever happened in it. Each sample keeps
the current version and those with most connections apart, and the rest under `(other)`. It says how many connections
were outdated, or nothing of that while it was not known which version was current. core/rollouts.py makes the adoption
curves of the last releases from the samples.

core/kept_history.py says who keeps them.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from .counts import bounded
from .fleet_messages import MAX_NUMBER, Count, Version
from .labels import OTHER

INTERVAL: Final = 10.0
"""Seconds between two samples."""

LENGTH: Final = 360
"""Samples kept: an hour."""

MINUTE: Final = 60.0
"""Seconds between two samples of the last day."""

MINUTES: Final = 1_440
"""Samples kept of the last day."""

SAMPLES_OF_A_MINUTE: Final = round(MINUTE / INTERVAL) + 1
"""Of a minute, both ends included."""

MAX_VERSIONS: Final = 8
"""Versions apart in one sample."""


MAX_TIME: Final = 253_402_300_799_999
"""Milliseconds since 1970 at the end of the year 9999, the last that programs can write as a date."""

MAX_SAMPLE: Final = 2_048
"""Bytes of an encoded sample. Versions that do not fit are under `(other)`; the current one always fits."""


class Current(NamedTuple):
    """Which version is current, and when it was declared in ms since 1970; 0: it was not, the fleet settled on it."""

    version: str | None = None
    declared: int = 0


NOT_KNOWN: Final = Current()


class Sample(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """
    The figures at one moment.

    Attributes:
        at: Milliseconds since 1970.
        total: Connections.
        versions: `{version: count}`.
        partial: Connections were unaccounted for.
        outdated: Connections on other versions than the current one; None: it was not known which one was current.
        current: The current version.
        declared: When that was declared, in ms since 1970; 0: it was not.
    """

    at: Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME)]
    total: Count
    versions: Annotated[dict[Version, Count], msgspec.Meta(max_length=MAX_VERSIONS + 1)]
    partial: bool = False
    outdated: Count | None = None
    current: Version | None = None
    declared: Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)] = 0

    def count_of(self, version: str) -> int | None:
        """Return the connections on a version; None: they are under `(other)`, or connections are missing."""
        if self.partial:
            return None
        if version == self.current and self.outdated is not None:
            return max(0, self.total - self.outdated)
        return self.versions.get(version, None if OTHER in self.versions else 0)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Sample).decode


def sample(at: int, versions: Mapping[str, int], *, partial: bool = False, current: Current = NOT_KNOWN) -> Sample:
    """
    Make a sample.

    Args:
        at: Milliseconds since 1970.
        versions: `{version: count}`; `(other)` of the figures takes one of the places.
        partial: Connections are missing.
        current: Which version is current.
    """
    total, version = sum(versions.values()), current.version
    outdated = None if version is None else total - versions.get(version, 0)
    limit = MAX_VERSIONS - (OTHER in versions)
    while True:
        kept = bounded(versions, limit, kept=() if version is None else (version,))
        one = Sample(at, total, kept, partial, outdated, version, 0 if version is None else current.declared)
        if limit <= 0 or len(_encode(one)) <= MAX_SAMPLE:
            return one
        limit -= 1


def encode_sample(one: Sample) -> bytes:
    """Encode a sample for a store: JSON in one line of at most `MAX_SAMPLE` bytes."""
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


def minute(one: Sample, before: Iterable[Sample]) -> Sample:
    """
    Return the sample of a minute: the figures at its end. It is partial if any sample of that minute was.

    Args:
        one: The last sample of the minute.
        before: Samples before it, of this minute and perhaps of others.
    """
    since = one.at - round(MINUTE * 1000)
    if one.partial or not any(each.partial for each in before if since < each.at < one.at):
        return one
    return msgspec.structs.replace(one, partial=True)


def to_dict(fine: Iterable[Sample], minutes: Iterable[Sample]) -> dict[str, Any]:
    """
    Return the wire's shape: `{intervalMs, samples: [{at, total, versions}], minutes: {intervalMs, samples}}`.

    A sample has `outdated` and `current` while it was known which version was current, and `partial` if it is.
    """
    return {
        "intervalMs": round(INTERVAL * 1000),
        "samples": [_shown(one) for one in fine],
        "minutes": {"intervalMs": round(MINUTE * 1000), "samples": [_shown(one) for one in minutes]},
    }


def _shown(one: Sample) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(one)
    found.pop("declared", None)
    return found
