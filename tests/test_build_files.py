"""Files of builds: which build has one, how it is stored, and what is no file."""

import logging
import os
import socket
import tempfile
from pathlib import Path

import pytest

from headcount.build_directory import is_file_name
from headcount.build_files import BuildFiles, parse_layout
from headcount.errors import ConfigError
from kit.builds import put

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


def read(builds: BuildFiles, path: str, *accepted: str) -> tuple[str, str] | None:
    found = builds.open_newest(path.split("/"), accepted)
    if found is None:
        return None
    with found.file:
        return found.file.read().decode(), found.encoding


def test_a_file_comes_from_the_newest_build_that_has_it(top: Path) -> None:
    put(top, "v1", {"assets/old.js": "old", "assets/app.js": "1"}, 100)
    put(top, "v2", {"assets/app.js": "2"}, 200)
    builds = BuildFiles(top, "{build}/assets/")
    assert read(builds, "app.js") == ("2", "")
    assert read(builds, "old.js") == ("old", "")
    assert read(builds, "assets/app.js") is None
    put(top, "v0", {"assets/app.js": "0"}, 300)
    assert read(builds, "app.js") == ("0", ""), "a new build is seen at once"


def test_precompressed_forms_are_of_the_same_build_and_only_beside_the_file(top: Path) -> None:
    put(top, "v1", {"a.js": "plain", "a.js.br": "br", "a.js.gz": "gz", "only.js.gz": "gz"}, 100)
    put(top, "v2", {"b.js": "plain", "b.js.br/x": ""}, 200)
    (top / "v2/b.js.gz").symlink_to("b.js")
    builds = BuildFiles(top)
    assert read(builds, "a.js") == ("plain", "")
    assert read(builds, "a.js", "gzip", "br") == ("br", "br")
    assert read(builds, "a.js", "gzip") == ("gz", "gzip")
    assert read(builds, "a.js.br", "br") == ("br", "")
    assert read(builds, "b.js", "br", "gzip") == ("plain", "")
    assert read(builds, "only.js", "gzip") is None


def test_links_are_not_followed_wherever_they_stand(top: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "assets").mkdir(parents=True)
    (outside / "assets/secret.js").write_text("secret")
    put(top, "v1", {"assets/a.js": "a"})
    (top / "v1/assets/file.js").symlink_to(outside / "assets/secret.js")
    (top / "v1/assets/folder").symlink_to(outside / "assets")
    (top / "v2").mkdir()
    (top / "v2/assets").symlink_to(outside / "assets")
    (top / "v3").symlink_to(outside)
    builds = BuildFiles(top, "{build}/assets")
    for path in ("file.js", "folder/secret.js", "secret.js"):
        assert read(builds, path) is None
    link = tmp_path / "link"
    link.symlink_to(top)
    assert read(BuildFiles(link, "{build}/assets"), "a.js") == ("a", ""), "the directory itself may be one"


def test_only_regular_files_are_opened_and_nothing_waits(top: Path) -> None:
    put(top, "v1", {"a.js": "a", "folder/b.js": ""})
    os.mkfifo(top / "v1/pipe.js")
    server = socket.socket(socket.AF_UNIX)
    with server, tempfile.TemporaryDirectory() as near:
        server.bind(f"{near}/s")
        os.rename(f"{near}/s", top / "v1/socket.js")
        builds = BuildFiles(top)
        for path in ("pipe.js", "socket.js", "folder", "missing.js", "a.js/b.js", "x" * 255, "/".join("a" * 40)):
            assert read(builds, path) is None, path


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".env", "a/b", "a\\b", "a\0b", "a\nb", "\ud800", "x" * 256, "ä" * 128, "\u202ea"]
)
def test_names_that_lead_elsewhere_or_are_hidden_name_no_file(name: str, top: Path) -> None:
    put(top, "v1", {"a.js": "a", ".env": "secret"})
    assert not is_file_name(name)
    assert BuildFiles(top).open_newest([name]) is None
    assert BuildFiles(top).open_newest(["..", "v1", "a.js"]) is None
    assert BuildFiles(top).open_newest([]) is None


@pytest.mark.parametrize(
    "layout", ["", "assets", "v1/{build}", "{build}/../x", "{build}//x", "{build}/.vite", "/{build}"]
)
def test_a_layout_stays_inside_of_a_build(layout: str) -> None:
    with pytest.raises(ConfigError, match=r"write '\{build\}', or the path to the files such as '\{build\}/assets'"):
        parse_layout(layout)


def test_what_may_not_be_read_is_as_if_it_were_not_there_and_is_logged_once(
    top: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is forbidden to root, so the refusal is made up."""
    put(top, "v1", {"a.js": "old"}, 100)
    put(top, "v2", {"a.js": "new"}, 200)
    opens = os.open

    def refuse(path: str | Path, flags: int, *, dir_fd: int | None = None) -> int:
        if path == "v2":
            raise PermissionError(13, "Permission denied")
        return opens(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    files = BuildFiles(top)
    with caplog.at_level(logging.WARNING, "headcount"):
        assert [read(files, "a.js") for _ in range(3)] == [("old", "")] * 3
    assert caplog.messages == [
        "Assets may not read a file or directory of build v2, and answers as if it were not there; make it readable."
    ]


def test_too_many_open_files_are_not_a_missing_file(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(top, "v1", {"a.js": "a"})
    opens = os.open

    def refuse(path: str | Path, flags: int, *, dir_fd: int | None = None) -> int:
        if path == "a.js":
            raise OSError(24, "Too many open files")
        return opens(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        BuildFiles(top).open_newest(["a.js"])
