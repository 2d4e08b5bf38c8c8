"""`headcount serve`, as operators run it: what it serves and to whom, how it stops, and what it says to wrong input."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import click
import httpx2 as httpx
import pytest

from headcount.cli import cli
from headcount.config import Config
from headcount.environment import COMMAND_VARIABLES, variable_of
from kit.docs import code_in, section_of
from kit.pages import Sse, WebSocket, all_of
from kit.programs import needs

from .processes import Serve
from .running import HEADCOUNT, Command, environment, run

pytestmark = pytest.mark.anyio

TOKEN = "a token that nobody guesses"
ADMIN = {"authorization": f"Bearer {TOKEN}"}


@contextmanager
def serving(*options: str, **variables: str) -> Iterator[tuple[Command, str]]:
    """Serve on a free port; gives the process and the URL that it told, with the base path."""
    variables = {"HEADCOUNT_ADMIN_TOKEN": TOKEN, "HEADCOUNT_VERSION": "v7", **variables}
    with Command("serve", "--port", "0", *options, env=variables, apart=True) as server:
        found = re.search(r"http://\S+", server.line("Headcount serves"))
        assert found
        yield server, found[0]


def origin(url: str) -> str:
    return url.removesuffix("/__skew")


def test_the_commands_of_the_page_start_it_and_ask_it() -> None:
    """Those of docs/frameworks.md, word for word, without `pip install`."""
    needs("curl", "openssl")
    start, question = code_in(section_of("docs/frameworks.md", "Serve:"), "sh")
    install, export, serve = start.splitlines()
    assert install == 'pip install "headcount[serve]"'
    path = f"{HEADCOUNT.parent}{os.pathsep}{os.environ['PATH']}"
    env = environment({"PATH": path, "HEADCOUNT_PORT": "0"})  # 8000 may be taken on this machine
    script = f"{export}\necho $HEADCOUNT_ADMIN_TOKEN\nexec {serve}"
    with subprocess.Popen(["sh", "-ec", script], env=env, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            token = server.stdout.readline().strip()
            found = re.search(r"http://(\S+)/__skew", server.stdout.readline())
            assert found
            question = question.replace("127.0.0.1:8000", found[1])
            done = subprocess.run(
                ["sh", "-ec", question],
                env={**env, "HEADCOUNT_ADMIN_TOKEN": token},
                capture_output=True,
                text=True,
                check=True,
            )
            told = json.loads(done.stdout)
            assert told["total"] == 0
        finally:
            server.terminate()


async def test_it_counts_by_version_and_route_on_both_transports() -> None:
    with serving("--route-tracking") as (_, url):
        viewer = await Sse.open(origin(url), token=TOKEN, viewer=1)
        headers = {**ADMIN, "content-type": "application/json"}
        body = {"connectionId": viewer.handle, "deltas": True}
        assert httpx.post(f"{url}/subscribe-stats", headers=headers, json=body).json() == {"ok": True}
        await viewer.until_figures([])
        pages = [
            *await all_of([Sse.open(origin(url), version="v7", route="/a") for _ in range(3)]),
            *await all_of([WebSocket.open(origin(url), version="v6", route="/b") for _ in range(2)]),
        ]
        await viewer.until_figures([("v7", "/a")] * 3 + [("v6", "/b")] * 2)
        found = httpx.get(f"{url}/admin/stats", headers=ADMIN).json()
        assert (found["total"], found["versions"], found["routes"]) == (5, {"v7": 3, "v6": 2}, {"/a": 3, "/b": 2})
        pages[0].fin()
        await viewer.until_figures([("v7", "/a")] * 2 + [("v6", "/b")] * 2)
        assert httpx.get(f"{url}/health").json()["version"] == "v7"
        assert "createHeadcount" in httpx.get(f"{url}/client.js").text


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_an_event_stream_that_no_page_reads_any_more_is_dropped(workers: str) -> None:
    """On the bare socket; tests/asgi/test_slow_peers.py has the same over ASGI."""
    with serving("--workers", workers, HEADCOUNT_KEEPALIVE_INTERVAL="0.5", HEADCOUNT_UNACCOUNTED_GRACE="20") as (
        _,
        url,
    ):
        ghosts = await all_of([Sse.open(origin(url), version="v7", answers=1) for _ in range(2)])
        old = await Sse.open(origin(url), version="v7")
        figures: dict[str, Any] = {"total": 3}

        async def until_counted(total: int, unaccounted: int) -> None:
            nonlocal figures
            async with asyncio.timeout(60):
                while (figures["total"], figures.get("unaccounted", 0)) != (total, unaccounted):
                    await asyncio.sleep(0.05)
                    figures = (await asyncio.to_thread(httpx.get, f"{url}/admin/stats", headers=ADMIN)).json()
                    assert figures["total"] + figures.get("unaccounted", 0) >= total + unaccounted

        await until_counted(1, 2)
        assert {absence["state"] for absence in figures["absences"]} == {"unanswered"}
        metrics = httpx.get(f"{url}/metrics", headers=ADMIN).text
        assert 'headcount_unaccounted_connections{state="unanswered"} 2' in metrics
        if workers == "1":
            assert 'reason="no answer"} 2' in metrics
        # One was frozen, and comes back to whichever worker.
        back = await Sse.open(origin(url), version="v7", answers=0, replaces=ghosts[0].handle)
        await until_counted(2, 1)
        await until_counted(2, 0)
        for page in (*ghosts, old, back):
            page.fin()


def test_options_and_variables_say_where_and_for_which_version() -> None:
    with serving("--version", "v8", "--base-path", "/live", "--host", "::1") as (server, url):
        assert re.fullmatch(r"http://\[::1\]:\d+/live", url)
        assert httpx.get(f"{url}/health").json()["version"] == "v8"
        server.ctrl_c()
        server.wait(10)
        assert server.out == [
            f"Headcount serves {url} for version v8. Press Ctrl-C to stop.\n",
            f"The dashboard is {url}/dashboard/; log in with the admin token.\n",
            "Stopped.\n",
        ]
        assert server.err == []


@pytest.mark.parametrize("workers", [1, 2])
def test_it_opens_as_many_files_as_it_may(workers: int) -> None:
    """systemd and Docker start it with 1,024, and beyond that uvloop closes new connections without a word."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with serving("--workers", str(workers)) as (server, _):
            assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_whoever_asks_beside_the_base_path_is_told_where_it_is() -> None:
    with serving() as (_, url):
        for path in ("/", "/sse", "/admin/stats", "/__skewed"):
            answer = httpx.get(origin(url) + path)
            assert answer.status_code == 404
            assert "below /__skew, such as /__skew/health" in answer.json()["detail"]
        assert "/admin/connections" in httpx.get(f"{url}/nothing").json()["detail"]


def test_a_handshake_in_the_wrong_place_or_from_the_wrong_page_is_refused_and_fills_no_log() -> None:
    handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    handshake["Sec-WebSocket-Key"] = "x3JJHMbDL1EzLkh9GBhXDw=="
    with serving() as (server, url):
        for place, headers in (
            (f"{url}/wss", {}),
            (f"{origin(url)}/ws", {}),
            *[(f"{url}/ws", {"Origin": f"https://evil{number}.example"}) for number in range(5)],
        ):
            assert httpx.get(place, headers={**handshake, **headers}).status_code == 403
        answer = httpx.get(f"{url}/ws")
        assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
        server.ctrl_c()
        server.wait(10)
        [line] = server.err
        assert "Refused a cross-site request from 'https://evil0.example'" in line


@contextmanager
def back_end(may: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Run somebody's back end, which allows those whose cookie is `may`; gives its URL and the headers that came."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(204 if self.headers.get("cookie") == may else 403)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/may-see-stats", asked
        finally:
            server.shutdown()
            thread.join()


def test_the_token_opens_the_figures_and_nothing_else_does() -> None:
    with serving() as (_, url):
        assert httpx.get(f"{url}/admin/stats", headers=ADMIN).json()["total"] == 0
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"cookie": f"token={TOKEN}"}):
            assert httpx.get(f"{url}/admin/stats", headers=headers).status_code in (401, 403)


def test_a_token_from_a_file_with_a_newline_at_its_end_works() -> None:
    with serving(HEADCOUNT_ADMIN_TOKEN=f"{TOKEN}\n") as (_, url):
        assert httpx.get(f"{url}/admin/stats", headers=ADMIN).status_code == 200


async def test_the_authorize_url_decides_with_the_viewers_own_cookies() -> None:
    with (
        back_end("session=admin") as (ask, asked),
        serving("--authorize-url", ask, HEADCOUNT_ADMIN_TOKEN=TOKEN) as (_, url),
    ):
        for cookie, status in (("session=admin", 200), ("session=guest", 403)):
            answer = httpx.get(f"{url}/admin/stats", headers={"cookie": cookie, "x-private": "1"})
            assert answer.status_code == status
        assert [headers.get("cookie") for headers in asked] == ["session=admin", "session=guest"]
        assert not any("x-private" in headers for headers in asked)
        for cookie, verdict in (("session=admin", "stats"), ("session=guest", "stats-unauthorized")):
            page = await WebSocket.open(origin(url), cookie=cookie)
            await page.subscribe(url, cookie)
            await page.until(lambda s, verdict=verdict: bool(s.of_type(verdict)))  # type: ignore[misc]


def test_without_token_and_url_nobody_may_see_and_it_says_so() -> None:
    with Command("serve", "--port", "0", "--version", "v7") as server:
        server.line("Nobody may see the figures: set HEADCOUNT_ADMIN_TOKEN or give --authorize-url.")
        url = server.line("Headcount serves").split()[2]
        assert httpx.get(f"{url}/admin/stats").status_code == 401


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (("--admin-token", "short"), {}),
        ((), {"HEADCOUNT_ADMIN_TOKEN": "short"}),
        ((), {"HEADCOUNT_METRICS_TOKEN": "short"}),
    ],
)
def test_a_short_token_is_refused(arguments: tuple[str, ...], env: dict[str, str]) -> None:
    done = run("serve", "--version", "v7", *arguments, env=env)
    assert done.returncode == 2
    assert " has 5 characters, and at least 16 are needed; give a long random text" in done.stderr


async def test_it_stops_within_three_seconds_of_sigterm_with_open_streams() -> None:
    with serving() as (server, url):
        pages = await all_of([Sse.open(origin(url)) for _ in range(50)])
        sockets = await all_of([WebSocket.open(origin(url)) for _ in range(50)])
        server.process.terminate()
        # As process supervisors expect it of who was told to go: by that signal.
        assert await asyncio.to_thread(server.wait, 3) == -signal.SIGTERM
        for page in pages:
            await page.until(lambda s: s.ended)
            assert len(page.of_type("drain")) == 1
        for sock in sockets:
            await sock.until(lambda s: s.ended)
            assert sock.close_code == 1012
        assert server.err == []
        assert not server.leftovers()


async def test_ctrl_c_stops_it_with_a_word_and_the_exit_code_of_an_interrupt() -> None:
    with serving() as (server, url):
        await all_of([Sse.open(origin(url)) for _ in range(50)])
        server.ctrl_c()
        assert await asyncio.to_thread(server.wait, 3) == 130
        assert server.out[2:] == ["Stopped.\n"]
        assert server.err == []


def settings_of(command: click.Command) -> dict[str, click.Option]:
    return {str(option.name): option for option in command.params if isinstance(option, click.Option)}


def test_the_help_names_every_setting_as_an_option_or_a_variable() -> None:
    text = run("serve", "--help").stdout
    for name in Config.__struct_fields__:
        option, variable = f"--{name.replace('_', '-')}", variable_of(name)
        assert (f" {option} " in text) != bool(re.search(rf"{variable}[,.]", text)), name
    assert "[true|anonymized|false]" in text


def test_every_option_can_be_set_in_the_environment_and_is_a_known_variable() -> None:
    context = click.Context(cli, **cli.context_settings)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        for option in settings_of(command).values():
            variable = f"HEADCOUNT_{option.opts[0].removeprefix('--').replace('-', '_').upper()}"
            variables = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
            if option.name in Config.__struct_fields__ and name in ("serve", "config"):
                assert option.envvar is None, "it would be read twice, and the second time as text"
            else:
                assert variable in variables, name
                assert set(variables) <= COMMAND_VARIABLES | {variable_of(field) for field in Config.__struct_fields__}


V = ("--version", "v1")
ORIGINS = "has 'a.example'; give origins as browsers send them, such as https://www.example.com: scheme and host in"


@pytest.mark.parametrize(
    ("options", "variables", "sentence"),
    [
        ((), {}, "The version is missing; give --version or set HEADCOUNT_VERSION to the build id of this deploy"),
        (("--version", ""), {}, "--version is empty; give the build id"),
        (("--version", "v" * 129), {}, f"--version is '{'v' * 75} …; give the build id"),
        ((), {"HEADCOUNT_VERSION": ""}, "HEADCOUNT_VERSION is empty; give the build id"),
        ((*V, "--backend", "redis:"), {}, "--backend is 'redis:'; give auto, local, memory, or a URL such as redis://"),
        (V, {"HEADCOUNT_BACKEND": "redis:"}, "HEADCOUNT_BACKEND is 'redis:'; give auto, local, memory, or a URL such"),
        ((*V, "--workers", "2", "--backend", "memory"), {}, "The memory backend counts only one process"),
        (V, {"HEADCOUNT_WORKERS": "2", "HEADCOUNT_BACKEND": "memory"}, "The memory backend counts only one process"),
        ((*V, "--allowed-origins", "a.example"), {}, f"--allowed-origins {ORIGINS}"),
        (V, {"HEADCOUNT_ALLOWED_ORIGINS": "https://b.example,a.example"}, f"HEADCOUNT_ALLOWED_ORIGINS {ORIGINS}"),
        (
            (*V, "--trusted-proxies", "10.0.0.0/33"),
            {},
            "--trusted-proxies has '10.0.0.0/33'; give addresses or networks",
        ),
        ((*V, "--authorize-url", "/may"), {}, "--authorize-url is '/may'; give an http:// or https:// URL."),
        ((*V, "--admin-token", " "), {}, "--admin-token is empty; leave it out, or give a long random text"),
        ((*V, "--base-path", "live"), {}, "--base-path is 'live'; give a path with a leading and no trailing slash"),
        ((*V, "--ip-tracking=maybe"), {}, "--ip-tracking is 'maybe'; give True, False or anonymized."),
        (V, {"HEADCOUNT_IP_TRACKING": "maybe"}, "HEADCOUNT_IP_TRACKING is 'maybe'; give True, False or anonymized."),
        ((*V, "--update-strategy", "http"), {}, "Invalid value for '--update-strategy': 'http' is not one of"),
        (V, {"HEADCOUNT_UPDATE_STRATEGY": "http"}, "HEADCOUNT_UPDATE_STRATEGY is 'http'; give sse, ws or auto."),
        (V, {"HEADCOUNT_MAX_CONNECTIONS": "many"}, "HEADCOUNT_MAX_CONNECTIONS is 'many'; give a whole number"),
        ((*V, "--port", "abc"), {}, "Invalid value for '--port': 'abc' is not a valid whole number."),
        ((*V, "--port", "65536"), {}, "Invalid value for '--port': 65536 is not in the range 0<=x<=65535."),
        (V, {"HEADCOUNT_PORT": "abc"}, "Invalid value for 'HEADCOUNT_PORT': 'abc' is not a valid whole number."),
        (
            V,
            {"HEADCOUNT_PORT": "tcp://10.0.0.1:8000"},
            "Invalid value for 'HEADCOUNT_PORT': 'tcp://10.0.0.1:8000' was set by Kubernetes for a Service called",
        ),
        (
            ("--verison", "v1"),
            {},
            "No such option '--verison'. Did you mean '--version'?",
        ),
        ((*V, "more"), {}, "Got unexpected extra argument (more)"),
    ],
    ids=str,
)
def test_wrong_usage_is_one_sentence_that_names_what_was_wrong_and_exits_2(
    options: tuple[str, ...], variables: dict[str, str], sentence: str
) -> None:
    done = run("serve", *options, env=variables)
    assert done.returncode == 2, done
    assert done.stdout == ""
    usage, hint, nothing, error = done.stderr.splitlines()
    assert (usage, hint, nothing) == (
        "Usage: headcount serve [OPTIONS]",
        "Try 'headcount serve --help' for help.",
        "",
    )
    assert error.startswith(f"Error: {sentence}")


@pytest.mark.parametrize(
    ("options", "kept"),
    [((), None), (("--ip-tracking",), "127.0.0.1"), (("--ip-tracking=anonymized",), "127.0.0.0")]
    + [((f"--ip-tracking={word}",), "127.0.0.1") for word in ("true", "TRUE", "on", "yes", "1")]
    + [((f"--ip-tracking={word}",), None) for word in ("false", "False", "off", "no", "0")],
    ids=str,
)
async def test_addresses_are_kept_as_the_option_says(options: tuple[str, ...], kept: str | None) -> None:
    with serving(*options) as (_, url):
        await Sse.open(origin(url))
        (row,) = httpx.get(f"{url}/admin/connections", headers=ADMIN).json()["connections"]
        assert row.get("ip") == kept


@pytest.mark.parametrize("workers", ["1", "3"])
def test_a_misspelt_variable_is_told_once_and_stops_nothing(workers: str) -> None:
    variables = {"HEADCOUNT_ROUT_TRACKING": "true", "HEADCOUNT_PORT_80_TCP": "tcp://10.0.0.1:80"}
    with serving("--workers", workers, **variables) as (server, _):
        server.line("Unknown environment variable HEADCOUNT_ROUT_TRACKING is ignored; did you mean HEADCOUNT_ROUTE_T")
        server.ctrl_c()
        server.wait(10)
        assert len(server.err) == 1


def test_a_port_in_use_is_the_only_thing_that_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", *V, "--port", str(port))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"headcount: Cannot listen on 127.0.0.1:{port} (Address already in use); "
        "choose another port with --port or HEADCOUNT_PORT; 0 is any free port.\n"
    )


def test_the_address_of_several_workers_is_in_use_for_the_next_who_want_it() -> None:
    """They share it among themselves, so the kernel would let others share it, too, and half of the pages go there."""
    with serving("--workers", "2") as (_, url):
        port = url.rpartition(":")[2].partition("/")[0]
        done = run("serve", *V, "--port", port, "--workers", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Address already in use" in done.stderr


def test_an_address_that_is_none_is_an_error_of_the_run() -> None:
    done = run("serve", *V, "--host", "no such host")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("headcount: Cannot listen on no such host: not an address of this machine (")


@pytest.mark.parametrize("path", ["/health", "/sse", "/client.js"])
def test_a_request_without_a_host_is_refused(path: str) -> None:
    with Serve() as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as peer:
        peer.sendall(f"GET /__skew{path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        answer = peer.recv(4096)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert b"application/problem+json" in answer
