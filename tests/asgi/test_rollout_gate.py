"""`GET /admin/gate`: open or closed, and why."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from headcount.core.current_version import CurrentRelease
from headcount.core.stats import Absence, Nodes, Stats, VersionCount

from .asgi_client import Clock, Site, Stream, asynchronous, problem

FIELDS = {"open", "reason", "left", "away", "unaccounted", "total", "atMost", "currentVersion", "partial"}
WHOLE = Stats(away_known=True, nodes=Nodes(1, 1, {"v2": 1}), release=CurrentRelease("declared", "v2"))


def site_of(**settings: Any) -> Site:
    """Return a site whose node has run for long enough to know which pages are away."""
    return Site(clock=Clock(), version="v2", **settings)


async def pages(site: Site, *versions: str) -> list[Stream]:
    return [await site.visitor.open("sse", f"?version={version}") for version in versions]


def is_closed(answer: Any, *words: str) -> None:
    assert answer.json.keys() == FIELDS | {"type", "title", "status", "detail"}
    assert answer.json["open"] is False
    assert answer.json["reason"] == answer.json["detail"]
    problem(
        answer._replace(body=msgspec.json.encode({k: answer.json[k] for k in answer.json.keys() - FIELDS})), 409, *words
    )


@pytest.mark.parametrize(
    ("query", "left", "sentence"),
    [
        ("outdated=1&atMost=2", 2, "2 connections are outdated; the limit is 2."),
        ("release=v2&atMost=2", 2, "2 connections are outdated; the limit is 2."),
        ("version=v1&atMost=1", 1, "1 connection is on version v1; the limit is 1."),
        ("notVersion=v2&atMost=1000000000", 2, "2 connections are not on version v2; the limit is 1000000000."),
    ],
)
@asynchronous
async def test_it_is_open_while_few_enough_are_left(query: str, left: int, sentence: str) -> None:
    site = site_of()
    await pages(site, "v1", "v0", "v2")
    answer = await site.admin.get(f"/admin/gate?{query}")
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    assert answer.json.keys() == FIELDS
    assert (answer.json["open"], answer.json["left"], answer.json["total"]) == (True, left, 3)
    assert (answer.json["reason"], answer.json["currentVersion"]) == (sentence, "v2")


@asynchronous
async def test_it_is_closed_while_more_are_left_and_says_so_by_status_or_in_the_body() -> None:
    site = site_of()
    [old, *_] = await pages(site, "v1", "v2")
    is_closed(await site.admin.get("/admin/gate?outdated=1"), "1 connection is outdated; the limit is 0.")
    read = await site.admin.get("/admin/gate?outdated=1&closed=200")
    assert (read.status, read.json.keys(), read.json["open"], read.json["left"]) == (200, FIELDS, False, 1)
    assert (await site.visitor.post("/bye", {"connectionId": old.handle})).status == 200
    assert (await site.admin.get("/admin/gate?outdated=1")).json["open"] is True


@asynchronous
async def test_a_page_that_broke_off_keeps_it_closed() -> None:
    site = site_of()
    [old] = await pages(site, "v1")
    await old.leave()
    answer = await site.admin.get("/admin/gate?outdated=1")
    is_closed(answer, "0 connections are outdated, and 1 page broke off and may return within 48 s; the limit is 0.")
    assert (answer.json["left"], answer.json["away"]) == (0, 1)


@asynchronous
async def test_a_node_that_has_just_begun_does_not_know_who_is_away() -> None:
    site = Site(version="v2")
    is_closed(
        await site.admin.get("/admin/gate?outdated=1"),
        "No node has run for 48 s yet, or one cannot say which pages broke off",
    )


@pytest.mark.parametrize(
    ("query", "stats", "sentence"),
    [
        (
            "outdated=1",
            {"partial": True, "nodes": Nodes(2, 3)},
            "Waiting: figures are partial (2 of 3 nodes are reporting).",
        ),
        ("version=v1", {"partial": True}, "Waiting: figures are partial (some nodes cannot be reached)."),
        (
            "outdated=1",
            {"partial": True, "absences": (Absence("0a1b2c3d4e5f", 3, {"v2": 3}),)},
            "Waiting: 3 connections of node 0a1b2c3d4e5f are unaccounted for; the node was last heard from ",
        ),
        (
            "outdated=1",
            {"release": CurrentRelease("unsettled")},
            "Waiting: nodes have not served v2 for long enough, and no release",
        ),
        ("release=v3", {}, "Waiting: v2 is current, not v3."),
        (
            "outdated=1",
            {"total": 9, "versions": {"v2": 3, "(other)": 6}, "of_version": VersionCount("v2", 7, 9)},
            "2 connections are outdated; the limit is 0.",
        ),
    ],
)
@asynchronous
async def test_what_is_not_known_keeps_it_closed(query: str, stats: dict[str, Any], sentence: str) -> None:
    site = site_of()
    asked: list[str | None] = []

    async def fresh_stats(*, rows: bool, version: str | None = None) -> Stats:
        asked.append(version)
        return msgspec.structs.replace(WHOLE, **stats)

    site.node.figures.fresh_stats = fresh_stats  # type: ignore[assignment, method-assign]
    answer = await site.admin.get(f"/admin/gate?{query}")
    is_closed(answer, sentence)
    if "of_version" in stats:
        assert asked[-1] == "v2", "its exact number is asked for"
    elif "=v" not in query:
        assert answer.json["left"] is None
        assert answer.json["away"] is None


@pytest.mark.parametrize("late", [{"total": 1, "versions": {"v1": 1}}, {"partial": True}])
@asynchronous
async def test_it_looks_twice_before_it_is_open(late: dict[str, Any]) -> None:
    """A page that goes from one node to another is in the figures of neither for a moment."""
    site = site_of()
    looks: Iterator[Stats] = iter([WHOLE, msgspec.structs.replace(WHOLE, **late)])

    async def fresh_stats(**_: Any) -> Stats:
        return next(looks)

    site.node.figures.fresh_stats = fresh_stats  # type: ignore[method-assign]
    assert (await site.admin.get("/admin/gate?outdated=1")).status == 409


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "Send exactly one of version=V, notVersion=V, release=V and outdated=1; none came."),
        ("outdated=1&version=v1", "version and outdated came."),
        ("outdated=yes", "outdated is 'yes'; send outdated=1."),
        ("version=", "version is empty; send a build id"),
        ("release=unknown", "send the build id of a deploy"),
        (f"version={'v' * 129}", "The version has 129 characters"),
        ("outdated=1&atMost=-1", "atMost is '-1'"),
        ("outdated=1&atMost=5%25", "atMost is '5%'; send a whole number from 0 to 1000000000."),
        ("outdated=1&atMost=99999999999", "atMost is '99999999999'"),
        ("outdated=1&atMost=%D9%A1", "atMost is"),
        ("outdated=1&closed=503", "closed is '503'; send 200 or 409"),
        ("outdated=1&at_most=5", "Unknown query parameter 'at_most'"),
        ("outdated=1&outdated=1", "repeated"),
    ],
)
@asynchronous
async def test_a_question_that_is_not_clear_is_refused(query: str, words: str) -> None:
    problem(await site_of().admin.get(f"/admin/gate?{query}"), 400, words)


@asynchronous
async def test_a_stranger_learns_nothing() -> None:
    problem(await site_of().stranger.get("/admin/gate?outdated=1"), 401, "You are not authorised")
