"""`headcount top` in a real terminal, against a real server."""

import asyncio
import re
from collections.abc import Iterator

import pytest

from kit.pages import WebSocket

from .processes import TOKEN, VERSION, Serve
from .running import run
from .terminal import Terminal

pytestmark = pytest.mark.anyio

ENV = {"HEADCOUNT_TOKEN": TOKEN}


@pytest.fixture
def server() -> Iterator[Serve]:
    with Serve(reconnect_spread=0.1) as serving:
        yield serving


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
async def test_it_shows_the_figures_and_quits(server: Serve, size: tuple[int, int]) -> None:
    for version, route in (("v1", "/shopping"), ("v1", "/"), (VERSION, "/")):
        await WebSocket.open(server.origin, version=version, route=route)
    with Terminal("top", server.url, env=ENV, columns=size[0], lines=size[1]) as terminal:
        for words in ("3 connections", "2 outdated (67%)", "/shopping", f"{VERSION} (current)", "live", "Quit"):
            await asyncio.to_thread(terminal.until, words)
        terminal.forget()
        page = await WebSocket.open(server.origin, version="v1")
        # Only what changed is written again.
        await asyncio.to_thread(terminal.until, "3 outdated (75%)")
        page.fin()
        terminal.type("q")
        assert await asyncio.to_thread(terminal.end) == 0


async def test_a_route_can_be_pasted_into_the_filter(server: Serve) -> None:
    await WebSocket.open(server.origin, version="v1", route="/quick")
    with Terminal("top", server.url, env=ENV) as terminal:
        await asyncio.to_thread(terminal.until, "1 connection")
        # In one piece, as a terminal without bracketed paste writes it: `q` would quit, `c` open the list.
        terminal.type("/quick")
        await asyncio.to_thread(terminal.until, "1 match")
        # Escape and `q` in one piece are Alt and `q` for a terminal.
        terminal.type("\x1bq")
        assert await asyncio.to_thread(terminal.end) == 0


async def test_it_survives_a_restart_of_the_server(server: Serve) -> None:
    await WebSocket.open(server.origin, version="v1")
    with Terminal("top", server.url, env=ENV) as terminal:
        await asyncio.to_thread(terminal.until, "1 connection")
        await asyncio.to_thread(server.stop, gently=False)
        await asyncio.to_thread(terminal.until, "RECONNECTING")
        terminal.forget()
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(terminal.until, "live")
        terminal.type("q")
        assert await asyncio.to_thread(terminal.end) == 0


async def test_it_takes_another_size(server: Serve) -> None:
    with Terminal("top", server.url, env=ENV) as terminal:
        await asyncio.to_thread(terminal.until, "0 connections")
        terminal.forget()
        terminal.resize(120, 40)
        await asyncio.to_thread(terminal.until, "Pause")
        terminal.type("q")
        assert await asyncio.to_thread(terminal.end) == 0


async def test_it_needs_no_colour(server: Serve) -> None:
    await WebSocket.open(server.origin, version="v1")
    with Terminal("top", server.url, env={**ENV, "NO_COLOR": "1"}) as terminal:
        await asyncio.to_thread(terminal.until, "1 outdated")
        terminal.type("q")
        assert await asyncio.to_thread(terminal.end) == 0
    # Not even a grey: on a light terminal it would be a dark box. Only the terminal's own colours, 39 and 49.
    written = {part for style in re.findall(r"\x1b\[([0-9;]*)m", terminal.raw) for part in style.split(";")}
    assert not {part for part in written if re.fullmatch(r"[34][0-8]|9[0-7]|10[0-7]", part)}
    assert "7" in written, "the row that is chosen is marked all the same"


async def test_without_a_right_it_says_so_and_leaves(server: Serve) -> None:
    with Terminal("top", server.url, "--token", "wrong") as terminal:
        assert await asyncio.to_thread(terminal.end) == 1
        assert "not authorised" in terminal.text


async def test_without_a_terminal_it_says_what_to_use(server: Serve) -> None:
    done = await asyncio.to_thread(run, "top", server.url, env=ENV)
    assert done.returncode == 1
    assert "headcount stats" in done.stderr
