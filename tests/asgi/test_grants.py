"""
Every endpoint, asked with every right: what its whole answer may hold.

The table of the tests must name every endpoint of the real table, so an endpoint that was added fails until somebody
has said here what it shows, and every field of `Grant`, so a new one fails until somebody has said what it hides.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pytest

from asgi.asgi_client import Answer, Client, Site, Stream, asynchronous, turn_until
from headcount import Grant
from headcount.asgi.app import endpoints_of
from headcount.core.history import Current

ADMIN_TOKEN, METRICS_TOKEN = "admin-token-0123456789", "metrics-token-0123456789"

ROUTES = ("/only-for-doctors/4711", "/only-for-doctors/4712")
VERSION = "page-version-77"
ADDRESS = "198.51.100.77"

TOTAL, VERSIONS, ROUTE, ROWS, IP = "the total", "versions", "routes", "ids of connections", "addresses"
EVERYTHING = frozenset({TOTAL, VERSIONS, ROUTE, ROWS, IP})

HIDES: Mapping[str, frozenset[str]] = {
    "routes": frozenset({ROUTE}),
    "connections": frozenset({ROWS, IP}),
    "ips": frozenset({IP}),
    "expires_in": frozenset(),
    "release": frozenset(),
}
"""What a viewer does not see whose `Grant` has a field off."""


class Viewer(NamedTuple):
    """Somebody with some right."""

    verdict: bool | Grant
    """The hook's."""
    headers: Mapping[str, str] = {}
    sees: frozenset[str] = EVERYTHING
    scrapes: frozenset[str] | None = None
    """What `/metrics` may show it; None: what it sees elsewhere."""


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


VIEWERS = {
    "nobody": Viewer(False, sees=frozenset()),
    "a wrong token": Viewer(False, bearer("wrong-token-0123456789"), frozenset()),
    "the hook says True": Viewer(True),
    "a whole grant": Viewer(Grant(release=True)),
    "a grant that expires": Viewer(Grant(expires_in=60.0)),
    "a grant that has expired": Viewer(Grant(expires_in=0.0), sees=frozenset()),
    **{f"a grant without {name}": Viewer(Grant(**{name: False}), sees=EVERYTHING - HIDES[name])
       for name in HIDES if name != "expires_in"},
    "the least grant": Viewer(Grant(routes=False, connections=False, ips=False), sees=frozenset({TOTAL, VERSIONS})),
    "the metrics token": Viewer(False, bearer(METRICS_TOKEN), frozenset(), scrapes=EVERYTHING),
    "the admin token": Viewer(False, bearer(ADMIN_TOKEN)),
}  # fmt: skip


class Asked(NamedTuple):
    """Who asks, and what there is to see."""

    site: Site
    client: Client
    page: Stream


Ask = Callable[[Asked], Awaitable[str]]


class Row(NamedTuple):
    """An endpoint."""

    ask: Ask
    """Returns everything that the answers hold, headers included."""
    shows: frozenset[str] = frozenset()
    """To those who may see everything."""
    needs: str = TOTAL
    """Who may not see this gets nothing of the rest either."""


def whole(answer: Answer) -> str:
    return f"{answer.status} {json.dumps(answer.headers)} {answer.body.decode()}"


def get(*targets: str) -> Ask:
    async def ask(asked: Asked) -> str:
        page = asked.page.public
        return "\n".join([whole(await asked.client.get(target.replace("PAGE", page))) for target in targets])

    return ask


def post(path: str, body: Mapping[str, Any]) -> Ask:
    async def ask(asked: Asked) -> str:
        own = await asked.client.open("sse", "?viewer=1")
        text = whole(
            await asked.client.post(path, {**body, **({"connectionId": own.handle} if "node" not in body else {})})
        )
        await own.leave()
        return text

    return ask


def is_up_to_date(viewer: Stream, site: Site) -> bool:
    return viewer.received[-1].get("revision") == site.node.figures.stats().revision


def watch(transport: str) -> Ask:
    async def ask(asked: Asked) -> str:
        texts = []
        for deltas in (True, False):
            viewer = await asked.client.open(transport, "?viewer=1")
            await asked.client.say(viewer, {"type": "subscribe-stats", "deltas": deltas})
            verdict = await viewer.next("stats", "stats-unauthorized")
            for route in (ROUTES[1], "/elsewhere", ROUTES[0]):
                await asked.client.navigate(asked.page, route)
                await asked.site.settled()
            if verdict["type"] == "stats":
                await turn_until(partial(is_up_to_date, viewer, asked.site))
            texts.append(json.dumps(viewer.received))
            await viewer.leave()
        plain = await asked.client.get(f"/{transport}") if transport == "ws" else None
        return "\n".join([*texts, *([whole(plain)] if plain else [])])

    return ask


async def rollout(asked: Asked) -> str:
    await asked.site.headcount.release("v2", over=60, route=ROUTES[0])
    return whole(await asked.client.get("/admin/rollout"))


LISTS = (
    "/admin/connections",
    f"/admin/connections?version={VERSION}",
    f"/admin/connections?route={ROUTES[0]}",
    *(f"/admin/connections?sort={order}{by}&limit=1" for order in ("", "-") for by in ("version", "route", "ip", "id")),
    "/admin/connections?limit=1",
    "/admin/connections?nonsense=1",
)

TABLE: Mapping[str, Row] = {
    "/sse": Row(watch("sse"), EVERYTHING),
    "/ws": Row(watch("ws"), EVERYTHING),
    "/route": Row(post("/route", {"route": "/elsewhere"})),
    "/subscribe-stats": Row(post("/subscribe-stats", {"deltas": True})),
    "/unsubscribe-stats": Row(post("/unsubscribe-stats", {})),
    "/tabs": Row(post("/tabs", {"set": [], "remove": []})),
    "/bye": Row(post("/bye", {})),
    "/acknowledge": Row(post("/acknowledge", {"id": "0123456789abcdef"})),
    "/admin/notify": Row(post("/admin/notify", {"message": {"type": "sale"}, "wait": 0}), frozenset({TOTAL})),
    "/release-reply": Row(post("/release-reply", {"version": "v2", "reply": "accepted"})),
    "/log-in": Row(post("/log-in", {"token": "wrong-token-0123456789"})),
    "/log-out": Row(post("/log-out", {})),
    "/client.js": Row(get("/client.js")),
    "/element.js": Row(get("/element.js")),
    "/shared.js": Row(get("/shared.js")),
    "/release.js": Row(get("/release.js")),
    "/release-element.js": Row(get("/release-element.js")),
    "/dashboard/": Row(get("/dashboard", "/dashboard/", "/dashboard/nothing")),
    "/health": Row(get("/health", "/health?seen=1", "/health?ready=1", "/health?version=v1")),
    "/metrics": Row(
        get("/metrics", "/metrics?scope=node", "/metrics?scope=fleet"), frozenset({TOTAL, VERSIONS, ROUTE})
    ),
    "/admin/stats": Row(get("/admin/stats"), EVERYTHING),
    "/admin/connections": Row(get(*LISTS), EVERYTHING, needs=ROWS),
    "/admin/nodes": Row(get("/admin/nodes"), frozenset({TOTAL})),
    "/admin/nodes/forget": Row(post("/admin/nodes/forget", {"node": "0" * 16})),
    "/admin/rollout": Row(rollout, frozenset({TOTAL, ROUTE})),
    "/admin/history": Row(get("/admin/history", "/admin/history?format=csv"), frozenset({TOTAL, VERSIONS})),
    "/admin/history/rollouts": Row(get("/admin/history/rollouts"), frozenset({TOTAL, VERSIONS})),
    "/admin/gate": Row(get("/admin/gate?outdated=1", "/admin/gate?version=v9&closed=200"), frozenset({TOTAL})),
    "/admin/release": Row(post("/admin/release", {"version": "v1"})),
}
"""
What each endpoint shows at most. `TOTAL` is not searched for, because a number can stand for anything: it is there for
who reads the table.
"""


def test_the_table_names_every_endpoint() -> None:
    assert TABLE.keys() == endpoints_of(Site().headcount).operations.keys()


def test_the_table_names_every_field_of_a_grant() -> None:
    assert HIDES.keys() == set(Grant.__struct_fields__)


@pytest.mark.parametrize("viewer", VIEWERS)
@pytest.mark.parametrize("endpoint", TABLE)
@asynchronous
async def test_an_answer_holds_what_its_viewer_may_see(endpoint: str, viewer: str) -> None:
    right, row = VIEWERS[viewer], TABLE[endpoint]
    site = Site(
        hook=lambda _: right.verdict,
        ip_tracking=True,
        stats_interval=0.001,
        admin_token=ADMIN_TOKEN,
        metrics_token=METRICS_TOKEN,
    )
    pages = Client(site.app, client=ADDRESS)
    page = await pages.open("ws", f"?version={VERSION}&route={ROUTES[0]}")
    await pages.open("ws", f"?version={VERSION}&route={ROUTES[1]}")
    await site.settled()
    node = site.node
    versions = dict(node.figures.stats().versions)
    for number, current in enumerate((f"{VERSION}-before", VERSION)):
        node.figures.history.add(node.clock(), 1_700_000_000_000 + number, versions, Current(current))

    text = await row.ask(Asked(site, Client(site.app, right.headers, client="192.0.2.8"), page))

    marks = {VERSIONS: VERSION, ROUTE: "only-for-doctors", ROWS: page.public, IP: ADDRESS}
    allowed = right.scrapes if endpoint == "/metrics" and right.scrapes is not None else right.sees
    if row.needs not in allowed:
        allowed = frozenset()
    for fact, mark in marks.items():
        assert (mark in text) == (fact in row.shows & allowed), (fact, text)
