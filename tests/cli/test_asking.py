"""`headcount stats`, `release` and `wait`: real processes against a real server."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest

from headcount.cli.target import without_dashboard
from kit.listener import Listener
from kit.pages import Sse, WebSocket, all_of, ask, everybody_leaves

from .processes import TOKEN, VERSION, Serve
from .running import Command, run
from .terminal import Terminal

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def shared() -> Iterator[Serve]:
    with Serve(stats_interval=0.02) as server:
        yield server


@pytest.fixture
async def server(shared: Serve) -> AsyncIterator[Serve]:
    yield shared
    await everybody_leaves(politely=True)
    async with asyncio.timeout(20):
        while (await ask(shared.origin, "GET", "/__skew/admin/stats", None, AUTH))[1]["total"]:
            await asyncio.sleep(0.01)


AUTH = {"Authorization": f"Bearer {TOKEN}"}


async def command(*arguments: str, **options: object) -> tuple[int, str, str]:
    done = await asyncio.to_thread(run, *arguments, **options)  # type: ignore[arg-type]
    return done.returncode, done.stdout, done.stderr


async def pages(server: Serve, *versions: str, route: str = "/") -> list[Sse]:
    return [await Sse.open(server.origin, version=version, route=route) for version in versions]


def waiting(server: Serve, *arguments: str) -> Command:
    return Command("wait", server.url, "--token", TOKEN, *arguments)


async def test_stats_of_a_server_that_cannot_reach_its_store_send_to_the_log() -> None:
    with Serve(backend="redis://127.0.0.1:1/0") as alone:
        async with asyncio.timeout(20):
            while True:
                code, out, _ = await command("stats", alone.url, "--token", TOKEN)
                if "Partial" in out:
                    break
    assert code == 0
    assert out == (
        "0 connections\nPartial: other nodes may be missing; see the server's log for the reason.\n"
        f"Current version not known: nodes have not served {VERSION} for long enough, and no release was declared; "
        "wait, or declare one: headcount release VERSION URL.\n"
    )


async def test_stats_shows_figures_to_people(server: Serve) -> None:
    await pages(server, "v1", "v1", "v2", route="/shopping")
    code, out, err = await command("stats", server.origin, "--token", TOKEN, "--list")
    assert (code, err) == (0, "")
    assert out.startswith("3 connections\n")
    assert "v1                  2  66.7%  ██████████▋\n" in out
    assert "/shopping           3 100.0%  ████████████████\n" in out
    assert out.count("/shopping") == 4
    assert "\x1b" not in out


async def test_stats_as_json_is_what_the_server_says(server: Serve) -> None:
    await pages(server, "v1")
    code, out, _ = await command("stats", server.url, "--json", env={"HEADCOUNT_TOKEN": TOKEN})
    assert code == 0
    assert json.loads(out) == (await ask(server.origin, "GET", "/__skew/admin/stats", None, AUTH))[1]
    assert out.count("\n") == 1


async def test_stats_takes_its_url_and_options_from_the_environment(server: Serve) -> None:
    env = {"HEADCOUNT_URL": server.origin, "HEADCOUNT_ADMIN_TOKEN": TOKEN, "HEADCOUNT_JSON": "1"}
    code, out, _ = await command("stats", env=env)
    assert code == 0
    assert json.loads(out)["total"] == 0


async def test_headers_from_the_environment_stand_on_lines_of_their_own(server: Serve) -> None:
    env = {"HEADCOUNT_URL": server.origin, "HEADCOUNT_HEADER": f"X-Trace: of a test\nAuthorization: Bearer {TOKEN}"}
    code, out, err = await command("stats", env=env)
    assert (code, err) == (0, "")
    assert out.startswith("0 connections")


@pytest.mark.parametrize(
    ("url", "base_path", "expected"),
    [
        ("127.0.0.1:8000/__skew/dashboard/", None, "127.0.0.1:8000/__skew"),
        ("127.0.0.1:8000/__skew/dashboard", None, "127.0.0.1:8000/__skew"),
        ("https://shop.example/a/__skew/dashboard/index.html?x=1#top", None, "https://shop.example/a/__skew"),
        ("https://shop.example/live/dashboard/", None, "https://shop.example/live"),
        ("https://shop.example/live/dashboard#top", "/live", "https://shop.example/live"),
        # The word may belong to the base path.
        ("https://shop.example/live/dashboard", None, "https://shop.example/live/dashboard"),
        ("https://shop.example/live/dashboard/", "/live/dashboard", "https://shop.example/live/dashboard/"),
        ("https://shop.example/dashboard/dashboard/", None, "https://shop.example/dashboard"),
        ("https://shop.example/dashboard/", None, "https://shop.example/dashboard/"),
        ("shop.example/dashboard", "/dashboard", "shop.example/dashboard"),
        ("shop.example/dashboard/dashboard", "/dashboard", "shop.example/dashboard"),
        ("https://dashboard/", None, "https://dashboard/"),
        ("https://shop.example/?next=/__skew/dashboard/", None, "https://shop.example/?next=/__skew/dashboard/"),
        ("localhost:8000", None, "localhost:8000"),
    ],
)
def test_the_url_of_the_dashboard_stands_for_its_server(url: str, base_path: str | None, expected: str) -> None:
    assert without_dashboard(url, base_path) == expected


async def test_every_command_takes_the_url_of_the_dashboard(server: Serve) -> None:
    url = f"{server.origin.removeprefix('http://')}/__skew/dashboard/#/"
    for arguments in (
        ["stats", url],
        ["nodes", url],
        ["release", VERSION, url],
        ["wait", url, "--version", "old"],
        ["swarm", url, "--connections", "1", "--duration", "1s"],
    ):
        code, _, err = await command(*arguments, "--token", TOKEN)
        assert code == 0, err


def test_sentences_are_broken_between_words_on_a_terminal() -> None:
    for arguments, code in (("stats http://127.0.0.1:9/that/is/a/long/path", 1), ("wait http://127.0.0.1:9", 2)):
        with Terminal(*arguments.split(), columns=60) as terminal:
            assert terminal.end() == code
            lines = [line.rstrip("\r") for line in terminal.text.splitlines()]
        assert max(map(len, lines)) <= 60
        assert len([line for line in lines if line]) > 1


async def test_labels_can_do_no_harm_in_a_terminal(server: Serve) -> None:
    await pages(server, "v1", route="/\u200e" + "長" * 300)
    code, out, _ = await command("stats", server.url, "--token", TOKEN)
    assert code == 0
    assert "\u200e" not in out
    assert "/�長" in out
    assert all(len(line) + line.count("長") <= 80 for line in out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["stats", "{url}"], 1, "give the server's admin token with --token or HEADCOUNT_TOKEN"),
        (["stats", "{url}", "--token", "wrong"], 1, "the server does not accept this token"),
        (["stats", "{url}", "--cookies", "role=nobody"], 1, "sign in as a user whom authorize_stats allows"),
        (
            ["stats", "{url}/elsewhere", "--token", TOKEN],
            1,
            "try http://{address}/__skew, or give the URL",
        ),
        (["stats", "{url}", "--token", "wrong"], 1, "accepts none; give the --cookies of a signed-in user"),
        (["stats", "{url}"], 1, "accepts none; give the --cookies of a signed-in user"),
        (["wait", "{url}", "--version", "a", "--version", "b"], 2, "--version is given more than once"),
        (["wait", "{url}", "--not-version", "a", "--not-version=b"], 2, "--not-version is given more than once"),
        (["wait", "{url}", "--outdated", "--below", "5", "--at-most", "9"], 2, "is given more than once"),
        (["wait", "{url}", "--outdated", "--token", "a", "--token", "b"], 2, "--token is given more than once"),
        (["release", "v9", "{url}", "--token", "a", "--token", "b"], 2, "--token is given more than once"),
        (["nodes", "{url}", "--token", "a", "--token", "b"], 2, "--token is given more than once"),
        (["doctor", "{url}", "--hold", "1s", "--hold", "2s"], 2, "--hold is given more than once"),
        (["stats", "http://127.0.0.1:9"], 1, "no server is listening"),
        (["stats", "https://{address}"], 1, "the server does not use TLS; write http:// if that is intended"),
        (["stats", "ftp://example.com"], 2, "write it as https://www.example.com"),
        (["stats"], 2, "Missing argument 'URL'. Give it, or set HEADCOUNT_URL."),
        (["stats", "{url}", "--header", "nonsense"], 2, "write it as 'X-Name: value'"),
        (["stats", "8000"], 2, "write it as http://localhost:8000"),
        (["stats", "{url}", "--token", "two\nlines"], 2, "The token is empty, or contains a line break"),
        (["stats", "{url}", "--cookies", "nonsense"], 2, "write it as 'name=value; name=value'"),
        (["stats", "{url}", "--base-path", "live"], 2, "write it with a leading and no trailing slash"),
        (["stats", "{url}", "--proxy", "nonsense"], 2, "write it as http://proxy.example.com:3128"),
        (["stats", "https://{address}", "--ca-file", __file__], 2, "give a file in PEM format"),
        (["wait", "ftp://example.com", "--outdated"], 2, "write it as https://www.example.com"),
        (["release", "{url}"], 1, "not authorised"),
        (["release", "{address}"], 1, "not authorised"),
        (
            ["release", "v9"],
            2,
            "'v9' was read as VERSION, so URL is missing; give URL after it, or set HEADCOUNT_URL. If v9 is the URL,",
        ),
        (["release", "{url}", "v9"], 2, "Give the version first"),
        (["release", "", "{url}", "--token", TOKEN], 2, "give the build id"),
        (["release", "unknown", "{url}", "--token", TOKEN], 2, "send the build id of a deploy"),
        (["release", "v9", "{url}"], 1, "not authorised"),
        (["wait", "{url}", "--token", TOKEN], 2, "none is given"),
        (["wait", "{url}", "--version", ""], 2, "--version is empty"),
        (["wait", "{url}", "--version", "a", "--outdated"], 2, "--version and --outdated are given"),
        (["wait", "{url}", "--outdated", "--below", "many"], 2, "write it as 5 or 1%"),
        (["wait", "{url}", "--outdated", "--below", "101%"], 2, "give 0% to 100%"),
        (["wait", "{url}", "--outdated", "--below", "5", "--of", "100"], 2, "--of 100 needs a percentage"),
        (["wait", "{url}", "--outdated", "--below", "1%", "--of", "0"], 2, "x>=1"),
        (["wait", "{url}", "--outdated", "--for", "soon"], 2, "write it as 30s, 10m or 1h30m"),
        (["wait", "{url}", "--outdated", "--token", "wrong"], 1, "not authorised"),
        (["wait", "{url}", "--outdated", "--require-seen"], 2, "--require-seen checks the spelling of --version"),
        (["wait", "{url}", "-V", "1"], 2, "No such option '-V'. Did you mean '--version'?"),
        (["wait", "{url}", "--tokn", "1"], 2, "No such option '--tokn'. Did you mean '--token'?"),
        (["stats", "{url}", "--nothing-like-it"], 2, "No such option '--nothing-like-it'.\n"),
        (["wait", "{url}", "--outdated", "--for", "40m"], 2, "--for 40 min is longer than --timeout 30 min"),
        (["wait", "http://127.0.0.1:9", "--outdated", "--lost-after", "0", "--timeout", "1s"], 4, "Timed out"),
        (["wait", "{url}/elsewhere", "--outdated"], 1, "try http://{address}/__skew"),
        (["wait", "http://127.0.0.1:9", "--outdated", "--timeout", "1s"], 4, "no contact with the server"),
        (["wait", "http://127.0.0.1:9", "--outdated", "--lost-after", "1s"], 4, "No contact with the server for"),
        (["nonsense"], 2, "There is no command 'nonsense'."),
        (["release", "127.0.0.1:8000", "{url}"], 2, "'127.0.0.1:8000' is a URL, not a version. Give the version first"),
        (["release", "[::1]:8000", "{url}"], 2, "Give the version first"),
        (["release", "app.example.com/live", "https://app.example.com"], 2, "Give the version first"),
        (["serv"], 2, "There is no command 'serv'. Did you mean 'serve'?"),
    ],
)
async def test_what_goes_wrong_is_said_in_a_sentence(
    server: Serve, arguments: list[str], code: int, words: str
) -> None:
    def fill(text: str) -> str:
        return text.format(url=server.url, address=server.origin.removeprefix("http://"))

    told, out, err = await command(*map(fill, arguments))
    assert (told, out) == (code, "")
    assert fill(words) in err
    assert "Traceback" not in err


async def test_release_tells_pages_and_those_who_come_later(server: Serve) -> None:
    [page] = await pages(server, VERSION)
    code, out, said = await command("release", "2026.11.4", server.url, "--token", TOKEN)
    assert (code, out) == (1, "")
    assert f"No node serves version 2026.11.4; nodes serve {VERSION}. Check the spelling." in said
    assert not page.of_type("version")
    code, out, _ = await command("release", "2026.11.4", server.url, "--token", TOKEN, "--unserved")
    assert (code, out) == (0, "2026.11.4 is current; 1 page received it.\n")
    await page.until(lambda one: bool(one.of_type("version")))
    assert page.of_type("version")[0]["version"] == "2026.11.4"
    old, new = await pages(server, VERSION, "2026.11.4")
    await old.until(lambda one: bool(one.of_type("version")))
    socket = await WebSocket.open(server.origin, version=VERSION)
    await socket.until(lambda one: bool(one.of_type("version")))
    assert not new.of_type("version"), "it is there already"
    code, out, _ = await command("release", VERSION, server.url, "--token", TOKEN, "--json")
    nodes = {"reached": 1, "expected": 1}
    # `page`, the two that came later, and the WebSocket.
    assert code == 0
    answer = {"ok": True, "version": VERSION, "told": 4, "nodes": nodes, "partial": False, "alreadyCurrent": False}
    answer["unreached"] = []
    assert json.loads(out) == answer
    code, out, _ = await command("release", VERSION, server.url, "--token", TOKEN, "--json")
    assert (code, json.loads(out)) == (0, {**answer, "told": 0, "alreadyCurrent": True})
    code, out, _ = await command("release", VERSION, server.url, "--token", TOKEN)
    assert (code, out) == (0, f"{VERSION} was current already; no page had to receive it.\n"), "a node serves it"
    await page.until(lambda one: len(one.of_type("version")) == 2)


async def test_wait_returns_when_the_last_has_gone(server: Serve) -> None:
    old = await pages(server, "old", "old", "new")
    with waiting(server, "--version", "old") as command:
        await asyncio.to_thread(command.until, "2 of 3 connections on version old")
        await old[0].leave()
        await old[1].leave()
        assert await asyncio.to_thread(command.end) == 0
        assert "Done: 0 of 1 connection on version old, after " in command.output


async def test_wait_shows_on_one_line_how_far_it_is_and_how_long_it_takes(server: Serve) -> None:
    old = await pages(server, *["old"] * 40)
    arguments = ["wait", server.url, "--token", TOKEN, "--version", "old", "--below", "5%"]
    with Terminal(*arguments, columns=70) as terminal:
        await asyncio.to_thread(terminal.until, "   0% 40 of 40 on version old, limit 5% of 40")
        while " s to go, " not in terminal.text:
            await old.pop().leave()
            await asyncio.sleep(0.35)
            terminal.read()
        assert "/min" in terminal.text
        assert "█" in terminal.text
        assert "\n" not in terminal.text, "it is written over"
        for page in old:
            await page.leave()
        assert await asyncio.to_thread(terminal.end) == 0
        assert "Done: 0 of 0 connections on version old, after " in terminal.text


async def test_wait_holds_at_once_when_nobody_is_there(server: Serve) -> None:
    code, out, _ = await command("wait", server.url, "--token", TOKEN, "--version", "old", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["waitedMs"] >= 0
    assert told | {"waitedMs": 0} == {
        "ok": True,
        "exitCode": 0,
        "reason": "It holds.",
        "left": 0,
        "most": 0,
        "total": 0,
        "bound": "0",
        "waitedMs": 0,
        "unaccounted": 0,
        "away": 0,
    }


async def test_wait_takes_pages_that_broke_off_for_pages_that_come_back() -> None:
    """As when a load balancer starts anew, which ends all streams at once."""
    with Serve(stats_interval=0.02) as own:
        old = await pages(own, *["old"] * 3)
        with Command("wait", own.url, "--token", TOKEN, "--version", "old", env={"HEADCOUNT_FOR": ""}) as command:
            for _ in range(2):
                await asyncio.to_thread(command.until, "3 of 3 connections on version old, limit")
                for page in old:
                    page.fin()
                await asyncio.to_thread(
                    command.until, "0 of 0 connections on version old, 3 pages broke off and may return within 48 s"
                )
                await asyncio.sleep(3)
                old = await all_of([Sse.open(own.url, version="old", route="/", replaces=page.handle) for page in old])
            await asyncio.to_thread(command.until, "3 of 3 connections on version old, limit")
            assert command.process.poll() is None, command.output


async def test_by_default_wait_holds_for_half_of_a_short_timeout() -> None:
    with Serve() as own:  # after 48 s a server knows which pages are away, and the time is another one
        arguments = ["wait", own.url, "--token", TOKEN, "--version", "old", "--json", "--timeout", "8s"]
        code, out, _ = await command(*arguments, env={"HEADCOUNT_FOR": ""})
    assert code == 0
    assert json.loads(out)["waitedMs"] >= 4_000


async def test_wait_says_that_it_saw_nobody_on_a_version(server: Serve) -> None:
    await pages(server, "new")
    code, out, _ = await command("wait", server.url, "--token", TOKEN, "--version", "nwe")
    assert code == 0
    assert out.splitlines()[1:] == ["No page was seen on version nwe; check the spelling."]
    code, out, _ = await command("wait", server.url, "--token", TOKEN, "--version", "new", "--below", "1")
    assert code == 0
    assert "No page" not in out


async def test_wait_fails_on_a_version_that_nobody_knows_if_it_is_to_have_been_seen(server: Serve) -> None:
    await pages(server, "new")
    words = ("--token", TOKEN, "--require-seen", "--json", "--for", "0.1s")
    code, out, err = await command("wait", server.url, "--version", "nwe", *words)
    assert (code, json.loads(out)["ok"], json.loads(out)["exitCode"]) == (1, False, 1)
    assert "No page was seen on version nwe, and no node serves it; check the spelling." in " ".join(err.split())
    for known in ("new", VERSION):
        code, out, _ = await command("wait", server.url, "--version", known, "--below", "1", *words)
        assert (code, json.loads(out)["ok"]) == (0, True), known


async def test_wait_does_not_call_unknown_figures_zero() -> None:
    code, out, _ = await command("wait", "http://127.0.0.1:9", "--outdated", "--timeout", "1s", "--json")
    assert code == 4
    told = json.loads(out)
    assert (told["left"], told["total"]) == (None, None)


@pytest.mark.parametrize(
    ("versions", "arguments", "code"),
    [
        (["old", "new"], ["--version", "old", "--below", "1"], 0),
        (["old", "old", "new"], ["--version", "old", "--below", "1"], 3),
        (["old", "new"], ["--version", "old", "--at-most", "1"], 0),
        (["old", "new"], ["--version", "old", "--below", "100%"], 0),
        (["old", "new"], ["--version", "old", "--below", "50%"], 3),
        (["old", "old", "new"], ["--version", "old", "--below", "50%"], 3),
        (["old", "old", "new"], ["--version", "old", "--below", "1%", "--of", "200"], 0),
        (["old", "old", "new"], ["--version", "old", "--below", "1%", "--of", "199"], 3),
        (["new", "new"], ["--not-version", "new"], 0),
        (["new", ""], ["--not-version", "new"], 3),
        ([VERSION], ["--outdated"], 0),
        ([VERSION, "old"], ["--outdated"], 3),
        ([VERSION, ""], ["--outdated"], 3),
    ],
)
async def test_wait_knows_whom_it_waits_for(
    server: Serve, versions: list[str], arguments: list[str], code: int
) -> None:
    await pages(server, *versions)
    patience = "20s" if code == 0 else "8s"
    told, out, err = await command("wait", server.url, "--token", TOKEN, *arguments, "--timeout", patience, "--json")
    assert told == code, err
    answer = json.loads(out)
    assert answer["exitCode"] == code
    if "--of" in arguments:
        assert (answer["bound"], answer["of"]) == ("1%", int(arguments[-1]))
    if code == 3:
        assert "Timed out" in err


async def test_outdated_is_judged_by_the_released_version(server: Serve) -> None:
    with Serve() as own:
        await pages(own, VERSION)
        with waiting(own, "--outdated") as command:
            assert await asyncio.to_thread(command.end) == 0
        await asyncio.to_thread(run, "release", "2026.11.4", own.url, "--token", TOKEN, "--unserved")
        with waiting(own, "--outdated", "--timeout", "4s") as command:
            assert await asyncio.to_thread(command.end) == 3
            assert "still outdated" in command.output
        await everybody_leaves()


async def test_who_gives_for_decides_whether_wait_counts_pages_that_broke_off() -> None:
    with Serve(stats_interval=0.02) as own:
        for page in await pages(own, "old", "old"):
            page.fin()
        async with asyncio.timeout(20):
            while (await ask(own.origin, "GET", "/__skew/admin/stats", None, AUTH))[1].get("away") != {"old": 2}:
                await asyncio.sleep(0.02)
        with waiting(own, "--version", "old", "--for", "0.1s") as command:
            assert await asyncio.to_thread(command.end) == 0
        assert "Did not wait for 2 pages that broke off; they may return within 48 s." in " ".join(
            command.output.split()
        )
        with waiting(own, "--version", "old", "--for", "0.1s", "--include-away", "--timeout", "2s") as command:
            assert await asyncio.to_thread(command.end) == 3
        said = " ".join(command.output.split())
        assert "2 pages broke off and may return within 48 s. They count against the limit of 0;" in said
        assert "--exclude-away leaves them out." in said
        await pages(own, "old")
        with waiting(own, "--version", "old", "--exclude-away", "--timeout", "1.2s") as command:
            assert await asyncio.to_thread(command.end) == 3
        assert "Timed out: 1 of 1 connection is still on version old; the limit is 0." in " ".join(
            command.output.split()
        )


async def test_wait_must_hold_for_as_long_as_told(server: Serve) -> None:
    with waiting(server, "--version", "old", "--for", "2s") as command:
        await asyncio.to_thread(command.until, "within the limit for 0 s of 2 s")
        [page] = await pages(server, "old")
        await asyncio.to_thread(command.until, "1 of 1 connection on version old, limit 0")
        await page.leave()
        started = asyncio.get_running_loop().time()
        assert await asyncio.to_thread(command.end) == 0
        assert asyncio.get_running_loop().time() - started >= 1.9
        assert command.output.count("within the limit for 0 s of 2 s") == 2


@pytest.mark.parametrize(
    ("arguments", "env", "selected"),
    [
        ([], {"HEADCOUNT_VERSION": "old"}, "on version old"),
        ([], {"HEADCOUNT_NOT_VERSION": "old"}, "not on version old"),
        (["--not-version", "a"], {"HEADCOUNT_VERSION": "old"}, "not on version a"),
        (["--outdated"], {"HEADCOUNT_VERSION": "old", "HEADCOUNT_NOT_VERSION": "b"}, "outdated"),
    ],
)
async def test_the_command_line_wins_over_the_environment(
    server: Serve, arguments: list[str], env: dict[str, str], selected: str
) -> None:
    code, out, _ = await command("wait", server.url, "--token", TOKEN, *arguments, env=env)
    assert code == 0
    assert f"0 connections {selected}," in out


async def test_two_wishes_in_the_environment_are_one_too_many(server: Serve) -> None:
    env = {"HEADCOUNT_VERSION": "old", "HEADCOUNT_NOT_VERSION": "new"}
    code, _, err = await command("wait", server.url, "--token", TOKEN, env=env)
    assert code == 2
    assert "--version and --not-version are given" in err


@pytest.mark.parametrize("strategy", ["sse", "ws"])
async def test_a_server_that_is_gone_is_no_zero(strategy: str) -> None:
    with Serve() as own:
        arguments = ["--version", "old", "--for", "3s", "--lost-after", "5s", "--update-strategy", strategy]
        with waiting(own, *arguments) as command:
            await asyncio.to_thread(command.until, "within the limit for 0 s of 3 s")
            await asyncio.to_thread(own.stop, gently=False)
            await asyncio.to_thread(command.until, "no contact with the server")
            assert await asyncio.to_thread(command.end) == 4
            assert "No contact with the server for" in command.output


async def test_wait_goes_on_after_a_restart(server: Serve) -> None:
    with Serve(reconnect_spread=0.1) as own:
        await pages(own, "old")
        with waiting(own, "--version", "old", "--for", "1s") as command:
            await asyncio.to_thread(command.until, "1 of 1 connection on version old")
            await asyncio.to_thread(own.stop)
            await asyncio.to_thread(command.until, "no contact with the server")
            await asyncio.to_thread(own.start)
            assert await asyncio.to_thread(command.end) == 0


async def test_a_stream_that_hangs_is_not_believed(server: Serve) -> None:
    """The process is stopped: its sockets stay open, and its last figures would hold for ever."""
    with Serve() as own:
        with waiting(own, "--version", "old", "--for", "1s", "--timeout", "4s") as command:
            await asyncio.to_thread(command.until, "within the limit for 0 s of 1 s")
            assert own.command is not None
            own.command.signal(signal.SIGSTOP)
            code = await asyncio.to_thread(command.end)
            own.command.signal(signal.SIGCONT)
        assert code == 4, command.output


async def test_two_applications_at_one_address_never_open_the_gate() -> None:
    """The stream is at one that has no old page, and requests are answered by the other."""
    with Serve(stats_interval=0.02) as empty, Serve(stats_interval=0.02) as full:
        await pages(full, *["old"] * 5)

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n")
            server = empty if b"/ws" in head or b"/sse" in head else full
            upstream = await balancer.connect(int(server.origin.rpartition(":")[2]))
            upstream[1].write(head)
            await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))

        async with Listener(relay) as balancer:
            started = time.monotonic()
            code, out, said = await command(
                "wait", balancer.url, "--token", TOKEN, "--version", "old", "--timeout", "6s"
            )
            assert time.monotonic() - started < 30, "as soon as --timeout is over"
        assert (code, out) == (3, "")
        assert "5 of 5 connections are still on version old" in said
        assert "Two applications may answer" in " ".join(said.split())
        assert said.count("\n") < 20, "it says the same but once"
        await everybody_leaves()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def test_a_fleet_that_is_not_whole_is_no_zero() -> None:
    """The worker that holds the only old page is stopped: its share goes, and what is left is no proof."""
    with Serve(workers=2, stats_interval=0.02) as own:
        [page] = await pages(own, "old")
        with waiting(own, "--version", "old") as command:
            await asyncio.to_thread(command.until, "1 of 1 connection on version old")
            watched = _worker_of(own, command.process.pid)
            while (holder := _worker_of(own, os.getpid())) == watched:
                # Both are at one worker; another page may land on the other. It comes first, or the gate would open.
                [other] = await pages(own, "old")
                await page.leave()
                page = other
            holder.suspend()
            try:
                # A busy machine may miss the first reason and print the second one, which holds a few seconds later.
                await asyncio.to_thread(
                    command.until,
                    r"Waiting: (figures are partial \(1 of 2 nodes are reporting\)|node \w+ has been stopped)",
                    30,
                )
                command.forget()
                deadline = time.monotonic() + 10
                while time.monotonic() < deadline:  # its figures go meanwhile
                    assert command.process.poll() is None, command.output
                    await asyncio.sleep(0.1)
            finally:
                holder.resume()
            await asyncio.to_thread(command.until, "1 of 1 connection on version old")
            await page.leave()
            assert await asyncio.to_thread(command.end) == 0
        await everybody_leaves()


def _worker_of(server: Serve, client: int) -> psutil.Process:
    """Return the worker to which a process has its last connection."""
    assert server.command is not None
    for mine in reversed(psutil.Process(client).net_connections("tcp")):
        for worker in psutil.Process(server.command.process.pid).children():
            for connection in worker.net_connections("tcp"):
                if connection.raddr and connection.raddr == mine.laddr and connection.status == "ESTABLISHED":
                    return worker
    raise AssertionError("no worker has a connection of that process")


async def test_ctrl_c_ends_waiting_with_a_document_where_one_is_promised(server: Serve) -> None:
    await pages(server, "old", "old")
    with waiting(server, "--version", "old", "--json") as command:
        await asyncio.to_thread(command.until, "2 of 2 connections on version old")
        command.signal(signal.SIGINT)
        assert await asyncio.to_thread(command.end) == 130
    result = json.loads(command.output.splitlines()[-1])
    assert (result["ok"], result["exitCode"], result["left"], result["total"]) == (False, 130, 2, 2)
    assert result["reason"] == "Interrupted by Ctrl-C."
    assert "headcount:" not in command.output, "who pressed Ctrl-C knows"


async def test_ctrl_c_without_contact_says_that_nothing_is_known(server: Serve) -> None:
    with Command("wait", "http://127.0.0.1:9", "--outdated", "--json") as command:
        await asyncio.to_thread(command.until, "no contact with the server")
        command.signal(signal.SIGINT)
        assert await asyncio.to_thread(command.end) == 130
    result = json.loads(command.output.splitlines()[-1])
    assert (result["exitCode"], result["left"], result["total"]) == (130, None, None)


async def test_ctrl_c_ends_waiting(server: Serve) -> None:
    await pages(server, "old")
    with waiting(server, "--version", "old") as command:
        await asyncio.to_thread(command.until, "1 of 1")
        command.signal(signal.SIGINT)
        assert await asyncio.to_thread(command.end) == 130
        assert "Traceback" not in command.output
