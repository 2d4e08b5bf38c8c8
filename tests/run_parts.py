"""
Run parts of `make test`: `run_parts.py BESIDE... :: PART...`; a part is a target of the Makefile.

The parts run one after the other. Those before `::` run beside them at a low priority, so that they use the time in
which the others wait, and end before the last part begins: the last part has the machine for itself. The output of a
part is printed in one piece when it ends; that of parts that fail comes last. The last lines are the time of each and
of all, and the CPU time of each.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import IO, NamedTuple

LOW_PRIORITY = 4
"""Nice value of the parts that run beside others."""


class Part(NamedTuple):
    """A part that runs."""

    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    started: float

    def poll(self) -> float | None:
        """Return the CPU seconds of a part that has ended, else None."""
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if not pid:
            return None
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_utime + usage.ru_stime


class Result(NamedTuple):
    """A part that has ended."""

    name: str
    code: int
    seconds: float
    cpu: float
    """Seconds that its processes computed."""
    output: str


def start(name: str, priority: int = 0) -> Part:
    """Start a part, in a process group of its own, so that whatever it started can be ended with it."""
    output = tempfile.TemporaryFile()  # noqa: SIM115  `collect` closes it
    command = ["nice", "-n", str(priority), os.environ.get("MAKE", "make"), "--no-print-directory", name]
    # Make's own flags would have the parts share a jobserver that they cannot reach.
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, process_group=0
    )
    return Part(name, process, output, time.monotonic())


def collect(part: Part, cpu: float) -> Result:
    """Return the result of a part that has ended, and print its output unless it failed."""
    part.output.seek(0)
    text = part.output.read().decode("utf-8", "replace")
    part.output.close()
    result = Result(part.name, part.process.returncode, time.monotonic() - part.started, cpu, text)
    if result.code == 0:
        show(result)
    else:
        print(f"{result.name} failed after {result.seconds:.0f} s; its output comes last.", flush=True)
    return result


def show(result: Result) -> None:
    """Print the output of a part in one piece."""
    print(f"\n=== {result.name}: {'passed' if result.code == 0 else 'FAILED'} after {result.seconds:.0f} s ===")
    print(result.output, flush=True)


class Run:
    """The parts that run, and the results of those that have ended."""

    def __init__(self) -> None:
        self.running: list[Part] = []
        self.results: list[Result] = []

    def start(self, name: str, priority: int = 0) -> None:
        """Start a part."""
        print(f"Running: {name}.", flush=True)
        self.running.append(start(name, priority))

    def wait(self, *names: str) -> None:
        """Wait until none of these parts runs."""
        while any(part.name in names for part in self.running):
            for part in self.running.copy():
                if (cpu := part.poll()) is not None:
                    self.running.remove(part)
                    self.results.append(collect(part, cpu))
            time.sleep(0.1)

    def stop(self) -> None:
        """End what still runs: as Ctrl-C does, so that tests end their servers; and, what does not end, at once."""
        for number, patience in ((signal.SIGINT, 20.0), (signal.SIGKILL, 20.0)):
            for part in self.running:
                with suppress(ProcessLookupError):
                    os.killpg(part.process.pid, number)
            deadline = time.monotonic() + patience
            for part in self.running:
                with suppress(subprocess.TimeoutExpired):
                    part.process.wait(max(0.0, deadline - time.monotonic()))


def main(arguments: list[str]) -> int:
    """Run everything; returns the exit code."""
    # As Ctrl-C does: what runs is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = time.monotonic()
    split = arguments.index("::")
    beside, parts = arguments[:split], arguments[split + 1 :]
    run = Run()
    try:
        for name in beside:
            run.start(name, LOW_PRIORITY)
        for name in parts:
            if name == parts[-1]:
                run.wait(*beside)
            run.start(name)
            run.wait(name)
    finally:
        run.stop()
        failed = [result for result in run.results if result.code != 0]
        for result in failed:
            show(result)
    for result in run.results:
        verdict = "passed" if result.code == 0 else "FAILED"
        print(f"{result.name:<16} {result.seconds:5.0f} s  {result.cpu:5.0f} CPU s  {verdict}")
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"{'all':<16} {minutes} min {seconds:02} s  {'FAILED' if failed else 'passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
