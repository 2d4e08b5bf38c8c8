"""
Visitors who want to bend figures, fill memory and hold up others. Run as a program by test_hostile_visitors.py.

`strangers.py URL SECONDS` attacks the server at the URL over 64 sockets until SIGTERM, or for SECONDS. It writes
"ready" when it begins, and at its end how many rounds of each attack went through, as JSON.

They claim every version but the one that the gate waits for: a page of that version keeps the gate shut, as documented.
"""

import asyncio
import base64
import json
import os
import random
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final
from urllib.parse import quote, urlsplit

import uvloop

from kit.frames import frame
from kit.machine import slowdown
from kit.pages import BASE, Sse, Stream, WebSocket, ask

ROUND: Final = 4.0
"""Seconds that one round of an attack takes at most; on a busy machine more, as do the pauses between rounds."""

LOOK_ALIKES: Final = (
    *("(other)", "v1\u200b", "\u202e1v", "v1\ufeff", "\uff561", "v\u0661", "\u1d201", "V1", "v1.", "v1\x00", "v1\n"),
    *("\u2066v1\u2069", "v1\u00ad", "v\u0031\u0301", "unknown", "unknown\u200b", "(OTHER)", "v1" * 65, "v01"),
)
"""Versions that look like the old one, or like a label of Headcount's own."""

SPELLINGS: Final = (
    *(
        "/%77s",
        "/ws/",
        "//ws",
        "/%73se",
        "/sse%2f",
        "/./sse",
        "/x/../sse",
        "/SSE",
        f"{BASE}/sse",
        "/sse;a=1",
        "/sse%00",
    ),
    *(f"{BASE}/admin/stats", "/admin//stats", "/admin%2fstats", "/metrics/", "/%6detrics", "/admin/release/"),
)
"""Paths below the base path that mean an endpoint to somebody who is generous."""

TICKET: Final = f"9999999999.{'A' * 22}.{'B' * 32}"
"""What a log-in leaves in a browser, made up."""


class Target:
    """The server, and what a stranger needs to reach it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self.host = parts.netloc
        self.address = (parts.hostname or "", parts.port or 80)
        self.chance = random.Random(2026)
        self.answers: Counter[str] = Counter()

    def word(self, length: int = 12) -> str:
        """Return a made-up word."""
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=length))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a socket."""
        return await asyncio.open_connection(*self.address)

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> int:
        """Send a request; underscores in names of headers are hyphens."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        status, _ = await ask(self.url, method, path, body, told)
        self.answers[str(status)] += 1
        return status


async def many_tabs(target: Target) -> None:
    """Fill the counts: shared streams of 64 tabs on 8 versions each, whose routes change all the time."""
    page = await WebSocket.open(target.url, shared=1)
    try:
        versions = [target.word() for _ in range(7)] + [target.chance.choice(LOOK_ALIKES[7:9])]
        keys = [target.word(20) for _ in range(64)]
        for _ in range(2):
            for first in range(0, 64, 16):
                tabs = [
                    {"key": key, "version": versions[index % 8], "route": f"/{target.word(8)}"}
                    for index, key in enumerate(keys[first : first + 16])
                ]
                page.send({"type": "tabs", "set": tabs, "remove": []})
            await asyncio.sleep(1)
            del page.messages[1:], page.times[1:]
    finally:
        page.fin()


async def made_up_versions(target: Target) -> None:
    """Open pages of thousands of versions, one after the other."""
    kind = target.chance.choice((Sse, WebSocket))
    page = await kind.open(target.url, version=target.word(), route=f"/{target.word()}")
    await asyncio.sleep(target.chance.uniform(0, 0.05))
    leave(target, page)


async def look_alikes(target: Target) -> None:
    """Hold pages whose version looks like another."""
    kind = target.chance.choice((Sse, WebSocket))
    version = target.chance.choice(LOOK_ALIKES)
    if target.chance.random() < 0.3:
        cookie = f"__nkpv={quote(target.chance.choice(LOOK_ALIKES))}"
        page: Stream = await kind.open(target.url, cookie=cookie)
    else:
        page = await kind.open(target.url, version=version)
    await asyncio.sleep(0.5)
    leave(target, page)


async def flood(target: Target) -> None:
    """Send more messages than a page may."""
    page = await WebSocket.open(target.url, version=target.word())
    try:
        message = target.chance.choice(
            (
                {"type": "ping"},
                {"type": "subscribe-stats", "deltas": True},
                {"type": "unsubscribe-stats"},
                {"type": "route-update", "route": "/flood"},
                {"type": target.word()},
            )
        )
        for _ in range(4):
            if page.ended:
                break
            page.transport.write(frame(1, json.dumps(message).encode()) * 40)
            page.transport.write(frame(9, b"ping") * 40)
            await asyncio.sleep(0.05)
        await page.until(lambda stream: stream.ended, 1)
        target.answers[f"closed with {page.close_code}"] += 1
    finally:
        page.rst()


async def watch_without_a_right(target: Target) -> None:
    """Ask for the figures with wrong credentials, on streams of all kinds."""
    kind = target.chance.choice((Sse, WebSocket))
    token, cookie = target.word(24), f"headcount_admin={TICKET[:-8]}{target.word(8)}; session=e30.x.y"
    watching = {"viewer": 1} if target.chance.random() < 0.5 else {"version": target.word()}
    page = await kind.open(target.url, token=token, cookie=cookie, **watching)
    try:
        await page.subscribe(target.url, cookie)
        await page.until(lambda stream: bool(stream.of_type("stats-unauthorized")) or stream.ended, 2)
        assert page.figures is None
        target.answers["figures denied"] += 1
    finally:
        page.fin()


async def guess_tokens(target: Target) -> None:
    """Guess the admin token, and declare releases with the guesses or without any."""
    token = target.word(24)
    match target.chance.randrange(5):
        case 0:
            await target.send("POST", BASE + "/log-in", {"token": token}, Origin=target.url)
        case 1:
            await target.send("GET", BASE + "/admin/stats", Authorization=f"Bearer {token}")
        case 2:
            await target.send("GET", BASE + "/metrics", Authorization=f"Bearer {token}")
        case 3:
            await target.send("POST", BASE + "/admin/release", {"version": "evil"}, Authorization=f"Bearer {token}")
        case _:
            await target.send(
                "POST", BASE + "/admin/release", {"version": "evil"}, Content_Type="text/plain", Origin=target.url
            )


async def never_end(target: Target) -> None:
    """Send a request slowly, and never the whole of it."""
    _, writer = await target.connect()
    try:
        head = f"GET {BASE}/sse?version=x HTTP/1.1\r\nHost: {target.host}\r\nX-Slow: "
        body = (
            f"POST {BASE}/route HTTP/1.1\r\nHost: {target.host}\r\nContent-Type: application/json\r\n"
            'Content-Length: 90\r\n\r\n{"connectionId":"'
        )
        writer.write(target.chance.choice((head, body, "\x16\x03\x01", "")).encode())
        for _ in range(int(target.chance.uniform(3, 12))):
            await asyncio.sleep(0.25)
            writer.write(b"a")
            await writer.drain()
    finally:
        writer.transport.abort()


async def huge_head(target: Target) -> None:
    """Send a head of 256 KiB, and then wait, or the end of it."""
    reader, writer = await target.connect()
    try:
        lines = f"GET {BASE}/ws HTTP/1.1\r\nHost: {target.host}\r\n" + upgrade()
        writer.write(lines.encode())
        with suppress(ConnectionError):
            for number in range(64):
                writer.write(f"Cookie: c{number}={'x' * 4_080}\r\n".encode())
                await writer.drain()
                await asyncio.sleep(0.005)
            if target.chance.random() < 0.5:
                writer.write(b"\r\n")
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1):
                target.answers[(await reader.read(12)).decode("latin-1")[-3:] or "closed"] += 1
    finally:
        writer.transport.abort()


async def forge(target: Target) -> None:
    """Pretend to be a proxy, another site, another host, or another path."""
    match target.chance.randrange(4):
        case 0:
            address = f"10.{target.chance.randrange(256)}.0.1"
            await target.send(
                *("GET", BASE + "/admin/stats"),
                X_Forwarded_For=address,
                CF_Connecting_IP="127.0.0.1",
                X_Real_IP="::1",
                Forwarded="for=_",
                X_Forwarded_Host="localhost",
                X_Forwarded_Proto="https",
                X_Original_URL="/__skew/health",
            )
        case 1:
            await target.send("GET", BASE + target.chance.choice(SPELLINGS) + "?version=x")
        case 2:
            await target.send(
                *("POST", BASE + target.chance.choice(("/subscribe-stats", "/route", "/admin/release", "/log-in"))),
                {"version": "evil", "token": "x", "connectionId": "x", "route": "/"},
                Origin="https://evil.example",
                Sec_Fetch_Site="cross-site",
            )
        case _:
            _, writer = await target.connect()
            try:
                host = target.chance.choice(("", f"Host: {target.host}\r\nHost: evil.example\r\n", "Host: evil\r\n"))
                writer.write(f"GET {BASE}/admin/stats HTTP/1.1\r\n{host}\r\n".encode())
                await asyncio.sleep(0.05)
            finally:
                writer.transport.abort()


async def use_handles_of_others(target: Target) -> None:
    """Navigate, watch by, end and replace pages of others, by handles that are guessed from one's own."""
    page = await Sse.open(target.url, version=target.word())
    try:
        own = page.handle
        await page.navigate(target.url, f"/{target.word()}")
        for _ in range(5):
            at = target.chance.randrange(len(own))
            handle = target.chance.choice((own[:at] + target.word(1) + own[at + 1 :], own[:16] + target.word(30), ""))
            if handle == own:
                continue
            path = target.chance.choice(("/route", "/subscribe-stats", "/unsubscribe-stats", "/tabs"))
            body = {"connectionId": handle, "route": "/evil", "set": [], "remove": []}
            await target.send("POST", BASE + path, body)
            other = await Sse.open(target.url, version=target.word(), replaces=handle, reconnect=1)
            other.rst()
            await asyncio.sleep(0.05)
    finally:
        page.fin()


async def navigate(target: Target) -> None:
    """Make labels for metrics: a page that is somewhere else all the time."""
    page = await WebSocket.open(target.url, version=target.word())
    try:
        for _ in range(40):
            await page.navigate(target.url, f"/{target.word()}/{target.word()}")
            await asyncio.sleep(0.06)
    finally:
        page.rst()


async def huge_messages(target: Target) -> None:
    """Send a message of megabytes: in one frame that never ends, or in fragments."""
    page = await WebSocket.open(target.url, version=target.word())
    try:
        whole = target.chance.random() < 0.5
        if whole:
            page.transport.write(b"\x81\xff" + struct.pack("!Q", 2**24) + b"\0\0\0\0")
        for number in range(512):
            if page.ended:
                break
            piece = b"x" * 16_384
            page.transport.write(piece if whole else frame(0 if number else 1, piece, fin=False))
            await asyncio.sleep(0.002)
        with suppress(AssertionError):
            await page.until(lambda stream: stream.ended, 1)
        target.answers[f"closed with {page.close_code}"] += 1
    finally:
        page.rst()


async def open_and_run(target: Target) -> None:
    """Open a stream and leave before the answer is there."""
    with socket.socket() as sock:
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, target.address)
        kind = target.chance.choice((f"/sse?version={target.word()} HTTP/1.1\r\n", "/ws HTTP/1.1\r\n" + upgrade()))
        await loop.sock_sendall(sock, f"GET {BASE}{kind}Host: {target.host}\r\n\r\n".encode())
        if target.chance.random() < 0.5:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await asyncio.sleep(0.02)


ATTACKS: Final[dict[Callable[[Target], Awaitable[None]], int]] = {
    many_tabs: 16,
    made_up_versions: 6,
    look_alikes: 4,
    flood: 4,
    watch_without_a_right: 4,
    guess_tokens: 4,
    never_end: 11,
    huge_head: 2,
    forge: 2,
    use_handles_of_others: 1,
    navigate: 4,
    huge_messages: 2,
    open_and_run: 4,
}
"""How many sockets try each; `use_handles_of_others` has two at a time."""


def upgrade() -> str:
    """Return the headers of a handshake."""
    key = base64.b64encode(os.urandom(16)).decode()
    return f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"


def leave(target: Target, page: Stream) -> None:
    """Leave in one way or another."""
    target.chance.choice((page.fin, page.rst))()


async def repeat(
    attack: Callable[[Target], Awaitable[None]], target: Target, rounds: Counter[str], slow: float
) -> None:
    """Attack until cancelled."""
    while True:
        try:
            async with asyncio.timeout(ROUND * slow):
                await attack(target)
            rounds[attack.__name__] += 1
        except (
            OSError,
            EOFError,
            AssertionError,
            TimeoutError,
            RuntimeError,
        ):  # RuntimeError: uvloop's of a closed transport
            target.answers[f"{attack.__name__} was refused"] += 1
        await asyncio.sleep(target.chance.uniform(0.03, 0.1) * slow)


async def main(url: str, seconds: float) -> None:
    """Attack the server at `url` until SIGTERM, or for `seconds`."""
    target, rounds, over, slow = Target(url), Counter[str](), asyncio.Event(), slowdown()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    attacks = [
        asyncio.ensure_future(repeat(attack, target, rounds, slow))
        for attack, sockets in ATTACKS.items()
        for _ in range(sockets)
    ]
    print("ready", flush=True)
    with suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)
    broken = [attack.exception() for attack in attacks if attack.done()]
    print(
        json.dumps(
            {"rounds": rounds, "answers": target.answers, "broken": list(map(repr, broken)), "cpu": time.process_time()}
        ),
        flush=True,
    )
    os._exit(0)  # whatever is open ends with the process; nothing is waited for


if __name__ == "__main__":
    assert sum(ATTACKS.values()) == 64
    signal.alarm(int(float(sys.argv[2])) + 5)  # ends the process, whatever the loop does
    uvloop.run(main(sys.argv[1], float(sys.argv[2])))
