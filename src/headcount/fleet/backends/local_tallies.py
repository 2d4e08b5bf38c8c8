"""
The tallies of the workers of one machine, as files in the directory where they meet.

    {node}.tally   when its writer last lived (8 bytes, monotonic ms), and its Tally
    {node}.pages   the list of pages that belongs to its tally
    {node}.doubt   SeenAlive: it fell silent, and was seen to live
    {node}.back    one line for each page of it that came to another worker: public id, blank, version

Their history lies there too (local_history.py).

Files and not messages, because all workers may die at once: those that are started in their place find what the dead
ones had. Ages are measured by the machine's monotonic clock, which all processes share.

Whether a silent worker lives, its process says: its number, and when it was started, because numbers are used again.

Source: docs/adr/0017-unaccounted.md

Tests: tests/fleet/backends/test_tallies.py, tests/server/test_unaccounted.py.
"""

import hashlib
import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from ...core import page_lists, tallies
from ...core.history import LENGTH, MINUTES
from ...core.identity import is_node_id
from ...core.kept_history import KeptHistory
from ...core.labels import OTHER, is_version
from ...core.liveness import MAX_NODES
from ...core.tallies import Entry, SeenAlive, Tally
from .local_history import FILES, HistoryCopy, HistoryFiles, this_application, write_whole
from .meeting_directory import remove

SILENT: Final = 9.0
"""Seconds without a sign of life after which a worker is not present. It gives one every second."""

MAX_BACK_BYTES: Final = 8 * 2**20
"""Of the pages of one worker that came back."""

ABANDONED_AFTER: Final = 24 * 3_600.0
"""Seconds after which files in other meeting directories are removed that nobody looks at."""

_HEAD: Final = struct.Struct("!Q")


def now_ms() -> int:
    """Return the machine's monotonic clock, in ms."""
    return time.monotonic_ns() // 1_000_000


class TallyFiles:
    """
    The files of one worker's meeting directories.

    Args:
        node: Id of this worker.
        directories: Returns the directories.
        peer_ids: Returns the workers that there is a connection to.
        history_copy: Keeps the history while no worker runs; None: nothing does.
    """

    complete = True

    def __init__(
        self,
        node: str,
        directories: Callable[[], list[Path]],
        peer_ids: Callable[[], Collection[str]],
        history_copy: HistoryCopy | None = None,
    ) -> None:
        self._node = node
        self._directories = directories
        self._peer_ids = peer_ids
        self._written: dict[Path, bytes] = {}
        """What each directory has of this worker."""
        self._open: dict[Path, int] = {}
        self.joined = now_ms()
        """When this worker came."""
        self._liveness_ids = process_liveness_ids(os.getpid())
        self.files = HistoryFiles(directories, this_application(), history_copy)
        """The history."""
        self._had_departed = False
        """The last tally said that pages were sent away."""

    def write(self, tally: Tally, pages: bytes = b"") -> None:
        """
        Write this worker's tally, or only that it lives if nothing else changed.

        When pages that were sent away are on their way no more, what others noted about them is removed.
        """
        if self._had_departed and not tally.departed:
            self.clear_own()
        self._had_departed = bool(tally.departed)
        body = tallies.encode(msgspec.structs.replace(tally, joined=self.joined, liveness_ids=self._liveness_ids))
        head = _HEAD.pack(now_ms())
        for directory in self._directories():
            try:
                # Another worker may have replaced or removed the file while this one was silent.
                if (
                    body == self._written.get(directory)
                    and directory in self._open
                    and os.fstat(self._open[directory]).st_nlink
                ):
                    os.pwrite(self._open[directory], head, 0)
                else:
                    if tally.pages:
                        write_whole(directory / f"{self._node}.pages", pages)
                    self._replace(directory, head + body)
                    self._written[directory] = body
            except OSError:
                # The disk is full, for one. The old tally says that this worker lives, and the next one is a new try.
                with suppress(OSError, KeyError):
                    os.pwrite(self._open[directory], head, 0)

    def leave(self, tally: Tally, pages: bytes = b"") -> None:
        """Write the last tally; none when there is nothing to say."""
        if tally.departed:
            self.write(tally, pages)
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        self._written.clear()
        if not tally.departed:
            self._drop(self._node)

    def clear_own(self) -> None:
        """Remove what others noted of this worker while it was silent."""
        for directory in self._directories():
            remove(directory / f"{self._node}.back", directory / f"{self._node}.doubt")

    async def entries(self, nodes: Collection[str] | None = None) -> dict[str, Entry]:
        """Return the tallies of all workers, or of some."""
        now, peer_ids = now_ms(), self._peer_ids()
        found: dict[str, Entry] = {}
        for directory in self._directories():
            for node in self._names(directory) if nodes is None else nodes:
                tally = _read(directory / f"{node}.tally", self._liveness_ids)
                if tally is None or (node in found and found[node].tally.at >= tally.at) or len(found) >= MAX_NODES:
                    continue
                fresh = now - tally.at < SILENT * 1000
                own = node == self._node
                present = own or (fresh and node in peer_ids)
                lives = None if present or tally.left else _lives(tally.liveness_ids, self._liveness_ids)
                found[node] = Entry(
                    tally,
                    now,
                    present,
                    lives,
                    _read_seen_alive(directory / f"{node}.doubt"),
                    _read_back(directory / f"{node}.back") if not present or tally.departed else {},
                )
        return found

    async def pages(self, node: str) -> bytes | None:
        """Return the list of pages that a worker wrote with its tally, from the directory with its newest tally."""
        paths = [directory / f"{node}.pages" for directory in self._directories()]
        with suppress(OSError):
            newest = max(
                (path for path in paths if path.exists()), key=lambda path: path.stat().st_mtime_ns, default=None
            )
            if newest is not None:
                with newest.open("rb") as file:
                    return file.read(page_lists.MAX_LIST + 1)
        return None

    async def note_returned(self, node: str, pages: Mapping[str, str]) -> None:
        """Note pages of a worker that came to this one: `{public id: version}`."""
        lines = "".join(f"{page} {version}\n" for page, version in pages.items()).encode("utf-8", "replace")
        for directory in self._directories():
            path = directory / f"{node}.back"
            with suppress(OSError):
                if (directory / f"{node}.tally").exists():
                    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                    try:
                        if os.fstat(descriptor).st_size + len(lines) <= MAX_BACK_BYTES:
                            os.write(descriptor, lines)
                    finally:
                        os.close(descriptor)

    async def keep_seen_alive(self, node: str, seen_alive: SeenAlive) -> None:
        """Keep that a silent worker was seen to live."""
        for directory in self._directories():
            if (directory / f"{node}.tally").exists():
                with suppress(OSError):
                    write_whole(directory / f"{node}.doubt", tallies.encode(seen_alive))

    async def drop(self, node: str) -> None:
        """Remove what is kept of a worker: nothing follows from it any more."""
        self._drop(node)

    async def forget(self, node: str) -> bool:
        """End the doubt about a worker, for all workers that look. Returns False when a file cannot be written."""
        body, noted = tallies.encode(Tally(forgotten=True)), True
        for directory in self._directories():
            if (directory / f"{node}.tally").exists():
                try:
                    write_whole(directory / f"{node}.tally", _HEAD.pack(now_ms()) + body)
                except OSError:
                    noted = False
        return noted

    def now(self) -> int:
        """Return the machine's wall clock, in ms since 1970."""
        return time.time_ns() // 1_000_000

    async def claim_sample(self, slot: int) -> bool:  # noqa: ARG002
        """Say whether this worker is the first of those that are present, in the order of their ids."""
        return all(node >= self._node for node, entry in (await self.entries()).items() if entry.has_heartbeat)

    async def add_sample(self, data: bytes, *, minute: bytes | None = None) -> None:
        """Add an encoded sample to the history."""
        self.files.add(data, minute)

    async def keep_rollouts(self, data: bytes) -> None:
        """Keep the encoded rollouts."""
        self.files.keep_rollouts(data)

    async def history(self, fine: int = LENGTH, minutes: int = MINUTES) -> KeptHistory | None:
        """Return the history, with so many of the newest samples at most; None: not known yet whose it is."""
        return self.files.read(fine, minutes)

    async def keep_release(self, data: bytes) -> None:
        """Keep nothing: whatever listens on the same address later, it need not be the same application."""

    async def kept_release(self) -> bytes | None:
        """Return None."""
        return None

    def _replace(self, directory: Path, data: bytes) -> None:
        path = directory / f"{self._node}.tally"
        write_whole(path, data)
        before = self._open.pop(directory, None)
        if before is not None:
            os.close(before)
        self._open[directory] = os.open(path, os.O_WRONLY)

    def _drop(self, node: str) -> None:
        for directory in self._directories():
            remove(*(directory / f"{node}.{kind}" for kind in ("tally", "pages", "doubt", "back")))

    @staticmethod
    def _names(directory: Path) -> list[str]:
        with suppress(OSError):
            stems = (name[:-6] for name in os.listdir(directory) if name.endswith(".tally"))
            return [stem for stem in stems if is_node_id(stem)]
        return []


def process_liveness_ids(process: int) -> tuple[int, ...]:
    """Return what identifies a process of this machine: number, start, its namespace of numbers, and the boot."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
        boot = int.from_bytes(
            hashlib.blake2b(Path("/proc/sys/kernel/random/boot_id").read_bytes(), digest_size=6).digest()
        )
    except OSError:
        namespace = boot = 0
    return process, _started(process) or 0, namespace, boot


def remove_abandoned_files(root: Path, now: float) -> None:
    """Remove old files in all meeting directories, and those that are then empty."""
    with suppress(OSError):
        for directory in root.iterdir():
            with suppress(OSError):
                for path in directory.iterdir():
                    kept = path.suffix in (".tally", ".pages", ".doubt", ".back") or path.name in FILES
                    if kept and now - path.stat().st_mtime > ABANDONED_AFTER:
                        remove(path)
                directory.rmdir()  # refused while something is in it


def _lives(ids: tuple[int, ...], own: tuple[int, ...]) -> bool | None:
    """Say whether a process lives; None: it cannot be told from here."""
    if len(ids) != 4 or ids[2:] != own[2:] or ids[0] == own[0]:
        # Another container's or boot's numbers; or this very process, whose node left without a word.
        return False if len(ids) == 4 and ids[3] != own[3] else None
    process, started = ids[:2]
    if started:
        return _started(process) == started
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return None
    return None  # somebody lives under that number


def _started(process: int) -> int | None:
    """Return when a process was started, in the kernel's ticks; None: it has ended, or it cannot be told."""
    try:
        words = Path(f"/proc/{process}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return None if words[0] in ("Z", "X") else int(words[19])
    except (OSError, IndexError, ValueError):
        return None


def _read(path: Path, own: tuple[int, ...]) -> Tally | None:
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD.size + tallies.MAX_TALLY + 1)
            written = os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    tally = tallies.decode_tally(data[_HEAD.size :]) if len(data) > _HEAD.size else None
    if tally is None:
        return None
    now = now_ms()
    at = min(_HEAD.unpack_from(data)[0], now)
    if (
        len(tally.liveness_ids) == 4 and tally.liveness_ids[3] != own[3]
    ):  # before the machine was started; its clock has begun anew
        at = max(0, now - max(0, round((time.time() - written) * 1000)))
    return msgspec.structs.replace(tally, at=at)


def _read_seen_alive(path: Path) -> SeenAlive | None:
    try:
        return tallies.decode_seen_alive(path.read_bytes()[:256])
    except OSError:
        return None


def _read_back(path: Path) -> dict[str, int]:
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_BACK_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return {}
    pages: dict[str, str] = {}
    for line in lines:
        page, blank, version = line.partition(" ")
        if blank and version and (version == OTHER or is_version(version)):
            pages.setdefault(page, version)
    return dict(Counter(pages.values()))
