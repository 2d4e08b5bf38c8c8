"""Which pages are asked, when, and what is counted of what they say."""

from collections import Counter
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headcount.core import invitations
from headcount.core.invitation_counts import InvitationCounts
from headcount.core.invitations import AWAY, Invitations


def everywhere(_: str) -> bool:
    return True


def make(seed: int = 1) -> Invitations:
    made = Invitations(Random(seed).random)
    made.begin("v2")
    return made


def test_pages_are_asked_evenly_and_each_once() -> None:
    pages = make()
    for number in range(2_000):
        pages.add(f"p{number}", 0.0)
    seconds = [pages.due(second / 60, everywhere) for second in range(1, 61)]
    assert sorted(page for asked in seconds for page in asked) == sorted(f"p{number}" for number in range(2_000))
    assert max(map(len, seconds)) <= 3 * 2_000 / 60
    assert min(map(len, seconds)) >= 2_000 / 60 / 3
    assert pages.is_idle


def test_pages_that_come_from_a_server_that_stopped_are_spread_over_what_is_left() -> None:
    pages = make()
    for number in range(1_000):
        pages.add(f"p{number}", 0.5)
    assert pages.due(0.5, everywhere) == []
    parts = [len(pages.due(0.5 + step / 20, everywhere)) for step in range(1, 11)]
    assert sum(parts) == 1_000
    assert max(parts) <= 3 * 100


def test_a_page_that_reconnects_has_the_same_chance_as_one_that_stays() -> None:
    """Of those that are asked in the end: 30 per cent, whether or not they had to draw again at 20 per cent."""
    random, asked = Random(7), Counter[bool]()
    for number in range(4_000):
        pages = Invitations(random.random)
        pages.begin("v2")
        moves = number % 2 == 0
        pages.add("a", 0.0)
        got = bool(pages.due(0.2, everywhere))
        if moves and not got:
            pages.discard("a", 0.0, farewell=True)
            pages.add("b", 0.2)
        asked[moves] += got or bool(pages.due(0.3, everywhere))
    assert asked[True] == pytest.approx(600, abs=80)
    assert asked[False] == pytest.approx(600, abs=80)


def test_a_page_on_another_route_is_asked_when_it_comes_there() -> None:
    pages, at_checkout = make(), set[str]()
    pages.add("a", 0.0)
    assert pages.due(1.0, at_checkout.__contains__) == []
    assert pages.counts().waiting == 1
    at_checkout.add("a")
    pages.navigated("a")
    pages.navigated("whoever")
    assert pages.due(1.0, at_checkout.__contains__) == ["a"]


def test_a_page_that_comes_when_all_were_asked_is_asked_at_once() -> None:
    pages = make()
    pages.add("a", 1.0)
    assert pages.due(1.0, everywhere) == ["a"]


def test_another_route_gives_pages_their_turns_again() -> None:
    pages = make()
    pages.add("a", 0.0)
    assert pages.due(1.0, lambda _: False) == []
    pages.consider_again()
    assert pages.due(1.0, everywhere) == ["a"]
    assert pages.due(1.0, everywhere) == []


def test_what_pages_say_is_counted_once_a_page() -> None:
    pages = make()
    for page in "abcdef":
        pages.add(page, 0.0)
    pages.due(1.0, everywhere)
    for _ in range(3):
        assert pages.reply("a", "accepted")
        assert pages.reply("b", "deferred", "form")
    assert pages.reply("c", "deferred", "made up by a stranger")
    assert pages.reply("d", "deferred", "form")
    assert pages.reply("d", "refused")
    assert not pages.reply("x", "accepted"), "it was not asked"
    pages.discard("e", 0.0, farewell=True)
    assert pages.counts() == InvitationCounts(0, 6, 1, 1, {"form": 1, "other": 1}, 1, 1, 0)


def test_a_page_that_comes_back_is_the_one_that_was_asked() -> None:
    pages = make()
    pages.add("a", 0.0)
    pages.due(1.0, everywhere)
    pages.reply("a", "deferred", "media")
    pages.discard("a", 0.0, farewell=False)
    pages.came_back("a", "b")
    pages.add("b", 1.0)
    assert pages.due(1.0, everywhere) == [], "it is not asked twice"
    assert pages.counts() == InvitationCounts(0, invited=1, deferred={"media": 1})
    pages.discard("b", 0.0, farewell=False)
    pages.expire(AWAY - 0.1)
    assert pages.counts().gone == 0
    pages.expire(AWAY)
    assert pages.counts() == InvitationCounts(0, invited=1, gone=1)


def test_a_page_whose_stream_is_replaced_before_the_old_one_ends_keeps_its_turn() -> None:
    pages = make()
    pages.add("a", 0.0)
    pages.came_back("a", "b")
    pages.add("b", 0.9)
    pages.discard("a", 0.0, farewell=False)
    assert pages.due(0.9, everywhere) == ["b"], "it does not draw again"
    pages.came_back("b", "c")
    pages.discard("b", 0.0, farewell=False)
    assert pages.counts() == InvitationCounts(0, invited=1, silent=1)


def test_a_page_that_replaces_its_stream_again_and_again_takes_no_memory() -> None:
    pages = make()
    pages.add("0", 0.0)
    for number in range(5_000):
        pages.came_back(str(number), str(number + 1))
        pages.add(str(number + 1), 0.0)
        pages.discard(str(number), 0.0, farewell=False)
    assert len(pages._turns) <= 70
    assert pages.due(1.0, everywhere) == ["5000"]


def test_a_page_is_asked_as_it_opens_if_it_is_due_and_nobody_else_is_looked_at() -> None:
    pages = make()
    for page in "abc":
        pages.add(page, 1.0)
    assert not pages.ask_now("a", 1.0, lambda _: False)
    assert pages.ask_now("b", 1.0, everywhere)
    assert not pages.ask_now("b", 1.0, everywhere), "once"
    assert not pages.ask_now("x", 1.0, everywhere)
    assert pages.counts() == InvitationCounts(0, invited=1, silent=1, waiting=2)


def test_a_page_that_was_asked_by_another_node_is_not_asked_again() -> None:
    pages = make()
    pages.add("a", 0.0)
    for _ in range(2):
        pages.note_asked("a")
    assert pages.due(1.0, everywhere) == []
    assert pages.counts() == InvitationCounts(0, invited=1, silent=1)


def test_another_version_starts_anew_and_the_same_one_goes_on() -> None:
    pages = make()
    pages.add("a", 0.0)
    pages.due(1.0, everywhere)
    pages.begin("v2")
    assert pages.counts().invited == 1
    pages.begin("v3")
    assert pages.counts() == InvitationCounts(0)


def test_pages_that_are_away_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invitations, "MAX_AWAY", 3)
    pages = make()
    for number in range(5):
        pages.add(str(number), 0.0)
    pages.due(1.0, everywhere)
    for number in range(5):
        pages.discard(str(number), 0.0, farewell=False)
    assert pages.counts() == InvitationCounts(0, invited=5, gone=2, silent=3)


def test_pages_that_leave_before_their_turn_take_no_memory() -> None:
    pages = make()
    for number in range(10_000):
        pages.add(str(number), 0.0)
        pages.discard(str(number), 0.0, farewell=True)
    assert len(pages._turns) <= 70


class Life(RuleBasedStateMachine):
    """Pages come, are asked, answer, break off, come back and leave: none is asked twice, none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = make()
        self.share = 0.0
        self.now = 0.0
        self.number = 0
        self.open: dict[str, str] = {}
        self.away: dict[str, tuple[str, float]] = {}
        self.asked: set[str] = set()
        self.left: set[str] = set()

    @rule(here=st.booleans())
    def comes(self, here: bool) -> None:
        self.number += 1
        page = f"p{self.number}"
        before = next(iter(self.away), None) if here else None
        person = page
        if before is not None:
            person = self.away.pop(before)[0]
            self.pages.came_back(before, page)
        self.pages.add(page, self.share)
        self.open[page] = person

    @rule(grows=st.floats(0, 0.3))
    def time_passes(self, grows: float) -> None:
        self.share = min(1.0, self.share + grows)
        for page in self.pages.due(self.share, everywhere):
            assert self.open[page] not in self.asked
            self.asked.add(self.open[page])

    @rule(seconds=st.floats(0, AWAY))
    def clock(self, seconds: float) -> None:
        self.now += seconds
        self.pages.expire(self.now)
        for page, (_, since) in list(self.away.items()):
            if self.now - since >= AWAY:
                self.left.add(self.away.pop(page)[0])

    @rule(farewell=st.booleans(), reply=st.sampled_from(["", "accepted", "deferred", "refused"]))
    def ends(self, farewell: bool, reply: str) -> None:
        if not self.open:
            return
        page, person = self.open.popitem()
        if reply:
            assert self.pages.reply(page, reply, "form") == (person in self.asked)  # type: ignore[arg-type]
        self.pages.discard(page, self.now, farewell=farewell)
        if farewell:
            self.left.add(person)
        else:
            self.away[page] = person, self.now

    @invariant()
    def everybody_is_somewhere(self) -> None:
        found = self.pages.counts()
        assert found.invited == len(self.asked)
        assert found.invited == (
            found.accepted + found.refused + sum(found.deferred.values()) + found.silent + found.gone
        )
        assert found.waiting == sum(person not in self.asked for person in self.open.values())


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
