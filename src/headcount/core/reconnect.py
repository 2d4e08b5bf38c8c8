"""
When a client opens its next stream. protocol/README.md, "Reconnecting", has the rule; web/client/src/backoff.ts is the
same in TypeScript, and protocol/fixtures/reconnect.json tests both.

Every function takes a random number and returns a delay. The caller has the clock, the stream and the attempt count.
"""

from typing import Final, NamedTuple

BASE: Final = 1.0
"""Seconds: upper bound of the first delay; it doubles with every further attempt."""

CAP: Final = 30.0
"""Seconds: no delay is drawn from a longer range."""

FLOOR: Final = 0.1
"""Seconds. Keeps a lucky draw from becoming a busy loop."""

LONGEST: Final = 3_600.0
"""Seconds. A server that asks for a longer delay is mistaken."""

STABLE: Final = 30.0
"""Seconds. A stream that was open this long was no part of a crash loop."""

RESTART_ATTEMPT: Final = 2
"""
A restart or a Retry-After reaches many clients at once and is over soon: the delay is drawn from 2^2 times the first
range at least, about what a draining server would say.
"""

OVERLOAD_ATTEMPT: Final = 3
"""Overload lasts longer than a restart: delays are drawn from 2^3 times the first range at least, and grow from it."""

DENIED: Final = 1008
RESTARTING: Final = 1012
OVERLOADED: Final = 1013
"""WebSocket close codes."""


class Reconnect(NamedTuple):
    """
    What follows the end of a stream.

    Attributes:
        delay: Seconds until the next stream is opened.
        attempt: The attempt count from then on.
    """

    delay: float
    attempt: int


def backoff(attempt: int, random: float) -> float:
    """
    Return the delay before an attempt, in seconds.

    The jitter is drawn after the cap. The other way round every client that has waited long enough waits exactly `CAP`,
    and a server that comes back is met by all of them at once.

    Args:
        attempt: Failures so far.
        random: From 0 to 1.
    """
    return max(FLOOR, random * min(CAP, BASE * 2.0 ** min(attempt, 16)))


def after_end(
    attempt: int, random: float, *, lasted: float | None, code: int | None = None, named: float = 0.0
) -> Reconnect | None:
    """
    Return what follows the end of a stream, or a failure to open one. None: do not come back.

    Not for an end that `drain` announced: `after_drain` gives its delay, and the attempt count is 0 from then on.

    Args:
        attempt: Failures so far.
        random: From 0 to 1.
        lasted: For how long the stream was open, in seconds; None: it never opened.
        code: A WebSocket's close code; None: there is none.
        named: Seconds that the server named in Retry-After or `retry:`; 0: it named none.
    """
    if code == DENIED:
        return None
    if lasted is not None and lasted >= STABLE:
        attempt = 0
    if code == OVERLOADED:
        attempt = max(attempt, OVERLOAD_ATTEMPT)
    drawn_as = max(attempt, RESTART_ATTEMPT) if code == RESTARTING or named else attempt
    return Reconnect(named + backoff(drawn_as, random), attempt + 1)


def after_drain(reconnect: float | None, random: float) -> float:
    """
    Return the delay that a `drain` message asks for, in seconds from its arrival.

    Args:
        reconnect: Its `reconnectMs`, in seconds; None: it names none.
        random: From 0 to 1. Used only where the server did not draw the delay.
    """
    if reconnect is None:
        return backoff(RESTART_ATTEMPT, random)
    return max(FLOOR, min(LONGEST, reconnect))
