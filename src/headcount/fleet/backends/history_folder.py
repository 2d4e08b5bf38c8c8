"""
A copy of the history beside `state_file`: it outlives the processes of one machine, and a restart of the machine.

    STATE_FILE.history/history    one line for each sample of the last hour
    STATE_FILE.history/minutes    one line for each sample of the last day
    STATE_FILE.history/rollouts   the adoption curves of the last rollouts

The workers of one machine read their history where they meet, and a node that is alone has it in memory. This copy is
read when the first of them starts, and written by the one that adds a sample. The disk may be slow or hang, so nothing
waits for it: a thread writes, and does not keep the process from ending. While it hangs, the newest samples wait.

Source: docs/adr/0023-history-in-files.md
"""

import logging
import os
import threading
from collections import deque
from pathlib import Path
from typing import Final

from ...core.history import LENGTH, MINUTES
from ...core.kept_history import Added, KeptHistory
from ...core.rollouts import MAX_ENCODED
from ...log_throttle import LogThrottle
from .local_history import append_line, read_file, read_lines, write_whole

MAX_WAITING: Final = 60
"""Samples that wait for a disk that hangs: those of ten minutes. Older ones are dropped."""

logger = logging.getLogger("headcount")


class HistoryFolder:
    """
    Reads and writes it. From any thread; raises nothing.

    Args:
        state_file: Path of the state file. The folder lies beside the file that a link points to.
    """

    def __init__(self, state_file: str) -> None:
        self._state_file = state_file
        self._lock = threading.Lock()
        self._waiting: deque[Added] = deque(maxlen=MAX_WAITING)
        self._writer: threading.Thread | None = None
        self._process = os.getpid()
        self._log_throttle = LogThrottle()

    @property
    def path(self) -> Path:
        """The folder. It is made with the first sample."""
        real = Path(os.path.realpath(self._state_file))
        return real.with_name(f"{real.name}.history")

    def load(self) -> KeptHistory:
        """Return what the folder holds; nothing if there is none, or it cannot be read. Blocks."""
        path = self.path
        return KeptHistory(
            read_lines(path / "history")[-LENGTH:],
            read_lines(path / "minutes")[-MINUTES:],
            read_file(path / "rollouts", MAX_ENCODED + 1),
        )

    def write(self, added: Added) -> None:
        """Have a sample written. Does not wait for it."""
        with self._lock:
            self._waiting.append(added)
            if self._process != os.getpid():  # a fork has no thread
                self._process, self._writer = os.getpid(), None
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_all, name="headcount-history", daemon=True)
                self._writer.start()

    def flush(self) -> None:
        """Wait until all of it is written."""
        writer = self._writer
        if writer is not None:
            writer.join()

    def _write_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._writer = None
                    return
                added = self._waiting.popleft()
            try:
                self._write(added)
            except OSError as error:
                self._log(error)

    def _write(self, added: Added) -> None:
        path = self.path
        path.mkdir(mode=0o700, exist_ok=True)
        if added.sample is not None:
            append_line(path / "history", added.sample, LENGTH)
        if added.minute is not None:
            append_line(path / "minutes", added.minute, MINUTES)
        if added.rollouts is not None:
            write_whole(path / "rollouts", added.rollouts)

    def _log(self, error: OSError) -> None:
        if (suppressed := self._log_throttle.suffix_if_due("write")) is not None:
            logger.warning(
                "Could not write the history to %s: %s. It is lost when all processes of this machine have stopped. "
                "Let this user write to the directory of state_file, or give another state_file.%s",
                self.path,
                error.strerror or error,
                suppressed,
            )
