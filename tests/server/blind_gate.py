"""`headcount`, with a `wait` that takes silence for departure: test_gate_chaos.py proves that it would notice."""

import sys

import msgspec

from headcount.cli import main
from headcount.core.rollout_gate import Judge, Verdict
from headcount.core.stats import Stats

_look = Judge.look


def _blind_look(judge: Judge, now: float, stats: Stats | None, current: str | None) -> Verdict:
    if stats is not None and stats.absences:
        stats = msgspec.structs.replace(stats, absences=(), partial=False)
    if stats is not None and stats.away:
        stats = msgspec.structs.replace(stats, away={})
    return _look(judge, now, stats, current)


if __name__ == "__main__":
    Judge.look = _blind_look  # type: ignore[method-assign, assignment]
    sys.exit(main())
