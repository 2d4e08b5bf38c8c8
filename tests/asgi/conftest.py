"""For all tests in this folder."""

import pytest

from headcount.authorization import tokens
from headcount.node import timers


@pytest.fixture(autouse=True)
def _quick_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a wrong token be answered after a moment; tests/authorization/test_tokens.py has the real second."""
    monkeypatch.setattr(tokens, "DELAY", 0.02)


@pytest.fixture
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pulse look at its clock every few milliseconds."""
    monkeypatch.setattr(timers, "TICK", 0.002)
