"""
A server in memory: it calls the application with plain `receive` and `send`, and does what a test wants it to.

A test runs in a loop of its own (`asynchronous`). Whatever it opened is closed behind it, and then no task and no timer
may be left: that is part of every test.
"""

import asyncio
import contextvars
import functools
import gc
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, NamedTuple, ParamSpec, Self
from urllib.parse import quote, urlsplit

from fastapi import FastAPI
from itsdangerous import TimestampSigner
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Scope

from headcount import Headcount
from headcount.core.away_pages import GRACE

P = ParamSpec("P")

PATIENCE = 30.0
"""Seconds after which a test that waits has failed. Nothing is expected to take more than a few milliseconds."""

HOST = "shop.example"

_open: contextvars.ContextVar[list["Call"]] = contextvars.ContextVar("_open")


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in a loop of its own, and see to it that nothing is left of it."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(_contained(test(*args, **kwargs)))
        gc.collect()  # so that "was destroyed" and "was never awaited" are said here, and not in the test after this
        gc.freeze()  # the next test looks at its own objects only; `_no_garbage_is_left` looks at all

    return run


async def _contained(test: Coroutine[Any, Any, None]) -> None:
    _open.set([])
    try:
        async with asyncio.timeout(3 * PATIENCE):
            await test
    finally:
        for call in reversed(_open.get()):
            await call.leave()
    await turn_until(lambda: not _left_over(), "nothing is left behind")


def _left_over() -> list[object]:
    return [*(asyncio.all_tasks() - {asyncio.current_task()}), *timers()]


def timers() -> list[object]:
    """Return Headcount's timers in the running loop; a test has some, too."""
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", ())
    return [
        timer
        for timer in scheduled
        if not timer.cancelled() and getattr(timer._callback, "__module__", "").startswith("headcount")
    ]


async def turn_until(condition: Callable[[], Any], what: str = "", patience: float = PATIENCE) -> None:
    """Wait until something holds, turning the loop meanwhile."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    turns = 0
    while not condition():
        assert loop.time() < deadline, f"waited in vain until {what or 'a condition holds'}: {_left_over()}"
        turns += 1
        # First only other callbacks, then also timers and threads.
        await asyncio.sleep(0 if turns < 50 else 0.001)


async def turns(count: int = 20) -> None:
    """Let everything that is ready run. For "and then nothing happens", beside a condition that shows it would have."""
    for _ in range(count):
        await asyncio.sleep(0)


class Answer(NamedTuple):
    """A whole HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """A response header."""
        return self.headers.get(name)


class Call:
    """One call into the application: what it sends is kept, what it receives is put in."""

    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        self.sent: list[Message] = []
        self.error: BaseException | None = None
        self.attempts = 0
        """Sends that were begun."""
        self._app = app
        self._scope = scope
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._flows = asyncio.Event()
        self._flows.set()
        self.task: asyncio.Task[None] | None = None

    def start(self) -> Self:
        """Begin the call."""
        self.task = asyncio.get_running_loop().create_task(self._run())
        _open.get().append(self)
        return self

    def put(self, message: Message) -> None:
        """Let the application receive a message."""
        self._incoming.put_nowait(message)

    def block(self) -> None:
        """Stop reading: every send suspends from now on."""
        self._flows.clear()

    def unblock(self) -> None:
        """Read again."""
        self._flows.set()

    def break_sending(self, error: Exception) -> None:
        """Let every send raise."""
        self.error = error

    @property
    def caught_up(self) -> bool:
        """The application has taken all that was put in, or has ended."""
        return self._incoming.empty() or self.done

    @property
    def done(self) -> bool:
        """The application has returned."""
        assert self.task is not None
        return self.task.done()

    async def ended(self) -> None:
        """Wait until the application has returned, which it must without an exception."""
        assert self.task is not None
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([self.task])
        assert not self.task.cancelled()
        assert self.task.exception() is None

    async def leave(self, code: int | None = None) -> None:
        """Close the connection from the peer's side, if it is still open; a WebSocket with this close code."""
        assert self.task is not None
        self._flows.set()
        if not self.task.done():
            message = self._disconnect()
            if code is not None:
                message["code"] = code
            self.put(message)
            await asyncio.wait([self.task], timeout=PATIENCE)
            if not self.task.done():
                self.task.cancel()
                await asyncio.wait([self.task])
                raise AssertionError("the application did not end with its connection")
        if not self.task.cancelled():
            self.task.exception()

    def _disconnect(self) -> Message:
        return {"type": "http.disconnect"}

    async def _run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        return await self._incoming.get()

    async def _send(self, message: Message) -> None:
        self.attempts += 1
        if self.error is not None:
            raise self.error
        if not self._flows.is_set():
            await self._flows.wait()
        self.sent.append(message)


class Stream(Call):
    """What SSE and WebSocket have in common: a list of JSON messages that grows."""

    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        super().__init__(app, scope)
        self._read = 0

    @property
    def all_received(self) -> list[dict[str, Any]]:
        """All JSON messages so far."""
        raise NotImplementedError

    @property
    def received(self) -> list[dict[str, Any]]:
        """Those that mean something: without keepalives."""
        return [message for message in self.all_received if message["type"] != "keepalive"]

    @property
    def keepalives(self) -> int:
        """Keepalive messages so far."""
        return len(self.all_received) - len(self.received)

    @property
    def unread(self) -> list[dict[str, Any]]:
        """Those that `next` has not given yet."""
        return self.received[self._read :]

    async def next(self, *types: str) -> dict[str, Any]:
        """Wait for the next message, which must be of one of `types`, if any are given."""
        await turn_until(lambda: self.unread or self.done, f"a message {types} comes on {self._scope['path']}")
        assert self.unread, f"the stream ended before a message {types}; {self.sent[-1:]}"
        message = self.unread[0]
        self._read += 1
        assert not types or message["type"] in types, f"{message} came instead of {types}"
        return message

    async def opened(self) -> Self:
        """Wait for `connected`, which must be the first message."""
        message = await self.next("connected")
        self.handle: str = message["connectionId"]
        self.public = self.handle.partition(".")[0]
        self.connected = message
        return self

    async def figures(self) -> "Figures":
        """Follow the stream from here: wait for the whole figures."""
        return Figures(self, await self.next("stats"))


class Figures:
    """What a viewer's page makes of a stream. Refuses any delta that does not start where the last message ended."""

    def __init__(self, stream: Stream, whole: dict[str, Any]) -> None:
        self.stream = stream
        self.on_message(whole)

    def on_message(self, message: dict[str, Any]) -> None:
        """Apply a message as protocol/README.md has it, independently of `headcount.core.stats.apply`."""
        if message["type"] == "stats":
            self.now = {key: value for key, value in message.items() if key not in ("type", "yourId")}
            self.your_id = message["yourId"]
            return
        assert message["type"] == "stats-delta", message
        assert message["base"] == self.now["revision"], f"{message} does not follow {self.now['revision']}"
        assert message["revision"] > message["base"]
        for counts in ("versions", "routes"):
            for key, count in message[counts].items():
                if count:
                    self.now[counts][key] = count
                else:
                    del self.now[counts][key]
        # A whole snapshot leaves the map out where nobody is away.
        away = self.now.pop("away", {}) | message.get("away", {})
        self.now |= {"away": left} if (left := {key: count for key, count in away.items() if count}) else {}
        rows = {row["id"]: row for row in self.now["connections"]}
        for gone in message["connections"]["remove"]:
            del rows[gone]
        for row in message["connections"]["set"]:
            rows[row["id"]] = row
        self.now["connections"] = list(rows.values())
        outline = (
            "connectionsTruncated",
            "nodes",
            "partial",
            "currentVersion",
            "release",
            "awayKnown",
            "unaccounted",
            "absences",
        )
        for name in ("total", "revision", *outline):
            if name in message:
                self.now[name] = message[name]

    async def step(self, *types: str) -> dict[str, Any]:
        """Take the next message."""
        message = await self.stream.next(*(types or ("stats", "stats-delta")))
        self.on_message(message)
        return message

    async def until(self, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Take messages until something holds of the figures."""
        while not condition(self.now):
            await self.step()
        return self.now

    async def total(self, total: int) -> dict[str, Any]:
        """Take messages until the total is `total`."""
        return await self.until(lambda now: now["total"] == total)


class EventStream(Stream):
    """`GET /sse`."""

    @property
    def status(self) -> int | None:
        """Of the response; None: it has not begun."""
        return next((m["status"] for m in self.sent if m["type"] == "http.response.start"), None)

    @property
    def headers(self) -> dict[str, str]:
        """Of the response."""
        return _headers_of(self.sent)

    @property
    def text(self) -> str:
        """Everything so far."""
        return b"".join(m.get("body", b"") for m in self.sent if m["type"] == "http.response.body").decode()

    @property
    def all_received(self) -> list[dict[str, Any]]:
        """All JSON messages so far."""
        frames = self.text.split("\n\n")
        return [json.loads(frame[6:]) for frame in frames[:-1] if frame.startswith("data: ")]

    @property
    def complete(self) -> bool:
        """The response was ended as HTTP wants it, not broken off."""
        return bool(self.sent) and self.sent[-1].get("more_body") is False


class WebSocket(Stream):
    """`WS /ws`."""

    def say(self, message: object) -> None:
        """Send a JSON message."""
        self.put({"type": "websocket.receive", "text": json.dumps(message)})

    def say_text(self, text: str) -> None:
        """Send a text frame."""
        self.put({"type": "websocket.receive", "text": text})

    def say_bytes(self, data: bytes) -> None:
        """Send a binary frame."""
        self.put({"type": "websocket.receive", "bytes": data})

    @property
    def accepted(self) -> bool:
        """The handshake succeeded."""
        return any(message["type"] == "websocket.accept" for message in self.sent)

    @property
    def all_received(self) -> list[dict[str, Any]]:
        """All JSON messages so far."""
        return [json.loads(message["text"]) for message in self.sent if message["type"] == "websocket.send"]

    @property
    def close(self) -> tuple[int, str] | None:
        """Code and reason, if the application closed."""
        closes = [message for message in self.sent if message["type"] == "websocket.close"]
        assert len(closes) <= 1
        return (closes[0]["code"], closes[0].get("reason", "")) if closes else None

    async def closed(self) -> tuple[int, str]:
        """Wait until the application has closed."""
        await self.ended()
        assert self.close is not None, "the application returned without closing"
        return self.close

    def _disconnect(self) -> Message:
        return {"type": "websocket.disconnect", "code": 1005}


class Client:
    """
    Somebody who talks to an application.

    Args:
        app: ASGI application.
        headers: Sent with every request.
        base: Path of Headcount.
        client: Address of the peer.
    """

    def __init__(
        self,
        app: ASGIApp,
        headers: Mapping[str, str] | None = None,
        *,
        base: str = "/__skew",
        client: str | None = "192.0.2.7",
        state: dict[str, Any] | None = None,
    ) -> None:
        self.app = app
        self.base = base
        self._headers = dict(headers or {})
        self._client = (client, 50_000) if client is not None else None
        self._state = state

    def sse(self, query: str = "", headers: Mapping[str, str] | None = None) -> EventStream:
        """Begin `GET /sse`."""
        stream = EventStream(self.app, self.scope("GET", f"{self.base}/sse{query}", headers))
        stream.put({"type": "http.request", "body": b"", "more_body": False})
        return stream.start()

    def ws(self, query: str = "", headers: Mapping[str, str] | None = None) -> WebSocket:
        """Begin a handshake on `/ws`."""
        scope = self.scope("GET", f"{self.base}/ws{query}", headers)
        del scope["method"]
        scope.update({"type": "websocket", "scheme": "ws", "subprotocols": []})
        socket = WebSocket(self.app, scope)
        socket.put({"type": "websocket.connect"})
        return socket.start()

    async def open(self, transport: str, query: str = "", headers: Mapping[str, str] | None = None) -> Any:
        """Open a stream of either kind and read `connected`."""
        stream: Stream = self.sse(query, headers) if transport == "sse" else self.ws(query, headers)
        return await stream.opened()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request below the base path, its body in one piece or in chunks, and read the answer."""
        scope = self.scope(method, self.base + path if path.startswith(("/", "?")) else path, headers)
        call = Call(self.app, scope)
        chunks = [body] if isinstance(body, bytes) else [*body]
        for index, chunk in enumerate(chunks):
            call.put({"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1})
        call.start()
        await call.ended()
        return answer_of(call)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """GET."""
        return await self.request("GET", path, headers=headers)

    async def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        """POST JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.request("POST", path, data, {"content-type": "application/json", **(headers or {})})

    async def say(self, stream: Stream, message: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        """Send a client's message the way its transport has it: as a frame, or as a POST that must succeed."""
        if isinstance(stream, WebSocket):
            stream.say(message)
            return
        kind = message["type"]
        path = "/route" if kind == "route-update" else f"/{kind}"
        body = {"connectionId": stream.handle} | {key: value for key, value in message.items() if key != "type"}
        answer = await self.post(path, body, headers)
        assert (answer.status, answer.json) == (200, {"ok": True})

    async def watch(self, stream: Stream, *, deltas: bool = True) -> Figures:
        """Subscribe, and wait for the whole figures."""
        await self.say(stream, {"type": "subscribe-stats", "deltas": deltas})
        return await stream.figures()

    async def navigate(self, stream: Stream, route: str) -> None:
        """Tell the server that a page shows another route."""
        await self.say(stream, {"type": "route-update", "route": route})

    def scope(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> Scope:
        """Make the scope of an HTTP request."""
        parts = urlsplit(target)
        lines = {"host": HOST, **self._headers, **(headers or {})}
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": parts.path,
            "raw_path": quote(parts.path).encode(),
            "root_path": "",
            "query_string": parts.query.encode("latin-1"),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in lines.items()],
            "client": self._client,
            "server": (HOST, 80),
            **({"state": dict(self._state)} if self._state is not None else {}),
        }


async def sorted_connections(client: Client, sort: str, *, limit: int, total: int) -> list[dict[str, str]]:
    """Page through all connections in an order, and see that each page but the last is full and the order holds."""
    found: list[dict[str, str]] = []
    cursor = ""
    while True:
        answer = await client.get(f"/admin/connections?sort={sort}&limit={limit}{cursor}")
        assert (answer.status, answer.json["total"], answer.json["partial"]) == (200, total, False)
        found += answer.json["connections"]
        if answer.json["cursor"] is None:
            break
        assert len(answer.json["connections"]) == limit
        cursor = f"&cursor={quote(answer.json['cursor'])}"
    field = sort.lstrip("-")
    assert found == sorted(found, key=lambda row: (row[field], row["id"]), reverse=sort[0] == "-")
    return found


def answer_of(call: Call) -> Answer:
    """Read a response; checks that it is a well-formed one."""
    start, *rest = call.sent
    assert start["type"] == "http.response.start"
    assert rest
    assert all(message["type"] == "http.response.body" for message in rest)
    assert [message.get("more_body", False) for message in rest] == [True] * (len(rest) - 1) + [False]
    answer = Answer(start["status"], _headers_of(call.sent), b"".join(message.get("body", b"") for message in rest))
    length = answer.header("content-length")
    assert length is None or int(length) == len(answer.body) or not answer.body
    return answer


def problem(answer: Answer, status: int, *words: str) -> None:
    """Check that an answer is a problem that helps: of that status, one short paragraph, no internals."""
    assert answer.status == status, answer
    assert answer.header("content-type") == "application/problem+json"
    assert set(answer.json) == {"type", "title", "status", "detail"}
    assert answer.json["status"] == status
    detail = answer.json["detail"]
    assert 20 < len(detail) < 500, detail
    assert detail[-1] == ".", detail
    for internal in ("Traceback", "msgspec", "headcount.", ".py", "Error("):
        assert internal not in detail, detail
    for word in words:
        assert word in detail, detail


async def at_once(*awaitables: Awaitable[Any]) -> list[Any]:
    """Wait for all of them together."""
    return list(await asyncio.gather(*awaitables))


def _headers_of(sent: list[Message]) -> dict[str, str]:
    start = next((message for message in sent if message["type"] == "http.response.start"), None)
    headers: dict[str, str] = {}
    for name, value in ((name.decode(), value.decode("latin-1")) for name, value in (start or {}).get("headers", ())):
        # As whoever receives them reads a header that comes twice; cookies are read one by one.
        headers[name] = f"{headers[name]}, {value}" if name in headers and name != "set-cookie" else value
    return headers


SECRET = "only for tests"

WAYS = ("alone", "mounted", "wrapped")
"""How Headcount and an application come together."""

TRANSPORTS = ("sse", "ws")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def signed(session: Mapping[str, Any]) -> str:
    """Make the cookie of a Starlette session."""
    data = b64encode(json.dumps(session).encode())
    return "session=" + TimestampSigner(SECRET).sign(data).decode()


ADMIN = {"cookie": signed({"role": "admin"}) + "; role=admin"}
"""Headers of somebody who is signed in. `role` is for Headcount standing alone, where there are no sessions."""

VISITOR = {"cookie": signed({"role": "customer"}) + "; role=customer"}


def admins_only(request: HTTPConnection) -> bool:
    """Say yes to `ADMIN`."""
    session = request.session if "session" in request.scope else request.cookies
    return session.get("role") == "admin"


class Site:
    """
    An application with Headcount in it.

    Args:
        way: One of `WAYS`.
        hook: `authorize_stats`; None registers none.
        middleware: Further middleware, innermost first, added inside of the session's.
        clock: The node's; by default the real one.
        uptime: How long the node has run, in seconds, with a `clock`. The default is long enough for it to know which
            pages are away; learning that later would be a change of its own.
        settings: Of `Headcount`.
    """

    def __init__(
        self,
        way: str = "mounted",
        hook: Any = admins_only,
        middleware: Iterable[Any] = (),
        clock: Clock | None = None,
        uptime: float = GRACE + 1,
        **settings: Any,
    ) -> None:
        self.headcount = Headcount(**{"version": "v1", "route_tracking": True, **settings})
        self.node = self.headcount.node
        if clock is not None:
            self.node.clock = clock
            self.node.started = clock() - uptime
            self.node._departed.refresh()
        if hook is not None:
            self.headcount.authorize_stats(hook)
        self.app: Any = self.headcount
        if way != "alone":
            self.framework = FastAPI()
            for each in middleware:
                if isinstance(each, Middleware):
                    self.framework.add_middleware(each.cls, *each.args, **each.kwargs)
                else:
                    self.framework.middleware("http")(each)
            self.framework.add_middleware(SessionMiddleware, secret_key=SECRET)
            self.app = self.framework
            if way == "mounted":
                self.framework.mount(self.headcount.base_path, self.headcount)
            else:
                self.app = self.headcount.wrap(self.framework)
        base = self.headcount.base_path
        self.admin = Client(self.app, ADMIN, base=base)
        self.visitor = Client(self.app, VISITOR, base=base)
        self.stranger = Client(self.app, base=base)

    @property
    def total(self) -> int:
        """Open connections, as the node counts them."""
        return self.node.figures.stats().total

    async def settled(self) -> None:
        """Wait until all that was sent to the application is done, and its viewers are told."""
        await turn_until(lambda: all(call.caught_up for call in _open.get()))
        await turns()
        await turn_until(lambda: self.node.viewers._flush_loop is None)
        await turns()
