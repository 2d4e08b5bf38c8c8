"""
Several processes that serve one address, and one that watches over them.

Each worker has a listening socket of its own on the shared address (SO_REUSEPORT): the kernel spreads connections by
their addresses, evenly, which matters because streams stay where they began. Workers that accept from one shared socket
take what comes in bursts, whoever wakes first. The sockets belong to the parent, so those who wait to be accepted when
a worker dies meet the next one. Where the kernel does not spread (not Linux), all workers share one socket.

The parent serves nothing and runs no event loop, so it can fork at any time.
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
"""Seconds after which a worker that was told to stop and did not is killed."""

GOOD_AFTER: Final = 10.0
"""Seconds after which a worker that ran is not held responsible for those before it in its place."""

LONGEST_WAIT: Final = 5.0
"""Seconds between two starts in one place at most; the first is at once."""

Run = Callable[[socket.socket, Callable[[], None], int], None]
"""Serve on a socket until told to stop; call the function when it accepts; stop when the descriptor is at its end."""


class Workers:
    """
    See above.

    Args:
        sockets: One for each worker.
        run: What a worker does.
        ready: Called once, when all serve.
        say: Tells the operator.
    """

    def __init__(
        self, sockets: list[socket.socket], run: Run, ready: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self._sockets = sockets
        self._run = run
        self._ready = ready
        self._say = say
        self._places: dict[int, int] = {}
        """By process: its place, an index of `sockets`."""
        self._started: dict[int, float] = {}
        self._failures = [0] * len(sockets)
        self._due: dict[int, float] = {}
        """By place: when a worker is to be started there."""
        self._serving = 0
        self._announced = False
        self._stopping: int | None = None
        self._failed = False

    def supervise(self) -> int | None:
        """
        Keep one worker in each place until told to stop.

        Returns:
            The signal that said so; None when a worker could not even start.
        """
        self._waker, wakes = _pipe()
        self._told, self._tells = _pipe()
        self._lifeline, self._life = os.pipe()
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        try:
            for place in range(len(self._sockets)):
                self._start(place)
            while self._stopping is None and not self._failed:
                self._turn()
            self._stop()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            for fd in (self._waker, wakes, self._told, self._tells, self._lifeline, self._life):
                os.close(fd)
        return None if self._failed else self._stopping

    def _note(self, number: int, _: FrameType | None) -> None:
        self._stopping = number

    def _turn(self) -> None:
        now = time.monotonic()
        for place, due in list(self._due.items()):
            if now >= due:
                del self._due[place]
                self._start(place)
        wait = min((due - now for due in self._due.values()), default=None)
        readable, _, _ = select.select([self._waker, self._told], [], [], wait)
        if self._waker in readable:
            _drain(self._waker)
        if self._told in readable:
            self._serving += len(_drain(self._told))
            if self._serving >= len(self._sockets) and not self._announced:
                self._announced = True
                self._ready()
        for process, status in _ended():
            self._bury(process, status)

    def _start(self, place: int) -> None:
        process = os.fork()
        if process == 0:
            self._be_worker(place)
        self._places[process] = place
        self._started[process] = time.monotonic()

    def _be_worker(self, place: int) -> None:
        """Serve, in the new process, and never return."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            for fd in (self._waker, self._told, self._life):
                os.close(fd)
            for index, sock in enumerate(self._sockets):
                if sock is not self._sockets[place] and index != place:
                    sock.close()
            self._run(self._sockets[place], lambda: _tell(self._tells), self._lifeline)
            code = 0
        except KeyboardInterrupt:
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _bury(self, process: int, status: int) -> None:
        place = self._places.pop(process, None)
        if place is None:
            return
        lived = time.monotonic() - self._started.pop(process)
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if not self._announced:
            self._say(f"Worker {process} {how} before all workers served, so none is left running.")
            self._failed = True
            return
        self._failures[place] = 0 if lived >= GOOD_AFTER else self._failures[place] + 1
        wait = min(LONGEST_WAIT, 0.5 * 2 ** (self._failures[place] - 2)) if self._failures[place] > 1 else 0.0
        when = f"in {wait:g} s" if wait else "now"
        self._say(f"Worker {process} {how}; another one takes its place {when}.")
        self._due[place] = time.monotonic() + wait

    def _stop(self) -> None:
        for sock in self._sockets:
            sock.close()  # nobody else comes in
        for process in self._places:
            _kill(process, signal.SIGTERM)
        deadline = time.monotonic() + KILL_AFTER
        while self._places:
            for process, _ in _ended():
                self._places.pop(process, None)
            if self._places and time.monotonic() >= deadline:
                for process in self._places:
                    _kill(process, signal.SIGKILL)
            if self._places:
                select.select([self._waker], [], [], 0.1)
                _drain(self._waker)


def reuse_port() -> bool:
    """Say whether the kernel spreads connections over sockets that share a port."""
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


def _tell(fd: int) -> None:
    os.write(fd, b".")


def _ended() -> list[tuple[int, int]]:
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
        return  # its end waits to be noticed


def _nothing(_: int, __: FrameType | None) -> None:
    """Let SIGCHLD wake the parent, which it does not by default."""
