"""Which strings read like a sentence for people."""

import re
from typing import Final

_WORDS: Final = re.compile(r"(?:^|[\s(\"'“])[A-Za-z][a-z']*[,;:.]? +(?:[a-z]{2,}|[A-Z0-9{%])")
_CODE: Final = re.compile(
    r"^\s*(?:[.#@<]|--[a-z-]+:|\(\?|redis\.call|local |return |SELECT |INSERT |DELETE |CREATE |\{\"|[a-z-]+: |"
    r"use client)"
)

_STYLES: Final = re.compile(r"\{\s*[a-z-]+: [^}]*; ")


def reads_like_a_sentence(text: str) -> bool:
    """Say whether the text has words of English after one another and is no code, style sheet, markup or header."""
    words = re.sub(r"\$?\{.*?\}", "", text) if "\n" not in text else text
    return bool(_WORDS.search(text) and re.search("[A-Za-z]{2}", words)) and not (
        _CODE.match(text) or _STYLES.search(text)
    )
