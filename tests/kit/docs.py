"""What tests read from the pages of the documentation, above all their code, which they run word for word."""

import re
from typing import NamedTuple

from .programs import ROOT

DOCS = ROOT / "docs"


class Block(NamedTuple):
    """A code block of a page of the docs."""

    page: str
    language: str
    code: str

    @property
    def name(self) -> str:
        """For test ids."""
        return f"{self.page}-{self.language}-{self.code.strip().splitlines()[0][:30]}"


def blocks(*pages: str) -> list[Block]:
    """Return all code blocks of some pages of the docs."""
    return [Block(page, *pair) for page in pages for pair in _blocks((DOCS / page).read_text("utf-8"))]


def code_in(text: str, *languages: str) -> list[str]:
    """Return the code blocks of a text that are in one of these languages."""
    return [block for language, block in _blocks(text) if language in languages]


def section_of(page: str, heading: str) -> str:
    """
    Return what stands under a heading of the second level.

    Args:
        page: Path of the page in the repository.
        heading: How it begins.
    """
    _, found, rest = (ROOT / page).read_text("utf-8").partition(f"\n## {heading}")
    assert found, f"{page} has no section {heading!r}"
    return rest.partition("\n## ")[0]


def _blocks(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
