"""
A small shop whose admin page shows live which pages are open on which build.

    uvicorn --factory shop:create_app

Four things make it a Headcount application; look for `headcount` below: the object, the hook that decides who may
watch, the mount, and the release. The rest is an ordinary FastAPI application with sessions.
"""

import os
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection

from headcount import Headcount

BUILDS = Path(__file__).parent / "static"
UPDATE_STRATEGY = '<meta name="update-strategy" content="auto"'

# A strict policy without inline scripts or other origins: the client needs no exception.
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Product:
    """A product. The page draws it by `shape` and `glaze`."""

    number: int
    name: str
    cents: int
    shape: str
    glaze: str
    text: str


PRODUCTS = (
    Product(1, "Early mug", 1800, "mug", "ochre", "Holds one coffee and half an excuse."),
    Product(2, "Rain vase", 4200, "vase", "sea", "Narrow at the neck, so three stems are a bouquet."),
    Product(3, "Soup bowl", 2400, "bowl", "moss", "Deep enough for seconds without asking."),
    Product(4, "Long plate", 2900, "plate", "chalk", "For bread, or for everything that is left."),
    Product(5, "Field carafe", 3800, "carafe", "clay", "Pours a litre and does not drip on the way back."),
    Product(6, "Window planter", 3300, "planter", "moss", "Forgives a week of holidays."),
    Product(7, "Late mug", 1800, "mug", "night", "The same mug, for tea, after dinner."),
    Product(8, "Dry vase", 4600, "vase", "clay", "Unglazed inside; keeps what no longer drinks."),
    Product(9, "Rice bowl", 1600, "bowl", "ochre", "Small, steady, and stacks by the dozen."),
)


class LogIn(BaseModel):
    """Body of `POST /api/login`."""

    password: str = Field(max_length=200)


class Deploy(BaseModel):
    """Body of `POST /api/deploy`."""

    version: str = Field(max_length=128)


class Shared:
    """
    State that all workers share: the key that signs cookies, the sessions, and the live build.

    It is one table of names and values, in a file, or in memory for a single process.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path or ":memory:"
        self._process = 0
        self._opened: sqlite3.Connection

    def first(self, name: str, value: str) -> str:
        """Set a value if there is none, and return the current one. All workers call this at the start."""
        self._execute("INSERT OR IGNORE INTO shop VALUES (?, ?)", name, value)
        return self.get(name) or value

    def put(self, name: str, value: str) -> None:
        """Set a value."""
        self._execute("INSERT OR REPLACE INTO shop VALUES (?, ?)", name, value)

    def get(self, name: str) -> str | None:
        """Return the value of a name, or None."""
        rows = self._execute("SELECT value FROM shop WHERE name = ?", name)
        return rows[0][0] if rows else None

    def drop(self, name: str) -> None:
        """Delete a value."""
        self._execute("DELETE FROM shop WHERE name = ?", name)

    def _execute(self, statement: str, *values: str) -> list[tuple[str]]:
        if self._process != os.getpid():  # a connection must not be used after a fork
            if self._path != ":memory:":
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))  # it contains a secret key
            self._opened = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._opened.execute("CREATE TABLE IF NOT EXISTS shop (name TEXT PRIMARY KEY, value TEXT)")
            self._process = os.getpid()
        return self._opened.execute(statement, values).fetchall()


class Sessions:
    """
    Sessions that can be ended.

    The signed cookie holds a session id and a role. A signature cannot be revoked, so the cookie is valid only while
    its id is stored here.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def start(self, request: Request) -> None:
        """Log the visitor in as admin, with a new session id: the previous one may be known to others."""
        self.end(request)
        request.session.update(id=secrets.token_urlsafe(16), role="admin")
        self._shared.put(f"session {request.session['id']}", "live")

    def end(self, request: Request) -> None:
        """Log out: the cookie is no longer valid."""
        self._shared.drop(f"session {request.session.get('id', '')}")
        request.session.clear()

    def is_admin(self, request: HTTPConnection) -> bool:
        """Return whether this visitor is logged in as admin."""
        session = request.session
        return session.get("role") == "admin" and self._shared.get(f"session {session.get('id', '')}") is not None


class MissingBuild(Exception):  # noqa: N818  it reads as what it is
    """The front end is not built; the sentence says how to build it."""


def built_versions(update_strategy: str) -> dict[str, str]:
    """Return all builds, `{version: its index.html}`, with the kind of stream that pages open."""
    strategy = UPDATE_STRATEGY.replace("auto", update_strategy)
    builds = {
        path.parent.name: path.read_text("utf-8").replace(UPDATE_STRATEGY, strategy)
        for path in sorted(BUILDS.glob("*/index.html"))
    }
    if not builds:
        raise MissingBuild(
            "The shop's front end is not built. Build it in the folder of the repository: "
            "npm install && npm run build -w headcount-client -w headcount-shop"
        )
    return builds


def create_app(
    version: str = "v1",
    *,
    admin_password: str | None = None,
    update_strategy: Literal["sse", "ws", "auto"] = "auto",
    admin_token: str | None = None,
    sign_in_token: str | None = None,
    sign_in_seconds: float = 3600,
    trusted_proxies: Sequence[str] = (),
    database: str | None = None,
    backend: str | None = None,
) -> FastAPI:
    """
    Make the shop.

    Args:
        version: First live build; one of the folders in `static/`.
        admin_password: Password of the admin. Default: `SHOP_ADMIN_PASSWORD`, else a random one is printed.
        update_strategy: `sse`, `ws` or `auto`: kind of stream that pages open.
        admin_token: Bearer token for programs such as `headcount top`. Default: `HEADCOUNT_ADMIN_TOKEN`.
        sign_in_token: Token of the link `/admin/sign-in?token=…`; None: there is no such link.
        sign_in_seconds: Seconds for which that token is valid.
        trusted_proxies: Addresses of proxies whose `X-Forwarded-For` is trusted.
        database: File for the state that several workers share. Default: `SHOP_DATABASE`, else memory, for one
            process.
        backend: Backend of Headcount. Default: `HEADCOUNT_BACKEND`, else the workers of this machine.

    Returns:
        The application. `app.state.headcount` is its Headcount, `app.state.version` the build that is live, and
        `await app.state.deploy("v2")` puts another one live.

    Raises:
        MissingBuild: `static/` contains no build.
        LookupError: `static/` does not contain this build.
    """
    builds = built_versions(update_strategy)
    shared = Shared(database or os.environ.get("SHOP_DATABASE"))
    version = shared.first("build", version)

    def require_build(wanted: str) -> None:
        if wanted not in builds:
            raise LookupError(f"Unknown build {wanted!r}; the builds are {', '.join(builds)}.")

    require_build(version)
    password = admin_password or os.environ.get("SHOP_ADMIN_PASSWORD")
    if not password:
        password = secrets.token_urlsafe(9)
        print(f"Admin password (SHOP_ADMIN_PASSWORD is not set): {password}")
    token_expires = time.monotonic() + sign_in_seconds

    headcount = Headcount(
        version=version,
        update_strategy=update_strategy,
        route_tracking=True,
        ip_tracking="anonymized",
        admin_token=admin_token,
        trusted_proxies=tuple(trusted_proxies),
        backend=backend or os.environ.get("HEADCOUNT_BACKEND") or "auto",
        # A log-out in one tab ends the live figures of the other tabs too, at the latest after this long.
        reauthorize_interval=5,
    )

    sessions = Sessions(shared)

    @headcount.authorize_stats
    def admins_only(request: HTTPConnection) -> bool:
        return sessions.is_admin(request)

    def admin(request: Request) -> None:
        if not sessions.is_admin(request):
            raise HTTPException(403, "Only the admin may do this; log in first.")

    app = FastAPI(title="Kiln & Shelf", docs_url=None, redoc_url=None, openapi_url=None)
    key = shared.first("key", secrets.token_hex())
    app.add_middleware(SessionMiddleware, secret_key=key, session_cookie="shop_session")
    app.mount(headcount.base_path, headcount)
    # All builds stay reachable: an open page of an old build may still load its files.
    app.mount("/builds", StaticFiles(directory=BUILDS))

    async def deploy(new_version: str) -> None:
        require_build(new_version)
        shared.put("build", new_version)
        app.state.version = new_version
        # Notifies every open page, and pages that reconnect later with an old build.
        await headcount.release(new_version)

    app.state.version = version
    app.state.headcount = headcount
    app.state.deploy = deploy

    @app.get("/api/products")
    async def products() -> list[dict[str, object]]:
        return [asdict(product) for product in PRODUCTS]

    @app.get("/api/me")
    async def me(request: Request) -> dict[str, object]:
        return {"role": "admin" if sessions.is_admin(request) else None, "builds": list(builds)}

    @app.post("/api/login")
    async def log_in(request: Request, body: LogIn) -> dict[str, str]:
        # Bytes, because compare_digest refuses text that is not ASCII; constant time, because it is a password.
        if not secrets.compare_digest(body.password.encode(), password.encode()):
            raise HTTPException(401, "That is not the admin password.")
        sessions.start(request)
        return {"role": "admin"}

    @app.post("/api/logout")
    async def log_out(request: Request) -> dict[str, None]:
        sessions.end(request)
        return {"role": None}

    @app.post("/api/deploy", dependencies=[Depends(admin)])
    async def deploy_build(body: Deploy) -> dict[str, str]:
        try:
            await deploy(body.version)
        except LookupError as error:
            raise HTTPException(404, str(error)) from None
        return {"version": body.version}

    @app.get("/admin/sign-in")
    async def sign_in_link(request: Request, token: str = "") -> RedirectResponse:
        # A wrong or stale token leads to the same page, which then offers the log-in form.
        if (
            sign_in_token
            and time.monotonic() < token_expires
            and secrets.compare_digest(token.encode(), sign_in_token.encode())
        ):
            sessions.start(request)
        return RedirectResponse("/admin", 303, {"Cache-Control": "no-store"})

    # The front end routes by itself; the server answers each of its addresses with the build that is live now.
    @app.get("/")
    @app.get("/products")
    @app.get("/products/{number}")
    @app.get("/checkout")
    @app.get("/admin")
    async def page() -> HTMLResponse:
        # Another worker may have been told of the release.
        return HTMLResponse(builds[shared.get("build") or version], headers=PAGE_HEADERS)

    return app
