"""What a user gives to reach a server goes to that server only, and into no sentence."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner

from headcount.cli import cli
from headcount.client.access import Access, failure, is_same_site, wrong_answer
from headcount.client.address import base_url, split_user, without_password
from headcount.client.transport import open_stream
from headcount.config import without_secrets
from headcount.errors import ClientError, ConfigError
from kit.listener import Listener

SECRET = "hunter2@hunter3"
URL = f"https://admin:{SECRET}@shop.example/__skew"
HEADERS = {"X-Api-Key": "key", "Authorization": "Bearer token", "Cookie": "a=b"}


class Place:
    """A server that redirects, or refuses, and keeps the heads that it was sent."""

    def __init__(self, location: str = "") -> None:
        self.heads: list[str] = []
        self.location = location
        self.url = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower())
        status = f"HTTP/1.1 307 X\r\nlocation: {self.location}\r\n" if self.location else "HTTP/1.1 404 X\r\n"
        writer.write(f"{status}content-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving(place: Place) -> AsyncIterator[str]:
    async with Listener(place) as server:
        yield f"{server.url}/__skew"


async def ask(kind: str, url: str, access: Access) -> None:
    if kind == "get":
        await access.get(f"{url}/admin/stats")
    elif kind == "post":
        await access.post(f"{url}/admin/release", {"version": "v1"})
    else:
        async with open_stream("sse" if kind == "sse" else "ws", url, access, {}):
            pass


@pytest.mark.parametrize("kind", ["get", "post", "sse", "ws"])
@pytest.mark.parametrize("elsewhere", [True, False], ids=["another origin", "the same origin"])
def test_own_headers_follow_a_redirect_only_to_the_same_origin(kind: str, elsewhere: bool) -> None:
    async def main() -> None:
        first, other = Place(), Place()
        async with serving(first) as url, serving(other) as other_url:
            target = f"{other_url if elsewhere else url}/end"
            first.location = target.replace("http://", "ws://") if kind == "ws" else target
            access = Access(headers=HEADERS, proxy=False)
            with pytest.raises(ClientError):
                await ask(kind, url, access)
        assert "x-api-key: key" in first.heads[0]
        assert "authorization: bearer token" in first.heads[0]
        last = (other if elsewhere else first).heads[-1]
        assert "/end" in last
        assert ("x-api-key" in last) is not elsewhere
        assert not elsewhere or not {"authorization", "cookie"} & {line.split(":")[0] for line in last.splitlines()}

    asyncio.run(main())


def test_https_of_the_same_host_is_the_same_site_and_nothing_else_is() -> None:
    home = ("shop.example", None, "http")
    assert is_same_site(home, home)
    assert is_same_site(home, ("shop.example", None, "https"))
    for other in (
        ("shop.example", 8443, "https"),
        ("shop.example", 8080, "http"),
        ("evil.example", None, "https"),
        ("www.shop.example", None, "http"),
    ):
        assert not is_same_site(home, other)
    assert not is_same_site(("shop.example", None, "https"), home)


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 410, 500, 502, 503])
def test_no_error_shows_the_password_of_a_url(status: int) -> None:
    for url in (f"{URL}/admin/stats", f"{URL}/sse", URL):
        for headers in ({}, {"content-type": "text/html"}, {"location": "/log-in"}):
            assert "hunter" not in str(failure(url, status, headers, b""))
        assert "hunter" not in str(wrong_answer(url, {"content-type": "text/html"}))
        assert "hunter" not in str(wrong_answer(url, {}, f"{URL}/log-in"))


@pytest.mark.parametrize(
    "url", [f"https://a:{SECRET}@h:99999x/", f"a:{SECRET}@h:x", f"ftp://a:{SECRET}@h/", f"x:{SECRET}@"]
)
def test_no_sentence_about_a_url_shows_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        base_url(url)
    assert "hunter" not in str(wrong.value)
    with pytest.raises(ConfigError) as wrong:
        Access(proxy=f"://proxy:{SECRET}@")
    assert "hunter" not in str(wrong.value)


def test_user_and_password_are_split_off_a_url() -> None:
    assert split_user(URL) == ("https://shop.example/__skew", f"admin:{SECRET}")
    assert split_user("u:p%40%2F@shop.example:8000") == ("shop.example:8000", "u:p@/")
    assert split_user("https://shop.example/a@b") == ("https://shop.example/a@b", "")
    assert without_password(URL) == "https://…@shop.example/__skew"


def test_a_command_sends_the_password_of_a_url_and_shows_it_nowhere() -> None:
    async def main() -> None:
        place = Place()
        async with serving(place) as url:
            given = url.replace("http://", f"http://admin:{SECRET}@")
            for command in (["stats", given], ["stats", given, "--json"], ["wait", given, "--version", "v1"]):
                done = await asyncio.to_thread(CliRunner().invoke, cli, command)
                assert "hunter" not in f"{done.output} {done.stderr} {done.exception}"
        assert len(place.heads) >= 3
        assert "authorization: basic ywrtaw46ahvudgvymkbodw50zxiz" in place.heads[0]

    asyncio.run(main())


def test_credentials_over_http_to_another_machine_are_warned_of() -> None:
    unencrypted = "are sent unencrypted to host.invalid:81; use https:// if the server has it."
    for options in (["--token", "t"], ["--cookies", "a=b"], ["--header", "Authorization: x"]):
        done = CliRunner().invoke(cli, ["stats", "http://host.invalid:81", "--proxy", "none", *options])
        assert unencrypted in done.stderr
    for url in ("http://127.0.0.1:1", "http://localhost:1", "https://host.invalid:81"):
        assert "unencrypted" not in CliRunner().invoke(cli, ["stats", url, "--token", "t", "--proxy", "none"]).stderr
    assert "unencrypted" not in CliRunner().invoke(cli, ["stats", "http://host.invalid:81", "--proxy", "none"]).stderr


def test_config_masks_passwords_and_the_values_of_a_query() -> None:
    url = f"https://u:{SECRET}@auth.example/check?token=abc&kind=stats"
    for form in ([], ["--json"]):
        shown = CliRunner().invoke(cli, ["config", "--version", "v1", "--authorize-url", url, *form]).output
        assert "hunter" not in shown
        assert "abc" not in shown
        assert "auth.example/check?token=…" in shown
    wrong = CliRunner().invoke(cli, ["config", "--version", "v1", "--authorize-url", "x://h?token=abc"])
    assert "abc" not in f"{wrong.output} {wrong.stderr} {wrong.exception}"
    assert without_secrets("backend", "redis://:pw@h/0?db=1") == "redis://…@h/0?db=1"
