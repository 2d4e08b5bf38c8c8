"""
When a client opens its next stream, and of which kind. protocol/README.md, "Reconnecting", has the rule;
web/client/src/backoff.ts is the same in TypeScript, and protocol/fixtures/reconnect.json tests both.

Every function takes a random number and returns a delay. The caller has the clock, the stream and the attempt count.
"""

from math import nan
from typing import Final, Literal, NamedTuple, TypeAlias

from .ends import ENDS

Way: TypeAlias = Literal["sse", "ws"]
"""A kind of stream."""

PostOutcome: TypeAlias = Literal["done", "unknown", "denied", "refused", "later"]
"""
What an answer to a POST means. `done`: Headcount has the message. `unknown`: no stream has this handle. `denied`:
Headcount refuses the message for good. `refused`: something else answered, and will again; send the message again,
rarely. `later`: what is wrong may pass; send it again soon.
"""

BASE: Final = 1.0
"""Seconds: upper bound of the first delay; it doubles with every further attempt."""

CAP: Final = 30.0
"""Seconds: no delay is drawn from a longer range."""

FLOOR: Final = 0.1
"""Seconds. Keeps a lucky draw from becoming a busy loop."""

LONGEST: Final = 3_600.0
"""Seconds. A server that asks for a longer delay is mistaken."""

STABLE: Final = 2.0
"""
Seconds. A stream that delivered and was open this long was no part of a crash loop. If it ends, the server or a proxy
ended it; load balancers end streams after 10 s and more, and a page that waits longer each time is hardly counted.
"""

FAULT_STABLE: Final = 30.0
"""Seconds: the same for a stream that the server ended with a close code of its own, such as 4400."""

OWN_CODES: Final = ({end.code for end in ENDS} | set(range(4400, 4500))) - {1000, 1006}
"""
The close codes by which only the server ends a stream. All others may come from outside: 1001 (a proxy's limit), 1005
and 1006 (the connection broke off), 1011 and 1014 (a proxy whose server is gone). 44xx: those of newer servers, too.
"""

REFUSED: Final = 30.0
"""Seconds. What refused a client twice, such as a wrong path, is asked again no sooner than this."""

TOLERANCE: Final = 0.5
"""
Seconds by which lives may differ and still be equal. A proxy's limit is exact; the time until its end is noticed, and
a busy client, add some 100 ms.
"""

ALIKE: Final = 0.05
"""Seconds by which lives may differ that show a limit although the times from end to end are equal, too."""

OUTLIVED: Final = 1.25
"""
A limit is forgotten when a stream lives longer than this many times the limit and `TOLERANCE`. Less may be a client
that was busy when its stream was ended.
"""

LEAD: Final = 1.0
LEAD_PART: Final = 0.1
"""
A stream is renewed this many seconds before a known limit, or this part of the limit if that is longer, and up to twice
as early: pages that were opened together should not come in step.
"""

RENEWALS: Final = 10
"""After so many renewals, one stream runs on to its end, because nothing else shows that the limit is gone."""

MISSES: Final = 2
"""A kind of stream is avoided after so many times in a row that it did not deliver though the server was up."""

OTHER_WAY: Final = 0.1
"""Seconds: after the first failure in a row, the other kind is tried this soon."""

RESTART_ATTEMPT: Final = 2
"""
A restart or a Retry-After reaches many clients at once and is over soon: the delay is drawn from 2^2 times the first
range at least, about what a draining server would say.
"""

OVERLOAD_ATTEMPT: Final = 3
"""Overload lasts longer than a restart: delays are drawn from 2^3 times the first range at least, and grow from it."""

PROBLEM: Final = "application/problem+json"
"""Media type of Headcount's errors."""

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
    attempt: int,
    random: float,
    *,
    lasted: float | None,
    code: int | None = None,
    named: float = 0.0,
    refused: bool = False,
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
        refused: What answered refused the stream for a reason that does not pass (`is_refusal`), and this client has
            never had one. A client that had one meets a server that restarts.
    """
    if code == DENIED:
        return None
    if lasted is not None and lasted >= (FAULT_STABLE if _is_fault(code) else STABLE):
        attempt = 0
    if refused and attempt:
        named = max(named, REFUSED)
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


def is_refusal(status: int) -> bool:
    """
    Say whether an answer that is not the one asked for would be the same the next time, such as a page in place of a
    stream.

    Args:
        status: Its HTTP status; 200 means that it was not Headcount's. Static file servers answer a POST with 501.
    """
    return status == 501 or (status < 500 and status not in (401, 408, 425, 429))


def post_outcome(status: int, kind: str, *, ok: bool) -> PostOutcome:
    """
    Say what an answer to a POST of a page means.

    Args:
        status: Its HTTP status.
        kind: Its media type: a 404 of something else than Headcount says nothing about a stream.
        ok: Its body is JSON with `"ok": true`.
    """
    if status == 200 and kind == "application/json" and ok:
        return "done"
    if kind == PROBLEM:
        if status == 404:
            return "unknown"
        if is_refusal(status):
            return "denied"
    return "refused" if is_refusal(status) else "later"


class Limit(NamedTuple):
    """
    What the ends of a client's streams say about a limit between it and the server. Times are seconds.

    Attributes:
        cut_after: The known limit: streams are ended after this time; 0: none is known.
        equal: Lives in a row that were equal to the one before.
        life: The last life; 0: that stream did not open, or was ended by the server or by the client itself.
        period: From the end before the last one to the last end; NaN: there was none.
        ended_at: When the last stream ended; NaN: none has.
        renewals: Streams since one ran on to its end.
        alike: Lives in a row that differed by no more than `ALIKE` from the one before.
    """

    cut_after: float = 0.0
    equal: int = 0
    life: float = 0.0
    period: float = nan
    ended_at: float = nan
    renewals: int = 0
    alike: int = 0


def is_cut(code: int | None) -> bool:
    """Say whether a stream that ended with this close code (None: none) may have been ended from outside."""
    return not _is_fault(code)


def after_life(limit: Limit, ended_at: float, lasted: float) -> Limit:
    """
    Learn from the end of a stream. Three lives in a row that are equal show a limit.

    A server that restarts regularly is no limit. Then all streams end at the same time, whenever they were opened: the
    times from end to end are equal, and lives differ by the jitter of reconnecting. With a limit it is the other way
    round. In a background tab both are equal, because browsers round its delays up to whole seconds. There, five lives
    show a limit if each is very like the one before.

    Args:
        limit: What is known.
        ended_at: Now.
        lasted: For how long the stream was open; 0 if it did not open, or was not cut (`is_cut`).
    """
    period, apart = ended_at - limit.ended_at, abs(lasted - limit.life)
    cut_after = 0.0 if lasted > limit.cut_after * OUTLIVED + TOLERANCE else limit.cut_after
    equal = limit.equal + 1 if lasted >= STABLE and apart <= TOLERANCE else 0
    alike = limit.alike + 1 if apart <= ALIKE else 0
    if equal > 1 and (alike > 3 or apart < abs(period - limit.period)):
        cut_after = lasted
    return Limit(cut_after, equal, lasted, period, ended_at, limit.renewals, alike)


def after_opening(limit: Limit, random: float) -> tuple[Limit, float | None]:
    """
    Return when to open the stream after one that has just opened, in seconds from now. None: when it has ended.

    Args:
        limit: What is known.
        random: From 0 to 1.
    """
    if not limit.cut_after or limit.renewals >= RENEWALS:
        return limit._replace(renewals=0), None
    return limit._replace(renewals=limit.renewals + 1), _renewal(limit.cut_after, random)


def earliest_renewal(cut_after: float) -> float:
    """Return the age at which a client that knows of a limit may renew its stream, at the earliest."""
    return _renewal(cut_after, 1.0)


def _renewal(cut_after: float, random: float) -> float:
    return max(cut_after / 2, cut_after - max(LEAD, cut_after * LEAD_PART) * (1 + random))


class Ways(NamedTuple):
    """
    Which kind of stream gets through.

    Attributes:
        misses: Times in a row that the preferred kind did not deliver though the server was up. Once may be chance.
        failed: The kind that was tried last, if it did not deliver; None: it did, or none was tried.
        due_to_kind: That failure is due to its kind if the next stream delivers. Otherwise the server may have been
            away, and have returned in between.
    """

    misses: int = 0
    failed: Way | None = None
    due_to_kind: bool = False


def next_way(ways: Ways, prefers: Way) -> Way:
    """Return the kind of the next stream: in turn until one delivers, then the preferred kind unless it is avoided."""
    if ways.failed is not None:
        return _other(ways.failed)
    return _other(prefers) if ways.misses >= MISSES else prefers


def after_failure(ways: Ways, way: Way, *, opened: bool, named: float = 0.0) -> tuple[Ways, bool]:
    """
    Learn that a stream of this kind did not deliver `connected`.

    Returns also whether to try the other kind at once, `OTHER_WAY` from now: after the first failure in a row. The
    other kind then delivers if the server is up; after a restart both fail, which says nothing about either.

    Args:
        ways: What is known.
        way: The kind of the stream.
        opened: The stream had opened, so that the server or something before it is up.
        named: The delay that the server named, in seconds.
    """
    first = ways.failed is None and not named
    return Ways(ways.misses, way, first or opened), first


def after_delivery(ways: Ways, prefers: Way, way: Way) -> Ways:
    """Learn that a stream of this kind delivered `connected`."""
    if way == prefers:
        return Ways()
    return Ways(ways.misses + ways.due_to_kind)


def _other(way: Way) -> Way:
    return "sse" if way == "ws" else "ws"


def _is_fault(code: int | None) -> bool:
    return code in OWN_CODES
