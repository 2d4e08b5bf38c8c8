"""`headcount release` without a version and with --when-settled: real processes against real fleets."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kit.pages import Sse
from kit.stores import Store

from .processes import TOKEN, VERSION, Serve
from .running import Command, run

pytestmark = pytest.mark.anyio


@pytest.fixture
def fleet() -> Iterator[tuple[Serve, Serve]]:
    """Two nodes of one fleet, on v1 and v2."""
    with ExitStack() as stack:
        store = stack.enter_context(Store())
        one, two = (
            stack.enter_context(Serve(backend=store.url, version=version, settle_time=1)) for version in ("v1", "v2")
        )
        yield one, two


async def test_the_version_of_the_whole_fleet_is_declared_when_the_last_node_serves_it(
    fleet: tuple[Serve, Serve],
) -> None:
    old, new = fleet
    page = await Sse.open(new.origin, version="v1", route="/")
    with Command("release", "v2", new.url, "--token", TOKEN, "--when-settled", "--json") as releasing:
        await asyncio.to_thread(releasing.until, "1 of 2 nodes serve it; 1 of 2 nodes serves v1")
        settled = await asyncio.to_thread(run, "release", new.url, "--token", TOKEN)
        assert settled.returncode == 1
        assert "The fleet has not settled on a version: nodes serve v1, v2." in settled.stderr
        assert not page.of_type("version"), "nothing is declared while a node serves another version"
        await asyncio.to_thread(old.stop)
        assert await asyncio.to_thread(releasing.wait) == 0
        answer = json.loads(next(line for line in releasing.output.splitlines() if line.startswith("{")))
    assert (answer["ok"], answer["version"], answer["nodes"]) == (True, "v2", {"reached": 1, "expected": 1})
    assert answer["waitedMs"] > 0
    await page.until(lambda one: bool(one.of_type("version")))


async def test_a_fleet_that_does_not_settle_in_time_is_told_and_nothing_is_declared(fleet: tuple[Serve, Serve]) -> None:
    page = await Sse.open(fleet[0].origin, version="v1", route="/")
    words = ("--token", TOKEN, "--when-settled", "--timeout", "6s")
    done = await asyncio.to_thread(run, "release", "v2", fleet[0].url, *words)
    assert (done.returncode, done.stdout) == (3, "")
    assert "Timed out: 1 of 2 nodes serves v1. Nothing was declared." in done.stderr
    as_json = await asyncio.to_thread(run, "release", "v2", fleet[0].url, *words, "--json")
    answer = json.loads(as_json.stdout)
    assert (as_json.returncode, answer["ok"], answer["exitCode"], answer["version"]) == (3, False, 3, "v2")
    assert not page.of_type("version")


async def test_without_a_version_the_settled_one_is_declared() -> None:
    with Serve() as server:
        page = await Sse.open(server.origin, version="old", route="/")
        one = await asyncio.to_thread(run, "release", server.url, "--token", TOKEN)
        assert (one.returncode, one.stdout) == (0, f"{VERSION} is current; 1 page received it.\n"), one.stderr
        await page.until(lambda one: bool(one.of_type("version")))
        environment = {"HEADCOUNT_URL": server.url, "HEADCOUNT_TOKEN": TOKEN}
        other = await asyncio.to_thread(run, "release", "next", "--unserved", env=environment)
        assert (other.returncode, other.stdout) == (0, "next is current; 1 page received it.\n"), other.stderr
        back = await asyncio.to_thread(run, "release", "--json", env=environment)
        assert (back.returncode, json.loads(back.stdout)["version"]) == (0, VERSION), "whatever was declared"


def test_a_state_file_keeps_the_declared_version_while_no_worker_runs(tmp_path: Path) -> None:
    with Serve(workers=2, state_file=tmp_path / "state.json") as server:
        assert run("release", "next", server.url, "--token", TOKEN, "--unserved").returncode == 0
        server.stop()
        server.start()
        stats = json.loads(run("stats", server.url, "--token", TOKEN, "--json").stdout)
    assert (stats["currentVersion"], stats["release"]["state"], stats["release"]["version"]) == (
        "next",
        "declared",
        "next",
    )


async def test_a_server_that_is_lost_ends_the_wait_with_its_own_code() -> None:
    with Serve() as server:
        words = ("--token", TOKEN, "--when-settled", "--lost-after", "1s")
        with Command("release", "v9", server.url, *words) as releasing:
            await asyncio.to_thread(releasing.until, f"the only node serves {VERSION}")
            await asyncio.to_thread(server.stop)
            assert await asyncio.to_thread(releasing.wait) == 4
            assert "No contact with the server for" in releasing.output


async def test_ctrl_c_ends_the_wait_and_declares_nothing() -> None:
    with Serve() as server:
        page = await Sse.open(server.origin, version="v1", route="/")
        with Command("release", "v9", server.url, "--token", TOKEN, "--when-settled") as releasing:
            await asyncio.to_thread(releasing.until, f"the only node serves {VERSION}")
            releasing.ctrl_c()
            assert await asyncio.to_thread(releasing.wait) == 130
        assert not page.of_type("version")


def test_a_wrong_token_ends_the_wait_at_once() -> None:
    with Serve() as server:
        done = run("release", VERSION, server.url, "--token", "wrong", "--when-settled")
    assert done.returncode == 1
    assert "not authorised" in done.stderr


@pytest.mark.parametrize("when_settled", [(), ("--when-settled",)])
def test_a_release_that_is_refused_is_a_document_as_well(when_settled: tuple[str, ...]) -> None:
    with Serve() as server:
        wrong = run("release", VERSION, server.url, "--token", "wrong", "--json", *when_settled)
        unserved = run("release", "v9", server.url, "--token", TOKEN, "--json")
    for done in (wrong, unserved):
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["ok"], answer["exitCode"]) == (1, False, 1)
        assert answer["reason"] in done.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://127.0.0.1:9", "--unserved"], "--unserved needs the version"),
        (["127.0.0.1:9", "--when-settled"], "--when-settled needs the version"),
        (["v1", "127.0.0.1:9", "--when-settled", "--unserved"], "give one of the two"),
        (["v1", "127.0.0.1:9", "--when-settled", "--timeout", "soon"], "is not a duration"),
        (["v1", "127.0.0.1:9", "--when-settled", "--timeout", "5s"], "--when-settled needs longer than 5 s"),
        (["v1", "127.0.0.1:9", "--timeout", "1m"], "--timeout limits the wait of --when-settled"),
        (["127.0.0.1:9", "--lost-after", "1m"], "--lost-after limits the wait of --when-settled"),
        (["unknown", "127.0.0.1:9", "--when-settled"], "VERSION is not a build id. The version is empty or 'unknown'"),
        (["v" * 300, "127.0.0.1:9", "--when-settled"], "VERSION is not a build id"),
        (["localhost"], "'localhost' was read as VERSION, so URL is missing"),
        (["www.example.com"], "If www.example.com is the URL, write https://www.example.com."),
    ],
)
def test_what_contradicts_itself_is_wrong_usage(arguments: list[str], words: str) -> None:
    done = run("release", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
