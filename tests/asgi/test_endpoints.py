"""The route table: every endpoint is walked, and what follows from the table holds for each."""

from pathlib import Path

import pytest

from headcount import Headcount
from headcount.asgi.app import endpoints_of
from headcount.asgi.endpoints import Access
from headcount.asgi.exchange import Exchange

from .asgi_client import WAYS, Client, Site, asynchronous, problem

ORIGIN = "https://shop.example.com"
ROUTES = endpoints_of(Headcount(version="v1")).routes
HTTP_ROUTES = sorted(ROUTES.keys() - {"/ws"})
DOCS = Path(__file__).parents[2] / "protocol/README.md"

every_way = pytest.mark.parametrize("way", WAYS)
every_endpoint = pytest.mark.parametrize("endpoint", sorted(ROUTES))


def test_the_table_holds_what_is_served() -> None:
    served = {
        *("GET /sse", "GET /ws", "POST /route", "POST /subscribe-stats", "POST /unsubscribe-stats", "POST /tabs"),
        *("GET /health", "GET /metrics", "GET /client.js", "GET /element.js", "GET /shared.js", "GET /dashboard/"),
        *("GET /admin/stats", "GET /admin/connections", "GET /admin/nodes", "GET /admin/history"),
        *("POST /admin/release", "POST /log-in", "POST /log-out"),
    }
    assert {f"{route.method} {path}" for path, route in ROUTES.items()} == served


def test_access_is_that_of_the_contract() -> None:
    restricted = {path: route.access for path, route in ROUTES.items() if route.access is not Access.NONE}
    assert restricted == {
        "/admin/stats": Access.FIGURES,
        "/admin/connections": Access.FIGURES,
        "/admin/nodes": Access.FIGURES,
        "/admin/history": Access.FIGURES,
        "/admin/release": Access.RELEASE,
        "/metrics": Access.METRICS,
        **dict.fromkeys(("/route", "/subscribe-stats", "/unsubscribe-stats", "/tabs"), Access.HANDLE),
    }


@pytest.mark.parametrize("access", [Access.FIGURES, Access.METRICS, Access.RELEASE])
@every_way
@asynchronous
async def test_without_access_the_handler_is_not_called(
    way: str, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(way)
    endpoints = endpoints_of(site.headcount)
    called: list[str] = []

    async def handler(exchange: Exchange) -> None:
        called.append(exchange.head.endpoint)

    for path, route in endpoints.routes.items():
        if route.access is access:
            monkeypatch.setitem(endpoints.routes, path, route._replace(handler=handler))
            problem(await site.stranger.request(route.method, path), 401, "authorised")
    assert called == []


@every_endpoint
@every_way
@asynchronous
async def test_any_other_method_gets_405_and_the_one_that_is_accepted(way: str, endpoint: str) -> None:
    client, method = Site(way).stranger, ROUTES[endpoint].method
    for other in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        if other != method:
            answer = await client.request(other, endpoint)
            problem(answer, 405, f"accepts {method}, not {other}")
            assert answer.header("allow") == method


@pytest.mark.parametrize("endpoint", HTTP_ROUTES)
@every_way
@asynchronous
async def test_head_is_answered_like_get_without_a_body(way: str, endpoint: str) -> None:
    client, route = Site(way).stranger, ROUTES[endpoint]
    head = await client.request("HEAD", endpoint)
    assert head.body == b""
    assert (head.status == 405) is (route.method == "POST" or not route.allow_head)
    if head.status != 405:
        assert head.status == (await client.get(endpoint)).status


@every_endpoint
@every_way
@asynchronous
async def test_a_preflight_of_an_allowed_origin_names_the_method(way: str, endpoint: str) -> None:
    client: Client = Site(way, allowed_origins=[ORIGIN]).stranger
    answer = await client.request("OPTIONS", endpoint, headers={"origin": ORIGIN})
    if endpoint == "/health":
        problem(answer, 405)
        return
    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("access-control-allow-methods") == ROUTES[endpoint].method
    assert answer.header("access-control-allow-origin") == ORIGIN


@every_endpoint
@every_way
@asynchronous
async def test_a_cross_site_request_is_refused_but_for_scripts_and_health(way: str, endpoint: str) -> None:
    client, route = Site(way).stranger, ROUTES[endpoint]
    if endpoint in {"/health", "/client.js", "/element.js", "/shared.js"}:
        answer = await client.request("PATCH", endpoint, headers={"origin": "https://evil.example"})
        assert answer.status == 405, "it came as far as the table"
    else:
        answer = await client.request(route.method, endpoint, headers={"origin": "https://evil.example"})
        problem(answer, 403, "https://evil.example", "allowed_origins")


@every_way
@asynchronous
async def test_an_unknown_path_gets_404_and_the_endpoints(way: str) -> None:
    client = Site(way).stranger
    for path in ("/", "/nothing", "/sse/x", "/dashboardx", "/admin", "/authorize"):
        answer = await client.get(path)
        problem(answer, 404, path, *ROUTES)


def test_everything_below_the_dashboard_is_the_dashboard_s() -> None:
    endpoints = endpoints_of(Headcount(version="v1"))
    dashboard = endpoints.routes["/dashboard/"]
    for path in ("/dashboard", "/dashboard/", "/dashboard/assets/index.js"):
        assert endpoints.find_route(path) is dashboard
    assert endpoints.find_route("/dashboards") is None


def test_users_see_public_names_only() -> None:
    public = {name for name in {*vars(Headcount), *vars(Headcount(version="v1"))} if not name.startswith("_")}
    assert public == {
        *("authorize_stats", "on_connection_open", "on_connection_close", "on_route_update", "stats", "send"),
        *("broadcast", "revoke", "drain", "release", "is_client_outdated", "use_active_connections", "collector"),
        *("wrap", "base_path", "version", "protocol", "node", "config"),
    }
