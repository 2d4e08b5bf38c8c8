"""The page docs/assets.md as it stands: its deploy script, its application on real servers, its list for a store."""

import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headcount.build_directory import BuildDirectory
from kit.docs import DOCS, code_in
from kit.processes import BIN
from kit.programs import needs
from kit.servers import ServerProcess

from .serving import VERSION, Server

PAGE = (DOCS / "assets.md").read_text("utf-8")
TOKEN = "s3cret-of-the-tests"
CHUNK, BIG = "assets/cart-B1zOyYnN.js", "assets/scene-C2zOyYnN.wasm"
MEGABYTES = 24
"""More than the buffers of both sockets, so that the server still reads the file when its build goes."""


class Site(ServerProcess):
    """The application of the page, with its builds in another directory."""

    def __init__(self, folder: Path, builds: Path, server: str) -> None:
        super().__init__()
        code = next(block for block in code_in(PAGE, "python") if block.startswith("from fastapi "))
        (folder / "site_of_the_page.py").write_text(code.replace('"/srv/builds"', repr(str(builds))))
        commands = {
            "uvicorn": ["--port", str(self.port), "--log-level", "warning"],
            "hypercorn": ["--bind", f"{self.host}:{self.port}"],
            "granian": ["--interface", "asgi", "--host", self.host, "--port", str(self.port)],
        }
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        self.launch([BIN / server, "site_of_the_page:app", *commands[server]], cwd=folder, env=environment)

    def get(self, path: str) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=30)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    builds = tmp_path / "builds"
    builds.mkdir()
    return builds


def deploy(builds: Path, build: str, files: dict[str, bytes]) -> subprocess.CompletedProcess[str]:
    """Run the deploy script of the page on what a bundler has written."""
    work = builds.parent / f"work-{build}"
    for name, content in files.items():
        path = work / "dist" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (0, 0))
    (script,) = [block for block in code_in(PAGE, "sh") if block.startswith("#!/bin/sh")]
    return subprocess.run(
        ["sh", "-c", script],
        cwd=work,
        env={"PATH": os.environ["PATH"], "BUILDS": str(builds), **({"BUILD_ID": build} if build else {})},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_deploy_script_adds_a_build_whole_and_once(builds: Path) -> None:
    before = time.time()
    done = deploy(builds, "v1", {CHUNK: b"1", "index.html": b"", ".vite/manifest.json": b""})
    assert (done.returncode, done.stderr) == (0, "")
    assert [build.id for build in BuildDirectory(builds).builds()] == ["v1"]
    assert (builds / "v1" / CHUNK).read_bytes() == b"1"
    assert (builds / "v1").stat().st_mode & 0o777 == 0o755
    assert (builds / "v1").stat().st_mtime > before - 2
    again = deploy(builds, "v1", {CHUNK: b"2"})
    assert (again.returncode, "v1 is there already; a build id is used once." in again.stderr) == (1, True)
    assert "BUILD_ID: is not set" in deploy(builds, "", {CHUNK: b""}).stderr
    assert os.listdir(builds) == ["v1"]
    assert os.listdir(builds / "v1") != ["dist"]


@pytest.fixture(params=["uvicorn", "hypercorn", "granian"])
def site(request: pytest.FixtureRequest, builds: Path, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, builds, request.param)
    try:
        site.wait_ready()
        yield site
    finally:
        site.process.terminate()
        site.wait()


def test_a_real_server_sends_a_file_to_its_end_while_its_build_goes(site: Site, builds: Path) -> None:
    scene = os.urandom(1 << 20) * MEGABYTES
    for build, files in (("v1", {CHUNK: b"1", BIG: scene}), ("v2", {"assets/app.js": b"2"})):
        assert deploy(builds, build, files).returncode == 0
    os.utime(builds / "v1", (0, 0))
    assert site.get(f"/{CHUNK}") == (200, b"1"), "deployed while the server runs"
    with closing(http.client.HTTPConnection(site.host, site.port, timeout=30)) as connection:
        connection.request("GET", f"/{BIG}")
        answer = connection.getresponse()
        begun = answer.read(1000)
        directory = BuildDirectory(builds)
        assert directory.delete(directory.builds()[-1])
        assert site.get(f"/{CHUNK}")[0] == 404
        assert begun + answer.read() == scene
    assert site.get("/assets/app.js") == (200, b"2")


def test_the_pipeline_for_a_store_removes_what_the_list_lets_go(tmp_path: Path) -> None:
    needs("jq")
    (pipeline,) = [block for block in code_in(PAGE, "sh") if block.startswith("aws ")]
    removed = tmp_path / "removed"
    (tmp_path / "aws").write_text(f"""#!/bin/sh
case "$*" in
  *list-objects-v2*)
    printf 'builds/{VERSION}/index.html\\t2026-01-03T00:00:00+00:00\\n'
    for build in a b c d; do printf "builds/$build/index.html\\t2026-01-01T00:00:0$((n=n+1))+00:00\\n"; done
    printf 'builds/a/help/index.html\\t2026-01-01T00:00:00+00:00\\n';;
  *) echo "$*" >> {removed};;
esac
""")
    (tmp_path / "aws").chmod(0o755)
    with Server("uvicorn", admin_token=TOKEN, environment={"AWAY_GRACE": "0.2"}) as server:
        server.wait_ready()
        while "awayKnown" not in server.get("/__skew/admin/stats", {"Authorization": f"Bearer {TOKEN}"})[1]:
            time.sleep(0.05)
        path = os.pathsep.join([str(tmp_path), str(BIN), os.environ["PATH"]])
        done = subprocess.run(
            ["sh", "-c", pipeline.replace("https://www.example.com", server.url)],
            env={"PATH": path, "HEADCOUNT_TOKEN": TOKEN},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert removed.read_text().splitlines() == [f"s3 rm --recursive s3://assets/builds/{build}/" for build in "ba"]


def test_the_document_of_the_page_has_the_fields_of_the_command() -> None:
    (block,) = code_in(PAGE, "json")
    documented = json.loads(block)
    rows = PAGE.partition("| field | meaning |")[2]
    for name in {**documented, **documented["builds"][0]}:
        assert f"`{name}`" in rows, name
