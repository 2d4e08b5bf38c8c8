"""`headcount nodes`, as a process against a real server."""

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from headcount.core.rollout_gate import unaccounted_sentence
from headcount.core.stats import Absence, Stats
from kit.pages import Sse
from kit.stores import Store
from server.serving import Server
from server.test_unaccounted import until_figures

from .processes import TOKEN, Serve
from .running import run

pytestmark = pytest.mark.anyio

SERVER_TOKEN = "s3cret-of-the-tests"


async def test_a_node_with_another_secret_is_named_and_the_gate_waits() -> None:
    with ExitStack() as stack:
        store = stack.enter_context(Store())
        ours, theirs = (
            stack.enter_context(
                Server("uvicorn", admin_token=SERVER_TOKEN, backend=store.url, fleet_secret=f"the secret of {whose}")
            )
            for whose in ("production", "staging")
        )
        for server in (ours, theirs):
            server.wait_ready()
        page = await Sse.open(theirs.url, version="v1", route="/")
        await until_figures(ours, lambda seen: seen["nodes"] == {**seen["nodes"], "reporting": 1, "expected": 2})
        async with asyncio.timeout(20):
            while not (found := await asyncio.to_thread(listed, ours.url))["strangers"]:
                await asyncio.sleep(0.1)
        assert found["strangers"] == [page.handle[:12]]
        table = (await asyncio.to_thread(run, "nodes", ours.url, "--token", SERVER_TOKEN)).stdout
        assert [line.split()[1:] for line in table.splitlines() if page.handle[:12] in line] == [
            ["unknown", "0", "another", "secret,", "not", "counted"]
        ]
        words = ("--version", "v1", "--for", "0s", "--timeout", "12s", "--json")
        gate = await asyncio.to_thread(run, "wait", ours.url, "--token", SERVER_TOKEN, *words)
        result = json.loads(gate.stdout)
        assert (gate.returncode, result["ok"], result["left"]) == (3, False, None)
        assert "1 of 2 nodes" in result["reason"]
        assert "another fleet_secret or admin_token" in ours.log
        assert "the secret of" not in ours.log + theirs.log


def listed(url: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(run("nodes", url, "--token", SERVER_TOKEN, "--json").stdout)
    return found


@pytest.fixture
def fleet() -> Iterator[list[Server]]:
    with ExitStack() as stack:
        store = stack.enter_context(Store())
        servers = [
            stack.enter_context(
                Server("uvicorn", admin_token=SERVER_TOKEN, backend=store.url, environment={"FLEET_CLOCK": "0.3"})
            )
            for _ in range(2)
        ]
        for server in servers:
            server.wait_ready()
        yield servers


async def test_it_lists_and_forgets_nodes_and_the_gate_waits_for_them(fleet: list[Server]) -> None:
    stopped, other = fleet
    page = await Sse.open(stopped.url, version="v1", route="/")
    await until_figures(other, lambda seen: seen["total"] == 1)
    await asyncio.sleep(2)
    stopped.signal(signal.SIGSTOP)
    try:
        await until_figures(other, lambda seen: seen.get("unaccounted") == 1)
        gate = await asyncio.to_thread(
            run, "wait", other.url, "--token", SERVER_TOKEN, "--version", "v1", "--timeout", "6s", "--json"
        )
        result = json.loads(gate.stdout)
        node = page.handle[:12]
        assert (gate.returncode, result["ok"], result["unaccounted"]) == (3, False, 1)
        assert f"1 connection of node {node} (it is stopped or cut off) is unaccounted for; the" in result["reason"]
        listed = await asyncio.to_thread(run, "nodes", other.url, "--token", SERVER_TOKEN)
        assert "Unaccounted for" in listed.stdout
        assert node in listed.stdout
        assert "stopped or cut off" in listed.stdout
        wrong = await asyncio.to_thread(run, "nodes", "forget", "0123", other.url, "--token", SERVER_TOKEN)
        assert wrong.returncode == 1
        assert node in wrong.stderr
        swapped = await asyncio.to_thread(run, "nodes", "forget", other.url, node, "--token", SERVER_TOKEN)
        assert swapped.returncode == 2
        forgotten = await asyncio.to_thread(run, "nodes", "forget", node[:6], other.url, "--token", SERVER_TOKEN)
        assert forgotten.returncode == 0, forgotten.stderr
        assert forgotten.stdout == (
            f"Node {node} counts as gone now. 1 connection no longer counts as unaccounted for.\n"
        )
        gate = await asyncio.to_thread(run, "wait", other.url, "--token", SERVER_TOKEN, "--version", "v1")
        assert gate.returncode == 0, gate.stderr
        as_json = await asyncio.to_thread(run, "nodes", other.url, "--token", SERVER_TOKEN, "--json")
        told = json.loads(as_json.stdout)
        assert (len(told["nodes"]), told["absences"]) == (1, [])
        served = told["nodes"][0]["version"]
        table = (await asyncio.to_thread(run, "nodes", other.url, "--token", SERVER_TOKEN)).stdout
        assert [line.split()[1] for line in table.splitlines() if told["nodes"][0]["node"] in line] == [served]
    finally:
        stopped.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["forgt", "0123", "127.0.0.1:9"], "There is no command 'forgt'. Did you mean 'forget'?"),
        (["forgt"], "There is no command 'forgt'. Did you mean 'forget'?"),
        (["lst", "127.0.0.1:9"], "There is no command 'lst'. Did you mean 'list'?"),
        (["drop", "0123", "127.0.0.1:9"], "There is no command 'drop'. `headcount nodes --help` lists the commands."),
        (["127.0.0.1:9", "0123"], "Got unexpected extra argument (0123)"),
    ],
)
def test_a_command_that_does_not_exist_is_named(arguments: list[str], words: str) -> None:
    done = run("nodes", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_help_shows_how_the_nodes_are_listed_and_where_the_options_are() -> None:
    done = run("nodes", "--help")
    assert "Usage: headcount nodes [URL] [OPTIONS]" in done.stdout
    assert "Usage: headcount nodes forget NODE [URL] [OPTIONS]" in done.stdout
    assert "`headcount nodes list --help`" in done.stdout
    assert "nodes forget [OPTIONS] NODE [URL]" in run("nodes", "forget", "--help").stdout


def test_a_node_that_is_not_absent_is_an_error_like_any_other() -> None:
    with Serve() as server:
        done = run("nodes", "forget", "abcabcabcabc", server.url, "--token", TOKEN)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "headcount: Node abcabcabcabc has no unaccounted connections. Absent nodes: none.\n"


@pytest.mark.parametrize("word", ["localhost", "127.0.0.1:9", "shop.invalid", "shop-invalid"])
def test_a_host_alone_is_a_server_whose_nodes_are_listed(word: str) -> None:
    done = run("nodes", word, "--proxy", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "Cannot reach" in done.stderr or "No Headcount" in done.stderr or "127.0.0.1:9" in done.stderr


def test_the_sentence_says_how_many_of_whom_since_when() -> None:
    def said(*absences: Absence) -> str:
        return unaccounted_sentence(absences, 50_000)

    one = Absence("3f2a", 120, {"v1": 120}, "vanished", 10_000)
    assert said(one) == "120 connections of node 3f2a are unaccounted for; the node was last heard from 40 s ago"
    assert said(Absence("3f2a", 1, {"v1": 1}, "leaving", 49_000)) == (
        "1 connection of node 3f2a (it was stopped properly) is unaccounted for; the node was last heard from 1 s ago"
    )
    assert said(Absence("3f2a", 2, {"v1": 2}, "unanswered", 49_000)) == (
        "2 connections of node 3f2a (their pages do not answer) are unaccounted for; the node was last heard from 1 s "
        "ago"
    )
    assert said(Absence("3f2a", None, {}, "vanished", 10_000)) == (
        "an unknown number of connections of node 3f2a are unaccounted for; the node was last heard from 40 s ago"
    )
    assert said(one, Absence("77", 1, {"v1": 1}, "cut-off", 20_000)) == (
        "121 connections of 2 nodes (3f2a, 77) are unaccounted for; the first was last heard from 40 s ago"
    )
    assert said(Absence("3f2a", 0, {}, "cut-off", 10_000)) == (
        "node 3f2a has been stopped or cut off for 40 s; the number of its open connections is unknown"
    )
    assert Stats(absences=(one,)).unaccounted == 120
