"""Addresses, options and messages: what needs no stream."""

import asyncio
import json
import re
import ssl
import sys
from pathlib import Path
from typing import Literal

import httpx2 as httpx
import pytest

from headcount import errors
from headcount.client import ConfigError, adoption, messages, use_active_connections
from headcount.client.access import Access, failure, unreachable
from headcount.client.address import base_url, is_local
from headcount.client.transport import open_stream
from headcount.core import rollouts
from headcount.core.current_version import CurrentRelease
from headcount.errors import Malformed, NotAuthorized, Refused, Unreachable

FIXTURES = json.loads((Path(__file__).parents[2] / "protocol/fixtures/messages.json").read_text())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://www.example.com", "https://www.example.com/__skew"),
        ("https://www.example.com/", "https://www.example.com/__skew"),
        ("https://www.example.com/shop/__skew/", "https://www.example.com/shop/__skew"),
        ("https://user:word@example.com:8443/live?x=1#y", "https://user:word@example.com:8443/live"),
        ("wss://example.com", "https://example.com/__skew"),
        ("ws://example.com/live", "http://example.com/live"),
        ("example.com", "https://example.com/__skew"),
        ("localhost:8000", "http://localhost:8000/__skew"),
        ("127.0.0.1:8000/live", "http://127.0.0.1:8000/live"),
        ("[::1]:8000", "http://[::1]:8000/__skew"),
        (" https://example.com ", "https://example.com/__skew"),
    ],
)
def test_address_is_what_people_mean(url: str, expected: str) -> None:
    assert base_url(url) == expected
    assert base_url(expected) == expected


def test_base_path_is_added_once() -> None:
    assert base_url("https://example.com/shop", "/live") == "https://example.com/shop/live"
    assert base_url("https://example.com/shop/live", "/live") == "https://example.com/shop/live"


@pytest.mark.parametrize("url", ["", "ftp://example.com", "https://", "https://example.com:99999", "http://[::1"])
def test_what_is_no_address_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(ConfigError, match=r"is not (a|the) URL.*https://www\.example\.com"):
        base_url(url)


@pytest.mark.parametrize("url", ["8000", ":8000", " 8000 "])
def test_a_port_alone_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="http://localhost:8000"):
        base_url(url)


@pytest.mark.parametrize("path", ["", "live", "/live/", "/live?x"])
def test_what_is_no_base_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="base_path"):
        base_url("https://example.com", path)


def test_loopback_is_told_from_the_rest_by_its_looks() -> None:
    assert all(map(is_local, ["localhost", "shop.localhost", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_local, ["example.com", "10.0.0.1", "localhost.example.com", None]))


@pytest.mark.parametrize(
    "options",
    [
        {"token": ""},
        {"token": "line\nbreak"},
        {"token": "ключ"},
        {"headers": {"x y": "1"}},
        {"headers": {"x": "1\r\nCookie: a=b"}},
        {"cookies": {"a b": "1"}},
        {"cookies": "a=b\r\nx: y"},
        {"proxy": "proxy.example.com"},
        {"proxy": "ftp://proxy.example.com"},
    ],
)
def test_options_that_would_break_a_request_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Access(**options)  # type: ignore[arg-type]


def test_options_become_headers() -> None:
    access = Access(token="t0ken", cookies={"session": "abc", "b": "2"}, headers={"X-Team": "shop"})
    assert access.headers["authorization"] == "Bearer t0ken"
    assert access.headers["cookie"] == "session=abc; b=2"
    assert access.headers["x-team"] == "shop"
    assert re.fullmatch(r"headcount/\d.*", access.headers["user-agent"])
    assert Access(cookies="a=b").headers["cookie"] == "a=b"


def test_tls_options(tmp_path: Path) -> None:
    assert Access().tls("http://example.com") is None
    own = ssl.create_default_context()
    assert Access(verify=own).tls("https://example.com") is own
    strict, lax = Access().tls("https://example.com"), Access(verify=False).tls("https://example.com")
    assert strict is not None
    assert lax is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)
    with pytest.raises(ConfigError, match="Cannot read the certificates"):
        Access(verify=str(tmp_path / "absent.pem")).tls("https://example.com")


def test_update_strategy_is_checked() -> None:
    with pytest.raises(ConfigError, match="sse, ws or auto"):
        use_active_connections("https://example.com", update_strategy="polling")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, NotAuthorized),
        (403, NotAuthorized),
        (404, Refused),
        (409, Refused),
        (429, Unreachable),
        (501, Refused),
        (503, Unreachable),
    ],
)
def test_answers_become_errors(status: int, kind: type[Exception]) -> None:
    headers = {"retry-after": "7", "content-type": "application/problem+json"}
    problem = failure("https://x/__skew/sse", status, headers, b'{"detail":"Because\\u0007."}')
    assert type(problem) is kind
    assert (
        "answered 404 (application/problem+json), which is not Headcount's answer" if status == 404 else "Because."
    ) in str(problem)
    if isinstance(problem, Unreachable):
        assert problem.retry_after == 7
    for body in (b"", b"<html>", b"[]", b"\xff", b'{"detail":5}'):
        assert str(failure("https://x/__skew/sse", status, {}, body))


def test_what_a_framework_says_of_another_path_is_not_taken_for_headcounts_answer() -> None:
    """FastAPI answers 405 with a `detail`, too, in plain JSON."""
    headers = {"content-type": "application/json"}
    problem = failure("https://x/nope/admin/release", 405, headers, b'{"detail":"Method Not Allowed"}')
    assert (
        str(problem) == "https://x/nope/admin/release answered 405, which is not an answer of Headcount; check the URL."
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "https://x/__skew/admin/stats",
            "https://x/__skew answered 404 (text/html), which is not Headcount's answer; ch",
        ),
        ("https://x/shop/admin/stats", "https://x/shop answered 404 (text/html), which is not Headcount's answer; try"),
        ("https://x/shop/admin/stats", "; try https://x/__skew, or"),
        ("https://x/a/__skew/b/admin/stats", "; try https://x/a/__skew, or"),
        ("https://x/admin/admin/history", "; try https://x/__skew, or"),
    ],
)
def test_a_404_says_what_answered_and_which_url_to_try(url: str, words: str) -> None:
    assert words in str(failure(url, 404, {"content-type": "text/html; charset=utf-8"}, b"<html>"))


def test_a_refused_token_is_named() -> None:
    body = b'{"detail":"You may not; send the admin token as Authorization: Bearer <token>."}'
    headers = {"content-type": "application/problem+json"}
    assert "does not accept this token" in str(failure("https://x/__skew/sse", 401, headers, body, token=True))
    assert "does not accept this token" in str(failure("https://x/__skew/sse", 401, {}, b"", token=True))
    assert "Authorization: Bearer" in str(failure("https://x/__skew/sse", 401, headers, body))
    other = b'{"detail":"Host is x."}'
    assert str(failure("https://x/__skew/sse", 403, headers, other, token=True)) == "Host is x."


@pytest.mark.parametrize("proxy", ["http://operator:secret@127.0.0.1:9", "environment"])
def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for variable in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    if proxy == "environment":
        monkeypatch.setenv("http_proxy", "http://operator:secret@127.0.0.1:9")
        proxy = ""
    with pytest.raises(Unreachable) as raised:
        asyncio.run(Access(proxy=proxy or True).get("http://www.example.com/__skew/admin/stats"))
    assert str(raised.value) == "The proxy 127.0.0.1:9 cannot be reached: connection refused; no server is listening."


@pytest.mark.parametrize("strategy", ["ws", "sse"])
def test_a_package_that_a_proxy_needs_is_named(monkeypatch: pytest.MonkeyPatch, strategy: Literal["ws", "sse"]) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    access = Access(proxy="socks5://127.0.0.1:9")

    async def opened() -> None:
        async with open_stream(strategy, "http://127.0.0.1:9/__skew", access, {}):
            raise AssertionError

    with pytest.raises(ConfigError, match="pip install socksio"):
        asyncio.run(opened())


def test_whom_a_redirect_names_is_who_cannot_be_reached() -> None:
    error = httpx.ConnectError("", request=httpx.Request("GET", "http://old.example.com:81/__skew/health"))
    error.__cause__ = ConnectionRefusedError()
    told = unreachable("http://www.example.com/__skew/health", error, proxy=None)
    assert told == (
        "old.example.com:81, to which www.example.com redirects, cannot be reached: connection refused; no server is "
        "listening."
    )
    assert unreachable("http://old.example.com:81/x", error, proxy=None).startswith("old.example.com:81 cannot be")


def test_golden_messages_are_read() -> None:
    server = {name: messages.decode(json.dumps(message)) for name, message in FIXTURES["server"].items()}
    assert isinstance(server["connected"], messages.Connected)
    assert server["connected"].keepalive_ms == 20_000
    assert server["connected"].current_version == "2026.11.4"
    assert server["connected"].current_release() == CurrentRelease("declared", "2026.11.4", 1795469500000)
    assert isinstance(server["stats"], messages.StatsMessage)
    assert server["stats"].figures().to_dict() == {
        key: value for key, value in FIXTURES["server"]["stats"].items() if key not in ("type", "yourId")
    }
    assert isinstance(server["stats-unauthorized"], messages.Unauthorized)
    assert isinstance(server["version"], messages.Released)
    assert server["version"].current_release() == CurrentRelease("declared", "2026.11.4", 1795469599000)
    assert isinstance(server["drain"], messages.Drain)
    assert server["drain"].reconnect_ms == 3120
    assert server["keepalive"] == messages.Other("keepalive")
    assert server["pong"] == messages.Other("pong")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "5",
        "{}",
        '{"type":7}',
        '{"type":"stats"}',
        '{"type":"stats","total":-1}',
        '{"type":"stats","total":1,"versions":{"a":"1"}}',
        '{"type":"stats","total":1,"connections":[{"id":1}]}',
        '{"type":"connected"}',
        "[" * 100_000,
    ],
)
def test_what_is_no_message_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        messages.decode(text)


def test_unknown_types_and_fields_are_no_error() -> None:
    assert messages.decode('{"type":"sale","percent":20}') == messages.Other("sale")
    assert isinstance(messages.decode('{"type":"stats","total":0,"future":[1]}'), messages.StatsMessage)


def test_errors_stand_in_the_tree_as_drawn() -> None:
    assert issubclass(errors.Unreachable, errors.ClientError)
    assert issubclass(errors.Refused, errors.ClientError)
    assert issubclass(errors.NotAuthorized, errors.HeadcountError)


CURVE = {
    "version": "v2",
    "previous": "v1",
    "at": 7,
    "declared": True,
    "state": "replaced",
    "endedAt": 9,
    "old": 3,
    "reached": [{"percent": 50, "afterMs": 4, "partial": True}],
    "halfLife": {"afterMs": 5},
    "curve": [{"afterMs": 0, "on": 1, "total": 3}, {"afterMs": 4, "on": 2, "total": 3}],
}


def test_adoption_curves_are_read_as_the_server_has_them() -> None:
    [curve, other] = adoption.decode(json.dumps({"rollouts": [CURVE, {**CURVE, "new": 1}]}).encode())
    assert curve == other
    assert rollouts.to_dict(curve) == CURVE


@pytest.mark.parametrize(
    "answer",
    [
        *({}, [], {"rollouts": None}, {"rollouts": [{}]}, {"rollouts": [{**CURVE, "at": -1}]}),
        {"rollouts": [{**CURVE, "curve": [{"afterMs": 10**18, "on": 0, "total": 0}]}]},
        {"rollouts": [{**CURVE, "reached": [{"percent": 101, "afterMs": 1}]}]},
    ],
)
def test_malformed_adoption_curves_are_refused(answer: object) -> None:
    with pytest.raises(Malformed, match="The server's rollouts are malformed"):
        adoption.decode(json.dumps(answer).encode())
