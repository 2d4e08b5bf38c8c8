"""
Load: thousands of pages from one process, each a real connection that navigates, reconnects and reloads.

A page is a bare asyncio protocol that reads little of what it is sent, so that the server carries the load. It does
what a page's client does: reads its `connectionId`, reports its routes, reconnects by the rule of core/reconnect.py,
and after a release it reloads onto the new version at a random moment.

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

from ..client.retry_after import parse_retry_after
from ..core.reconnect import after_drain, after_end
from ..errors import ConfigError

Strategy: TypeAlias = Literal["sse", "ws", "auto"]

_MASK: Final = b"\x00\x00\x00\x00"
"""Clients must mask; with zeros the text stays as it is."""

_CONNECTED: Final = b'"type":"connected"'
_VERSION: Final = b'{"type":"version"'
_DRAIN: Final = b'{"type":"drain"'

_CLOSE: Final = 0x88
_PING: Final = 0x89
_PONG: Final = 0x8A
"""First bytes of such frames."""

_KEPT: Final = 1_024
"""Bytes of what came that are kept, in case a message comes in two pieces. Whole figures are longer; no page asks."""

_OPEN_TIMEOUT: Final = 30.0
"""Seconds."""


class Plan(NamedTuple):
    """
    How the swarm behaves. Durations are seconds.

    Attributes:
        connections: Pages.
        versions: Their versions, and how many parts of all each gets.
        routes: Paths between which they move.
        navigate: Mean time that a page shows one route; 0: it stays.
        reconnect: Mean time until a page loses its connection and comes back; 0: never.
        reload_within: After a release, the longest time until a page is reloaded; 0: never reloaded.
        rate: Connections opened a second, at most.
        strategy: SSE, WebSocket, or half of each.
        seed: The same gives the same pages on the same paths.
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
    """What happened so far. `latencies` are seconds from asking to `connected`, a sample of 10,000 at most."""

    def __init__(self) -> None:
        self.open = 0
        self.most = 0
        self.ever = 0
        """Pages that were open at some time."""
        self.events: Counter[str] = Counter()
        """`opened`, `refused`, `lost`, `reconnects`, `navigations`, `reloads`, `drains`, `failed navigations`."""
        self.errors: Counter[str] = Counter()
        """Why connections were refused or lost."""
        self.received = 0
        """Bytes."""
        self.latencies: list[float] = []
        self.versions: Counter[str] = Counter()
        """Open pages by version."""

    def latency(self, seconds: float) -> None:
        """Note how long an opening took."""
        if len(self.latencies) < 10_000:
            self.latencies.append(seconds)
        else:
            self.latencies[random.randrange(10_000)] = seconds  # noqa: S311  a sample

    def quantile(self, share: float) -> float | None:
        """Return the time within which that share of the openings was done."""
        if not self.latencies:
            return None
        ranked = sorted(self.latencies)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


class _Page(asyncio.Protocol):
    """
    One stream. `opened` is done when `connected` has come, `closed` when the stream is over.

    Args:
        request: Bytes of the HTTP request that opens it.
        rng: For the delay of a `drain` that names none.
        on_release: Called with the version of a release.
    """

    def __init__(self, request: bytes, rng: random.Random, on_release: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.handle = ""
        self.received = 0
        self.return_at: float | None = None
        """When to open the next stream, as `drain` asked, in monotonic time; None: no `drain` has come."""
        self.code: int | None = None
        """The WebSocket's close code; None: none has come."""
        self.named = 0.0
        """Seconds of a Retry-After header; 0: there was none."""
        self.status = ""
        self.transport: asyncio.Transport | None = None
        self._request = request
        self._rng = rng
        self._on_release = on_release
        self._tail = b""
        self._frames: bytearray | None = None
        """Of a WebSocket: what came and is no whole frame yet. None until the handshake is over, and for SSE."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if not self.status:
            self.status = data[:64].split(b"\r\n", 1)[0].decode("ascii", "replace")
            if " 101 " in self.status + " ":
                self._frames = bytearray(data.partition(b"\r\n\r\n")[2])
            elif " 200 " not in self.status + " ":
                self.named = _retry_after(data)
        elif self._frames is not None:
            self._frames += data
        if self._frames:
            self._read_frames(self._frames)
        if data == b":\n\n" or len(data) < 8:
            return  # a keepalive
        text = self._tail + data
        if not self.opened.done():
            if _CONNECTED in text and (found := _string(text, b'"connectionId":"')) is not None:
                self.handle = found
                self.opened.set_result(None)
                self._tail = b""
                return
            if " 200 " not in self.status + " " and " 101 " not in self.status + " ":
                self.close()
        elif _VERSION in text and (version := _string(text[text.index(_VERSION) :], b'"version":"')) is not None:
            self._tail = b""
            self._on_release(version)
            return
        elif _DRAIN in text and self.return_at is None:
            self._on_drain(text)
        self._tail = text[-_KEPT:]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            words = self.status.partition(" ")[2] or (str(exc) if exc else "it was ended at once")
            self.opened.set_exception(ConnectionError(words))
            self.opened.exception()  # looked at, or the loop would complain when nobody waits for it any more
        if not self.closed.done():
            self.closed.set_result(None)

    def _on_drain(self, text: bytes) -> None:
        """Leave when `drain` says, also when the server keeps the stream open."""
        reconnect = None
        with suppress(ValueError, IndexError):
            reconnect = int(text.split(b'"reconnectMs":', 1)[1].split(b"}", 1)[0]) / 1000
        delay = after_drain(reconnect, self._rng.random())
        self.return_at = time.monotonic() + delay
        asyncio.get_running_loop().call_later(delay, self.close)

    def _read_frames(self, frames: bytearray) -> None:
        """
        Answer pings, as every browser does, because the server ends a stream that does not; and read the close code.
        Drops the frames it has read.
        """
        start = 0
        while len(frames) - start >= 2:
            size, begin = frames[start + 1], start + 2
            if size > 125:
                long = 2 if size == 126 else 8
                size, begin = int.from_bytes(frames[begin : begin + long], "big"), begin + long
            if len(frames) < begin + size:
                break
            if frames[start] == _PING and self.transport is not None:
                self.transport.write(bytes((_PONG, 0x80 | size)) + _MASK + frames[begin : begin + size])
            elif frames[start] == _CLOSE and size >= 2:
                self.code = int.from_bytes(frames[begin : begin + 2], "big")
            start = begin + size
        del frames[:start]

    def close(self) -> None:
        """Leave."""
        if self.transport is not None:
            self.transport.abort()

    def send(self, message: Mapping[str, object]) -> None:
        """Send a WebSocket message."""
        data = json.dumps(message, separators=(",", ":")).encode()
        length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(b"\x81" + length + _MASK + data)


def _string(text: bytes, before: bytes) -> str | None:
    """Return the JSON string after `before` without escapes, or None when it is not all there."""
    start = text.find(before)
    end = text.find(b'"', start + len(before)) if start >= 0 else -1
    return text[start + len(before) : end].decode("utf-8", "replace") if end >= 0 else None


def _retry_after(head: bytes) -> float:
    """Return the seconds of the Retry-After header; 0 where there is none."""
    for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"retry-after":
            return parse_retry_after(value.decode("latin-1").strip()) or 0.0
    return 0.0


class Swarm:
    """
    Pages of one application.

    Args:
        base: URL of the base path.
        plan: How they behave.
        context: For TLS; None: there is none.
        headers: Sent with every request.
    """

    def __init__(
        self, base: str, plan: Plan, context: ssl.SSLContext | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        parts = urlsplit(base)
        assert parts.hostname is not None
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._path = quote(parts.path, safe="/%")
        self._netloc = parts.netloc.rpartition("@")[2]
        self._context = context
        self._headers = dict(headers or {})
        self._plan = plan
        self._released: str | None = None
        self._release_seen = asyncio.Event()
        self._next_slot = 0.0
        self.tally = Tally()

    async def run(self) -> None:
        """Let all pages live, until cancelled; then all of them leave."""
        async with asyncio.TaskGroup() as pages:
            for number, version in zip(range(self._plan.connections), self._versions(), strict=False):
                pages.create_task(self._live(number, version))

    def _versions(self) -> Iterator[str]:
        """Deal the versions out by their parts, evenly mixed."""
        dealt: Counter[str] = Counter()
        while True:
            version = min(self._plan.versions, key=lambda name: (dealt[name] + 1) / self._plan.versions[name])
            dealt[version] += 1
            yield version

    async def _live(self, number: int, version: str) -> None:
        rng = random.Random(f"{self._plan.seed}/{number}")  # noqa: S311  nothing secret
        kind = self._plan.strategy if self._plan.strategy != "auto" else ("sse", "ws")[number % 2]
        route, attempt, again = rng.choice(self._plan.routes), 0, False
        clock, first = time.monotonic, True
        while True:
            await self._turn()
            asked = clock()
            page = self._page(kind, version, route, rng, again=again)
            lasted, reloaded = None, False
            try:
                await self._connect(page)
                opened = clock()
                self.tally.latency(opened - asked)
                self.tally.events["opened"] += 1
                self.tally.ever += first
                first = False
                self.tally.events["reconnects"] += again
                with self._counted(version):
                    route, reloaded = await self._stay(page, kind, version, route, rng)
                lasted = clock() - opened
            except (OSError, TimeoutError, ConnectionError) as error:
                self.tally.events["refused"] += 1
                self.tally.errors[str(error) or type(error).__name__] += 1
            finally:
                page.close()
                self.tally.received += page.received
            if reloaded:
                assert self._released is not None
                version, again = self._released, False
                self.tally.events["reloads"] += 1
                continue
            again = again or lasted is not None
            if page.return_at is not None:
                self.tally.events["drains"] += 1
                attempt, delay = 0, max(0.0, page.return_at - clock())
            else:
                following = after_end(attempt, rng.random(), lasted=lasted, code=page.code, named=page.named)
                if following is None:
                    return
                delay, attempt = following
            await asyncio.sleep(delay)

    async def _connect(self, page: _Page) -> None:
        async with asyncio.timeout(_OPEN_TIMEOUT):
            await asyncio.get_running_loop().create_connection(
                lambda: page,
                self._host,
                self._port,
                ssl=self._context,
                server_hostname=self._host if self._context is not None else None,
            )
            await page.opened

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

    async def _stay(self, page: _Page, kind: str, version: str, route: str, rng: random.Random) -> tuple[str, bool]:
        """Navigate until the stream is over. Returns the last route, and whether the page is to be reloaded."""
        plan, clock = self._plan, time.monotonic
        leaves = clock() + rng.expovariate(1 / plan.reconnect) if plan.reconnect else float("inf")
        reloads = float("inf")
        moves = clock() + rng.expovariate(1 / plan.navigate) if plan.navigate else float("inf")
        while True:
            outdated = self._released is not None and self._released != version
            if outdated and plan.reload_within and reloads == float("inf"):
                reloads = clock() + rng.uniform(0, plan.reload_within)
            until = min(leaves, reloads, moves)
            await self._until(page, until - clock(), watch=reloads == float("inf"))
            now = clock()
            if page.closed.done():
                if page.return_at is None:
                    self.tally.events["lost"] += 1
                    self.tally.errors["the stream was ended"] += 1
                return route, False
            if now >= reloads:
                return rng.choice(plan.routes), True
            if now >= leaves:
                return route, False
            if now >= moves:
                moves = now + rng.expovariate(1 / plan.navigate)
                route = rng.choice(plan.routes)
                await self._navigate(page, kind, route)

    async def _until(self, page: _Page, seconds: float, *, watch: bool) -> None:
        """Wait until the stream is over, time has passed, or, if `watch`, a release came."""
        timeout = None if seconds == float("inf") else max(0.0, seconds)
        release = asyncio.ensure_future(self._release_seen.wait()) if watch else None
        try:
            waiting: list[asyncio.Future[Any]] = [page.closed] if release is None else [page.closed, release]
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if release is not None:
                release.cancel()

    def _on_release(self, version: str) -> None:
        if version != self._released:
            self._released = version
            self._release_seen.set()
            self._release_seen = asyncio.Event()

    async def _navigate(self, page: _Page, kind: str, route: str) -> None:
        self.tally.events["navigations"] += 1
        if kind == "ws":
            page.send({"type": "route-update", "route": route})
            return
        body = json.dumps({"connectionId": page.handle, "route": route}).encode()
        head = self._head("POST", "/route", ("Content-Type: application/json", f"Content-Length: {len(body)}"))
        # A connection of its own, as a browser's pool would have when its streams are busy.
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT):
                reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context)
                try:
                    writer.write(head + body)
                    answer = await reader.readline()
                finally:
                    writer.close()
            if b" 200 " not in answer:
                raise ConnectionError(answer.decode("ascii", "replace").strip().partition(" ")[2])
        except (OSError, TimeoutError) as error:
            if not page.closed.done():  # else the server has just ended the stream, and does not know it any more
                self.tally.events["failed navigations"] += 1
                self.tally.errors[f"navigation: {error or type(error).__name__}"] += 1

    def _page(self, kind: str, version: str, route: str, rng: random.Random, *, again: bool) -> _Page:
        query = urlencode({"version": version, "route": route} | ({"reconnect": "1"} if again else {}))
        if kind == "sse":
            lines: tuple[str, ...] = ("Accept: text/event-stream", "Cache-Control: no-cache")
        else:
            key = base64.b64encode(os.urandom(16)).decode()
            lines = (
                *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
                f"Sec-WebSocket-Key: {key}",
            )
        return _Page(self._head("GET", f"/{kind}?{query}", lines), rng, self._on_release)

    def _head(self, method: str, path: str, lines: tuple[str, ...]) -> bytes:
        own = ("Host: " + self._netloc, "User-Agent: headcount-swarm", *(f"{k}: {v}" for k, v in self._headers.items()))
        return "\r\n".join((f"{method} {self._path}{path} HTTP/1.1", *own, *lines, "", "")).encode("latin-1")

    async def _turn(self) -> None:
        """Wait for a turn to open a connection, so that no more are opened a second than the plan says."""
        now = time.monotonic()
        self._next_slot = max(self._next_slot, now) + 1 / self._plan.rate
        if (wait := self._next_slot - now) > 0.002:
            await asyncio.sleep(wait)


def raise_file_limit(wanted: int) -> None:
    """
    Allow as many open files as `wanted` connections take.

    Raises:
        ConfigError: The system does not let us.
    """
    import resource

    needed = wanted + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"{wanted:,} connections need {needed:,} open files, and {hard:,} are allowed; raise it with ulimit -n, or "
            "take fewer --connections."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
