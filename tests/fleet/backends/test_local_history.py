"""The history of one machine's workers, and to which application it belongs."""

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from headcount.core.history import encode_sample, sample
from headcount.fleet.backends import local_history
from headcount.fleet.backends.local_history import HistoryFiles
from kit.pages import until

from .test_conformance import named
from .test_local import backend, runtime  # noqa: F401  a fixture

LINE = encode_sample(sample(10_000, {"v1": 459}))


def files(place: Path, application: str, *, alone: bool = True) -> HistoryFiles:
    made = HistoryFiles(lambda: [place], application)
    asyncio.run(made.begin(alone=alone))
    return made


def test_another_application_at_the_same_address_starts_with_an_empty_history(tmp_path: Path) -> None:
    files(tmp_path, "shop").add(LINE, LINE)
    assert files(tmp_path, "shop").read() == ([LINE], [LINE], None), "a restart goes on"
    assert files(tmp_path, "shop", alone=False).read() == ([LINE], [LINE], None)
    assert files(tmp_path, "blog").read() == ([], [], None)
    assert files(tmp_path, "shop").read() == ([], [], None), "and so does the first when it comes back"


def test_a_worker_that_finds_others_goes_on_with_their_history(tmp_path: Path) -> None:
    files(tmp_path, "shop").add(LINE, LINE)
    assert files(tmp_path, "shop --reload", alone=False).read() == ([LINE], [LINE], None)


def test_a_history_without_an_owner_is_started_anew(tmp_path: Path) -> None:
    (tmp_path / "history").write_bytes(LINE + b"\n")
    assert files(tmp_path, "shop").read() == ([], [], None)


def test_nothing_is_read_before_it_is_known_whose_history_it_is(tmp_path: Path) -> None:
    files(tmp_path, "shop").add(LINE)
    assert HistoryFiles(lambda: [tmp_path], "shop").read() is None


def test_the_mark_of_the_application_is_written_with_each_minute_so_that_it_is_not_removed_as_abandoned(
    tmp_path: Path,
) -> None:
    made = files(tmp_path, "shop")
    made.add(LINE, LINE)
    (tmp_path / "application").unlink()
    made.add(LINE, LINE)
    assert (tmp_path / "application").read_text() == "shop"


@pytest.mark.anyio
async def test_each_application_on_port_8000_of_a_machine_has_a_history_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(application: str, *, adds: bool) -> Sequence[bytes]:
        monkeypatch.setattr("sys.argv", ["uvicorn", application])
        one, ear = backend(named())
        await until(lambda: ear.connected)
        # The second worker's arguments differ; it is the same application because the first one is there.
        monkeypatch.setattr("sys.argv", ["worker.py"])
        two, other = backend(named())
        await until(lambda: other.connected)
        if adds:
            await one.tallies.add_sample(LINE, minute=LINE)
        found, same = await one.tallies.history(), await two.tallies.history()
        assert found is not None
        assert found == same
        await two.stop()
        await one.stop()
        return found[0]

    assert await run("shop:app", adds=True) == [LINE]
    assert await run("shop:app", adds=False) == [LINE]
    assert await run("blog:app", adds=False) == []


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("/srv/app/releases/17", ["/x/uvicorn", "app:app"]), ("/srv/app/releases/18", ["/y/uvicorn", "app:app"])),
        (("/srv/app/20261129T1859", ["uvicorn", "app:app"]), ("/srv/app/20261130T0801", ["uvicorn", "app:app"])),
        (("/srv/app/v1.2.3", ["app.py"]), ("/srv/app/v1.3.0-rc.1", ["app.py"])),
        (("/srv/app-1.2.3", ["app.py"]), ("/srv/app-1.3.0", ["app.py"])),
        (("/srv/4be1f0c", ["uvicorn", "app:app"]), ("/srv/171376b", ["uvicorn", "app:app"])),
        (
            ("/srv", ["headcount", "serve", "--version", "v1", "--port=8000"]),
            ("/srv", ["headcount", "serve", "--version", "v2", "--port=8000"]),
        ),
        (("/srv", ["/v/uvicorn/__main__.py", "app:app"]), ("/srv", ["uvicorn", "app:app", "--host", "127.0.0.1"])),
        (("/srv", ["gunicorn", "-b", "127.0.0.1:8000", "app:app"]), ("/srv", ["gunicorn", "app:app"])),
    ],
)
def test_the_next_release_of_an_application_is_the_same_one(
    one: tuple[str, list[str]], two: tuple[str, list[str]]
) -> None:
    assert local_history._digest(*one) == local_history._digest(*two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("/home/me/shop", ["uvicorn", "app:app"]), ("/home/me/blog", ["uvicorn", "app:app"])),
        (("/home/me/shop", ["uvicorn", "app:app"]), ("/home/me/shop", ["uvicorn", "blog:app"])),
        (("/home/me", ["shop.py"]), ("/home/me", ["blog.py"])),
        (("/home/me", ["shop/manage.py", "runserver"]), ("/home/me", ["blog/manage.py", "runserver"])),
        (("/home/me/01-shop", ["app.py"]), ("/home/me/02-blog", ["app.py"])),
        (("/home/me", ["uvicorn", "app:app"]), ("/home/me", ["headcount", "serve"])),
    ],
)
def test_two_applications_are_told_apart(one: tuple[str, list[str]], two: tuple[str, list[str]]) -> None:
    assert local_history._digest(*one) != local_history._digest(*two)


def test_a_process_without_a_folder_or_arguments_has_a_digest_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def removed() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os, "getcwd", removed)
    monkeypatch.setattr("sys.argv", [])
    assert len(local_history.this_application()) == 32


def test_a_file_that_the_disk_has_room_for_a_part_of_does_not_replace_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list"
    local_history.write_whole(path, b"the old one")
    write, room = os.write, 10

    def write_what_fits(descriptor: int, data: memoryview) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, data[:room])
        room -= written
        return written

    with monkeypatch.context() as full:
        full.setattr(os, "write", write_what_fits)
        with pytest.raises(OSError, match="No space"):
            local_history.write_whole(path, b"the new one, which is longer")
    assert path.read_bytes() == b"the old one"
    with monkeypatch.context() as slow:
        slow.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
        local_history.write_whole(path, b"the new one, which is longer")
    assert path.read_bytes() == b"the new one, which is longer"


def test_a_history_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "history"
    for number in range(400):
        local_history.append_line(path, b"%06d" % number * 20, 10)
    lines = local_history.read_lines(path)
    assert len(lines) < 60
    assert lines[-1] == b"000399" * 20
