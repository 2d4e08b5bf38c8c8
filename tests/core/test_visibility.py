"""Figures are narrowed to what a viewer may see."""

from itertools import product

import msgspec
import pytest

from headcount.authorization.authorizer import Grant
from headcount.core.stats import ConnectionInfo, Stats, StatsDelta
from headcount.core.visibility import EVERYTHING, Visibility

ROUTE, ADDRESS, ID = "/only-for-doctors", "203.0.113.9", "0123456789abcdef"
ROW = ConnectionInfo(ID, "v1", ROUTE, ADDRESS)
STATS = Stats(total=1, versions={"v1": 1}, routes={ROUTE: 1}, connections=(ROW,), revision=3)
DELTA = StatsDelta(2, 3, 1, {"v1": 1}, {ROUTE: 1}, (ROW,), ("gone-" + ID,), moved=frozenset({ID}))

ALL = [Visibility(*each) for each in product((True, False), repeat=3)]


def shown(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=dict).decode()


@pytest.mark.parametrize("visibility", ALL)
def test_figures_hold_what_may_be_seen_and_nothing_else(visibility: Visibility) -> None:
    routes, connections, ips = visibility
    for text in (shown(visibility.stats(STATS)), shown(visibility.rows([ROW]))):
        assert (ID in text) == connections
        assert (ADDRESS in text) == (connections and ips)
    assert bool(visibility.stats(STATS).routes) == routes
    assert (ROUTE in shown(visibility.stats(STATS))) == routes
    assert (ROUTE in shown(visibility.rows([ROW]))) == (routes and connections)
    assert (visibility.stats(STATS).total, visibility.stats(STATS).versions) == (1, {"v1": 1})


@pytest.mark.parametrize("visibility", ALL)
def test_changes_hold_what_may_be_seen_and_nothing_else(visibility: Visibility) -> None:
    routes, connections, ips = visibility
    for delta, is_move in ((DELTA, True), (DELTA._replace(moved=frozenset()), False)):
        narrowed = visibility.delta(delta)
        text = shown([narrowed.routes, narrowed.set, narrowed.removed, sorted(narrowed.moved)])
        is_set = connections and (routes or not is_move)
        assert (ROUTE in text) == routes
        assert (ADDRESS in text) == (is_set and ips)
        assert (f'"{ID}"' in text) == is_set
        assert ("gone" in text) == connections
        assert (narrowed.total, narrowed.versions, narrowed.revision) == (1, {"v1": 1}, 3)


def test_rows_may_be_filtered_and_sorted_by_what_they_show() -> None:
    assert [EVERYTHING.shows(field) for field in ("id", "version", "route", "ip")] == [True] * 4
    assert [Visibility(routes=False).shows(field) for field in ("version", "route", "ip")] == [True, False, True]
    assert [Visibility(ips=False).shows(field) for field in ("version", "route", "ip")] == [True, True, False]


def test_a_grant_decides_and_one_that_hides_nothing_costs_nothing() -> None:
    assert Visibility.of(Grant()) == EVERYTHING
    for name in Visibility._fields:
        assert Visibility.of(Grant(**{name: False})) == EVERYTHING._replace(**{name: False})
    assert EVERYTHING.stats(STATS) is STATS
    assert EVERYTHING.delta(DELTA) is DELTA
