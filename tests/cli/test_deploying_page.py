"""The commands of docs/deploying.md, in their order, as they stand there."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from kit.docs import DOCS, code_in
from kit.pages import Sse

from .processes import TOKEN, Serve
from .running import HEADCOUNT, environment

pytestmark = pytest.mark.anyio

_, DECLARE, WAIT, PRUNE = code_in((DOCS / "deploying.md").read_text("utf-8"), "sh")


async def test_the_commands_of_the_page_bring_a_deploy_to_its_end(tmp_path: Path) -> None:
    for build in ("v1", "v2", "v3", "v4", "2026.11.4"):
        (tmp_path / build).mkdir()
        os.utime(tmp_path / build, (1, 1))
    with Serve(version="2026.11.4") as server:
        variables = {"HEADCOUNT_URL": server.url, "HEADCOUNT_TOKEN": TOKEN, "BUILD_ID": "2026.11.4"}
        env = environment({**variables, "PATH": f"{HEADCOUNT.parent}:{os.environ['PATH']}"})

        async def run(command: str) -> subprocess.CompletedProcess[str]:
            arguments = ["sh", "-e", "-c", command]
            return await asyncio.to_thread(
                subprocess.run, arguments, env=env, capture_output=True, text=True, timeout=90, check=False
            )

        old = await Sse.open(server.origin, version="v1", route="/")
        declared = await run(DECLARE)
        assert (declared.returncode, declared.stdout) == (0, "2026.11.4 is current; 1 page received it.\n")
        await old.until(lambda stream: bool(stream.of_type("version")))
        late = await run(WAIT.replace("--below 20", "--below 0").replace("30m", "3s"))
        assert late.returncode == 3, late.stderr
        await old.post(server.origin, "/bye")
        waited = await run(WAIT)
        assert waited.returncode == 0, waited.stderr
        pruned = await run(PRUNE.replace("/srv/builds", str(tmp_path)))
        assert "v4" in pruned.stdout, pruned.stderr
        assert (tmp_path / "2026.11.4").is_dir()
