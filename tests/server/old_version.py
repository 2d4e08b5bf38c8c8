"""
Two versions of the program in one fleet, as during its own upgrade: `make old-version REV=some-git-revision`.

The old nodes run the package as it was at that revision, in processes of their own; the new ones run what is here.
Pytest does not collect this file of itself, because a clone need not have old revisions.
"""

import asyncio
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kit.archives import extract
from kit.pages import BASE, Sse, WebSocket, all_of, ask
from kit.ports import free_port
from kit.programs import needs
from kit.stores import Store

from .fleet import TOKEN, figures
from .serving import Server

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
KINDS = ("redis", "valkey", "workers of one machine")


@pytest.fixture(scope="module")
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package at the revision of `--old-version`, in a folder for PYTHONPATH."""
    revision = request.config.getoption("--old-version")
    assert revision, "say which revision is the old one: make old-version REV=..."
    needs("git")
    folder = tmp_path_factory.mktemp("old")
    packed = subprocess.run(["git", "archive", revision, "src"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        extract(archive, folder)
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    program = [sys.executable, "-c", "import headcount; print(headcount.__file__)"]
    found = subprocess.run(program, env=environment, check=True, capture_output=True, text=True).stdout
    assert found.startswith(str(folder)), f"the old nodes would run {found}"
    return folder / "src"


@asynccontextmanager
async def upgrading(kind: str, old: Path) -> AsyncIterator[tuple[list[Server], int]]:
    """Start an old node and two new ones; gives the servers, the old one first, and the number of nodes."""
    packages: list[Path | None] = [old, None, None]
    with ExitStack() as stack:
        if kind == "workers of one machine":
            # Each has a socket of its own at one address, and the kernel chooses which gets a connection.
            port = free_port()
            servers = [
                stack.enter_context(Server("uvicorn-fd", port=port, admin_token="s3cret-of-the-tests", packages=where))
                for where in packages
            ]
        else:
            store = stack.enter_context(Store(kind))
            servers = [
                stack.enter_context(
                    Server(
                        "uvicorn",
                        admin_token="s3cret-of-the-tests",
                        backend=store.url,
                        fleet_name="upgrade",
                        packages=where,
                    )
                )
                for where in packages
            ]
        for server in servers:
            await asyncio.to_thread(server.wait_ready)
        yield servers, len(servers)


@pytest.mark.parametrize("kind", KINDS)
async def test_figures_are_exact_with_two_versions_in_one_fleet(kind: str, old: Path) -> None:
    async with upgrading(kind, old) as (servers, nodes):
        await _exact(servers, {}, nodes)
        pages: list[Sse | WebSocket] = []
        for number, server in enumerate(servers):
            opened = [
                (Sse if n % 2 else WebSocket).open(server.url, version=f"v{number}", route="/") for n in range(20)
            ]
            pages += await all_of(opened)
        await _exact(servers, {"/": 60}, nodes)
        viewers = [await _viewer(server) for server in servers * 2]
        for viewer in viewers:
            await _shows(viewer, {"/": 60}, nodes)

        # Every page is moved by a POST to a node that may be of the other version; some leave.
        for number, page in enumerate(pages):
            await page.navigate(servers[(number + 1) % 3].url, f"/{number % 2}")
        for viewer in viewers:
            await _shows(viewer, {"/0": 30, "/1": 30}, nodes)
        for page in pages[::3]:
            page.fin()
        left = {"/0": 20, "/1": 20}
        for viewer in viewers:
            await _shows(viewer, left, nodes)
        await _exact(servers, left, nodes)

        # A release reaches the pages of both versions, whichever node declares it, and new nodes give it one number.
        numbers: list[int] = []
        for version, server in (("r1", servers[0]), ("r2", servers[1])):
            status, _ = await ask(server.url, "POST", BASE + "/admin/release", {"version": version}, TOKEN)
            assert status == 200
            for page in (page for number, page in enumerate(pages) if number % 3):
                await page.until(lambda one: bool(one.of_type("version")) and _last_release(one) == version)  # noqa: B023
            numbers.append(await _only_number(servers, version))
        assert numbers == sorted(set(numbers))

        # The upgrade goes on: the old node stops, and its pages come to new ones.
        servers[0].process.terminate()
        await asyncio.to_thread(servers[0].wait, 10)
        gone = [page for page in pages if page.ended]
        rest = len([page for number, page in enumerate(pages) if number % 3 and page not in gone])
        new_nodes = nodes * 2 // 3
        for _ in range(10):
            pages.append(await Sse.open(servers[1].url, version="again", route="/again"))
        for server in servers[1:]:
            await _until_stats(
                server, lambda seen: seen["total"] == rest + 10 and seen["nodes"]["expected"] == new_nodes
            )
        for server in servers:
            assert "Traceback" not in server.log, server.log[-3000:]


async def _only_number(servers: list[Server], version: str) -> int:
    """Return the number of the release, as all new nodes name it; the old node names none."""
    found = set()
    for server in servers * 6:
        page = await Sse.open(server.url, version=version, viewer=1)
        if release := page.of_type("connected")[0].get("release"):
            assert release["version"] == version
            found.add(release["number"])
        page.fin()
    assert len(found) == 1, found
    number: int = found.pop()
    return number


def _last_release(page: Sse | WebSocket) -> str:
    version: str = page.of_type("version")[-1]["version"]
    return version


async def _viewer(server: Server) -> Sse:
    viewer = await Sse.open(server.url, token="s3cret-of-the-tests", viewer=1)
    body = {"connectionId": viewer.handle, "deltas": True}
    status, _ = await ask(server.url, "POST", BASE + "/subscribe-stats", body, TOKEN)
    assert status == 200
    return viewer


async def _shows(viewer: Sse, routes: dict[str, int], nodes: int) -> None:
    await viewer.until(
        lambda one: (
            (figures(one).get("routes"), figures(one)["partial"], figures(one)["nodes"].get("reporting"))
            == (routes, False, nodes)
        )
    )


async def _exact(servers: list[Server], routes: dict[str, int], nodes: int) -> None:
    """See that every node, whatever its version, says the same sum."""
    for server in servers * 3:
        seen = await _until_stats(
            server,
            lambda seen: seen["nodes"]["reporting"] == nodes and not seen["partial"] and seen["routes"] == routes,
        )
        assert seen["total"] == sum(routes.values())


async def _until_stats(server: Server, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    try:
        async with asyncio.timeout(20):
            while True:
                _, seen = await ask(server.url, "GET", BASE + "/admin/stats", headers=TOKEN)
                if condition(seen):
                    return seen
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"at last {seen}; {server.log[-2000:]}") from None
