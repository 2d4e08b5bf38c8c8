"""`headcount release --over`, `--percent`, `--route`, `--pause`, `--resume` and `--abort`: real processes."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from kit.pages import Sse, everybody_leaves

from .processes import TOKEN, Serve
from .running import Command, run

pytestmark = pytest.mark.anyio


@pytest.fixture
def server() -> Iterator[Serve]:
    with Serve(version="v2") as one:
        yield one


@pytest.fixture
async def pages(server: Serve) -> AsyncIterator[list[Sse]]:
    yield [await Sse.open(server.origin, version="v1", route=f"/{number % 2}") for number in range(40)]
    await everybody_leaves()


def told(pages: list[Sse]) -> int:
    return sum(bool(page.of_type("version")) for page in pages)


async def ask(server: Serve, *words: str) -> tuple[int, str, str]:
    done = await asyncio.to_thread(run, "release", *words, server.url, "--token", TOKEN)
    return done.returncode, done.stdout, done.stderr


async def test_stages_are_followed_to_the_end_and_counted(server: Serve, pages: list[Sse]) -> None:
    words = ("release", "v2", server.url, "--token", TOKEN, "--over", "4s", "--json")
    with Command(*words) as releasing:
        async with asyncio.timeout(30):
            while not (asked := [page for page in pages if page.of_type("version")]):
                await asyncio.sleep(0.02)
        first = asked[0]
        assert await first.post(server.origin, "/release-reply", version="v2", reply="deferred", reason="form") == 200
        assert await asyncio.to_thread(releasing.wait) == 0
        answer = json.loads(next(line for line in releasing.output.splitlines() if line.startswith("{")))
    assert told(pages) == 40
    rollout = answer["rollout"]
    assert (answer["ok"], answer["exitCode"], answer["version"]) == (True, 0, "v2")
    assert (rollout["state"], rollout["invited"], rollout["outdated"], rollout["waiting"]) == ("done", 40, 40, 0)
    assert rollout["deferred"] == {"form": 1}
    assert "40 pages asked: 0 accepted, 1 deferred (form 1), 39 without an answer. 40 outdated." in answer["reason"]


async def test_a_stage_is_paused_resumed_and_aborted_from_another_terminal(server: Serve, pages: list[Sse]) -> None:
    with Command("release", "v2", server.url, "--token", TOKEN, "--over", "10m") as releasing:
        await asyncio.to_thread(releasing.until, "asked")
        assert await ask(server, "--pause") == (0, "Paused the staged release of v2.\n", "")
        await asyncio.to_thread(releasing.until, "Paused. ")
        assert await ask(server, "--resume") == (0, "Resumed the staged release of v2.\n", "")
        assert await ask(server, "--abort") == (0, "Aborted the staged release of v2.\n", "")
        assert await asyncio.to_thread(releasing.wait) == 3
        assert "The staged release of v2 was aborted." in releasing.output
    code, out, err = await ask(server, "--resume")
    assert (code, out) == (1, "")
    assert "was aborted; declare it again to ask further pages." in " ".join(err.split())


async def test_a_share_on_one_route_is_asked_and_the_command_does_not_wait(server: Serve, pages: list[Sse]) -> None:
    code, out, err = await ask(server, "v2", "--percent", "100", "--route", "/1", "--detach")
    assert (code, out, err) == (0, "v2 is current, and pages are asked in stages.\n", "")
    async with asyncio.timeout(10):
        while told(pages) < 20:
            await asyncio.sleep(0.02)
    assert told(pages[1::2]) == 20, "those on /1"


async def test_another_release_ends_the_command(server: Serve, pages: list[Sse]) -> None:
    with Command("release", "v2", server.url, "--token", TOKEN, "--over", "10m") as releasing:
        await asyncio.to_thread(releasing.until, "asked")
        assert (await ask(server, "v3", "--unserved"))[0] == 0
        assert await asyncio.to_thread(releasing.wait) == 3
        assert "v3 was declared in place of v2." in releasing.output


async def test_ctrl_c_leaves_the_release_running_and_says_so(server: Serve, pages: list[Sse]) -> None:
    with Command("release", "v2", server.url, "--token", TOKEN, "--over", "1s", "--percent", "50") as releasing:
        await asyncio.to_thread(releasing.until, "asked")
        releasing.ctrl_c()
        assert await asyncio.to_thread(releasing.wait) in (0, 130)
        if releasing.process.returncode == 130:
            assert "The release goes on" in " ".join(releasing.output.split())
    async with asyncio.timeout(20):
        while told(pages) < 5:
            await asyncio.sleep(0.02)


async def test_a_server_that_is_lost_ends_the_command(server: Serve, pages: list[Sse]) -> None:
    words = ("release", "v2", server.url, "--token", TOKEN, "--over", "10m", "--lost-after", "1s")
    with Command(*words) as releasing:
        await asyncio.to_thread(releasing.until, "asked")
        await asyncio.to_thread(server.stop)
        assert await asyncio.to_thread(releasing.wait) == 4
        assert "No contact with the server for" in releasing.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["v1", "127.0.0.1:9", "--pause"], "--pause changes the staged release that is current"),
        (["127.0.0.1:9", "--abort", "--over", "1m"], "--abort changes the staged release that is current"),
        (["127.0.0.1:9", "--pause", "--abort"], "--pause and --abort exclude one another"),
        (["v1", "127.0.0.1:9", "--detach"], "give one"),
        (["v1", "127.0.0.1:9", "--percent", "0"], "0<x<=100"),
        (["v1", "127.0.0.1:9", "--over", "soon"], "is not a duration"),
        (["v1", "127.0.0.1:9", "--over", "1m", "--timeout", "1m"], "--timeout limits the wait of --when-settled"),
    ],
)
def test_what_contradicts_itself_is_wrong_usage(arguments: list[str], words: str) -> None:
    done = run("release", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in " ".join(done.stderr.split())


def test_a_server_that_knows_no_stages_is_not_asked_to_release() -> None:
    """It would ignore the stage, and tell all pages at once."""
    done = run("release", "v2", "127.0.0.1:9", "--over", "1m")
    assert done.returncode == 1
    assert "connection refused" in done.stderr
