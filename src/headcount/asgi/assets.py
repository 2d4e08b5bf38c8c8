"""
Serves the files of every kept build, so that an open page can load its lazy parts for as long as its build is kept.

    app.mount("/assets", Assets("/srv/builds", builds="{build}/assets"))

Tests: tests/asgi/test_assets.py.
"""

import logging
import os
import re
from collections.abc import Callable
from email.utils import formatdate, parsedate_to_datetime
from functools import partial
from typing import Final, NamedTuple

import anyio
from anyio import to_thread
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from ..build_files import BUILD, BuildFiles, OpenFile
from ..core.asset_headers import (
    IMMUTABLE,
    REVALIDATED,
    Span,
    accepted_encodings,
    content_type,
    etag,
    is_hashed,
    matches,
    parse_range,
)
from ..errors import ConfigError
from ..log_throttle import LogThrottle
from .responses import respond

MAX_PATH: Final = 1_024
"""Characters of a path."""

CHUNK: Final = 256 * 1_024
"""Bytes that are read at a time. Nearly all files of a build are smaller, and are read in one go with their search."""

GONE: Final = "No kept build has this file. Its build may have been deleted after a deploy; reload the page.\n"

logger = logging.getLogger("headcount")


class _Answer(NamedTuple):
    """The beginning of an answer; `opened` holds what is left of a large file to send."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    opened: OpenFile | None = None
    rest: Span = Span(0, 0)


class Assets:
    """
    ASGI application that serves files of builds. Each file comes from the newest build that has it.

    A name with a hash in it may be cached for ever, any other is asked for again each time. What no build has is
    answered with 404, never with HTML. New builds are served, and deleted ones are not, from the next request on.

    Args:
        directory: Holds one directory for each build, named after its build id.
        builds: Path from there to what is served, `{build}` being the build id: `{build}/assets`.
        hashed: Regular expression that the whole names of hashed files match; None: the usual ones of bundlers.

    Raises:
        ConfigError: There is no such directory, or an argument is invalid.
    """

    def __init__(
        self, directory: str | os.PathLike[str], builds: str = BUILD, *, hashed: str | re.Pattern[str] | None = None
    ) -> None:
        self._files = BuildFiles(directory, builds)
        self._is_hashed: Callable[[str], object] = is_hashed
        if hashed is not None:
            try:
                self._is_hashed = re.compile(hashed).fullmatch
            except re.error as error:
                raise ConfigError(f"hashed is {str(hashed)!r}, which is no regular expression: {error}.") from None
        self._log_throttle = LogThrottle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": f"{message['type']}.complete"})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        elif scope["method"] not in ("GET", "HEAD"):
            await _refuse(send, 405, "Files can only be read; send GET or HEAD.\n", [(b"allow", b"GET, HEAD")])
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = path_of(scope)
        if scope["method"] == "HEAD":
            send = _without_body(send)
        try:
            answer = (
                None if names is None else await to_thread.run_sync(partial(self._answer, names, Headers(scope=scope)))
            )
        except OSError as error:
            suffix = self._log_throttle.suffix_if_due(error.errno)
            if suffix is not None:
                logger.error(
                    "Assets cannot read %s: %s. Requests get status 503 until it can be read.%s",
                    self._files.path,
                    error.strerror,
                    suffix,
                )
            text = "The files cannot be read at the moment; try again. The server's log has the reason.\n"
            await _refuse(send, 503, text, [(b"retry-after", b"1")])
            return
        if answer is None:
            await _refuse(send, 404, GONE)
            return
        try:
            await _send(answer, scope, receive, send)
        finally:
            if answer.opened is not None:
                answer.opened.file.close()

    def _answer(self, names: list[str], request: Headers) -> _Answer | None:
        """Find a file, and read it unless it is large. Runs in a thread."""
        found = self._files.open_newest(names, accepted_encodings(request.get("accept-encoding")))
        if found is None:
            return None
        try:
            answer = self._answer_with(found, names[-1], request)
        except BaseException:
            found.file.close()
            raise
        if answer.opened is None:
            found.file.close()
        return answer

    def _answer_with(self, found: OpenFile, name: str, request: Headers) -> _Answer:
        status, is_immutable = found.status, bool(self._is_hashed(name))
        # Bundlers and images often give all files one old time, so a changed file may differ in its build's time alone.
        changed = max(status.st_mtime, found.build.deployed or 0.0)
        tag = etag(status.st_size, found.encoding, None if is_immutable else (changed, status.st_mtime))
        modified = formatdate(changed, usegmt=True)
        headers = {
            "cache-control": IMMUTABLE if is_immutable else REVALIDATED,
            "etag": tag,
            "last-modified": modified,
            "vary": "accept-encoding",
            "x-content-type-options": "nosniff",
        }
        if _is_unchanged(request, tag, changed):
            return _Answer(304, _encoded(headers))
        headers |= {"accept-ranges": "bytes", "content-type": content_type(name)}
        if found.encoding:
            headers["content-encoding"] = found.encoding
        code, whole = 200, Span(0, status.st_size)
        part = parse_range(request.get("range"), status.st_size)
        if part is not None and request.get("if-range") in (None, tag, modified):
            if not part.size:
                return _Answer(
                    416,
                    [
                        (b"content-range", b"bytes */%d" % status.st_size),
                        (b"content-length", b"0"),
                        (b"cache-control", b"no-store"),
                    ],
                )
            code, whole = 206, part
            headers["content-range"] = f"bytes {part.start}-{part.start + part.size - 1}/{status.st_size}"
        headers["content-length"] = str(whole.size)
        if whole.size > CHUNK:
            return _Answer(code, _encoded(headers), opened=found, rest=whole)
        return _Answer(code, _encoded(headers), os.pread(found.file.fileno(), whole.size, whole.start))


def path_of(scope: Scope) -> list[str] | None:
    """
    Return the names that a request's path consists of, below where this application is mounted; None: no file has it.

    Mounted, the path begins with the server's root path. Behind a proxy that cut a prefix off, the root path may be
    longer than what the path still starts with.
    """
    path: str = scope["path"]
    if len(path) > MAX_PATH:
        return None
    raw: bytes = (scope.get("raw_path") or b"/").partition(b"?")[0]
    if not raw.endswith(b"/"):
        path = path.removesuffix("/")  # Litestar puts a slash behind every path
    root: str = scope.get("root_path", "").rstrip("/")
    while root:
        if path.startswith(root + "/"):
            path = path[len(root) :]
            break
        slash = root.find("/", 1)
        root = root[slash:] if slash > 0 else ""
    return path.removeprefix("/").split("/")


async def _send(answer: _Answer, scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    opened = answer.opened
    if scope["method"] == "HEAD" or opened is None:
        await send({"type": "http.response.body", "body": answer.body})
        return
    async with anyio.create_task_group() as group:

        async def stop_when_the_reader_has_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(stop_when_the_reader_has_gone)
        position, end = answer.rest.start, answer.rest.start + answer.rest.size
        while position < end:
            size = min(CHUNK, end - position)
            chunk = await to_thread.run_sync(os.pread, opened.file.fileno(), size, position)
            if not chunk:
                break  # the file was cut; the server ends the connection, since the answer is shorter than announced
            position += len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": position < end})
        group.cancel_scope.cancel()


async def _refuse(send: Send, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await respond(send, status, text.encode(), b"text/plain; charset=utf-8", headers or [])


def _without_body(send: Send) -> Send:
    """Return a `send` for a HEAD request: not all servers leave the body out by themselves."""

    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head


def _is_unchanged(request: Headers, tag: str, modified: float) -> bool:
    if (tags := request.get("if-none-match")) is not None:
        return matches(tags, tag)
    try:
        return int(modified) <= parsedate_to_datetime(request["if-modified-since"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return False


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
