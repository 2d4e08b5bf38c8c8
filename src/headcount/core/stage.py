"""
Staged releases: which share of the pages is asked to come to a new version, and when.

A release is declared at once, for the whole fleet. Its stage says how fast pages are asked. All nodes know the stage,
as a part of the release, and each works out the share from it and its own clock, so they need not agree on anything
else: a node that dies or is started changes nothing for the pages of the others.

Tests: tests/core/test_stage.py.
"""

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from .labels import MAX_ROUTE

State: TypeAlias = Literal["running", "paused", "aborted"]

MAX_OVER: Final = 30 * 86_400_000
"""Milliseconds that a stage may take."""

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class Stage(msgspec.Struct, frozen=True, order=True, omit_defaults=True):
    """
    How fast the pages are asked. The default asks all of them at once.

    Attributes:
        over: Milliseconds from `since` in which the share goes from `start` to `until`; 0: at once.
        since: When it began to, in ms since 1970.
        start: The share that had been asked then.
        until: The share that is asked in the end.
        route: Only pages on this route are asked; empty: all.
        state: While it is not running, the share stays at `start`.
    """

    over: Annotated[int, msgspec.Meta(ge=0, le=MAX_OVER)] = 0
    since: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    start: Share = 0.0
    until: Share = 1.0
    route: Annotated[str, msgspec.Meta(max_length=MAX_ROUTE)] = ""
    state: State = "running"

    @property
    def everybody(self) -> bool:
        """All pages are asked at once: this is no stage."""
        return self == _AT_ONCE

    def share(self, now: int) -> float:
        """Return the share of the pages that is asked by now, in ms since 1970."""
        if self.state != "running":
            return self.start
        done = 1.0 if self.over <= 0 else min(1.0, max(0.0, (now - self.since) / self.over))
        if done >= 1.0:
            return max(self.start, self.until)  # what floats make of it may be less, and then it would never be over
        return max(self.start, self.start + (self.until - self.start) * done)

    def is_over(self, now: int) -> bool:
        """Say whether no further page will be asked. With a route, only an abort ends it: pages come there."""
        if self.state == "aborted":
            return True
        return self.state == "running" and not self.route and self.share(now) >= self.until

    def ends_at(self) -> int | None:
        """Return when the last page gets its turn, in ms since 1970; None: it is not running."""
        return self.since + self.over if self.state == "running" else None

    def halted(self, now: int, state: Literal["paused", "aborted"]) -> "Stage":
        """Return the stage that stays where it is now."""
        left = max(0, self.since + self.over - now) if self.state == "running" else self.over
        return msgspec.structs.replace(self, over=left, since=now, start=self.share(now), state=state)

    def resumed(self, now: int) -> "Stage":
        """Return the stage that goes on from where it was paused."""
        return self if self.state == "running" else msgspec.structs.replace(self, since=now, state="running")


_AT_ONCE: Final = Stage()
