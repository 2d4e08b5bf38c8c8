"""The copy of the history beside `state_file`."""

import asyncio
import itertools
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from headcount import Headcount
from headcount.core.history import Current, encode_sample, sample
from headcount.core.kept_history import Added, History, KeptHistory
from headcount.core.tallies import RETURN
from headcount.fleet.backends import history_folder, local_history
from headcount.fleet.backends.history_folder import MAX_WAITING, HistoryFolder
from headcount.fleet.backends.local_history import HistoryFiles
from headcount.node import figures
from kit.pages import until

from .test_conformance import named
from .test_local import backend, runtime  # noqa: F401  a fixture

NOTHING = KeptHistory([], [], None)


def line(number: int) -> bytes:
    return encode_sample(sample(number * 10_000, {"v1": number}))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def test_what_was_written_is_loaded(state: Path) -> None:
    folder = HistoryFolder(str(state))
    assert folder.load() == NOTHING
    folder.write(Added(line(1), line(1), b"older"))
    folder.write(Added(line(2), None, None))
    folder.write(Added(None, None, b"rollouts"))
    folder.flush()
    assert HistoryFolder(str(state)).load() == ([line(1), line(2)], [line(1)], b"rollouts")
    assert {path.name for path in folder.path.iterdir()} == {"history", "minutes", "rollouts"}
    assert (folder.path, folder.path.stat().st_mode & 0o777) == (state.parent / "state.json.history", 0o700)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.path.iterdir())


def test_it_lies_beside_the_file_that_a_link_points_to(state: Path) -> None:
    (state.parent / "kept").mkdir()
    state.symlink_to("kept/release.json")
    assert HistoryFolder(str(state)).path == state.parent / "kept" / "release.json.history"


def test_what_cannot_be_read_is_no_history(state: Path) -> None:
    folder = HistoryFolder(str(state))
    folder.path.mkdir()
    os.mkfifo(folder.path / "history")
    (folder.path / "minutes").mkdir()
    (folder.path / "rollouts").write_bytes(b"x" * 10**6)
    kept = folder.load()
    assert (kept.fine, kept.minutes) == ([], [])
    assert kept.read(1).to_dict()["rollouts"] == []


def test_a_folder_that_cannot_be_made_is_logged_and_tried_again(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = HistoryFolder(str(state.parent / "none" / "state.json"))
    for _ in range(2):
        folder.write(Added(line(1), None, None))
        folder.flush()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "Could not write the history to" in record.getMessage()
    assert "No such file or directory. It is lost when all processes" in record.getMessage()
    (state.parent / "none").mkdir()
    folder.write(Added(line(2), None, None))
    folder.flush()
    assert folder.load().fine == [line(2)]


def test_while_the_disk_hangs_nothing_waits_for_it_and_the_newest_are_written_later(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, writing, append = threading.Event(), threading.Event(), local_history.append_line

    def hang(*arguments: Any) -> None:
        writing.set()
        hangs.wait(30)
        append(*arguments)

    monkeypatch.setattr(history_folder, "append_line", hang)
    folder = HistoryFolder(str(state))
    folder.write(Added(line(0), None, None))
    assert writing.wait(30)
    for number in range(1, MAX_WAITING + 5):
        folder.write(Added(line(number), None, None))
    writer = folder._writer
    assert writer is not None
    assert writer.daemon, "a process can end although it hangs"
    hangs.set()
    folder.flush()
    assert folder.load().fine == [line(0), *(line(number) for number in range(5, MAX_WAITING + 5))]


def test_a_process_that_was_forked_writes_too(state: Path) -> None:
    folder = HistoryFolder(str(state))
    with folder._lock:
        folder._process, folder._writer = -1, threading.Thread()  # as a fork finds it
    folder.write(Added(line(1), None, None))
    folder.flush()
    assert folder.load().fine == [line(1)]


def files(place: Path, copy: HistoryFolder, *, alone: bool = True) -> HistoryFiles:
    place.mkdir(exist_ok=True)
    made = HistoryFiles(lambda: [place], "shop", copy)
    asyncio.run(made.begin(alone=alone))
    return made


def test_workers_go_on_with_it_after_a_restart_of_the_machine(state: Path) -> None:
    copy = HistoryFolder(str(state))
    before = files(state.parent / "one", copy)
    before.add(line(1), line(1))
    before.keep_rollouts(b"rollouts")
    copy.flush()
    kept = ([line(1)], [line(1)], b"rollouts")
    assert files(state.parent / "two", copy).read() == kept
    assert files(state.parent / "three", copy, alone=False).read() == kept, "workers that start together meet"
    assert files(state.parent / "four", HistoryFolder(str(state.parent / "other"))).read() == NOTHING
    after = files(state.parent / "two", copy)
    after.add(line(2))
    copy.flush()
    assert after.read() == copy.load() == ([line(1), line(2)], *kept[1:])


def test_a_history_that_is_there_is_not_replaced_by_the_copy(state: Path) -> None:
    copy, place = HistoryFolder(str(state)), state.parent / "one"
    files(place, HistoryFolder(str(state.parent / "other"))).add(line(2), line(2))
    copy.write(Added(line(1), line(1), b"older"))
    copy.flush()
    for alone in (True, False):
        assert files(place, copy, alone=alone).read() == ([line(2)], [line(2)], None)


def test_another_application_at_the_same_address_goes_on_with_its_own(state: Path) -> None:
    place, copy = state.parent / "one", HistoryFolder(str(state))
    before = files(place, HistoryFolder(str(state.parent / "blog.json")))
    before._application = b"blog"
    before.add(line(7), line(7))
    copy.write(Added(line(1), None, None))
    copy.flush()
    assert files(place, copy).read() == ([line(1)], [], None)


@pytest.mark.anyio
async def test_a_worker_finds_the_copy_when_it_starts(state: Path) -> None:
    copy = HistoryFolder(str(state))
    copy.write(Added(line(1), line(1), b"rollouts"))
    copy.flush()
    one, ear = backend(named(), history_copy=copy)
    await until(lambda: ear.connected)
    assert await one.tallies.history() == ([line(1)], [line(1)], b"rollouts")
    await one.tallies.add_sample(line(2))
    copy.flush()
    assert copy.load().fine == [line(1), line(2)]
    await one.stop()


def test_a_node_that_is_alone_goes_on_and_is_partial_until_its_pages_are_back(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = itertools.count(10_000, 10_000)
    monkeypatch.setattr(figures, "timestamp", lambda: next(times))

    def start(version: str) -> tuple[Headcount, float]:
        headcount = Headcount(version=version, backend="memory", state_file=str(state))
        return headcount, headcount.node.clock()

    def keep(headcount: Headcount, now: float) -> None:
        headcount.node.figures.keep_sample(now)
        folder = headcount.node.figures._history_folder
        assert folder is not None
        folder.flush()

    keep(*start("v1"))
    after, now = start("v2")
    for seconds in (0.0, RETURN - 1, RETURN + 10):
        keep(after, now + seconds)
    samples = HistoryFolder(str(state)).load().read(10**9).fine
    assert [(each.current, each.partial) for each in samples] == [
        ("v1", False),  # nothing is known of pages before
        ("v2", True),
        ("v2", True),
        ("v2", False),
    ]


def test_without_a_state_file_nothing_is_written(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(state.parent)
    headcount = Headcount(version="v1", backend="memory")
    headcount.node.figures.keep_sample(headcount.node.clock())
    assert os.listdir(state.parent) == []


def test_the_history_of_a_node_is_what_its_folder_holds(state: Path) -> None:
    folder, history = HistoryFolder(str(state)), History()
    for number in range(20):
        folder.write(history.add(number * 10, number * 10_000, {"v1": 1}, Current("v1" if number < 9 else "v2")))
    folder.flush()
    assert tuple(map(list, folder.load()[:2])) == tuple(map(list, history.kept[:2]))
    assert folder.load().rollouts == history.kept.rollouts
