"""Run commands as people do, in processes of their own, and read what they print while they run."""

import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self

from kit import processes

HEADCOUNT = processes.BIN / "headcount"


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


def run(
    *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 60, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `headcount …` to its end, which must be near."""
    with tempfile.TemporaryDirectory() as nowhere:
        return processes.run([HEADCOUNT, *arguments], cwd=nowhere, env=environment(env), timeout=timeout, input=text)


class Command:
    """
    A command that runs until it is told to stop; leaving the `with` ends it and whatever it started.

    Args:
        command: `headcount`'s arguments, or those of `program`.
        program: What to run instead of `headcount`.
        cwd: Where; an empty folder when it does not matter.
        env: Variables besides those of this machine.
        apart: Whether errors have a pipe of their own, to tell them from the rest: in one, all stays in its order.

    Attributes:
        output: What it has printed so far, errors included.
        out: The lines of its output; with the errors, unless these are apart.
        err: The lines of its errors, if these are apart.
    """

    def __init__(
        self,
        *command: str,
        program: str | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        apart: bool = False,
    ) -> None:
        self._nowhere = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.output = ""
        self.out: list[str] = []
        self.err: list[str] = []
        self._unread: list[str] = []
        self._came = threading.Condition()
        self.process = processes.Popen[str](
            [program or HEADCOUNT, *command],
            cwd=cwd or self._nowhere.name,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if apart else subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))
            if pair[0] is not None
        ]
        self._reading = len(self._readers)
        for reader in self._readers:
            reader.start()

    def until(self, pattern: str, timeout: float = 30) -> re.Match[str]:
        """Wait until `pattern` is in what it has printed."""
        with self._came:
            self._came.wait_for(lambda: re.search(pattern, self.output) or not self._reading, timeout)
            found = re.search(pattern, self.output)
            assert found is not None, f"no {pattern!r} within {timeout:g} s or until it ended in:\n{self.output}"
            return found

    def forget(self) -> None:
        """Forget what was printed so far, so that `until` waits for what comes."""
        with self._came:
            self.output = ""

    def line(self, word: str, timeout: float = 60) -> str:
        """Wait for a line with `word`; each line is found once."""

        def find() -> str | None:
            return next((line for line in self._unread if word in line), None)

        with self._came:
            self._came.wait_for(lambda: find() is not None or not self._reading, timeout)
            found = find()
            assert found is not None, f"no line with {word!r} within {timeout:g} s or until it ended; {self}"
            self._unread.remove(found)
            return found

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it alone, as process supervisors do."""
        self.process.send_signal(number)

    def ctrl_c(self) -> None:
        """Do what a terminal does: SIGINT to all that run in the foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, timeout: float = 30) -> int:
        """Wait until it has ended and all that it printed is there; return the exit code, negative for a signal."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout:g} s; {self}") from None
        for reader in self._readers:
            reader.join(timeout)
        self._nowhere.cleanup()
        return code

    end = wait  # as a `Terminal` has it

    def leftovers(self) -> bool:
        """Say whether anything that it started still runs."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """End it now, and whatever it started."""
        if self.leftovers():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()

    def __repr__(self) -> str:
        return f"out: {''.join(self.out)!r}, err: {''.join(self.err)!r}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _read(self, pipe: IO[str], lines: list[str]) -> None:
        with pipe:
            for line in pipe:
                with self._came:
                    lines.append(line)
                    self._unread.append(line)
                    self.output += line
                    self._came.notify_all()
        with self._came:
            self._reading -= 1
            self._came.notify_all()
