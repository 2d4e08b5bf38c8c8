"""`headcount doctor` through a real nginx, set up right and set up wrong: it names each fault."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from kit.ports import free_port

from .processes import TOKEN, Command, Serve, environment, run

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
pytestmark = pytest.mark.skipif(
    not Path(NGINX).exists() and not os.environ.get("CI"), reason="nginx is not installed; CI installs it"
)

RIGHT = """
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_read_timeout 60s;
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Serve]:
    # A short interval, so that streams need not be held for long.
    with Serve(keepalive_interval=3) as serving:
        yield serving


@contextmanager
def nginx(folder: Path, upstream: int | str, location: str, listen: str = "", more: str = "") -> Iterator[int]:
    """Run nginx of its own in front of a port; gives its port."""
    port = free_port()
    there = upstream if isinstance(upstream, str) else f"127.0.0.1:{upstream}"
    (folder / "nginx.conf").write_text(
        f"""
        {"user root;" if os.geteuid() == 0 else ""}
        daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
        events {{ worker_connections 256; }}
        http {{
            access_log off;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
            {more}
            server {{
                listen 127.0.0.1:{port} {listen};
                location / {{ proxy_pass http://{there}; {location} }}
            }}
        }}
        """
    )
    process = subprocess.Popen([NGINX, "-p", folder, "-c", "nginx.conf"], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while not (folder / "pid").exists() or not (folder / "pid").read_text():
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait(20)
        if process.stderr:
            process.stderr.close()


def examined(url: str, *arguments: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Return the exit code and the findings by check."""
    done = run("doctor", url, "--token", TOKEN, "--json", *arguments)
    assert done.returncode in (0, 1), done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is (done.returncode == 0)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in told["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    return done.returncode, found


def faults(found: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    return {check: one["says"] for check, all_ in found.items() for one in all_ if one["level"] == "fault"}


def test_without_anything_between_all_is_well(server: Serve) -> None:
    code, found = examined(server.origin)
    assert (code, faults(found)) == (0, {})
    assert {check: all_[-1]["level"] for check, all_ in found.items()} == {
        "reach": "ok",
        "right": "ok",
        "http": "note",
        "origin": "ok",
        "compression": "ok",
        "sse": "ok",
        "websocket": "ok",
        "clock": "ok",
        "post": "ok",
        "sse-idle": "ok",
        "websocket-idle": "ok",
    }


def test_keepalives_that_were_not_due_are_not_praised(server: Serve) -> None:
    code, found = examined(server.origin, "--hold", "1s")
    assert (code, faults(found)) == (0, {})
    for check in ("sse-idle", "websocket-idle"):
        [finding] = found[check]
        assert finding["level"] == "note"
        assert "held for 1 s and not cut off. No keepalive was due: the interval is 3 s." in finding["says"]


def test_a_token_that_the_server_does_not_take_is_named(server: Serve) -> None:
    code, found = examined(server.origin, "--hold", "0", "--token", "wrong")
    assert code == 0
    [finding] = found["right"]
    assert finding["says"].startswith("The server does not accept this token")
    assert finding["do"].startswith("Check --token")


def test_nginx_set_up_right(server: Serve, tmp_path: Path) -> None:
    with nginx(tmp_path, server.port, RIGHT) as port:
        code, found = examined(f"http://127.0.0.1:{port}")
    assert (code, faults(found)) == (0, {})
    assert found["sse-idle"][0]["level"] == found["websocket-idle"][0]["level"] == "ok"
    assert "x-forwarded-for" in found["proxy"][0]["says"]
    assert "upstream" not in found


def test_nginx_that_buffers(server: Serve, tmp_path: Path) -> None:
    # Told to buffer, nginx hands on what comes in chunks all the same, unless it has something to do with it.
    location = RIGHT + "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"
    more = "gzip on; gzip_types text/event-stream; gzip_min_length 0; gzip_proxied any;"
    with nginx(tmp_path, server.port, location, more=more) as port:
        code, found = examined(f"http://127.0.0.1:{port}")
    assert code == 1
    assert set(faults(found)) == {"sse"}
    assert "No SSE stream begins within 10 s: a proxy buffers it." in faults(found)["sse"]
    assert "proxy_buffering off" in found["sse"][0]["do"]
    assert found["websocket-idle"][0]["level"] == "ok", "WebSockets are not buffered"


def test_a_proxy_that_waits_until_it_has_enough(server: Serve) -> None:
    """It hands the head of an answer on, and of its body nothing below 8 KiB, as some content networks do."""
    port = 0

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", server.port)
        request = await reader.readuntil(b"\r\n\r\n")
        onward.write(re.sub(rb"(?i)\r\nhost:[^\r]*", f"\r\nHost: 127.0.0.1:{port}".encode(), request))
        streams = request.startswith(b"GET /__skew/sse?v")

        async def back() -> None:
            head = await there.readuntil(b"\r\n\r\n")
            writer.write(head)
            held = b""
            while piece := await there.read(65_536):
                held += piece
                if not streams or len(held) > 8_192:
                    writer.write(held)
                    held = b""
            writer.write(held)
            writer.close()

        async def forth() -> None:
            while piece := await reader.read(65_536):
                onward.write(piece)
            onward.close()

        await asyncio.gather(back(), forth(), return_exceptions=True)

    async def examine() -> tuple[int, dict[str, list[dict[str, Any]]]]:
        nonlocal port
        async with await asyncio.start_server(proxy, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            return await asyncio.to_thread(examined, f"http://127.0.0.1:{port}", "--hold", "0")

    code, found = asyncio.run(examine())
    assert code == 1
    assert set(faults(found)) == {"sse"}
    assert ": a proxy buffers it." in faults(found)["sse"]


@pytest.mark.parametrize(
    ("seconds", "says"), [(-3_600, "3600 s behind this machine's"), (90, "90 s ahead of this machine's")]
)
def test_a_server_whose_clock_is_wrong(seconds: int, says: str) -> None:
    """Its process is told another time, as a machine without NTP is."""
    port = free_port()
    program = f"""
import time
right = time.time_ns
time.time_ns = lambda: right() + {seconds} * 10**9
from headcount.cli import main
main()
"""
    env = environment({"HEADCOUNT_VERSION": "v1", "HEADCOUNT_ADMIN_TOKEN": TOKEN})
    arguments = [sys.executable, "-c", program, "serve", "--port", str(port)]
    process = subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "Headcount serves" in process.stdout.readline()
        code, found = examined(f"http://127.0.0.1:{port}", "--hold", "0")
    finally:
        process.kill()
        process.communicate(timeout=20)
    assert (code, faults(found)) == (0, {}), "a clock breaks no stream"
    clock = found["clock"][0]
    assert clock["level"] == "warning"
    assert re.sub(r"\d+", lambda number: str(round(int(number[0]), -1)), clock["says"]).endswith(f"{says}.")
    assert clock["do"] == "Synchronise both clocks by NTP."


def test_nginx_with_a_short_timeout(server: Serve, tmp_path: Path) -> None:
    location = RIGHT.replace("proxy_read_timeout 60s", "proxy_read_timeout 1s")
    with nginx(tmp_path, server.port, location) as port:
        code, found = examined(f"http://127.0.0.1:{port}")
    assert code == 1
    assert set(faults(found)) == {"sse-idle", "websocket-idle"}
    assert "The SSE stream is cut after 1 s of silence, but keepalives come every 3 s." in faults(found)["sse-idle"]
    assert "The WebSocket stream is cut after 1 s of silence" in faults(found)["websocket-idle"]
    assert "proxy_read_timeout" in found["sse-idle"][0]["do"]


def test_nginx_that_speaks_http_1_0_to_the_server(server: Serve, tmp_path: Path) -> None:
    with nginx(tmp_path, server.port, "proxy_set_header Host $http_host;") as port:
        code, found = examined(f"http://127.0.0.1:{port}", "--hold", "0")
    assert code == 1
    assert set(faults(found)) == {"upstream", "websocket"}
    assert "HTTP/1.0" in faults(found)["upstream"]
    assert "The WebSocket does not open" in faults(found)["websocket"]
    assert "proxy_http_version 1.1" in found["upstream"][0]["do"]


def test_nginx_that_keeps_the_host_to_itself(server: Serve, tmp_path: Path) -> None:
    location = RIGHT.replace("proxy_set_header Host $http_host;", "")
    with nginx(tmp_path, server.port, location) as port:
        code, found = examined(f"http://localhost:{port}", "--hold", "0")
    assert code == 1
    assert set(faults(found)) == {"origin"}
    assert f"Pages of http://localhost:{port} are refused" in faults(found)["origin"]
    assert "proxy_set_header Host" in found["origin"][0]["do"]


def test_nginx_that_compresses(server: Serve, tmp_path: Path) -> None:
    more = "gzip on; gzip_types text/event-stream; gzip_min_length 0; gzip_proxied any;"
    with nginx(tmp_path, server.port, RIGHT, more=more) as port:
        _, found = examined(f"http://127.0.0.1:{port}", "--hold", "0")
    assert found["compression"][0]["level"] in ("warning", "fault")
    assert "gzip" in found["compression"][0]["says"]


@pytest.mark.parametrize("http2", [True, False])
def test_nginx_with_tls(server: Serve, tmp_path: Path, http2: bool) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "1", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    more = f"ssl_certificate {tmp_path}/cert.pem; ssl_certificate_key {tmp_path}/key.pem;"
    with nginx(tmp_path, server.port, RIGHT, "ssl http2" if http2 else "ssl", more) as port:
        url = f"https://localhost:{port}"
        code, found = examined(url, "--hold", "0", "--ca-file", str(tmp_path / "cert.pem"))
        assert (code, faults(found)) == (0, {})
        assert found["http"][0]["level"] == ("ok" if http2 else "warning")
        assert ("HTTP/2" if http2 else "at most six HTTP/1.1 connections") in found["http"][0]["says"]
        code, found = examined(url, "--hold", "0")
        assert code == 1
        assert "certificate is not trusted" in faults(found)["reach"]


def test_two_processes_that_do_not_know_one_another(server: Serve, tmp_path: Path) -> None:
    with Serve(keepalive_interval=3) as other:
        upstream = f"upstream both {{ server 127.0.0.1:{server.port}; server 127.0.0.1:{other.port}; }}"
        with nginx(tmp_path, "both", RIGHT, more=upstream) as port:
            code, found = examined(f"http://127.0.0.1:{port}", "--hold", "0")
    assert code == 1
    assert "At least 2 processes answer, and each counts only its own connections." in faults(found)["processes"]


def test_nothing_there() -> None:
    code, found = examined("http://127.0.0.1:9")
    assert code == 1
    assert "no server is listening" in faults(found)["reach"]


def test_something_else_there(tmp_path: Path) -> None:
    with nginx(tmp_path, 9, "return 200 hello;") as port:
        code, found = examined(f"http://127.0.0.1:{port}")
    assert code == 1
    assert "is not Headcount's" in faults(found)["reach"]


def test_without_a_right_a_connection_is_counted_and_named(server: Serve) -> None:
    with Command("doctor", server.url, "--hold", "8s") as command:
        command.until("opens")
        # Asked from here: another process may take longer to start than the streams are held.
        told = httpx.get(f"{server.url}/admin/stats", headers={"authorization": f"Bearer {TOKEN}"}).json()
        assert set(told["versions"]) == {"headcount-doctor"}
        assert command.end() == 0
    assert "Give --token." in command.output
    assert command.output.rstrip().endswith("No fault.")
    assert max(map(len, command.output.splitlines())) <= 80
