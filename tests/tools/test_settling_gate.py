"""When `headcount release --when-settled` may declare a version."""

import pytest

from headcount.core.stats import Absence, Nodes, Stats
from headcount.tools.settling_gate import HOLD, SettlingGate


def fleet(expected: int, reporting: int | None = None, **versions: int) -> Stats:
    return Stats(nodes=Nodes(expected if reporting is None else reporting, expected, versions))


def test_a_version_that_all_nodes_serve_for_long_enough_may_be_declared() -> None:
    gate = SettlingGate("v2")
    early = gate.look(10.0, fleet(2, v2=2))
    assert (early.done, early.serving, early.nodes) == (False, 2, 2)
    assert not gate.look(10.0 + HOLD - 0.1, fleet(2, v2=2)).done
    assert gate.look(10.0 + HOLD, fleet(2, v2=2)).done


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
    gate = SettlingGate("v2")
    gate.look(0.0, fleet(2, v2=2))
    assert not gate.look(HOLD, between).done
    assert not gate.look(HOLD + 1, fleet(2, v2=2)).done
    assert gate.look(2 * HOLD + 1, fleet(2, v2=2)).done


@pytest.mark.parametrize("state", ["leaving", "unanswered"])
def test_pages_on_their_way_are_no_nodes(state: str) -> None:
    gate = SettlingGate("v2", hold=0)
    absence = Absence("aa", 3, state=state)  # type: ignore[arg-type]
    assert gate.look(0.0, Stats(nodes=Nodes(2, 2, {"v2": 2}), partial=True, absences=(absence,))).done


@pytest.mark.parametrize(
    ("stats", "reason"),
    [
        (None, "no contact with the server"),
        (Stats(nodes=Nodes(1, 1)), "the server does not say which version its nodes serve"),
        (fleet(3, v1=1, v2=2), "1 of 3 nodes serves v1"),
        (fleet(9, v1=2, v3=2, v4=1, v5=1, v2=3), "6 of 9 nodes serve v1, v3, v4 and 1 more"),
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
    assert SettlingGate("v2").look(0.0, stats).reason.startswith(reason)
