"""How commands write: JSON, tables, colours, and labels that strangers chose."""

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import click


def write_json(value: Any) -> None:
    """Write one JSON document, on one line when something else reads it."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(value, ensure_ascii=False, indent=indent))


def colours(stream: TextIO) -> bool:
    """Say whether to write in colour: on a terminal, unless NO_COLOR is set or TERM is dumb."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, stream: TextIO, **style: Any) -> str:
    """Style a text where colours are wanted."""
    return click.style(text, **style) if colours(stream) else text


def complain(sentence: str) -> None:
    """Say on the standard error what went wrong."""
    click.echo(wrapped(f"headcount: {sentence}", sys.stderr), err=True)


def wrapped(text: str, stream: TextIO) -> str:
    """Break a sentence between its words, on a terminal; elsewhere it stays one line."""
    if not stream.isatty():
        return text
    return click.wrap_text(text, max(40, shutil.get_terminal_size().columns))


def shown(label: str, width: int = 0) -> str:
    """
    Return a label fit for a terminal: nothing that it would obey, cut and filled up to `width` columns.

    Labels are what pages said about themselves, so they may hold marks that reverse the line or hide in it.
    """
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in label)
    if not width:
        return text
    columns, kept = 0, list[str]()
    for character in text:
        size = _columns(character)
        if columns + size > width:
            while kept and columns + 1 > width:
                columns -= _columns(kept.pop())
            kept.append("…")
            columns += 1
            break
        kept.append(character)
        columns += size
    return "".join(kept) + " " * (width - columns)


def counts_table(title: str, counts: Mapping[str, int], total: int, limit: int, width: int) -> list[str]:
    """Return lines that show the largest counts with their share and a bar, and how many are not shown."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [title]
    if not ranked:
        return [*lines, "  none"]
    label_width = max(12, min(44, width - 40, max(_width(shown(label)) for label, _ in ranked[:limit])))
    for label, count in ranked[:limit]:
        share = count / total if total else 0.0
        bar = "█" * round(share * 16)
        lines.append(f"  {shown(label, label_width)} {count:>8,} {share:>6.1%}  {bar}".rstrip())
    if len(ranked) > limit:
        rest = sum(count for _, count in ranked[limit:])
        lines.append(f"  {shown(f'{len(ranked) - limit:,} more', label_width)} {rest:>8,}")
    return lines


def table(head: Sequence[str], rows: Sequence[Sequence[str]], limits: Sequence[int] = ()) -> list[str]:
    """Return a table's lines; columns are as wide as they must be, and at most as `limits` says (0: no limit)."""
    widths = []
    for column, name in enumerate(head):
        widest = max([_width(name), *(_width(shown(row[column])) for row in rows)])
        limit = limits[column] if column < len(limits) else 0
        widths.append(min(widest, limit) if limit else widest)
    return [
        "  ".join(shown(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]


def span(seconds: float) -> str:
    """Return a duration as people say it: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = whole % 3_600 // 60
    return f"{whole // 3_600} h {minutes} min" if minutes else f"{whole // 3_600} h"


def _width(text: str) -> int:
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
