"""Builds in a directory: which there are, and what a deletion leaves alone."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from headcount.build_directory import BuildDirectory
from headcount.core.kept_builds import Build
from headcount.errors import ConfigError
from kit.builds import put

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


def test_builds_are_directories_with_a_build_id_for_a_name(top: Path) -> None:
    put(top, "v1", {"a": ""}, 100)
    put(top, "v3", {"a": ""}, 300)
    put(top, "v2", {"a": ""}, 200)
    for name in (".tmp-v4", "unknown", "(other)", "double  space", "\u202eevil"):
        (top / name).mkdir()
    (top / "index.html").write_text("")
    (top / "current").symlink_to("v1")
    assert BuildDirectory(top).builds() == [Build("v3", 300.0), Build("v2", 200.0), Build("v1", 100.0)]


def test_a_directory_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such' is not a directory; create it, or check the path"):
        BuildDirectory(tmp_path / "no-such")


def test_a_deletion_takes_one_build_and_nothing_that_its_links_lead_to(top: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("kept")
    old = put(top, "v1", {"a/b/c.js": "", "d.js": "d"})
    (old / "a/link").symlink_to(tmp_path / "precious")
    (old / "a/file").symlink_to(tmp_path / "precious/file")
    put(top, "v2", {"a.js": "a"})
    builds = BuildDirectory(top)
    (v1, v2) = builds.builds()
    with (old / "d.js").open() as opened:
        assert builds.delete(Build("v1", os.stat(old).st_mtime))
        assert opened.read() == "d", "what is open can be read"
    assert os.listdir(top) == ["v2"]
    assert (tmp_path / "precious/file").read_text() == "kept"
    assert (v1.id, v2.id) == ("v1", "v2")


def test_a_build_that_changed_or_has_gone_is_left(top: Path) -> None:
    put(top, "v1", {"a.js": ""}, 100)
    builds = BuildDirectory(top)
    (build,) = builds.builds()
    put(top, "v1", {"a.js": "", "b.js": ""}, 200)
    assert not builds.delete(build)
    assert not builds.delete(Build("v9", 100.0))
    assert not builds.delete(Build("..", os.stat(top.parent).st_mtime))
    assert (top / "v1/b.js").exists()


def test_two_deletions_at_once_share_the_work(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes each file just before this one does, and the build itself under its hidden name."""
    put(top, "v1", {"a/b.js": "", "c.js": ""})
    builds, unlink = BuildDirectory(top), os.unlink
    (build,) = builds.builds()

    def taken(name: str, *, dir_fd: int) -> None:
        unlink(name, dir_fd=dir_fd)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", taken)
    assert builds.delete(build)
    assert not builds.delete(build)
    assert os.listdir(top) == []


def test_an_interrupted_deletion_hides_the_build_and_the_next_one_finishes_it(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(top, "v1", {"a.js": "a"})
    (top / ".deleted-notes").mkdir()
    (top / ".deleted-0123456789abcdef").symlink_to(top)
    builds = BuildDirectory(top)
    (build,) = builds.builds()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            builds.delete(build)
    assert builds.builds() == []
    assert builds.delete_leftovers() == 1
    assert sorted(os.listdir(top)) == [".deleted-0123456789abcdef", ".deleted-notes"]


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_cannot_be_deleted_is_an_error(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(top, "v1", {"a.js": "a"})
    builds = BuildDirectory(top)
    refused: Callable[..., None] = _refused
    monkeypatch.setattr(os, "unlink", refused)
    with pytest.raises(PermissionError):
        builds.delete(builds.builds()[0])


def _refused(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")
