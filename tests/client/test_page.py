"""The examples of docs/python-client.md run as they stand there."""

import asyncio
import re
import textwrap
from typing import Any

import pytest

import headcount.client
from cli.processes import TOKEN, VERSION, Serve
from headcount.client.access import Access
from kit.docs import DOCS, code_in
from kit.pages import WebSocket

pytestmark = pytest.mark.anyio

BLOCKS = code_in((DOCS / "python-client.md").read_text("utf-8"), "python")


async def execute(block: str, **names: Any) -> None:
    """Run a block that awaits, or in a thread one that does not."""
    scope: dict[str, Any] = {**vars(headcount.client), "token": TOKEN, **names}
    if "async with" in block:
        exec(f"async def example():\n{textwrap.indent(block, '    ')}", scope)
        await asyncio.wait_for(scope["example"](), 30)
    else:
        await asyncio.wait_for(asyncio.to_thread(exec, block, scope), 30)


async def subscribers(url: str) -> int:
    """Return how many viewers there are."""
    text = (await Access(token=TOKEN).get(f"{url}/metrics", "text/plain")).decode()
    found = re.search(r"^headcount_subscribers\{.*\} (\d+)", text, re.MULTILINE)
    assert found
    return int(found[1])


async def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    first, widget, migration, up_to_date, script = BLOCKS
    with Serve() as server:
        url = server.url
        old = await WebSocket.open(server.origin, version="old-0123456789", route="/shopping")
        for _ in range(2):
            await WebSocket.open(server.origin, version=VERSION, route="/")

        running = asyncio.create_task(execute(first.replace('"https://www.example.com"', "url"), url=url))
        out = ""
        while "3 {'old-0123456789': 1" not in out:
            await asyncio.sleep(0.01)
            out += capsys.readouterr().out
        running.cancel()
        await asyncio.wait([running])
        assert out.startswith("3\n")

        await execute(widget, url=url)
        assert capsys.readouterr().out == (
            f"Active Users: 3 [{{'id': '{VERSION[:8]}', 'count': 2, 'percentage': 67}}, "
            "{'id': 'old-0123', 'count': 1, 'percentage': 33}] [('/', 2), ('/shopping', 1)]\n"
        )

        await execute(up_to_date, url=url)
        assert capsys.readouterr().out == "2 current, 1 outdated, 67% up to date\n"

        running = asyncio.create_task(execute(migration, url=url))
        while (await subscribers(url)) != 1:
            await asyncio.sleep(0.01)
        old.fin()
        await running
        assert capsys.readouterr().out == "All users migrated to latest version!\n"

        await execute(script, url=url)
        assert capsys.readouterr().out == "2\n"
