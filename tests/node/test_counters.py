"""Events are counted from several threads, each with its own event loop, and without a lock."""

import sys
import threading
from collections.abc import Iterator

import pytest

from headcount import Headcount

THREADS = 4
EACH = 200


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let the interpreter go from thread to thread as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_events_that_threads_count_for_the_first_time_together_are_all_counted() -> None:
    counters = Headcount(version="v1").node.counters
    names = [f"closed:{number}" for number in range(1000)]
    together = threading.Barrier(THREADS)

    def count() -> None:
        for name in names:
            together.wait()
            for _ in range(EACH):
                counters[name] += 1

    threads = [threading.Thread(target=count) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: counters[name] for name in names} == dict.fromkeys(names, THREADS * EACH)
