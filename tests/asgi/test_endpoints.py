"""The table of endpoints: every endpoint is walked, and what follows from the table holds for each."""

from pathlib import Path
from typing import Any

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from headcount import Grant, Headcount
from headcount.asgi.app import endpoints_of
from headcount.asgi.endpoints import Access
from headcount.asgi.exchange import Exchange

from .asgi_client import WAYS, Client, Site, asynchronous, problem, turn_until

ORIGIN = "https://shop.example.com"
OPERATIONS = endpoints_of(Headcount(version="v1")).operations
HTTP_OPERATIONS = sorted(OPERATIONS.keys() - {"/ws"})
DOCS = Path(__file__).parents[2] / "protocol/README.md"

every_way = pytest.mark.parametrize("way", WAYS)
every_endpoint = pytest.mark.parametrize("endpoint", sorted(OPERATIONS))


def test_the_table_holds_what_is_served() -> None:
    served = {
        *("GET /sse", "GET /ws", "POST /route", "POST /subscribe-stats", "POST /unsubscribe-stats", "POST /tabs"),
        *("POST /bye", "POST /release-reply", "POST /acknowledge", "POST /admin/notify", "GET /admin/rollout"),
        "GET /admin/gate",
        *("GET /health", "GET /metrics", "GET /client.js", "GET /element.js", "GET /shared.js", "GET /dashboard/"),
        *("GET /release.js", "GET /release-element.js"),
        *("GET /admin/stats", "GET /admin/connections", "GET /admin/nodes", "GET /admin/history"),
        "GET /admin/history/rollouts",
        *("POST /admin/release", "POST /admin/nodes/forget", "POST /log-in", "POST /log-out"),
    }
    assert {f"{operation.method} {path}" for path, operation in OPERATIONS.items()} == served


def test_access_is_that_of_the_contract() -> None:
    client_posts = (
        "/route",
        "/subscribe-stats",
        "/unsubscribe-stats",
        "/tabs",
        "/bye",
        "/release-reply",
        "/acknowledge",
    )
    restricted = {path: one.access for path, one in OPERATIONS.items() if one.access is not Access.NONE}
    assert restricted == {
        "/admin/stats": Access.FIGURES,
        "/admin/connections": Access.FIGURES,
        "/admin/nodes": Access.FIGURES,
        "/admin/history": Access.FIGURES,
        "/admin/history/rollouts": Access.FIGURES,
        "/admin/rollout": Access.FIGURES,
        "/admin/gate": Access.FIGURES,
        "/admin/release": Access.RELEASE,
        "/admin/notify": Access.RELEASE,
        "/admin/nodes/forget": Access.RELEASE,
        "/metrics": Access.METRICS,
        **dict.fromkeys(client_posts, Access.HANDLE),
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

    for path, operation in endpoints.operations.items():
        if operation.access is access:
            monkeypatch.setitem(endpoints.operations, path, operation._replace(handler=handler))
            problem(await site.stranger.request(operation.method, path), 401, "authorised")
    assert called == []


@every_endpoint
@every_way
@asynchronous
async def test_any_other_method_gets_405_and_the_one_that_is_accepted(way: str, endpoint: str) -> None:
    client, method = Site(way).stranger, OPERATIONS[endpoint].method
    for other in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        if other != method:
            answer = await client.request(other, endpoint)
            problem(answer, 405, f"accepts {method}, not {other}")
            assert answer.header("allow") == method


@pytest.mark.parametrize("endpoint", HTTP_OPERATIONS)
@every_way
@asynchronous
async def test_head_is_answered_like_get_without_a_body(way: str, endpoint: str) -> None:
    client, operation = Site(way).stranger, OPERATIONS[endpoint]
    head = await client.request("HEAD", endpoint)
    assert head.body == b""
    assert (head.status == 405) is (operation.method == "POST" or not operation.allow_head)
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
    assert answer.header("access-control-allow-methods") == OPERATIONS[endpoint].method
    assert answer.header("access-control-allow-origin") == ORIGIN


@pytest.mark.parametrize(
    ("requested", "allowed"),
    [
        ("content-type,traceparent,baggage", "content-type,traceparent,baggage"),
        ("x-tenant", "x-tenant"),
        (" X-A , x-b,", "X-A , x-b"),
        ("", "content-type, authorization"),
        (None, "content-type, authorization"),
        ("x" * 2_049, "content-type, authorization"),
        ("x-a\r\nset-cookie: a=b", "content-type, authorization"),
        ("x-a: b", "content-type, authorization"),
        ("x-ä", "content-type, authorization"),
        (" , ", "content-type, authorization"),
        # Those that proxies set, and that are believed.
        ("content-type,x-forwarded-host,traceparent", "content-type, traceparent"),
        ("X-Forwarded-For", "content-type, authorization"),
        ("forwarded, x-real-ip, cf-connecting-ip, x-a", "x-a"),
        ("x-remote-user x-auth-request-email via", "content-type, authorization"),
        ("x-amzn-trace-id, x-client-info", "x-amzn-trace-id, x-client-info"),
    ],
)
@pytest.mark.parametrize("origin", [ORIGIN, "capacitor://localhost", "https://any.example"])
@asynchronous
async def test_a_preflight_allows_the_headers_that_the_page_s_scripts_add(
    origin: str, requested: str | None, allowed: str
) -> None:
    listed = [ORIGIN, "capacitor://localhost", *(["*"] if "any" in origin else [])]
    client: Client = Site(allowed_origins=listed).stranger
    headers = {"origin": origin, "access-control-request-method": "POST"}
    if requested is not None:
        headers["access-control-request-headers"] = requested
    answer = await client.request("OPTIONS", "/route", headers=headers)
    assert answer.status == 204
    assert answer.header("access-control-allow-headers") == allowed
    assert answer.header("access-control-max-age") == "7200"
    assert answer.header("access-control-allow-origin") == ("*" if "any" in origin else origin)


@pytest.mark.parametrize("way", ["alone", "mounted", "wrapped"])
@asynchronous
async def test_a_page_on_http_opens_no_stream_of_an_application_on_https(way: str) -> None:
    client: Client = Site(way).stranger
    headers = {"origin": "http://shop.example", "x-forwarded-proto": "https"}
    assert (await client.ws("", headers).closed())[0] == 1008
    problem(await client.get("/sse", headers), 403, "http://shop.example")
    secure = await client.open("ws", headers={**headers, "origin": "https://shop.example"})
    assert not secure.done


@asynchronous
async def test_a_page_of_an_allowed_origin_may_read_when_to_come_back() -> None:
    client: Client = Site(allowed_origins=[ORIGIN], max_connections=1).stranger
    stream = await client.open("sse", headers={"origin": ORIGIN})
    assert stream.headers["access-control-expose-headers"] == "retry-after"
    full = await client.get("/sse", {"origin": ORIGIN})
    assert (full.status, full.header("access-control-expose-headers")) == (503, "retry-after")
    assert full.header("retry-after")


@every_way
@asynchronous
async def test_a_page_that_is_refused_for_its_origin_is_logged_with_what_to_do(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    client: Client = Site(way).stranger
    for _ in range(3):
        await client.get("/sse", {"origin": "https://www.example.com"})
        assert (await client.ws("", {"origin": "https://www.example.com"}).closed())[0] == 1008
    [record] = caplog.records
    assert "Refused a cross-site request from 'https://www.example.com': Host is 'shop.example'" in record.getMessage()
    assert "proxy_set_header Host $http_host" in record.getMessage()
    assert "public_origins" in record.getMessage()


@every_way
@asynchronous
async def test_doctor_s_page_of_no_site_is_refused_and_not_logged(way: str, caplog: pytest.LogCaptureFixture) -> None:
    client: Client = Site(way).stranger
    assert (await client.get("/sse", {"origin": "https://headcount-doctor.invalid"})).status == 403
    assert caplog.records == []
    await client.get("/sse", {"origin": "https://www.example.com"})
    assert len(caplog.records) == 1, "the next page is still logged"


@pytest.mark.parametrize("transport", ["sse", "ws"])
@every_way
@asynchronous
async def test_addresses_that_are_not_known_have_a_reason_in_figures_and_log(
    way: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(way, ip_tracking=True, hook=lambda request: Grant(ips="noips" not in request.headers))
    rewritten = {"x-forwarded-for": "198.51.100.7"}
    for _ in range(2):
        await Client(site.app, rewritten, client="198.51.100.7").open(transport)
    for path in ("/admin/stats", "/admin/connections"):
        assert "trusted_proxies='server'" in (await site.stranger.get(path)).json["ipsUnknown"]
        assert "ipsUnknown" not in (await site.stranger.get(path, {"noips": "1"})).json
    [record] = caplog.records
    assert record.getMessage().startswith("Client addresses are unknown. The server replaces client addresses")
    for _ in range(3):
        await Client(site.app, client="198.51.100.7").open(transport)
    assert "ipsUnknown" not in (await site.stranger.get("/admin/stats")).json, "most addresses are known"


@every_way
@asynchronous
async def test_one_visitor_cannot_make_figures_and_log_say_that_addresses_are_unknown(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(way, ip_tracking=True, hook=lambda _: True)
    for _ in range(3):
        await Client(site.app, client="203.0.113.7").open("ws")
    await Client(site.app, {"x-forwarded-for": "198.51.100.7"}, client="198.51.100.7").open("ws")
    assert "ipsUnknown" not in (await site.stranger.get("/admin/stats")).json
    assert not caplog.records


@asynchronous
async def test_the_address_that_the_server_found_is_listed_if_the_server_is_trusted() -> None:
    site = Site(ip_tracking=True, trusted_proxies="server", hook=lambda _: True)
    await Client(site.app, {"x-forwarded-for": "198.51.100.7"}, client="198.51.100.7").open("sse")
    answer = (await site.stranger.get("/admin/stats")).json
    assert [row["ip"] for row in answer["connections"]] == ["198.51.100.7"]
    assert "ipsUnknown" not in answer


@pytest.mark.parametrize("transport", ["sse", "ws"])
@pytest.mark.parametrize(("peer", "listed"), [("203.0.113.7", "198.51.100.7"), ("203.0.114.7", "203.0.114.7")])
@asynchronous
async def test_uvicorn_finds_the_address_behind_proxies_elsewhere_that_it_trusts(
    peer: str, listed: str, transport: str
) -> None:
    site = Site(ip_tracking=True, trusted_proxies="server", hook=lambda _: True)
    app: Any = ProxyHeadersMiddleware(site.app, trusted_hosts="203.0.113.0/24")  # uvicorn --forwarded-allow-ips
    await Client(app, {"x-forwarded-for": "192.0.2.66, 198.51.100.7"}, client=peer).open(transport)
    answer = (await site.stranger.get("/admin/stats")).json
    assert [row["ip"] for row in answer["connections"]] == [listed]
    assert "ipsUnknown" not in answer


@every_endpoint
@every_way
@asynchronous
async def test_a_cross_site_request_is_refused_but_for_scripts_and_health(way: str, endpoint: str) -> None:
    client, operation = Site(way).stranger, OPERATIONS[endpoint]
    if endpoint in {"/health", *SCRIPTS}:
        answer = await client.request("PATCH", endpoint, headers={"origin": "https://evil.example"})
        assert answer.status == 405, "it came as far as the table"
    else:
        answer = await client.request(operation.method, endpoint, headers={"origin": "https://evil.example"})
        problem(answer, 403, "https://evil.example", "allowed_origins")


LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
SCRIPTS = {"/client.js", "/element.js", "/shared.js", "/release.js", "/release-element.js"}


@every_way
@asynchronous
async def test_a_link_of_another_site_opens_the_dashboard_and_nothing_else(way: str) -> None:
    site = Site(way)
    for client in (site.stranger, site.admin):
        assert (await client.get("/dashboard", LINK)).status == 308
        page = await client.get("/dashboard/", LINK)
        assert (page.status, page.header("content-type")) == (200, "text/html; charset=utf-8")
        for headers in (
            {**LINK, "sec-fetch-dest": "iframe"},
            {**LINK, "sec-fetch-mode": "no-cors"},
            {**LINK, "origin": "https://evil.example"},
            {"sec-fetch-site": "cross-site"},
        ):
            problem(await client.get("/dashboard/", headers), 403, "another site")
        problem(await client.request("POST", "/dashboard/", b"", LINK), 403, "another site")
        for endpoint, operation in OPERATIONS.items():
            if endpoint not in {"/dashboard/", "/health", *SCRIPTS}:
                problem(await client.request(operation.method, endpoint, headers=LINK), 403, "another site")
        problem(await client.get("/dashboard/assets/index.js", LINK), 403, "another site")


@every_endpoint
@every_way
@pytest.mark.parametrize("allowed", [[], ["https://www.example.com"], ["*"]])
@asynchronous
async def test_an_answer_says_what_it_depends_on_and_who_may_embed_it(
    way: str, allowed: list[str], endpoint: str
) -> None:
    client, operation = Site(way, allowed_origins=allowed).admin, OPERATIONS[endpoint]
    deciding = {"origin"} if endpoint in {*SCRIPTS, "/health"} else {"origin", "sec-fetch-site"}
    if endpoint == "/dashboard/":
        deciding |= {"sec-fetch-mode", "sec-fetch-dest"}
    if endpoint == "/admin/history":
        deciding |= {"accept"}
    for origin in (None, "https://www.example.com", "https://evil.example"):
        headers = {"origin": origin} if origin else {}
        if endpoint == "/sse":
            stream = client.sse(headers=headers)
            await turn_until(lambda stream=stream: stream.status is not None)  # type: ignore[misc]
            found = stream.headers
        else:
            found = (await client.request(operation.method, endpoint, headers=headers)).headers
            is_error = found["content-type"] == "application/problem+json"
            embedders = "cross-origin" if endpoint in {*SCRIPTS, "/health"} and not is_error else "same-origin"
            assert found["cross-origin-resource-policy"] == embedders
        varies = set(filter(None, found.get("vary", "").replace(" ", "").split(",")))
        assert varies - {"Cookie"} == deciding, "the session's middleware adds its own"


@every_way
@asynchronous
async def test_an_unknown_path_gets_404_and_the_endpoints(way: str) -> None:
    client = Site(way).stranger
    for path in ("/", "/nothing", "/sse/x", "/dashboardx", "/admin", "/authorize"):
        answer = await client.get(path)
        problem(answer, 404, path, *OPERATIONS)


def test_everything_below_the_dashboard_is_the_dashboard_s() -> None:
    endpoints = endpoints_of(Headcount(version="v1"))
    dashboard = endpoints.operations["/dashboard/"]
    for path in ("/dashboard", "/dashboard/", "/dashboard/assets/index.js"):
        assert endpoints.find_operation(path) is dashboard
    assert endpoints.find_operation("/dashboards") is None


def test_users_see_public_names_only() -> None:
    public = {name for name in {*vars(Headcount), *vars(Headcount(version="v1"))} if not name.startswith("_")}
    assert public == {
        *("authorize_stats", "on_connection_open", "on_connection_close", "on_route_update", "stats", "send"),
        *("broadcast", "revoke", "drain", "release", "is_client_outdated", "use_active_connections", "collector"),
        *("wrap", "base_path", "version", "current_version", "protocol", "node", "config"),
    }
