"""How long a client waits before it comes back."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

BASE: Final = 1.0
"""Seconds: upper bound of the first delay; it doubles with every further attempt."""

CAP: Final = 30.0
"""Seconds: no delay is drawn from a longer range."""

FLOOR: Final = 0.1
"""Seconds. Keeps a lucky draw from becoming a busy loop."""

LONGEST: Final = 3_600.0
"""Seconds. A server that asks for a longer delay is mistaken."""

CROWD_ATTEMPT: Final = 3
"""Draining and overload concern everybody at once: the first delay is drawn from 2^3 times the usual range."""


def backoff(attempt: int, draw: float | None = None) -> float:
    """
    Return the delay before an attempt, in seconds.

    The jitter is drawn after the cap. The other way round everybody who has waited long enough waits exactly `CAP`, and
    a server that comes back is met by all of them at once.

    Args:
        attempt: Failures so far.
        draw: 0 to 1; None: drawn here.
    """
    draw = random.random() if draw is None else draw  # noqa: S311  not a secret
    return max(FLOOR, draw * min(CAP, BASE * 2.0 ** min(attempt, 16)))


def seconds_told(text: str | None) -> float | None:
    """Read a Retry-After header: seconds or a date; None when it is neither."""
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
    return min(LONGEST, max(0.0, (moment - datetime.now(UTC)).total_seconds()))
