"""The verdict on an admin's request travels to another node; the token does not."""

import time

import anyio
import pytest

from headcount import Grant
from headcount.authorization.authorizer import Authorizer
from headcount.authorization.token_check import TokenCheck, TokenVerdict, check_from_verdict, verdict_of, without_ticket
from headcount.authorization.tokens import Tickets
from headcount.core import ticket
from headcount.core.host import HostRules

TOKEN = "the admin token of production"
NOW = int(time.time())
NONCE = b"n" * 16
TICKET = ticket.make(ticket.derive_key(TOKEN, "shop"), NOW, NONCE)


def authorizer(token: str | None = TOKEN) -> Authorizer:
    return Authorizer(token, 1.0, HostRules(), Tickets(token, "shop"))


def headers(*, bearer: str = "", cookie: str = "") -> list[tuple[bytes, bytes]]:
    found = [(b"host", b"shop.example")]
    if bearer:
        found.append((b"authorization", f"Bearer {bearer}".encode()))
    if cookie:
        found.append((b"cookie", f"a=b; headcount_admin={cookie}".encode()))
    return found


def asked(verdict: TokenVerdict | None, token: str | None = TOKEN, now: float = NOW) -> Grant | None:
    assert verdict is not None
    return anyio.run(TokenCheck(authorizer(token), verdict, lambda: now))


def test_a_request_with_the_token_is_allowed_as_long_as_the_token_is_the_same() -> None:
    verdict = verdict_of(authorizer(), headers(bearer=TOKEN))
    assert asked(verdict) == Grant(release=True)
    assert asked(verdict, now=NOW + 10**9) == Grant(release=True)
    assert asked(verdict, "the next admin token") is None
    assert asked(verdict, None) is None


def test_a_request_with_a_ticket_is_allowed_until_it_ends() -> None:
    verdict = verdict_of(authorizer(), headers(cookie=TICKET))
    assert verdict is not None
    assert (verdict.expires, verdict.nonce) == (NOW + ticket.LIFETIME, NONCE.hex())
    assert asked(verdict, now=NOW + ticket.LIFETIME - 1) == Grant(release=True)
    assert asked(verdict, now=NOW + ticket.LIFETIME) is None
    assert asked(verdict, now=NOW - 10) is None, "longer than any ticket"
    assert asked(verdict, "the next admin token") is None


def test_the_verdict_reveals_neither() -> None:
    for sent in (headers(bearer=TOKEN), headers(cookie=TICKET), headers(bearer=TOKEN, cookie=TICKET)):
        told = repr(verdict_of(authorizer(), sent))
        assert TOKEN not in told
        assert TICKET.rpartition(".")[2] not in told


@pytest.mark.parametrize(
    "sent", [headers(), headers(bearer="no"), headers(cookie="1.2.3"), headers(bearer="no", cookie=TICKET + "x")]
)
def test_of_a_request_that_the_token_did_not_authorise_there_is_no_verdict(sent: list[tuple[bytes, bytes]]) -> None:
    assert verdict_of(authorizer(), sent) is None
    assert verdict_of(authorizer(None), headers(bearer=TOKEN)) is None


@pytest.mark.parametrize(
    ("cookie", "left"),
    [
        (b"headcount_admin=1.2.3", None),
        (b"a=b; headcount_admin=1.2.3; c=d", b"a=b; c=d"),
        (b"headcount_admin=1.2.3;a=b", b"a=b"),
        (b"a=b; __Secure-headcount_admin=1.2.3; headcount_admin=4.5.6", b"a=b"),
        (b"a=headcount_admin; xheadcount_admin=1", b"a=headcount_admin; xheadcount_admin=1"),
        (b'a="; headcount_admin = 1.2.3; b=', b'a="; b='),
    ],
)
def test_a_ticket_that_did_not_authorise_is_not_handed_on_either(cookie: bytes, left: bytes | None) -> None:
    """It may be one of another token, while that is being changed."""
    host = (b"host", b"shop.example")
    assert without_ticket([host, (b"cookie", cookie)]) == [host, *([(b"cookie", left)] if left else [])]


@pytest.mark.parametrize("described", [{}, {"fingerprint": 5}, {"fingerprint": b"x", "expires": "soon"}])
def test_a_malformed_verdict_is_none(described: dict[str, object]) -> None:
    assert check_from_verdict(authorizer(), described) is None
    check = check_from_verdict(authorizer(), {"fingerprint": b"x"})
    assert check is not None
    assert anyio.run(check) is None
    assert check.describe() is None


def test_a_ticket_that_a_log_out_ended_allows_nothing_at_other_nodes() -> None:
    own = authorizer()
    assert own.tickets is not None
    verdict = verdict_of(own, headers(cookie=TICKET))
    assert verdict is not None
    check = TokenCheck(own, verdict, lambda: NOW)
    assert check.contains(NONCE.hex().encode())
    assert not check.contains(b"0" * 32)
    assert anyio.run(check) == Grant(release=True)
    own.tickets.end(own.tickets.read({"headcount_admin": TICKET}))
    assert anyio.run(check) is None
    assert verdict_of(own, headers(cookie=TICKET)) is None


def test_a_ticket_of_a_page_on_https_counts_as_well() -> None:
    verdict = verdict_of(authorizer(), [(b"cookie", f"__Secure-headcount_admin={TICKET}".encode())])
    assert verdict is not None
    assert verdict.nonce == NONCE.hex()
