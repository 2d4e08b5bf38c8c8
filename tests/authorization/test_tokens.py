"""Secrets of a request: compared without telling anything, and answered late when they are wrong."""

import asyncio
import logging

import pytest

from headcount.authorization import tokens
from headcount.authorization.tokens import SECURE_TICKET_COOKIE, TICKET_COOKIE, Tickets, WrongTokens, is_same

TOKEN = "correct horse battery staple"


@pytest.mark.parametrize("sent", [b"", b"correct horse", TOKEN.encode() + b"!", b"\xff"])
def test_only_the_secret_is_the_secret(sent: bytes) -> None:
    assert not is_same(sent, TOKEN.encode())
    assert is_same(TOKEN.encode(), TOKEN.encode())


def test_what_is_compared_is_as_long_for_every_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: set[tuple[int, int]] = set()

    def compare(one: bytes, other: bytes) -> bool:
        lengths.add((len(one), len(other)))
        return False

    monkeypatch.setattr(tokens, "compare_digest", compare)
    for length in (0, 1, 28, 5_000):
        is_same(b"x" * length, TOKEN.encode())
    assert lengths == {(32, 32)}


def test_a_ticket_is_read_from_either_cookie_and_good_until_it_is_ended() -> None:
    mine, other = Tickets(TOKEN, "shop"), Tickets(TOKEN, "shop")
    text = mine.make()
    for name in (TICKET_COOKIE, SECURE_TICKET_COOKIE):
        assert len(other.read({name: text, "x": text})) == 1
    assert other.read({"x": text}) == []
    assert len(other.read({TICKET_COOKIE: "expired", SECURE_TICKET_COOKIE: text})) == 1
    assert len(other.read({TICKET_COOKIE: text, SECURE_TICKET_COOKIE: "forged"})) == 1
    (ended,) = other.read({TICKET_COOKIE: text})
    assert other.ended() == ()
    assert other.end([ended]) == [ended]
    assert other.read({TICKET_COOKIE: text}) == []
    assert other.ended() == (ended,)
    assert mine.read({TICKET_COOKIE: text}), "each process has to hear of it"
    assert mine.end(other.ended()) == [ended]
    assert mine.read({TICKET_COOKIE: text}) == []


@pytest.mark.parametrize(
    "other", [Tickets(TOKEN, "blog"), Tickets("another token than that", "shop"), Tickets(None, "shop")]
)
def test_a_ticket_is_good_in_one_application_only(other: Tickets) -> None:
    text = Tickets(TOKEN, "shop").make()
    assert other.read({TICKET_COOKIE: text}) == []
    assert other.end(Tickets(TOKEN, "shop").read({TICKET_COOKIE: text})) == []


def test_wrong_tokens_wait_a_second_and_only_so_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokens.DELAY == 1.0
    monkeypatch.setattr(tokens, "DELAY", 0.05)

    async def check() -> None:
        wrong, loop = WrongTokens(), asyncio.get_running_loop()
        begin = loop.time()
        waiting = [asyncio.create_task(wrong.hold_back()) for _ in range(tokens.MAX_WAITING)]
        await asyncio.sleep(0)
        assert wrong._waiting == tokens.MAX_WAITING
        assert not await wrong.hold_back()
        assert loop.time() - begin < 0.05, "at once"
        waiting[0].cancel()
        await asyncio.sleep(0)
        assert wrong._waiting == tokens.MAX_WAITING - 1, "who leaves makes room"
        assert all(await asyncio.gather(*waiting[1:]))
        assert loop.time() - begin >= 0.05
        assert wrong._waiting == 0

    asyncio.run(check())


def test_wrong_tokens_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    wrong = WrongTokens()
    with caplog.at_level(logging.WARNING, "headcount"):
        for _ in range(100):
            wrong.note()
    assert [message.partition(".")[0] for message in caplog.messages] == ["A request with a wrong token was refused"]
