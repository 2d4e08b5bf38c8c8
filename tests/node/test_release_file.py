"""The declared version outlives the processes of one machine."""

import fcntl
import logging
import os
from pathlib import Path

import msgspec
import pytest

from headcount import Headcount
from headcount.core.fleet_messages import Declaration
from headcount.node import release_file
from headcount.node.release_file import MAX_BYTES, ReleaseFile
from headcount.node.releases import MAX_AHEAD

NOW = 1_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def file_at(path: Path) -> ReleaseFile:
    return ReleaseFile(str(path), lambda: NOW)


def test_what_was_saved_is_loaded_and_the_newest_stays(path: Path) -> None:
    file_at(path).save(Declaration(7, "v2", unserved=True))
    assert file_at(path).load() == Declaration(7, "v2", unserved=True)
    file_at(path).save(Declaration(6, "older"))
    assert file_at(path).load() == Declaration(7, "v2", unserved=True)
    file_at(path).save(Declaration(8, "v3"))
    assert file_at(path).load() == Declaration(8, "v3")
    assert os.listdir(path.parent) == [path.name], "no temporary file is left"


def test_no_file_is_no_release_and_no_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert file_at(path).load() is None
    assert not caplog.records


def content(**changes: object) -> bytes:
    return msgspec.json.encode({"release": {"number": 7, "version": "v2", "unserved": False, **changes}})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 3_000,
        b'{"release":null}',
        content() + b" " * MAX_BYTES,
        content(number=-1),
        content(number="7"),
        content(number=NOW + MAX_AHEAD + 1),
        content(version=""),
        content(version="unknown"),
        content(version="(other)"),
        content(version="v" * 129),
        content(version="v1\u202e"),
        content(version="v1\x1b[2J"),
    ],
)
def test_a_file_that_holds_no_release_is_logged_and_replaced(
    path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(data)
    assert file_at(path).load() is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(path) in record.getMessage()
    assert "starts without a declared version" in record.getMessage()
    assert "\x1b" not in record.getMessage()
    file_at(path).save(Declaration(7, "v2"))
    assert file_at(path).load() == Declaration(7, "v2")


def test_what_is_no_file_is_logged_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        caplog.clear()
        assert file_at(path).load() is None
        assert "Ignored the state file" in caplog.text


def test_a_directory_that_is_not_there_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file_at(tmp_path / "none" / "state.json").save(Declaration(7, "v2"))
    assert "Could not write the state file" in caplog.text
    assert "No such file or directory" in caplog.text


def test_while_another_process_holds_the_lock_nothing_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file_at(path).save(Declaration(8, "newer"))
    monkeypatch.setattr(release_file, "LOCK_TIMEOUT", 0.05)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        file_at(path).save(Declaration(9, "newest"))
    finally:
        os.close(directory)
    assert file_at(path).load() == Declaration(8, "newer"), "what is written without the lock may replace what is newer"
    assert caplog.messages == [
        f"Did not write the declared version newest to the state file {path}: another process has locked its directory "
        "for more than 0.05 s. End that process, then declare the release again: headcount release VERSION URL"
    ]
    file_at(path).save(Declaration(9, "newest"))
    assert file_at(path).load() == Declaration(9, "newest")


def test_a_new_file_is_for_its_owner_only_and_a_mode_that_it_was_given_stays(path: Path) -> None:
    file_at(path).save(Declaration(7, "v2"))
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    file_at(path).save(Declaration(8, "v3"))
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_the_file_behind_it_is_written(tmp_path: Path, exists: bool) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    if exists:
        file_at(kept / "release.json").save(Declaration(6, "v1"))
    link = tmp_path / "state.json"
    link.symlink_to("kept/release.json")
    file_at(link).save(Declaration(7, "v2"))
    assert link.is_symlink()
    assert file_at(kept / "release.json").load() == file_at(link).load() == Declaration(7, "v2")
    assert os.listdir(kept) == ["release.json"]


@pytest.mark.anyio
async def test_a_server_that_starts_again_knows_the_release(path: Path) -> None:
    before = Headcount(version="v1", state_file=str(path))
    await before.release("v1")
    after = Headcount(version="v2", state_file=str(path))
    release = (await after.stats()).release
    assert release is not None
    assert (release.state, release.version) == ("orphaned", "v1"), "v2 was deployed, and nobody declared it"
    assert (await Headcount(version="v1", state_file=str(path)).stats()).current_version == "v1"
    await after.release("v2")
    assert (await Headcount(version="v2", state_file=str(path)).stats()).current_version == "v2"
    assert (await Headcount(version="v1").stats()).current_version == "v1", "without the file nothing is kept"
