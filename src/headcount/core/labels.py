"""
Labels that strangers send: versions and routes.

A label becomes a map key in every viewer's page, a row in a table, a word in a terminal and a metric label. So it is
bounded, holds no control characters (terminals obey them, logs break on them), no line or paragraph separators (logs
break on those, too) and no unpaired surrogates (they cannot be encoded as UTF-8). Everything else, even `__proto__`, is
an ordinary label.

Source: protocol/README.md#opening-a-stream; the characters in protocol/fixtures/labels.json
"""

import re
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

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


def may_be_shown(text: str) -> bool:
    """Say whether a text holds none of the characters that labels may not have."""
    return text.isprintable() or _FORBIDDEN.search(text) is None  # the first, which nearly always holds, takes less


def parse_version(raw: str) -> str:
    """
    Check the build id that a page said it runs.

    Args:
        raw: As it came, percent-decoded.

    Returns:
        The version, 1-128 characters, or `unknown` when `raw` is empty.

    Raises:
        Malformed: Too long, or with control characters.
    """
    if not raw:
        return UNKNOWN
    if len(raw) > MAX_VERSION:
        raise Malformed(f"The version has {len(raw)} characters; send a build id of at most {MAX_VERSION}.")
    if not may_be_shown(raw):
        raise Malformed("The version contains a control character; send a build id without any.")
    return raw


def parse_route(raw: str) -> str:
    """
    Check the path that a page says it shows.

    Args:
        raw: As it came, percent-decoded. Query and fragment may be there and are dropped, because they carry search
            terms, tokens and mail addresses that no viewer should see.

    Returns:
        The route, 1-512 characters; `/` when `raw` is empty or holds a query or fragment only.

    Raises:
        Malformed: Too long, or with control characters.
    """
    if "?" in raw:
        raw = raw[: raw.index("?")]
    if "#" in raw:
        raw = raw[: raw.index("#")]
    if not raw:
        return ROOT
    if len(raw) > MAX_ROUTE:
        raise Malformed(f"The route has {len(raw)} characters; send a path of at most {MAX_ROUTE}.")
    if not may_be_shown(raw):
        raise Malformed("The route contains a control character; send the path as the address bar shows it.")
    return raw
