"""
Load: thousands of pages from one process, each a real connection that navigates, reconnects and reloads.

A page does what a page's client does: it reads its `connectionId`, reports its routes, reconnects by the rule of
core/reconnect.py, acknowledges messages, and after it was told of a release it reloads onto that version at a random
moment, of which it tells the server.

Tests: tests/cli/test_swarm.py.
"""

import asyncio
import base64
import json
import os
import random
import ssl
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

from ..core.reconnect import (
    OTHER_WAY,
    Way,
    after_delivery,
    after_end,
    after_life,
    is_cut,
)
from ..errors import ConfigError
from .swarm_page import Page
from .swarm_post import Answer, read_answer
from .swarm_visitor import Visitor

Strategy: TypeAlias = Literal["sse", "ws", "auto"]

_OPEN_TIMEOUT: Final = 30.0
"""Seconds until a stream must be open, and a navigation answered."""

_POSTS_AT_ONCE: Final = 64
"""Goodbyes and answers by POST that are under way at the same time."""

_DELIVERY_TIMEOUT: Final = 5.0
"""Seconds until `connected` must have come on a stream that was answered, where the other kind is an alternative."""


class Plan(NamedTuple):
    """
    How the swarm behaves. Durations are seconds.

    Attributes:
        connections: Number of pages.
        versions: Versions of the pages with their parts: a version with 3 of 4 parts gets three quarters of the pages.
        routes: Routes between which pages navigate.
        navigate: Mean time on one route; 0: pages never navigate.
        reconnect: Mean time until a page loses its connection and reconnects; 0: never.
        reload_within: Longest time from a release until an outdated page reloads; 0: no page reloads.
        rate: Connections opened per second, at most.
        strategy: SSE, WebSocket, or auto: half prefer each, and use the other kind where theirs does not get through.
        seed: Seed of the random behaviour.
    """

    connections: int
    versions: Mapping[str, int]
    routes: tuple[str, ...]
    navigate: float = 10.0
    reconnect: float = 0.0
    reload_within: float = 30.0
    rate: float = 500.0
    strategy: Strategy = "auto"
    seed: int = 1


class Tally:
    """Counts of events. `latencies` are seconds from the request to `connected`, a sample of at most 10,000."""

    def __init__(self) -> None:
        self.open = 0
        self.most = 0
        self.ever = 0
        """Number of pages that were open at some time."""
        self.events: Counter[str] = Counter()
        """
        `opened`, `refused`, `lost`, `reconnects`, `renewals`, `navigations`, `reloads`, `drains`, `failed navigations`,
        `posted`: navigations by POST that Headcount has accepted.
        """
        self.failure = ""
        """What is wrong with navigations by POST, in a sentence; "": none failed, or one was accepted."""
        self.errors: Counter[str] = Counter()
        """Reasons why connections were refused or lost."""
        self.received = 0
        """Bytes."""
        self.latencies: list[float] = []
        self.versions: Counter[str] = Counter()
        """Open pages by version."""

    def latency(self, seconds: float) -> None:
        """Record the time that an opening took."""
        if len(self.latencies) < 10_000:
            self.latencies.append(seconds)
        else:
            self.latencies[random.randrange(10_000)] = seconds  # noqa: S311  a sample

    def quantile(self, share: float) -> float | None:
        """Return the time within which this share of the openings succeeded; None: there were none."""
        if not self.latencies:
            return None
        ranked = sorted(self.latencies)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


class Swarm:
    """
    Pages of one application.

    Args:
        base: URL of the base path.
        plan: How the pages behave.
        context: TLS context; None: no TLS.
        headers: Sent with every request.
    """

    def __init__(
        self, base: str, plan: Plan, context: ssl.SSLContext | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        parts = urlsplit(base)
        assert parts.hostname is not None
        self._base = base
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._path = quote(parts.path, safe="/%")
        self._netloc = parts.netloc.rpartition("@")[2]
        self._context = context
        self._headers = dict(headers or {})
        self._plan = plan
        self._next_slot = 0.0
        self._posting = asyncio.Semaphore(_POSTS_AT_ONCE)
        self._acknowledging: set[asyncio.Task[None]] = set()
        self.tally = Tally()

    async def run(self) -> None:
        """Run all pages until cancelled; then all of them say goodbye and close."""
        async with asyncio.TaskGroup() as pages:
            for number, version in zip(range(self._plan.connections), self._versions(), strict=False):
                pages.create_task(self._live(number, version))

    def _versions(self) -> Iterator[str]:
        """Yield versions in proportion to their parts, evenly mixed."""
        dealt: Counter[str] = Counter()
        while True:
            version = min(self._plan.versions, key=lambda name: (dealt[name] + 1) / self._plan.versions[name])
            dealt[version] += 1
            yield version

    async def _live(self, number: int, version: str) -> None:
        rng = random.Random(f"{self._plan.seed}/{number}")  # noqa: S311  nothing secret
        prefers: Way = self._plan.strategy if self._plan.strategy != "auto" else ("sse", "ws")[number % 2]
        visitor = Visitor(rng, prefers, version, rng.choice(self._plan.routes))
        attempt, first = 0, True
        clock = time.monotonic
        while True:
            await self._turn()
            asked = clock()
            page = visitor.page = self._page(visitor)
            lasted, reloaded = None, False
            try:
                await self._connect(page)
                visitor.ways = after_delivery(visitor.ways, visitor.prefers, visitor.kind)
                self.tally.latency(clock() - asked)
                self.tally.events["opened"] += 1
                self.tally.ever += first
                first = False
                self.tally.events["reconnects"] += bool(visitor.handle)
                visitor.handle = page.handle
                with self._counted(visitor.version):
                    reloaded = await self._stay(visitor)
                page = visitor.page  # another one may have taken over
                if reloaded:
                    await self._accept(visitor)
                    await self._leave(visitor)
                lasted = (page.ended_at or clock()) - page.opened_at
            except (OSError, TimeoutError, ConnectionError) as error:
                self.tally.events["refused"] += 1
                self.tally.errors[str(error) or type(error).__name__] += 1
            except asyncio.CancelledError:
                await self._leave(visitor)
                raise
            finally:
                page.close()
                self.tally.received += page.received
            if reloaded:
                visitor = visitor.reloaded(rng.choice(self._plan.routes))
                self.tally.events["reloads"] += 1
                continue
            pause = self._pause(visitor, lasted, attempt)
            if pause is None:
                return
            delay, attempt = pause
            try:
                await asyncio.sleep(delay)
            except asyncio.CancelledError:
                await self._leave(visitor)
                raise

    def _pause(self, visitor: Visitor, lasted: float | None, attempt: int) -> tuple[float, int] | None:
        """
        Return for how long a page waits after the end of its stream, and how many attempts have failed.

        Args:
            visitor: The page.
            lasted: Seconds for which the stream was open; None: it did not open.
            attempt: How many attempts had failed before.

        Returns:
            None: it opens no other.
        """
        page, rng, clock = visitor.page, visitor.rng, time.monotonic
        was_cut = page.ended_at is not None and page.return_at is None and is_cut(page.code)
        visitor.limit = after_life(visitor.limit, page.ended_at or clock(), (lasted or 0.0) if was_cut else 0.0)
        if page.return_at is not None:
            self.tally.events["drains"] += 1
            attempt, delay = 0, max(0.0, page.return_at - clock())
        else:
            following = after_end(
                attempt,
                rng.random(),
                lasted=lasted,
                code=page.code,
                named=page.named,
                refused=not visitor.handle and page.refused,
            )
            if following is None:
                return None
            delay, attempt = following
        if self._plan.strategy == "auto" and visitor.turns_to_other(delivered=lasted is not None):
            delay = OTHER_WAY
        return delay, attempt

    async def _connect(self, page: Page) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_OPEN_TIMEOUT) as limit:
            if self._plan.strategy == "auto":
                page.on_answer = lambda: limit.reschedule(loop.time() + _DELIVERY_TIMEOUT)
            await loop.create_connection(
                lambda: page,
                self._host,
                self._port,
                ssl=self._context,
                server_hostname=self._host if self._context is not None else None,
            )
            try:
                await page.opened
            finally:
                page.on_answer = None

    @contextmanager
    def _counted(self, version: str) -> Iterator[None]:
        tally = self.tally
        tally.open += 1
        tally.most = max(tally.most, tally.open)
        tally.versions[version] += 1
        try:
            yield
        finally:
            tally.open -= 1
            tally.versions[version] -= 1
            if not tally.versions[version]:
                del tally.versions[version]

    async def _stay(self, visitor: Visitor) -> bool:
        """Navigate until the stream is over. Returns whether the page reloads now."""
        plan, clock, rng = self._plan, time.monotonic, visitor.rng
        leaves = clock() + rng.expovariate(1 / plan.reconnect) if plan.reconnect else float("inf")
        reloads = float("inf")
        moves = clock() + rng.expovariate(1 / plan.navigate) if plan.navigate else float("inf")
        renews = visitor.renews_at()
        while True:
            page = visitor.page
            if visitor.is_outdated and plan.reload_within and reloads == float("inf"):
                reloads = clock() + rng.uniform(0, plan.reload_within)
            until = min(leaves, reloads, moves, renews)
            await self._until(visitor, until - clock(), until_release=reloads == float("inf"))
            now = clock()
            if page.ended_at is not None:
                if page.return_at is None:
                    self.tally.events["lost"] += 1
                    self.tally.errors["the stream was ended"] += 1
                return False
            if now >= reloads:
                return True
            if now >= leaves:
                return False
            if now >= renews:
                renews = visitor.renews_at() if await self._renew(visitor) else float("inf")
            elif now >= moves:
                moves = now + rng.expovariate(1 / plan.navigate)
                visitor.route = rng.choice(plan.routes)
                await self._navigate(page, visitor.kind, visitor.route)

    async def _renew(self, visitor: Visitor) -> bool:
        """Open the next stream before a limit ends the present one. Returns whether it has taken over."""
        if visitor.page.return_at is not None:
            return False
        successor = self._page(visitor)
        try:
            await self._connect(successor)
        except (OSError, TimeoutError, ConnectionError) as error:
            successor.close()
            self.tally.errors[f"renewal: {error or type(error).__name__}"] += 1
            return False
        self.tally.events["renewals"] += 1
        self.tally.received += visitor.page.received
        visitor.page.close()
        visitor.page, visitor.handle = successor, successor.handle
        return True

    async def _until(self, visitor: Visitor, seconds: float, *, until_release: bool) -> None:
        """Wait until the stream is over, the time has passed or, if `until_release` is set, a release came."""
        timeout = None if seconds == float("inf") else max(0.0, seconds)
        release = asyncio.ensure_future(visitor.asked.wait()) if until_release else None
        closed = visitor.page.closed
        try:
            waiting: list[asyncio.Future[Any]] = [closed] if release is None else [closed, release]
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if release is not None:
                release.cancel()

    async def _navigate(self, page: Page, kind: str, route: str) -> None:
        self.tally.events["navigations"] += 1
        if kind == "ws":
            page.send({"type": "route-update", "route": route})
            return
        tally = self.tally
        try:
            answer = await self._post("/route", {"connectionId": page.handle, "route": route})
            if answer.outcome == "done":
                tally.events["posted"] += 1
                tally.failure = ""
                return
            failure = answer.sentence
        except (OSError, TimeoutError) as error:
            failure = str(error) or type(error).__name__
        if not page.closed.done():  # else the server has just ended the stream, and does not know it any more
            tally.events["failed navigations"] += 1
            tally.errors[f"navigation: {failure}"] += 1
            if not tally.events["posted"]:
                tally.failure = failure

    async def _leave(self, visitor: Visitor) -> None:
        """Say goodbye, as a page does that is closed or reloaded."""
        if visitor.page.leave() or not visitor.handle:
            return
        with suppress(OSError, TimeoutError):
            async with self._posting:
                await self._post("/bye", {"connectionId": visitor.handle})

    async def _accept(self, visitor: Visitor) -> None:
        """Say that the page reloads, if the server asked for replies."""
        if visitor.is_reply_wanted and visitor.released is not None:
            await self._answer(visitor.page, "release-reply", {"version": visitor.released, "reply": "accepted"})

    def _on_notice(self, page: Page, notice: str) -> None:
        task = asyncio.create_task(self._answer(page, "acknowledge", {"id": notice}))
        self._acknowledging.add(task)
        task.add_done_callback(self._acknowledging.discard)

    async def _answer(self, page: Page, kind: str, fields: Mapping[str, str]) -> None:
        """Send an answer once, by the WebSocket or by a POST."""
        if page.is_websocket:
            page.send({"type": kind, **fields})
            return
        with suppress(OSError, TimeoutError):
            async with self._posting:
                await self._post("/" + kind, {"connectionId": page.handle, **fields})

    async def _post(self, path: str, fields: Mapping[str, str]) -> Answer:
        """POST on a connection of its own, like a browser whose other connections hold streams."""
        body = json.dumps(fields).encode()
        head = self._head("POST", path, ("Content-Type: application/json", f"Content-Length: {len(body)}"))
        async with asyncio.timeout(_OPEN_TIMEOUT):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context)
            try:
                writer.write(head + body)
                return await read_answer(reader, f"{self._base}{path}")
            finally:
                writer.close()

    def _page(self, visitor: Visitor) -> Page:
        kind = visitor.kind
        fields = {"version": visitor.version, "route": visitor.route}
        if visitor.handle:
            fields |= {"reconnect": "1", "replaces": visitor.handle}
        if visitor.limit.cut_after:
            fields["cutAfter"] = str(round(visitor.limit.cut_after * 1000))
        query = urlencode(fields)
        if kind == "sse":
            lines: tuple[str, ...] = ("Accept: text/event-stream", "Cache-Control: no-cache")
        else:
            key = base64.b64encode(os.urandom(16)).decode()
            lines = (
                *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
                f"Sec-WebSocket-Key: {key}",
            )
        return Page(self._head("GET", f"/{kind}?{query}", lines), visitor.rng, visitor.on_release, self._on_notice)

    def _head(self, method: str, path: str, lines: tuple[str, ...]) -> bytes:
        own = ("Host: " + self._netloc, "User-Agent: headcount-swarm", *(f"{k}: {v}" for k, v in self._headers.items()))
        return "\r\n".join((f"{method} {self._path}{path} HTTP/1.1", *own, *lines, "", "")).encode("latin-1")

    async def _turn(self) -> None:
        """Wait for the next slot to open a connection, so that the rate of the plan is not exceeded."""
        now = time.monotonic()
        self._next_slot = max(self._next_slot, now) + 1 / self._plan.rate
        if (wait := self._next_slot - now) > 0.002:
            await asyncio.sleep(wait)


def raise_file_limit(wanted: int) -> None:
    """
    Raise the limit of open files to what `wanted` connections need.

    Raises:
        ConfigError: The hard limit is too low.
    """
    import resource

    needed = wanted + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"{wanted:,} connections need {needed:,} open files, but only {hard:,} are allowed; raise the limit with "
            "ulimit -n, or give fewer --connections."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
