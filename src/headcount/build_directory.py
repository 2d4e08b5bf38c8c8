"""
The builds of a front end in a directory: which there are, and the deletion of one.

Each build is a directory below `directory`, named after its build id, as a deploy script copies it. Names that begin
with a dot are not builds, so a script copies to such a name and renames when all is there. Symbolic links are never
followed below `directory`: neither to a build nor inside of one.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from .core.kept_builds import Build
from .core.labels import UNKNOWN, is_version
from .errors import ConfigError

MAX_NAME: Final = 255
"""Bytes of a file's name: the limit of file systems."""

_DELETED: Final = re.compile(r"\.deleted-[0-9a-f]{16}")


def is_file_name(name: str) -> bool:
    """Say whether a part of a path may name a file of a build: no dotfile, and nothing that leads elsewhere."""
    if not name or name[0] == "." or not name.isprintable() or "/" in name or "\\" in name:
        return False
    return len(name) <= MAX_NAME and len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME


def builds_in(top: int) -> list[Build]:
    """Return all builds in an open directory, newest first."""
    found = []
    with os.scandir(top) as entries:
        for entry in entries:
            if not is_file_name(entry.name) or entry.name == UNKNOWN or not is_version(entry.name):
                continue
            with suppress(FileNotFoundError):
                build = _build(entry.name, entry.stat(follow_symlinks=False))
                if build is not None:
                    found.append(build)
    return sorted(found, key=lambda build: (-(build.deployed or 0.0), build.id))


class BuildDirectory:
    """
    The builds in a directory, as they are when they are asked for: nothing is kept between two calls.

    Args:
        directory: Where they are. May be a link itself.

    Raises:
        ConfigError: The directory does not exist.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory)
        if not self.path.is_dir():
            raise ConfigError(f"{str(directory)!r} is not a directory; create it, or check the path.")

    def builds(self) -> list[Build]:
        """Return all builds, newest first. OSError: the directory cannot be read."""
        with opened(self.path) as top:
            return builds_in(top)

    def delete(self, build: Build) -> bool:
        """
        Delete a build: it is renamed first, so that it is served whole or not at all.

        Returns:
            Whether it was there, and had not changed since `build` was read.

        Raises:
            OSError: A part of it could not be deleted.
        """
        if not is_file_name(build.id):
            return False
        with opened(self.path) as top:
            try:
                found = _build(build.id, os.stat(build.id, dir_fd=top, follow_symlinks=False))
                if found != build:
                    return False
                hidden = f".deleted-{secrets.token_hex(8)}"
                os.rename(build.id, hidden, src_dir_fd=top, dst_dir_fd=top)
            except FileNotFoundError:
                return False  # somebody else deleted it
            _remove_tree(hidden, top)
        return True

    def delete_leftovers(self) -> int:
        """Delete what interrupted deletions left, and return how many there were. OSError: a part remains."""
        with opened(self.path) as top:
            with os.scandir(top) as entries:
                found = [
                    each.name
                    for each in entries
                    if _DELETED.fullmatch(each.name) and each.is_dir(follow_symlinks=False)
                ]
            for name in found:
                _remove_tree(name, top)
        return len(found)


def _build(name: str, status: os.stat_result) -> Build | None:
    return Build(name, status.st_mtime) if stat.S_ISDIR(status.st_mode) else None


@contextmanager
def opened(path: str | Path, top: int | None = None, flags: int = 0) -> Iterator[int]:
    """Open a directory, below another one if that is given."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags, dir_fd=top)
    try:
        yield folder
    finally:
        os.close(folder)


def _remove_tree(name: str, top: int) -> None:
    """Remove a directory and all in it, without following links. What is gone already is no error."""
    for _, folders, files, folder in os.fwalk(name, topdown=False, follow_symlinks=False, dir_fd=top, onerror=_raise):
        for each in files:
            with suppress(FileNotFoundError):
                os.unlink(each, dir_fd=folder)
        for each in folders:
            with suppress(FileNotFoundError):
                try:
                    os.rmdir(each, dir_fd=folder)
                except NotADirectoryError:
                    os.unlink(each, dir_fd=folder)  # a link to a directory
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=top)


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
