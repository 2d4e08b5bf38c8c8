"""`headcount nodes`, as a process against a real server."""

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from headcount.core.stats import Absence, Stats
from headcount.tools.rollout_gate import unaccounted_sentence
from kit.pages import Sse
from kit.stores import Store
from server.serving import Server
from server.test_unaccounted import until_figures

from .running import run

pytestmark = pytest.mark.anyio


@pytest.fixture
def fleet() -> Iterator[list[Server]]:
    with ExitStack() as stack:
        store = stack.enter_context(Store())
        servers = [
            stack.enter_context(
                Server("uvicorn", admin_token="s3cret", backend=store.url, environment={"FLEET_CLOCK": "0.3"})
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
            run, "wait", other.url, "--token", "s3cret", "--version", "v1", "--timeout", "6s", "--json"
        )
        result = json.loads(gate.stdout)
        node = page.handle[:12]
        assert (gate.returncode, result["ok"], result["unaccounted"]) == (3, False, 1)
        assert f"1 connection of node {node} (it is stopped or cut off) is unaccounted for; the" in result["reason"]
        listed = await asyncio.to_thread(run, "nodes", other.url, "--token", "s3cret")
        assert "Unaccounted for" in listed.stdout
        assert node in listed.stdout
        assert "stopped or cut off" in listed.stdout
        wrong = await asyncio.to_thread(run, "nodes", "forget", "0123", other.url, "--token", "s3cret")
        assert wrong.returncode == 1
        assert node in wrong.stderr
        swapped = await asyncio.to_thread(run, "nodes", "forget", other.url, node, "--token", "s3cret")
        assert swapped.returncode == 2
        forgotten = await asyncio.to_thread(run, "nodes", "forget", node[:6], other.url, "--token", "s3cret")
        assert forgotten.returncode == 0, forgotten.stderr
        assert forgotten.stdout == (
            f"Node {node} counts as gone now. 1 connection no longer counts as unaccounted for.\n"
        )
        gate = await asyncio.to_thread(run, "wait", other.url, "--token", "s3cret", "--version", "v1")
        assert gate.returncode == 0, gate.stderr
        as_json = await asyncio.to_thread(run, "nodes", other.url, "--token", "s3cret", "--json")
        told = json.loads(as_json.stdout)
        assert (len(told["nodes"]), told["absences"]) == (1, [])
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


@pytest.mark.parametrize("word", ["localhost", "127.0.0.1:9", "shop.invalid", "shop-invalid"])
def test_a_host_alone_is_a_server_whose_nodes_are_listed(word: str) -> None:
    done = run("nodes", word, "--proxy", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "Cannot reach" in done.stderr or "No Headcount" in done.stderr or "127.0.0.1:9" in done.stderr


def test_the_sentence_says_how_many_of_whom_since_when() -> None:
    def said(*absences: Absence) -> str:
        return unaccounted_sentence(absences, 50_000)

    one = Absence("3f2a", 120, {"v1": 120}, "vanished", 10_000)
    assert said(one) == "120 connections of node 3f2a are unaccounted for; the node was last heard 40 s ago"
    assert said(Absence("3f2a", 1, {"v1": 1}, "leaving", 49_000)) == (
        "1 connection of node 3f2a (it was stopped properly) is unaccounted for; the node was last heard 1 s ago"
    )
    assert said(Absence("3f2a", 2, {"v1": 2}, "unanswered", 49_000)) == (
        "2 connections of node 3f2a (their pages do not answer) are unaccounted for; the node was last heard 1 s ago"
    )
    assert said(Absence("3f2a", None, {}, "vanished", 10_000)) == (
        "an unknown number of connections of node 3f2a are unaccounted for; the node was last heard 40 s ago"
    )
    assert said(one, Absence("77", 1, {"v1": 1}, "cut-off", 20_000)) == (
        "121 connections of 2 nodes (3f2a, 77) are unaccounted for; the first was last heard 40 s ago"
    )
    assert said(Absence("3f2a", 0, {}, "cut-off", 10_000)) == (
        "node 3f2a has been stopped or cut off for 40 s; the number of its open connections is unknown"
    )
    assert Stats(absences=(one,)).unaccounted == 120
