"""Tickets: keyed with the token, good for a working day, and telling nothing of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core import ticket

TOKEN = "correct horse battery staple"
MADE = ticket.make(TOKEN, 1_000, bytes(16))


def test_a_ticket_is_good_until_it_expires() -> None:
    assert ticket.is_good(MADE, TOKEN, 1_000)
    assert ticket.is_good(MADE, TOKEN, 1_000 + ticket.LIFETIME - 0.1)
    assert not ticket.is_good(MADE, TOKEN, 1_000 + ticket.LIFETIME)


def test_a_ticket_of_another_token_is_none_and_shows_nothing_of_its_own() -> None:
    assert not ticket.is_good(MADE, TOKEN + " ", 1_000)
    assert TOKEN not in MADE
    assert ticket.make(TOKEN, 1_000, bytes([1] * 16)) != MADE
    assert len(MADE) <= ticket.MAX_LENGTH
    assert ticket.is_good(ticket.make("ü" * 5_000, 1_000, bytes(16)), "ü" * 5_000, 1_000)


@pytest.mark.parametrize("position", range(len(MADE)))
def test_no_character_of_a_ticket_can_be_changed(position: int) -> None:
    other = "B" if MADE[position] != "B" else "C"
    assert not ticket.is_good(MADE[:position] + other + MADE[position + 1 :], TOKEN, 1_000)


@given(st.text())
def test_what_is_no_ticket_is_no_good(text: str) -> None:
    assert not ticket.is_good(text, TOKEN, 1_000)
