"""Peers that vanish without FIN or RST, as when a cable is pulled, and the one socket option that finds them out."""

import asyncio
from typing import Any

import pytest

from headcount.config import Config
from kit.pages import Sse, all_of, ask

from . import namespaces
from .serving import Server

KEEPALIVE, PEER_TIMEOUT = 1, 2
SERVERS = ("uvicorn", "uvicorn-no-ping", "uvicorn-plain", "granian", "hypercorn", "uvicorn-takeover", "alone")
CONTROL = "sockets left alone"
SLACK = 3.0
"""Seconds, for the tick of the timers, the kernel's own timers, and a busy machine."""


@pytest.fixture(scope="module")
def outcome() -> dict[str, Any]:
    """Pull the cable once, under all servers at the same time."""
    settings = {"keepalive_interval": KEEPALIVE, "peer_timeout": PEER_TIMEOUT}
    plan = {
        "patience": KEEPALIVE + PEER_TIMEOUT + SLACK,
        "servers": {
            **{server: [server, settings] for server in SERVERS},
            CONTROL: ["uvicorn-no-ping", {**settings, "peer_timeout": None}],
        },
    }
    answer: dict[str, Any] = namespaces.run("cable", plan, 100)
    return answer


@pytest.mark.parametrize("kind", ["sse", "ws"])
@pytest.mark.parametrize("server", SERVERS)
def test_a_peer_whose_cable_is_pulled_leaves_the_figures(outcome: dict[str, Any], server: str, kind: str) -> None:
    seconds = outcome[server][kind]
    assert seconds is not None, outcome[server]
    # Later than the kernel was told to wait, or it was not the kernel: the cut itself must be silent.
    assert seconds > 1, outcome[server]


@pytest.mark.parametrize("server", SERVERS)
def test_those_who_stay_notice_nothing_of_a_pulled_cable(outcome: dict[str, Any], server: str) -> None:
    assert outcome[server]["kept"]
    assert outcome[server]["counts"] == {"total": 7, "versions": {"kept": 7}, "routes": {"/": 7}}
    if server != "hypercorn":  # it logs an exception of its own for each peer that timed out
        assert "Traceback" not in outcome[server]["log"]


def test_without_peer_timeout_vanished_peers_stay(outcome: dict[str, Any]) -> None:
    # The other side of the tests above: the network itself told the servers nothing.
    assert outcome[CONTROL]["sse"] is None
    assert outcome[CONTROL]["ws"] is None
    assert outcome[CONTROL]["counts"]["total"] == 17


def test_the_defaults_find_a_vanished_peer_out_within_a_minute() -> None:
    config = Config.load({"version": "1"}, {})
    assert config.peer_timeout is not None
    # A keepalive may be sent a whole interval after the cut, and only what is sent can stay unacknowledged.
    assert config.keepalive_interval + config.peer_timeout + SLACK < 60


@pytest.mark.anyio
@pytest.mark.parametrize("command", ["uvicorn", "uvicorn-plain", "granian", "hypercorn"])
async def test_every_accepted_socket_has_the_peer_timeout_from_the_first_request_on(command: str) -> None:
    with Server(command, peer_timeout=7) as server:
        await _until_accepting(server)
        assert {value for found in (await _timeouts(server)).values() for value in found} == {0}, (
            "nothing is set before Headcount is asked for anything"
        )
        pages = [await Sse.open(server.url)]
        first = await _timeouts(server)
        assert first["listening"] == [7000]
        assert set(first["accepted"]) == {7000}
        pages += await all_of([Sse.open(server.url) for _ in range(20)])
        later = await _timeouts(server)
        assert len(later["accepted"]) >= 21
        assert set(later["accepted"]) == {7000}
        for page in pages:
            page.fin()


@pytest.mark.anyio
async def test_peer_timeout_none_leaves_sockets_alone() -> None:
    with Server("uvicorn", peer_timeout=None) as server:
        server.wait_ready()
        pages = await all_of([Sse.open(server.url) for _ in range(3)])
        timeouts = await _timeouts(server)
        assert timeouts["listening"] == [0]
        assert set(timeouts["accepted"]) == {0}
        for page in pages:
            page.fin()


async def _until_accepting(server: Server) -> None:
    """Wait until a server listens, by a request that is none of Headcount's."""
    async with asyncio.timeout(60):
        while True:
            try:
                await _timeouts(server)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                return


async def _timeouts(server: Server) -> dict[str, list[int]]:
    status, timeouts = await ask(server.url, "GET", "/debug/peer-timeouts")
    assert status == 200
    answer: dict[str, list[int]] = timeouts
    return answer
