"""`headcount demo`, as a newcomer runs it: one link that opens, visitors who move on, and a clean end."""

import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest

from headcount.client import use_active_connections
from kit.pages import Sse

from .running import Command, run
from .terminal import Terminal

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(http://127\.0\.0\.1:\d+)/admin/sign-in\?token=\S+")


@contextmanager
def demo(*options: str) -> Iterator[tuple[Command, str, str]]:
    """Run it on a free port; gives the process, its link and the link's origin."""
    with Command("demo", "--port", "0", *options, apart=True) as process:
        link = process.line("http").strip()
        found = LINK.fullmatch(link)
        assert found, link
        yield process, link, found[1]


def follow(link: str, origin: str) -> str:
    """Open the link as a browser does, and return the cookie that its page has then."""
    with httpx.Client(follow_redirects=True) as browser:
        page = browser.get(link)
        assert (page.status_code, str(page.url)) == (200, f"{origin}/admin")
        assert browser.get(f"{origin}/api/me").json()["role"] == "admin"
        return "; ".join(f"{name}={value}" for name, value in browser.cookies.items())


def test_the_readme_says_how_to_run_it_without_a_clone() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert readme.index('pip install "headcount[demo]"') < readme.index("run `headcount demo`")


async def test_its_link_opens_authorised_and_shows_visitors_who_move_to_the_new_version() -> None:
    with demo("--visitors", "20", "--deploy-every", "8s") as (process, link, origin):
        cookie = follow(link, origin)
        stranger = await Sse.open(origin)
        await stranger.subscribe(origin)
        await stranger.until(lambda s: bool(s.of_type("stats-unauthorized")))

        viewer = await Sse.open(origin, cookie=cookie, viewer=1)
        await viewer.subscribe(origin, cookie)
        # Some are away for a moment at any time.
        await viewer.until(lambda s: s.figures is not None and s.figures["versions"].get("v1", 0) >= 10, 60)
        assert viewer.figures is not None
        assert len(viewer.figures["routes"]) > 1, "they look at several pages"
        assert all("ip" in row for row in viewer.figures["connections"] if row["version"] != "unknown")
        assert "log in with this password:" in process.line("admin view")
        told = re.search(r"headcount top (\S+) --token (\S+)$", process.line("in a terminal").strip())
        assert told, "the same is seen in a terminal"
        assert told[2] in [line.strip() for line in process.out], "it has a line of its own, which no terminal breaks"
        assert "About 20 visitors are connecting" in process.line("visitors")
        process.line("v2 is deployed.")
        async with use_active_connections(told[1], token=told[2]) as live:
            assert live.current_version.value == "v2"
        await viewer.until(lambda s: s.figures is not None and {"v1", "v2"} <= set(s.figures["versions"]), 60)
        await viewer.until(lambda s: s.figures is not None and "v1" not in s.figures["versions"], 60)
        stats = httpx.get(f"{origin}/__skew/admin/stats", headers={"authorization": f"Bearer {told[2]}"}).json()
        assert "away" not in stats, "visitors say goodbye, so nobody waits for them"
        assert not stranger.of_type("stats")

        process.ctrl_c()
        assert process.wait(10) == 130
        assert not process.leftovers(), "the visitors are gone, too"
        assert process.err == []
        assert sum("http" in line for line in process.out) == 1, "one link, so that nobody has to choose"
        assert any("/__skew/dashboard" in line for line in process.out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_it_stops_at_once_with_browsers_open_whoever_tells_it(number: signal.Signals, code: int) -> None:
    with demo("--visitors", "3") as (process, _, origin):
        page = await Sse.open(origin)
        process.process.send_signal(number)  # to it alone, as process supervisors do
        assert process.wait(10) == code
        await page.until(lambda s: s.ended)
        assert not process.leftovers()
        assert process.err == []


def test_a_log_line_does_not_continue_the_line_of_figures() -> None:
    with Terminal("demo", "--port", "0", "--visitors", "0", columns=200) as terminal:
        terminal.until("0 connections")
        found = LINK.search(terminal.text)
        assert found
        with socket.create_connection(("127.0.0.1", int(found[1].rpartition(":")[2]))) as stranger:
            stranger.sendall(b"nonsense\r\n\r\n")
            terminal.until("Invalid HTTP request received.")
    before = terminal.raw.partition("WARNING")[0]
    # Behind the last clearing of the line is at most a colour.
    assert re.sub(r"\x1b\[[0-9;]*m", "", before).endswith(("\r\x1b[K", "\n")), before[-200:]


def test_its_door_is_closed_to_other_links() -> None:
    with demo("--visitors", "0") as (_, link, origin), httpx.Client(follow_redirects=True) as browser:
        assert browser.get(link[:-1]).status_code == 200
        assert browser.get(f"{origin}/api/me").json()["role"] is None
        assert browser.get(f"{origin}/__skew/admin/stats").status_code in (401, 403)
        assert browser.get(f"{origin}/__skew/dashboard").status_code == 200


def test_make_demo_ends_without_a_complaint_of_make() -> None:
    # The options win over the environment.
    variables = {"HEADCOUNT_PORT": "1", "DEMO_ARGS": "--port 0 --visitors 0 --deploy-every 0"}
    # What is there already is not set up again: CI came here by `make test`.
    with Command("--old-file=setup", "demo", program="make", cwd=ROOT, env=variables, apart=True) as process:
        process.line("Press Ctrl-C to stop.")
        process.ctrl_c()
        process.wait(10)
        assert process.err == []
        assert "Error" not in "".join(process.out)
        assert not process.leftovers()


def test_a_port_in_use_is_said_in_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("demo", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"headcount: Port {port} is in use on 127.0.0.1; choose another port with --port or HEADCOUNT_PORT.\n"
    )


@pytest.mark.parametrize(
    ("options", "variables", "sentence"),
    [
        (("--visitors", "many"), {}, "Invalid value for '--visitors': 'many' is not a valid whole number."),
        (("--visitors", "-1"), {}, "Invalid value for '--visitors': -1 is not in the range 0<=x<=15000."),
        (
            (),
            {"HEADCOUNT_VISITORS": "many"},
            "Invalid value for 'HEADCOUNT_VISITORS': 'many' is not a valid whole number.",
        ),
        ((), {"HEADCOUNT_PORT": "70000"}, "Invalid value for 'HEADCOUNT_PORT': 70000 is not in the range 0<=x<=65535."),
        (
            ("--deploy-every", "soon"),
            {},
            "Invalid value for '--deploy-every': 'soon' is not a duration; write it as 30s",
        ),
        (("--update-strategy", "http"), {}, "Invalid value for '--update-strategy': 'http' is not one of"),
        (("--seed", "x"), {}, "Invalid value for '--seed': 'x' is not a valid whole number."),
        (("--visitor", "3"), {}, "No such option '--visitor'. Did you mean '--visitors'?"),
    ],
    ids=str,
)
def test_wrong_usage_is_one_sentence_and_exits_2(
    options: tuple[str, ...], variables: dict[str, str], sentence: str
) -> None:
    done = run("demo", *options, env=variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"Error: {sentence}")


def test_a_wrong_setting_in_the_environment_is_wrong_usage_here_as_well() -> None:
    done = run("demo", env={"HEADCOUNT_MAX_CONNECTIONS": "many"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "HEADCOUNT_MAX_CONNECTIONS is 'many'; give a whole number, at least 1." in done.stderr
