"""Metrics: the numbers, their bounds, the formats, and the dashboard and alerts that name them."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import psutil
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.requests import HTTPConnection
from websockets.sync.client import connect

from asgi.asgi_client import Clock, Site, asynchronous
from cli.processes import TOKEN, VERSION, Serve
from headcount import Headcount
from headcount.client import fetch_nodes
from headcount.core.current_version import CurrentRelease
from headcount.core.identity import owner_of
from headcount.core.stats import ABSENCE_STATES, Absence, Nodes
from kit.docs import DOCS, code_in

SCRAPER = "only-for-prometheus-0123"


async def nobody(_: HTTPConnection) -> bool:
    return False


def numbers(headcount: Headcount, **options: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return all samples by name and labels, but for the label that names the node."""
    registry = CollectorRegistry()
    registry.register(headcount.collector(**options))
    return {
        (sample.name, tuple(sorted((k, v) for k, v in sample.labels.items() if k != "node"))): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


@asynchronous
async def test_figures_and_counters_are_those_of_the_node() -> None:
    site = Site(version="new", route_tracking=True)
    for version, route in (("old", "/a"), ("old", "/b"), ("new", "/a"), ("", "/a")):
        await site.stranger.open("ws", f"?version={version}&route={route}")
    back = await site.stranger.open("sse", "?version=old&reconnect=1")
    await back.leave()
    viewer = await site.admin.open("ws", "?viewer=1")
    await site.admin.watch(viewer)
    await site.settled()
    told = numbers(site.headcount)
    assert {labels[0][1]: value for (name, labels), value in told.items() if name == "headcount_connections"} == {
        "old": 2,
        "new": 1,
        "unknown": 1,
    }
    assert told[("headcount_connections_by_route", (("route", "/a"),))] == 3
    assert told[("headcount_outdated_connections", ())] == 3
    assert told[("headcount_current_version_info", (("version", "new"),))] == 1
    assert told[("headcount_opens_total", ())] == 6
    assert told[("headcount_reconnects_total", ())] == 1
    assert told[("headcount_closes_total", (("reason", "client"),))] == 1
    assert told[("headcount_subscribers", ())] == 1
    assert told[("headcount_nodes_reporting", ())] == told[("headcount_nodes_expected", ())] == 1
    assert told[("headcount_partial", ())] == 0
    assert numbers(site.headcount, scope="node") == told, "alone, a node is the fleet"
    await site.headcount.release("old")
    told = numbers(site.headcount)
    assert told[("headcount_outdated_connections", ())] == 2
    assert told[("headcount_releases_total", ())] == 1


def test_the_current_version_has_a_series_before_anybody_runs_it() -> None:
    told = numbers(Headcount(version="v1"))
    assert told[("headcount_connections", (("version", "v1"),))] == 0


def test_nodes_are_counted_by_version_and_those_that_say_none_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    headcount = Headcount(version="v1")
    assert numbers(headcount)[("headcount_nodes", (("version", "v1"),))] == 1
    # Real nodes of several versions: tests/fleet/backends/test_two_sites.py.
    nodes = Nodes(4, 5, {"v1": 1, "v2": 2})
    known = msgspec.structs.replace(headcount.node.figures.stats(), nodes=nodes, release=CurrentRelease("unsettled"))
    monkeypatch.setattr(headcount.node.figures, "stats", lambda **_: known)
    told = numbers(headcount)
    counts = {labels[0][1]: value for (name, labels), value in told.items() if name == "headcount_nodes"}
    assert counts == {"v1": 1, "v2": 2, "unknown": 2}
    released = msgspec.structs.replace(known, release=CurrentRelease("declared", "v9"))
    monkeypatch.setattr(headcount.node.figures, "stats", lambda **_: released)
    assert numbers(headcount)[("headcount_nodes", (("version", "v9"),))] == 0, "a current version that nobody serves"


def test_connections_that_are_unaccounted_for_are_there_by_state(monkeypatch: pytest.MonkeyPatch) -> None:
    headcount = Headcount(version="v1")
    names = [("headcount_unaccounted_connections", (("state", state),)) for state in ABSENCE_STATES]
    told = numbers(headcount)
    assert {told[name] for name in names} == {0}
    assert told[("headcount_nodes_unaccounted", ())] == 0
    # Real nodes that are gone: tests/server/test_unaccounted.py.
    absences = (Absence("a", 4), Absence("b", 2), Absence("c", None, state="cut-off"), Absence("d", 7, state="leaving"))
    known = msgspec.structs.replace(headcount.node.figures.stats(), absences=absences)
    monkeypatch.setattr(headcount.node.figures, "stats", lambda **_: known)
    told = numbers(headcount)
    assert dict(zip(ABSENCE_STATES, [told[name] for name in names], strict=True)) == {
        "vanished": 6,
        "cut-off": 0,
        "leaving": 7,
        "unanswered": 0,
    }
    assert told[("headcount_nodes_unaccounted", ())] == 4


@asynchronous
async def test_labels_are_bounded_and_the_current_version_is_among_them() -> None:
    site = Site(version="new", route_tracking=True, max_metric_labels=3)
    for number in range(10):
        await site.stranger.open("ws", f"?version=fake{number}&route=/{number}")
        await site.stranger.open("ws", f"?version=fake{number}&route=/{number}")
    await site.stranger.open("ws", "?version=new&route=/0")
    told = numbers(site.headcount)
    versions = {labels[0][1]: value for (name, labels), value in told.items() if name == "headcount_connections"}
    routes = {labels[0][1]: value for (name, labels), value in told.items() if name == "headcount_connections_by_route"}
    assert len(versions) == len(routes) == 4
    assert versions["new"] == 1
    assert sum(versions.values()) == sum(routes.values()) == 21
    assert routes["/0"] == 3
    assert routes["(other)"] == 14


def test_two_objects_may_be_in_two_registries_and_one_beside_others() -> None:
    registry = CollectorRegistry()
    registry.register(Headcount(version="v1").collector())
    assert b'headcount_connections{version="v1"} 0.0' in generate_latest(registry)
    assert b'headcount_connections{version="v2"} 0.0' in generate_latest(_registry("v2"))


def _registry(version: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Headcount(version=version).collector())
    return registry


@asynchronous
async def test_opentelemetry_gets_the_same_numbers_as_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr("opentelemetry.metrics.get_meter", provider.get_meter)
    site = Site(version="new", route_tracking=True)
    *_, recipe = code_in((DOCS / "metrics.md").read_text("utf-8"), "python")
    exec(recipe, {"headcount": site.headcount})
    await site.stranger.open("ws", "?version=old&route=/a")
    await (await site.stranger.open("sse", "?version=new&reconnect=1")).leave()
    await site.settled()
    data = reader.get_metrics_data()
    assert data is not None
    told = {
        (metric.name, tuple(sorted((k, v) for k, v in (point.attributes or {}).items() if k != "node"))): point.value
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
        if isinstance(point, NumberDataPoint)
    }
    by_collector = numbers(site.headcount, scope="node")
    assert told == {(name.removesuffix("_total"), labels): value for (name, labels), value in by_collector.items()}
    assert told[("headcount_opens", ())] == 2
    provider.shutdown()


@pytest.fixture(scope="module")
def server() -> Iterator[Serve]:
    with Serve(metrics_token=SCRAPER) as serving:
        yield serving


def scrape(
    server: Serve, token: str | None = SCRAPER, query: str = "", accept: str = "", timeout: float = 20
) -> tuple[int, str, str]:
    headers = {"Accept": accept} if accept else {}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    answer = httpx2.get(f"{server.url}/metrics{query}", headers=headers, timeout=timeout)
    return answer.status_code, answer.headers["content-type"], answer.text


def test_text_format_is_what_prometheus_parses(server: Serve) -> None:
    status, content_type, text = scrape(server)
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    families = {family.name: family for family in parse_text(text)}
    assert families["headcount_connections"].samples[0].labels == {"version": VERSION}
    assert families["headcount_opens"].type == "counter"


def test_openmetrics_is_given_to_those_who_ask(server: Serve) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    _, content_type, text = scrape(server, accept=accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert families["headcount_opens"].type == "counter"


with_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None and not os.environ.get("CI"),
    reason="promtool is not installed; run: apt-get install prometheus",
)


@with_promtool
def test_promtool_has_nothing_to_say(server: Serve) -> None:
    _, _, text = scrape(server)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = subprocess.run(
        ["promtool", "check", "rules", DOCS / "alerts.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("token", "status"), [(SCRAPER, 200), (TOKEN, 200), ("wrong", 401), (None, 401)])
def test_scraping_takes_a_right(server: Serve, token: str | None, status: int) -> None:
    assert scrape(server, token)[0] == status


def test_the_scraper_may_do_nothing_else(server: Serve) -> None:
    headers = {"Authorization": f"Bearer {SCRAPER}"}
    assert httpx2.get(f"{server.url}/admin/stats", headers=headers).status_code == 401
    assert httpx2.post(f"{server.url}/admin/release", headers=headers, json={"version": "v9"}).status_code == 401


def test_scope_is_fleet_or_node(server: Serve) -> None:
    assert scrape(server, query="?scope=fleet")[0] == scrape(server, query="?scope=node")[0] == 200
    status, _, text = scrape(server, query="?scope=galaxy")
    assert status == 400
    assert "send fleet or node" in text


def test_any_worker_tells_the_fleet_and_says_when_a_share_is_missing() -> None:
    with Serve(workers=2, metrics_token=SCRAPER) as server:
        nodes: dict[str, str] = {}
        while len(nodes) < 2:  # the kernel spreads scrapes over them
            text = scrape(server)[2]
            nodes[_value(text, "headcount_opens_total", r'node="(\w+)"')[0]] = text
        for text in nodes.values():
            assert _value(text, "headcount_nodes_reporting") == _value(text, "headcount_nodes_expected") == ("", 2.0)
            assert _value(text, "headcount_partial") == ("", 0.0)
            assert _value(text, "headcount_last_report_age_seconds")[1] < 2
        shares = asyncio.run(fetch_nodes(server.url, token=TOKEN))
        assert {share.node for share in shares} == set(nodes)
        assert all(share.reporting and share.total == 0 and share.silent < 2 for share in shares)
        alone = scrape(server, query="?scope=node")[2]
        assert _value(alone, "headcount_nodes_expected") == ("", 1.0)
        assert _value(alone, "headcount_last_report_age_seconds") == ("", 0.0)
        assert server.command is not None
        one, other = psutil.Process(server.command.process.pid).children()
        one.suspend()
        try:
            deadline = time.monotonic() + 90
            while True:
                assert time.monotonic() < deadline
                try:
                    text = scrape(server, timeout=3)[2]  # or it went to the one that is stopped
                except httpx2.TimeoutException:
                    continue
                if _value(text, "headcount_partial")[1] and _value(text, "headcount_last_report_age_seconds")[1] > 4:
                    break
            assert _value(text, "headcount_nodes_reporting") == ("", 1.0)
            assert _value(text, "headcount_nodes_expected") == ("", 2.0)
        finally:
            one.resume()
        assert other.is_running()


@asynchronous
async def test_a_version_that_somebody_waits_for_is_listed_however_many_strangers_make_up() -> None:
    site = Site(version="new", max_metric_labels=3)
    for number in range(6):
        for _ in range(2):
            await site.stranger.open("sse", f"?version=made-up-{number}")
    await site.stranger.open("sse", "?version=old")
    listed = "headcount_connections", (("version", "old"),)
    assert listed not in numbers(site.headcount), "the smallest of what strangers say"
    await site.admin.get("/admin/stats?version=old")
    assert numbers(site.headcount)[listed] == 1


def test_any_worker_names_the_limit_that_one_of_them_has_proof_of() -> None:
    def open_page(replaces: str = "") -> str:
        query = f"version=v1&cutAfter=1000{replaces and '&replaces=' + replaces}"
        stream = streams.enter_context(connect(f"ws{server.url.removeprefix('http')}/ws?{query}", proxy=None))
        handle: str = json.loads(stream.recv())["connectionId"]
        return handle

    with Serve(workers=2, metrics_token=SCRAPER) as server, ExitStack() as streams:
        pages: dict[str | None, list[str]] = {}
        while max(map(len, pages.values()), default=0) < 3:  # reports with proof, to one worker
            handle = open_page()
            pages.setdefault(owner_of(handle), []).append(handle)
        time.sleep(0.7)  # the age of the streams is the proof
        for handle in max(pages.values(), key=len):
            open_page(handle)
        deadline = time.monotonic() + 30
        while "headcount_cut_after_seconds{" not in scrape(server)[2]:  # it may be on its way to its worker
            assert time.monotonic() < deadline, "no worker knows of the limit"
        limits: dict[str, float] = {}
        while len(limits) < 2:
            node, seconds = _value(scrape(server)[2], "headcount_cut_after_seconds", r'node="(\w+)"')
            limits[node] = seconds
            answer = httpx2.get(f"{server.url}/admin/nodes", headers={"Authorization": f"Bearer {TOKEN}"}).json()
            assert answer["cutAfterMs"] == 1_000
        assert set(limits.values()) == {1.0}


def _value(text: str, name: str, label: str = "") -> tuple[str, float]:
    """Return what `label` captures, and the value, of the one sample of a name."""
    found = re.search(rf"^{name}(?:\{{{label}\}})? (\S+)$" if label else rf"^{name}() (\S+)$", text, re.MULTILINE)
    assert found, f"no {name} in:\n{text}"
    return found[1], float(found[2])


def cut_after(headcount: Headcount) -> list[float]:
    return [value for (name, _), value in numbers(headcount).items() if name == "headcount_cut_after_seconds"]


@pytest.mark.parametrize("shared", ["", "&shared=1"])
@asynchronous
async def test_a_limit_that_clients_report_is_a_metric_and_in_the_list_of_nodes(
    shared: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    site = Site(clock=clock)
    page = await site.stranger.open("sse", f"?version=v1{shared}")
    for number, milliseconds in enumerate(("15000", "15000", "15100", "never", "999999999", "14900")):
        assert cut_after(site.headcount) == [], "three reports with proof make a limit"
        clock.advance(14)
        query = f"?version=v1&reconnect=1&replaces={page.handle}&cutAfter={milliseconds}{shared}"
        page = await site.stranger.open(("sse", "ws")[number % 2], query)
        if milliseconds in ("never", "999999999"):
            page = await site.stranger.open("sse", f"?version=v1&cutAfter=15000{shared}")
    assert cut_after(site.headcount) == [15.0]
    told = await site.admin.get("/admin/nodes")
    assert json.loads(told.body)["cutAfterMs"] == 15_000
    assert [record.message for record in caplog.records if "ends streams after 15 s" in record.message]


@asynchronous
async def test_a_stranger_who_only_writes_a_limit_into_queries_sets_none() -> None:
    clock = Clock()
    site = Site(clock=clock)
    for _ in range(8):
        page = await site.stranger.open("ws", "?version=v1&cutAfter=15000")
        forged = f"{page.handle[:-1]}{'1' if page.handle[-1] == '0' else '0'}"
        for handle in (page.handle, page.handle, forged, "made-up"):  # at once, again, and without the secret
            again = await site.stranger.open("sse", f"?version=v1&cutAfter=15000&replaces={handle}")
            await again.leave()
    clock.advance(15)
    assert cut_after(site.headcount) == []
    assert "cutAfterMs" not in json.loads((await site.admin.get("/admin/nodes")).body)


def names() -> set[str]:
    """Return the names of all samples that there can be."""
    families = Headcount(version="v1").collector().collect()
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


def expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (text for key, text in value.items() if key in ("expr", "query") and isinstance(text, str))
        for part in value.values():
            yield from expressions(part)
    elif isinstance(value, list):
        for part in value:
            yield from expressions(part)


@pytest.mark.parametrize("file", ["grafana-dashboard.json", "alerts.yml", "metrics.md"])
def test_metrics_that_are_named_exist(file: str) -> None:
    text = (DOCS / file).read_text("utf-8")
    named = set(re.findall(r"\bheadcount_[a-z_]+", text))
    assert named
    assert named <= names()


def test_dashboard_and_page_name_every_metric() -> None:
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text("utf-8"))
    used = set(re.findall(r"\bheadcount_[a-z_]+", " ".join(expressions(dashboard))))
    assert used == names()
    page = (DOCS / "metrics.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(headcount_[a-z_]+)", page, re.MULTILINE)) == names()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_labels_that_are_asked_for_exist() -> None:
    families = Headcount(version="v1").collector().collect()
    labels = {family.name: set(family._labelnames) for family in families}  # type: ignore[attr-defined]
    texts = [(DOCS / file).read_text("utf-8") for file in ("alerts.yml", "grafana-dashboard.json")]
    asked = re.findall(r"by \((\w+)\) \(+(?:\w+\()?(headcount_\w+?)(?:_total)?[\[){]", " ".join(texts))
    assert {label for label, _ in asked} >= {"version", "route", "reason", "hook"}
    for label, name in asked:
        assert label in labels[name], f"{name} has no label {label}"


@with_promtool
def test_expressions_of_the_dashboard_can_be_evaluated(tmp_path: Path) -> None:
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text("utf-8"))
    rules = [
        {"record": f"panel:{number}", "expr": target["expr"].replace("$job", ".*").replace("$__rate_interval", "5m")}
        for number, target in enumerate(target for panel in dashboard["panels"] for target in panel.get("targets", []))
    ]
    assert len(rules) > 20
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "rules.json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


CALM = {
    "headcount_nodes_reporting": "2x500",
    "headcount_partial": "0x500",
    "headcount_last_report_age_seconds": "1x500",
    'headcount_connections{version="v1"}': "100x500",
    "headcount_outdated_connections": "0x500",
    'headcount_reconnects_total{node="a"}': "0+60x500",
    'headcount_slow_peers_dropped_total{node="a"}': "0x500",
    'headcount_hook_errors_total{node="a",hook="authorize_stats"}': "0x500",
    'headcount_releases_total{node="a"}': "0x5 1x495",
}
"""A day without trouble, by the minute: a page reconnects every second."""


@with_promtool
@pytest.mark.parametrize(
    ("alert", "series", "minutes"),
    [
        ("HeadcountDown", {"headcount_nodes_reporting": "2x5 _x100"}, 15),
        ("HeadcountPartial", {"headcount_partial": "0x5 1x100"}, 8),
        ("HeadcountReportsLate", {"headcount_last_report_age_seconds": "1x5 40+60x100"}, 8),
        ("HeadcountReconnectStorm", {'headcount_reconnects_total{node="a"}': "0+60x5 1000+900x100"}, 10),
        ("HeadcountSlowPeers", {'headcount_slow_peers_dropped_total{node="a"}': "0x5 200+120x100"}, 25),
        ("HeadcountHookErrors", {'headcount_hook_errors_total{node="a",hook="authorize_stats"}': "0x5 3x100"}, 6),
        ("HeadcountOldVersionsStay", {"headcount_outdated_connections": "0x5 20x500"}, 370),
    ],
)
def test_each_alert_fires_when_it_should_and_not_on_a_calm_day(
    tmp_path: Path, alert: str, series: dict[str, str], minutes: int
) -> None:
    def case(all_series: dict[str, str], *, fires: bool) -> dict[str, Any]:
        text = (DOCS / "alerts.yml").read_text("utf-8")
        rule = text[text.index(f"alert: {alert}\n") :].partition("- alert:")[0]
        labels = dict(re.findall(r"^ +(severity): (\w+)$", rule, re.MULTILINE))
        if "hook" in "".join(series):
            labels["hook"] = "authorize_stats"
        return {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in all_series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count by (alertname, severity, hook) (ALERTS{{alertname="{alert}",alertstate="firing"}})',
                    "eval_time": f"{minutes}m",
                    "exp_samples": [
                        {"labels": _series({"alertname": alert, **labels}), "value": 1},
                    ]
                    if fires
                    else [],
                }
            ],
        }

    file = tmp_path / "test.json"
    cases = [case({**CALM, **series}, fires=True), case(CALM, fires=False)]
    tests = {"rule_files": [str(DOCS / "alerts.yml")], "evaluation_interval": "1m", "tests": cases}
    file.write_text(json.dumps(tests))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _series(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


@asynchronous
async def test_a_release_takes_more_than_the_right_to_see() -> None:
    from headcount import Grant

    for grant, status in ((True, 200), (Grant(release=True), 200), (Grant(), 403)):
        site = Site(hook=lambda _, grant=grant: grant)
        answer = await site.admin.post("/admin/release", {"version": "v9"})
        assert answer.status == status
        assert site.node.releases.current == ("v9" if status == 200 else site.headcount.version)
