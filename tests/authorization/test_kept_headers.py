"""What is kept of a request's headers: what proves who the viewer is, and nothing that holds an address."""

import pytest

from headcount.authorization.kept_headers import KeptHeaders

ADDRESS = "203.0.113.99"

ADDRESS_HEADERS = (
    *("X-Forwarded-For", "Forwarded", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP", "CF-Connecting-IPv6"),
    *("CF-Pseudo-IPv4", "X-Client-IP", "Fly-Client-IP", "Fastly-Client-IP", "X-Azure-ClientIP", "X-Azure-SocketIP"),
    *("X-Vercel-Forwarded-For", "X-Vercel-Proxied-For", "X-Envoy-External-Address", "CloudFront-Viewer-Address"),
    *("X-Cluster-Client-IP", "X-Original-Forwarded-For", "X-AppEngine-User-IP", "X-NF-Client-Connection-IP"),
    *("DO-Connecting-IP", "X-Forwarded", "Forwarded-For", "X-Sucuri-ClientIP", "Incap-Client-IP", "X-Remote-Addr"),
    *("X-Remote-IP", "Client-IP", "X-ProxyUser-Ip", "WL-Proxy-Client-IP", "Proxy-Client-IP", "X-Host-Of-Visitor"),
    *("Via", "X-Nobody-Knows"),
)
"""Where proxies and CDNs put a visitor's address, and one that no list has."""

WRITTEN = ("{}", "{}:40000", "{}, 10.0.0.1", "for={};proto=https", '"{}"', "1.1 {}", "host-203-0-113-99.isp.example")


KNOWS_THE_SCHEME = [(b"forwarded", f"for={ADDRESS};proto=https".encode())]


@pytest.mark.parametrize("name", ADDRESS_HEADERS)
@pytest.mark.parametrize("written", [*WRITTEN, "2001:db8::99", "[2001:db8::99]:443", "cb007163", "::ffff:cb00:7163"])
@pytest.mark.parametrize("tracking", [False, "anonymized"])
def test_no_address_is_kept_without_tracking(name: str, written: str, tracking: bool | str) -> None:
    line = (name.lower().encode(), written.format(ADDRESS).encode())
    assert KeptHeaders(tracking).filter([line]) == ([(line[0], b"proto=https")] if line in KNOWS_THE_SCHEME else [])
    assert KeptHeaders(True).filter([line]) == [line]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b'for="[2001:db8::1]:4";Proto=https;by=203.0.113.43;host=shop.example', b"Proto=https;host=shop.example"),
        (b"for=203.0.113.4, for=10.0.0.1; proto=http", b"proto=http"),
        (b"for=203.0.113.4;proto=https, for=10.0.0.1;proto=http", b"proto=https, proto=http"),
        (b"for=203.0.113.4;xproto=203.0.113.4", None),
        (b"proto=https", b"proto=https"),
    ],
)
def test_of_forwarded_the_scheme_and_the_host_are_kept(value: bytes, kept: bytes | None) -> None:
    assert KeptHeaders(False).value(b"forwarded", value) == kept


PROOFS = [
    (b"cookie", b"last-address=203.0.113.99; session=1"),
    (b"authorization", b"Bearer 203.0.113.99"),
    (b"host", b"203.0.113.1:8000"),
    (b"user-agent", b"Mozilla/5.0 Chrome/130.0.0.0"),
    (b"sec-ch-ua-full-version-list", b'"Chromium";v="130.0.6723.70"'),
    (b"accept-language", b"eo"),
    (b"x-csrftoken", b"0123456789abcdef0123456789abcdef"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"shop.example"),
    (b"x-api-key", b"0123456789abcdef0123456789abcdef"),
    (b"x-auth-request-user", b"ann"),
    (b"x-tenant", b"7"),
    (b"x-role", b"admin"),
]


@pytest.mark.parametrize("tracking", [False, "anonymized", True])
def test_what_proves_who_the_viewer_is_is_kept(tracking: bool | str) -> None:
    assert KeptHeaders(tracking).filter(PROOFS) == PROOFS


@pytest.mark.parametrize("tracking", [False, "anonymized", True])
def test_headers_of_one_connection_are_not_kept_and_listed_ones_are(tracking: bool | str) -> None:
    lines = [(b"upgrade", b"websocket"), (b"sec-websocket-key", b"x"), (b"x-office", b"10.0.0.1 floor 3")]
    assert KeptHeaders(tracking, ("X-Office",)).filter(lines) == lines[2:]
    assert KeptHeaders(tracking, ("X-Office",)).credentials == {b"cookie", b"authorization", b"x-office"}


@pytest.mark.parametrize(
    ("tracking", "client", "kept"),
    [
        (False, ("203.0.113.99", 4), None),
        (True, ("203.0.113.99", 4), ("203.0.113.99", 4)),
        ("anonymized", ("203.0.113.99", 4), ("203.0.113.0", 0)),
        ("anonymized", ["2002:cb00:7163::1", 4], ("203.0.113.0", 0)),
        ("anonymized", ("/run/a.sock", None), None),
        (False, None, None),
        (True, None, None),
        ("anonymized", None, None),
    ],
)
def test_of_the_client_as_much_is_kept_as_the_setting_allows(
    tracking: bool | str, client: object, kept: object
) -> None:
    assert KeptHeaders(tracking).client(client) == kept
