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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx2 as httpx
import pytest
from click.testing import CliRunner
from starlette.applications import Starlette
from websockets.sync.client import connect

from headcount import Headcount
from headcount.cli import cli
from headcount.config import Config
from headcount.tools.doctor.findings import Report
from headcount.tools.doctor.limits import examine_reported_limit
from kit.listener import Listener
from kit.ports import free_port
from kit.programs import make_certificate
from server.test_restarting import Threaded

from .processes import TOKEN, Serve
from .running import Command, environment, run

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
pytestmark = pytest.mark.skipif(
    not Path(NGINX).exists() and not os.environ.get("CI"), reason="nginx is not installed; run: apt-get install nginx"
)

SHORTEST_LIMIT = 20
"""Seconds of silence after which the strictest of the usual load balancers ends a stream."""

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
    """Return the exit code and the findings by check. Streams are not held longer than for a keepalive."""
    token = () if "--token" in arguments else ("--token", TOKEN)
    done = run("doctor", url, *token, "--json", "--quick", *arguments)
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
        "cookies": "ok",
        "departure": "ok",
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
    assert "or to 'server' if uvicorn reads this header itself" in found["proxy"][0]["do"]
    assert "upstream" not in found


@pytest.mark.parametrize(
    ("path", "arguments"),
    [("/shop/__skew", []), ("/shop", ["--base-path", "/__skew"]), ("", ["--base-path", "/shop/__skew"])],
)
def test_a_prefix_that_the_proxy_takes_off(
    server: Serve, tmp_path: Path, path: str, arguments: tuple[str, ...]
) -> None:
    location = f"return 404; }} location /shop/ {{ proxy_pass http://127.0.0.1:{server.port}/; {RIGHT}"
    with nginx(tmp_path, server.port, location) as port:
        code, found = examined(f"http://127.0.0.1:{port}{path}", *arguments, "--hold", "0")
        assert (code, faults(found)) == (0, {})
        code, found = examined(f"http://127.0.0.1:{port}", "--hold", "0")
        assert code == 1, "there is none without the prefix"


def test_a_base_path_below_another(tmp_path: Path) -> None:
    with Serve(base_path="/shop/live/__skew") as server, nginx(tmp_path, server.port, RIGHT) as port:
        code, found = examined(f"http://127.0.0.1:{port}", "--base-path", "/shop/live/__skew", "--hold", "0")
    assert (code, faults(found)) == (0, {})


def test_the_default_keepalive_is_below_the_shortest_limit_that_is_usual(tmp_path: Path) -> None:
    seconds = Config(version="1").keepalive_interval
    assert seconds < SHORTEST_LIMIT
    # The same in a tenth of the times.
    location = RIGHT.replace("proxy_read_timeout 60s", f"proxy_read_timeout {SHORTEST_LIMIT / 10:g}s")
    with Serve(keepalive_interval=seconds / 10) as server, nginx(tmp_path, server.port, location) as port:
        code, found = examined(f"http://127.0.0.1:{port}", "--hold", "8s")
    assert (code, faults(found)) == (0, {})
    assert found["sse-idle"][0]["level"] == found["websocket-idle"][0]["level"] == "ok"


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

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await listener.connect(server.port)
        request = await reader.readuntil(b"\r\n\r\n")
        onward.write(re.sub(rb"(?i)\r\nhost:[^\r]*", f"\r\nHost: 127.0.0.1:{listener.port}".encode(), request))
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
        async with listener:
            return await asyncio.to_thread(examined, listener.url, "--hold", "0")

    listener = Listener(proxy)
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
    assert faults(found)["sse-idle"] == (
        "The SSE stream is cut after 1 s of silence, but keepalives come every 3 s; a busy one is not."
    )
    assert found["sse-idle"][0]["see"] == "docs/doctor.md#idle-limit"
    assert "The WebSocket stream is cut after 1 s of silence" in faults(found)["websocket-idle"]
    assert "proxy_read_timeout" in found["sse-idle"][0]["do"]


def test_nginx_that_speaks_http_1_0_to_the_server(server: Serve, tmp_path: Path) -> None:
    with nginx(tmp_path, server.port, "proxy_set_header Host $http_host;") as port:
        code, found = examined(f"http://127.0.0.1:{port}", "--hold", "0")
    assert code == 1
    assert faults(found) == {
        "websocket": "The WebSocket does not open: a proxy uses HTTP/1.0 to the server, so the handshake is refused "
        "with 426."
    }
    do = found["websocket"][0]["do"]
    assert do.endswith("nginx: copy location /__skew/ and both maps of docs/proxies.md#nginx.")
    assert "$http_upgrade" not in do, "it would pass h2c on, too"


def test_nginx_that_keeps_the_host_to_itself(server: Serve, tmp_path: Path) -> None:
    location = RIGHT.replace("proxy_set_header Host $http_host;", "")
    with nginx(tmp_path, server.port, location) as port:
        code, found = examined(f"http://localhost:{port}", "--hold", "0")
    assert code == 1
    assert set(faults(found)) == {"origin"}
    assert f"Pages of http://localhost:{port} are refused as cross-site:" in faults(found)["origin"]
    assert "POSTs from browsers that send no Sec-Fetch-Site and WebSockets." in faults(found)["origin"]
    assert found["origin"][0]["do"].count("nginx: proxy_set_header Host $http_host;") == 1


def test_nginx_that_drops_the_port_of_the_host(server: Serve, tmp_path: Path) -> None:
    with nginx(tmp_path, server.port, RIGHT.replace("$http_host", "$host")) as port:
        code, found = examined(f"http://127.0.0.1:{port}", "--hold", "0")
    assert (code, faults(found)) == (0, {})
    assert found["origin"][0]["level"] == "ok"
    assert found["products"][0]["says"] == "Between this machine and the server: nginx."


def test_nginx_that_compresses(server: Serve, tmp_path: Path) -> None:
    more = "gzip on; gzip_types text/event-stream; gzip_min_length 0; gzip_proxied any;"
    with nginx(tmp_path, server.port, RIGHT, more=more) as port:
        _, found = examined(f"http://127.0.0.1:{port}", "--hold", "0")
    assert found["compression"][0]["level"] in ("warning", "fault")
    assert "gzip" in found["compression"][0]["says"]


@pytest.mark.parametrize("http2", [True, False])
def test_nginx_with_tls(server: Serve, tmp_path: Path, http2: bool) -> None:
    certificate, key = make_certificate(tmp_path)
    more = f"ssl_certificate {certificate}; ssl_certificate_key {key};"
    with nginx(tmp_path, server.port, RIGHT, "ssl http2" if http2 else "ssl", more) as port:
        url = f"https://localhost:{port}"
        code, found = examined(url, "--hold", "0", "--ca-file", str(certificate))
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
    assert "The URL reaches 2 groups of processes, 1 node and 1 node; " in faults(found)["processes"]
    assert "backend='redis://" in found["processes"][0]["do"]


def test_two_fleets_behind_one_balancer(tmp_path: Path) -> None:
    with Serve(workers=3) as one, Serve(workers=3) as other:
        # Streams and their POSTs reach one of them, so that no POST betrays the other.
        more = (
            f"upstream both {{ server 127.0.0.1:{one.port}; server 127.0.0.1:{other.port}; }}"
            f"upstream one {{ server 127.0.0.1:{one.port}; }}"
            "map $uri $there { ~/(health|admin) both; default one; }"
        )
        with nginx(tmp_path, "$there", RIGHT, more=more) as port:
            code, found = examined(f"http://127.0.0.1:{port}", "--hold", "0")
    assert code == 1
    assert "The URL reaches 2 groups of processes, 3 nodes and 3 nodes; " in faults(found)["processes"]
    assert found["processes"][0]["see"] == "docs/doctor.md#processes"


def test_one_fleet_counts_together_by_its_list_and_not_by_a_number() -> None:
    with Serve(workers=2) as fleet:
        code, found = examined(fleet.origin, "--hold", "0")
        assert (code, faults(found)) == (0, {})
        [finding] = found["processes"]
        assert finding["says"] == "All answers are of one application of 2 nodes, which count together."
        _, without_right = examined(fleet.origin, "--hold", "0", "--token", "wrong")
    assert not [one for one in without_right.get("processes", ()) if one["level"] == "ok"]


def test_nothing_there() -> None:
    code, found = examined("http://127.0.0.1:9")
    assert code == 1
    assert "no server is listening" in faults(found)["reach"]
    assert found["reach"][0]["see"] == "docs/doctor.md#unreachable"
    assert "take about" not in run("doctor", "http://127.0.0.1:9").stdout, "nothing is held"


def test_the_time_is_named_once_the_server_has_answered(server: Serve) -> None:
    with Command("doctor", server.url) as command:
        command.until(r"Examining \S+\.\s+ok +The server answers, .*\s+The other checks take about 1 min 10 s\.")


def test_the_server_s_log_has_no_advice_about_a_site_that_is_not_there() -> None:
    with Serve() as serving:
        code, found = examined(serving.origin, "--hold", "0")
        serving.stop()
        assert serving.command is not None
        assert "headcount-doctor.invalid" not in serving.command.output
    assert (code, faults(found)) == (0, {})


def test_something_else_there(tmp_path: Path) -> None:
    with nginx(tmp_path, 9, "return 200 hello;") as port:
        code, found = examined(f"http://127.0.0.1:{port}")
    assert code == 1
    assert "answered text/plain, not Headcount; check the URL" in faults(found)["reach"]


@pytest.mark.parametrize(
    ("location", "check", "says", "section"),
    [
        ("if ($request_method = POST) { return 403; }", "csrf", "such as by a CSRF check", "csrf"),
        (
            "if ($request_method = POST) { return 302 /log-in; }",
            "redirect",
            "a POST is redirected to http://127.0.0.1:",
            "redirects",
        ),
        ("if ($request_method = POST) { return 200 hello; }", "post", "is answered with 200 text/plain", "html"),
        ("if ($request_uri ~ /admin/) { return 200 hello; }", "paths", "Not everything below the base path", "html"),
        (
            "return 301 https://shop.invalid$request_uri;",
            "redirect",
            "Requests are redirected to https://shop",
            "redirects",
        ),
        ("if ($uri ~ /ws$) { return 200 hello; }", "websocket", "is answered with 200 text/plain", "websocket"),
        ("if ($uri ~ /sse$) { return 200 hello; }", "sse", "with 200 text/plain, which is not Headcount's", "html"),
    ],
)
def test_something_that_answers_in_headcount_s_place(
    server: Serve, tmp_path: Path, location: str, check: str, says: str, section: str
) -> None:
    with nginx(tmp_path, server.port, location + RIGHT) as port:
        code, found = examined(f"http://127.0.0.1:{port}", "--hold", "0")
    assert code == 1
    assert says in faults(found)[check]
    [finding] = [finding for finding in found[check] if finding["level"] == "fault"][:1]
    assert finding["see"] == f"docs/doctor.md#{section}"
    assert finding["do"]


def test_a_service_worker_is_hinted_at(server: Serve, tmp_path: Path) -> None:
    location = "if ($uri = /sw.js) { return 200 '//'; } types { } default_type text/javascript;" + RIGHT
    with nginx(tmp_path, server.port, location) as port:
        code, found = examined(f"http://127.0.0.1:{port}", "--hold", "0")
    assert (code, faults(found)) == (0, {})
    assert "a service worker at /sw.js" in found["service-worker"][0]["says"]


def test_a_server_that_refuses_streams_itself_is_told_as_what_it_is() -> None:
    with Serve(max_connections=1) as full, Command("swarm", full.url, "--connections", "1") as page:
        page.until("1 of 1 open")
        code, found = examined(full.origin, "--hold", "0")
    assert code == 1
    assert set(faults(found)) == {"sse", "websocket"}
    assert faults(found)["sse"].startswith("The server itself refuses streams with 503: ")
    assert faults(found)["websocket"].startswith(
        "The server itself refuses streams: the WebSocket closes at once with 1013"
    )
    assert "No proxy is at fault" in found["sse"][0]["do"]


def test_uvicorn_at_its_limit_of_connections_is_told_as_what_it_is() -> None:
    headcount = Headcount(version="1", admin_token=TOKEN, keepalive_interval=2, viewer_timeout=1)
    app = Starlette()
    app.mount(headcount.base_path, headcount)
    server = Threaded(app, limit_concurrency=7)
    try:
        with Command("swarm", f"{server.url}{headcount.base_path}", "--connections", "4") as pages:
            pages.until("4 of 4 open")
            code, found = examined(server.url, "--quick")
            assert code == 1
            assert not [finding for each in found.values() for finding in each if "idle-limit" in finding["see"]]
            assert "--limit-concurrency" in faults(found)["post"]
        with Command("swarm", f"{server.url}{headcount.base_path}", "--connections", "6") as pages:
            pages.until("6 of 6 open")
            code, found = examined(server.url, "--quick")
            assert (code, set(faults(found))) == (1, {"reach"})
            assert "--limit-concurrency" in faults(found)["reach"]
            assert "max_connections" in found["reach"][0]["do"]
    finally:
        server.stop()


def test_a_server_that_drains_is_told_as_what_it_is() -> None:
    headcount = Headcount(version="1", admin_token=TOKEN)
    app = Starlette()
    app.mount(headcount.base_path, headcount)
    server = Threaded(app)
    try:
        headcount.node.drain()
        code, found = examined(server.url, "--hold", "0")
    finally:
        server.stop()
    assert code == 1
    assert set(faults(found)) == {"sse", "websocket"}
    assert faults(found)["sse"].startswith("The server itself refuses streams with 503: This server is going away")
    assert faults(found)["websocket"].startswith(
        "The server itself refuses streams: the WebSocket closes at once with 1012 This server is going away"
    )
    for check in ("sse", "websocket"):
        (fault,) = (one for one in found[check] if one["level"] == "fault")
        assert "No proxy is at fault" in fault["do"]


@pytest.mark.parametrize(
    ("arguments", "hold", "time"),
    [
        ([], 65.0, ["The other checks take about 1 min 10 s."]),
        (["--quick"], None, ["The other checks take about half a minute."]),
        (["--hold", "2s"], 2.0, ["The other checks take about 7 s."]),
        (["--hold", "0"], 0.0, []),
        (["--hold", "2s", "--quick"], 2.0, ["The other checks take about 7 s."]),
    ],
)
def test_streams_are_held_for_longer_than_a_minute_by_default(
    arguments: list[str], hold: float | None, time: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[float | None] = []

    async def examine(base: str, access: object, report: Report, *, hold: float | None) -> None:
        held.append(hold)
        report.add("reach", "ok", "Headcount answers.")

    monkeypatch.setattr("headcount.tools.doctor.examine", examine)
    done = CliRunner().invoke(cli, ["doctor", "https://shop.example", *arguments])
    first, answers, *said, last = done.output.splitlines()
    assert (first, last) == ("Examining https://shop.example/__skew.", "No fault.")
    assert answers.split() == ["ok", "Headcount", "answers."]
    assert [line.strip() for line in said] == time
    assert held == [hold]


def test_a_limit_of_the_whole_duration_is_told_from_one_of_silence(server: Serve) -> None:
    async def examine() -> tuple[int, dict[str, list[dict[str, Any]]]]:
        async with Cutting(server.port, 2.0) as relay:
            return await asyncio.to_thread(examined, f"http://127.0.0.1:{relay.port}")

    code, found = asyncio.run(examine())
    assert code == 1
    assert set(faults(found)) == {"sse-idle", "websocket-idle"}
    for check in ("sse-idle", "websocket-idle"):
        assert re.search(r"stream ends after [23] s, even a busy one", faults(found)[check])
        assert found[check][0]["see"] == "docs/doctor.md#total-limit"


def test_a_limit_that_pages_have_reported_is_named_though_no_stream_is_held_for_so_long() -> None:
    with Serve() as serving:
        report_limit(serving.url, 1.0)
        code, found = examined(serving.origin, "--hold", "0")
    assert code == 1
    assert faults(found) == {"reported-limit": "Pages report that something ends every stream after 1 s, idle or busy."}
    assert found["reported-limit"][0]["see"] == "docs/doctor.md#total-limit"
    assert found["reported-limit"][0]["do"].startswith("Raise that limit")


@pytest.mark.parametrize(
    ("reports", "level"), [([0.0, 0.0], ""), ([0.0, 30.0, 900.0], "fault"), ([900.0, 3600.0, 0.0], "note")]
)
def test_the_shortest_limit_that_a_node_knows_of_is_reported(reports: list[float], level: str) -> None:
    report = Report()
    examine_reported_limit(reports, report)
    assert [finding.level for finding in report.findings] == [level] * bool(level)


def test_a_limit_that_ended_a_stream_is_not_reported_twice() -> None:
    report = Report()
    report.add("sse-idle", "fault", "The SSE stream is cut off after 30 s.", section="total-limit")
    examine_reported_limit([30.0], report)
    assert len(report.findings) == 1


def report_limit(url: str, seconds: float) -> None:
    """Renew a stream a few times as a page does that knows of a limit, until the server takes it for proven."""
    query = f"version=v1&cutAfter={seconds * 1000:.0f}"
    replaces = ""
    for _ in range(4):
        with connect(f"ws{url.removeprefix('http')}/ws?{query}{replaces}", proxy=None) as stream:
            replaces = f"&replaces={json.loads(stream.recv())['connectionId']}"
            time.sleep(seconds * 0.7)  # the age of the stream is the proof


def test_a_stream_that_was_not_kept_busy_is_no_proof_of_a_limit_of_the_whole_duration(server: Serve) -> None:
    async def examine() -> tuple[int, dict[str, list[dict[str, Any]]]]:
        async with Cutting(server.port, 1.0, silent=True, delay=1.5) as relay:
            return await asyncio.to_thread(examined, f"http://127.0.0.1:{relay.port}")

    code, found = asyncio.run(examine())
    assert code == 1
    assert set(faults(found)) == {"sse-idle", "websocket-idle"}
    assert found["sse-idle"][0]["see"] == "docs/doctor.md#idle-limit"


@pytest.mark.parametrize(
    ("hold", "level", "seconds"),
    [([], "fault", 10), (["--hold", "0"], "warning", 4)],  # two keepalives of 3 s and 4 s; 4 s
)
def test_a_proxy_that_keeps_streams_open_after_pages_have_left(
    server: Serve, hold: list[str], level: str, seconds: int
) -> None:
    async def examine() -> tuple[int, dict[str, list[dict[str, Any]]]]:
        async with Cutting(server.port, 60.0, keeps=60.0) as relay:
            return await asyncio.to_thread(examined, f"http://127.0.0.1:{relay.port}", *hold)

    code, found = asyncio.run(examine())
    assert code == (level == "fault")
    [finding] = found["departure"]
    assert (finding["level"], finding["see"]) == (level, "docs/doctor.md#departure")
    assert finding["says"] == (
        f"A page that has left is still in the figures after {seconds} s: a proxy keeps its stream open."
    )


def test_a_proxy_that_notices_late_that_pages_have_left(server: Serve) -> None:
    async def examine() -> tuple[int, dict[str, list[dict[str, Any]]]]:
        async with Cutting(server.port, 60.0, keeps=5.6) as relay:
            return await asyncio.to_thread(examined, f"http://127.0.0.1:{relay.port}")

    code, found = asyncio.run(examine())
    assert code == 0
    [finding] = found["departure"]
    assert (finding["level"], finding["see"]) == ("warning", "docs/doctor.md#departure")
    late = re.fullmatch(
        r"A page that has left stays in the figures for (\d+) s: a proxy notices late that it has left\.",
        finding["says"],
    )
    assert late
    assert 5 <= int(late[1]) <= 10


class Cutting:
    """
    A proxy that ends streams after some seconds.

    Args:
        port: Of the server.
        seconds: Until a stream is cut off.
        silent: Whether only seconds of silence count.
        delay: Seconds for which each subscription but the first is held up.
        keeps: Seconds for which it goes on reading a stream that its client has left.
    """

    def __init__(self, port: int, seconds: float, *, silent: bool = False, delay: float = 0, keeps: float = 0) -> None:
        self._upstream = port
        self._seconds = seconds
        self._silent = silent
        self._delay = delay
        self._keeps = keeps
        self._subscriptions = 0
        self._listener = Listener(self._serve)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._listener.port

    async def __aenter__(self) -> Self:
        await self._listener.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._listener.__aexit__(*error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await self._listener.connect(self._upstream)
        head = await reader.readuntil(b"\r\n\r\n")
        onward.write(re.sub(rb"(?i)\r\nhost:[^\r]*", f"\r\nHost: 127.0.0.1:{self.port}".encode(), head))
        stream = re.match(rb"GET /__skew/(sse|ws)", head) is not None
        if head.startswith(b"POST /__skew/subscribe-stats"):
            self._subscriptions += 1
            await asyncio.sleep(self._delay if self._subscriptions > 1 else 0)
        seconds = self._seconds if stream else None

        async def relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while piece := await source.read(65_536):
                    sink.write(piece)
                    if self._silent and seconds is not None:
                        limit.reschedule(asyncio.get_running_loop().time() + seconds)
                if stream:
                    await asyncio.sleep(self._keeps)
                sink.close()

        try:
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(seconds) as limit:
                    await asyncio.gather(relay(there, writer), relay(reader, onward))
        finally:
            for end in (writer, onward):
                end.transport.abort()


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
