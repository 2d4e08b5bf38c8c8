"""
Run parts of `make test`: `run_parts.py PART... [-- PART...]...`; a part is a target of the Makefile.

Parts between two `--` run at once, and end before those after the next `--` begin. The output of a part is printed in
one piece when it ends; that of parts that fail comes last. The last lines are the time of each and of all.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import IO, NamedTuple


class Part(NamedTuple):
    """A part that runs."""

    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    started: float


class Result(NamedTuple):
    """A part that has ended."""

    name: str
    code: int
    seconds: float
    output: str


def start(name: str) -> Part:
    """Start a part, in a process group of its own, so that whatever it started can be ended with it."""
    output = tempfile.TemporaryFile()  # noqa: SIM115  `collect` closes it
    command = [os.environ.get("MAKE", "make"), "--no-print-directory", name]
    # Make's own flags would have the parts share a jobserver that they cannot reach.
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, process_group=0
    )
    return Part(name, process, output, time.monotonic())


def collect(part: Part) -> Result:
    """Return the result of a part that has ended, and print its output unless it failed."""
    part.output.seek(0)
    text = part.output.read().decode("utf-8", "replace")
    part.output.close()
    result = Result(part.name, part.process.returncode, time.monotonic() - part.started, text)
    if result.code == 0:
        show(result)
    else:
        print(f"{result.name} failed after {result.seconds:.0f} s; its output comes last.", flush=True)
    return result


def show(result: Result) -> None:
    """Print the output of a part in one piece."""
    print(f"\n=== {result.name}: {'passed' if result.code == 0 else 'FAILED'} after {result.seconds:.0f} s ===")
    print(result.output, flush=True)


def run(names: list[str]) -> list[Result]:
    """Run parts at once, to their ends."""
    running: list[Part] = []
    results: list[Result] = []
    try:
        running += [start(name) for name in names]
        while running:
            for part in [part for part in running if part.process.poll() is not None]:
                running.remove(part)
                results.append(collect(part))
            time.sleep(0.1)
    finally:
        for part in running:
            with suppress(ProcessLookupError):
                os.killpg(part.process.pid, signal.SIGTERM)
            part.process.wait()
    return results


def main(arguments: list[str]) -> int:
    """Run everything; returns the exit code."""
    started = time.monotonic()
    results: list[Result] = []
    for group in " ".join(arguments).split(" -- "):
        print(f"Running: {', '.join(group.split())}.", flush=True)
        results += run(group.split())
    failed = [result for result in results if result.code != 0]
    for result in failed:
        show(result)
    for result in results:
        print(f"{result.name:<16} {result.seconds:5.0f} s  {'passed' if result.code == 0 else 'FAILED'}")
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"{'all':<16} {minutes} min {seconds:02} s  {'FAILED' if failed else 'passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
