"""An application for the browser tests: sessions that can end, pages with `/client.js`, a door for the tests."""

import asyncio
import json
import os
import secrets
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection

from headcount import Headcount, VersionCookie

NUXT = Path(__file__).parent / "nuxt_client" / "dist"
PAGE = r"""<!doctype html><meta charset="utf-8"><title>page</title><body>
<script>
  // What a browser, an extension or a policy may forbid, and how.
  const refusal = () => new DOMException("forbidden", "SecurityError")
  const throwing = function () { throw refusal() }
  const request = (value) => Object.defineProperty(LockManager.prototype, "request", { value })
  const forbid = {
    "locks-reject": () => request(() => Promise.reject(refusal())),
    "locks-throw": () => request(throwing),
    "locks-silent": () => request(() => new Promise(() => {})),
    "channel-throws": () => { window.BroadcastChannel = throwing },
    "channel-deaf": () => { BroadcastChannel.prototype.postMessage = () => {} },
    "crypto-missing": () => Object.defineProperty(window, "crypto", { value: undefined }),
    "storage-throws": () => Object.defineProperty(window, "localStorage", { get: throwing }),
  }
  forbid[new URLSearchParams(location.search).get("forbid")]?.()
  window.uncaught = []
  for (const type of ["error", "unhandledrejection"]) {
    addEventListener(type, ({ message, reason }) => uncaught.push(String(message ?? reason)))
  }
  addEventListener("pageshow", ({ persisted }) => { window.persisted = persisted })
</script>
<script type="module">
  import { createHeadcount } from "/__skew/client.js"
  import { shared } from "/__skew/shared.js"
  const query = new URLSearchParams(location.search)
  const headcount = createHeadcount({
    version: query.get("v") ?? undefined,
    updateStrategy: query.get("strategy") ?? undefined,
    basePath: query.get("base") ?? undefined,
    url: query.get("url") ?? undefined,
    backoff: query.has("delay") ? { baseMs: +query.get("delay"), capMs: +query.get("delay") } : undefined,
    deltas: query.get("deltas") !== "0",
    stream: query.has("shared") ? shared : undefined,
    routeTracking: query.get("routes") ?? undefined,
    route: query.has("pattern") ? () => location.pathname.replace(/\d+/, ":id") : undefined,
    headers: query.has("token") ? { authorization: `Bearer ${query.get("token")}` } : undefined,
  })
  const snapshots = []
  headcount.connect()
  if (document.prerendering) fetch("/prerendering", { method: "POST" })
  if (query.has("watch")) headcount.subscribe(() => snapshots.push(headcount.getSnapshot()))
  Object.assign(window, { headcount, snapshots, snapshot: () => ({ ...headcount.getSnapshot() }) })
</script>"""

live_sessions: set[str] = set()
app = FastAPI()
headcount = Headcount(
    version=os.environ.get("PAGE_VERSION", "v2"),
    update_strategy="auto",
    route_tracking=True,
    reauthorize_interval=1,
    keepalive_interval=float(os.environ.get("KEEPALIVE", "2")),
    reconnect_spread=0.2,
    admin_token="the tests' own door",
    allowed_origins=os.environ.get("PAGE_ORIGINS", "").split(),
)
app.add_middleware(VersionCookie, headcount=headcount)
app.add_middleware(SessionMiddleware, secret_key=os.environ["SESSION_SECRET"])


@headcount.authorize_stats
async def admins_only(request: HTTPConnection) -> bool:
    return request.session.get("sid") in live_sessions


app.mount(headcount.base_path, headcount)


@app.post("/log-in")
async def log_in(request: Request) -> dict[str, bool]:
    request.session["sid"] = secrets.token_hex(8)
    live_sessions.add(request.session["sid"])
    return {"ok": True}


@app.post("/log-out")
async def log_out(request: Request) -> dict[str, bool]:
    live_sessions.discard(request.session.pop("sid", ""))
    return {"ok": True}


@app.post("/end-all-sessions")
async def end_all_sessions() -> dict[str, bool]:
    live_sessions.clear()
    return {"ok": True}


@app.post("/revoke/{connection_id}")
async def revoke(connection_id: str) -> dict[str, bool]:
    return {"ok": await headcount.revoke(connection_id)}


@app.post("/send/{connection_id}")
async def send(connection_id: str, request: Request) -> dict[str, bool]:
    await headcount.send(connection_id, await request.json())
    return {"ok": True}


@app.post("/broadcast")
async def broadcast(request: Request) -> dict[str, int]:
    return {"handed": await headcount.broadcast(await request.json())}


@app.get("/other", response_class=HTMLResponse)
async def other() -> str:
    """A page without Headcount, to go to and come back from."""
    return "<!doctype html><title>other</title><a href='/'>elsewhere</a>"


@app.get("/frame", response_class=HTMLResponse)
async def frame(src: str, sandbox: str | None = None) -> str:
    """A page without Headcount that has another one in a frame."""
    attribute = "" if sandbox is None else f' sandbox="{sandbox}"'
    return f"<!doctype html><title>frame</title><iframe src='{src.replace('&', '&amp;')}'{attribute}></iframe>"


@app.get("/download")
async def download() -> Response:
    return Response("a file", headers={"content-disposition": "attachment; filename=file.txt"})


@app.get("/nothing")
async def nothing() -> Response:
    return Response(status_code=204)


@app.get("/away/{port}/{path:path}")
async def away(port: int, path: str) -> Response:
    """A log-in of another origin, to which every request is redirected."""
    return RedirectResponse(f"http://localhost:{port}/other?from={path}")


@app.get("/slow")
async def slow() -> Response:
    await asyncio.sleep(2)
    return Response("late")


@app.get("/pages/{path:path}")
async def small_page(path: str) -> Response:
    policy = {"content-security-policy": "default-src 'self'; connect-src 'self' ws:"}
    return FileResponse(Path(os.environ["PAGES"]) / path, headers=policy)


@app.get("/plain", response_class=HTMLResponse)
async def plain() -> str:
    """The page without a build step of docs/browser.md, word for word."""
    text = (Path(__file__).parents[2] / "docs/browser.md").read_text("utf-8")
    found: str = text.partition("## Without a build step")[2].partition("```html\n")[2].partition("```")[0]
    return found


@app.get("/nuxt/{name}")
async def nuxt(name: str) -> Response:
    # Cacheable, so that VersionCookie keeps off: the published client writes the cookie of its build itself.
    return FileResponse(NUXT / Path(name).name, headers={"cache-control": "max-age=60"})


prerendering = {"runs": False, "activate": False}
"""Whether a prerendered page has run its script, and whether it is to be shown."""


@app.get("/prerenders", response_class=HTMLResponse)
async def prerenders(to: str) -> str:
    """A page without Headcount that has another one prerendered, and goes there when the test says so."""
    rules = json.dumps({"prerender": [{"urls": [to], "eagerness": "immediate"}]})
    return f"""<!doctype html><title>prerenders</title><script type="speculationrules">{rules}</script><script>
      setInterval(async () => {{
        const state = await (await fetch("/prerendering")).json()
        if (state.activate) location.href = {json.dumps(to)}
      }}, 50)
    </script>"""


@app.get("/prerendering")
async def read_prerendering() -> dict[str, bool]:
    return prerendering


@app.post("/prerendering")
async def note_prerendering(activate: bool = False) -> None:
    prerendering["activate" if activate else "runs"] = True


@app.get("/{path:path}", response_class=HTMLResponse)
async def page(response: Response, policy: str = "") -> str:
    """The page, with a Content Security Policy if the query names one."""
    if policy:
        response.headers["content-security-policy"] = policy
    return PAGE
