"""
The supervisor of `headcount serve --workers N`: it starts the worker processes, restarts them and stops them.

Each worker has a listening socket of its own on the shared address (SO_REUSEPORT). The kernel spreads connections over
the sockets by their addresses, evenly, which matters because a stream stays with its worker. Workers that accept from
one shared socket get connections in bursts: the worker that wakes first accepts most of them. The sockets belong to the
supervisor, so connections that wait to be accepted when a worker dies are accepted by its successor. Where the kernel
does not spread connections (not Linux), all workers share one socket.

The supervisor serves nothing and runs no event loop, so it can fork at any time. docs/adr/0016-supervisor.md says
why it is not uvicorn's.

Tests: tests/server/test_supervisor.py, tests/server/test_workers.py.
"""

import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Final

logger = logging.getLogger("headcount")

KILL_AFTER: Final = 5.0
"""Seconds after SIGTERM until a worker that still runs is killed."""

HEALTHY_AFTER: Final = 10.0
"""Seconds after which a worker counts as healthy: the failures of its slot are forgotten."""

MAX_RESTART_DELAY: Final = 5.0
"""Seconds. The first restart in a slot is immediate; the delay then doubles up to this."""

Run = Callable[[socket.socket, Callable[[], None], int], None]
"""
Serves until SIGTERM. Its arguments: the listening socket; a function to call once connections are accepted; and the
lifeline, a descriptor that reaches its end when the supervisor has died, after which the worker must stop.
"""


class Supervisor:
    """
    Keeps one worker running in each slot.

    Args:
        sockets: The listening sockets, one for each slot.
        run: What a worker does.
        ready: Called once, when all workers accept connections.
        report: Called with a sentence for the operator.
    """

    def __init__(
        self, sockets: list[socket.socket], run: Run, ready: Callable[[], None], report: Callable[[str], None]
    ) -> None:
        self._sockets = sockets
        self._run = run
        self._ready = ready
        self._report = report
        self._slots: dict[int, int] = {}
        """Slot of each process id: an index of `sockets`."""
        self._started_at: dict[int, float] = {}
        self._failures = [0] * len(sockets)
        """Failed starts in a row, by slot."""
        self._restart_at: dict[int, float] = {}
        """Time of the next start, by slot."""
        self._ready_workers = 0
        self._announced = False
        self._signal: int | None = None
        """The signal that stops all workers; None: none has come."""
        self._failed = False
        """A worker ended before all workers were ready."""

    def supervise(self) -> int | None:
        """
        Keep one worker in each slot until SIGTERM or SIGINT.

        Returns:
            The signal; None if a worker ended before all workers were ready.
        """
        self._wakeup_fd, wakeup_write_fd = _pipe()
        self._ready_fd, self._ready_write_fd = _pipe()
        self._lifeline_fd, self._lifeline_write_fd = os.pipe()
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _on_sigchld)
        signal.set_wakeup_fd(wakeup_write_fd, warn_on_full_buffer=False)
        try:
            for slot in range(len(self._sockets)):
                self._start(slot)
            while self._signal is None and not self._failed:
                self._wait_for_event()
            self._stop()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            for fd in (self._wakeup_fd, wakeup_write_fd, self._ready_fd, self._ready_write_fd, self._lifeline_fd,
                       self._lifeline_write_fd):  # fmt: skip
                os.close(fd)
        return None if self._failed else self._signal

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = number

    def _wait_for_event(self) -> None:
        """Start the workers that are due, then wait for a signal, a ready worker, or the end of one."""
        now = time.monotonic()
        for slot, due in list(self._restart_at.items()):
            if now >= due:
                del self._restart_at[slot]
                self._start(slot)
        wait = min((due - now for due in self._restart_at.values()), default=None)
        readable, _, _ = select.select([self._wakeup_fd, self._ready_fd], [], [], wait)
        if self._wakeup_fd in readable:
            _drain(self._wakeup_fd)
        if self._ready_fd in readable:
            self._ready_workers += len(_drain(self._ready_fd))
            if self._ready_workers >= len(self._sockets) and not self._announced:
                self._announced = True
                self._ready()
        for process, status in _reap():
            self._on_worker_exit(process, status)

    def _start(self, slot: int) -> None:
        process = os.fork()
        if process == 0:
            self._run_worker(slot)
        self._slots[process] = slot
        self._started_at[process] = time.monotonic()

    def _run_worker(self, slot: int) -> None:
        """Serve, in the new process, and never return."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            for fd in (self._wakeup_fd, self._ready_fd, self._lifeline_write_fd):
                os.close(fd)
            for index, sock in enumerate(self._sockets):
                if sock is not self._sockets[slot] and index != slot:
                    sock.close()
            self._run(self._sockets[slot], self._mark_ready, self._lifeline_fd)
            code = 0
        except KeyboardInterrupt:
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _mark_ready(self) -> None:
        os.write(self._ready_write_fd, b".")

    def _on_worker_exit(self, process: int, status: int) -> None:
        slot = self._slots.pop(process, None)
        if slot is None:
            return
        lifetime = time.monotonic() - self._started_at.pop(process)
        code = os.waitstatus_to_exitcode(status)
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        if not self._announced:
            self._report(f"Worker {process} {cause} before all workers were ready; stopping all workers.")
            self._failed = True
            return
        self._failures[slot] = 0 if lifetime >= HEALTHY_AFTER else self._failures[slot] + 1
        delay = min(MAX_RESTART_DELAY, 0.5 * 2 ** (self._failures[slot] - 2)) if self._failures[slot] > 1 else 0.0
        when = f"in {delay:g} s" if delay else "now"
        self._report(f"Worker {process} {cause}; starting a new worker {when}.")
        self._restart_at[slot] = time.monotonic() + delay

    def _stop(self) -> None:
        for sock in self._sockets:
            sock.close()  # no new connections
        for process in self._slots:
            _kill(process, signal.SIGTERM)
        deadline = time.monotonic() + KILL_AFTER
        while self._slots:
            for process, _ in _reap():
                self._slots.pop(process, None)
            if self._slots and time.monotonic() >= deadline:
                for process in self._slots:
                    _kill(process, signal.SIGKILL)
            if self._slots:
                select.select([self._wakeup_fd], [], [], 0.1)
                _drain(self._wakeup_fd)


def can_reuse_port() -> bool:
    """Return whether the kernel spreads connections over sockets that share a port."""
    return sys.platform == "linux" and hasattr(socket, "SO_REUSEPORT")


def _pipe() -> tuple[int, int]:
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    os.set_blocking(writes, False)
    return reads, writes


def _drain(fd: int) -> bytes:
    try:
        return os.read(fd, 4_096)
    except BlockingIOError:
        return b""


def _reap() -> list[tuple[int, int]]:
    """Return process id and wait status of each child that has ended."""
    found: list[tuple[int, int]] = []
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not process:
            return found
        found.append((process, status))


def _kill(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return  # it has ended and is reaped next


def _on_sigchld(_: int, __: FrameType | None) -> None:
    """Exist, so that SIGCHLD writes to the wakeup descriptor: an ignored signal does not."""
