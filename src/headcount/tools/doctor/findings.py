"""
The findings of an examination.

Tests: tests/cli/test_doctor.py.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, overload

Level: TypeAlias = Literal["ok", "note", "warning", "fault"]

PAGE = "docs/doctor.md"
"""The page with a section for each cause, and the mend for each proxy."""


class Finding(NamedTuple):
    """
    One finding.

    Attributes:
        check: Name of the check, for programs.
        level: `fault`: streams break; `warning`: streams may break, or figures are wrong; `note`: good to know.
        says: The finding, in a sentence.
        do: What to do; empty when there is nothing to do.
        see: The section of the docs with the mend for each proxy, such as `docs/doctor.md#buffering`; empty: none.
    """

    check: str
    level: Level
    says: str
    do: str = ""
    see: str = ""


class Report:
    """
    The findings about one server.

    Args:
        on_finding: Called with each finding.
        on_progress: Called now and then while streams are held: what is going on, and how much of it is done, 0 to 1.
    """

    def __init__(
        self,
        on_finding: Callable[[Finding], object] = lambda _: None,
        on_progress: Callable[[str, float], object] = lambda _, __: None,
    ) -> None:
        self.findings: list[Finding] = []
        self.products: list[str] = []
        """Names of the proxies that were recognised, nearest first."""
        self.upstream_http = ""
        """HTTP version in which requests reach the server, such as `1.0`; empty: not known yet."""
        self.on_progress = on_progress
        self._on_finding = on_finding

    @property
    def healthy(self) -> bool:
        """Whether no fault was found."""
        return not any(finding.level == "fault" for finding in self.findings)

    def has_fault(self, *checks: str) -> bool:
        """Say whether one of some checks found a fault."""
        return any(finding.level == "fault" and finding.check in checks for finding in self.findings)

    @overload
    def add(self, check: str, level: Literal["ok", "note"], says: str, do: str = "", *, section: str = "") -> None: ...

    @overload
    def add(self, check: str, level: Level, says: str, do: str = "", *, section: str) -> None: ...

    def add(self, check: str, level: Level, says: str, do: str = "", *, section: str = "") -> None:
        """Add a finding. `section`: heading of the docs page, as it stands in a link; faults and warnings have one."""
        finding = Finding(check, level, says, do, f"{PAGE}#{section}" if section else "")
        self.findings.append(finding)
        self._on_finding(finding)

    def add_limit(self, check: str, says: str) -> None:
        """Add the finding that uvicorn is at its limit of connections."""
        do = "Raise --limit-concurrency above the number of pages, or set max_connections, which limits streams only."
        self.add(check, "fault", says, do, section="connections")
