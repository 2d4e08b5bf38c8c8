"""An application for the tests of `headcount-client/release`: documents of versions that a balancer mixes."""

from itertools import count
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from headcount import Headcount, OutdatedClients

PAGE = """<!doctype html><meta charset="utf-8"><title>{version}</title>
<meta name="headcount-version" content="{version}">
<headcount-update></headcount-update>
<form><label>Name <input name="name"></label></form>
<a href="/orders?open=1#last">Orders</a> <a href="/parts/{version}?deep=1">Parts</a>
<script type="module">
  import {{ createHeadcount }} from "/__skew/client.js"
  import {{ createRelease }} from "/__skew/release.js"
  import "/__skew/release-element.js"
  const version = "{version}"
  const headcount = createHeadcount({{ version }})
  const mode = new URLSearchParams(location.search).get("mode") ?? sessionStorage.mode ?? "prompt"
  sessionStorage.mode = mode
  window.release = createRelease({{ version, headcount, mode, spreadMs: 0 }})
  headcount.connect()
  // A router: the parts of a page are loaded when they are needed.
  addEventListener("click", async (event) => {{
    const link = event.target.closest("a")
    if (!link) return
    event.preventDefault()
    if (link.pathname.startsWith("/parts/")) await import(link.pathname + ".js")
    history.pushState(null, "", link.href)
  }})
</script>"""

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
