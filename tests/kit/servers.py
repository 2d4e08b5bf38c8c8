"""What the servers have in common that tests and benchmarks start in processes of their own."""

import http.client
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from .ports import free_port
from .processes import Popen


def serves_headcount(host: str, port: int) -> bool:
    """Say whether Headcount answers at an address."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/__skew/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class ServerProcess:
    """
    A server at a port that nobody else has. What is derived from it says what is launched, and when.

    Args:
        host: Address to listen on.
        port: None: a free one.

    Attributes:
        name: For messages.
        process: The one that was launched last.
    """

    name = "the server"
    process: subprocess.Popen[Any]

    def __init__(self, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.host = host
        self.port = port or free_port()
        self.origin = f"http://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        """What it has written so far; empty if it writes where this process does."""
        return ""

    def launch(self, command: Sequence[str | Path], **options: Any) -> None:
        """Start the process, without waiting for it. `options`: of `Popen`."""
        self.process = Popen[bytes](command, stdin=subprocess.DEVNULL, **options)

    def answers(self) -> bool:
        """Say whether it serves Headcount."""
        return serves_headcount(self.host, self.port)

    def wait_ready(self, timeout: float = 60) -> Self:
        """Wait until it answers."""
        deadline = time.monotonic() + timeout
        while not self.answers():
            assert self.process.poll() is None, f"{self.name} ended before it served:\n{self.log}"
            assert time.monotonic() < deadline, f"{self.name} does not serve:\n{self.log}"
            time.sleep(0.02)
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that was started, as `kill` and process supervisors do."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 30) -> int:
        """Wait until the process has ended; return its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout:g} s:\n{self.log[-4000:]}") from None

    def kill(self) -> None:
        """End it without a word."""
        self.signal(signal.SIGKILL)
        self.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It does nothing meanwhile, not even hang up."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)
