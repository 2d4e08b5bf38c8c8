"""
`GET /admin/gate`: whether a rollout may go on, for programs that ask again and again.

The rules are those of `headcount wait` (core/rollout_gate.py), without its memory: each request looks at the figures of
all nodes, and twice before it says that the gate is open.
"""

import asyncio
import time
from typing import Any, Final

from ..core.labels import OTHER, parse_build_id, parse_version
from ..core.rollout_gate import HOLD, KNOWN_HOLD, Bound, Judge, Selection, Verdict, reason_sentence
from ..core.stats import Stats
from ..errors import Malformed
from ..node.figures import FigureReader
from .exchange import Exchange
from .responses import Problem, respond_json

_SELECTIONS: Final = ("version", "notVersion", "release", "outdated")
"""Parameters that say which connections are waited for."""

_MAX_BOUND: Final = 1_000_000_000


async def answer_gate(figures: FigureReader, exchange: Exchange) -> None:
    """
    Answer whether at most `atMost` connections are left: `{open, reason, left, away, unaccounted, total, atMost,
    currentVersion, partial}`. `left` is null while it is not known.

    Raises:
        Problem: 409 while the gate is closed, with the same fields; not with `closed=200`.
        Malformed: It is not said which connections are waited for, or a parameter is not valid.
    """
    query = exchange.head.query((*_SELECTIONS, "atMost", "closed"), strict=True)
    selection, bound = _selection(query), _bound(query.get("atMost", "0"))
    if (closed := query.get("closed", "409")) not in ("200", "409"):
        raise Malformed(f"closed is {closed[:40]!r}; send 200 or 409, the status of a closed gate.")
    judge = Judge(selection, Bound(bound), HOLD, time.monotonic(), KNOWN_HOLD)
    stats, verdict = await _look(figures, judge)
    if verdict.held is not None and judge.hold <= KNOWN_HOLD:
        # A page that goes from one node to another may be in the figures of neither for a moment.
        await asyncio.sleep(judge.hold)
        stats, verdict = await _look(figures, judge)
    answer: dict[str, Any] = {
        "open": verdict.done,
        "reason": reason_sentence(judge, verdict, stats, time.time_ns() // 1_000_000),
        "left": verdict.left,
        "away": None if verdict.left is None else verdict.away,
        "unaccounted": verdict.unaccounted,
        "total": verdict.total,
        "atMost": bound,
        "currentVersion": stats.current_version,
        "partial": stats.partial,
    }
    if not verdict.done and closed == "409":
        raise Problem(409, answer["reason"], fields=answer)
    await respond_json(exchange.send, answer, exchange.cors)


async def _look(figures: FigureReader, judge: Judge) -> tuple[Stats, Verdict]:
    stats = await figures.fresh_stats(rows=False, version=judge.selection.version)
    current = stats.current_version
    if judge.selection.version is None and current is not None and OTHER in stats.versions:
        # Those that are counted together may be of the version that decides, as far as these figures say.
        stats = await figures.fresh_stats(rows=False, version=current)
    return stats, judge.look(time.monotonic(), stats, stats.current_version)


def _selection(query: dict[str, str]) -> Selection:
    given = [name for name in _SELECTIONS if name in query]
    if len(given) != 1:
        came = f"{' and '.join(given)} came" if given else "none came"
        raise Malformed(f"Send exactly one of version=V, notVersion=V, release=V and outdated=1; {came}.")
    name, text = given[0], query[given[0]]
    if name == "outdated":
        if text != "1":
            raise Malformed(f"outdated is {text[:40]!r}; send outdated=1.")
        return Selection("outdated")
    if not text:
        raise Malformed(f"{name} is empty; send a build id, and check that the variable it comes from is set.")
    if name == "release":
        return Selection("release", parse_build_id(text))
    return Selection("version" if name == "version" else "not-version", parse_version(text))


def _bound(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= _MAX_BOUND):
        raise Malformed(f"atMost is {text[:40]!r}; send a whole number from 0 to {_MAX_BOUND}.")
    return int(text)
