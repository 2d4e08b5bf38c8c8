"""
The ways a stream ends: close code, cause, sentence and reconnect policy, in one table.

A WebSocket client gets the code and the sentence in its close frame; an SSE stream just ends. Hooks and counters get
the cause. The codes are documented in protocol/README.md, the causes in docs/hooks.md.
"""

from typing import Final, NamedTuple

from ..errors import ProtocolError, TooManyMessages

CLIENT: Final = "client"
"""Cause: the client left."""
CANCELLED: Final = "cancelled"
"""Cause: the server, or something between it and Headcount, cancelled the request."""
LOOP_CLOSED: Final = "loop closed"
"""Cause: the event loop of the stream was closed."""


_PRIVATE: Final = 3000
_STANDARD: Final = range(1001, 1100)


def private_code(code: int) -> int:
    """Return the close code to send instead where the server's library refuses to send this one, as daphne's does."""
    return code + _PRIVATE if code in _STANDARD else code


def standard_code(code: int) -> int:
    """Return the close code that is meant by one that came."""
    return code - _PRIVATE if code - _PRIVATE in _STANDARD else code


class End(NamedTuple):
    """Why the server ends a stream, and what its client gets."""

    code: int
    """WebSocket close code; an SSE stream just ends."""
    cause: str
    """One word for hooks and counters."""
    reason: str
    """A sentence for the client."""
    reconnect: int | None = None
    """Milliseconds after which the client should reconnect; None: the client decides."""

    def because(self, reason: str) -> "End":
        """Return this end with another sentence."""
        return self._replace(reason=reason)

    def lasting(self, seconds: float) -> "End":
        """Return this end with the time filled in that its sentence names."""
        return self._replace(reason=self.reason.format(seconds=seconds))

    def after(self, reconnect: int) -> "End":
        """Return this end with a delay for the client, in ms."""
        return self._replace(reconnect=reconnect)


REPLACED: Final = End(1000, "replaced", "A newer stream replaced this one.")
BAD_FRAME: Final = End(1002, "malformed", "The WebSocket frame is malformed.")
BROKEN: Final = End(1006, "broken", "Sending to the client failed.")
"""1006 is never sent: the connection is gone."""
NOT_AUTHORISED: Final = End(1008, "denied", "This viewer is not authorised to see statistics.")
CROSS_SITE: Final = End(
    1008, "denied", "The page is from another site; add its origin to public_origins or allowed_origins."
)
WRONG_HOST: Final = End(1008, "denied", "The request is invalid, or Host is not one of allowed_hosts.")
NO_WEBSOCKET: Final = End(1008, "denied", "There is no WebSocket at this path.")
GOING_AWAY: Final = End(1012, "drain", "This server is going away; reconnect later.")
FULL: Final = End(1013, "full", "This server is full; reconnect later.")
FULL_ADDRESS: Final = End(
    1013, "address full", "Too many connections are open from this address; close some, or reconnect later."
)
TOO_MANY_OPENS: Final = End(
    1013, "opening too fast", "This server opens no more connections in this second; reconnect later."
)
LEFT: Final = End(1000, CLIENT, "The page said that it leaves.")
"""`POST /bye`. Mostly the stream has ended already; something may keep it open, such as a service worker or a proxy."""
MALFORMED: Final = End(4400, "malformed", "The message is malformed.")
TOO_MANY: Final = End(4429, "rate", "Too many messages.")
NO_TABS: Final = End(4400, "no tabs", "This stream was opened with shared=1, but no tab was reported on it.")
QUEUE_FULL: Final = End(4408, "slow", "Too many messages are waiting for this client to read them.")
NO_ANSWER: Final = End(1006, "no answer", "The client did not say that it is still there.")
"""Something keeps an SSE stream open that no page reads any more, such as a service worker. No code is sent."""
STALLED: Final = End(4408, "slow", "The client read nothing for {seconds:g} s.")
"""To be completed by `lasting`."""


def end_of(error: ProtocolError) -> End:
    """Return the end of a stream whose client sent what the wire does not allow."""
    return (TOO_MANY if isinstance(error, TooManyMessages) else MALFORMED).because(str(error))


UNANSWERED: Final = frozenset({NO_ANSWER.cause, STALLED.cause})
"""Causes that do not tell whether the page has gone: a page that the browser froze neither answers nor reads."""

FAREWELLS: Final = frozenset({1000, 1001})
"""Close codes by which a page says that it leaves. Without one, nobody knows whether it was closed or cut off."""

FOR_GOOD: Final = frozenset({REPLACED.cause, NOT_AUTHORISED.cause})
"""
Causes after which no page is expected to come back for this stream: its page has another one, or has been told to stop.
After all others, a page that has not said goodbye reconnects.
"""

ENDS: Final = (
    REPLACED,
    BAD_FRAME,
    BROKEN,
    NOT_AUTHORISED,
    CROSS_SITE,
    WRONG_HOST,
    NO_WEBSOCKET,
    GOING_AWAY,
    FULL,
    FULL_ADDRESS,
    TOO_MANY_OPENS,
    LEFT,
    MALFORMED,
    TOO_MANY,
    NO_TABS,
    QUEUE_FULL,
    NO_ANSWER,
    STALLED,
)
"""
All of them. `CROSS_SITE`, `WRONG_HOST` and `NO_WEBSOCKET` refuse a stream that has not begun, so hooks never get those.
"""

REFUSALS: Final = (FULL, FULL_ADDRESS, TOO_MANY_OPENS)
"""A limit refuses a new connection; a shared stream that reports too many tabs ends. Counted as `refused:<cause>`."""

CAUSES: Final = frozenset({CLIENT, CANCELLED, LOOP_CLOSED}) | {end.cause for end in ENDS}
"""Everything that `on_connection_close` can get as its reason, and that is counted as `closed:<cause>`."""
