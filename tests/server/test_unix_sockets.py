"""Servers behind a Unix socket, as nginx is often set up: exact with one worker and with two, and they stop."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from headcount.asgi.takeover.choose import TESTED
from kit.packages import installed
from kit.processes import BIN, Popen

from .serving import HERE, daphne_packages, ended_at_last

pytestmark = pytest.mark.anyio

COMMANDS = {
    "uvicorn": ["uvicorn", "apps:mounted", "--uds", "{path}", "--workers", "{workers}"],
    "uvicorn-takeover": [
        *["uvicorn", "apps:mounted", "--uds", "{path}", "--workers", "{workers}"],
        *["--http", "apps:mounted_headcount.protocol"],
    ],
    "hypercorn": ["hypercorn", "apps:mounted", "--bind", "unix:{path}", "--workers", "{workers}"],
    "gunicorn": [
        *["gunicorn", "apps:mounted", "--bind", "unix:{path}", "--workers", "{workers}"],
        *["--worker-class", "uvicorn_worker.UvicornWorker", "--no-control-socket", "--worker-tmp-dir", "/dev/shm"],
    ],
    "granian": ["granian", "apps:mounted", "--interface", "asgi", "--uds", "{path}", "--workers", "{workers}"],
    "daphne": ["python", "-m", "daphne", "-u", "{path}", "apps:mounted"],
}
SETTINGS = [(name, workers) for name in COMMANDS for workers in (1, 2) if (name, workers) != ("daphne", 2)]
"""Servers and their numbers of workers; daphne has one."""
NO_SERVER_IN_SCOPE = 40
"""The last minor version of uvicorn that does not say in the scope that a request came by a Unix socket."""
SAYS_DISCONNECT = 43
"""uvicorn 0.43 and 0.44 tell every request that its peer has gone when they stop."""
A_FEW = (TESTED[0], NO_SERVER_IN_SCOPE, SAYS_DISCONNECT)
STREAMS = 6
HIDE_FD = """
mount -t tmpfs none "$0"
for name in null zero full random urandom; do
    : > "$0/$name"
    mount --bind "/dev/$name" "$0/$name"
done
mkdir "$0/shm"
mount --bind /dev/shm "$0/shm"
mount --rbind "$0" /dev
"""
HIDE_PROC = "mount -t tmpfs none /proc\n"
TOKEN = "Authorization: Bearer s3cret-of-the-tests\r\n"


@pytest.mark.parametrize(("name", "workers"), SETTINGS)
async def test_figures_are_exact_and_the_server_stops(name: str, workers: int) -> None:
    packages = daphne_packages() if name == "daphne" else None
    with _started(name, workers, packages) as (process, path):
        await _live(name, process, path, workers)


@pytest.mark.parametrize("hidden", ["/dev/fd", "/dev/fd and /proc"])
@pytest.mark.parametrize("workers", [1, 2])
async def test_so_it_is_where_descriptors_cannot_be_listed(hidden: str, workers: int, tmp_path: Path) -> None:
    with _started("uvicorn", workers, prefix=_hiding(hidden, tmp_path)) as (process, path):
        await _live("uvicorn", process, path, workers)


@pytest.mark.parametrize("workers", [1, 2])
async def test_so_it_is_with_this_version_of_uvicorn(minor: int, workers: int) -> None:
    with _started("uvicorn", workers, installed(f"uvicorn==0.{minor}.*")) as (process, path):
        await _live("uvicorn", process, path, workers)


@contextmanager
def _started(
    name: str, workers: int, packages: Path | None = None, prefix: Sequence[str] = ()
) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    with tempfile.TemporaryDirectory(prefix="headcount-test-") as folder:
        path = str(Path(folder, "socket"))
        log = Path(folder, "log")
        environment = {
            **os.environ,
            "HEADCOUNT_VERSION": "1",
            "HEADCOUNT_ADMIN_TOKEN": "s3cret-of-the-tests",
            "PYTHONPATH": os.pathsep.join(map(str, filter(None, (packages, HERE)))),
        }
        program, *arguments = [word.format(path=path, workers=workers) for word in COMMANDS[name]]
        with log.open("wb") as output:
            process = Popen[bytes](
                [*prefix, BIN / program, *arguments],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with ended_at_last(process, log):
            yield process, path


def _hiding(what: str, folder: Path) -> list[str]:
    """
    Return how to start a program in a mount namespace with a /dev of its own, and maybe without /proc.

    Skips where there can be none, but fails in CI.
    """
    script = HIDE_FD + (HIDE_PROC if "/proc" in what else "") + 'exec "$@"\n'
    for unshare in (["unshare", "-m"], ["unshare", "-Urm"]):
        prefix = [*unshare, "sh", "-ec", script, str(folder)]
        program = [sys.executable, "-c", "import os; assert not os.path.exists('/dev/fd')"]
        with suppress(OSError):
            if subprocess.run([*prefix, *program], capture_output=True, timeout=30, check=False).returncode == 0:
                return prefix
    reason = "no mount namespace can be made here; run as root, or allow unprivileged user namespaces"
    if os.environ.get("CI"):
        pytest.fail(f"/dev/fd cannot be hidden, because {reason}.")
    pytest.skip(reason)


async def _live(name: str, process: "subprocess.Popen[bytes]", path: str, workers: int) -> None:
    """Open streams, see that they are counted, stop the server, and see that every page gets a delay."""
    streams = [await _open(process, path) for _ in range(STREAMS)]
    try:
        for reader, writer in streams:
            writer.write(b"GET /__skew/sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b'"connected"'), 30)
        deadline = time.monotonic() + 60
        while True:
            stats = await _stats(process, path)
            if (stats["total"], stats["partial"], stats["nodes"]["expected"]) == (STREAMS, False, workers):
                break
            assert time.monotonic() < deadline, stats
            await asyncio.sleep(0.1)
        process.terminate()
        for reader, _ in streams:
            ending = await asyncio.wait_for(reader.read(), 15)
            # As soon as one of its workers has ended, hypercorn kills the others (hypercorn/run.py).
            assert b"reconnectMs" in ending or (name, workers) == ("hypercorn", 2)
        assert await asyncio.to_thread(process.wait, 15) in (0, -signal.SIGTERM)
    finally:
        for _, writer in streams:
            writer.transport.abort()


async def _open(process: "subprocess.Popen[bytes]", path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    deadline = time.monotonic() + 60
    while True:
        try:
            return await asyncio.open_unix_connection(path)
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def _stats(process: "subprocess.Popen[bytes]", path: str) -> dict[str, Any]:
    reader, writer = await _open(process, path)
    writer.write(f"GET /__skew/admin/stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{TOKEN}\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    body = answer.partition(b"\r\n\r\n")[2]
    stats: dict[str, Any] = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    return stats
