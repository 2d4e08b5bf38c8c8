"""
What the tallies and the history cost a node, watched or not.

    python bench/tally_cost.py

CPU is this process's own, as a share of one core; bytes are what the backend stores.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from headcount.core import history, tallies
from headcount.core.tallies import Tally
from headcount.fleet.backends.local_tallies import TallyFiles

VERSIONS = {f"2026.11.{number}": 1_000 + number for number in range(4)}
MANY = {f"version-{number:04}": number + 1 for number in range(1_000)}
WORKERS = 8


def tally(versions: dict[str, int]) -> Tally:
    """Make a tally as a node does."""
    return Tally(versions=tallies.limited(versions), transit=8.0, serves="2026.11.3", key=b"k" * 16)


def microseconds(call: Callable[[], object], times: int = 2_000) -> float:
    """Return the CPU time of one call."""
    started = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - started) / times * 1e6


async def main() -> None:
    """Measure and print."""
    print(f"tally of 4 versions: {len(tallies.encode(tally(VERSIONS)))} bytes")
    print(f"tally of 1,000 versions: {len(tallies.encode(tally(MANY)))} bytes")
    sample = history.encode_sample(history.sample(1, MANY))
    kept = (history.LENGTH + history.MINUTES) * (len(sample) + 1)
    print(f"sample of 8 versions and the rest: {len(sample)} bytes; a full history: {kept / 1024:.0f} KiB")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        names = [f"{number:012x}" for number in range(WORKERS)]
        files = [TallyFiles(name, lambda: [place], lambda: names) for name in names]
        for each in files:
            each.write(tally(VERSIONS))
        same, other = tally(VERSIONS), [tally({**VERSIONS, "new": n}) for n in range(2)]
        alive = microseconds(lambda: files[0].write(same))
        turn = iter(range(10**9))
        changed = microseconds(lambda: files[0].write(other[next(turn) % 2]))
        large = microseconds(lambda: tally(MANY), 200)
        started = time.process_time()
        for _ in range(200):
            await files[0].entries()
        look = (time.process_time() - started) / 200 * 1e6
        print(f"a sign of life, once a second: {alive:.0f} us = {alive / 1e4:.4f} % of a core")
        print(f"a changed tally, once a second: {changed:.0f} us = {changed / 1e4:.4f} % of a core")
        print(f"choosing 16 of 1,000 versions: {large:.0f} us")
        print(f"reading {WORKERS} workers' tallies, every 10 s: {look:.0f} us = {look / 1e5:.4f} % of a core")


asyncio.run(main())
