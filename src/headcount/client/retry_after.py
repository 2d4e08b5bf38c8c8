"""The Retry-After header of an HTTP answer."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ..core.reconnect import LONGEST


def parse_retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """
    Read a Retry-After header, which holds seconds or a date.

    Args:
        text: The header's value; None: there is no such header.
        now: The time; None: the clock is read.

    Returns:
        Seconds, at most `LONGEST`; 0 for a date in the past; None when the header is missing or holds neither.
    """
    if not text:
        return None
    if text.strip().isascii() and text.strip().isdecimal():
        return min(LONGEST, float(text.strip()[:9]))
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError):
        return None
    if moment.tzinfo is None:
        return None
    return min(LONGEST, max(0.0, (moment - (now or datetime.now(UTC))).total_seconds()))
