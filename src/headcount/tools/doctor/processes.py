"""
How many processes answer, and whether they count together.

The number of processes says nothing about that: two fleets of four workers behind one balancer answer like one fleet
of four. The list of nodes does: each node lists the nodes that it counts together with.

Tests: tests/tools/test_doctor_processes.py, tests/cli/test_doctor.py.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeAlias

from ...client import messages
from ...client.access import Access
from ...core.stats import Stats
from ...errors import ClientError, Malformed, NotAuthorized
from .findings import Report
from .limits import examine_reported_limit

LIST_REQUESTS: Final = 8
"""Requests for the list of nodes. A balancer that picks one of two servers sends all to one in 1 run of 128."""

PAUSE: Final = 3.0
"""Seconds between two rounds of requests: workers that have just started find one another meanwhile."""

_UPTIME_TOLERANCE: Final = 0.05
"""Seconds. Uptimes are rounded, and clocks of two machines drift."""

_APART: Final = "Run one process, or give all processes the same backend, such as backend='redis://…'."

NodeIds: TypeAlias = frozenset[str]
"""The ids of the nodes that one answer lists."""


class TimedHealth(NamedTuple):
    """An answer, and the earliest and latest start of its process, in monotonic time of this machine."""

    answer: messages.Health
    earliest: float
    latest: float

    @classmethod
    def at(cls, answer: messages.Health, asked: float) -> "TimedHealth":
        """Make one of an answer that has just come. `asked`: time of its request."""
        return cls(answer, asked - answer.uptime, time.monotonic() - answer.uptime)


def count_starts(answers: Iterable[TimedHealth]) -> int:
    """Return the smallest number of start times that explains all answers."""
    starts: list[float] = []
    for _, earliest, latest in sorted(answers, key=lambda timed: timed.latest):
        if not starts or earliest - _UPTIME_TOLERANCE > starts[-1]:
            starts.append(latest)
    return len(starts)


def applications(rounds: Sequence[Sequence[NodeIds]]) -> list[NodeIds]:
    """
    Return the groups of nodes, each of which counts only its own connections.

    Lists that have a node in common are of one application. One counts only if it has answered in the first round and
    in the last: a process that was restarted between them has another id, and is no second application.
    """
    groups: list[NodeIds] = []
    for nodes in (nodes for answers in rounds for nodes in answers):
        same = [group for group in groups if group & nodes]
        groups = [group for group in groups if not group & nodes]
        groups.append(nodes.union(*same))
    ends = (rounds[0], rounds[-1])
    return [group for group in groups if all(any(nodes & group for nodes in answers) for answers in ends)]


async def examine_processes(
    base: str,
    access: Access,
    report: Report,
    answers: Sequence[TimedHealth],
    figures: Stats | None,
    *,
    unknown_stream: bool,
) -> None:
    """
    Examine whether all processes that answer count together.

    Args:
        base: URL of the base path.
        access: Credentials and network options.
        report: Receives the findings.
        answers: Answers of `/health`.
        figures: The figures; None: these credentials may not see them.
        unknown_stream: A POST reached a process that does not know its stream.
    """
    versions = {timed.answer.version for timed in answers}
    if len(versions) > 1:
        report.add("processes", "note", f"Processes of {len(versions)} versions answer: a deploy is in progress.")
    apart = [] if figures is None else await _list_applications(base, access, report)
    starts = count_starts(answers)
    if len(apart) > 1:
        report.add(
            "processes",
            "fault",
            f"The URL reaches {len(apart)} groups of processes, {' and '.join(_nodes(group) for group in apart)}; each "
            "counts only its own connections.",
            "Check the backend: the figures are partial, so nodes do not hear one another."
            if figures is not None and figures.partial
            else _APART,
            section="processes",
        )
    elif unknown_stream or (figures is not None and starts > max(figures.nodes.expected, *map(len, apart), 1)):
        several = max(starts, 2) if unknown_stream else starts
        says = f"At least {several} processes answer, and each counts only its own connections."
        report.add("processes", "fault", says, _APART, section="processes")
    elif apart and len(apart[0]) > 1:
        says = f"All answers are of one application of {_nodes(apart[0])}, which count together."
        report.add("processes", "ok", says)
    elif starts > 1 and not apart:
        report.add(
            "processes",
            "note",
            f"At least {starts} processes answer. Only the list of nodes shows whether they count together.",
            "" if figures is not None else "Give --token.",
            section="processes",
        )
    if figures is not None and figures.partial:
        says = f"The figures are partial: {figures.nodes.reporting} of {figures.nodes.expected} nodes report."
        report.add("processes", "warning", says, "Check the missing nodes and the backend.", section="processes")


def _nodes(group: NodeIds) -> str:
    return "1 node" if len(group) == 1 else f"{len(group)} nodes"


async def _list_applications(base: str, access: Access, report: Report) -> list[NodeIds]:
    """
    Ask who counts together, and once more if not all do. Returns [] if the list cannot be read.

    The answers also have the limits that clients have reported, each to its own node.
    """
    with suppress(NotAuthorized, ClientError, Malformed):
        answers = await _list_nodes(base, access)
        examine_reported_limit([answer.cut_after for answer in answers], report)
        rounds = [_node_ids(answers)]
        if len(applications(rounds)) > 1:
            report.on_progress("Asking again which nodes count together", 0.5)
            await asyncio.sleep(PAUSE)
            rounds.append(_node_ids(await _list_nodes(base, access)))
        return applications(rounds)
    return []


async def _list_nodes(base: str, access: Access) -> list[messages.FleetNodes]:
    # Each request on a connection of its own, so that a load balancer spreads them.
    return [messages.decode_fleet(await access.get(f"{base}/admin/nodes")) for _ in range(LIST_REQUESTS)]


def _node_ids(answers: Iterable[messages.FleetNodes]) -> list[NodeIds]:
    return [frozenset(share.node for share in answer.shares) for answer in answers if answer.shares]
