"""Metrics: the numbers, their bounds, the formats, and the dashboard and alerts that name them."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.requests import HTTPConnection

from asgi.asgi_client import Site, asynchronous
from cli.processes import TOKEN, VERSION, Serve
from headcount import Headcount
from headcount.metrics import bounded

DOCS = Path(__file__).parents[1] / "docs"
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


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d", "(other)", "unknown"]), st.integers(1, 9)),
    st.integers(1, 6),
    st.sets(st.sampled_from(["a", "z"])),
)
def test_nothing_is_lost_by_bounding(counts: dict[str, int], limit: int, kept: set[str]) -> None:
    shown = bounded(counts, limit, kept, always=("z",))
    assert sum(shown.values()) == sum(counts.values())
    assert len(set(shown) - {"(other)", "z"} - kept) <= limit
    assert shown["z"] == 0
    assert all(shown[label] == counts[label] for label in shown if label not in ("(other)", "z"))


def test_two_objects_may_be_in_two_registries_and_one_beside_others() -> None:
    registry = CollectorRegistry()
    registry.register(Headcount(version="v1").collector())
    assert b'headcount_connections{version="v1"} 0.0' in generate_latest(registry)
    assert b'headcount_connections{version="v2"} 0.0' in generate_latest(_registry("v2"))


def _registry(version: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Headcount(version=version).collector())
    return registry


# ---- over HTTP


@pytest.fixture(scope="module")
def server() -> Iterator[Serve]:
    with Serve(metrics_token=SCRAPER) as serving:
        yield serving


def scrape(server: Serve, token: str | None = SCRAPER, query: str = "", accept: str = "") -> tuple[int, str, str]:
    import httpx2

    headers = {"Accept": accept} if accept else {}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    answer = httpx2.get(f"{server.url}/metrics{query}", headers=headers)
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


@pytest.mark.skipif(
    shutil.which("promtool") is None and not os.environ.get("CI"), reason="promtool is not installed; CI installs it"
)
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
    import httpx2

    headers = {"Authorization": f"Bearer {SCRAPER}"}
    assert httpx2.get(f"{server.url}/admin/stats", headers=headers).status_code == 401
    assert httpx2.post(f"{server.url}/admin/release", headers=headers, json={"version": "v9"}).status_code == 401


def test_scope_is_fleet_or_node(server: Serve) -> None:
    assert scrape(server, query="?scope=fleet")[0] == scrape(server, query="?scope=node")[0] == 200
    status, _, text = scrape(server, query="?scope=galaxy")
    assert status == 400
    assert "write fleet or node" in text


# ---- dashboard and alerts


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


@asynchronous
async def test_a_release_takes_more_than_the_right_to_see() -> None:
    from headcount import Grant

    for grant, status in ((True, 200), (Grant(release=True), 200), (Grant(), 403)):
        site = Site(hook=lambda _, grant=grant: grant)
        answer = await site.admin.post("/admin/release", {"version": "v9"})
        assert answer.status == status
        assert site.node.current_version == ("v9" if status == 200 else site.headcount.version)
