"""An application for the tests of `headcount-client/release`: documents of versions that a balancer mixes."""

from itertools import count
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from headcount import Headcount, OutdatedClients

from .release_page import PAGE

app = FastAPI()
headcount = Headcount(version="v1", admin_token="the tests' own door", keepalive_interval=2)
app.mount(headcount.base_path, headcount)
app.add_middleware(OutdatedClients, headcount=headcount)


class Site:
    """What is served, and what was asked for: the versions of the documents that were loaded, and their checks."""

    def __init__(self) -> None:
        self.serve(["v1"])

    def serve(self, versions: list[str]) -> None:
        """Serve documents of these versions in turn, and the parts of the last one."""
        self._versions, self._turns = versions, count()
        self.loads: list[str] = []
        self.checks = 0

    def document(self, *, is_load: bool) -> str:
        version = self._versions[next(self._turns) % len(self._versions)]
        if is_load:
            self.loads.append(version)
        else:
            self.checks += 1
        return PAGE.format(version=version)

    def has_part(self, name: str) -> bool:
        return name == self._versions[-1]


site = Site()


@app.post("/serve")
async def serve(request: Request) -> None:
    site.serve(await request.json())


@app.get("/served")
async def served() -> dict[str, object]:
    return {"loads": site.loads, "checks": site.checks}


@app.get("/favicon.ico")
async def icon() -> Response:
    return Response(status_code=204)


@app.get("/plain", response_class=HTMLResponse)
async def plain() -> str:
    """The page without a build step of docs/rollouts.md, word for word."""
    text = (Path(__file__).parents[2] / "docs/rollouts.md").read_text("utf-8")
    found: str = text.partition("**Without a build step.**")[2].partition("```html\n")[2].partition("```")[0]
    return found


@app.get("/parts/{name}.js")
async def part(name: str) -> Response:
    if not site.has_part(name):
        return PlainTextResponse("This part is gone.", 404)
    return Response("export {}", media_type="text/javascript")


@app.get("/{path:path}", response_class=HTMLResponse)
async def page(request: Request) -> Response:
    document = site.document(is_load=request.headers.get("sec-fetch-dest") == "document")
    return HTMLResponse(document, headers={"cache-control": "no-store"})
