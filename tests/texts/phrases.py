"""Phrases that a reader must read twice, and what to write instead. `tests/test_texts.py` looks for them."""

import re
from typing import Final

PHRASES: Final = {
    r"\bin a way that nobody thought of": "unexpected error",
    r"\bthe last time that this was said\b": "(3 similar messages suppressed)",
    r"\b(?:is|are|was|were|be|been|being) told\b": "the noun: message, setting, value; or 'receives', 'is informed'",
    r"\btells? (?:that|which|of|whether)\b": "says, reports",
    r"\bwhose word\b": "trusted, believed",
    r"\bthat there (?:is|are) not\b": "unknown",
    r"\b(?:an?other|quite another) thing\b": "different",
    r"\bthe share of (?:a|some|the) node\b|\bshare is missing\b": "figures are partial; a node is missing",
    r"\bby why\b": "by reason",
    r"\bYour right\b": "You may (not)",
    r"\bis given whole\b": "is the full path",
    r"\b(?:he|him|his|himself)\b": "they, them, their",
    r"\bSee above\b": "the fact itself",
    r"\boftener\b": "more often",
    r"\bcome again\b": "try again",
    r"\b(?:is|are) no (?:URL|JSON|message|address|duration|header|bound|list|key|cookies)\b": "is not a(n) …",
    r"\bfor whoever\b|\bto who\b|\bfor who\b": "for those who",
    r"\bcounted apart\b|\btold apart\b": "counted separately, listed separately",
    r"\bcannot be told\b": "is not known yet",
    r"\bno word (?:on|of)\b|\bwithout a word\b": "unknown; silently",
    r"\b(?:or|and) the like\b": "the thing itself; such as …",
    r"\btaken for\b": "counts as, is treated as",
    r"\bgo(?:es)? on (?:trying|when|with|until)\b": "continues, keeps trying",
    r"\bwhoever\b": "the noun: the site, the server, the user",
    r"\bnow and then\b": "from time to time; better: how often",
    r"\bthe present (?:one|pace|rate|route|version)\b": "the current …",
    r"\bthe house\b": "the project, the code",
}
"""`{regular expression: what to write instead}`; looked for without regard to case."""


def phrases_in(text: str) -> list[str]:
    """Return a sentence for each phrase that the text should not use."""
    return [
        f"{found[0]!r} in: {text.strip()} (write: {instead})"
        for phrase, instead in PHRASES.items()
        if (found := re.search(phrase, text, re.IGNORECASE))
    ]
