"""Commands as real processes, against `headcount serve` as a real process."""

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Any, Self

from kit import processes
from kit.ports import free_port

from .running import environment

HEADCOUNT = processes.BIN / "headcount"
TOKEN = "a-token-for-tests-0123456789"
VERSION = "2026.11.3"


def run(
    *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 60, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return processes.run([HEADCOUNT, *arguments], env=environment(env), timeout=timeout, input=text)


class Command:
    """A command that runs. Leaving the `with` kills it."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.process = processes.Popen[bytes](
            [HEADCOUNT, *arguments],
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.output = ""

    def until(self, pattern: str, timeout: float = 30) -> re.Match[str]:
        """Read what it writes until `pattern` is in it."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while (found := re.search(pattern, self.output)) is None:
                left = deadline - time.monotonic()
                assert left > 0, f"no {pattern!r} within {timeout:g} s in:\n{self.output}"
                if selector.select(left):
                    piece = os.read(self.process.stdout.fileno(), 65_536)
                    assert piece, f"it ended ({self.process.wait(10)}) without {pattern!r}:\n{self.output}"
                    self.output += piece.decode("utf-8", "replace")
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self, timeout: float = 30) -> int:
        """Wait for its end and return the exit code; `output` is whole then."""
        rest, _ = self.process.communicate(timeout=timeout)
        self.output += rest.decode("utf-8", "replace")
        return self.process.returncode

    def kill(self) -> None:
        """End it now."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Serve:
    """
    `headcount serve`, which can be stopped and started again at the same address.

    Args:
        settings: Of Headcount.
    """

    def __init__(self, **settings: Any) -> None:
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        values = {"version": VERSION, "route_tracking": True, "admin_token": TOKEN, **settings}
        self._env = {f"HEADCOUNT_{name.upper()}": str(value) for name, value in values.items() if value is not None}
        self.command: Command | None = None

    @property
    def url(self) -> str:
        """URL of the base path."""
        return f"{self.origin}{self._env.get('HEADCOUNT_BASE_PATH', '/__skew')}"

    def start(self) -> Self:
        """Start it and wait until it serves."""
        self.command = Command("serve", "--port", str(self.port), env=self._env)
        self.command.until(r"Headcount serves")
        return self

    def stop(self, *, gently: bool = True) -> None:
        """Stop it, by SIGTERM or by SIGKILL."""
        assert self.command is not None
        self.command.signal(signal.SIGTERM if gently else signal.SIGKILL)
        self.command.end()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.command is not None:
            self.command.kill()
