"""
What a node writes about itself for the others to read once it is gone, and what follows from that.

    Tally      a node's counts by version, written with each sign of life, whether or not a viewer watches
    Entry      a tally as another node finds it: how old, whether its writer lives, which pages have come back
    SeenAlive  that a silent node was seen to live
    judge      whether connections of a node are unaccounted for

Rules:

1. A node that gives no sign of life has vanished: its connections are unaccounted for until the grace is over, counted
   from its last sign of life.
2. A silent node that is known to live (its process exists, Redis still holds its connection) is cut off. Its pages can
   stay as long as they like, and it may get new ones that nobody counts, so only the node or an operator ends the
   doubt, however many pages have come back. If the process ends for certain, the grace counts from the last time that
   it was seen to live.
3. A connection that Redis does not hold any more says nothing about the process by itself: Redis may have been
   restarted, or have given up a peer that acknowledged nothing. Only who saw the connection end knows of an end.
4. A node that left properly has told its pages to reconnect: they are on their way for a known time. If no node was
   there that could take them, they have the time of a page whose attempts failed, from when the first node came.
5. Pages that did not answer, and whose streams a node ended, may be frozen. They are unaccounted for until the grace is
   over, as if they were on their way.
6. A page that comes back takes one off, if its handle proves that its stream is one of those that the tally counts, of
   the version under which it is counted (core/page_lists.py). Where a node left no list, a handle proves one page of
   the version that it says; but a page that came before the last tally was written is in no count of that tally any
   more, and takes none off.

Source: docs/adr/0017-unaccounted.md
"""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from . import reconnect
from .counts import bounded
from .fleet_messages import MAX_FINGERPRINT, Count, Version
from .labels import OTHER
from .stats import Absence

MAX_VERSIONS: Final = 16
"""Versions apart in a tally; the rest is under `(other)`."""

MAX_TALLY: Final = 16_384
"""Bytes of an encoded tally."""

TRANSIT_SLACK: Final = 3.0
"""Seconds that pages which were told to reconnect have in addition to `reconnect_spread`."""

RETURN: Final = reconnect.CAP + TRANSIT_SLACK
"""Seconds after the start of a server in which every page that found none before has come to it."""

LISTED: Final = 90.0
"""Seconds for which a node that left properly stays listed: whoever remembers that it was there must learn of it."""

_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})


class Tally(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node says about itself. Fields that a node does not know yet have their defaults."""

    at: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    """When it was written, in ms by the clock of the backend."""
    versions: Annotated[dict[Version, Count], msgspec.Meta(max_length=MAX_VERSIONS + 2)] = {}
    """Its connections."""
    departed: Annotated[dict[Version, Count], msgspec.Meta(max_length=MAX_VERSIONS + 2)] = msgspec.field(
        name="away", default_factory=dict
    )
    """Pages whose streams it ended, and that may still come back."""
    away: Annotated[dict[Version, Count], msgspec.Meta(max_length=MAX_VERSIONS + 2)] = msgspec.field(
        name="broken", default_factory=dict
    )
    """Pages whose streams broke off, and that may come back: they vanish with the node."""
    unanswered: bool = False
    """All of those in `departed` did not answer; else the node told some of them to reconnect."""
    transit: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0
    """Seconds after `at` for which those are on their way."""
    left: bool = False
    """The node left properly; all of its pages are in `departed`."""
    forgotten: bool = False
    """An operator ended the doubt, or it is over."""
    unknown: bool = False
    """Written by another node about one that wrote no tally: nobody knows how many connections it had."""
    serves: Annotated[str, msgspec.Meta(max_length=128)] = ""
    """The version that the node serves."""
    key: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    """Proves that a handle is one of this node's (`identity.return_key`)."""
    pages: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    """Number of the list of its pages (core/page_lists.py); 0: there is none, or no page."""
    joined: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    """When the node came, in ms by the clock of the backend; 0: it does not say."""
    fleet: Annotated[bytes, msgspec.Meta(max_length=MAX_FINGERPRINT)] = b""
    """Fingerprint of the node's fleet (fleet/border.py); empty: it names none."""
    liveness_ids: Annotated[tuple[int, ...], msgspec.Meta(max_length=4)] = msgspec.field(name="life", default=())
    """What the backend needs to find out whether the node lives."""


class SeenAlive(msgspec.Struct, frozen=True):
    """A silent node was seen to live."""

    lived: int
    """When that was last, in ms by the clock of the backend."""
    ended: bool = False
    """Its process has ended since, for certain."""


class Entry(NamedTuple):
    """A tally as another node finds it."""

    tally: Tally
    now: int
    """The time by the clock of the backend, in ms."""
    has_heartbeat: bool
    """The node gives signs of life."""
    process_lives: bool | None = None
    """The process of a node without them is known to live, or to have ended for certain; None: nobody can tell."""
    seen_alive: SeenAlive | None = None
    back: Mapping[str, int] = _NOTHING
    """Pages that have come back, by version."""

    @property
    def age(self) -> float:
        """Seconds since the tally was written."""
        return max(0, self.now - self.tally.at) / 1000


class Judgement(NamedTuple):
    """What follows from an entry."""

    absence: Absence | None
    """Connections that are unaccounted for. Its `since` is not set."""
    seen_alive: SeenAlive | None
    """What is to be kept with the entry; None: nothing."""
    over: bool
    """The entry can be removed."""
    remaining: float = math.inf
    """Seconds for which the connections stay unaccounted for, if nothing happens."""


def first_joined(own: int, entries: Iterable[Entry]) -> int:
    """
    Return since when there has been a node that pages could come to, in ms by the clock of the store; 0: not known.

    Args:
        own: When this node came.
        entries: Of all nodes.
    """
    return min([own, *(entry.tally.joined for entry in entries if entry.has_heartbeat)])


def judge(node: str, entry: Entry, grace: float, joined: int = 0) -> Judgement:
    """
    Say whether connections of a node are unaccounted for.

    Args:
        node: Its id.
        entry: What is found of it.
        grace: Seconds after which connections of a node that vanished count as gone.
        joined: Since when there has been a node that its pages could come to; see `first_joined`.
    """
    tally = entry.tally
    returning = 0.0
    if tally.at < joined:
        # A page waits longer after each attempt that fails: mostly for no more than twice the time since the first.
        latest = TRANSIT_SLACK + 4 * (joined - tally.at) / 1000
        returning = min(latest, RETURN, grace) - max(0, entry.now - joined) / 1000
    if tally.forgotten:
        return Judgement(None, None, entry.age >= max(grace, LISTED) and not entry.has_heartbeat)
    if entry.has_heartbeat or tally.left:
        left = max(tally.transit - entry.age, returning)
        on_their_way = left > 0 and bool(tally.departed)
        state = "unanswered" if tally.unanswered else "leaving"
        absence = _absence(node, tally.departed, entry.back, state) if on_their_way else None
        gone = tally.left and not entry.has_heartbeat and not on_their_way and entry.age >= LISTED
        return Judgement(absence, None, gone, left)
    counts = _sum(_sum(tally.versions, tally.departed), tally.away)
    seen_alive = entry.seen_alive
    if entry.process_lives:
        seen_alive = SeenAlive(entry.now)
        return Judgement(_cut_off(node, counts, entry), seen_alive, over=False)
    if seen_alive is not None and not seen_alive.ended:
        if entry.process_lives is None:
            return Judgement(_cut_off(node, counts, entry), seen_alive, over=False)
        seen_alive = SeenAlive(seen_alive.lived, ended=True)
    silent_since = tally.at if seen_alive is None else max(tally.at, seen_alive.lived)
    left = max(grace - max(0, entry.now - silent_since) / 1000, returning)
    if left <= 0:
        return Judgement(None, None, over=True)
    absence = _absence(node, counts, entry.back, "vanished", unknown=tally.unknown)
    return Judgement(absence, seen_alive, over=False, remaining=left)


def limited(versions: Mapping[str, int], kept: Iterable[str] = ()) -> dict[str, int]:
    """Return counts as a tally holds them; a few versions, `kept`, are apart whatever their count."""
    return bounded(versions, MAX_VERSIONS, kept) if len(versions) > MAX_VERSIONS else dict(versions)


def remaining(counts: Mapping[str, int], back: Mapping[str, int]) -> dict[str, int]:
    """
    Take pages that came back off the counts.

    A version that is not apart in the counts is under `(other)`. A page never takes off one of another version that is
    counted apart: then more would be taken for settled than is.
    """
    left = dict(counts)
    for version, count in back.items():
        label = version if version in counts else OTHER
        if label in left:
            left[label] = max(0, left[label] - count)
    return {version: count for version, count in left.items() if count}


def _absence(
    node: str, counts: Mapping[str, int], back: Mapping[str, int], state: Any, *, unknown: bool = False
) -> Absence | None:
    if unknown:
        return Absence(node=node, total=None, state=state)
    left = remaining(counts, back)
    return Absence(node=node, total=sum(left.values()), versions=left, state=state) if left else None


def _cut_off(node: str, counts: Mapping[str, int], entry: Entry) -> Absence:
    """Say what a node that lives may have; if all known pages have come back, new ones may be there."""
    absence = _absence(node, counts, entry.back, "cut-off", unknown=entry.tally.unknown)
    return absence or Absence(node=node, total=None, state="cut-off")


def _sum(one: Mapping[str, int], two: Mapping[str, int]) -> Mapping[str, int]:
    if not two:
        return one
    return {version: one.get(version, 0) + two.get(version, 0) for version in {**one, **two}}


_encode = msgspec.msgpack.Encoder().encode
_decode_tally = msgspec.msgpack.Decoder(Tally).decode
_decode_seen_alive = msgspec.msgpack.Decoder(SeenAlive).decode


def encode(value: Tally | SeenAlive) -> bytes:
    """Encode a tally or a `SeenAlive`."""
    return _encode(value)


def decode_tally(data: bytes) -> Tally | None:
    """Decode a tally. Returns None for one that is malformed or too large."""
    if len(data) > MAX_TALLY:
        return None
    try:
        return _decode_tally(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def decode_seen_alive(data: bytes | None) -> SeenAlive | None:
    """Decode a `SeenAlive`. Returns None for none, and for one that is malformed."""
    if data is None:
        return None
    try:
        return _decode_seen_alive(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
