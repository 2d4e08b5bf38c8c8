"""
What the history costs: CPU of adding to it and of reading it, memory, and bytes in the store and on the disk.

    python bench/history_cost.py

CPU is this process's own, as a share of one core: of the one node in a fleet that adds the samples. `usual` is four
versions and a day with 20 rollouts; `hostile` is strangers who name versions that are as long as they may be.
"""

import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

from headcount.core import rollouts
from headcount.core.history import INTERVAL, LENGTH, MAX_SAMPLE, MINUTE, MINUTES, Current, sample
from headcount.core.kept_history import History, KeptHistory
from headcount.fleet.backends.history_folder import HistoryFolder

START = 1_700_000_000_000
DAY = LENGTH * 24
STEPS = DAY + LENGTH


def names(kind: str, number: int) -> str:
    """Return a version."""
    return f"2026.11.{number}" if kind == "usual" else f"{number:03}" + "\U0001f986" * 125


def counts(kind: str, step: int) -> tuple[dict[str, int], Current]:
    """Return the figures of a day with 20 rollouts at one step, and which version is current."""
    length = STEPS // 21
    number, since = step // length, step % length
    on = min(9_900, since * 60)
    others = 4 if kind == "usual" else 40
    old = {names(kind, number + 1 + other): (10_000 - on) // others for other in range(others)}
    declared = START + number * length * round(INTERVAL * 1000)
    return {names(kind, number): on, **old}, Current(names(kind, number), declared)


def cpu(call: Callable[[], object], times: int) -> float:
    """Return the CPU time of one call in microseconds."""
    started = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - started) / times * 1e6


def percent(microseconds: float, seconds: float) -> str:
    """Return CPU time that is spent every so many seconds as a share of a core."""
    return f"{microseconds / seconds / 1e4:.4f} % of a core"


def fill(kind: str) -> History:
    """Return the history of a day."""
    history = History()
    for step in range(STEPS):
        versions, current = counts(kind, step)
        history.add(step * INTERVAL, START + step * round(INTERVAL * 1000), versions, current)
    return history


def size(kept: KeptHistory) -> int:
    """Return the bytes of a history in a store."""
    return sum(map(len, (*kept.fine, *kept.minutes))) + len(kept.rollouts or b"")


def measure(kind: str) -> None:
    """Measure one kind of figures and print."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    history = fill(kind)
    memory = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    kept = history.kept
    last = START + STEPS * round(INTERVAL * 1000)
    known = kept.catch_up(last)
    print(f"{kind}: {len(kept.fine)} + {len(kept.minutes)} samples, {len(known.rollouts)} rollouts")
    print(f"  in memory: {memory / 1e6:.2f} MB; in a store: {size(kept) / 1e6:.2f} MB")
    print(f"  of it rollouts: {len(rollouts.encode(known)) / 1024:.1f} KiB")
    versions, current = counts(kind, STEPS - 1)
    make = cpu(lambda: sample(last, versions, current=current), 500)
    now = iter(range(10**9))

    def add() -> None:
        step = STEPS + next(now)
        history.add(step * INTERVAL, START + step * round(INTERVAL * 1000), versions, current)

    added = cpu(add, 6 * 20)
    print(f"  a sample, every {INTERVAL:.0f} s: {make:.0f} us = {percent(make, INTERVAL)}")
    print(f"  with the rollouts, on average: {added:.0f} us = {percent(added, INTERVAL)}")
    read = cpu(lambda: kept.read(last).to_dict(), 20)
    print(f"  an answer of /admin/history: {read / 1000:.1f} ms")
    recent = KeptHistory(kept.fine[-7:], kept.minutes[-1:], kept.rollouts)
    print(f"  an answer of /admin/history/rollouts in a fleet: {cpu(lambda: recent.catch_up(last), 50) / 1000:.2f} ms")
    print(f"  on the disk with state_file: {on_disk(kept, versions, current)}")


def on_disk(kept: KeptHistory, versions: Mapping[str, int], current: Current) -> str:
    """Write a history to a folder, and go on until each file was cut at least once; return the largest size."""
    largest = 0
    with tempfile.TemporaryDirectory() as directory:
        folder, history = HistoryFolder(f"{directory}/state.json"), History(kept)
        for step in range(3 * MINUTES):
            at = START + (STEPS + step) * round(MINUTE * 1000)
            folder.write(history.add(step * MINUTE, at, versions, current))
            if not step % 10:
                folder.flush()
                largest = max(largest, sum(path.stat().st_size for path in Path(folder.path).iterdir()))
        folder.flush()
    return f"{largest / 1e6:.2f} MB at most"


if __name__ == "__main__":
    print(f"Python {sys.version.split()[0]}; the limit of a sample is {MAX_SAMPLE} bytes")
    for each in ("usual", "hostile"):
        measure(each)
