"""Names to which a server answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.host import HOST_PATTERN, HostRules, split_host

HERE = ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("host", "name", "port"),
    [
        ("shop.example", "shop.example", ""),
        ("Shop.Example:8000", "shop.example", "8000"),
        ("shop.example.", "shop.example", ""),
        ("shop.example.:80", "shop.example", "80"),
        ("[::1]", "[::1]", ""),
        ("[::1]:8000", "[::1]", "8000"),
        ("127.0.0.1:8000", "127.0.0.1", "8000"),
        ("shop.example:", "shop.example", ""),
        ("shop.example:x", "shop.example:x", ""),
        ("a:b:80", "a:b:80", ""),
        ("", "", ""),
    ],
)
def test_a_host_is_a_name_and_a_port(host: str, name: str, port: str) -> None:
    assert split_host(host) == (name, port)


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "EVIL.example:8000", "evil.example.:8000", "localhost.evil.example:8000", "box:8000"]
)
@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "::1%lo"])
def test_a_page_whose_name_points_here_is_found(host: str, address: str) -> None:
    assert HostRules().is_rebound(host, (address, 8000))


@pytest.mark.parametrize(
    "host",
    [
        # Names that no DNS server can point here.
        *("localhost:8000", "LOCALHOST:8000", "localhost.:8000", "shop.localhost:8000", "127.0.0.1:8000", "[::1]:8000"),
        *("127.1.2.3:8000", "192.0.2.7:8000", "[2001:db8::1]:8000", "mybox:8000", "MyBox:8000"),
        # What proxies on this machine send: their own port, or none.
        *("shop.example", "shop.example:443", "shop.example:8080", "shop.example:80"),
        # A name of this server.
        "www.shop.example:8000",
        None,
        "",
    ],
)
def test_other_requests_to_this_machine_are_not(host: str | None) -> None:
    rules = HostRules(public_origins=["https://www.shop.example"], own_names=["MyBox"])
    assert not rules.is_rebound(host, HERE)


@pytest.mark.parametrize("port", [80, 443])
def test_a_host_without_a_port_is_of_a_default_port(port: int) -> None:
    assert HostRules().is_rebound("evil.example", ("127.0.0.1", port))
    assert not HostRules().is_rebound("evil.example:8000", ("127.0.0.1", port))


@pytest.mark.parametrize(
    "server", [("192.0.2.1", 8000), ("shop.example", 8000), ("/run/app.sock", None), None, (), "x"]
)
def test_only_a_loopback_address_can_be_pointed_at(server: object) -> None:
    assert not HostRules().is_rebound("evil.example:8000", server)


def test_names_that_are_allowed_are_no_strangers() -> None:
    rules = HostRules(["shop.example", "*.dev.example"])
    assert rules.checks_all
    for name in ("shop.example", "a.dev.example", "a.b.dev.example"):
        assert rules.is_own(f"{name.upper()}:8000")
        assert not rules.is_rebound(f"{name}:8000", HERE)
    for name in (
        "dev.example",
        "evilshop.example",
        "shop.example.evil.example",
        "evildev.example",
        "",
    ):
        assert not rules.is_own(name)
    assert rules.is_rebound("evil.example:8000", HERE)
    assert rules.is_own("localhost:9")
    assert not HostRules(["*"]).is_rebound("evil.example:8000", HERE)
    assert HostRules(["*"]).is_own("evil.example")
    assert not HostRules().checks_all


@pytest.mark.parametrize("good", ["shop.example", "*.shop.example", "*", "my_box", "[::1]", "192.0.2.1", "a-b.c"])
def test_a_pattern_is_a_name(good: str) -> None:
    assert HOST_PATTERN.fullmatch(good)


@pytest.mark.parametrize(
    "bad", ["", "Shop.example", "shop.example:80", "https://shop.example", "*shop", "a..b", ".a", "a.*.b"]
)
def test_a_pattern_is_nothing_else(bad: str) -> None:
    assert not HOST_PATTERN.fullmatch(bad)


@given(st.text() | st.text(st.sampled_from("a.:[]1*")))
def test_any_host_is_judged(host: str) -> None:
    for rules in (HostRules(), HostRules(["a", "*.a"])):
        rules.is_own(host)
        rules.is_rebound(host, HERE)
