"""Pages behind service workers; the first label of the host name is the build, so that each is an origin."""

import os
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse

from headcount import Headcount

BUILT = Path(os.environ["BUILT"])

app = FastAPI()
headcount = Headcount(
    version="v1",
    update_strategy="auto",
    route_tracking=True,
    admin_token="the tests' own door",
    keepalive_interval=float(os.environ.get("KEEPALIVE", "15")),
)
app.mount(headcount.base_path, headcount)


@app.get("/{path:path}")
async def file(request: Request, path: str) -> FileResponse:
    return FileResponse(BUILT / (request.url.hostname or "").partition(".")[0] / (path or "index.html"))
