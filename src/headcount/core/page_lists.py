"""
Which pages a node had when it wrote its tally: what a page must prove that came back.

A handle proves that its stream was there once. Anybody can collect handles of streams that they closed long ago, and
one page can be on another version when it returns. So a node writes, beside its tally, a mark of each page that the
tally counts, and under which version. A mark is a part of the public id: four bytes, so that any closed stream
is taken for an open one once in 400,000 times, at a node with 10,000 pages.

    number of the list, which the tally names · {version: marks} of open pages · the same of those told to go away

A list that is too long is not written. Then, and for nodes that write none, each handle proves one page.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Annotated, Final, NamedTuple

import msgspec

from .fleet_messages import Version

MAX_PAGES: Final = 32_768
"""Pages of one list."""

MARK_BYTES: Final = 4
_MARK: Final = 2 * MARK_BYTES
"""Characters of the mark in the id, which is hexadecimal."""

_MARKS_AT_ONCE: Final = 1_000

MAX_LIST: Final = 2 * MAX_PAGES * MARK_BYTES + 16_384
"""Bytes of an encoded list."""

Marks = Annotated[dict[Version, bytes], msgspec.Meta(max_length=64)]


class PageList(msgspec.Struct, frozen=True, array_like=True):
    """The marks of a node's pages."""

    number: int
    open: Marks
    departed: Marks

    def versions(self, *, departed: bool) -> "PageVersions":
        """
        Return the versions of the pages that may come back.

        Args:
            departed: Only of those that were told to go away: the node lives, or has left, and counts no others.
        """
        found: dict[bytes, str] = {}
        for group in (self.departed,) if departed else (self.open, self.departed):
            for version, marks in group.items():
                for at in range(0, len(marks) - MARK_BYTES + 1, MARK_BYTES):
                    found[marks[at : at + MARK_BYTES]] = version
        return PageVersions(found)


class PageVersions(NamedTuple):
    """The versions of pages by their marks."""

    by_mark: Mapping[bytes, str]

    def of(self, public: str) -> str | None:
        """Return the version that a page is counted under; None: it is not counted."""
        try:
            return self.by_mark.get(bytes.fromhex(public[-_MARK:]))
        except ValueError:  # no id that a node makes
            return None


def marks(ids: Iterable[str]) -> bytes:
    """Return the marks of public ids, without those of ids that no node makes. About 60 ns an id."""
    found = bytearray()
    rest = iter(ids)
    # A part at a time: the texts of 100,000 pages would be megabytes, which the process then keeps.
    while parts := [public[-_MARK:] for public in islice(rest, _MARKS_AT_ONCE)]:
        found += _marks(parts)
    return bytes(found)


def _marks(parts: list[str]) -> bytes:
    text = "".join(parts)
    try:
        if len(text) == _MARK * len(parts):
            return bytes.fromhex(text)
    except ValueError:
        pass
    return bytes.fromhex("".join(part for part in parts if _is_mark(part)))


def _is_mark(text: str) -> bool:
    return len(text) == _MARK and not text.strip("0123456789abcdef")


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PageList).decode


def encode(pages: PageList) -> bytes | None:
    """Encode a list. Returns None if it is too long."""
    count = sum(len(marks) for group in (pages.open, pages.departed) for marks in group.values())
    return _encode(pages) if count <= MAX_PAGES * MARK_BYTES else None


def decode(data: bytes) -> PageList | None:
    """Decode a list. Returns None for one that is malformed or too long."""
    if len(data) > MAX_LIST:
        return None
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
