"""A shop whose builds are in the directory BUILDS: documents of its own version, and the files of all of them."""

import os

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

from headcount import Assets, Headcount
from headcount.core import away_pages

# Nobody waits 48 s until a new server may say which pages are away.
away_pages.GRACE = 2.0  # type: ignore[misc]

app = FastAPI()
headcount = Headcount(admin_token="the tests' own door", keepalive_interval=2, reconnect_spread=0.2)
app.mount(headcount.base_path, headcount)
app.mount("/assets", Assets(os.environ["BUILDS"], builds="{build}/assets"))


@app.get("/favicon.ico")
async def icon() -> Response:
    return Response(status_code=204)


@app.get("/", response_class=HTMLResponse)
async def page() -> HTMLResponse:
    version = headcount.config.version
    text = f"""<!doctype html><meta charset="utf-8"><title>{version}</title><button>Cart</button><p></p>
<script type="module" src="/assets/index-{version}aB3xY9.js"></script>"""
    return HTMLResponse(text, headers={"cache-control": "no-store"})
