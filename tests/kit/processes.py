"""
Start `headcount` and servers as processes of their own, without the time in which they import what they need.

`Popen` and `run` do what those of `subprocess` do. Processes are forks of one that has imported everything
(kit/preloaded.py), where a test starts one of these programs and asks for nothing special; any other program is started
as always. With `HEADCOUNT_TESTS_EXEC=1`, or while coverage is measured, every program is.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, AnyStr

BIN = Path(sys.executable).parent
FURTHER = frozenset({"granian", "gunicorn", "hypercorn"})
"""Those with packages of their own; see kit/preloaded.py."""
PROGRAMS = frozenset(str(BIN / name) for name in ("headcount", "uvicorn", *FURTHER))
PYTHON = str(BIN / "python")
PACKAGES = (
    "sitecustomize.py",
    "headcount",
    "granian",
    "gunicorn",
    "h11",
    "httptools",
    "hypercorn",
    "starlette",
    "uvicorn",
    "uvicorn_worker",
    "uvloop",
    "websockets",
    "wsproto",
)
"""What a test may have in a folder of its own that Python would find first."""


class _Orders:
    """The way to the process that forks, which is started when it is needed first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0
        self._socket: socket.socket
        self._process: subprocess.Popen[bytes]

    def send(self, order: bytes, files: Sequence[int]) -> None:
        """Have a process forked. `files`: its standard input, output and errors, and where its end is reported."""
        with self._lock:
            if self._owner != os.getpid():  # a process of multiprocessing has one of its own
                self._owner = os.getpid()
                self._start()
        socket.send_fds(self._socket, [order], files)

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADCOUNT_")}
            program = str(Path(__file__).with_name("preloaded.py"))
            self._process = subprocess.Popen([sys.executable, program], stdin=theirs.fileno(), env=environment)


_orders = _Orders()


def _asks_for_nothing_special(environment: Mapping[str, str]) -> bool:
    """Say whether a process with these variables would read the same as this one at its start, and import the same."""
    early = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "MALLOC_", "WEBSOCKETS_")
    names = {name for name in environment.keys() | os.environ.keys() if name.startswith(early)}
    if any(environment.get(name) != os.environ.get(name) for name in names - {"PYTHONPATH", "PYTHONUNBUFFERED"}):
        return False
    folders = [Path(folder) for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    return not any((folder / package).exists() for folder in folders for package in PACKAGES)


def _network() -> int:
    """Return which network namespace this thread is in; 0 where there are none."""
    try:
        return os.stat("/proc/thread-self/ns/net").st_ino
    except OSError:
        return 0


NETWORK = _network()


class Popen(subprocess.Popen[AnyStr]):
    """A process. Its parent is the one that forked it, which says how it ended."""

    _report: socket.socket | None = None

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *others: Any) -> None:
        # The signature of Python 3.11 to 3.13, of which the last are `start_new_session` and `process_group`.
        _, pass_fds, cwd, env, _, _, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest = others
        words = [os.fspath(arg) for arg in args] if not isinstance(args, str) else [args]
        script = words[1:] if words[0] == PYTHON and words[1:] and words[1].endswith(".py") else words
        environment = dict(os.environ if env is None else env)
        plain = not (executable or preexec_fn or pass_fds or shell)
        if (
            not plain
            or (script is words and words[0] not in PROGRAMS)
            or "COVERAGE_PROCESS_CONFIG" in environment
            or os.environ.get("HEADCOUNT_TESTS_EXEC")
            or not _asks_for_nothing_special(environment)
            or _network() != NETWORK
        ):
            super()._execute_child(args, executable, preexec_fn, *others)  # type: ignore[misc]
            return
        self._report, theirs = socket.socketpair()
        order = {
            "further": name if (name := Path(script[0]).name) in FURTHER else None,
            "script": script[0],
            "arguments": script[1:],
            "environment": environment,
            "cwd": None if cwd is None else os.fspath(cwd),
            "session": bool(rest[-2]),
        }
        with theirs:
            standard: tuple[int, ...] = (p2cread, c2pwrite, errwrite)
            files: list[int] = [
                own if file == -1 else file for own, file in enumerate(standard)
            ]  # -1: that of this process
            _orders.send(json.dumps(order).encode(), [*files, theirs.fileno()])
        self.pid = int.from_bytes(self._report.recv(4), "little")
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._report is None:
            found: tuple[int, int] = super()._try_wait(wait_flags)  # type: ignore[misc]
            return found
        try:
            status = self._report.recv(4, socket.MSG_DONTWAIT if wait_flags & os.WNOHANG else 0)
        except BlockingIOError:
            return 0, 0
        self._report.close()
        assert status, "the process that forks has ended"
        return self.pid, int.from_bytes(status, "little")

    def _internal_poll(self, *args: Any, **kwargs: Any) -> int | None:
        if self._report is None:
            code: int | None = super()._internal_poll(*args, **kwargs)  # type: ignore[misc]
            return code
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def run(args: Any, *, timeout: float, input: str | None = None, **options: Any) -> "subprocess.CompletedProcess[str]":  # noqa: A002
    """Run a program to its end, and return what it wrote, as text."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    elif "stdin" not in options:
        options["stdin"] = subprocess.DEVNULL
    with Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
