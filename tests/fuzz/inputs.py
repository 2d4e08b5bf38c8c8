"""What is fed: right requests, messages and frames, and what random changes make of them."""

import json
import random
from base64 import b64encode
from collections.abc import Callable, Sequence
from urllib.parse import quote

from kit.frames import frame

BASE = "/__skew"
LABELS = ("v1", "", "/", "/a/b?c#d", "é", "\x00", "v" * 129, "r" * 513, "(other)", "%2F", "a b", "\u2028", "😀")
ORIGINS = ("http://shop.example", "https://evil.example", "null", "http://", "*", "\xff")
COOKIES = (
    "__nkpv=v1",
    "__nkpv=" + "v" * 200,
    "__nkpv=%00",
    "__nkpv",
    "=;=;=",
    "a=b; __nkpv=v2; __nkpv=v3",
    '__nkpv="v"',
)
MESSAGES: Sequence[object] = (
    {"type": "ping"},
    {"type": "subscribe-stats"},
    {"type": "subscribe-stats", "deltas": True},
    {"type": "unsubscribe-stats"},
    {"type": "route-update", "route": "/b"},
    {"type": "route-update", "route": ""},
    {"type": "route-update", "route": "x" * 600},
    {"type": "route-update"},
    {"type": "news", "n": [1, {"a": None}]},
    {"type": 1},
    [],
    "ping",
    None,
)
INTERESTING = (
    b"\x00", b"\xff", b"\r\n", b"\r\n\r\n", b"\n", b":", b"%", b"?", b"#", b"//", b"..", b"{", b"}", b'"', b"\\u0000",
    b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"Content-Length: 99999999\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: Upgrade\r\n", b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n",
    b"\x81\xfe\xff\xff", b"\x88\x80", b"\x89\xfd", b"HTTP/1.0", b"HTTP/2.0", b"[" * 500, b"A" * 5_000,
)  # fmt: skip


def request(rng: random.Random, handle: str) -> bytes:
    """Make a request, mostly a right one."""
    kind = rng.random()
    if kind < 0.3:
        method, path, headers, body = "GET", f"{BASE}/sse{_query(rng)}", [], b""
    elif kind < 0.6:
        method, path, headers, body = "GET", f"{BASE}/ws{_query(rng)}", _handshake(rng), b""
    elif kind < 0.9:
        endpoint = rng.choice(("/route", "/subscribe-stats", "/unsubscribe-stats"))
        body = json.dumps(_body(rng, handle)).encode()
        headers = [f"Content-Length: {len(body)}"]
        if rng.random() < 0.2:
            headers, body = ["Transfer-Encoding: chunked"], b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        if rng.random() < 0.8:
            headers.append("Content-Type: application/json")
        method, path = "POST", BASE + endpoint
    else:
        method, headers, body = rng.choice(("GET", "HEAD", "OPTIONS", "PUT")), [], b""
        path = rng.choice(("/", f"{BASE}/health", f"{BASE}/admin/stats", f"{BASE}/nothing", f"{BASE}/client.js", BASE))
    if rng.random() < 0.1:
        headers.append(f"Origin: {rng.choice(ORIGINS)}")
    if rng.random() < 0.2:
        headers.append(f"Cookie: {rng.choice(COOKIES)}")
    if rng.random() < 0.1:
        headers.append(rng.choice(("Expect: 100-continue", "Connection: close", "X-Forwarded-For: 1.2.3.4, x", "A: b")))
    version = "1.0" if rng.random() < 0.05 else "1.1"
    lines = [f"{method} {path} HTTP/{version}", "Host: shop.example", *headers, "", ""]
    return "\r\n".join(lines).encode("utf-8") + body


def frames(rng: random.Random) -> bytes:
    """Make what a WebSocket's peer sends, mostly right."""
    return b"".join([_frame(rng) for _ in range(rng.randint(1, 4))])


def message(rng: random.Random) -> bytes:
    """Make one message."""
    return json.dumps(rng.choice(MESSAGES)).encode()


def body(rng: random.Random, handle: str) -> bytes:
    """Make the body of a POST."""
    return json.dumps(_body(rng, handle)).encode()


def query(rng: random.Random) -> bytes:
    """Make the query of a stream."""
    return _query(rng)[1:].encode()


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Change something, or several things."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        rng.choice(_CHANGES)(rng, made)
    return bytes(made)


def split(rng: random.Random, data: bytes) -> list[bytes]:
    """Cut data into what arrives together."""
    how = rng.random()
    if how < 0.5 or len(data) < 2:
        return [data]
    if how < 0.55 and len(data) < 300:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(rng.randrange(1, len(data)) for _ in range(rng.randint(1, 4)))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if begin < end]


def _query(rng: random.Random) -> str:
    parts = []
    for name in ("version", "route", "viewer", "keepalive", "other"):
        usual = name in ("version", "route")
        for _ in range(rng.choice((0, 0, 1, 1, 1, 1, 1, 1, 1, 2)) if usual else rng.random() < 0.1):
            value = rng.choice(LABELS) if rng.random() < 0.5 else f"/{rng.randrange(50)}"
            parts.append(f"{name}={quote(value)}")
    return "?" + "&".join(parts)


def _handshake(rng: random.Random) -> list[str]:
    headers = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {b64encode(rng.randbytes(16)).decode()}",
    ]
    if rng.random() < 0.1:
        headers.append("Sec-WebSocket-Protocol: a, b")
    if rng.random() < 0.1:
        headers.append("Sec-WebSocket-Extensions: permessage-deflate")
    if rng.random() < 0.1:
        del headers[rng.randrange(4)]
    return headers


def _body(rng: random.Random, handle: str) -> object:
    who = handle if rng.random() < 0.5 else rng.choice(("forged", "", "x" * 300, 1, None))
    told: dict[str, object] = {"connectionId": who}
    if rng.random() < 0.8:
        told["route"] = rng.choice(LABELS)
    if rng.random() < 0.3:
        told["deltas"] = rng.choice((True, False, 1, None))
    return rng.choice((told, told, told, told, [], None, {"route": "/"}))


def _frame(rng: random.Random) -> bytes:
    kind = rng.random()
    if kind < 0.6:
        opcode, data = rng.choice((1, 1, 1, 2)), message(rng)
    elif kind < 0.8:
        opcode, data = rng.choice((9, 10)), rng.randbytes(rng.choice((0, 3, 125)))
    elif kind < 0.85:
        opcode, data = 8, rng.choice((b"", b"\x03\xe8", b"\x03\xe8bye", b"\x03", b"\x03\xed", b"\x03\xe8\xff"))
    else:
        opcode, data = rng.randrange(16), rng.randbytes(rng.choice((0, 1, 125, 126, 300, 4_096, 5_000)))
    fin = rng.random() < 0.9
    return frame(opcode, data, fin=fin, mask=rng.randbytes(4))


def _at(rng: random.Random, made: bytearray) -> int:
    return rng.randrange(len(made) + 1)


def _flip(rng: random.Random, made: bytearray) -> None:
    if made:
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)


def _replace(rng: random.Random, made: bytearray) -> None:
    if made:
        made[rng.randrange(len(made))] = rng.randrange(256)


def _insert(rng: random.Random, made: bytearray) -> None:
    at = _at(rng, made)
    made[at:at] = rng.choice(INTERESTING)


def _delete(rng: random.Random, made: bytearray) -> None:
    at = _at(rng, made)
    del made[at : at + rng.choice((1, 1, 2, 8, 50))]


def _repeat(rng: random.Random, made: bytearray) -> None:
    at = _at(rng, made)
    made[at:at] = made[at : at + rng.choice((1, 10, 100))] * rng.choice((1, 2, 10))


def _cut(rng: random.Random, made: bytearray) -> None:
    del made[_at(rng, made) :]


def _overwrite(rng: random.Random, made: bytearray) -> None:
    noise = rng.randbytes(rng.choice((1, 4, 40)))
    at = _at(rng, made)
    made[at : at + len(noise)] = noise


_CHANGES: Sequence[Callable[[random.Random, bytearray], None]] = (
    _flip, _replace, _insert, _delete, _repeat, _cut, _overwrite
)  # fmt: skip
