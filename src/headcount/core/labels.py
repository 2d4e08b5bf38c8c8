"""
Labels that visitors send: versions and routes.

A label becomes a map key in every viewer's page, a row in a table, a word in a terminal and a metric label. So it is
bounded, holds no control characters (terminals obey them, logs break on them), no line or paragraph separators (logs
break on those, too), no unpaired surrogates (they cannot be encoded as UTF-8), and nothing that turns the direction of
the text round it.

Operators decide by versions, so a version must not look like another one either: it holds visible characters only,
in one of several ways to write them (NFKC), and single spaces between them. `(other)` and `unknown` are ours. What is
left are letters of one script that look like those of another. A route is what the address bar shows, which may hold
joiners and marks that scripts need.

Everything else, even `__proto__`, is an ordinary label.

Source: protocol/README.md#opening-a-stream; the characters in protocol/fixtures/labels.json
"""

import re
import unicodedata
from typing import Final

from ..errors import Malformed

MAX_VERSION: Final = 128
"""Characters."""

MAX_ROUTE: Final = 512
"""Characters, counted after query and fragment are dropped."""

UNKNOWN: Final = "unknown"
"""The version of a connection that did not say. Never the server's: a silent client is not a current one."""

OTHER: Final = "(other)"
"""What labels beyond the limit are counted under."""

ROOT: Final = "/"

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_INVISIBLE = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""What `str.isprintable` lets pass although it shows nothing: the default-ignorable marks and letters, and a blank."""


def may_be_shown(text: str) -> bool:
    """Say whether a text holds none of the characters that no label may have."""
    return text.isprintable() or _FORBIDDEN.search(text) is None  # the first, which nearly always holds, takes less


def parse_version(raw: str) -> str:
    """
    Check a version that another process names.

    Args:
        raw: As it came, percent-decoded.

    Returns:
        The version, 1-128 characters, or `unknown` when `raw` is empty or says so.

    Raises:
        Malformed: Too long, reserved, or with characters that cannot be seen.
    """
    if not raw:
        return UNKNOWN
    if len(raw) > MAX_VERSION:
        raise Malformed(f"The version has {len(raw)} characters; send a build id of at most {MAX_VERSION}.")
    if not raw.isprintable() or _INVISIBLE.search(raw):
        wrong = next(c for c in raw if not c.isprintable() or _INVISIBLE.match(c))
        raise Malformed(
            f"The version contains a character that cannot be seen, U+{ord(wrong):04X}; send a build id of visible "
            "characters."
        )
    if raw[0] == " " or raw[-1] == " " or "  " in raw:
        raise Malformed("The version begins or ends with a space, or has two in a row; send a build id without them.")
    if not raw.isascii():
        if unicodedata.category(raw[0])[0] == "M":
            raise Malformed("The version begins with a combining character; begin it with a letter or a digit.")
        if not unicodedata.is_normalized("NFKC", raw):
            raise Malformed("The version is not in Unicode form NFKC; normalise it before you send it.")
    folded = raw.casefold()
    if folded == OTHER:
        raise Malformed(f"The version is {OTHER}, which stands for versions without a count; send a build id.")
    return UNKNOWN if folded == UNKNOWN else raw


def parse_claimed_version(raw: str) -> str:
    """
    Check the build id that a page said it runs.

    Returns:
        The version; "" when the page did not say, or said that it is `unknown`: then its cookie decides.

    Raises:
        Malformed: As in `parse_version`.
    """
    version = parse_version(raw)
    return "" if version == UNKNOWN else version


def parse_build_id(raw: str) -> str:
    """
    Check a version that an operator names, which is never `unknown`.

    Raises:
        Malformed: As in `parse_version`, or it is empty or `unknown`.
    """
    version = parse_version(raw)
    if version == UNKNOWN:
        raise Malformed(f"The version is empty or '{UNKNOWN}'; send the build id of a deploy.")
    return version


def is_version(text: str) -> bool:
    """Say whether a text is a version that pages may be counted under, or `unknown`."""
    try:
        return parse_version(text) == text
    except Malformed:
        return False


def parse_route(raw: str) -> str:
    """
    Check the path that a page says it shows.

    Args:
        raw: As it came, percent-decoded. Query and fragment may be there and are dropped, because they carry search
            terms, tokens and mail addresses that no viewer should see.

    Returns:
        The route, 1-512 characters; `/` when `raw` is empty or holds a query or fragment only.

    Raises:
        Malformed: Too long, reserved, with control characters, or with some that turn the direction of text.
    """
    if "?" in raw:
        raw = raw[: raw.index("?")]
    if "#" in raw:
        raw = raw[: raw.index("#")]
    if not raw:
        return ROOT
    if len(raw) > MAX_ROUTE:
        raise Malformed(f"The route has {len(raw)} characters; send a path of at most {MAX_ROUTE}.")
    if raw == OTHER:
        raise Malformed(f"The route is {OTHER}, which stands for routes without a count; send a path.")
    if not may_be_shown(raw):
        raise Malformed("The route contains a control character; send the path as the address bar shows it.")
    return raw
