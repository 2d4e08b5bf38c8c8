"""What an examination finds."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

Level: TypeAlias = Literal["ok", "note", "warning", "fault"]


class Finding(NamedTuple):
    """
    What was found.

    Attributes:
        check: Which check: a word for programs.
        level: `fault`: streams break; `warning`: they may, or figures are wrong; `note`: good to know.
        says: A sentence.
        do: What to do about it; empty when there is nothing to do.
    """

    check: str
    level: Level
    says: str
    do: str = ""


class Report:
    """
    The findings about one server.

    Args:
        told: Called with each finding when it is made.
    """

    def __init__(self, told: Callable[[Finding], object] = lambda _: None) -> None:
        self.findings: list[Finding] = []
        self._told = told

    @property
    def healthy(self) -> bool:
        """No fault was found."""
        return not any(finding.level == "fault" for finding in self.findings)

    def add(self, check: str, level: Level, says: str, do: str = "") -> None:
        """Add a finding."""
        finding = Finding(check, level, says, do)
        self.findings.append(finding)
        self._told(finding)
