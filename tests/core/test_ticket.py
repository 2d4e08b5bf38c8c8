"""Tickets: keyed with the token and the application, good for a working day or until a log-out, and telling nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core import ticket
from headcount.core.ticket import LIFETIME, EndedTicket, EndedTickets

TOKEN = "correct horse battery staple"
KEY = ticket.derive_key(TOKEN, "shop")
NOW = 1_000_000
MADE = ticket.make(KEY, NOW, bytes(16))


def ended(number: int, now: int = NOW) -> EndedTicket:
    found = ticket.read(ticket.make(KEY, now, number.to_bytes(16, "big")), KEY, now)
    assert found is not None
    return found


def test_a_ticket_is_good_until_it_expires() -> None:
    assert ticket.read(MADE, KEY, NOW)
    assert ticket.read(MADE, KEY, NOW + LIFETIME - 0.1)
    assert not ticket.read(MADE, KEY, NOW + LIFETIME)


@pytest.mark.parametrize(("token", "application"), [(TOKEN + " ", "shop"), (TOKEN, "shop2"), (TOKEN, "/__skew")])
def test_a_ticket_of_another_token_or_application_is_none(token: str, application: str) -> None:
    other = ticket.derive_key(token, application)
    assert not ticket.read(MADE, other, NOW)
    assert ticket.read(ticket.make(other, NOW, bytes(16)), other, NOW)


def test_a_ticket_shows_nothing_of_the_token() -> None:
    assert TOKEN not in MADE
    assert ticket.make(KEY, NOW, bytes([1] * 16)) != MADE
    assert len(MADE) <= ticket.MAX_LENGTH
    long = ticket.derive_key("ü" * 5_000, "shop")
    assert ticket.read(ticket.make(long, NOW, bytes(16)), long, NOW)


@pytest.mark.parametrize("position", range(len(MADE)))
def test_no_character_of_a_ticket_can_be_changed(position: int) -> None:
    other = "B" if MADE[position] != "B" else "C"
    assert not ticket.read(MADE[:position] + other + MADE[position + 1 :], KEY, NOW)


@given(st.text())
def test_what_is_no_ticket_is_no_good(text: str) -> None:
    assert not ticket.read(text, KEY, NOW)


def test_a_ticket_that_was_ended_is_known_until_it_expires() -> None:
    tickets = EndedTickets(KEY)
    assert ended(1) not in tickets
    assert tickets.add([ended(1)], NOW) == [ended(1)]
    assert tickets.add([ended(1), ended(2)], NOW) == [ended(2)], "only those that are new"
    assert ended(1) in tickets
    assert ended(3) not in tickets
    later = NOW + LIFETIME
    tickets.add([ended(3, later)], later)
    assert tickets.all() == (ended(3, later),)


def test_nobody_can_end_a_ticket_without_having_it() -> None:
    tickets, real = EndedTickets(KEY), ended(1)
    stranger = ticket.derive_key("another token of 16", "shop")
    forged = ticket.read(ticket.make(stranger, NOW, real.nonce), stranger, NOW)
    assert forged is not None
    mac = ticket.make(KEY, NOW, real.nonce).rpartition(".")[2]
    for bad in (
        forged,
        EndedTicket(real.expires, real.nonce, bytes(24)),
        EndedTicket(real.expires + 1, real.nonce, real.proof),
        EndedTicket(real.expires, bytes(16), real.proof),
    ):
        assert tickets.add([bad], NOW) == []
    assert tickets.all() == ()
    assert mac not in repr(real), "whoever hears of the log-out cannot make the ticket"


def test_only_so_many_are_remembered_and_those_that_expire_first_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticket, "MAX_ENDED", 3)
    tickets = EndedTickets(KEY)
    for number in range(10):
        tickets.add([ended(number, NOW + number)], NOW + number)
    assert set(tickets.all()) == {ended(number, NOW + number) for number in (7, 8, 9)}


def test_a_ticket_that_expires_later_than_any_ticket_can_is_not_remembered() -> None:
    far = NOW + LIFETIME + 10_000
    assert EndedTickets(KEY).add([ended(1, far)], NOW) == []
