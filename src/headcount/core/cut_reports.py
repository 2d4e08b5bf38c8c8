"""
What clients report about a limit between them and the server: something ends their streams after the same time.

One value for the node, the median of recent reports; a fleet shows the shortest of its nodes. It is a hint for
operators and decides nothing. Anybody can write
a number into a query, so a report counts only with proof: its client replaces a stream of this node, by the secret
handle, that was opened with a report too and whose age fits the limit. And a limit is known only if many of the streams
that end have such a report. So a false limit costs an attacker open streams for as long as it says, and many of them.

Time is an argument, in seconds of a monotonic clock.
"""

from collections import deque
from statistics import median
from typing import Final

import msgspec

from .reconnect import OUTLIVED, TOLERANCE, earliest_renewal

MAX_STREAMS: Final = 4_096
"""Streams that were opened with a report; the oldest give way, and are then no proof."""

MAX_REPORTS: Final = 256
"""The newest reports; the median is of these."""

WINDOW: Final = 600.0
"""Seconds for which a report counts. With a limit of a minute, a page sends about twelve in this time."""

LEAST_REPORTS: Final = 3
"""With fewer reports no limit is known: it may have been chance."""

LEAST_SHARE: Final = 0.2
"""Part of the streams that ended which must have a report. A limit of one visitor's own network concerns no other."""

SHORTEST: Final = 1.0
LONGEST: Final = 86_400.0
"""Seconds. A report outside of this range is ignored."""

LOG_INTERVAL: Final = 3_600.0
"""Seconds between two log lines about the limit."""

_PERIODS: Final = 10
"""Parts of the window that are counted apart."""

_PERIOD: Final = WINDOW / _PERIODS
"""Seconds."""

_ROUNDING: Final = 0.05
"""Seconds by which a client's timer may be early."""


class _Stream(msgspec.Struct):
    opened: float
    age: float | None = None
    """When it ended; None: it is open."""


class _Period(msgspec.Struct):
    number: int
    ended: int = 0
    reported: int = 0


class CutReports:
    """The newest reports, and the streams that can prove the next ones. Not thread-safe."""

    __slots__ = ("_current", "_current_ends", "_logged_at", "_periods", "_reports", "_streams")

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._reports: deque[tuple[float, float]] = deque(maxlen=MAX_REPORTS)
        """When each report came, and the seconds it named."""
        self._periods: deque[_Period] = deque(maxlen=_PERIODS + 1)
        self._current: _Period | None = None
        self._current_ends = 0.0
        self._logged_at = float("-inf")

    def opened(self, stream: str, now: float) -> None:
        """Note a stream that was opened with a report. O(1)."""
        self._streams[stream] = _Stream(now)
        if len(self._streams) > MAX_STREAMS:
            del self._streams[next(iter(self._streams))]

    def ended(self, stream: str, now: float) -> None:
        """Note that a stream has ended, whether it was opened with a report or not. O(1)."""
        period = self._current
        if period is None or now >= self._current_ends:
            period = self._period(now)
        period.ended += 1
        if self._streams and (known := self._streams.get(stream)) is not None and known.age is None:
            known.age = now - known.opened

    def replaced(self, stream: str, now: float, seconds: float) -> float | None:
        """
        Add the report of a client that replaces a stream of this node. O(1), but for the log.

        Args:
            stream: Public id of the stream, proven by its handle. It proves one report.
            now: Now; the stream may still be open.
            seconds: From `parse_cut_after`.

        Returns:
            The limit, if a log line about it is due; else None.
        """
        known = self._streams.pop(stream, None)
        if known is None or not _fits(now - known.opened if known.age is None else known.age, seconds):
            return None
        self._reports.append((now, seconds))
        self._period(now).reported += 1
        if now - self._logged_at < LOG_INTERVAL or (limit := self.limit(now)) is None:
            return None
        self._logged_at = now
        return limit

    def limit(self, now: float) -> float | None:
        """Return after how many seconds streams are ended; None: no limit is known. O(reports)."""
        first = _number(now - WINDOW)
        recent = [period for period in self._periods if period.number >= first]
        reported = sum(period.reported for period in recent)
        if reported < LEAST_REPORTS or reported < LEAST_SHARE * sum(period.ended for period in recent):
            return None
        values = [seconds for at, seconds in self._reports if _number(at) >= first]
        return median(values) if values else None

    def _period(self, now: float) -> _Period:
        number = _number(now)
        if self._current is None or self._current.number != number:
            self._current = _Period(number)
            self._current_ends = (number + 1) * _PERIOD
            self._periods.append(self._current)
        return self._current


def parse_cut_after(text: str) -> float:
    """Return the seconds that a client reports, in ms, in its query; 0 for anything that cannot be meant."""
    if len(text) > 8 or not (text.isascii() and text.isdecimal()):
        return 0.0
    seconds = int(text) / 1000
    return seconds if SHORTEST <= seconds <= LONGEST else 0.0


def _fits(age: float, limit: float) -> bool:
    """Say whether a stream of this age was renewed before the limit, or ended by it. For its client it was younger."""
    return earliest_renewal(limit) - _ROUNDING <= age <= limit * OUTLIVED + TOLERANCE


def _number(at: float) -> int:
    return int(at // _PERIOD)
