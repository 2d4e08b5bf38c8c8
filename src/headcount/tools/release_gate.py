"""
When `headcount release --when-settled` may declare a version: the rules, without a clock and without a request.

Every live node must serve the version. A node that does not say which version it serves, or whose report is missing,
may serve another one. So may a node that fell silent, until it counts as gone: it may only be stopped or cut off. A
node that cannot reach the others says only that its figures are partial, so figures that are partial decide nothing,
whatever else explains them. A node that has just been started may not know the others yet, so what it answers must be
true for a few seconds.

Tests: tests/tools/test_release_gate.py.
"""

from typing import Final, NamedTuple

from ..core.stats import Stats
from ..errors import name_some, silent_nodes
from .terminal import printable

HOLD: Final = 5.0
"""Seconds for which every node must serve the version: longer than a node needs to find the others."""


class Verdict(NamedTuple):
    """
    What the gate says at one moment.

    Attributes:
        done: The version may be declared.
        serving: Nodes that serve it; None: there are no figures.
        nodes: Nodes of the fleet.
        reason: Why it may not be declared yet, as the end of a sentence.
    """

    done: bool
    serving: int | None
    nodes: int
    reason: str


class ReleaseGate:
    """
    Judges the figures of a fleet.

    Args:
        version: The version that all nodes must serve.
        hold: Seconds for which they must.
    """

    def __init__(self, version: str, hold: float = HOLD) -> None:
        self.version = version
        self._hold = hold
        self._since: float | None = None

    def judge(self, now: float, stats: Stats | None) -> Verdict:
        """
        Judge one answer.

        Args:
            now: Monotonic seconds.
            stats: The figures; None: no answer came.
        """
        if stats is None:
            self._since = None
            return Verdict(False, None, 0, "no contact with the server")
        versions, nodes = stats.nodes.versions, stats.nodes.expected
        serving = 0 if versions is None else versions.get(self.version, 0)
        if (reason := self._objection(stats)) is not None:
            self._since = None
            return Verdict(False, serving, nodes, reason)
        if self._since is None:
            self._since = now
        done = now - self._since >= self._hold
        return Verdict(done, serving, nodes, f"all nodes must serve it for {self._hold:g} s")

    def _objection(self, stats: Stats) -> str | None:
        nodes, version = stats.nodes, printable(self.version)
        if nodes.versions is None:
            return "the server does not say which version its nodes serve; upgrade it"
        others = sorted(each for each in nodes.versions if each != self.version)
        if others:
            count = sum(nodes.versions[each] for each in others)
            named = printable(name_some(others))
            if nodes.expected == 1:
                return f"the only node serves {named}"
            return f"{count} of {nodes.expected} nodes {'serves' if count == 1 else 'serve'} {named}"
        silent = nodes.expected - nodes.versions.get(self.version, 0)
        if silent > 0:
            return silent_nodes(silent, nodes.expected)
        if nodes.reporting != nodes.expected:
            return f"{nodes.reporting} of {nodes.expected} nodes are reporting"
        if gone := [absence.node for absence in stats.absences if absence.state in ("vanished", "cut-off")]:
            named = printable(name_some(gone))
            which = f"node {named} is" if len(gone) == 1 else f"nodes {named} are"
            return f"{which} silent and may not serve {version}; `headcount nodes forget` declares a node gone"
        if stats.absences:
            named = printable(name_some([each.node for each in stats.absences]))
            return f"pages of {'node' if len(stats.absences) == 1 else 'nodes'} {named} have not reconnected yet"
        if stats.partial:
            return "other nodes may be missing; see the server's log for the reason"
        return None
