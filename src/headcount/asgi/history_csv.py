"""
The minutes of the history as CSV (RFC 4180), for a spreadsheet.

One row for each minute that has a sample, oldest first: `time` in UTC, `total`, `outdated`, `current`, `partial`, and a
column for each version. What is not known is empty, and not 0: `outdated` and `current` while it was not known which
version was current, and a version that was counted with others in that minute.

Tests: tests/asgi/test_history_endpoint.py.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from ..core.history import Sample
from ..core.labels import OTHER

TYPE: Final = b"text/csv; charset=utf-8; header=present"
DISPOSITION: Final = (b"content-disposition", b'attachment; filename="headcount-history.csv"')

MAX_COLUMNS: Final = 50
"""Versions with a column of their own: those with most connections in a minute. The rest is in that of `(other)`."""

_FORMULA: Final = ("=", "+", "-", "@")
"""With what a spreadsheet begins a formula. Strangers choose versions."""


def prefers_csv(accept: str) -> bool:
    """Say whether an Accept header asks for text/csv rather than for JSON, or has no preference but names it."""
    weights = {"text/csv": 0.0, "application/json": 0.0}
    for part in accept.lower().split(",")[:64]:
        name, *parameters = (word.strip() for word in part.split(";"))
        if name in weights:
            weights[name] = next((_weight(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
    return weights["text/csv"] > weights["application/json"]


def _weight(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0


def render(minutes: Sequence[Sample]) -> bytes:
    """Return the file. O(minutes * columns)."""
    most: Counter[str] = Counter()
    for each in minutes:
        most |= Counter(each.versions)
    had_others = most.pop(OTHER, 0) > 0
    versions = [version for version, _ in most.most_common(MAX_COLUMNS)]
    apart = frozenset(versions)
    others = [OTHER] if had_others or len(most) > len(versions) else []
    text = io.StringIO()
    writer = csv.writer(text)
    names = [f"version {version}" for version in (*versions, *others)]
    writer.writerow(["time", "total", "outdated", "current", "partial", *names])
    for each in minutes:
        rest = sum(count for version, count in each.versions.items() if version not in apart)
        absent = None if OTHER in each.versions else 0
        writer.writerow(
            [
                datetime.fromtimestamp(each.at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                each.total,
                each.outdated,
                None if each.current is None else _cell(each.current),
                "yes" if each.partial else "no",
                *(each.versions.get(version, absent) for version in versions),
                *(rest for _ in others),
            ]
        )
    return text.getvalue().encode()


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
