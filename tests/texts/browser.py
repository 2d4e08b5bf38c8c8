"""Texts of TypeScript, Vue and HTML: string literals that read like sentences, and what templates show."""

import re
from collections.abc import Iterator
from typing import Final

from .sentences import reads_like_a_sentence

_TOKEN: Final = re.compile(
    r"""
    //[^\n]* | /\*.*?\*/                                          # comments
    | (?<=[(,=:\[!&|?{};]) \s* /(?![*/])(?:\\.|\[(?:\\.|[^\]\n])*\]|[^/\\\n])+/[a-z]*   # a regular expression
    | (?P<single>'(?:\\.|[^'\\\n])*') | (?P<double>"(?:\\.|[^"\\\n])*")
    | (?P<template>`(?:\\.|\$\{(?:[^{}]|\{[^{}]*\})*\}|[^`\\])*`)
    """,
    re.DOTALL | re.VERBOSE,
)
_CAPITALISED: Final = re.compile(r"[A-Z][a-z]+(?: [a-z]+)*[.…]?")
_NOT_SHOWN: Final = {"Escape", "Enter", "Content", "Authorization", "Connection"}

_SHOWN_ATTRIBUTE: Final = re.compile(r'\s:?(?:aria-label|placeholder|label|title|alt)="([^"]*)"')
_INLINE: Final = re.compile(
    r"</?(?:a|abbr|b|button|code|em|i|kbd|small|span|strong|template|time)\b(?:\"[^\"]*\"|[^>\"])*>"
)
_OTHERWISE: Final = re.compile(r"</(template|small|span|p)>\s*<\1 v-else(?:-if=\"[^\"]*\")?[^>]*>")
_TAG: Final = re.compile(r"<!--.*?-->|<(?:\"[^\"]*\"|[^>\"])*>", re.DOTALL)


def texts_of_typescript(source: str) -> Iterator[str]:
    """Yield string and template literals that read like sentences."""
    for found in _TOKEN.finditer(source):
        literal = found["single"] or found["double"] or found["template"]
        text = (literal or "")[1:-1].replace("\\'", "'")
        if (reads_like_a_sentence(text) or _CAPITALISED.fullmatch(text)) and text not in _NOT_SHOWN:
            yield text


def texts_of_vue(source: str) -> Iterator[str]:
    """Yield what the template shows, then the literals of the script."""
    template = re.search(r"<template>(.*)</template>", source, re.DOTALL)
    if template:
        yield from texts_of_html(template[1])
    for script in re.findall(r"<script[^>]*>(.*?)</script>", source, re.DOTALL):
        yield from texts_of_typescript(script)


def texts_of_html(source: str) -> Iterator[str]:
    """Yield each block's text, inline elements dissolved in it, and the attributes that people read or hear."""
    source = re.sub(r"<(style|script)\b.*?</\1>", "", source, flags=re.DOTALL)
    source = re.sub(r"<!--.*?-->", "", source, flags=re.DOTALL)
    for attribute in _SHOWN_ATTRIBUTE.findall(source):
        is_expression = re.fullmatch(r"\w+(?:\.\w+)*|[^\w\s]+", attribute)
        if attribute[:1].isupper() or not is_expression:
            yield attribute
    source = _INLINE.sub("", _OTHERWISE.sub(" / ", source))
    for text in _TAG.sub("\n\n", source).split("\n\n"):
        shown = re.sub(r"\{\{.*?\}\}", "", text, flags=re.DOTALL)
        if re.search(r"[A-Za-z]{2}", shown) or reads_like_a_sentence(text):
            yield text
