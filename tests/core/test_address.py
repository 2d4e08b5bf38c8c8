"""Whose word about the client's address is taken."""

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.address import (
    NEWEST_STREAMS,
    AddressGap,
    AddressGaps,
    IPAddress,
    IPNetwork,
    anonymized,
    client_address,
    may_hold_address,
)

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
        ("2002:cb00:7107::1", "203.0.113.0"),  # 6to4
        ("2001:0:4136:e378:8000:63bf:34ff:8ef8", "203.0.113.0"),  # Teredo, the address inverted
        ("64:ff9b::203.0.113.7", "203.0.113.0"),  # NAT64
        ("64:ff9b:1::203.0.113.7", "64:ff9b:1::"),
        ("64:ff9b:1:cb00:71:700::", "64:ff9b:1::"),  # the same with a prefix of 48 bits
        ("::ffff:203.0.113.7", "203.0.113.0"),
        ("::203.0.113.7", "203.0.113.0"),
        ("2001:db8::5efe:203.0.113.7", "2001:db8::"),  # ISATAP
        ("::1", "::"),
        ("::", "::"),
    ],
)
def test_an_anonymized_address_is_its_network(address: str, network: str) -> None:
    assert anonymized(address) == network
    assert anonymized(network) == network


def _embedded(kind: str, ipv4: int, rest: int) -> ipaddress.IPv6Address:
    """Put an IPv4 address into an IPv6 address as a transition mechanism does; `rest` fills the other bits."""
    low, ten = rest & 0xFFFF_FFFF, rest & (1 << 80) - 1
    return ipaddress.IPv6Address(
        {
            "mapped": 0xFFFF << 32 | ipv4,
            "compatible": ipv4,
            "6to4": 0x2002 << 112 | ipv4 << 80 | ten,
            "teredo": 0x2001_0000 << 96 | low << 64 | (rest >> 32 & 0xFFFF_FFFF) << 32 | ipv4 ^ 0xFFFF_FFFF,
            "nat64": 0x64_FF9B << 96 | ipv4,
            "local nat64": 0x64_FF9B_0001 << 80 | ipv4,
            "local nat64 after 48 bits": 0x64_FF9B_0001 << 80 | (ipv4 >> 16) << 64 | (ipv4 & 0xFFFF) << 40,
        }[kind]
    )


@given(
    st.sampled_from(["mapped", "compatible", "6to4", "teredo", "nat64", "local nat64", "local nat64 after 48 bits"]),
    st.integers(2**24, 2**32 - 1),
    st.integers(0, 2**80 - 1),
)
def test_the_last_byte_of_an_ipv4_address_inside_an_ipv6_address_makes_no_difference(
    kind: str, ipv4: int, rest: int
) -> None:
    network = anonymized(str(_embedded(kind, ipv4, rest)))
    assert network in (str(ipaddress.IPv4Address(ipv4 & ~0xFF)), "64:ff9b:1::")
    assert {anonymized(str(_embedded(kind, ipv4 & ~0xFF | last, rest))) for last in range(256)} == {network}


@given(st.ip_addresses())
def test_a_network_is_its_own_network(address: IPAddress) -> None:
    network = anonymized(str(address))
    assert anonymized(network) == network


@given(st.ip_addresses(), st.sampled_from(["{}", "for={}", '"[{}]:443"', "{}, 10.0.0.1", " {} ", "{}:80"]))
def test_a_header_that_holds_an_address_is_recognised(address: IPAddress, form: str) -> None:
    packed, text = address.packed.hex(), str(address)
    for written in (form.format(text), form.format(address.exploded), packed, packed.upper(), f"0x{packed}"):
        assert may_hold_address(written.encode())
        assert may_hold_address(written.replace(":", "%3A").replace(".", "%2e").encode())
    if address.version == 4:
        assert may_hold_address(f"host-{text.replace('.', '-')}.isp.example".encode())
        assert may_hold_address(str(max(int(address), 10_000_000)).encode())


@pytest.mark.parametrize(
    "value", ["admin", "1", "", "shop", "yes; q=0.9", "2026-11-29", "Bearer s3cret", "ann@example.com", "a:b", "v1.2.3"]
)
def test_an_ordinary_value_holds_no_address(value: str) -> None:
    assert not may_hold_address(value.encode())


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
