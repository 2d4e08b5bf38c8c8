"""The commands of the pages that start a server, word for word: only ports and settings come from the environment."""

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kit.docs import blocks
from kit.pages import Sse, ask
from kit.ports import free_port
from kit.processes import BIN

from .serving import HERE, ended_at_last

COMMANDS = sorted(
    {
        line
        for block in blocks("deployment.md", "frameworks.md")
        if block.language == "sh"
        for line in block.code.splitlines()
        if line.startswith(("uvicorn", "granian"))
    }
)
APP = "from apps import mounted as app, mounted_headcount as headcount\n"
AUTH = {"Authorization": "Bearer s3cret-of-the-tests"}


def test_there_is_one_of_each() -> None:
    assert [command.split()[:2] for command in COMMANDS] == [["granian", "app:app"], ["uvicorn", "app:app"]]


@contextmanager
def running(command: str, folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Run a command in a folder with app.py, which the page leaves to its reader; gives the process and its origin."""
    (folder / "app.py").write_text(APP)
    port = str(free_port())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HEADCOUNT_")},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join((str(folder), str(HERE))),
        "HEADCOUNT_VERSION": "v1",
        "HEADCOUNT_ADMIN_TOKEN": "s3cret-of-the-tests",
        "UVICORN_PORT": port,
        "GRANIAN_PORT": port,
    }
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-ec", f"exec {command}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with ended_at_last(process, log):
        yield process, f"http://127.0.0.1:{port}"


@pytest.mark.anyio
@pytest.mark.parametrize("command", COMMANDS)
async def test_a_server_that_was_started_so_counts_navigates_and_stops(command: str, tmp_path: Path) -> None:
    workers = int((re.search(r"--workers (\d+)", command) or ["", "1"])[1])
    with running(command, tmp_path) as (process, url):
        await _until_it_answers(process, url)
        pages = [await Sse.open(url, version="v1", route="/") for _ in range(6)]
        await pages[0].navigate(url, "/a")
        viewer = await Sse.open(url, token="s3cret-of-the-tests", viewer=1)
        subscribed = await ask(url, "POST", "/__skew/subscribe-stats", {"connectionId": viewer.handle}, AUTH)
        assert subscribed == (200, {"ok": True})
        await viewer.until_figures([("v1", "/a"), *[("v1", "/")] * 5], 60)
        async with asyncio.timeout(60):
            while (viewer.figures or {})["nodes"]["reporting"] < workers:  # a worker is there from its first request on
                await ask(url, "GET", "/__skew/health")
        assert (viewer.figures or {})["nodes"]["reporting"] == workers
        if "headcount.protocol" in command:
            assert (await ask(url, "GET", "/debug"))[1]["taken_over"] == 7
        process.terminate()
        for page in pages:
            await page.until(lambda stream: stream.ended)
            assert page.of_type("drain")
        await asyncio.to_thread(process.wait, 30)


async def _until_it_answers(process: "subprocess.Popen[bytes]", url: str) -> None:
    async with asyncio.timeout(60):
        while True:
            assert process.poll() is None, "it ended before it served"
            with suppress(OSError, EOFError):
                if (await ask(url, "GET", "/__skew/health"))[0] == 200:
                    return
            await asyncio.sleep(0.05)
