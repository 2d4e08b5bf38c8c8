"""
How fast pages came to each version once it was current: the adoption curves of the last rollouts.

Rules:

1. A rollout begins when another version than before becomes current: at the declaration, else with the first sample in
   which the fleet has settled on it. A version that is declared once more, or is current again after nobody knew which
   one was, goes on with its rollout. The version that was current when the history began has none.
2. It is done when 99 % of the connections are on the version, and replaced when another version becomes current before
   that. Else it is running: its curve is not over.
3. 50, 90 and 99 % are reached with the first sample that shows so many on the version. The half-life is the time in
   which half of the connections that were on other versions at the release were gone from them.
4. Only whole samples count. A partial one lacks connections that may be on the old version, and says nothing. What was
   reached after such samples, or after more than 90 s without any, may have been reached earlier, and is partial.

Bounded: `MAX_ROLLOUTS` rollouts of at most `MAX_POINTS` points. The grid of the points is finer at the beginning.

Tests: tests/core/test_rollouts.py.
"""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Annotated, Any, Final, Literal

import msgspec

from .fleet_messages import Count, Version
from .history import Sample

MAX_ROLLOUTS: Final = 20

PERCENTS: Final = (50, 90, 99)
"""Shares of the connections whose times are noted. With the last one, a rollout is done."""

HALF: Final = 50
"""Per cent of the connections on other versions that have left them after the half-life."""

GRID: Final = (
    *(0, 10, 20, 30, 40, 50, 60, 90, 120, 180, 240, 300, 420, 600, 900, 1_200, 1_800, 2_700),
    *(3_600, 5_400, 7_200, 10_800, 14_400, 21_600, 28_800, 43_200, 64_800, 86_400),
    *(129_600, 172_800, 259_200, 432_000, 604_800),
)
"""Seconds after a release at which a curve has a point: the first whole sample that is so old."""

MAX_POINTS: Final = len(GRID) + len(PERCENTS) + 1
"""Those of the grid, those where a share or the half-life was reached."""

LONGEST_STEP: Final = 90_000
"""Milliseconds between two samples after which it is not known what happened between them."""

MAX_ENCODED: Final = 65_536
"""Bytes of all rollouts, encoded."""

State = Literal["running", "done", "replaced"]

_Time = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Point(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """How many connections were on the version, of how many, `after` ms."""

    after: _Time
    on: Count
    total: Count


class Milestone(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """That so many per cent were reached `after` ms; if `partial`, perhaps earlier."""

    percent: Annotated[int, msgspec.Meta(ge=0, le=100)]
    after: _Time
    partial: bool = False


class AdoptionCurve(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    One release and what followed from it.

    Attributes:
        version: Which is current since then.
        previous: Which was current before; "": not known.
        at: When it became current, in ms since 1970.
        declared: An operator declared it; else the fleet settled on it.
        ended: When another version became current, in ms since 1970; 0: none has.
        old: Connections on other versions at the release; None: not known yet.
        old_late: Those were counted after the release only, because no sample of just before shows them.
        reached: See rule 3.
        half_life: See rule 3.
        points: The curve.
        latest: The newest whole sample of it.
        partial: What the newest sample shows is not known.
    """

    version: Version
    previous: Annotated[str, msgspec.Meta(max_length=128)]
    at: _Time
    declared: bool = False
    ended: _Time = 0
    old: Count | None = None
    old_late: bool = False
    reached: Annotated[tuple[Milestone, ...], msgspec.Meta(max_length=len(PERCENTS))] = ()
    half_life: Milestone | None = None
    points: Annotated[tuple[Point, ...], msgspec.Meta(max_length=MAX_POINTS)] = ()
    latest: Point | None = None
    partial: bool = False

    @property
    def state(self) -> State:
        """See rule 2."""
        if self.after(PERCENTS[-1]) is not None:
            return "done"
        return "replaced" if self.ended else "running"

    def after(self, percent: int) -> Milestone | None:
        """Return when so many per cent were reached; None: they were not."""
        return next((each for each in self.reached if each.percent == percent), None)

    @property
    def curve(self) -> tuple[Point, ...]:
        """The points, and the newest whole sample."""
        if self.latest is None or (self.points and self.points[-1].after >= self.latest.after):
            return self.points
        return *self.points, self.latest


class Rollouts(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What is known of the last rollouts.

    Attributes:
        version: Which was current last; "": not known.
        last: The last sample that was applied.
        rollouts: Oldest first.
    """

    version: Annotated[str, msgspec.Meta(max_length=128)] = ""
    last: Sample | None = None
    rollouts: Annotated[tuple[AdoptionCurve, ...], msgspec.Meta(max_length=MAX_ROLLOUTS)] = ()


NOTHING: Final = Rollouts()

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Rollouts).decode


def encode(known: Rollouts) -> bytes:
    """Encode rollouts for a store, in at most `MAX_ENCODED` bytes."""
    return _encode(known)


def decode(data: bytes | None) -> Rollouts:
    """Decode what a store holds; nothing is known if it holds nothing, or what is malformed."""
    if data is None or len(data) > MAX_ENCODED:
        return NOTHING
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return NOTHING


def fold(known: Rollouts, samples: Iterable[Sample], now: int) -> Rollouts:
    """
    Apply the samples that are newer than the last one that was applied. O(samples).

    Args:
        known: What is known already.
        samples: Oldest first.
        now: Milliseconds since 1970. What is of later than that was written with a clock that was wrong.
    """
    latest = now + LONGEST_STEP
    if known.last is not None and known.last.at > latest:
        rollouts = tuple(each for each in known.rollouts if max(each.at, each.ended) <= latest)
        known = Rollouts(known.version, None, rollouts)
    for sample in samples:
        if sample.at <= latest and (known.last is None or sample.at > known.last.at):
            known = _apply(known, sample)
    return known


def _apply(known: Rollouts, sample: Sample) -> Rollouts:
    version, rollouts = known.version, known.rollouts
    current = sample.current
    if current is not None and current != version:
        if version or (known.last is not None and sample.declared > known.last.at):
            begun = _begin(known, sample, current)
            if rollouts and not rollouts[-1].ended:
                ended = msgspec.structs.replace(rollouts[-1], ended=max(1, begun.at), partial=False)
                rollouts = (*rollouts[:-1], ended)
            rollouts = (*rollouts, begun)[-MAX_ROLLOUTS:]
        version = current
    if rollouts and not rollouts[-1].ended:
        rollouts = (*rollouts[:-1], _advance(rollouts[-1], known.last, sample))
    return Rollouts(version, sample, rollouts)


def _begin(known: Rollouts, sample: Sample, current: str) -> AdoptionCurve:
    """Return the rollout that begins between the last sample and this one, without this one."""
    last = known.last
    since = sample.at if last is None else last.at
    at = min(max(sample.declared, since), sample.at) if sample.declared else sample.at
    begun = AdoptionCurve(current, known.version, at, bool(sample.declared))
    on = _on(last, current, sample.at)
    if last is None or on is None:
        return begun
    first = Point(0, on, last.total)
    reached = tuple(Milestone(percent, 0) for percent in PERCENTS if _is_reached(percent, first))
    return msgspec.structs.replace(begun, old=last.total - on, reached=reached, points=(first,), latest=first)


def _on(last: Sample | None, version: str, at: int) -> int | None:
    """Return the connections on a version in the sample before one of `at`; None: it does not say."""
    return None if last is None or at - last.at > LONGEST_STEP else last.count_of(version)


def _advance(rollout: AdoptionCurve, last: Sample | None, sample: Sample) -> AdoptionCurve:
    """Apply a sample to a rollout that has not ended."""
    on = sample.count_of(rollout.version) if sample.current == rollout.version else None
    if on is None:
        return rollout if rollout.partial else msgspec.structs.replace(rollout, partial=True)
    total, old = sample.total, rollout.old
    point = Point(max(0, sample.at - rollout.at), on, total)
    gap = _on(last, rollout.version, sample.at) is None
    reached = rollout.reached + tuple(
        Milestone(percent, point.after, gap)
        for percent in PERCENTS
        if _is_reached(percent, point) and rollout.after(percent) is None
    )
    half_life = rollout.half_life
    if half_life is None and old and (total - on) * 100 <= (100 - HALF) * old:
        half_life = Milestone(HALF, point.after, gap or rollout.old_late)
    is_milestone = len(reached) > len(rollout.reached) or half_life is not rollout.half_life
    points = rollout.points
    if len(points) < MAX_POINTS and (is_milestone or not points or _step(points[-1].after) < _step(point.after)):
        points = (*points, point)
    return msgspec.structs.replace(
        rollout,
        old=total - on if old is None else old,
        old_late=rollout.old_late or old is None,
        reached=reached,
        half_life=half_life,
        points=points,
        latest=point,
        partial=False,
    )


def _is_reached(percent: int, point: Point) -> bool:
    return point.total > 0 and point.on * 100 >= percent * point.total


def _step(after: int) -> int:
    """Return how many points of the grid a time has passed."""
    return sum(after >= seconds * 1000 for seconds in GRID)


COMPARED: Final = 5
"""Rollouts with which the newest is compared."""


def compared(newest_first: Sequence[AdoptionCurve]) -> list[AdoptionCurve]:
    """Return the last rollouts before the newest one that were done: of others it is not known how long they take."""
    return [each for each in newest_first[1:] if each.state == "done"][:COMPARED]


def typical(others: Iterable[AdoptionCurve], percent: int) -> float | None:
    """
    Return after how many ms a rollout usually reaches a share: the median.

    Args:
        others: What `compared` returned.
        percent: One of `PERCENTS`.

    Returns:
        None if none of them has reached it.
    """
    times = [found.after for each in others if (found := each.after(percent)) is not None]
    return median(times) if times else None


def usual_time(others: Iterable[AdoptionCurve], share: float, goal: float) -> float | None:
    """
    Return for how many ms rollouts usually go from one share of connections on the version to another: the median.

    Args:
        others: What `compared` returned.
        share: From 0 to 1.
        goal: From 0 to 1.

    Returns:
        None if the curve of none of them shows both.
    """
    found = []
    for each in others:
        begin, end = _reaches(each.curve, share), _reaches(each.curve, goal)
        if begin is not None and end is not None:
            found.append(max(0.0, end - begin))
    return median(found) if found else None


def _reaches(curve: Sequence[Point], share: float) -> float | None:
    """Return after how many ms a curve reaches a share, on straight lines between its points; None: it does not."""
    before: Point | None = None
    for point in curve:
        if not point.total:
            continue
        if point.on >= share * point.total:
            if before is None or before.on * point.total == point.on * before.total:
                return point.after
            low, high = before.on / before.total, point.on / point.total
            return before.after + (point.after - before.after) * max(0.0, (share - low) / (high - low))
        before = point
    return None


def to_list(known: Rollouts) -> list[dict[str, Any]]:
    """
    Return the wire's shape, newest first: `{version, previous, at, declared, state, reached, halfLife, curve}`.

    `reached` has an entry for each share that was reached; `previous`, `endedAt`, `old` and `halfLife` are absent while
    they are not known.
    """
    return [to_dict(each) for each in reversed(known.rollouts)]


def to_dict(one: AdoptionCurve) -> dict[str, Any]:
    """Return the wire's shape of one; see `to_list`."""
    return {
        "version": one.version,
        **({"previous": one.previous} if one.previous else {}),
        "at": one.at,
        "declared": one.declared,
        "state": one.state,
        **({"endedAt": one.ended} if one.ended else {}),
        **({"partial": True} if one.partial and one.state == "running" else {}),
        **({} if one.old is None else {"old": one.old}),
        "reached": [{"percent": each.percent, **_time(each)} for each in one.reached],
        **({} if one.half_life is None else {"halfLife": _time(one.half_life)}),
        "curve": [{"afterMs": point.after, "on": point.on, "total": point.total} for point in one.curve],
    }


def _time(milestone: Milestone) -> dict[str, Any]:
    return {"afterMs": milestone.after, **({"partial": True} if milestone.partial else {})}
