"""Which version is current is the fleet's knowledge: a node that was not there when it was declared learns it."""

import asyncio
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from kit.pages import BASE, Sse, ask
from kit.processes import BIN

from .serving import Server

pytestmark = pytest.mark.anyio

TOKEN = {"Authorization": "Bearer s3cret-of-the-tests"}


async def test_a_worker_that_takes_the_place_of_a_dead_one_knows_the_release() -> None:
    with Server("headcount-workers") as server:
        server.wait_ready()
        await until_current(lambda told: len(told) == 4, server)
        assert (await release(server, "v2"))["ok"]
        await until_current(lambda told: set(told.values()) == {"v2"}, server)
        before = set(await current(server))
        _, worker, *_ = server.processes()
        worker.send_signal(signal.SIGKILL)
        told = await until_current(lambda told: bool(set(told) - before) and len(told) == 4, server)
        assert set(told.values()) == {"v2"}
        # Whichever worker a page of the old version meets from now on, it hears of the release.
        for page in [await Sse.open(server.url, version="v1") for _ in range(12)]:
            await page.until(lambda one: bool(one.of_type("version")))
            assert page.of_type("version")[0]["version"] == "v2"
        # And the latest wins, whoever declares it.
        await release(server, "v3")
        await release(server, "v2")
        await until_current(lambda told: set(told.values()) == {"v2"}, server)


async def test_a_worker_that_only_the_application_has_used_declares_a_version_for_all() -> None:
    """`await headcount.release()` in an endpoint: no request has shown that worker where its process listens."""
    with Server("uvicorn-workers") as server:
        server.wait_ready()
        page = await Sse.open(server.url, version="v1")
        workers: set[int] = set()
        for number in range(40):
            version = f"next-{number}"
            status, answer = await ask(server.url, "POST", f"/deploy?version={version}")
            assert status == 200
            workers.add(answer["pid"])
            await page.until(partial(has_heard, version))
            if len(workers) == 4:
                break
        assert len(workers) > 1


async def test_a_worker_that_only_the_application_has_used_reaches_pages_of_all() -> None:
    """`send`, `stats` and `revoke` in an endpoint."""
    with Server("uvicorn-workers") as server:
        server.wait_ready()
        page = await Sse.open(server.url, version="v1")
        workers: set[int] = set()
        for _ in range(40):
            status, answer = await ask(server.url, "POST", f"/call?page={page.handle.partition('.')[0]}")
            assert (status, answer["total"], answer["revoked"]) == (200, 1, False)
            workers.add(answer["pid"])
            if len(workers) == 4:
                break
        assert len(workers) > 1
        await page.until(lambda stream: {each["pid"] for each in stream.of_type("hello")} == workers)


def has_heard(version: str, page: Sse) -> bool:
    return version in [message["version"] for message in page.of_type("version")]


async def test_a_release_says_how_many_nodes_it_reached() -> None:
    with Server("headcount-two-workers") as server:
        server.wait_ready()
        await until_current(lambda told: len(told) == 2, server)
        reached = await release(server, "v2")
        assert (reached["nodes"], reached["partial"]) == ({"reached": 2, "expected": 2}, False)
        assert reached["unreached"] == []
        command = [str(BIN / "headcount"), "release", "v3", server.url, "--unserved"]
        command += ["--token", "s3cret-of-the-tests"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert done.stdout == "v3 is current on 2 nodes; 0 pages received it.\n"
        _, *workers = server.processes()
        workers[0].suspend()
        try:
            # Its socket still accepts connections, so some requests must wait for the other worker.
            async with asyncio.timeout(60):
                while (missed := await one_try(server, "v4")) is None:
                    pass
            assert (missed["nodes"], missed["partial"]) == ({"reached": 1, "expected": 2}, True)
            assert [each["reason"] for each in missed["unreached"]] == ["silent"]
        finally:
            workers[0].resume()


async def test_all_workers_name_the_same_release_whoever_declared_it_and_when_they_started() -> None:
    with Server("headcount-workers") as server:
        server.wait_ready()
        await until_current(lambda found: len(found) == 4, server)
        numbers = []
        for version in ("v2", "v3", "v2", "v2"):
            await release(server, version)
            numbers.append(await one_number(server, version))
        assert numbers == sorted(set(numbers))
        _, worker, *_ = server.processes()
        before = set(await current(server))
        worker.send_signal(signal.SIGKILL)
        await until_current(lambda found: bool(set(found) - before) and len(found) == 4, server)
        assert await one_number(server, "v2") == numbers[-1]


async def one_number(server: Server, version: str) -> int:
    """Return the number of the release, which all of many answers and streams name."""
    pages = [await Sse.open(server.url, version="v1") for _ in range(12)]
    answers = [await ask(server.url, "GET", BASE + "/health?version=v1") for _ in range(12)]
    found = [page.of_type("connected")[0]["release"] for page in pages] + [answer["release"] for _, answer in answers]
    for page in pages:
        await page.until(lambda one: bool(one.of_type("version")))
        found.append(page.of_type("version")[-1]["release"])
        page.fin()
    assert all(each == found[0] for each in found), found
    assert found[0] == {"state": "declared", "version": version, "number": found[0]["number"]}
    number: int = found[0]["number"]
    return number


async def one_try(server: Server, version: str) -> dict[str, Any] | None:
    """Declare a version; None: the worker that does not run got the request."""
    with suppress(TimeoutError):
        async with asyncio.timeout(6):
            return await release(server, version)
    return None


async def release(server: Server, version: str) -> dict[str, Any]:
    status, told = await ask(server.url, "POST", BASE + "/admin/release", {"version": version}, TOKEN)
    assert status == 200, told
    answer: dict[str, Any] = told
    return answer


async def current(server: Server) -> dict[str, str]:
    """Return `{node: the version that is current for it}`, of those that answered one of some requests."""
    found: dict[str, str] = {}
    for _ in range(16):
        text = await metrics(server)
        version = re.search(r'^headcount_current_version_info\{version="([^"]*)"\}', text, re.MULTILINE)
        node = re.search(r'^headcount_opens_total\{node="([^"]*)"\}', text, re.MULTILINE)
        assert version, text
        assert node, text
        found[node[1]] = version[1]
    return found


async def metrics(server: Server) -> str:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        head = f"GET {BASE}/metrics HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nConnection: close\r\n"
        writer.write(f"{head}Authorization: Bearer s3cret-of-the-tests\r\n\r\n".encode())
        async with asyncio.timeout(20):
            return (await reader.read()).decode()
    finally:
        writer.close()


async def until_current(
    condition: Callable[[dict[str, str]], bool], server: Server, timeout: float = 40
) -> dict[str, str]:
    try:
        async with asyncio.timeout(timeout):
            while not condition(told := await current(server)):
                await asyncio.sleep(0.05)
            return told
    except TimeoutError:
        raise AssertionError(f"at last {told}\n{server.log}") from None
