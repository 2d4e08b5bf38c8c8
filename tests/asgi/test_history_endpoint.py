"""`GET /admin/history`: JSON, and the minutes as CSV."""

import csv
import io

import pytest

from headcount.asgi.history_csv import MAX_COLUMNS, prefers_csv, render
from headcount.core.history import MAX_TIME, Current, sample
from headcount.core.labels import OTHER
from headcount.node import timers

from .asgi_client import Clock, Site, asynchronous, problem, turn_until


@asynchronous
async def test_the_last_hour_is_for_those_who_may_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "TICK", 0.002)
    clock = Clock()
    site = Site(clock=clock)
    problem(await site.stranger.get("/admin/history"), 401)
    empty = {"intervalMs": 10_000, "samples": [], "minutes": {"intervalMs": 60_000, "samples": []}, "rollouts": []}
    assert (await site.admin.get("/admin/history")).json == empty
    await site.visitor.open("ws", "?version=v1")
    await turn_until(lambda: site.node.figures.history.kept.fine, "a first sample")
    await site.visitor.open("ws", "?version=v2")
    clock.advance(10)
    await turn_until(lambda: len(site.node.figures.history.kept.fine) == 2, "a second sample")
    samples = (await site.admin.get("/admin/history")).json["samples"]
    assert [(sample["total"], sample["versions"]) for sample in samples] == [(1, {"v1": 1}), (2, {"v1": 1, "v2": 1})]


@asynchronous
async def test_a_release_shows_as_outdated_pages_and_as_a_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "TICK", 0.002)
    clock = Clock()
    site = Site(clock=clock, version="v1")
    await site.visitor.open("ws", "?version=v1")
    await turn_until(lambda: site.node.figures.history.kept.fine, "a first sample")
    await site.headcount.release("v2")
    await site.visitor.open("ws", "?version=v2")
    clock.advance(10)
    await turn_until(lambda: len(site.node.figures.history.kept.fine) == 2, "a second sample")
    told = (await site.admin.get("/admin/history")).json
    first, second = told["samples"]
    assert (first["outdated"], first["current"]) == (0, "v1")
    assert (second["outdated"], second["current"]) == (1, "v2")
    assert "declared" not in second
    assert (await site.admin.get("/admin/history/rollouts")).json == {"rollouts": told["rollouts"]}
    [rollout] = told["rollouts"]
    assert (rollout["version"], rollout["previous"], rollout["state"]) == ("v2", "v1", "running")
    assert (rollout["declared"], rollout["old"]) == (True, 1)
    assert [each["percent"] for each in rollout["reached"]] == [50]
    assert (rollout["curve"][-1]["on"], rollout["curve"][-1]["total"]) == (1, 2)


@asynchronous
async def test_csv_is_for_who_asks_for_it() -> None:
    site = Site()
    site.node.figures.history.add(0, 1_700_000_000_000, {"v1": 2}, Current("v2"))
    for path, headers in (("?format=csv", {}), ("", {"accept": "text/csv"}), ("", {"accept": "text/csv, */*;q=0.1"})):
        answer = await site.admin.get(f"/admin/history{path}", headers=headers)
        assert answer.header("content-type") == "text/csv; charset=utf-8; header=present"
        assert answer.header("content-disposition") == 'attachment; filename="headcount-history.csv"'
        assert (answer.header("vary") or "").startswith("accept, origin, sec-fetch-site")
        assert answer.body == b"time,total,outdated,current,partial,version v1\r\n2023-11-14T22:13:20Z,2,2,v2,no,2\r\n"
    for path, headers in (("", {}), ("?format=json", {"accept": "text/csv"}), ("", {"accept": "*/*"})):
        answer = await site.admin.get(f"/admin/history{path}", headers=headers)
        assert answer.header("content-type") == "application/json"
        assert (answer.header("vary") or "").startswith("accept, origin, sec-fetch-site")
    problem(await site.stranger.get("/admin/history?format=csv"), 401)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("format=xml", "format is 'xml'; send json or csv."),
        ("format=CSV", "send json or csv."),
        ("format=csv&format=json", "format"),
        ("fromat=csv", "fromat"),
    ],
)
@asynchronous
async def test_another_format_is_refused_in_a_sentence(query: str, said: str) -> None:
    problem(await Site().admin.get(f"/admin/history?{query}"), 400, said)


@pytest.mark.parametrize(
    ("accept", "is_csv"),
    [
        ("", False),
        ("*/*", False),
        ("text/csv", True),
        ("TEXT/CSV", True),
        ("application/json, text/csv", False),
        ("application/json;q=0.5, text/csv", True),
        ("application/json, text/csv;q=0.9", False),
        ("text/csv;q=0", False),
        ("text/csv;q=nan", False),
        ("text/csv;q=x", False),
        ("text/csv;header=present;q=1", True),
        ("text/csvx", False),
    ],
)
def test_accept_decides_by_weight(accept: str, is_csv: bool) -> None:
    assert prefers_csv(accept) is is_csv


def rows(*minutes: object) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render(minutes).decode())))  # type: ignore[arg-type]


def test_what_is_not_known_is_empty_and_not_0() -> None:
    first, second, third = rows(
        sample(60_000, {"v1": 3}),
        sample(180_000, {"v2": 2, OTHER: 4}, partial=True, current=Current("v2")),
        sample(240_000, {"v2": 2}, current=Current("v2")),
    )
    assert first["time"] == "1970-01-01T00:01:00Z"
    assert (first["outdated"], first["current"], first["version v2"]) == ("", "", "0")
    assert (second["version v1"], second["version v2"], second["version (other)"]) == ("", "2", "4")
    assert (second["outdated"], second["partial"], third["outdated"], third["partial"]) == ("4", "yes", "0", "no")
    assert [first["version (other)"], third["version (other)"]] == ["0", "0"]
    assert rows() == []


def test_names_of_strangers_are_neither_formulas_nor_columns_of_their_own() -> None:
    text = render([sample(MAX_TIME, {'=1+1,"': 1, "total": 2}, current=Current("=cmd"))]).decode()
    assert text.splitlines() == [
        'time,total,outdated,current,partial,version total,"version =1+1,"""',
        "9999-12-31T23:59:59Z,3,3,'=cmd,no,2,1",
    ]


def test_only_the_largest_versions_have_columns() -> None:
    minutes = [sample(number * 60_000, {f"v{number}": number + 1, "main": 500}) for number in range(MAX_COLUMNS + 10)]
    found = rows(*minutes)
    names = [name for name in found[0] if name.startswith("version ")]
    assert len(names) == MAX_COLUMNS + 1
    assert (names[0], names[-1]) == ("version main", "version (other)")
    for minute, row in zip(minutes, found, strict=True):
        assert sum(int(row[name]) for name in names) == minute.total
