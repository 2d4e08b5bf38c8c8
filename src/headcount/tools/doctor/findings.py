"""
The findings of an examination.

Tests: tests/cli/test_doctor.py.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

Level: TypeAlias = Literal["ok", "note", "warning", "fault"]


class Finding(NamedTuple):
    """
    One finding.

    Attributes:
        check: Name of the check, for programs.
        level: `fault`: streams break; `warning`: streams may break, or figures are wrong; `note`: good to know.
        says: The finding, in a sentence.
        do: What to do; empty when there is nothing to do.
    """

    check: str
    level: Level
    says: str
    do: str = ""


class Report:
    """
    The findings about one server.

    Args:
        on_finding: Called with each finding.
    """

    def __init__(self, on_finding: Callable[[Finding], object] = lambda _: None) -> None:
        self.findings: list[Finding] = []
        self._on_finding = on_finding

    @property
    def healthy(self) -> bool:
        """Whether no fault was found."""
        return not any(finding.level == "fault" for finding in self.findings)

    def add(self, check: str, level: Level, says: str, do: str = "") -> None:
        """Add a finding."""
        finding = Finding(check, level, says, do)
        self.findings.append(finding)
        self._on_finding(finding)
