"""When `headcount release --when-settled` may declare a version."""

import pytest

from headcount.core.stats import Absence, Nodes, Stats
from headcount.tools.release_gate import HOLD, ReleaseGate


def fleet(expected: int, reporting: int | None = None, **versions: int) -> Stats:
    return Stats(nodes=Nodes(expected if reporting is None else reporting, expected, versions))


def test_a_version_that_all_nodes_serve_for_long_enough_may_be_declared() -> None:
    gate = ReleaseGate("v2")
    early = gate.judge(10.0, fleet(2, v2=2))
    assert (early.done, early.serving, early.nodes) == (False, 2, 2)
    assert not gate.judge(10.0 + HOLD - 0.1, fleet(2, v2=2)).done
    assert gate.judge(10.0 + HOLD, fleet(2, v2=2)).done


@pytest.mark.parametrize(
    "between",
    [
        fleet(2, v1=1, v2=1),
        fleet(3, v2=2),
        fleet(2, reporting=1, v2=2),
        Stats(nodes=Nodes(2, 2, {"v2": 2}), partial=True),
        Stats(nodes=Nodes(2, 2, {"v2": 2}), partial=True, absences=(Absence("aa", 0, state="cut-off"),)),
        Stats(nodes=Nodes(2, 2, None)),
        None,
    ],
)
def test_a_doubt_starts_the_time_anew(between: Stats | None) -> None:
    gate = ReleaseGate("v2")
    gate.judge(0.0, fleet(2, v2=2))
    assert not gate.judge(HOLD, between).done
    assert not gate.judge(HOLD + 1, fleet(2, v2=2)).done
    assert gate.judge(2 * HOLD + 1, fleet(2, v2=2)).done


@pytest.mark.parametrize("state", ["leaving", "unanswered", "vanished", "cut-off"])
def test_partial_figures_decide_nothing_whatever_explains_them(state: str) -> None:
    """A node that is cut off from the others as well shows the same figures."""
    gate = ReleaseGate("v2", hold=0)
    absence = Absence("aa", 3, state=state)  # type: ignore[arg-type]
    assert not gate.judge(0.0, Stats(nodes=Nodes(2, 2, {"v2": 2}), partial=True, absences=(absence,))).done


@pytest.mark.parametrize(
    ("stats", "reason"),
    [
        (None, "no contact with the server"),
        (Stats(nodes=Nodes(1, 1)), "the server does not say which version its nodes serve"),
        (fleet(3, v1=1, v2=2), "1 of 3 nodes serves v1"),
        (fleet(9, v1=2, v3=2, v4=1, v5=1, v2=3), "6 of 9 nodes serve v1, v3, v4 and 1 more"),
        (fleet(1, v1=1), "the only node serves v1"),
        (
            Stats(nodes=Nodes(1, 1, {"v2": 1}), absences=(Absence("aa", 3, state="leaving"),), partial=True),
            "pages of node aa have not reconnected yet",
        ),
        (Stats(nodes=Nodes(1, 1, {"v2": 1}), partial=True), "other nodes may be missing"),
        (fleet(3, v2=2), "1 of 3 nodes does not say which version it serves"),
        (fleet(2, reporting=1, v2=2), "1 of 2 nodes are reporting"),
        (
            Stats(nodes=Nodes(1, 1, {"v2": 1}), absences=(Absence("aa", None),), partial=True),
            "node aa is silent and may not serve v2; `headcount nodes forget` declares a node gone",
        ),
        (fleet(2, v2=2), f"all nodes must serve it for {HOLD:g} s"),
    ],
)
def test_the_reason_says_what_is_waited_for(stats: Stats | None, reason: str) -> None:
    assert ReleaseGate("v2").judge(0.0, stats).reason.startswith(reason)
