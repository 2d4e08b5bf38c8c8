"""
Where the tests' CPU time goes: `pytest --cpu`, with workers or without.

Each test is given the time of its process and of all that this one has started, while it and its fixtures run. What a
test leaves running counts for the next, so the sums by module say more than those of one test.
"""

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

SHOWN = 40
"""How many modules, and how many tests."""

OUTSIDE = "(start, collection, end)"
BETWEEN = "(between tests)"

TICK = os.sysconf("SC_CLK_TCK")


def _of(pid: int) -> float:
    """Return the CPU seconds of a process, of those that it has waited for, and of those that run below it."""
    ticks = 0
    children: list[int] = []
    with suppress(OSError):  # it has ended
        with open(f"/proc/{pid}/stat") as file:
            ticks = sum(map(int, file.read().rpartition(")")[2].split()[11:15]))
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError), open(thread / "children") as file:
                children += map(int, file.read().split())
    return ticks / TICK + sum(_of(child) for child in children)


class Accounts:
    """The CPU seconds of each test, as far as this process knows them."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._last = 0.0

    def _charge(self, name: str) -> None:
        now = _of(os.getpid())
        self.seconds[name] += max(0.0, now - self._last)  # type: ignore[assignment]
        self._last = now

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self._charge(BETWEEN if self.seconds else OUTSIDE)
        try:
            return (yield)
        finally:
            self._charge(item.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._last:  # not in the process that starts the workers
            self._charge(OUTSIDE)
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["cpu"] = dict(self.seconds)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.seconds.update(getattr(node, "workeroutput", {}).get("cpu", {}))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        modules: Counter[str] = Counter()
        tests: Counter[str] = Counter()
        for nodeid, seconds in self.seconds.items():
            module = nodeid.partition("::")[0]
            modules[module] += seconds
            tests[module] += nodeid not in {OUTSIDE, BETWEEN}
        terminalreporter.section(f"CPU seconds: {modules.total():.0f}")
        for module, seconds in modules.most_common(SHOWN):
            terminalreporter.line(f"{seconds:7.1f}  {tests[module]:5}  {module}")
        terminalreporter.line("")
        for nodeid, seconds in self.seconds.most_common(SHOWN + 2):
            if nodeid not in {OUTSIDE, BETWEEN}:
                terminalreporter.line(f"{seconds:7.1f}  {nodeid}")
