"""
A small shop whose admin page shows live who is on which build.

    uvicorn --factory shop:create_app

Four things make it a Headcount application; look for `headcount` below: the object, the hook that says who may
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
UPDATE_STRATEGY = '<meta name="update-strategy" content="auto">'

# What a page may do. Nothing inline and nothing from elsewhere: the client needs no exception to a strict policy.
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Product:
    """Something to buy; `shape` and `glaze` are how the page draws it."""

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
    What all workers must agree on: the key that signs cookies, who is logged in, which build is live.

    One table of names and values, in a file that all of them open, or in memory for one process alone.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path or ":memory:"
        self._process = 0
        self._opened: sqlite3.Connection

    def first(self, name: str, value: str) -> str:
        """Keep a value unless there is one, and return the one that there is: all workers start at once."""
        self._execute("INSERT OR IGNORE INTO shop VALUES (?, ?)", name, value)
        return self.get(name) or value

    def put(self, name: str, value: str) -> None:
        """Keep a value."""
        self._execute("INSERT OR REPLACE INTO shop VALUES (?, ?)", name, value)

    def get(self, name: str) -> str | None:
        """Return what is kept under a name."""
        rows = self._execute("SELECT value FROM shop WHERE name = ?", name)
        return rows[0][0] if rows else None

    def drop(self, name: str) -> None:
        """Keep it no more."""
        self._execute("DELETE FROM shop WHERE name = ?", name)

    def _execute(self, statement: str, *values: str) -> list[tuple[str]]:
        if self._process != os.getpid():  # a connection must not be carried into a worker that is forked
            if self._path != ":memory:":
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))  # the key in it is nobody else's business
            self._opened = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._opened.execute("CREATE TABLE IF NOT EXISTS shop (name TEXT PRIMARY KEY, value TEXT)")
            self._process = os.getpid()
        return self._opened.execute(statement, values).fetchall()


class Sessions:
    """
    Log-ins that can be ended.

    The cookie holds a session id and a role, signed. A signature cannot be taken back, so the cookie alone would
    outlive its log-out: it counts only as long as its id is in here.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def start(self, request: Request) -> None:
        """Make the visitor the admin, under a new id: one that was there before may be known to others."""
        self.end(request)
        request.session.update(id=secrets.token_urlsafe(16), role="admin")
        self._shared.put(f"session {request.session['id']}", "live")

    def end(self, request: Request) -> None:
        """Log out: whoever still holds this cookie holds nothing."""
        self._shared.drop(f"session {request.session.get('id', '')}")
        request.session.clear()

    def is_admin(self, request: HTTPConnection) -> bool:
        """Say whether this visitor is logged in as the admin, now."""
        session = request.session
        return session.get("role") == "admin" and self._shared.get(f"session {session.get('id', '')}") is not None


class MissingBuild(Exception):  # noqa: N818  it reads as what it is
    """The front end has not been built; the sentence says how."""


def built_versions(update_strategy: str) -> dict[str, str]:
    """Return every build there is, `{version: its index.html}`, with the kind of stream that pages shall open."""
    told = UPDATE_STRATEGY.replace("auto", update_strategy)
    builds = {
        path.parent.name: path.read_text("utf-8").replace(UPDATE_STRATEGY, told)
        for path in sorted(BUILDS.glob("*/index.html"))
    }
    if not builds:
        raise MissingBuild(
            "The shop's front end has not been built. Build it in the folder of the repository: "
            "npm install && npm run build -w headcount-client -w headcount-shop"
        )
    return builds


def create_app(
    version: str = "v1",
    *,
    admin_password: str | None = None,
    update_strategy: Literal["sse", "ws", "auto"] = "sse",
    admin_token: str | None = None,
    sign_in_token: str | None = None,
    sign_in_seconds: float = 3600,
    trusted_proxies: Sequence[str] = (),
    database: str | None = None,
) -> FastAPI:
    """
    Make the shop.

    Args:
        version: The build that is served first; one of the folders in `static/`.
        admin_password: What the admin logs in with. Default: `SHOP_ADMIN_PASSWORD`, else a random one is printed.
        update_strategy: `sse`, `ws` or `auto`: which kind of stream the pages are told to open.
        admin_token: What programs may see the figures with, such as `headcount top`. Default: `HEADCOUNT_ADMIN_TOKEN`.
        sign_in_token: Opens `/admin/sign-in?token=…` to whoever holds it; None closes that door.
        sign_in_seconds: How long from now that token is good.
        trusted_proxies: Addresses whose `X-Forwarded-For` is believed.
        database: File in which several workers keep what they must agree on. Default: `SHOP_DATABASE`, else there is
            one process alone.

    Returns:
        The application. `app.state.headcount` is its Headcount, `app.state.version` the build that is live, and
        `await app.state.deploy("v2")` puts another one live.

    Raises:
        MissingBuild: `static/` holds no build.
        LookupError: It holds some, but not this one.
    """
    builds = built_versions(update_strategy)
    shared = Shared(database or os.environ.get("SHOP_DATABASE"))
    version = shared.first("build", version)

    def require_build(wanted: str) -> None:
        if wanted not in builds:
            raise LookupError(f"There is no build {wanted!r}; there are {', '.join(builds)}.")

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
        # A log-out in one tab ends the live figures of the other tabs too, at the latest after this long.
        reauthorize_interval=5,
    )

    sessions = Sessions(shared)

    @headcount.authorize_stats
    def admins_only(request: HTTPConnection) -> bool:
        return sessions.is_admin(request)

    def admin(request: Request) -> None:
        if not sessions.is_admin(request):
            raise HTTPException(403, "Only the admin may do this. Log in first.")

    app = FastAPI(title="Kiln & Shelf", docs_url=None, redoc_url=None, openapi_url=None)
    key = shared.first("key", secrets.token_hex())
    app.add_middleware(SessionMiddleware, secret_key=key, session_cookie="shop_session")
    app.mount(headcount.base_path, headcount)
    # All builds stay reachable: a page of the old one may still ask for a part of itself.
    app.mount("/builds", StaticFiles(directory=BUILDS))

    async def deploy(new_version: str) -> None:
        require_build(new_version)
        shared.put("build", new_version)
        app.state.version = new_version
        # Every open page is told, and those that come back later with an old build, too.
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
