"""
What `headcount rollout` says: the newest rollout in sentences, all of them as rows and as CSV.

A time that may be too late, because figures were partial before it, has `<` in front: it was reached by then.

Tests: tests/tools/test_rollout_report.py.
"""

import csv
import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from ..core.rollouts import PERCENTS, AdoptionCurve, Milestone, compared, typical
from .terminal import printable

HEAD: Final = ("Version", "Current since", *(f"{percent} %" for percent in PERCENTS), "Half-life", "State")

UNKNOWN: Final = "-"
"""Stands for what was not reached."""

NOTHING: Final = (
    "No rollout in the history yet. One begins when another version becomes current: headcount release VERSION URL"
)

Span = Callable[[float], str]
"""Returns a duration in seconds as people write it."""


def sentences(newest_first: Sequence[AdoptionCurve], clock: Callable[[int], str], span: Span) -> list[str]:
    """
    Describe the newest rollout, and compare it with those before.

    Args:
        newest_first: All rollouts.
        clock: Returns a time in ms since 1970 as people write it.
        span: See `Span`.
    """
    if not newest_first:
        return [NOTHING]
    newest, others = newest_first[0], compared(newest_first)
    how = "declared" if newest.declared else "settled"
    found = [f"{newest.version} is current since {clock(newest.at)} ({how}). {_progress(newest)}"]
    if newest.partial and newest.state == "running":
        found.append("Partial: the newest figures lack connections, or it is not known which version is current.")
    if others:
        usual = [
            f"{percent} % after {span(after / 1000)}"
            for percent in PERCENTS
            if (after := typical(others, percent)) is not None
        ]
        whose = "The last rollout" if len(others) == 1 else f"The last {len(others)} rollouts"
        found.append(f"{whose} that reached {PERCENTS[-1]} %: {', '.join(usual)}{' (medians)' if others[1:] else ''}.")
    return found


def _progress(rollout: AdoptionCurve) -> str:
    curve = rollout.curve
    if not curve:
        return "It is not known yet how many connections are on it."
    last = curve[-1]
    if not last.total:
        return f"No connections are open; the rollout is {rollout.state}."
    noun = "connection" if last.total == 1 else "connections"
    share = f"{share_of(rollout)} of {last.total:,} {noun} {'is' if last.total == 1 else 'are'} on it"
    return f"{share}; the rollout is {rollout.state}."


def share_of(rollout: AdoptionCurve) -> str:
    """Return the share of connections on the version at the end of the curve."""
    curve = rollout.curve
    if not curve or not curve[-1].total:
        return UNKNOWN
    # Never rounded up to what is not reached.
    return f"{int(curve[-1].on * 1000 / curve[-1].total) / 10:g} %"


def row(rollout: AdoptionCurve, clock: Callable[[int], str]) -> list[str]:
    """Return one row under `HEAD`."""
    times = [*(rollout.after(percent) for percent in PERCENTS), rollout.half_life]
    return [rollout.version, clock(rollout.at), *map(_time, times), rollout.state]


def _time(milestone: Milestone | None) -> str:
    if milestone is None:
        return UNKNOWN
    return f"{'<' if milestone.partial else ''}{short(milestone.after / 1000)}"


def short(seconds: float) -> str:
    """Return a duration for a narrow column: `40 s`, `3.5 min`, `25 min`, `2.1 h`, `1.5 d`."""
    units = (("s", 1), ("min", 60), ("h", 3_600), ("d", 86_400))
    unit, length = next((each for each in units if seconds < 120 * each[1]), units[-1])
    number = seconds / length
    return f"{round(number, 1) if number < 10 else round(number):g} {unit}"


def to_csv(newest_first: Sequence[AdoptionCurve]) -> str:
    """
    Return all rollouts as CSV, newest first: times in seconds, empty if not reached. `late` names the columns whose
    time may be too late, separated by spaces.
    """
    names = [*(f"seconds_to_{percent}" for percent in PERCENTS), "half_life_seconds"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["version", "previous", "since", "declared", "state", "on", "total", *names, "late", "partial"])
    for each in newest_first:
        times = [*(each.after(percent) for percent in PERCENTS), each.half_life]
        curve = each.curve
        writer.writerow(
            [
                _cell(each.version),
                _cell(each.previous),
                datetime.fromtimestamp(each.at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "yes" if each.declared else "no",
                each.state,
                *((curve[-1].on, curve[-1].total) if curve else (None, None)),
                *(None if time is None else time.after / 1000 for time in times),
                " ".join(name for name, time in zip(names, times, strict=True) if time is not None and time.partial),
                "yes" if each.partial and each.state == "running" else "no",
            ]
        )
    return text.getvalue()


def _cell(text: str) -> str:
    """Return a text that a terminal can show, and that a spreadsheet does not take for a formula."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown
