"""
The files of builds: the newest build that has one, and that file opened.

A file is opened on the way down, one directory after the other, before anything is said about it. So it can be read to
its end whatever becomes of its build meanwhile, and no link can lead out of the directory between a check and the use.
"""

import errno
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from typing import Final, NamedTuple

from .build_directory import BuildDirectory, builds_in, is_file_name, opened
from .core.kept_builds import Build
from .errors import ConfigError
from .log_throttle import LogThrottle

BUILD: Final = "{build}"
"""What stands for the build id in a layout."""

MAX_DEPTH: Final = 32
"""Names in the path of a file."""

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.ENAMETOOLONG})
"""Errors of opening what is not there for a reader: a link (ELOOP or EMLINK) and a socket (ENXIO) among them."""


_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})

logger = logging.getLogger("headcount")


class OpenFile(NamedTuple):
    """
    A file that was found. The caller closes it.

    Attributes:
        file: Open for reading, at its beginning.
        status: Of that file.
        encoding: The content encoding that it is stored in; empty: none.
        build: The build that it is of.
    """

    file: FileIO
    status: os.stat_result
    encoding: str
    build: Build


ENCODINGS: Final = {"br": ".br", "gzip": ".gz"}
"""Content encodings that a build may hold beside a file, the smallest first, and how the names of such files end."""


def parse_layout(layout: str) -> tuple[str, ...]:
    """
    Return the names that lead from a build to its files.

    Raises:
        ConfigError: It does not begin with `{build}`, or leads out of a build.
    """
    first, *names = layout.rstrip("/").split("/")
    if first != BUILD or not all(is_file_name(name) for name in names):
        raise ConfigError(f"builds is {layout!r}; write '{BUILD}', or the path to the files such as '{BUILD}/assets'.")
    return tuple(names)


class BuildFiles:
    """
    The files of the builds in a directory, as they are when they are asked for: nothing is kept between two calls.

    Args:
        directory: Where the builds are.
        layout: Path to the files of a build, such as `{build}/assets`.

    Raises:
        ConfigError: The directory does not exist, or the layout is invalid.
    """

    def __init__(self, directory: str | os.PathLike[str], layout: str = BUILD) -> None:
        self._inner = parse_layout(layout)
        self.path = BuildDirectory(directory).path
        self._log_throttle = LogThrottle()

    def open_newest(self, names: Sequence[str], accepted: Sequence[str] = ()) -> OpenFile | None:
        """
        Open a file of the newest build that has it.

        Args:
            names: Path of the file below the files of a build.
            accepted: Content encodings that the reader understands.

        Returns:
            The file, or None if no build has it.

        Raises:
            OSError: The directory cannot be read, or too many files are open.
        """
        if not 0 < len(names) <= MAX_DEPTH or not all(map(is_file_name, names)):
            return None
        *folders, name = names
        with opened(self.path) as top:
            for build in builds_in(top):
                try:
                    with _opened_below(top, [build.id, *self._inner, *folders]) as folder:
                        return _smallest(_open_file(name, folder), name, folder, accepted, build)
                except OSError as error:
                    if error.errno in _DENIED:
                        self._log_denied(build)
                    elif error.errno not in _ABSENT:
                        raise
        return None

    def _log_denied(self, build: Build) -> None:
        suffix = self._log_throttle.suffix_if_due("denied")
        if suffix is not None:
            logger.warning(
                "Assets may not read a file or directory of build %s, and answers as if it were not there; make it "
                "readable.%s",
                build.id,
                suffix,
            )


def _smallest(plain: FileIO, name: str, folder: int, accepted: Sequence[str], build: Build) -> OpenFile:
    """Return a precompressed form of a file if there is one that the reader understands, else the file."""
    for encoding, suffix in ENCODINGS.items():
        if encoding in accepted and is_file_name(name + suffix):
            try:
                found = _open_file(name + suffix, folder)
            except OSError:
                continue  # the file itself will do
            plain.close()
            return OpenFile(found, os.fstat(found.fileno()), encoding, build)
    return OpenFile(plain, os.fstat(plain.fileno()), "", build)


@contextmanager
def _opened_below(top: int, names: Sequence[str]) -> Iterator[int]:
    """Open a directory by way of each directory above it, none of which may be a link."""
    name, *others = names
    with opened(name, top, os.O_NOFOLLOW) as folder:
        if not others:
            yield folder
            return
        with _opened_below(folder, others) as deepest:
            yield deepest


def _open_file(name: str, folder: int) -> FileIO:
    """Open a regular file. OSError: there is none of that name, or too many files are open."""
    # Without O_NONBLOCK, opening a named pipe would wait for its writer.
    number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", name)
    return FileIO(number, "r")
