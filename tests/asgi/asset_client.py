"""Two builds in a directory, and one request for a file of theirs over plain receive and send."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from starlette.types import ASGIApp, Message

from headcount.asgi.assets import CHUNK

NEW, OLD = "app-B1zOyYnN.js", "old-C2zOyYnN.js"
BIG = "big-D3zOyYnN.wasm"
BYTES = bytes(range(256)) * (3 * CHUNK // 256) + b"end"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def put_builds(top: Path) -> None:
    """Put v1 and the newer v2 into a directory."""
    for number, (build, files) in enumerate(
        {
            "v1": {OLD: b"old", "logo.svg": b"<svg>1</svg>", BIG: BYTES},
            "v2": {NEW: b"new", f"{NEW}.br": b"br", f"{NEW}.gz": b"gz", "logo.svg": b"<svg>2</svg>"},
        }.items()
    ):
        folder = top / build / "assets"
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
            os.utime(folder / name, (0, 0))  # as reproducible builds have it
        (folder.parent / "index.html").write_text("<html>")
        os.utime(folder.parent, (1_000 + number, 1_000 + number))


async def ask(
    app: ASGIApp,
    path: str,
    headers: dict[str, str] | None = None,
    *,
    before_body: Callable[[], None] = lambda: None,
    **changes: Any,
) -> Answer:
    """Send one request, and call `before_body` when the head of the answer has come."""
    sent: list[Message] = []

    async def wait() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.start":
            before_body()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": quote(path, errors="surrogatepass").encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in {"host": "a", **(headers or {})}.items()],
        "client": ("192.0.2.1", 9),
        "server": ("shop.example", 80),
        **changes,
    }
    await app(scope, wait, send)
    assert [message.get("more_body", False) for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], found, b"".join(message["body"] for message in sent[1:]))
