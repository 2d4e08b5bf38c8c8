"""A command in a real terminal: a pseudo-terminal of a given size whose screen can be read."""

import fcntl
import os
import pty
import re
import selectors
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from typing import Self

from .running import HEADCOUNT, environment

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\|[@-Z\\-_=>78c])")


class Terminal:
    """
    Runs a command. Leaving the `with` kills it.

    Attributes:
        raw: Everything that it wrote.
    """

    def __init__(
        self, *arguments: str, columns: int = 80, lines: int = 24, env: Mapping[str, str] | None = None
    ) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns, lines)
        self.process = subprocess.Popen(
            [HEADCOUNT, *arguments],
            env={**environment(env), "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.raw = ""

    @property
    def text(self) -> str:
        """What it wrote, without what terminals obey."""
        return _ESCAPE.sub("", self.raw)

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size, as a window does that is dragged."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if hasattr(self, "process"):
            os.killpg(self.process.pid, signal.SIGWINCH)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def forget(self) -> None:
        """Forget what was written so far, so that `until` waits for what comes."""
        self.raw = ""

    def until(self, words: str, timeout: float = 30) -> None:
        """Read until it has written these words."""
        deadline = time.monotonic() + timeout
        while words not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, f"no {words!r} within {timeout:g} s in:\n{self.text[-3000:]}"
            assert self._read(left), f"it ended without {words!r}:\n{self.text[-3000:]}"

    def read(self) -> None:
        """Take in what it has written so far."""
        while self._has_more() and self._read(0):
            continue

    def end(self, timeout: float = 30) -> int:
        """Read to its end and return the exit code."""
        deadline = time.monotonic() + timeout
        while self._read(deadline - time.monotonic()):
            assert time.monotonic() < deadline, f"it still runs:\n{self.text[-3000:]}"
        return self.process.wait(timeout)

    def _has_more(self, timeout: float = 0.0) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._master, selectors.EVENT_READ)
            return bool(selector.select(max(0.0, timeout)))

    def _read(self, timeout: float) -> bool:
        if not self._has_more(timeout):
            return True
        try:
            piece = os.read(self._master, 65_536)
        except OSError:  # what Linux says when the other end is closed
            return False
        self.raw += piece.decode("utf-8", "replace")
        return bool(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        os.close(self._master)
