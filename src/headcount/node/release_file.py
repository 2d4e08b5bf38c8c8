"""
The version that was declared current, in a file: it outlives the processes of one machine (`state_file`).

The workers of one machine share the file. A node reads it once, when it is made, and writes it when an operator
declares a version there; of two declarations, the newer one stays in it. A file that cannot be read or written is
logged and changes nothing else: a node then starts without a declared version, as it does without a file.

Tests: tests/node/test_release_file.py.
"""

import fcntl
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from ..core.fleet_messages import Declaration
from ..core.labels import parse_build_id
from ..errors import Malformed
from .releases import MAX_AHEAD, timestamp

MAX_BYTES: Final = 4_096
"""Of the file. A longer one is not one of Headcount."""

LOCK_TIMEOUT: Final = 1.0
"""Seconds to wait for another process that writes. Without the lock, an older release could replace a newer one."""

logger = logging.getLogger("headcount")


class _Content(msgspec.Struct):
    release: Declaration


_decode = msgspec.json.Decoder(_Content)


class ReleaseFile:
    """
    The file of one application on one machine. Blocks while it reads and writes; raises nothing.

    Args:
        path: Of the file. Its directory must exist.
        clock: Returns milliseconds since 1970.
    """

    def __init__(self, path: str, clock: Callable[[], int] = timestamp) -> None:
        self._path = Path(path).absolute()
        self._clock = clock

    def load(self) -> Declaration | None:
        """Return what the file holds; None: there is no file, or nothing in it can be used, which is logged."""
        try:
            return self._read()
        except FileNotFoundError:
            return None
        except (OSError, Malformed, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            logger.warning(
                "Ignored the state file %s: %s. The server starts without a declared version. Delete the file, or "
                "correct state_file; then declare the release again: headcount release VERSION URL",
                self._path,
                str(error).rstrip("."),
            )
            return None

    def save(self, released: Declaration) -> None:
        """Write a release, unless the file holds a newer one. What cannot be written is logged."""
        # The file that a link points to is replaced, and not the link.
        path = Path(os.path.realpath(self._path))
        try:
            with _locked(path.parent):
                try:
                    kept = self._read()
                except (FileNotFoundError, Malformed, msgspec.MsgspecError, UnicodeError, RecursionError):
                    kept = None  # it was logged when the server started, and is replaced now
                if kept is None or kept < released:
                    _write(path, msgspec.json.encode(_Content(released)))
        except _LockedError:
            logger.warning(
                "Did not write the declared version %s to the state file %s: another process has locked its directory "
                "for more than %g s. End that process, then declare the release again: headcount release VERSION URL",
                released.version,
                self._path,
                LOCK_TIMEOUT,
            )
        except OSError as error:
            logger.warning(
                "Could not write the state file %s: %s. The declared version %s is forgotten when all processes of "
                "this machine have stopped. Let this user write to the directory, or give another state_file.",
                self._path,
                error.strerror or error,
                released.version,
            )

    def _read(self) -> Declaration:
        # Not blocking: a pipe in its place would hold up the start until somebody writes to it.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError("it is not a regular file")
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise Malformed(f"it is longer than {MAX_BYTES} bytes, so it is not a state file")
        released = _decode.decode(content).release
        if parse_build_id(released.version) != released.version:
            raise Malformed("its version is not a build id")
        if released.number - self._clock() > MAX_AHEAD:
            raise Malformed("its release is dated more than a day ahead of this machine's clock")
        return released


class _LockedError(Exception):
    """Another process holds the lock for longer than anybody waits for it."""


def _write(path: Path, content: bytes) -> None:
    """Replace a file, and keep its mode. A process that dies meanwhile leaves the old file whole."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            with suppress(FileNotFoundError):
                os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """
    Keep other processes from writing. The lock is on the directory, because the file is replaced.

    Raises:
        _LockedError: Another process has held it for `LOCK_TIMEOUT`.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise _LockedError from None
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)
