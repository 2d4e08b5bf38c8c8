"""
Feed random and mutated input to all that reads it, and look at what comes out and what stays.

    python -m fuzz.run --inputs 1000000 --seed 7          (from tests/; `make fuzz` does it)

Whatever a peer sends, no exception reaches the server, what is kept of it is bounded, what is answered is well-formed,
and once it has left nothing is left of it. A failure names the seed of its batch: `--seed S --inputs 64` repeats it.
"""

import argparse
import asyncio
import gc
import json
import logging
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from asgi.takeover.wire import Wire
from headcount import Headcount
from headcount.asgi import client_posts
from headcount.asgi.app import endpoints_of
from headcount.asgi.request_head import RequestHead
from headcount.asgi.stream_request import StreamRequest, read_stream_request
from headcount.asgi.takeover.choose import protocol_class
from headcount.asgi.takeover.direct_sessions import (
    DirectSession,
    DirectSseSession,
    DirectWebSocketSession,
    SessionContext,
)
from headcount.asgi.takeover.first_request import FirstRequestProtocol
from headcount.asgi.takeover.protocol import HeadcountProtocol
from headcount.asgi.takeover.serve_protocol import ServeProtocol
from headcount.core import messages
from headcount.errors import ProtocolError, UnknownConnection

from . import inputs

BATCH = 64
STATUSES = {100, 101, 200, 204, 304, 307, 400, 401, 403, 404, 405, 409, 413, 415, 426, 429, 500, 503}
KEPT = messages.MAX_MESSAGE + 14
"""The most that may be kept of one peer's frame: its head and the message."""


class InvariantError(AssertionError):
    """Something is wrong; says with which seed to see it again."""


class Listening(logging.Handler):
    """Errors that were logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Target:
    """One server, as far as its protocol class is concerned."""

    def __init__(self, how: str) -> None:
        self.headcount = Headcount(version="1", route_tracking=True, ip_tracking=True, stats_interval=0.01)
        self.headcount.authorize_stats(_anybody)
        app: ASGIApp
        if how == "mounted":
            app = Starlette(routes=[Mount(self.headcount.base_path, self.headcount)])
        else:
            app = self.headcount.wrap(_beneath)
        kind = protocol_class(endpoints_of(self.headcount), _beneath if how == "alone" else None)
        assert issubclass(kind, FirstRequestProtocol if how == "alone" else HeadcountProtocol)
        self.config = uvicorn.Config(app, http=kind, lifespan="off", log_config=None, access_log=False)
        self.config.load()
        self.state = ServerState()
        self.make = kind

    def connect(self, wire: Wire) -> None:
        made: Callable[..., asyncio.Protocol] = self.make
        wire.begin(lambda: made(config=self.config, server_state=self.state, app_state={}))


class Fuzz:
    """One run."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.targets = [Target(how) for how in ("mounted", "wrapped", "alone", "alone")]
        self.headcount = self.targets[0].headcount
        self.context = SessionContext(endpoints_of(self.headcount).parts, self.loop, set())
        self.outcomes: Counter[str] = Counter()
        self.problems: list[dict[str, Any]] = []
        self.log = Listening()
        self.loop.set_exception_handler(lambda _loop, context: self.problems.append(context))
        self.handles: list[str] = []

    async def batch(self, seed: int) -> int:
        """Feed one batch; returns how many inputs it had."""
        rng = random.Random(seed)
        with _naming(seed):
            count = self._decoders(rng, 2 * BATCH)
            count += await self._peers(rng)
            if self.problems or self.log.records:
                raise InvariantError(f"{self.problems} {[record.getMessage() for record in self.log.records]}")
        return count

    async def _peers(self, rng: random.Random) -> int:
        wires: list[tuple[Wire, list[bytes], str]] = []
        for _ in range(BATCH):
            wire = Wire(self.loop, reads=rng.random() < 0.9)
            if rng.random() < 0.5:
                target = rng.choice(self.targets)
                data = b"".join(
                    [inputs.request(rng, rng.choice(self.handles or ["x"])) for _ in range(rng.choice((1, 1, 2, 3)))]
                )
                if rng.random() < 0.6:
                    data = inputs.mutated(rng, data)
                target.connect(wire)
                # What comes once the answer is there may be frames.
                pieces = [*inputs.split(rng, data), b"", *inputs.split(rng, _frames(rng))]
                wires.append((wire, pieces, "http"))
            else:
                wires.append((wire, inputs.split(rng, _frames(rng)), self._stream(rng, wire)))
        for turn in range(max(len(pieces) for _, pieces, _ in wires)):
            for wire, pieces, _ in wires:
                if turn < len(pieces) and pieces[turn]:
                    wire.feed(pieces[turn])
                    _look(wire)
            for _ in range(6 if turn < 8 else 1):
                await asyncio.sleep(0)
        for _ in range(30):
            await asyncio.sleep(0)
        self.handles = self.handles[-20:]
        for wire, _, kind in wires:
            self._judge(bytes(wire.sent), kind, closing=wire.closing)
            wire.leave()
        await self._empty()
        return len(wires)

    def _stream(self, rng: random.Random, wire: Wire) -> str:
        node = self.headcount.node
        public, handle = node.new_ids()
        self.handles.append(handle)
        counted = rng.random() < 0.9
        stream: DirectSession
        if rng.random() < 0.9:
            endpoints = endpoints_of(self.headcount)
            ask = endpoints.deferred_check_maker(RequestHead(_SCOPE, "/ws", endpoints.rules), None)
            stream = DirectWebSocketSession(self.context, wire, public, counted=counted, make_check=ask)
        else:
            request = StreamRequest("v", "/", None, counted=counted, visible_keepalives=rng.random() < 0.5)
            stream = DirectSseSession(self.context, wire, public, request)
        wire.set_protocol(stream)
        node.open(stream, "v", "/", None)
        return "ws" if isinstance(stream, DirectWebSocketSession) else "sse"

    async def _empty(self) -> None:
        targets = self.targets
        for _ in range(2_000):
            if not any(
                target.state.connections or target.state.tasks or target.headcount.node.sessions
                for target in self.targets
            ):
                break
            await asyncio.sleep(0)
        else:
            raise InvariantError(
                f"left behind: {[(t.state.connections, t.state.tasks, t.headcount.node.sessions) for t in targets]}"
            )
        for target in self.targets:
            node = target.headcount.node
            if (
                node.figures.local_stats().total
                or node.viewers.subscriptions
                or node.viewers.pending
                or node.timers.by_loop
            ):
                left = (
                    node.figures.local_stats().total,
                    node.viewers.subscriptions,
                    node.viewers.pending,
                    node.timers.by_loop,
                )
                raise InvariantError(f"the node keeps {left}")
        if self.context.connections:
            raise InvariantError("the server still waits for streams")

    def _judge(self, sent: bytes, kind: str, *, closing: bool) -> None:
        if kind == "ws":
            self.outcomes["ws " + _frames_out(sent)] += 1
        elif kind == "sse":
            self.outcomes["sse"] += 1
        elif not sent:
            self.outcomes["closed without an answer" if closing else "waits for the rest"] += 1
        else:
            self.outcomes[f"http {_answers_out(sent)}"] += 1

    def _decoders(self, rng: random.Random, count: int) -> int:
        node = self.headcount.node
        for index in range(count):
            match index % 4:
                case 0:
                    data = inputs.message(rng)
                    done = _try(messages.decode, _changed(rng, data))
                case 1:
                    data = inputs.body(rng, rng.choice(self.handles or ["x"]))
                    done = _try(client_posts.read_command, rng.choice(sorted(client_posts.PATHS)), _changed(rng, data))
                case 2:
                    headers = [
                        (b"cookie", _changed(rng, rng.choice(inputs.COOKIES).encode())),
                        (b"x-forwarded-for", _changed(rng, b"1.2.3.4, ::1")),
                    ]
                    query = _changed(rng, inputs.query(rng))
                    scope: Scope = {**_SCOPE, "query_string": query, "headers": headers}
                    head = RequestHead(scope, "/sse", endpoints_of(self.headcount).rules)
                    done = _try(read_stream_request, head)
                case _:
                    handle = _changed(rng, rng.choice(self.handles or ["x"]).encode()).decode(
                        "utf-8", "surrogateescape"
                    )
                    done = _try(node.find, handle)
            self.outcomes[("read", "refused")[not done]] += 1
        return count


def _try(function: Callable[..., object], *arguments: Any) -> bool:
    """Say whether it was read; whatever is raised but an error of ours fails."""
    try:
        function(*arguments)
    except (ProtocolError, UnknownConnection) as error:
        sentence = str(error)
        assert sentence.endswith("."), sentence
        assert len(sentence) < 1_000, sentence
        return False
    return True


def _changed(rng: random.Random, data: bytes) -> bytes:
    return inputs.mutated(rng, data) if rng.random() < 0.7 else data


def _frames(rng: random.Random) -> bytes:
    data = inputs.frames(rng)
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(1, 60))
    return inputs.mutated(rng, data) if rng.random() < 0.5 else data


def _look(wire: Wire) -> None:
    """See that what is kept of a peer is bounded."""
    protocol = wire.get_protocol()
    if isinstance(protocol, DirectWebSocketSession):
        assert len(protocol._unread) <= KEPT, len(protocol._unread)
        assert protocol._message is None or len(protocol._message) <= messages.MAX_MESSAGE
    if isinstance(protocol, DirectSession):
        assert protocol._queue is None or len(protocol._queue) <= 200
    if isinstance(protocol, ServeProtocol):
        assert len(protocol._body) <= messages.MAX_MESSAGE
    assert wire.waiting < 100_000, wire.waiting


def _frames_out(sent: bytes) -> str:
    """Check that what was sent are whole frames, text in JSON, and nothing after a close; say how it ended."""
    at = 0
    while at < len(sent):
        first, size = sent[at], sent[at + 1]
        at += 2
        if size == 126:
            size, at = int.from_bytes(sent[at : at + 2], "big"), at + 2
        elif size == 127:
            size, at = int.from_bytes(sent[at : at + 8], "big"), at + 8
        data, at = sent[at : at + size], at + size
        assert at <= len(sent), "a frame was cut"
        assert first in (0x81, 0x88, 0x8A), first
        if first == 0x81:
            assert isinstance(json.loads(data), dict)
        elif first == 0x88:
            assert at == len(sent), f"something was sent after a close: {sent[at:]!r}"
            data[2:].decode()
            return f"closed with {int.from_bytes(data[:2], 'big')}"
    return "open"


def _answers_out(sent: bytes) -> int:
    """Check that what was sent begins with an answer; return its status."""
    assert sent.startswith(b"HTTP/1.1 "), sent[:100]
    status = int(sent[9:12])
    assert status in STATUSES, sent[:200]
    head, separator, rest = sent.partition(b"\r\n\r\n")
    assert separator, sent
    if status == 101:
        _frames_out(rest)
    elif b"problem+json" in head and rest.startswith(b"{"):  # HEAD has none, and the next answer may follow
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        problem = msgspec.json.decode(rest[:size])
        assert problem["status"] == status
        assert problem["detail"].endswith("."), problem
    if status == 500:
        raise InvariantError(f"500: {sent!r}")
    return status


@contextmanager
def _naming(seed: int) -> Iterator[None]:
    """Name the seed of what fails inside."""
    try:
        yield
    except Exception as error:
        raise InvariantError(f"with --seed {seed} --inputs 1: {type(error).__name__}: {error}") from error


async def _anybody(request: Any) -> bool:
    return True


async def _beneath(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close"})
    else:
        await PlainTextResponse("nothing", 404)(scope, receive, send)


_SCOPE: Scope = {
    "type": "websocket", "asgi": {"version": "3.0"}, "scheme": "ws", "server": ("127.0.0.1", 1), "path": "/__skew/ws",
    "raw_path": b"/__skew/ws", "root_path": "", "query_string": b"", "headers": [], "client": ("127.0.0.1", 1),
}  # fmt: skip


async def run(count: int, seed: int, report: Callable[[str], None], looks: int = 10) -> Counter[str]:
    """
    Feed `count` inputs, and look at the memory so many times meanwhile.

    Raises:
        InvariantError: Something is wrong, or memory grows.
    """
    fuzz = Fuzz()
    root = logging.getLogger()
    root.addHandler(fuzz.log)
    quiet = logging.getLogger("uvicorn.error")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    began = time.monotonic()
    fed = 0
    marks: list[tuple[int, int]] = []
    step = max(1, count // looks)
    try:
        while fed < count:
            fed += await fuzz.batch(seed)
            seed += 1
            if fed // step > len(marks):
                await asyncio.sleep(1.2)  # time-outs of goodbyes are over then
                gc.collect()
                objects, resident = len(gc.get_objects()), _resident()
                marks.append((objects, resident))
                report(
                    f"{fed:>9,} inputs, {time.monotonic() - began:5.0f} s, {objects:,} objects, {resident // 1024:,} kB"
                )
    finally:
        root.removeHandler(fuzz.log)
        quiet.setLevel(level)
        fuzz.loop.set_exception_handler(None)
    # The first ones fill caches and pools.
    first, last = marks[min(2, max(0, len(marks) - 2))], marks[-1]
    if last[0] > first[0] + 1_000:
        raise InvariantError(f"objects grow: {marks}")
    if last[1] > first[1] + max(4 * 2**20, 0.05 * first[1]):
        raise InvariantError(f"memory grows: {marks}")
    return fuzz.outcomes


def _resident() -> int:
    with suppress(OSError), open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
    return 0


def main() -> NoReturn:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    outcomes = asyncio.run(run(options.inputs, options.seed, print))
    for outcome, number in outcomes.most_common():
        print(f"{number:>9,}  {outcome}")
    sys.exit(0)


if __name__ == "__main__":
    main()
