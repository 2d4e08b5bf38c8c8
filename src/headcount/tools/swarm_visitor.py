"""
What one page of the swarm keeps from stream to stream.

Tests: tests/cli/test_swarm.py.
"""

import asyncio
import random

from ..core.reconnect import Limit, Way, Ways, after_failure, after_opening, is_cut, next_way
from .swarm_page import Page


class Visitor:
    """
    What one page keeps, and what it was told of a release.

    Args:
        rng: Of its behaviour.
        prefers: Kind of its streams, unless that does not get through.
        version: That it runs.
        route: That it shows.
    """

    __slots__ = (
        *("asked", "handle", "is_reply_wanted", "kind", "limit", "page", "prefers", "released", "rng", "route"),
        *("version", "ways"),
    )

    def __init__(self, rng: random.Random, prefers: Way, version: str, route: str) -> None:
        self.rng = rng
        self.prefers = prefers
        self.kind = prefers
        """Of the newest stream."""
        self.ways = Ways()
        self.version = version
        self.route = route
        self.handle = ""
        """Of the last stream that was open; "": none was."""
        self.limit = Limit()
        self.page: Page
        self.released: str | None = None
        """The version of the last release that this page was told; None: of none."""
        self.is_reply_wanted = False
        self.asked = asyncio.Event()
        """The page is outdated since it was told of a release."""

    @property
    def is_outdated(self) -> bool:
        return self.released is not None and self.released != self.version

    def on_release(self, version: str, is_reply_wanted: bool) -> None:
        """Note a release of which a stream of this page has told it."""
        self.released, self.is_reply_wanted = version, is_reply_wanted
        if self.is_outdated:
            self.asked.set()
        else:
            self.asked.clear()

    def reloaded(self, route: str) -> "Visitor":
        """Return the page that follows; its browser remembers which kind of stream gets through."""
        following = Visitor(self.rng, self.prefers, self.released or self.version, route)
        following.kind, following.ways = self.kind, self.ways
        return following

    def turns_to_other(self, *, delivered: bool) -> bool:
        """Choose the kind of the next stream. Returns whether it is the other one, to be tried at once."""
        page, at_once = self.page, False
        if not delivered and is_cut(page.code):
            opened = page.status.startswith("HTTP/") and not page.refused
            self.ways, at_once = after_failure(self.ways, self.kind, opened=opened, named=page.named)
        self.kind = next_way(self.ways, self.prefers)
        return at_once

    def renews_at(self) -> float:
        """Return when to open the stream after the one that has just opened, in monotonic time."""
        self.limit, delay = after_opening(self.limit, self.rng.random())
        return float("inf") if delay is None else self.page.opened_at + delay
