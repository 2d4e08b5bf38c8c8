"""Reading the head of a request."""

import ipaddress
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from headcount import Headcount
from headcount.asgi.request_head import RequestHead, RequestRules, endpoint_of, parse_query
from headcount.core.address import AddressGap
from headcount.core.origin import OriginVerdict
from headcount.errors import Malformed

BASE = "/__skew"
NAMES = frozenset({"version", "route", "viewer"})
OURS = (ipaddress.ip_network("10.0.0.0/8"),)
LOCAL = (ipaddress.ip_network("127.0.0.0/8"),)


def scope_of(
    path: str = "/",
    root_path: str | None = None,
    query: str | bytes = b"",
    headers: Iterable[tuple[str, str]] = (),
    client: tuple[str, int] | None = ("203.0.113.9", 5123),
) -> Scope:
    scope: dict[str, Any] = {
        "type": "http",
        "path": path,
        "query_string": query.encode() if isinstance(query, str) else query,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "client": client,
    }
    if root_path is not None:
        scope["root_path"] = root_path
    return scope


def head_of(scope: Scope, endpoint: str = "/sse", *, cookie: str | bool = "__nkpv", **rules: Any) -> RequestHead:
    return RequestHead(scope, endpoint, RequestRules(cookie, **rules))


def address_of(scope: Scope, tracking: bool | str, trusted: Any) -> str | None:
    return head_of(scope, ip_tracking=tracking, trusted_proxies=tuple(trusted)).address_to_keep()


@pytest.mark.parametrize(
    ("path", "root_path", "endpoint"),
    [
        ("/__skew/sse", None, "/sse"),
        ("/__skew/sse", "", "/sse"),
        ("/__skew/admin/stats", "", "/admin/stats"),
        ("/__skew", "", "/"),
        ("/__skew/", "", "/"),
        # The server knows its prefix, and the path holds it, as ASGI wants.
        ("/api/__skew/sse", "/api", "/sse"),
        ("/api/__skew/sse", "/api/", "/sse"),
        ("/api/v1/__skew/sse", "/api/v1", "/sse"),
        # The proxy cut the prefix off, and the server was only told of it.
        ("/__skew/sse", "/api", "/sse"),
        ("/__skew/sse", "/api/v1", "/sse"),
        # Not for us.
        ("/", "", None),
        ("/sse", "", None),
        ("/__skewed/sse", "", None),
        ("/a/__skew/sse", "", None),
        ("/__SKEW/sse", "", None),
        ("/api/sse", "/api", None),
        ("/apis/__skew/sse", "/api", None),
    ],
)
def test_wrapped_only_what_is_below_the_base_path_is_for_us(
    path: str, root_path: str | None, endpoint: str | None
) -> None:
    assert endpoint_of(scope_of(path, root_path), BASE, mounted=False) == endpoint


@pytest.mark.parametrize(
    ("path", "root_path", "endpoint"),
    [
        # Starlette leaves the path whole and adds the mount point to the root path.
        ("/__skew/sse", "/__skew", "/sse"),
        ("/__skew/admin/stats", "/__skew", "/admin/stats"),
        ("/__skew/", "/__skew", "/"),
        ("/__skew", "/__skew", "/"),
        # Mounted elsewhere than the base path says.
        ("/live/sse", "/live", "/sse"),
        # A prefix before it, with a server that keeps it in the path and with a proxy that cut it off.
        ("/api/__skew/sse", "/api/__skew", "/sse"),
        ("/__skew/sse", "/api/__skew", "/sse"),
        ("/__skew/sse", "/api/v1/__skew", "/sse"),
        ("/v1/__skew/sse", "/api/v1/__skew", "/sse"),
        ("/api/live/sse", "/api/live", "/sse"),
        ("/live/sse", "/api/live", "/sse"),
        # Frameworks that cut the mount point off the path.
        ("/sse", "/__skew", "/sse"),
        ("/sse", "/api/__skew", "/sse"),
        # Run alone.
        ("/__skew/sse", "", "/sse"),
        ("/__skew/sse", None, "/sse"),
        ("/sse", "", "/sse"),
        ("/", "", "/"),
        # A root path is cut off once, and at a slash only.
        ("/live/live/sse", "/live", "/live/sse"),
        ("/a/b/b/sse", "/a/b", "/b/sse"),
        ("/__skewed/sse", "/__skew", "/__skewed/sse"),
        # What stands before the endpoint is cut off once.
        ("/__skew/__skew/sse", "/__skew", "/__skew/sse"),
        ("/__skew/__skew/sse", "", "/__skew/sse"),
        ("/api/__skew/__skew/sse", "/api/__skew", "/__skew/sse"),
        # The whole application is this Headcount, behind a prefix.
        ("/api/__skew/sse", "/api", "/sse"),
    ],
)
def test_mounted_everything_is_for_us(path: str, root_path: str | None, endpoint: str) -> None:
    assert endpoint_of(scope_of(path, root_path), BASE, mounted=True) == endpoint


@pytest.mark.parametrize(("prefix", "base"), [("", "/__skew"), ("/api", "/__skew"), ("", "/a/b"), ("/api", "/a/b")])
@pytest.mark.parametrize("endpoint", ["/sse", "/admin/stats", "/client.js"])
@pytest.mark.parametrize("stripped", [True, False], ids=["prefix cut off", "prefix kept"])
def test_starlette_s_mount_leads_to_the_endpoint(prefix: str, base: str, endpoint: str, stripped: bool) -> None:
    found = []

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(endpoint_of(scope, base, mounted=True))

    app = Starlette(routes=[Mount(base, app=mounted)])
    path = base + endpoint if stripped else prefix + base + endpoint
    scope = {**scope_of(path, prefix), "method": "GET"}
    drive = app(scope, no_receive, no_send)
    with pytest.raises(StopIteration):
        drive.__await__().__next__()
    assert found == [endpoint]


async def no_receive() -> Any:
    raise AssertionError


async def no_send(message: Any) -> None:
    raise AssertionError


@given(
    st.text(st.sampled_from("/ab_%"), max_size=12),
    st.text(st.sampled_from("/ab"), max_size=12),
    st.booleans(),
    st.none() | st.binary(max_size=12) | st.text(st.sampled_from("/ab%61?"), max_size=12).map(str.encode),
)
def test_any_path_leads_to_an_endpoint_that_begins_with_a_slash(
    path: str, root_path: str, mounted: bool, raw_path: bytes | None
) -> None:
    scope = {**scope_of("/" + path, root_path), "raw_path": raw_path}
    endpoint = endpoint_of(scope, "/a", mounted=mounted)
    assert endpoint is None or endpoint.startswith("/")
    assert endpoint is not None or not mounted


SPELLINGS = [
    *("/__skew/sse/", "/__skew//sse", "//__skew/sse//", "/__skew/%73se", "/__skew/ss%65", "/__skew%2fsse"),
    *("/%5f_skew/sse", "/__ske%77/sse", "/__skew/sse%2f", "/__skew/./sse", "/__skew/x/../sse", "/__skew/__skew/sse"),
    *("/__skew/SSE", "/__skew/sse%00", "/__skew/sse;a", "/__skew/sse%3f"),
]  # fmt: skip


def scope_that_servers_make(raw_path: str, root_path: str = "") -> Scope:
    return {**scope_of(unquote(raw_path), root_path), "raw_path": raw_path.encode()}


def litestar(scope: Scope) -> Scope:
    """What Litestar makes of a request that it hands to what is mounted at /__skew."""
    path = re.sub("/+", "/", scope["path"]).rstrip("/")
    return {**scope, "path": path.removeprefix("/__skew") + "/"}


def starlette(scope: Scope) -> Scope:
    """What Starlette makes of it."""
    return {**scope, "app_root_path": "", "root_path": "/__skew"}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_endpoint_has_one_spelling(spelling: str) -> None:
    for change, mounted in ((None, True), (None, False), (starlette, True), (litestar, True)):
        for raw_path, is_served in (("/__skew/sse", True), (spelling, False)):
            scope = scope_that_servers_make(raw_path)
            endpoint = endpoint_of(change(scope) if change else scope, BASE, mounted=mounted)
            assert (endpoint == "/sse") == is_served, (change, mounted, endpoint)


def test_a_mount_elsewhere_than_the_base_path_has_one_spelling_as_well() -> None:
    for raw_path, endpoint in (
        ("/live/sse", "/sse"),
        ("/live/__skew/sse", "/__skew/sse"),
        ("/live/%73se", "/live/%73se"),
    ):
        scope = {**scope_that_servers_make(raw_path), "app_root_path": "", "root_path": "/live"}
        assert endpoint_of(scope, BASE, mounted=True) == endpoint


def test_what_stands_before_the_endpoint_may_be_escaped() -> None:
    for base in ("/café", "/a+b", "/a:b"):
        raw_path = quote(base) + "/sse"
        for mounted in (True, False):
            assert endpoint_of(scope_that_servers_make(raw_path), base, mounted=mounted) == "/sse"
    assert endpoint_of(scope_that_servers_make("/caf%C3%A9/__skew/sse", "/café"), BASE, mounted=True) == "/sse"


def test_a_path_that_middleware_has_rewritten_counts_as_it_is() -> None:
    scope = {**scope_of("/__skew/admin/stats"), "raw_path": b"/statistics"}
    assert endpoint_of(scope, BASE, mounted=False) == "/admin/stats"


def test_the_dashboard_is_the_one_folder() -> None:
    for change in (None, starlette, litestar):
        for raw_path in ("/__skew/dashboard", "/__skew/dashboard/"):
            scope = scope_that_servers_make(raw_path)
            endpoint = endpoint_of(change(scope) if change else scope, BASE, mounted=True)
            assert endpoint == raw_path.removeprefix("/__skew")
    assert endpoint_of(scope_of("/__skew/dashboard/"), BASE, mounted=True) == "/dashboard/"


@pytest.mark.parametrize(
    ("path", "raw_path", "prefix"),
    [
        ("/__skew/sse", None, "/__skew"),
        ("/__skew/sse", b"/__skew/sse", "/__skew"),
        ("/api/__skew/sse", None, "/api/__skew"),
        ("/sse", b"/live/sse", "/live"),
        ("/sse", b"/caf%C3%A9/sse", "/café"),
        ("/sse", None, ""),
        ("/elsewhere", b"/elsewhere", ""),
    ],
)
def test_the_prefix_is_what_stands_before_the_endpoint(path: str, raw_path: bytes | None, prefix: str) -> None:
    assert head_of({**scope_of(path), "raw_path": raw_path}).prefix == prefix


def test_a_header_in_several_lines_is_joined() -> None:
    scope = scope_of(headers=[("x-forwarded-for", "a"), ("host", "h"), ("x-forwarded-for", "b, c")])
    assert head_of(scope).header(b"x-forwarded-for") == "a, b, c"
    assert head_of(scope).header(b"host") == "h"
    assert head_of(scope).header(b"cookie") is None


def test_an_empty_header_is_there() -> None:
    assert head_of(scope_of(headers=[("origin", "")])).header(b"origin") == ""


def test_a_header_that_is_no_text_is_read_byte_by_byte() -> None:
    assert head_of(scope_of(headers=[("cookie", "\xff\x80")])).header(b"cookie") == "\xff\x80"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {}),
        ("version=v1&route=/a", {"version": "v1", "route": "/a"}),
        ("route=%2Fa%3Fb%26c%3Dd", {"route": "/a?b&c=d"}),
        ("version=a%2Bb+c", {"version": "a+b c"}),
        ("route=%F0%9F%A6%86", {"route": "🦆"}),
        ("route=%FF", {"route": "\ufffd"}),
        ("version=", {"version": ""}),
        ("version", {"version": ""}),
        ("other=1&other=2&version=v1", {"version": "v1"}),
        ("%76ersion=v1", {"version": "v1"}),
        ("Version=v1", {}),
        ("&&=&", {}),
        ("a=1;version=2", {}),
    ],
)
def test_the_query_gives_what_was_asked_for(query: str, found: dict[str, str]) -> None:
    assert parse_query(query.encode("latin-1"), NAMES) == found


@pytest.mark.parametrize("query", ["version=v1&version=v1", "version=&version=v2", "version=a&%76ersion=b"])
def test_a_parameter_that_is_given_twice_is_malformed(query: str) -> None:
    with pytest.raises(Malformed, match="parameter version is repeated"):
        parse_query(query.encode("latin-1"), NAMES)


def test_too_many_parameters_are_malformed() -> None:
    assert parse_query("&".join(f"p{number}" for number in range(32)).encode(), NAMES) == {}
    with pytest.raises(Malformed, match="more than 32 parameters"):
        parse_query("&".join(f"p{number}" for number in range(33)).encode(), NAMES)


@given(st.binary() | st.text(st.sampled_from("version=rut&%26c0;+")).map(str.encode))
def test_any_query_is_read_or_malformed(query: bytes) -> None:
    try:
        found = parse_query(query, NAMES)
    except Malformed:
        return
    assert set(found) <= NAMES


def test_a_bad_cookie_is_unknown_because_it_would_lock_the_browser_out() -> None:
    for value in ("v" * 129, "a%00b", "a%0Ab", "a\x85b"):
        assert head_of(scope_of(headers=[("cookie", f"__nkpv={value}")])).cookie_version == "unknown"


@pytest.mark.parametrize(
    ("cookie", "version"),
    [
        ("__nkpv=v1", "v1"),
        ("a=b; __nkpv=v1; c=d", "v1"),
        ("a=b;__nkpv=v1", "v1"),
        ('__nkpv="v1"', "v1"),
        ("__nkpv=a%2Bb%3B%20c", "a+b; c"),
        ("__nkpv=%F0%9F%A6%86", "🦆"),
        ("__nkpv=%FF", "\ufffd"),
        ("__nkpv=100%", "100%"),
        ("__nkpv=a+b", "a+b"),
        ("__nkpv=a=b", "a=b"),
        ("__nkpv=", "unknown"),
        ("__nkpv", "unknown"),
        ("x__nkpv=v1", "unknown"),
        ("__NKPV=v1", "unknown"),
        ("", "unknown"),
        (";;=;", "unknown"),
    ],
)
def test_the_version_of_the_cookie_is_percent_decoded(cookie: str, version: str) -> None:
    assert head_of(scope_of(headers=[("cookie", cookie)])).cookie_version == version


def test_cookies_in_several_lines_are_all_read() -> None:
    """HTTP/2 may send each in a line of its own (RFC 9113, 8.2.3)."""
    scope = scope_of(headers=[("cookie", "a=b"), ("cookie", "__nkpv=v1"), ("cookie", "c=d")])
    assert head_of(scope).cookie_version == "v1"


def test_a_cookie_that_is_switched_off_or_named_otherwise_is_not_read() -> None:
    scope = scope_of(headers=[("cookie", "__nkpv=v1; build=v2")])
    assert head_of(scope, cookie=False).cookie_version == "unknown"
    assert head_of(scope, cookie="build").cookie_version == "v2"


@given(st.text(st.characters(max_codepoint=255)))
def test_any_cookie_is_a_version_or_unknown(cookie: str) -> None:
    for text in (cookie, "__nkpv=" + cookie):
        version = head_of(scope_of(headers=[("cookie", text)])).cookie_version
        assert 1 <= len(version) <= 128
        version.encode()


def test_without_tracking_no_address_is_looked_at() -> None:
    assert address_of({}, False, OURS) is None


def test_the_address_is_the_peer_s_or_what_a_trusted_proxy_says() -> None:
    headers = [("x-forwarded-for", "198.51.100.7"), ("x-forwarded-for", "10.0.0.2")]
    assert address_of(scope_of(headers=headers), True, OURS) == "203.0.113.9"
    assert address_of(scope_of(headers=headers, client=("10.0.0.1", 1)), True, OURS) == "198.51.100.7"
    assert address_of(scope_of(headers=headers, client=("10.0.0.1", 1)), True, ()) == "10.0.0.1"
    assert address_of(scope_of(headers=headers, client=None), True, OURS) == "198.51.100.7"
    assert address_of(scope_of(headers=headers, client=None), True, ()) is None


@pytest.mark.parametrize(
    ("client", "forwarded", "trusted", "address"),
    [
        # As uvicorn leaves it, when X-Forwarded-For came from this machine.
        (("6.6.6.6", 0), "6.6.6.6", (), None),
        (("6.6.6.6", 0), "6.6.6.6", OURS, None),
        (("6.6.6.6", "0"), "6.6.6.6", (), None),
        (("6.6.6.6", 1234), "6.6.6.6:1234", (), None),
        (("6.6.6.6", 1234), "6.6.6.6:1234", OURS, None),
        (("2001:db8::6", 99), "[2001:db8::6]:99", (), None),
        (("203.0.113.9", 0), "6.6.6.6, 203.0.113.9", LOCAL, "203.0.113.9"),
        (("203.0.113.9", 0), "6.6.6.6, 203.0.113.9", (*LOCAL, *OURS), "203.0.113.9"),
        # A peer that lies cannot make another's word of its own, and proxies may name themselves.
        (("203.0.113.9", 5), "203.0.113.9, 6.6.6.6", OURS, None),
        (("203.0.113.9", 5), "6.6.6.6", OURS, "203.0.113.9"),
        (("127.0.0.1", 5), "203.0.113.9, 127.0.0.1", LOCAL, "203.0.113.9"),
    ],
)
def test_an_address_that_the_server_has_overwritten_is_not_believed(
    client: Any, forwarded: str, trusted: Any, address: str | None
) -> None:
    scope = scope_of(headers=[("x-forwarded-for", forwarded)], client=client)
    assert address_of(scope, True, trusted) == address


def test_the_address_that_the_server_found_is_believed_when_the_server_is_trusted() -> None:
    forwarded = [("x-forwarded-for", "198.51.100.7"), ("cf-connecting-ip", "198.51.100.8")]
    gaps: list[AddressGap | None] = []

    def found(client: Any) -> str | None:
        scope = scope_of(headers=forwarded, client=client)
        return head_of(scope, ip_tracking=True, trusts_server=True, note_gap=gaps.append).address_to_keep()

    assert found(("198.51.100.7", 0)) == "198.51.100.7"
    assert found(("203.0.113.9", 5123)) == "203.0.113.9"
    assert found(("::ffff:203.0.113.9", 5123)) == "203.0.113.9"
    assert gaps == [None, None, None]
    assert found(None) is None
    assert found(("unix:", 0)) is None
    assert gaps[3:] == [AddressGap.NO_ADDRESS] * 2


@pytest.mark.parametrize(
    ("client", "forwarded", "trusted", "gap"),
    [
        (("203.0.113.9", 5123), "", (), None),
        (("203.0.113.9", 0), "203.0.113.9", (), AddressGap.REWRITTEN),
        (("203.0.113.9", 5123), "203.0.113.9", (), AddressGap.REWRITTEN),
        (("203.0.113.9", 0), "203.0.113.9", LOCAL, None),
        (None, "203.0.113.9", (), AddressGap.UNIX_SOCKET),
        (("", None), "203.0.113.9", (), AddressGap.UNIX_SOCKET),
        (("/run/app.sock", None), "203.0.113.9", (), AddressGap.UNIX_SOCKET),
        (None, "203.0.113.9", LOCAL, None),
        (("testclient", 50000), "", (), None),
    ],
)
def test_an_address_that_is_not_known_has_a_reason(client: Any, forwarded: str, trusted: Any, gap: Any) -> None:
    gaps: list[AddressGap | None] = []
    headers = [("x-forwarded-for", forwarded)] if forwarded else []
    head = head_of(
        scope_of(headers=headers, client=client), ip_tracking=True, trusted_proxies=trusted, note_gap=gaps.append
    )
    assert head.address_to_keep() == ("203.0.113.9" if gap is None and client != ("testclient", 50000) else None)
    assert gaps == [gap]


def test_an_anonymized_address_is_cut_whoever_told_it() -> None:
    assert address_of(scope_of(), "anonymized", OURS) == "203.0.113.0"
    scope = scope_of(headers=[("x-real-ip", "2001:db8:1:2::3")], client=("10.0.0.1", 1))
    assert address_of(scope, "anonymized", OURS) == "2001:db8:1::"
    assert address_of(scope_of(client=("::ffff:203.0.113.9", 1)), "anonymized", ()) == "203.0.113.0"
    assert address_of(scope_of(client=("fe80::1:2%eth0", 1)), "anonymized", ()) == "fe80::"
    assert address_of(scope_of(client=("testclient", 1)), "anonymized", ()) is None


def foreign(
    origin: str | None,
    host: str | None = "app.example",
    *allowed: str,
    site: str | None = None,
    forwarded: str | None = None,
    public: tuple[str, ...] = (),
) -> str | None:
    given = [("origin", origin), ("host", host), ("sec-fetch-site", site), ("x-forwarded-host", forwarded)]
    scope = scope_of(headers=[(name, value) for name, value in given if value is not None])
    head = head_of(scope, allowed_origins=allowed, public_origins=public)
    origin = "another site" if head.origin is None else head.origin
    return origin if head.origin_verdict is OriginVerdict.FOREIGN else None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://app.example", "app.example"),
        ("http://app.example", "app.example"),
        ("https://app.example", "app.example:443"),
        ("http://app.example", "app.example:80"),
        ("https://app.example", "APP.example"),
        ("http://localhost:8000", "localhost:8000"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://[::1]", "[::1]:80"),
        # A proxy dropped the port.
        ("http://app.example:8080", "app.example"),
        ("https://app.example:8443", "APP.example"),
        ("http://[::1]:8080", "[::1]"),
        ("http://localhost:3000", "localhost"),
    ],
)
def test_a_page_of_the_same_host_may_ask(origin: str, host: str) -> None:
    assert foreign(origin, host) is None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "app.example"),
        ("https://sub.app.example", "app.example"),
        ("https://app.example.evil.example", "app.example"),
        ("https://evilapp.example", "app.example"),
        ("http://localhost:3000", "localhost:8000"),
        ("http://localhost", "localhost:8000"),
        ("http://app.example:8080", "app.example:443"),
        ("http://app.example:8080", "app.example:80"),
        ("http://app.example:8080", "app.example:8081"),
        ("http://127.0.0.1:8000", "localhost:8000"),
        ("http://[::1]:8080", "[::2]"),
        ("http://app.example:8080", "example"),
        ("http://app.example:80:80", "app.example"),
        ("http://app.example:x", "app.example"),
        ("null", "app.example"),
        ("null", "null"),
        ("", "app.example"),
        ("", ""),
        ("https://", ""),
        ("app.example", "app.example"),
        ("://app.example", "app.example"),
        ("file://app.example", "app.example"),
        ("chrome-extension://app.example", "app.example"),
        ("https://app.example/", "app.example"),
        ("https://user@app.example", "app.example"),
        ("https://app.example", None),
        ("https://app.example, https://evil.example", "app.example"),
    ],
)
def test_a_page_of_any_other_origin_may_not(origin: str, host: str | None) -> None:
    assert foreign(origin, host) == origin
    assert foreign(origin, host, "https://allowed.example") == origin


TLS = [
    {"scheme": "wss"},
    {"scheme": "https"},
    {"x-forwarded-proto": "https"},
    {"x-forwarded-proto": "wss"},  # Traefik
    {"x-forwarded-proto": "HTTPS, http"},
    {"x-forwarded-protocol": "https"},
    {"x-forwarded-scheme": "https"},
    {"x-scheme": "https"},
    {"x-url-scheme": "https"},
    {"cloudfront-forwarded-proto": "https"},
    {"x-forwarded-ssl": "on"},
    {"front-end-https": "On"},
    {"forwarded": "for=192.0.2.1;proto=https;host=app.example"},
    {"forwarded": 'Proto="https", proto=http'},
    {"x-forwarded-proto": "http", "x-forwarded-ssl": "on"},  # the inner proxy set one, the outer one the other
]


def verdict_of(origin: str, said: dict[str, str], host: str = "app.example", **settings: Any) -> OriginVerdict:
    headers = {"origin": origin, "host": host, **said}
    scheme = headers.pop("scheme", "ws")
    scope = scope_of(headers=list(headers.items()))
    scope["scheme"] = scheme
    return head_of(scope, **settings).origin_verdict


@pytest.mark.parametrize("said", TLS)
def test_a_page_on_http_is_not_of_an_application_on_https(said: dict[str, str]) -> None:
    for origin in ("http://app.example", "http://app.example:8080", "http://app.example:443"):
        assert verdict_of(origin, said) is OriginVerdict.FOREIGN
        assert verdict_of(origin, {**said, "x-forwarded-host": "app.example"}, "inner:8000") is OriginVerdict.FOREIGN
        assert verdict_of(origin, said, allowed_origins=("*",)) is OriginVerdict.WILDCARD
        assert verdict_of(origin, said, public_origins=("https://app.example",)) is OriginVerdict.FOREIGN
        assert verdict_of(origin, said, public_origins=(origin,)) is OriginVerdict.OWN
        assert verdict_of(origin, {**said, "sec-fetch-site": "same-origin"}) is OriginVerdict.OWN
    for origin in ("https://app.example", "https://app.example:8443"):
        assert verdict_of(origin, said) is OriginVerdict.OWN


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"scheme": "http"},
        {"x-forwarded-proto": "http"},  # also what an inner nginx says behind a load balancer that ends TLS
        {"x-forwarded-proto": "http, https"},
        {"scheme": "wss", "x-forwarded-proto": "http"},  # a proxy that speaks TLS to the server only
        {"x-forwarded-ssl": "off"},
        {"forwarded": "for=192.0.2.1;proto=http"},
        {"forwarded": "for=192.0.2.1;host=proto=https"},
    ],
)
def test_where_tls_is_not_known_of_the_scheme_is_not_compared(said: dict[str, str]) -> None:
    for origin in ("http://app.example", "https://app.example", "http://app.example:8080"):
        assert verdict_of(origin, said) is OriginVerdict.OWN


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_our_host_that_the_browser_calls_another_site_may_not(site: str) -> None:
    # http://app.example, made up by somebody on the way, on an application that is served over https.
    assert foreign("http://app.example", "app.example", site=site) == "http://app.example"
    assert foreign("http://app.example:8080", "app.example", site=site) == "http://app.example:8080"
    assert foreign("https://app.example", "other.example", site=site, forwarded="app.example") == "https://app.example"
    assert foreign("https://app.example", "app.example", site="same-origin") is None
    assert foreign("https://www.example.com", "app.example", "https://www.example.com", site=site) is None


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "app_upstream", None])
def test_a_browser_that_compared_the_origins_itself_is_believed(host: str | None) -> None:
    """No page can set a header that begins with Sec-, and no proxy has changed what the browser compared."""
    for origin in ("https://app.example", "http://app.example:8080", "null"):
        assert foreign(origin, host) == origin
        assert foreign(origin, host, site="same-origin") is None
        for site in ("same-site", "cross-site", "none", "", "same-origin, same-origin", "Same-Origin"):
            assert foreign(origin, host, site=site) == origin


def test_a_host_that_a_proxy_passes_on_beside_its_own_is_compared() -> None:
    origin = "https://app.example"
    assert foreign(origin, "127.0.0.1:8000", forwarded="app.example") is None
    assert foreign(origin, "127.0.0.1:8000", forwarded="app.example, inner.example:8080") is None
    assert foreign("https://app.example:8443", "127.0.0.1:8000", forwarded="app.example") is None
    assert foreign(origin, "127.0.0.1:8000", forwarded="inner.example, app.example") == origin
    for other in ("", ",app.example", "evil.example", "app.example.evil.example"):
        assert foreign(origin, "127.0.0.1:8000", forwarded=other) == origin


def test_a_public_origin_may_whatever_proxies_made_of_the_host() -> None:
    public = ("https://www.example.com", "https://example.com:8443")
    for origin in public:
        for site in (None, "same-origin", "same-site", "cross-site"):
            assert foreign(origin, "127.0.0.1:8000", site=site, public=public) is None
    for origin in ("http://www.example.com", "https://example.com", "https://evil.example"):
        assert foreign(origin, "127.0.0.1:8000", public=public) == origin


def test_with_public_origins_ports_are_not_guessed() -> None:
    public = ("https://www.example.com",)
    assert foreign("https://app.example:9999", "app.example") is None
    assert foreign("https://app.example:9999", "app.example", public=public) == "https://app.example:9999"
    assert (
        foreign("https://app.example:9999", "x", public=public, forwarded="app.example") == "https://app.example:9999"
    )
    assert foreign("https://app.example", "app.example", public=public) is None
    assert foreign("https://app.example:8443", "app.example:8443", public=public) is None


def test_a_page_with_two_hosts_may_not() -> None:
    scope = scope_of(headers=[("origin", "https://a.example"), ("host", "a.example"), ("host", "b.example")])
    assert head_of(scope).origin_verdict is OriginVerdict.FOREIGN


def test_an_allowed_origin_may() -> None:
    allowed = ("https://www.example.com", "http://localhost:5173")
    for origin in allowed:
        assert foreign(origin, "app.example", *allowed) is None
    for origin in ("http://www.example.com", "https://www.example.com:8443", "http://localhost:5174"):
        assert foreign(origin, "app.example", *allowed) == origin


def test_a_star_allows_every_origin() -> None:
    assert foreign("https://anything.example", "app.example", "*") is None
    assert foreign("null", "app.example", "*") is None
    assert foreign(None, site="cross-site") == "another site"
    assert foreign(None, "app.example", "*", site="cross-site") is None


@pytest.mark.parametrize("site", [None, "same-origin", "same-site", "none"])
def test_a_program_or_a_page_of_ours_that_sends_no_origin_may(site: str | None) -> None:
    assert foreign(None, site=site) is None


def test_a_cross_site_page_that_sends_no_origin_may_not() -> None:
    assert foreign(None, site="cross-site") == "another site"
    assert foreign(None, "app.example", "https://allowed.example", site="cross-site") == "another site"


def test_only_an_allowed_origin_is_named_in_cors_headers() -> None:
    def named(origin: str | None, *allowed: str) -> str | None:
        headers = [("host", "app.example"), *([("origin", origin)] if origin is not None else [])]
        return head_of(scope_of(headers=headers), allowed_origins=allowed).cors_origin

    assert named("https://www.example.com", "https://www.example.com") == "https://www.example.com"
    assert named("https://anything.example", "*") == "*"
    assert named("null", "*") == "*"
    assert named("https://www.example.com", "*", "https://www.example.com") == "https://www.example.com"
    assert named("https://evil.example", "https://www.example.com") is None
    assert named("https://app.example") is None
    assert named(None, "*") is None


@pytest.mark.parametrize(
    ("headers", "allowed", "verdict"),
    [
        ({}, (), OriginVerdict.OWN),
        ({"origin": "https://app.example"}, (), OriginVerdict.OWN),
        ({"origin": "https://app.example"}, ("*",), OriginVerdict.OWN),
        ({"origin": "https://a.example"}, ("https://a.example",), OriginVerdict.LISTED),
        ({"origin": "https://a.example"}, ("*", "https://a.example"), OriginVerdict.LISTED),
        ({"origin": "https://a.example"}, ("*",), OriginVerdict.WILDCARD),
        ({"sec-fetch-site": "cross-site"}, ("*",), OriginVerdict.WILDCARD),
        ({"origin": "https://a.example"}, ("https://b.example",), OriginVerdict.FOREIGN),
        ({"sec-fetch-site": "cross-site"}, (), OriginVerdict.FOREIGN),
    ],
)
def test_each_origin_gets_one_verdict(
    headers: dict[str, str], allowed: tuple[str, ...], verdict: OriginVerdict
) -> None:
    head = head_of(scope_of(headers=[("host", "app.example"), *headers.items()]), allowed_origins=allowed)
    assert head.origin_verdict is verdict
    assert head.origin_verdict is verdict, "read once"


def test_headers_are_read_once() -> None:
    scope = scope_of(headers=[("origin", "https://a.example"), ("cookie", "__nkpv=v1")])
    head = head_of(scope)
    assert head.origin == "https://a.example"
    scope["headers"] = []
    assert head.cookie_version == "v1"


@pytest.mark.parametrize(
    ("value", "token"),
    [("Bearer secret", "secret"), ("bearer  secret ", "secret"), ("Basic c2VjcmV0", None), ("", None), (None, None)],
)
def test_a_bearer_token_is_read_from_its_header(value: str | None, token: str | None) -> None:
    headers = [] if value is None else [("authorization", value)]
    assert head_of(scope_of(headers=headers)).bearer_token == token


def test_without_credentials_a_request_keeps_only_a_bearer_token() -> None:
    bearer, basic, cookie = ("authorization", "Bearer x"), ("authorization", "Basic x"), ("cookie", "a=b")
    scope = scope_of(headers=[bearer, basic, cookie, ("host", "h")])
    assert head_of(scope).scope_without_credentials()["headers"] == [(b"authorization", b"Bearer x"), (b"host", b"h")]


@given(
    st.lists(
        st.sampled_from(
            [
                *(("host", "shop.example"), ("host", "other.example"), ("host", "")),
                *(("origin", "https://shop.example"), ("origin", "https://ok.example"), ("origin", "null")),
                *(("sec-fetch-site", site) for site in ("same-origin", "same-site", "cross-site", "none")),
                *(("x-forwarded-host", "shop.example"), ("x-forwarded-proto", "https")),
            ]
        ),
        max_size=5,
    ),
    st.sampled_from(["1.1", "1.0", "2", "9.9", None]),
    st.sampled_from([{}, {"allowed_origins": ["https://ok.example"]}, {"allowed_origins": ["*"]}]),
    st.sampled_from([{}, {"allowed_hosts": ["shop.example"]}]),
)
def test_whether_a_page_is_of_this_site_is_what_the_single_questions_say(
    headers: list[tuple[str, str]], version: str | None, origins: dict[str, Any], hosts: dict[str, Any]
) -> None:
    scope = {**scope_of(headers=headers), **({} if version is None else {"http_version": version})}
    rules = RequestRules.of(Headcount(version="1", **origins, **hosts).node.config)
    assert rules.have_defaults is not bool(origins or hosts)
    head = RequestHead(scope, "/sse", rules)
    assert RequestHead(scope, "/sse", rules).is_valid_own_request is (
        head.defect is None
        and head.header(b"host") is not None
        and head.is_for_this_server
        and head.cors_origin is None
        and head.origin_verdict is OriginVerdict.OWN
    )
