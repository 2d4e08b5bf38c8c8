"""What the request for a stream says, before anything is kept of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from headcount import Headcount
from headcount.asgi.request_head import RequestHead, RequestRules
from headcount.asgi.stream_request import StreamRequest, _read_cached, read_stream_request
from headcount.config import Config
from headcount.errors import ProtocolError


def opening(query: str | bytes = b"", *headers: tuple[bytes, bytes], **settings: Any) -> StreamRequest:
    headcount = Headcount(version="server", **settings)
    return read_stream_request(RequestHead(_scope(query, *headers), "/sse", RequestRules.of(headcount.config)))


def _scope(query: str | bytes, *headers: tuple[bytes, bytes]) -> Scope:
    return {
        "type": "http",
        "query_string": query.encode() if isinstance(query, str) else query,
        "headers": list(headers),
        "client": ("192.0.2.7", 1),
    }


def test_a_page_that_says_nothing_is_counted_as_unknown_on_the_front_page() -> None:
    assert opening() == StreamRequest("unknown", "/", None, counted=True, visible_keepalives=False)


def test_what_a_page_says_is_taken() -> None:
    request = opening("version=v1&route=%2Fa%3Fsecret%3D1%23x&viewer=1&keepalive=message", ip_tracking=True)
    assert request == StreamRequest("v1", "/a", "192.0.2.7", counted=False, visible_keepalives=True)


def test_the_version_comes_from_the_query_then_from_the_cookie() -> None:
    cookie = (b"cookie", b"a=b; __nkpv=v2")
    assert opening("version=v1", cookie).version == "v1"
    assert opening("", cookie).version == "v2"
    assert opening("version=", cookie).version == "v2"
    assert opening("", cookie, cookie=False).version == "unknown"
    assert opening("", (b"cookie", b"__nkpv=" + b"v" * 129)).version == "unknown"


@pytest.mark.parametrize("claim", ["unknown", "Unknown"])
def test_who_says_that_the_version_is_unknown_says_nothing(claim: str) -> None:
    assert opening(f"version={claim}", (b"cookie", b"__nkpv=v2")).version == "v2"
    assert opening(f"version={claim}").version == "unknown"


@pytest.mark.parametrize("cookie", ["(other)", "v1%E2%80%8B", "%E2%80%AE1v", "%20v1", "v%EF%BC%91"])
def test_a_version_that_no_page_can_have_is_unknown_in_a_cookie_and_malformed_in_a_query(cookie: str) -> None:
    assert opening("", (b"cookie", b"__nkpv=" + cookie.encode())).version == "unknown"
    with pytest.raises(ProtocolError):
        opening(f"version={cookie}")


def test_a_bad_label_in_the_query_is_malformed_each_time() -> None:
    for query in ("version=" + "v" * 129, "version=a%00", "route=/%0A", "route=/" + "a" * 512, "version=%E2%80%A8"):
        for _ in range(2):
            with pytest.raises(ProtocolError):
                opening(query, (b"cookie", b"__nkpv=v2"))


def test_what_is_remembered_of_a_query_is_nobodys_own() -> None:
    """Many pages come with one query; version and address of each are its own, and a secret is not kept."""
    query = "route=/front"
    first = opening(query, (b"cookie", b"__nkpv=v1"), ip_tracking=True)
    assert (first.version, first.ip) == ("v1", "192.0.2.7")
    assert opening(query, (b"cookie", b"__nkpv=v2")) == first._replace(version="v2", ip=None)
    remembered = _read_cached.cache_info().currsize
    assert opening("version=v1&replaces=secret").replaces == "secret"
    assert opening("route=/" + "a" * 300).route == "/" + "a" * 300
    assert _read_cached.cache_info().currsize == remembered


@pytest.mark.parametrize("flag", ["viewer", "keepalive"])
def test_a_flag_is_off_when_it_is_empty_or_zero_and_malformed_when_it_is_something_else(flag: str) -> None:
    for off in ("", "0"):
        assert opening(f"{flag}={off}") == opening()
    with pytest.raises(ProtocolError, match=f"The query parameter {flag} is 'yes'; it takes"):
        opening(f"{flag}=yes")


@given(st.binary(max_size=300), st.binary(max_size=100))
def test_any_query_and_cookie_are_read_or_malformed(query: bytes, cookie: bytes) -> None:
    config = Config.load({"version": "server"})
    try:
        request = read_stream_request(RequestHead(_scope(query, (b"cookie", cookie)), "/sse", RequestRules.of(config)))
    except ProtocolError:
        return
    assert 1 <= len(request.version) <= 128
    assert 1 <= len(request.route) <= 512
    assert request.route.startswith("/")
