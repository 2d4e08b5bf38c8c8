"""Ways to start uvicorn with our protocol that differ in the processes, the sockets and what stands before them."""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from kit.pages import Sse, WebSocket
from kit.ports import free_port
from kit.processes import BIN, Popen
from kit.programs import make_certificate

from .serving import HERE, Server

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("command", ["uvicorn-takeover-reload", "uvicorn-takeover-workers", "gunicorn-takeover"])
async def test_streams_are_taken_over_in_the_processes_that_a_server_starts(command: str) -> None:
    with Server(command, ip_tracking=True) as server:
        server.wait_ready()
        cookie = server.sign_in()
        viewer = await WebSocket.open(server.url, cookie=cookie, version="v1")
        page = await Sse.open(server.url, version="v2")
        assert server.debug()["taken_over"] == 2
        await viewer.subscribe(server.url)
        await viewer.until_figures([("v1", "/"), ("v2", "/")])
        await page.navigate(server.url, "/b")
        await viewer.until_figures([("v1", "/"), ("v2", "/b")])
        if command == "uvicorn-takeover-reload":
            os.killpg(server.process.pid, signal.SIGINT)
        else:
            server.process.terminate()
        await page.until(lambda s: s.ended)
        assert len(page.of_type("drain")) == 1
        await viewer.until(lambda s: s.ended)
        assert viewer.close_code == 1012
        await asyncio.to_thread(server.wait, 10)
        assert "Traceback" not in server.log, server.log[-3000:]


async def test_with_tls_streams_stay_on_asgi_and_work() -> None:
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = make_certificate(Path(folder))
        port = free_port()
        trusting = ssl.create_default_context()
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        arguments = ["--port", str(port), "--ssl-keyfile", str(key), "--ssl-certfile", str(certificate)]
        with _started(arguments) as process:
            reader, writer = await _connect(process, port=port, ssl=trusting)
            assert await _stream(reader, writer) == "connected"
            assert await _taken_over(port=port, ssl=trusting) == 0
            writer.close()


async def test_over_a_unix_socket_streams_are_taken_over() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "socket"))
        with _started(["--uds", path]) as process:
            reader, writer = await _connect(process, path=path)
            assert await _stream(reader, writer) == "connected"
            assert await _taken_over(path=path) == 1
            process.terminate()
            assert b"reconnectMs" in await asyncio.wait_for(reader.read(), 10)
            assert await asyncio.to_thread(process.wait, 10) in (0, -signal.SIGTERM)
            writer.close()


class _started:  # noqa: N801  reads as the statement that it is
    def __init__(self, arguments: list[str]) -> None:
        environment = {**os.environ, "HEADCOUNT_VERSION": "1", "PYTHONPATH": str(HERE)}
        self.process = Popen[bytes](
            [BIN / "uvicorn", "apps:mounted", "--http", "apps:mounted_headcount.protocol", *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> "subprocess.Popen[bytes]":
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(30)


async def _connect(
    process: "subprocess.Popen[bytes]",
    *,
    path: str | None = None,
    port: int | None = None,
    ssl: ssl.SSLContext | None = None,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    deadline = time.monotonic() + 60
    while True:
        try:
            return await _open(path=path, port=port, ssl=ssl)
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def _open(
    *, path: str | None = None, port: int | None = None, ssl: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if path is not None:
        return await asyncio.open_unix_connection(path)
    return await asyncio.open_connection("127.0.0.1", port, ssl=ssl)


async def _stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(b"GET /__skew/sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    event = await asyncio.wait_for(reader.readuntil(b"\n\n\r\n"), 10)
    name: str = json.loads(event.partition(b"data: ")[2].strip())["type"]
    return name


async def _taken_over(*, path: str | None = None, port: int | None = None, ssl: ssl.SSLContext | None = None) -> int:
    reader, writer = await _open(path=path, port=port, ssl=ssl)
    writer.write(b"GET /debug/taken-over HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return int(answer.rpartition(b"\r\n\r\n")[2])
