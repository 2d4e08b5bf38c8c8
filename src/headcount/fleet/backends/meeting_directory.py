"""
The private directory in which the workers of one machine meet, one for each address that they listen on.

Source: docs/adr/0013-workers-meet-in-a-directory.md

Tests: tests/fleet/backends/test_local.py.
"""

import errno
import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_NAME: Final = "headcount-"
"""The directory of all meeting places of a user has this name and their number."""


def meeting_directory(address: str, fleet: str) -> Path:
    """
    Return the directory of an address and a fleet; make it if there is none.

    Raises:
        OSError: It is somebody else's, open to others, or cannot be made.
    """
    return _private(_directory() / _key(address, fleet))


def is_meeting_place(path: str) -> bool:
    """Say whether a Unix socket is one by which workers meet, from its path alone."""
    return Path(path).parent.parent.name.startswith(_NAME)


def _key(address: str, fleet: str) -> str:
    try:
        namespace = os.stat("/proc/self/ns/net").st_ino
    except OSError:
        namespace = 0  # no Linux, or no /proc: one machine, one namespace
    return hashlib.blake2b(f"{namespace}\n{address}\n{fleet}".encode(), digest_size=8).hexdigest()


def _directory() -> Path:
    """Return the directory of all our meeting places; the same for all processes of one user and environment."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime and os.access(runtime, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    return _private(base / f"{_NAME}{os.geteuid()}")


def _private(directory: Path) -> Path:
    """
    Make a directory that nobody else may enter, or see to it that it is one.

    Raises:
        OSError: It is somebody else's, open to others, or cannot be made.
    """
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "is not a directory that only this user can open", str(directory))
    return directory


def remove(*paths: Path) -> None:
    """Remove files, if they are still there and may be removed."""
    for path in paths:
        with suppress(OSError):
            path.unlink()
