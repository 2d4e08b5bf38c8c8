"""
What one stream costs the process of `headcount serve` to open, update and close, without the kernel.

    python bench/opening_cost.py                this source
    python bench/opening_cost.py ../old/src     this source against another one, in turns

The protocol class that uvicorn is given gets the requests of a browser from a transport that does nothing. Times are
the lowest of many rounds, so a busy machine hardly bends them. Bytecodes are counted, and are the same at every run:
what they say of a change, no noise can hide.
"""

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

HERE: Final = Path(__file__).resolve()
OWN: Final = HERE.parents[1] / "src"
STREAMS: Final = 400
TOKEN: Final = "a token for the benchmark only"
ROUNDS: Final = 25
TURNS: Final = 7

BROWSER: Final = (
    "Host: www.example.com\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0\r\n"
    "Accept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    "Cookie: session=eyJyb2xlIjoiYWRtaW4ifQ.aSr0xg.0ZcXk; __nkpv=v1; theme=dark\r\n"
    "Sec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n"
)
SSE: Final = (
    f"GET /__skew/sse?version=v1&route=%2Fproducts HTTP/1.1\r\n{BROWSER}"
    "Accept: text/event-stream\r\nConnection: keep-alive\r\nSec-Fetch-Dest: empty\r\n\r\n"
).encode()
WEBSOCKET: Final = (
    f"GET /__skew/ws?version=v1&route=%2Fproducts HTTP/1.1\r\n{BROWSER}"
    "Origin: https://www.example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-Fetch-Dest: "
    "websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


class Transport(asyncio.Transport):
    """Goes nowhere. It keeps what is written to it first."""

    def __init__(self) -> None:
        self.protocol: Any = None
        self.written = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the addresses."""
        return {"peername": ("192.0.2.7", 50_000), "sockname": ("127.0.0.1", 8000)}.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand it to another protocol."""
        self.protocol = protocol

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written = self.written or bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def is_closing(self) -> bool:
        """It never is."""
        return False

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Streams:
    """Streams of one kind, and what is done to each of them."""

    def __init__(self, connect: Callable[[], Transport], kind: str) -> None:
        self._connect = connect
        self._kind = kind
        self._open: list[Transport] = []
        self._updates: list[tuple[Transport, bytes]] = []

    def open(self, count: int) -> None:
        """Open streams."""
        request = SSE if self._kind == "SSE" else WEBSOCKET
        for _ in range(count):
            transport = self._connect()
            transport.protocol.data_received(request)
            self._open.append(transport)

    def prepare(self) -> None:
        """Make the messages, and the connection that POSTs come by, beforehand."""
        self._updates = []
        if self._kind == "WebSocket":
            message = b'{"type":"route-update","route":"/elsewhere"}'
            frame = bytes((0x81, 0x80 | len(message), 0, 0, 0, 0)) + message
            self._updates = [(transport, frame) for transport in self._open]
            return
        other = self._connect()
        for transport in self._open:
            handle = transport.written.partition(b'"connectionId":"')[2].partition(b'"')[0].decode()
            body = json.dumps({"connectionId": handle, "route": "/elsewhere"})
            head = (
                f"POST /__skew/route HTTP/1.1\r\n{BROWSER}Origin: https://www.example.com\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            self._updates.append((other, (head + body).encode()))

    def update(self, route: str = "/my-basket") -> None:
        """Let each be on another route, as long as `/elsewhere`."""
        for transport, data in self._updates:
            transport.protocol.data_received(data.replace(b"/elsewhere", route.encode()))

    def close(self) -> None:
        """Close them."""
        for transport in self._open:
            transport.protocol.connection_lost(None)

    def check(self) -> None:
        """Make sure that what is measured took place."""
        assert all(b"connectionId" in transport.written for transport in self._open), self._open[0].written
        if self._kind == "SSE":
            assert self._updates[0][0].written.startswith(b"HTTP/1.1 200 "), self._updates[0][0].written


def bytecodes(call: Callable[[], object]) -> int:
    """Return how many bytecodes a call runs."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return count


async def measure() -> dict[str, float]:
    """Return microseconds and bytecodes, by kind and event."""
    from uvicorn.server import ServerState

    from headcount import Headcount
    from headcount.server.serve import _config

    headcount = Headcount(
        version="v1",
        route_tracking=True,
        backend="memory",
        admin_token="a token for the benchmark only",
        keepalive_interval=3_600,
    )
    config = _config(headcount, ("127.0.0.1", 8000))
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Sun, 29 Nov 2026 22:00:00 GMT")]

    def connect() -> Transport:
        transport = Transport()
        transport.protocol = config.http_protocol_class(  # type: ignore[call-arg]
            config=config, server_state=state, app_state={}, _loop=asyncio.get_running_loop()
        )
        transport.protocol.connection_made(transport)
        return transport

    found: dict[str, float] = defaultdict(lambda: float("inf"))
    # Without a stream, the next one would begin the node anew.
    always = Streams(connect, "SSE")
    always.open(1)
    for kind in ("SSE", "WebSocket"):
        gc.collect()
        gc.disable()
        for _ in range(ROUNDS):
            streams = Streams(connect, kind)
            for event in ("open", "update", "close"):
                if event == "update":
                    streams.prepare()
                began = time.process_time_ns()
                streams.open(STREAMS) if event == "open" else getattr(streams, event)()
                spent = (time.process_time_ns() - began) / STREAMS / 1e3
                found[f"{kind} {event}, us"] = min(found[f"{kind} {event}, us"], spent)
            streams.check()
            await asyncio.sleep(0)
        gc.enable()
        streams = Streams(connect, kind)
        found[f"{kind} open, bytecodes"] = bytecodes(lambda: streams.open(1))  # noqa: B023
        streams.prepare()
        streams.update()  # the first POST of a connection goes another way
        time.sleep(0.1)  # a second message at once is charged in another way
        found[f"{kind} update, bytecodes"] = bytecodes(lambda: streams.update("/elsewhere"))  # noqa: B023
        found[f"{kind} close, bytecodes"] = bytecodes(streams.close)
    return dict(found)


def run(source: Path) -> dict[str, float]:
    """Measure a source in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, str(HERE), "--measure"], env=environment, capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    assert Path(answer.pop("source")) == source, "another source was imported"
    return answer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("other", nargs="?", type=Path, help="`src` of another revision, to compare with")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        found = asyncio.run(measure())
        import headcount

        print(json.dumps({**found, "source": str(Path(headcount.__file__).parents[1])}))
        return
    sources = [OWN] if arguments.other is None else [arguments.other.resolve(), OWN]
    lowest: list[dict[str, float]] = [{} for _ in sources]
    for _ in range(TURNS):
        for source, found in zip(sources, lowest, strict=True):
            for name, value in run(source).items():
                found[name] = min(found.get(name, value), value)
    for name, value in lowest[-1].items():
        line = f"{name:28} {value:9.2f}" if "us" in name else f"{name:28} {value:9.0f}"
        if len(sources) == 2:
            line += f"   other {lowest[0][name]:9.2f}   {(value / lowest[0][name] - 1) * 100:+.1f} %"
        print(line)


if __name__ == "__main__":
    main()
