"""For all tests in this folder."""

import pytest

from headcount.node import timers


@pytest.fixture
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pulse look at its clock every few milliseconds."""
    monkeypatch.setattr(timers, "TICK", 0.002)
