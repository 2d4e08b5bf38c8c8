"""`Assets` in other frameworks, mounted as each one's users would."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import litestar
import pytest
from django_site import django_app
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from asgi.asset_client import OLD, ask, put_builds
from headcount import Assets, Headcount
from headcount.asgi.assets import GONE
from kit.docs import DOCS, code_in


def fastapi_app(assets: Assets) -> ASGIApp:
    app = FastAPI()
    app.mount("/assets", assets)
    return app


def nested_starlette_app(assets: Assets) -> ASGIApp:
    return Starlette(routes=[Mount("/shop", Starlette(routes=[Mount("/assets", assets)]))])


def litestar_app(assets: Assets) -> ASGIApp:
    (block,) = [block for block in code_in((DOCS / "assets.md").read_text("utf-8"), "python") if "litestar" in block]
    names: dict[str, Any] = {"__name__": __name__, "assets": assets}
    exec(block, names)  # what users paste
    return litestar.Litestar([names["serve_assets"]])  # type: ignore[return-value]


def django_and_assets(assets: Assets) -> ASGIApp:
    (block,) = [block for block in code_in((DOCS / "assets.md").read_text("utf-8"), "python") if "Django" in block]
    names: dict[str, Any] = {"assets": assets, "get_asgi_application": lambda: django_app(Headcount(version="v1"))}
    exec(block.partition("\n\n")[2], names)
    application: ASGIApp = names["application"]
    return application


@pytest.mark.parametrize(
    ("make", "prefix", "changes"),
    [
        (fastapi_app, "/assets", {}),
        (fastapi_app, "/proxied/assets", {"root_path": "/proxied"}),
        (fastapi_app, "/assets", {"root_path": "/cut/off"}),
        (nested_starlette_app, "/shop/assets", {}),
        (litestar_app, "/assets", {}),
        (django_and_assets, "/assets", {}),
        (lambda assets: assets, "", {}),
    ],
)
def test_it_serves_wherever_it_is_mounted(
    tmp_path: Path, make: Callable[[Assets], ASGIApp], prefix: str, changes: dict[str, Any]
) -> None:
    put_builds(tmp_path)

    async def run() -> None:
        app = make(Assets(tmp_path, "{build}/assets"))
        assert (await ask(app, f"{prefix}/{OLD}", **changes))[::2] == (200, b"old")
        assert (await ask(app, f"{prefix}/{OLD}/", **changes)).status == 404
        assert (await ask(app, f"{prefix}/missing.js", **changes))[::2] == (404, GONE.encode())

    asyncio.run(run())
