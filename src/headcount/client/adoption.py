"""
The adoption curves of a server's last rollouts. Known fields are checked strictly; unknown fields are ignored.

Source: protocol/README.md#log-in-history

Tests: tests/client/test_small_parts.py, tests/cli/test_rollouts.py.
"""

from typing import Annotated, TypeAlias

import msgspec

from ..core.history import MAX_TIME
from ..core.rollouts import HALF, AdoptionCurve, Milestone, Point
from ..errors import Malformed
from .messages import Count

Moment: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME)]
"""Milliseconds, since 1970 or since a release."""


class _Reached(msgspec.Struct, rename="camel"):
    after_ms: Moment
    percent: Annotated[int, msgspec.Meta(ge=0, le=100)] = HALF
    partial: bool = False

    def milestone(self) -> Milestone:
        """Return it as the rules have it."""
        return Milestone(self.percent, self.after_ms, self.partial)


class _Point(msgspec.Struct, rename="camel"):
    after_ms: Moment
    on: Count
    total: Count


class _Rollout(msgspec.Struct, rename="camel"):
    version: str
    at: Moment
    reached: list[_Reached]
    curve: list[_Point]
    previous: str = ""
    declared: bool = False
    ended_at: Moment = 0
    partial: bool = False
    old: Count | None = None
    half_life: _Reached | None = None

    def curve_of(self) -> AdoptionCurve:
        """Return it as the rules have it."""
        points = tuple(Point(point.after_ms, point.on, point.total) for point in self.curve)
        return AdoptionCurve(
            self.version,
            self.previous,
            self.at,
            self.declared,
            self.ended_at,
            self.old,
            reached=tuple(each.milestone() for each in self.reached),
            half_life=None if self.half_life is None else self.half_life.milestone(),
            points=points,
            latest=points[-1] if points else None,
            partial=self.partial,
        )


class _Rollouts(msgspec.Struct):
    rollouts: list[_Rollout]


_decode = msgspec.json.Decoder(_Rollouts).decode


def decode(content: bytes) -> list[AdoptionCurve]:
    """
    Read the answer of `GET /admin/history/rollouts`, newest first.

    Raises:
        Malformed: The answer has another shape.
    """
    try:
        found = _decode(content)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Malformed(f"The server's rollouts are malformed: {error}.") from None
    return [each.curve_of() for each in found.rollouts]
