"""Servers and proxies that misbehave, played by scripts: what the client does is what protocol/README.md says."""

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.server import ServerConnection, serve

from headcount.client import connection, use_active_connections
from headcount.client.access import Access
from headcount.client.transport import open_stream
from headcount.core import reconnect
from headcount.core.reconnect import Reconnect, after_end
from headcount.errors import Unreachable
from kit.listener import Listener
from kit.programs import make_certificate

pytestmark = pytest.mark.anyio

CONNECTED = {"type": "connected", "version": "v1", "connectionId": "secret", "keepaliveMs": 20_000}
STATS = {"type": "stats", "total": 1, "versions": {"v1": 1}, "connections": [], "revision": 7, "yourId": "me"}

FIXTURE = json.loads((Path(__file__).parents[2] / "protocol/fixtures/reconnect.json").read_text())
ANSWERS = FIXTURE["answers"]

Script = Callable[[ServerConnection, int], Awaitable[None]]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back at once; how long it would be drawn is tested apart."""
    monkeypatch.setattr(reconnect, "BASE", 0.01)
    monkeypatch.setattr(reconnect, "CAP", 0.01)
    monkeypatch.setattr(reconnect, "FLOOR", 0.01)


async def _head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Read the head of a request. A client that has gone meanwhile ends the handler."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        writer.close()
        raise asyncio.CancelledError from None


@asynccontextmanager
async def acting(script: Script, **options: Any) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve WebSockets by a script, which is given how often it was called before. Gives URL and requested paths."""
    paths: list[str] = []

    async def handler(socket: ServerConnection) -> None:
        assert socket.request is not None
        paths.append(socket.request.path)
        try:
            await script(socket, len(paths) - 1)
        except websockets.ConnectionClosed:
            return

    async with serve(handler, "127.0.0.1", 0, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"http://127.0.0.1:{port}", paths


async def say(socket: ServerConnection, *messages: Any) -> None:
    for message in messages:
        await socket.send(message if isinstance(message, str | bytes) else json.dumps(message))


async def be_good(socket: ServerConnection) -> None:
    """Behave, until the client leaves."""
    await say(socket, CONNECTED)
    assert json.loads(await socket.recv()) == {"type": "subscribe-stats", "deltas": True}
    await say(socket, STATS)
    await socket.wait_closed()


async def settled(live: Any, **expected: Any) -> None:
    """Wait until the named values are as given."""
    async with asyncio.timeout(10):
        while {name: getattr(live, name).value for name in expected} != expected:
            await live.state.changed()


@pytest.mark.parametrize(
    "bad",
    [
        "nonsense",
        "[]",
        b"\xff\xfe",
        {"type": "stats", "total": "many"},
        {"type": "stats", "total": -1, "revision": 1},
        {"type": "stats-delta", "base": 7, "revision": 8},
        {"type": "connected"},
    ],
)
async def test_malformed_messages_end_the_stream_and_the_client_comes_back(bad: Any) -> None:
    async def script(socket: ServerConnection, call: int) -> None:
        if call == 0:
            await say(socket, CONNECTED, STATS, bad)
            await socket.wait_closed()
        await be_good(socket)

    errors: list[str | None] = []
    async with acting(script) as (url, paths), use_active_connections(url, update_strategy="ws") as live:
        live.error.subscribe(errors.append)
        await live.wait_for(lambda _: len(paths) == 2 and not live.is_stale.value)
        assert live.total.value == 1
        assert any("server" in (error or "") for error in errors)
        assert paths == ["/__skew/ws?viewer=1", "/__skew/ws?viewer=1&reconnect=1&replaces=secret"]


async def test_unknown_messages_and_those_of_the_application_change_nothing() -> None:
    async def script(socket: ServerConnection, _: int) -> None:
        await say(socket, CONNECTED, {"type": "sale"}, {"type": "pong"}, {"type": "keepalive"})
        await be_good(socket)

    async with acting(script) as (url, paths), use_active_connections(url, update_strategy="ws") as live:
        await settled(live, total=1, status="open")
        assert len(paths) == 1


@pytest.mark.parametrize("code", [1008, 4008])
async def test_denied_is_for_good(code: int) -> None:
    async def script(socket: ServerConnection, _: int) -> None:
        await say(socket, CONNECTED, STATS)
        await socket.close(code, "Cross-site.")

    async with acting(script) as (url, paths), use_active_connections(url, update_strategy="ws") as live:
        await settled(live, status="closed", authorized=False, error="Cross-site.", total=0)
        assert len(paths) == 1


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011, 1012, 1013, 4400, 4408])
async def test_every_other_close_code_brings_it_back(code: int) -> None:
    async def script(socket: ServerConnection, call: int) -> None:
        if call == 0:
            await say(socket, CONNECTED, STATS)
            if code == 1006:
                socket.transport.abort()
            else:
                await socket.close(code, "Because.")
        else:
            await be_good(socket)

    async with acting(script) as (url, paths), use_active_connections(url, update_strategy="ws") as live:
        await live.wait_for(lambda _: len(paths) == 2)
        await settled(live, status="open", is_stale=False)


@pytest.mark.parametrize(("sent", "code"), [(1012, 1012), (1013, 1013), (4012, 1012), (4013, 1013)])
async def test_the_delay_is_drawn_by_the_rule_of_the_protocol(
    sent: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[tuple[int, bool, int | None, float]] = []

    def draw(
        attempt: int, random: float, *, lasted: float | None, code: int | None, named: float, refused: bool
    ) -> Reconnect | None:
        assert 0 <= random < 1
        ends.append((attempt, lasted is not None, code, named))
        return after_end(attempt, random, lasted=lasted, code=code, named=named, refused=refused)

    async def script(socket: ServerConnection, call: int) -> None:
        if call < 2:
            await say(socket, CONNECTED)
            await socket.close(1011 if call == 0 else sent, "")
        elif call == 2:
            socket.transport.abort()
        else:
            await be_good(socket)

    monkeypatch.setattr(connection, "after_end", draw)
    async with acting(script) as (url, _), use_active_connections(url, update_strategy="ws") as live:
        await settled(live, status="open", authorized=True)
        assert ends == [(0, True, 1011, 0), (1, True, code, 0), (2 if code == 1012 else 4, False, 1006, 0)]


async def test_drain_names_the_delay_and_is_no_error() -> None:
    times: list[float] = []

    async def script(socket: ServerConnection, call: int) -> None:
        times.append(asyncio.get_running_loop().time())
        if call == 0:
            await say(socket, CONNECTED, STATS, {"type": "drain", "reconnectMs": 300})
            await socket.close(1012, "The server is going away.")
        else:
            await be_good(socket)

    async with acting(script) as (url, _), use_active_connections(url, update_strategy="ws") as live:
        errors: list[str | None] = []
        live.error.subscribe(errors.append)
        await live.wait_for(lambda _: len(times) == 2)
        assert times[1] - times[0] >= 0.29
        assert errors == []


async def test_a_draining_server_is_left_at_the_named_time_also_when_it_does_not_close() -> None:
    async def script(socket: ServerConnection, call: int) -> None:
        if call == 0:
            await say(socket, CONNECTED, STATS, {"type": "drain", "reconnectMs": 300})
            await socket.wait_closed()
        else:
            await be_good(socket)

    async with acting(script) as (url, paths), use_active_connections(url, update_strategy="ws") as live:
        errors: list[str | None] = []
        live.error.subscribe(errors.append)
        await live.wait_for(lambda _: len(paths) == 2)
        await settled(live, status="open", is_stale=False)
        assert errors == []


async def test_silence_is_death() -> None:
    async def script(socket: ServerConnection, call: int) -> None:
        if call == 0:
            await say(socket, {**CONNECTED, "keepaliveMs": 1}, STATS)
            await socket.wait_closed()
        await be_good(socket)

    async with acting(script) as (url, paths), use_active_connections(url, update_strategy="ws") as live:
        await settled(live, status="reconnecting", error="Nothing came from the server for too long.", is_stale=True)
        await settled(live, status="open", is_stale=False)
        assert len(paths) == 2


async def test_a_gap_in_the_deltas_is_mended_by_a_whole() -> None:
    asked: list[Any] = []

    async def script(socket: ServerConnection, _: int) -> None:
        delta = {"type": "stats-delta", "base": 8, "revision": 9, "total": 9, "versions": {"v1": 9}}
        await say(socket, CONNECTED, STATS, delta)
        async for text in socket:
            asked.append(json.loads(text))
            if len(asked) == 2:
                # What was on its way before the question was answered is left alone.
                await say(socket, {**delta, "base": 9, "revision": 10}, {**STATS, "total": 4, "revision": 10})

    async with acting(script) as (url, _), use_active_connections(url, update_strategy="ws") as live:
        await settled(live, total=4, is_stale=False)
        assert len(asked) == 2


async def test_where_websockets_do_not_get_through_it_uses_sse_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # After any other delay this test would not end in time.
    monkeypatch.setattr(reconnect, "FLOOR", 60.0)
    seen: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline()).decode()
        head = b""
        while (header := await reader.readline()) not in (b"\r\n", b""):
            head += header.lower()
        seen.append(line.split()[1])
        if "/ws" in line:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
        elif "/sse" in line:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            writer.write(f"data: {json.dumps(CONNECTED)}\n\ndata: {json.dumps(STATS)}\n\n".encode())
            await writer.drain()
            await reader.read()
        else:
            assert b"authorization: bearer t0ken" in head
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            writer.write(b'Content-Length: 11\r\n\r\n{"ok":true}')
        writer.close()

    async with Listener(answer) as server, use_active_connections(server.url, token="t0ken") as live:
        await settled(live, status="open", total=1)
        assert [path.partition("?")[0] for path in seen] == [
            "/__skew/ws",
            "/__skew/sse",
            "/__skew/subscribe-stats",
        ]


async def test_restarts_of_the_server_say_nothing_about_the_kind_of_stream() -> None:
    kinds: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await _head(reader, writer)).decode().split()[1]
        if "/subscribe-stats" not in path:
            kinds.append("ws" if "/ws" in path else "sse")
            # The server is up for the fourth and the eighth stream, for which it is the turn of the other kind.
            if len(kinds) in (4, 8):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
                writer.write(f"data: {json.dumps(CONNECTED)}\n\n".encode())
        writer.close()

    async with Listener(answer) as server, use_active_connections(server.url), asyncio.timeout(20):
        while len(kinds) < 9:
            await asyncio.sleep(0.01)
    assert kinds[:9] == ["ws", "sse", "ws", "sse"] * 2 + ["ws"]


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b"HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", "reconnecting", "503"),
        (b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", "reconnecting", "pass /__skew on"),
        (b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n", "closed", "not authorised"),
        (b"HTTP/1.1 200 X\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi", "reconnecting", "text/html"),
        (b"nonsense\r\n\r\n", "reconnecting", "cannot be reached"),
        (b"", "reconnecting", "cannot be reached"),
    ],
)
async def test_answers_that_are_no_stream(answer: bytes, status: str, words: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _head(reader, writer)
        writer.write(answer)
        writer.close()

    async with Listener(handler) as server, use_active_connections(server.url, update_strategy="sse") as live:
        assert live.status.value == status
        assert words in (live.error.value or "")


@pytest.mark.parametrize(
    "case", [case for case in ANSWERS if case["refused"] is not None], ids=lambda case: str(case["status"])
)
async def test_answers_in_place_of_a_stream_are_named(case: dict[str, Any]) -> None:
    """protocol/fixtures/reconnect.json has the cases; the browser client names the same things."""
    head = f"HTTP/1.1 {case['status']} X\r\nContent-Type: {case['contentType']}\r\nContent-Length: 0\r\n\r\n"

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _head(reader, writer)
        writer.write(head.encode())
        writer.close()

    async with Listener(handler) as server, use_active_connections(server.url, update_strategy="sse") as live:
        for part in case["says"]:
            assert part in (live.error.value or "")


@pytest.mark.parametrize(("status", "rarely"), [(404, True), (502, False)])
async def test_a_refusal_is_met_again_once_and_then_rarely(
    status: int, rarely: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "REFUSED", 2.0)
    times: list[float] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _head(reader, writer)
        times.append(asyncio.get_running_loop().time())
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    async with (
        Listener(handler) as server,
        use_active_connections(server.url, update_strategy="sse"),
        asyncio.timeout(20),
    ):
        while len(times) < 3:
            await asyncio.sleep(0.01)
    assert (times[2] - times[1] >= 2.0) == rarely


HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (HTML, "/__skew/subscribe-stats answered text/html, not Headcount; check the URL, and that the proxy passes"),
        (b"HTTP/1.1 302 X\r\nLocation: /log-in\r\nContent-Length: 0\r\n\r\n", "/log-in; give the URL"),
    ],
    ids=["html", "log-in"],
)
async def test_a_subscription_that_something_else_answers_is_said_and_tried_again_rarely(
    answer: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "REFUSED", 2.0)
    # So that a stream counts as stable however fast its subscription is refused.
    monkeypatch.setattr(reconnect, "STABLE", 0.0)
    times: list[float] = []
    requests: list[str] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path = (await _head(reader, writer)).decode().split()[:2]
        requests.append(f"{method} {path.partition('?')[0]}")
        if path.startswith("/__skew/sse"):
            times.append(asyncio.get_running_loop().time())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            writer.write(f"data: {json.dumps(CONNECTED)}\n\n".encode())
            await reader.read()
        else:
            writer.write(answer if path.startswith("/__skew/") else HTML)
        writer.close()

    async with (
        Listener(handler) as server,
        asyncio.timeout(20),
        use_active_connections(server.url, update_strategy="sse") as live,
    ):
        assert live.status.value == "reconnecting"
        assert live.authorized.value is None
        assert words in (live.error.value or "")
        while len(times) < 3:
            await asyncio.sleep(0.01)
    assert set(requests) == {"GET /__skew/sse", "POST /__skew/subscribe-stats"}
    assert times[2] - times[1] >= 2.0


@pytest.mark.parametrize("case", FIXTURE["posts"], ids=lambda case: case["name"])
async def test_what_answers_a_subscription_is_named(case: dict[str, Any]) -> None:
    body = case["body"].encode()
    head = f"HTTP/1.1 {case['status']} X\r\nContent-Length: {len(body)}\r\n"
    if case["contentType"]:
        head += f"Content-Type: {case['contentType']}\r\n"

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await _head(reader, writer)).decode().split()[1]
        if path.startswith("/__skew/sse"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            writer.write(f"data: {json.dumps(CONNECTED)}\n\n".encode())
            if case["outcome"] == "done":
                writer.write(f"data: {json.dumps(STATS)}\n\n".encode())
            await reader.read()
        else:
            writer.write(f"{head}\r\n".encode() + body)
        writer.close()

    async with (
        Listener(handler) as server,
        asyncio.timeout(20),
        use_active_connections(server.url, update_strategy="sse") as live,
    ):
        error = live.error.value or ""
        if case["outcome"] == "done":
            assert (live.authorized.value, live.total.value, error) == (True, 1, "")
        else:
            # What a stream says of its handle, only Headcount knows.
            assert ("reached another process than the stream" in error) == (case["outcome"] == "unknown")
            for part in case["says"]:
                assert part in error
            assert live.status.value == ("closed" if case["status"] in (401, 403) else "reconnecting")


@asynccontextmanager
async def refusing(answer: bytes) -> AsyncIterator[tuple[str, list[float]]]:
    """Answer each request with a status and headers; gives the URL, and when the requests came."""
    times: list[float] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _head(reader, writer)
        times.append(asyncio.get_running_loop().time())
        writer.write(b"HTTP/1.1 " + answer + b"Content-Length: 0\r\n\r\n")
        writer.close()

    async with Listener(handler) as server:
        yield server.url, times


async def test_a_socket_that_is_refused_is_tried_again_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "REFUSED", 2.0)
    async with (
        refusing(b"403 X\r\n") as (url, times),
        asyncio.timeout(20),
        use_active_connections(url, update_strategy="ws") as live,
    ):
        assert "refuses WebSockets (403)" in (live.error.value or "")
        while len(times) < 3:
            await asyncio.sleep(0.01)
    assert times[2] - times[1] >= 2.0


async def test_a_socket_that_opens_and_does_not_deliver_is_given_up_for_sse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DELIVERY_TIMEOUT", 0.2)
    monkeypatch.setattr(reconnect, "REFUSED", 0.1)
    kinds: list[str] = []
    opened: list[str] = []

    def held(kind: Any, *rest: Any) -> Any:
        kinds.append(kind)
        return open_stream(kind, *rest)

    async def script(socket: ServerConnection, _: int) -> None:
        opened.append("ws")
        await socket.wait_closed()

    monkeypatch.setattr(connection, "open_stream", held)
    async with acting(script) as (url, _), use_active_connections(url), asyncio.timeout(10):
        while len(kinds) < 3:
            await asyncio.sleep(0.01)
    assert kinds[:3] == ["ws", "sse", "ws"]
    assert opened


@pytest.fixture
def _quick_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of 0.6 s is one: everything else is as much shorter."""
    monkeypatch.setattr(reconnect, "STABLE", 0.3)
    monkeypatch.setattr(reconnect, "TOLERANCE", 0.15)
    monkeypatch.setattr(reconnect, "LEAD", 0.1)
    monkeypatch.setattr(reconnect, "BASE", 0.6)
    monkeypatch.setattr(reconnect, "CAP", 0.6)


@pytest.mark.usefixtures("_quick_limit")
async def test_before_a_regular_limit_the_next_stream_takes_over() -> None:
    ended: list[float] = []

    async def script(socket: ServerConnection, call: int) -> None:
        await say(socket, {**CONNECTED, "connectionId": f"secret{call}"})
        await socket.recv()
        await say(socket, {**STATS, "total": call})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.6):
                await socket.wait_closed()
            return
        ended.append(call)
        socket.transport.abort()

    async with acting(script) as (url, paths), use_active_connections(url, update_strategy="ws") as live:
        async with asyncio.timeout(60):
            while "cutAfter=" not in paths[-1]:
                await live.state.changed()
        learnt = len(paths)
        states: list[tuple[str, bool]] = []
        live.status.subscribe(lambda status: states.append((status, live.is_stale.value)))
        await live.wait_for(lambda _: len(paths) >= learnt + 3)
        await live.wait_for(lambda stats: stats.total >= learnt + 1)
        assert states == [], "it was open all the time, and the figures were current"
        assert f"replaces=secret{learnt - 1}&" in paths[learnt]
        [cut] = re.findall(r"cutAfter=(\d+)", paths[learnt])
        assert 500 <= int(cut) <= 900


@pytest.mark.usefixtures("_quick_limit")
async def test_a_successor_that_fails_leaves_the_old_stream_to_its_end() -> None:
    limited = asyncio.Event()

    async def script(socket: ServerConnection, call: int) -> None:
        assert socket.request is not None
        if limited.is_set() and "cutAfter" in socket.request.path and call % 2:
            socket.transport.abort()
            return
        await say(socket, CONNECTED)
        await socket.recv()
        await say(socket, STATS)
        if "cutAfter" in socket.request.path:
            limited.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.6):
                await socket.wait_closed()
            return
        socket.transport.abort()

    async with acting(script) as (url, paths), use_active_connections(url, update_strategy="ws") as live:
        async with asyncio.timeout(60):
            await limited.wait()
            more = len(paths) + 4
            while len(paths) < more:
                await asyncio.sleep(0.02)
        await settled(live, status="open", is_stale=False, total=1)


async def test_retry_after_is_obeyed_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "FLOOR", 0.3)
    async with (
        refusing(b"503 Busy\r\nRetry-After: 1\r\n") as (url, times),
        use_active_connections(url, update_strategy="sse"),
        asyncio.timeout(10),
    ):
        while len(times) < 2:
            await asyncio.sleep(0.01)
    assert times[1] - times[0] >= 1.29


async def test_proxy_is_used() -> None:
    asked: list[str] = []

    async def script(socket: ServerConnection, _: int) -> None:
        await be_good(socket)

    async with acting(script) as (url, _):
        port = int(url.rpartition(":")[2])

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append((await _head(reader, writer)).decode().partition("\r\n")[0])
            writer.write(b"HTTP/1.1 200 Established\r\n\r\n")
            there, onward = await server.connect(port)
            await asyncio.gather(_pump(reader, onward), _pump(there, writer))

        async with (
            Listener(proxy) as server,
            use_active_connections("http://shop.example:80", update_strategy="ws", proxy=server.url) as live,
        ):
            await settled(live, status="open", total=1)
    assert asked == ["CONNECT shop.example:80 HTTP/1.1"]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """Make a certificate of localhost that no authority knows, and the context of a server that has it."""
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context


async def test_certificates_are_checked_unless_told_otherwise(certificate: tuple[Path, ssl.SSLContext]) -> None:
    authorities, context = certificate

    async def script(socket: ServerConnection, _: int) -> None:
        await be_good(socket)

    async with acting(script, ssl=context) as (plain, _):
        url = plain.replace("http://127.0.0.1", "https://localhost")
        async with use_active_connections(url, update_strategy="ws") as live:
            assert live.status.value == "reconnecting"
            assert "certificate is not trusted" in (live.error.value or "")
        for verify in (False, str(authorities), ssl.create_default_context(cafile=authorities)):
            async with use_active_connections(url, update_strategy="ws", verify=verify) as live:
                await settled(live, status="open", total=1)


async def test_after_a_redirect_to_tls_certificates_are_checked_as_told(
    certificate: tuple[Path, ssl.SSLContext],
) -> None:
    authorities, context = certificate
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _head(reader, writer)
        writer.write(answer)
        writer.close()

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _head(reader, writer)
        writer.write(
            f"HTTP/1.1 301 Moved\r\nLocation: https://localhost:{secure.port}/\r\nContent-Length: 0\r\n\r\n".encode()
        )
        writer.close()

    async with Listener(respond, ssl=context) as secure, Listener(redirect) as plain:
        with pytest.raises(Unreachable, match="certificate is not trusted"):
            await Access().get(plain.url)
        for verify in (False, str(authorities), ssl.create_default_context(cafile=authorities)):
            assert await Access(verify=verify).get(plain.url) == b"{}"


async def test_headers_and_cookies_are_sent() -> None:
    sent: list[dict[str, str]] = []

    async def script(socket: ServerConnection, _: int) -> None:
        assert socket.request is not None
        sent.append({name.lower(): value for name, value in socket.request.headers.raw_items()})
        await be_good(socket)

    options: dict[str, Any] = {"token": "t0ken", "headers": {"X-Team": "shop"}, "cookies": {"session": "abc"}}
    async with acting(script) as (url, _), use_active_connections(url, update_strategy="ws", **options) as live:
        await settled(live, status="open")
    expected = {"authorization": "Bearer t0ken", "x-team": "shop", "cookie": "session=abc"}
    assert expected.items() <= sent[0].items()
    assert sent[0]["user-agent"].startswith("headcount/")
