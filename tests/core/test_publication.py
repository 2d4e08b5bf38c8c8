"""What a node tells of itself: a chain that anybody can enter with a whole report."""

from headcount.core.fleet_messages import Delta
from headcount.core.publication import Publication
from headcount.core.registry import Registry
from headcount.core.stats import ConnectionInfo


class Desk:
    """A registry and what is published of it."""

    def __init__(self, rows: int = 10) -> None:
        self.registry = Registry(max_listed=10)
        self.registry.note_changes(on=True)
        self.publication = Publication("aa", 10)
        self.publication.start(self.registry.snapshot())
        if rows:
            self.publication.show_rows(rows, self.registry.snapshot())

    def sync(self) -> None:
        change = self.registry.pop_changes()
        assert change is not None
        self.publication.add(change)

    def delta(self) -> Delta:
        delta = self.publication.pop_changes()
        assert delta is not None
        return delta


def test_deltas_follow_one_another_without_a_gap() -> None:
    desk = Desk()
    base = desk.publication.sequence
    for number in range(5):
        desk.registry.open(f"aa{number}", "v1", "/")
        desk.sync()
        if number % 2:
            delta = desk.delta()
            assert delta.base == base
            assert delta.total == number + 1
            base = delta.sequence
    assert desk.publication.pending
    assert desk.delta().sequence == desk.publication.sequence
    assert desk.publication.pop_changes() is None


def test_a_row_that_came_and_went_is_told_as_gone_to_whoever_saw_it_in_a_report() -> None:
    desk = Desk()
    desk.registry.open("aa1", "v1", "/")
    desk.sync()
    seen = desk.publication.report(desk.registry.snapshot(), rows=True)
    assert seen.rows == (ConnectionInfo("aa1", "v1", "/"),)
    desk.registry.close("aa1")
    desk.sync()
    delta = desk.delta()
    assert delta.base <= seen.sequence < delta.sequence
    assert (delta.versions, delta.routes) == ({"v1": 0}, {"/": 0})
    assert delta.removed == ("aa1",)


def test_a_row_that_is_again_as_it_was_is_told_to_whoever_saw_it_otherwise() -> None:
    desk = Desk()
    desk.registry.open("aa1", "v1", "/")
    desk.sync()
    desk.delta()
    desk.registry.navigate("aa1", "/x")
    desk.sync()
    seen = desk.publication.report(desk.registry.snapshot(), rows=True)
    assert seen.rows == (ConnectionInfo("aa1", "v1", "/x"),)
    desk.registry.navigate("aa1", "/")
    desk.sync()
    assert desk.delta().rows == (ConnectionInfo("aa1", "v1", "/"),)


def test_a_new_chain_starts_after_anything_that_was_told() -> None:
    desk = Desk()
    desk.registry.open("aa1", "v1", "/")
    desk.sync()
    before = desk.publication.sequence
    desk.publication.start(desk.registry.snapshot())
    assert not desk.publication.pending
    desk.registry.open("aa2", "v1", "/")
    desk.sync()
    assert desk.delta().base > before


def test_what_nobody_is_told_is_not_kept() -> None:
    desk = Desk(rows=0)
    before = desk.publication.sequence
    for number in range(1_000):
        desk.registry.open("aa1", "v1", f"/{number}")
        desk.registry.close("aa1")
        change = desk.registry.pop_changes()
        assert change is not None
        desk.publication.skip(change.total)
    assert (desk.publication._versions, desk.publication._routes) == ({}, {})
    desk.registry.open("aa1", "v1", "/")
    desk.sync()
    assert desk.delta().base > before, "whoever listened before knows that it missed something"


def test_only_as_many_rows_as_are_wanted_are_told_and_more_when_more_are() -> None:
    desk = Desk(rows=2)
    for number in range(5):
        desk.registry.open(f"aa{number}", "v1", "/")
    desk.sync()
    rows = desk.delta().rows
    assert rows is not None
    assert [row.id for row in rows] == ["aa0", "aa1"]
    desk.registry.close("aa0")
    desk.sync()
    delta = desk.delta()
    assert delta.removed == ("aa0",)
    assert delta.rows == (ConnectionInfo("aa2", "v1", "/"),)
    desk.publication.show_rows(4, desk.registry.snapshot())
    rows = desk.delta().rows
    assert rows is not None
    assert {row.id for row in rows} == {"aa3", "aa4"}
    desk.publication.show_rows(0, desk.registry.snapshot())
    assert desk.delta().rows is None
    assert desk.publication.report(desk.registry.snapshot(), rows=True).rows is None
