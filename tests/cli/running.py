"""Run commands as people do, in processes of their own, and read what they print while they run."""

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self

from kit import processes
from kit.processes import BIN

TOKEN = "a token that nobody guesses"


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    Return this machine's environment without what would reach into a command, and with `variables`.

    `wait` does not wait longer than a test asks it to.
    """
    told = {"GIT_SHA", "SOURCE_VERSION", "K_REVISION", "NO_COLOR", "FORCE_COLOR"}
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HEADCOUNT_", "GITHUB_", "CI")) and name not in told
    }
    return {**ours, "PYTHONUNBUFFERED": "1", "HEADCOUNT_FOR": "0s", **(variables or {})}


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `headcount …` to its end, which must be near."""
    with tempfile.TemporaryDirectory() as nowhere:
        return processes.run([BIN / "headcount", *arguments], cwd=nowhere, env=environment(variables), timeout=60)


class Running:
    """
    A command that runs until it is told to stop; leaving the `with` ends it and whatever it started.

    Args:
        command: `headcount`'s arguments, or a whole command when `program` is given.
        program: What to run instead of `headcount`.
        cwd: Where; an empty folder when it does not matter.
        variables: Of the environment.
    """

    def __init__(
        self, *command: str, program: str | None = None, cwd: Path | None = None, variables: Mapping[str, str] = {}
    ) -> None:
        self._nowhere = tempfile.TemporaryDirectory()
        self.out: list[str] = []
        self.err: list[str] = []
        self._unread: list[str] = []
        self._ended = 0
        self._came = threading.Condition()
        self.process = processes.Popen[str](
            [program or BIN / "headcount", *command],
            cwd=cwd or self._nowhere.name,
            env=environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))
            if pair[0] is not None
        ]
        for reader in self._readers:
            reader.start()

    def line(self, word: str, timeout: float = 60) -> str:
        """Wait for a line with `word` on either output; each line is found once."""

        def find() -> str | None:
            return next((line for line in self._unread if word in line), None)

        with self._came:
            self._came.wait_for(lambda: find() is not None or self._ended == 2, timeout)
            found = find()
            assert found is not None, f"no line with {word!r} within {timeout:g} s or until it ended; {self}"
            self._unread.remove(found)
            return found

    def ctrl_c(self) -> None:
        """Do what a terminal does: SIGINT to all that run in the foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, timeout: float) -> int:
        """Wait until it has ended and all that it printed is there; returns the exit code, negative for a signal."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout:g} s; {self}") from None
        for reader in self._readers:
            reader.join(10)
        return code

    def leftovers(self) -> bool:
        """Say whether anything that it started still runs."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def __repr__(self) -> str:
        return f"out: {''.join(self.out)!r}, err: {''.join(self.err)!r}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.leftovers():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        for reader in self._readers:
            reader.join(30)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self._nowhere.cleanup()

    def _read(self, pipe: IO[str], lines: list[str]) -> None:
        for line in pipe:
            with self._came:
                lines.append(line)
                self._unread.append(line)
                self._came.notify_all()
        with self._came:
            self._ended += 1
            self._came.notify_all()
