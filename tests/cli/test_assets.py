"""`headcount assets`, as a process against real servers with open pages of two versions."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from headcount.build_directory import BuildDirectory
from headcount.cli import cli
from headcount.core.current_version import CurrentRelease
from headcount.core.kept_builds import Build
from headcount.core.stats import Nodes, Stats
from headcount.errors import Unreachable
from kit.pages import Sse, everybody_leaves
from kit.stores import Store
from server.serving import VERSION, Server
from server.test_unaccounted import until_figures

from .running import Command, run

pytestmark = pytest.mark.anyio

TOKEN = "s3cret-of-the-tests"
OLD, OLDER = "2026.11.2", "2026.11.1"


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """A server of version VERSION that knows soon which pages are away."""
    with Server("uvicorn", admin_token=TOKEN, environment={"AWAY_GRACE": "0.5"}) as server:
        server.wait_ready()
        yield server


@pytest.fixture
async def server(shared: Server) -> AsyncIterator[Server]:
    await until_figures(shared, lambda seen: seen["total"] == 0 and "away" not in seen and "awayKnown" in seen)
    yield shared
    await everybody_leaves(politely=True)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Three builds, of which the older ones were deployed hours ago."""
    top = tmp_path / "builds"
    for age, build in enumerate((VERSION, OLD, OLDER)):
        (top / build / "assets").mkdir(parents=True)
        (top / build / "assets/app.js").write_text(build)
        then = time.time() - 7_200 * (age + 1)
        os.utime(top / build, (then, then))
    return top


async def assets(command: str, directory: Path | str, url: str, *words: str, **options: Any) -> tuple[int, str, str]:
    arguments = ("assets", command, str(directory), "--url", url, *words)
    if "--keep" not in words:
        arguments += ("--keep", "1")
    env = {"HEADCOUNT_TOKEN": TOKEN, **options.pop("env", {})}
    done = await asyncio.to_thread(run, *arguments, env=env, **options)
    return done.returncode, done.stdout, done.stderr


def states(output: str) -> dict[str, str]:
    """Return what a table says of each build."""
    head, *rows = output.splitlines()
    column = head.index("State")
    return {row.split()[0]: row[column:] for row in rows}


async def test_a_build_stays_while_its_page_is_open_and_goes_when_it_has_left(server: Server, top: Path) -> None:
    old = await Sse.open(server.url, version=OLD, route="/")
    await Sse.open(server.url, version=VERSION, route="/")
    code, out, err = await assets("prune", top, server.url)
    assert (code, err) == (0, "")
    assert states(out) == {
        VERSION: "stays: it is the current version (settled)",
        OLD: "stays: 1 page is open",
        OLDER: "deleted",
    }
    assert sorted(os.listdir(top)) == [OLD, VERSION]
    await leaves(server, old)
    code, out, _ = await assets("prune", top, server.url)
    assert (code, states(out)[OLD]) == (0, "deleted")
    assert os.listdir(top) == [VERSION]
    code, out, _ = await assets("prune", top, server.url)
    assert (code, list(states(out))) == (0, [VERSION])


async def leaves(server: Server, page: Sse) -> None:
    """Let a page leave, and wait until it is neither counted nor away."""
    await page.leave()
    await until_figures(server, lambda seen: OLD not in seen["versions"] and "away" not in seen)


async def test_a_page_that_broke_off_keeps_its_build(top: Path) -> None:
    with Server("uvicorn", admin_token=TOKEN, environment={"AWAY_GRACE": "6"}) as server:
        server.wait_ready()
        await until_figures(server, lambda seen: "awayKnown" in seen)
        page = await Sse.open(server.url, version=OLD, route="/")
        page.transport.abort()
        await until_figures(server, lambda seen: seen.get("away") == {OLD: 1})
        code, out, _ = await assets("prune", top, server.url)
        assert (code, states(out)[OLD]) == (0, "stays: 1 page broke off and may return")
        assert (top / OLD).exists()


async def test_a_page_without_a_version_keeps_every_build(server: Server, top: Path) -> None:
    await Sse.open(server.url, route="/")
    code, out, _ = await assets("prune", top, server.url)
    assert (code, states(out)[OLD]) == (0, "stays: 1 page without a version is open and may run it")
    assert len(os.listdir(top)) == 3


async def test_a_dry_run_deletes_nothing_and_both_write_documents(server: Server, top: Path) -> None:
    code, out, _ = await assets("prune", top, server.url, "--dry-run")
    assert (code, states(out)[OLD], states(out)[OLDER]) == (0, "would be deleted", "would be deleted")
    code, out, _ = await assets("prune", top, server.url, "--dry-run", "--keep", "2", "--json")
    found = json.loads(out)
    assert (code, found["dryRun"], [each["deleted"] for each in found["builds"]]) == (0, True, [False] * 3)
    code, out, _ = await assets("list", top, server.url, "--json")
    found = json.loads(out)
    assert found == {
        "url": f"{server.url}/__skew",
        "currentVersion": VERSION,
        "undecided": None,
        "builds": [
            {
                "build": VERSION,
                "mayGo": False,
                "reason": "current",
                "detail": "it is the current version (settled)",
                "openPages": 0,
                "deployed": found["builds"][0]["deployed"],
            },
            *(
                {
                    "build": build,
                    "mayGo": True,
                    "reason": None,
                    "detail": None,
                    "openPages": 0,
                    "deployed": round(os.stat(top / build).st_mtime * 1000),
                }
                for build in (OLD, OLDER)
            ),
        ],
    }
    code, out, _ = await assets("list", top, server.url, "--min-age", "3h")
    assert (code, states(out)[OLD], states(out)[OLDER]) == (
        0,
        "stays: a newer build was deployed too recently",
        "may go",
    )
    assert len(os.listdir(top)) == 3


async def test_builds_of_a_store_are_read_from_the_standard_input(server: Server) -> None:
    lines = f"{VERSION}\t2026-01-03T00:00:00Z\n{OLD}\t2026-01-02T00:00:00+00:00\n{OLDER}\n"
    code, out, _ = await assets("list", "-", server.url, text=lines)
    assert (code, states(out)) == (
        0,
        {
            VERSION: "stays: it is the current version (settled)",
            OLD: "may go",
            OLDER: "stays: it is not known when it was deployed",
        },
    )
    code, _, err = await assets("list", "-", server.url, text="v1\tsoon\n")
    assert (code, "Line 1 has no valid time: 'soon'" in " ".join(err.split())) == (2, True)
    code, out, err = await assets("list", "-", server.url, text="")
    assert (code, out) == (1, "There are no builds.\n")
    reason = f"the current version is {VERSION}, and no build has that name (builds: none)"
    assert err == f"headcount: No build may go now: {reason}.\n"


async def test_a_directory_of_other_names_loses_nothing(server: Server, tmp_path: Path) -> None:
    for name in ("html", "log"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    code, out, err = await assets("prune", tmp_path, server.url, "--min-age", "0")
    assert (code, states(out)) == (1, {"html": "stays", "log": "stays"})
    assert "no build has that name (builds: html, log)" in err
    assert sorted(os.listdir(tmp_path)) == ["html", "log"]


async def test_nobody_without_a_right_and_nothing_without_figures(server: Server, top: Path) -> None:
    code, out, err = await assets("prune", top, server.url, env={"HEADCOUNT_TOKEN": "wrong"})
    assert (code, out) == (1, "")
    assert "You are not authorised" in err
    code, _, err = await assets("prune", top, "http://127.0.0.1:1")
    assert (code, "127.0.0.1:1" in err) == (1, True)
    code, _, err = await assets("prune", top / "none", server.url)
    assert (code, "is not a directory; create it, or check the path." in " ".join(err.split())) == (2, True)
    code, _, _ = await assets("prune", top, server.url, "--keep", "0")
    assert code == 2
    assert len(os.listdir(top)) == 3


async def test_the_url_and_the_rule_may_come_from_the_environment(server: Server, top: Path) -> None:
    variables = {
        "HEADCOUNT_TOKEN": TOKEN,
        "HEADCOUNT_URL": server.url,
        "HEADCOUNT_KEEP": "1",
        "HEADCOUNT_MIN_AGE": "3h",
    }
    done = await asyncio.to_thread(run, "assets", "list", str(top), env=variables)
    assert (done.returncode, states(done.stdout)[OLDER]) == (0, "may go")
    assert states(done.stdout)[OLD] == "stays: a newer build was deployed too recently"
    done = await asyncio.to_thread(run, "assets", "list", str(top))
    assert (done.returncode, "--url" in done.stderr) == (2, True)


async def test_partial_figures_let_nothing_go(top: Path) -> None:
    with ExitStack() as stack:
        store = stack.enter_context(Store())
        servers = [
            stack.enter_context(
                Server(
                    "uvicorn",
                    admin_token=TOKEN,
                    backend=store.url,
                    environment={"AWAY_GRACE": "0.5", "FLEET_CLOCK": "0.3"},
                )
            )
            for _ in range(2)
        ]
        for server in servers:
            server.wait_ready()
        stopped, other = servers
        await Sse.open(stopped.url, version=OLD, route="/")
        await until_figures(other, lambda seen: seen["total"] == 1 and "awayKnown" in seen and not seen["partial"])
        assert states((await assets("list", top, other.url))[1])[OLD] == "stays: 1 page is open"
        stopped.signal(signal.SIGSTOP)
        try:
            await until_figures(other, lambda seen: "unaccounted" in seen)
            code, out, err = await assets("prune", top, other.url)
        finally:
            stopped.signal(signal.SIGCONT)
        assert (code, set(states(out).values())) == (1, {"stays"})
        assert "No build may go now: " in err
        assert err.endswith("of 1 absent node are unaccounted for.\n") or "is unaccounted for" in err
        assert len(os.listdir(top)) == 3


async def test_a_version_that_a_node_serves_stays_and_an_open_question_keeps_all(top: Path) -> None:
    with ExitStack() as stack:
        store = stack.enter_context(Store())
        for version in (OLD, VERSION):
            server = stack.enter_context(
                Server(
                    "uvicorn",
                    version=version,
                    admin_token=TOKEN,
                    backend=store.url,
                    environment={"AWAY_GRACE": "0.5", "FLEET_CLOCK": "0.3"},
                )
            ).wait_ready()
        await until_figures(server, lambda seen: len(seen["nodes"].get("versions", ())) == 2 and "awayKnown" in seen)
        code, out, err = await assets("prune", top, server.url)
        assert (code, set(states(out).values())) == (1, {"stays"})
        assert f"the current version is not known: nodes serve {OLD} and {VERSION}" in err
        done = await asyncio.to_thread(run, "release", VERSION, server.url, "--token", TOKEN)
        assert done.returncode == 0, done.stderr
        code, out, _ = await assets("prune", top, server.url)
        assert (code, states(out)) == (
            0,
            {VERSION: "stays: it is the current version (declared)", OLD: "stays: 1 node serves it", OLDER: "deleted"},
        )


def test_what_cannot_be_deleted_is_named_and_the_rest_goes(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, because nothing keeps root from a deletion."""
    figures = Stats(nodes=Nodes(1, 1, {VERSION: 1}), away_known=True, release=CurrentRelease("declared", VERSION))
    answers: list[Stats | Unreachable] = [figures, figures, Unreachable("The server is away."), figures]

    async def fetch_stats(*_: object, **__: object) -> Stats:
        answer = answers.pop(0)
        if isinstance(answer, Unreachable):
            raise answer
        return answer

    def delete(_: BuildDirectory, build: Build) -> bool:
        raise PermissionError(13, "Permission denied")

    (top / "2026.11.0").mkdir()
    os.utime(top / "2026.11.0", (0, 0))
    monkeypatch.setattr("headcount.client.fetch_stats", fetch_stats)
    monkeypatch.setattr(BuildDirectory, "delete", delete)
    words = ["assets", "prune", str(top), "--url", "http://localhost", "--keep", "1"]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.return_value == 1
    assert {build: state for build, state in states(done.stdout).items() if build != VERSION} == {
        OLD: "not deleted whole; run this again",
        OLDER: "stays: there are no figures any more",
        "2026.11.0": "not deleted whole; run this again",
    }
    again = "was not deleted whole: Permission denied. Check the permissions, and run this again."
    assert done.stderr.splitlines() == [
        f"headcount: Build {OLD} {again}",
        "headcount: The server is away.",
        f"headcount: Build 2026.11.0 {again}",
    ]
    assert answers == []


async def test_two_at_once_delete_a_build_once(server: Server, top: Path) -> None:
    for number in range(300):
        (top / OLD / f"assets/{number}.js").write_text("")
    os.utime(top / OLD, (0, 0))
    done = await asyncio.gather(*(assets("prune", top, server.url) for _ in range(2)))
    assert [code for code, _, _ in done] == [0, 0]
    found = [states(out).get(OLD) for _, out, _ in done]
    assert found.count("deleted") == 1
    assert os.listdir(top) == [VERSION]


async def test_what_an_interrupted_run_left_goes_with_the_next(server: Server, top: Path) -> None:
    (top / ".deleted-0123456789abcdef/assets").mkdir(parents=True)
    (top / ".deleted-0123456789abcdef/assets/a.js").write_text("")
    code, _, _ = await assets("prune", top, server.url, "--dry-run")
    assert (code, len(os.listdir(top))) == (0, 4)
    code, _, _ = await assets("prune", top, server.url)
    assert (code, os.listdir(top)) == (0, [VERSION])


async def test_ctrl_c_ends_it_between_two_builds(server: Server, top: Path) -> None:
    """The figures of the second build do not come; Ctrl-C comes instead."""
    asked = 0
    waiting: list[asyncio.StreamWriter] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        head = await reader.readuntil(b"\r\n\r\n")
        asked += 1
        if asked < 3:
            there, back = await asyncio.open_connection("127.0.0.1", server.port)
            back.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            writer.write(await there.read())
            back.close()
            writer.close()
        else:
            waiting.append(writer)

    proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    words = ("assets", "prune", str(top), "--url", f"http://127.0.0.1:{port}", "--keep", "1", "--token", TOKEN)
    with Command(*words, apart=True) as command:
        async with asyncio.timeout(30):
            while asked < 3:
                await asyncio.sleep(0.02)
        command.ctrl_c()
        assert await asyncio.to_thread(command.wait) == 130
        assert [states("".join(command.out))[build] for build in (OLD, OLDER)] == [
            "deleted",
            "not deleted whole; run this again",
        ]
    for writer in waiting:
        writer.close()
    proxy.close()
    await proxy.wait_closed()
    assert sorted(os.listdir(top)) == [OLDER, VERSION]
