"""`headcount wait --release`: real processes against a real server."""

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
    with Serve(version="v2", stats_interval=0.02) as one:
        yield one


@pytest.fixture
async def old(server: Serve) -> AsyncIterator[Sse]:
    yield await Sse.open(server.origin, version="v1", route="/")
    await everybody_leaves()


def waiting(server: Serve, *words: str) -> Command:
    return Command("wait", server.url, "--token", TOKEN, "--release", *words)


async def declare(server: Serve, version: str) -> None:
    done = await asyncio.to_thread(run, "release", version, server.url, "--token", TOKEN, "--unserved")
    assert done.returncode == 0, done.stderr


async def test_it_waits_for_the_release_and_then_for_the_outdated_pages(server: Serve, old: Sse) -> None:
    with waiting(server, "v3", "--json") as command:
        await asyncio.to_thread(command.until, "Waiting: v2 is current, not v3")
        await declare(server, "v3")
        await asyncio.to_thread(command.until, "1 of 1 connection outdated, limit 0")
        await old.leave()
        assert await asyncio.to_thread(command.end) == 0
    answer = json.loads(next(line for line in command.output.splitlines() if line.startswith("{")))
    assert (answer["ok"], answer["left"], answer["most"]) == (True, 0, 1)


async def test_a_settled_version_is_current_as_well(server: Serve) -> None:
    with waiting(server, "v2") as command:
        assert await asyncio.to_thread(command.end) == 0
        assert "Done: 0 of 0 connections outdated, after " in command.output


@pytest.mark.parametrize("begin", ["v1", "v3"])
async def test_another_declaration_ends_it(server: Serve, old: Sse, begin: str) -> None:
    """Whether or not the version that is waited for was current before."""
    await declare(server, begin)
    with waiting(server, "v3") as command:
        await asyncio.to_thread(
            command.until, "v1 is current, not v3" if begin == "v1" else "1 of 1 connection outdated"
        )
        await declare(server, "v4")
        assert await asyncio.to_thread(command.end) == 3
        assert "v4 was declared in place of v3." in command.output


async def test_a_timeout_says_which_version_is_current(server: Serve) -> None:
    with waiting(server, "v3", "--timeout", "2s", "--json") as command:
        assert await asyncio.to_thread(command.end) == 3
    assert "Timed out: v2 is current, not v3." in command.output
    answer = json.loads(next(line for line in command.output.splitlines() if line.startswith("{")))
    assert (answer["ok"], answer["left"], answer["total"]) == (False, None, 0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([""], "--release is empty; give the build id"),
        (["v3", "--outdated"], "Give exactly one of --version, --not-version, --outdated and --release"),
        (["v3", "--require-seen"], "--require-seen checks the spelling of --version"),
    ],
)
def test_what_contradicts_itself_is_wrong_usage(words: list[str], sentence: str) -> None:
    done = run("wait", "http://127.0.0.1:9", "--release", *words)
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())
