"""An answer that is not Headcount's is an error of every command, whatever its status says."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from .processes import TOKEN, Serve
from .running import run
from .terminal import Terminal

HTML = b"<!doctype html><title>Shop</title><div id=app></div>"


class Other:
    """
    A server that is not Headcount.

    Args:
        status: Of every answer.
        kind: Content-Type; None: none.
        body: Of every answer.
        location: Where `/__skew/…` redirects to; answers there are 200 text/html.
    """

    def __init__(
        self, status: int = 200, kind: str | None = "text/html; charset=utf-8", body: bytes = HTML, location: str = ""
    ) -> None:
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                outer.requests.append(f"{self.command} {self.path}")
                self.rfile.read(int(self.headers.get("content-length", 0)))
                moved = location and self.path.startswith("/__skew")
                self.send_response(status if moved or not location else 200)
                if moved:
                    self.send_header("location", location)
                if kind is not None:
                    self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.address}"

    @contextmanager
    def running(self) -> Iterator["Other"]:
        """Serve."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(10)


COMMANDS = {
    "release": ["release", "v9", "{url}", "--token", TOKEN],
    "stats": ["stats", "{url}", "--token", TOKEN],
    "wait": ["wait", "{url}", "--token", TOKEN, "--version", "v1", "--lost-after", "5s"],
    "nodes": ["nodes", "{url}", "--token", TOKEN],
    "forget": ["nodes", "forget", "0123456789ab", "{url}", "--token", TOKEN],
    "swarm": ["swarm", "{url}", "--connections", "1", "--duration", "1s"],
    "doctor": ["doctor", "{url}", "--hold", "0"],
}
NOT_OURS: dict[str, tuple[dict[str, Any], str]] = {
    "spa": ({}, "answered text/html, not Headcount; check the URL, and that the proxy passes /__skew on to Headcount."),
    "text": ({"kind": "text/plain"}, "answered text/plain, not Headcount"),
    "nothing": ({"kind": None, "body": b""}, "answered no content type, not Headcount"),
    "json": ({"kind": "application/json", "body": b'{"ok":true,"total":5}'}, "not Headcount's"),
    "list": ({"kind": "application/json", "body": b"[]"}, "not Headcount's"),
    "log-in": ({"status": 302, "location": "/log-in?next=x"}, "/log-in"),
    "tls": ({"status": 301, "location": "https://shop.invalid/__skew"}, "shop.invalid"),
    "forbidden": ({"status": 403}, "403 with text/html, which is not Headcount's answer"),
}


CASES = [
    *(("release", kind) for kind in NOT_OURS),
    *(("stats", kind) for kind in ("spa", "json", "log-in")),
    *((command, kind) for command in ("wait", "swarm", "nodes", "forget") for kind in ("spa", "json")),
    ("doctor", "spa"),
]
"""One place decides for all commands, and one kind shows that a command asks it."""


@pytest.mark.parametrize(("command", "kind"), CASES)
def test_what_is_not_headcount_is_an_error_of_every_command(command: str, kind: str) -> None:
    options, words = NOT_OURS[kind]
    with Other(**options).running() as other:
        done = run(*(argument.format(url=other.url) for argument in COMMANDS[command]))
    told = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 1, told
    assert "is current" not in told
    assert "Traceback" not in told
    if command != "doctor":  # which has its own words
        assert words in told
        assert done.stdout == ""


@pytest.mark.parametrize("kind", ["spa", "json", "log-in"])
def test_top_shows_no_figures_of_what_is_not_headcount(kind: str) -> None:
    options, words = NOT_OURS[kind]
    with Other(**options).running() as other, Terminal("top", other.url, "--token", TOKEN, columns=200) as terminal:
        assert terminal.end() == 1
        told = " ".join(terminal.text.split())
    assert words in told
    assert "connections" not in told
    assert "Traceback" not in told


def test_a_release_is_declared_only_by_an_answer_about_that_release() -> None:
    for body in ({"ok": True}, {"ok": False, "version": "v9", "told": 1}, {"ok": True, "version": "v8", "told": 1}):
        with Other(kind="application/json", body=json.dumps(body).encode()).running() as other:
            done = run("release", "v9", other.url, "--token", TOKEN)
        assert (done.returncode, done.stdout) == (1, "")
        assert "not Headcount's answer to a release" in done.stderr


def test_a_release_is_not_turned_into_a_get_by_a_redirect() -> None:
    with Other(status=302, location="/log-in").running() as other:
        done = run("release", "v9", other.url, "--token", TOKEN)
        assert other.requests == ["POST /__skew/admin/release"]
    assert done.returncode == 1
    assert f"redirects to {other.url}/log-in; give the URL that it redirects to, or" in done.stderr


def test_a_redirect_that_repeats_the_post_is_followed() -> None:
    with Serve() as server, Other(status=307, location=f"{server.url}/admin/release").running() as other:
        done = run("release", "v9", other.url, "--token", TOKEN)
    # The token is not sent to another host.
    assert done.returncode == 1
    assert "not authorised" in done.stderr


def test_an_older_server_that_names_no_nodes_is_believed() -> None:
    body = {"ok": True, "version": "v9", "told": 3}
    with Other(kind="application/json", body=json.dumps(body).encode()).running() as other:
        done = run("release", "v9", other.url, "--token", TOKEN)
    assert (done.returncode, done.stdout) == (0, "v9 is current; 3 pages received it.\n")


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ({"reached": 1, "expected": 4}, "v9 is current on 1 of 4 nodes; the others did not answer."),
        ({"reached": 1, "expected": 1}, "v9 is current on the node that answered, which cannot reach its backend"),
    ],
)
def test_a_release_that_missed_a_node_fails_and_says_how_many_it_reached(nodes: dict[str, int], says: str) -> None:
    body = {"ok": True, "version": "v9", "told": 3, "nodes": nodes, "partial": True}
    with Other(kind="application/json", body=json.dumps(body).encode()).running() as other:
        done = run("release", "v9", other.url, "--token", TOKEN)
        as_json = run("release", "v9", other.url, "--token", TOKEN, "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout) == {**body, "ok": False}


def test_nodes_that_a_release_did_not_reach_are_named_with_the_reason() -> None:
    reasons = ("silent", "refused", "stranger", "disconnected", "of a newer server\x1b[2J", "silent", "silent")
    missed = [{"node": f"node{number}", "reason": reason} for number, reason in enumerate(reasons)]
    nodes = {"reached": 1, "expected": 8}
    body = {"ok": True, "version": "v9", "told": 3, "nodes": nodes, "partial": True, "unreached": missed}
    with Other(kind="application/json", body=json.dumps(body).encode()).running() as other:
        done = run("release", "v9", other.url, "--token", TOKEN)
        as_json = run("release", "v9", other.url, "--token", TOKEN, "--json")
    assert (done.returncode, done.stdout, as_json.returncode) == (1, "", 1)
    assert (
        "v9 is current on 1 of 8 nodes. Not reached: node0 (did not answer), node1 (its clock is more than a day "
        "behind), node2 (has another secret), node3 (the store between the nodes cannot be reached), node4 and 2 more."
    ) in done.stderr
    assert json.loads(as_json.stdout)["unreached"] == missed


def test_a_release_while_the_store_is_away_fails_and_says_why() -> None:
    with Serve(backend="redis://127.0.0.1:1/0", version="v9") as server:
        done = run("release", "v9", server.url, "--token", TOKEN)
    assert done.returncode == 1
    assert "v9 is current on the node that answered, which cannot reach its backend" in done.stderr
