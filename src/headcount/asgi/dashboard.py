"""
`GET /dashboard/`: the built web dashboard.

The page is served from this origin, and its content security policy allows no other. It holds no figures: those come
over the same endpoints that every viewer uses, with the same rights.
"""

import html
from importlib import resources
from typing import Final

import msgspec

from ..config import Config
from .exchange import Exchange
from .responses import Problem, respond

PREFIX: Final = "/dashboard"

_TYPES: Final = {
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "svg": b"image/svg+xml",
}

_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_SECURITY: Final = (
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)

_PLACEHOLDER: Final = "%HEADCOUNT%"


class Dashboard:
    """
    The files of the dashboard, read when they are first asked for.

    Args:
        config: The settings; the page gets those that are not secret.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._files: dict[str, bytes] | None = None

    async def serve(self, exchange: Exchange) -> None:
        """
        Answer a GET below `PREFIX`.

        Raises:
            Problem: 404.
        """
        scope, send, endpoint = exchange.scope, exchange.send, exchange.head.endpoint
        if endpoint == PREFIX:
            # The page's own links are relative, as is this one: a proxy may have cut off what stands before.
            query: bytes = scope["query_string"]
            location = b"dashboard/?" + query if query else b"dashboard/"
            await respond(send, 308, b"", b"text/plain", [(b"location", location), *exchange.cors])
            return
        name = endpoint.removeprefix(f"{PREFIX}/") or "index.html"
        files = self._read()
        if name not in files:
            raise Problem(404, f"No file at {endpoint[:200]}; open the dashboard at dashboard/.")
        # Names of assets hold a hash of what is in them.
        caching = b"no-store" if name == "index.html" else b"public, max-age=31536000, immutable"
        await respond(send, 200, files[name], _TYPES[name.rpartition(".")[2]], (*_SECURITY, *exchange.cors), caching)

    async def redirect(self, exchange: Exchange) -> None:
        """Lead a browser from the base path, which people open because they know it, to the page."""
        path: str = exchange.scope["path"]
        folder = "" if path.endswith("/") else self._config.base_path.rpartition("/")[2] + "/"
        headers = [(b"location", f"{folder}dashboard/".encode()), *exchange.cors]
        await respond(exchange.send, 307, b"", b"text/plain", headers)

    def _read(self) -> dict[str, bytes]:
        """Return all files by name. Only these names are served, so no path of a request reaches the file system."""
        if self._files is None:
            folder = resources.files("headcount").joinpath("static", "dashboard")
            if not folder.joinpath("index.html").is_file():
                raise Problem(404, "The dashboard is not built; run `make web` in the clone, or install the wheel.")
            files = {
                "index.html": folder.joinpath("index.html").read_text("utf-8").replace(_PLACEHOLDER, self._settings())
            }
            self._files = {name: text.encode() for name, text in files.items()}
            for item in folder.joinpath("assets").iterdir():
                if item.name.rpartition(".")[2] in _TYPES:
                    self._files[f"assets/{item.name}"] = item.read_bytes()
        return self._files

    def _settings(self) -> str:
        """Return settings as the text of an attribute."""
        config = self._config
        settings = {
            "version": config.version,
            "updateStrategy": config.update_strategy,
            "routeTracking": config.route_tracking,
            "ipTracking": config.ip_tracking is not False,
            "token": config.admin_token is not None,
        }
        return html.escape(msgspec.json.encode(settings).decode())
