"""One server of a rolling deploy: it serves the documents of its own version, and counts for the fleet."""

import os

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

from headcount import Headcount

from .release_page import PAGE

app = FastAPI()
headcount = Headcount(version=os.environ["HEADCOUNT_VERSION"], admin_token="the tests' own door")
app.mount(headcount.base_path, headcount)


@app.get("/favicon.ico")
async def icon() -> Response:
    return Response(status_code=204)


@app.get("/{path:path}", response_class=HTMLResponse)
async def page() -> Response:
    return HTMLResponse(PAGE.format(version=headcount.version), headers={"cache-control": "no-store"})
