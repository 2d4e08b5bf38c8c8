"""Whose word about the client's address is taken."""

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.address import NEWEST_STREAMS, AddressGap, AddressGaps, IPNetwork, anonymized, client_address

PROXY = "10.0.0.1"
STRANGER = "203.0.113.9"
CLIENT = "198.51.100.7"


def networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


OURS = networks("10.0.0.0/8", "fd00::/8")
EVERYBODY = networks("0.0.0.0/0", "::/0")


def forwarded(value: str) -> dict[str, str]:
    return {"x-forwarded-for": value}


ALL = {"cf-connecting-ip": "192.0.2.1", "x-forwarded-for": "192.0.2.2", "x-real-ip": "192.0.2.3"}


@pytest.mark.parametrize("trusted", [(), OURS])
def test_a_stranger_s_headers_are_not_believed(trusted: tuple[IPNetwork, ...]) -> None:
    assert client_address(STRANGER, ALL, trusted) == STRANGER


def test_nobody_is_trusted_unless_named() -> None:
    assert client_address(PROXY, ALL, ()) == PROXY
    assert client_address(None, ALL, ()) is None


def test_without_headers_it_is_the_peer_s() -> None:
    assert client_address(PROXY, {}, OURS) == PROXY
    assert client_address(STRANGER, {}, OURS) == STRANGER


def test_the_headers_are_asked_in_their_order() -> None:
    headers = dict(ALL)
    for name, value in ALL.items():
        assert client_address(PROXY, headers, OURS) == value
        del headers[name]
    assert client_address(PROXY, headers, OURS) == PROXY


def test_a_header_that_says_nothing_leaves_the_word_to_the_next() -> None:
    for nothing in ("", " ", "unknown", "garbage", "_hidden", ","):
        assert client_address(PROXY, {**ALL, "cf-connecting-ip": nothing}, OURS) == "192.0.2.2"


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (CLIENT, CLIENT),
        (f"{STRANGER}, {CLIENT}", CLIENT),
        (f"{STRANGER}, {CLIENT}, 10.0.0.2", CLIENT),
        (f"{STRANGER},{CLIENT},10.0.0.2,10.0.0.3", CLIENT),
        (f"127.0.0.1, 10.9.9.9, {CLIENT}", CLIENT),
        (f"garbage, {CLIENT}", CLIENT),
        (f"  {CLIENT}  ", CLIENT),
        (f"{CLIENT}, fd00::5", CLIENT),
    ],
)
def test_the_rightmost_address_that_is_not_ours_counts(value: str, address: str) -> None:
    assert client_address(PROXY, forwarded(value), OURS) == address


@pytest.mark.parametrize("value", [f"{CLIENT}, garbage", f"{CLIENT},", f"{CLIENT}, unknown"])
def test_what_stands_left_of_garbage_is_not_believed(value: str) -> None:
    assert client_address(PROXY, forwarded(value), OURS) == PROXY
    assert client_address(PROXY, forwarded(value + ", 10.0.0.2"), OURS) == "10.0.0.2"


def test_when_all_are_ours_the_request_began_at_the_leftmost() -> None:
    assert client_address(PROXY, forwarded("10.0.0.5, 10.0.0.2"), OURS) == "10.0.0.5"
    assert client_address(PROXY, {"x-real-ip": "10.0.0.5"}, OURS) == "10.0.0.5"


def test_a_stranger_in_a_later_header_wins_over_one_of_ours_in_an_earlier() -> None:
    """Else anybody behind a proxy that does not know the first header could pass for one of ours."""
    assert client_address(PROXY, {"cf-connecting-ip": "10.0.0.9", "x-forwarded-for": CLIENT}, OURS) == CLIENT


def test_when_everybody_is_trusted_the_peer_s_own_word_counts() -> None:
    assert client_address(STRANGER, forwarded(f"192.0.2.2, {CLIENT}"), EVERYBODY) == CLIENT
    assert client_address("2001:db8::1", forwarded(CLIENT), EVERYBODY) == CLIENT
    assert client_address(STRANGER, {}, EVERYBODY) == STRANGER


def test_only_a_local_proxy_reaches_a_unix_socket() -> None:
    assert client_address(None, forwarded(CLIENT), OURS) == CLIENT
    assert client_address("", forwarded(CLIENT), OURS) == CLIENT
    assert client_address(None, {}, OURS) is None


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("192.0.2.7:5123", "192.0.2.7"),
        ("[2001:db8::1]:5123", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:0DB8:0:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:5123", "192.0.2.7"),
        ("::FFFF:c000:0207", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%<script>alert(1)</script>", "fe80::1"),
    ],
)
def test_every_way_to_write_an_address_gives_its_canonical_form(written: str, address: str) -> None:
    assert client_address(PROXY, forwarded(written), OURS) == address
    assert client_address(written, {}, ()) == address


def test_a_mapped_peer_is_the_proxy_it_is() -> None:
    assert client_address("::ffff:10.0.0.1", forwarded(CLIENT), OURS) == CLIENT
    assert client_address(PROXY, forwarded(f"{CLIENT}, ::ffff:10.0.0.2"), OURS) == CLIENT


@pytest.mark.parametrize(
    "garbage",
    [
        *("unknown", "localhost", "1", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.4/8", "1.2.3.4 5"),
        *("::g", "[", "[]", "]", ":", "%", "１.2.3.4", "for=1.2.3.4"),
    ],
)
def test_garbage_is_no_address(garbage: str) -> None:
    assert client_address(PROXY, forwarded(garbage), OURS) == PROXY
    assert client_address(garbage, {}, ()) is None


@given(st.text(st.sampled_from("0123456789abcdef:.,%[]/ x")), st.sampled_from([None, PROXY, STRANGER]))
def test_whatever_a_header_says_the_answer_is_an_address_or_none(value: str, peer: str | None) -> None:
    for trusted in ((), OURS, EVERYBODY):
        address = client_address(peer, {**forwarded(value), "x-real-ip": value}, trusted)
        if address is None:
            assert peer is None
        else:
            assert re.fullmatch(r"[0-9a-f:.]{2,45}", address)
            assert str(ipaddress.ip_address(address)) == address


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.0"),
        ("192.0.2.0", "192.0.2.0"),
        ("255.255.255.255", "255.255.255.0"),
        ("2001:db8:1:ffff:3:4:5:6", "2001:db8:1::"),
        ("2001:db8::1", "2001:db8::"),
    ],
)
def test_an_anonymized_address_is_its_network(address: str, network: str) -> None:
    assert anonymized(address) == network
    assert anonymized(network) == network


def test_a_reason_holds_while_half_of_the_newest_streams_have_no_address() -> None:
    gaps = AddressGaps()
    assert gaps.reason() is None
    gaps.add(AddressGap.REWRITTEN)
    assert gaps.reason() is AddressGap.REWRITTEN
    gaps.add(None)
    gaps.add(None)
    assert gaps.reason() is None
    for _ in range(NEWEST_STREAMS // 2):
        gaps.add(AddressGap.UNIX_SOCKET)
    assert gaps.reason() is AddressGap.UNIX_SOCKET
    for _ in range(NEWEST_STREAMS):
        gaps.add(None)
    assert gaps.reason() is None
