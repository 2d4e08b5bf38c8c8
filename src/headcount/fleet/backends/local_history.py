"""
The history of the workers of one machine, as files in the directory where they meet.

    history        one line for each sample of the last hour
    minutes        one line for each sample of the last day
    rollouts       the adoption curves of the last rollouts
    application    a digest of the application that they are of

Workers that listen on one address are one application. Applications that listen there one after another need not be:
on a developer's machine, each is on port 8000. So the first worker at an address continues the history only of its own
application. Whatever is unaccounted for stays, because pages may come back to any application.

With `state_file`, a copy (history_folder.py) outlives the directory, too: a restart of the machine empties it.
"""

import asyncio
import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from ...core import history
from ...core.kept_history import Added, KeptHistory
from ...core.rollouts import MAX_ENCODED
from .meeting_directory import remove

MAX_HISTORY_BYTES: Final = 8 * 2**20
"""Of one file of samples."""

FILES: Final = ("history", "minutes", "rollouts", "application")

_IMPORT_PATH: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
"""`module:attribute`, as servers take it."""

_RELEASE: Final = re.compile(
    r"v?\d+(?:[._+T:-]\d+)*(?:[._-]?(?:a|b|rc|alpha|beta|dev|post)[._-]?\d*)?Z?|(?=[a-f]*\d)[0-9a-f-]{7,64}"
)
"""A folder that is named after a release: a number, a version, a time or a commit."""

_RELEASES: Final = frozenset({"releases", "versions", "deployments", "deploys", "builds", "revisions"})
"""Folders that hold a folder for each release."""

_VERSION_SUFFIX: Final = re.compile(r"[-_]v?\d+(?:\.\d+)+$")


class HistoryCopy(Protocol):
    """What keeps the history while no worker runs: `HistoryFolder`."""

    def load(self) -> KeptHistory:
        """Return what is kept. Blocks."""

    def write(self, added: Added) -> None:
        """Have a sample written. Does not wait for it."""


class HistoryFiles:
    """
    The history in the first of one worker's meeting directories.

    Args:
        directories: Returns the directories.
        application: What tells this application from others that use the address at other times.
        copy: Keeps it while no worker runs; None: nothing does.
    """

    def __init__(
        self, directories: Callable[[], list[Path]], application: str, copy: HistoryCopy | None = None
    ) -> None:
        self._directories = directories
        self._copy = copy
        self._application = application.encode()
        self._begun = False
        self._marked = False
        """The files say whose they are."""

    async def begin(self, *, alone: bool) -> None:
        """
        Go on with the copy if nothing is there, and start anew if another application wrote what is there.

        Args:
            alone: No other worker is there. Otherwise the history is theirs, and they are this application.
        """
        for directory in self._directories()[:1]:
            if alone and read_file(directory / "application", 64) != self._application:
                remove(*(directory / name for name in FILES))
            # Of workers that start together, none is alone; they all write the same.
            if self._copy is not None and not (directory / "history").exists():
                kept = await asyncio.to_thread(self._copy.load)
                with suppress(OSError):
                    _write_history(directory, kept)
        self._begun = True

    def add(self, data: bytes, minute: bytes | None = None) -> None:
        """Add an encoded sample, and one of a minute."""
        if self._copy is not None:
            self._copy.write(Added(data, minute, None))
        for directory in self._directories()[:1]:
            with suppress(OSError):
                if minute is not None or not self._marked:
                    # Each minute, because files that are not written for a day are removed.
                    write_whole(directory / "application", self._application)
                    self._marked = True
                append_line(directory / "history", data, history.LENGTH)
                if minute is not None:
                    append_line(directory / "minutes", minute, history.MINUTES)

    def keep_rollouts(self, data: bytes) -> None:
        """Keep the encoded rollouts."""
        if self._copy is not None:
            self._copy.write(Added(None, None, data))
        for directory in self._directories()[:1]:
            with suppress(OSError):
                write_whole(directory / "rollouts", data)

    def read(self, fine: int = history.LENGTH, minutes: int = history.MINUTES) -> KeptHistory | None:
        """Return the history, with so many of the newest samples at most; None: not known yet whose it is."""
        if self._begun:
            for directory in self._directories()[:1]:
                rollouts = read_file(directory / "rollouts", MAX_ENCODED + 1)
                return KeptHistory(
                    read_lines(directory / "history")[-fine:], read_lines(directory / "minutes")[-minutes:], rollouts
                )
        return None


def _write_history(directory: Path, kept: KeptHistory) -> None:
    for name, lines in (("history", kept.fine), ("minutes", kept.minutes)):
        if lines:
            write_whole(directory / name, b"".join(line + b"\n" for line in lines))
    if kept.rollouts is not None:
        write_whole(directory / "rollouts", kept.rollouts)


def this_application() -> str:
    """
    Return a digest of what tells the application of this process from others: its folder, and what is run there.

    All workers of a server and those of its next release have the same one. It does not depend on options, which may
    name a version, and takes folders of releases (`/srv/app/releases/17`) for the same one.
    """
    try:
        folder = os.getcwd()
    except OSError:  # it was removed
        folder = ""
    return _digest(folder, sys.argv)


def _digest(folder: str, arguments: Sequence[str]) -> str:
    command, *others = arguments or [""]
    run = [word for word in others if _IMPORT_PATH.fullmatch(word) or (word.endswith(".py") and word[0] != "-")]
    path = Path(folder, command)
    if path.name == "__main__.py":
        run.insert(0, path.parent.name)
    else:
        # Of a server's own script, its folder says nothing: it is that of the environment.
        run.insert(0, without_release(str(path)) if path.suffix == ".py" else path.name)
    return hashlib.blake2b("\n".join([without_release(folder), *run]).encode(), digest_size=16).hexdigest()


def without_release(path: str) -> str:
    """Return a path in which folders that are named after a release have the same name, whichever release it is."""
    parts = path.split("/")
    return "/".join(
        "*"
        if part and (_RELEASE.fullmatch(part) or (number and parts[number - 1] in _RELEASES))
        else _VERSION_SUFFIX.sub("", part)
        for number, part in enumerate(parts)
    )


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that whoever reads it finds all of it, or what was there before."""
    unnamed = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)
    unnamed.replace(path)


def read_file(path: Path, limit: int) -> bytes | None:
    """Return the first bytes of a file; None: it cannot be read."""
    try:
        # Not blocking: a pipe in its directory would hold up the start until somebody writes to it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(limit)
    except OSError:
        return None


def read_lines(path: Path) -> list[bytes]:
    """Return the lines of a file of samples; none if it cannot be read."""
    return (read_file(path, MAX_HISTORY_BYTES) or b"").splitlines()


def append_line(path: Path, line: bytes, limit: int) -> None:
    """Append a line; when there are twice as many as wanted, only the newest stay."""
    if path.exists() and path.stat().st_size > 2 * limit * (len(line) + 64):
        write_whole(path, b"".join(kept + b"\n" for kept in read_lines(path)[-limit:]))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        _write_all(descriptor, line + b"\n")
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all of it: where the disk has room for a part only, the system writes that part and reports no error."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
