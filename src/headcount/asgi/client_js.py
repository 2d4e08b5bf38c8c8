"""
`GET /client.js`: the browser client as one ES module with its server's defaults, and the modules beside it.

Tests: tests/asgi/test_small_endpoints.py.
"""

import hashlib
from importlib import resources
from typing import Final

import msgspec

from ..config import Config
from .exchange import Exchange
from .responses import Problem, respond

_PLACEHOLDER: Final = '"__HEADCOUNT_DEFAULTS__"'

SCRIPTS: Final = frozenset({"/client.js", "/element.js", "/shared.js", "/release.js", "/release-element.js"})
"""What is served; the others import the first, from beside them."""

_MAX_MADE: Final = 16
"""Scripts that are kept, one for each base path. Usually there is one path, but any request can name another."""


class ClientScript:
    """
    The built browser code, with this server's defaults put in. Read when it is first asked for.

    Args:
        config: Whose defaults.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._made: dict[tuple[str, str], tuple[bytes, bytes]] = {}

    async def serve(self, exchange: Exchange) -> None:
        """
        Answer a GET of one of `SCRIPTS`, with 304 when the browser has it already.

        Raises:
            Problem: 404, when the browser code was not built.
        """
        head, send = exchange.head, exchange.send
        body, etag = self.read(head.endpoint, head.prefix)
        headers = [*exchange.cors, (b"etag", etag)]
        # Proxies that compress make the tag a weak one.
        known = [tag.strip().removeprefix("W/") for tag in (head.header(b"if-none-match") or "").split(",")]
        if etag.decode() in known or "*" in known:
            headers.append((b"cache-control", b"no-cache"))
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await respond(send, 200, body, b"text/javascript; charset=utf-8", headers, b"no-cache", b"cross-origin")

    def read(self, endpoint: str, base_path: str) -> tuple[bytes, bytes]:
        """
        Return the script and its ETag.

        Args:
            endpoint: One of `SCRIPTS`.
            base_path: As the browser sees it, with the prefix of proxies and mounts.

        Raises:
            Problem: 404, when the browser code was not built.
        """
        made = self._made.get((endpoint, base_path))
        if made is None:
            source = resources.files("headcount").joinpath("static", endpoint[1:])
            if not source.is_file():
                raise Problem(
                    404, "The browser client is not built; run `make web` in the clone, or install the wheel."
                )
            if len(self._made) >= _MAX_MADE:
                self._made.clear()
            made = self._made[endpoint, base_path] = self._make(source.read_text("utf-8"), base_path)
        return made

    def _make(self, source: str, base_path: str) -> tuple[bytes, bytes]:
        defaults = {
            "basePath": base_path,
            "updateStrategy": self._config.update_strategy,
            "routeTracking": self._config.route_tracking,
            # Browsers send cookies to another origin only when its CORS headers name theirs, and `*` is no name.
            **({"credentials": "same-origin"} if "*" in self._config.allowed_origins else {}),
        }
        # In a script, unlike in HTML, JSON is safe as it is: it is a subset of the language since ES2019.
        body = source.replace(_PLACEHOLDER, msgspec.json.encode(defaults).decode()).encode()
        return body, b'"' + hashlib.sha256(body).hexdigest()[:32].encode() + b'"'
