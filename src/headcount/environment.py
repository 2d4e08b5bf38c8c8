"""
`HEADCOUNT_*` in the environment: what a variable is called, what its text means, and which ones nobody reads.

A variable that nobody reads is nearly always a misspelt one, whose setting then silently keeps its default. It is said
once, and is no error: several programs may share an environment, and one of them may be newer.
"""

import difflib
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

PREFIX: Final = "HEADCOUNT_"

COMMAND_VARIABLES: Final = frozenset(
    PREFIX + name
    for name in (
        "BELOW",
        "CA_FILE",
        "CONNECTIONS",
        "COOKIES",
        "DEPLOY_EVERY",
        "DURATION",
        "FOR",
        "HEADER",
        "HOLD",
        "HOST",
        "INSECURE",
        "JSON",
        "LIMIT",
        "LIST",
        "LOST_AFTER",
        "NAVIGATE",
        "NOT_VERSION",
        "OPEN",
        "OUTDATED",
        "PORT",
        "PROXY",
        "RATE",
        "RECONNECT",
        "RELEASE",
        "RELEASE_AFTER",
        "RELOAD_WITHIN",
        "ROUTES",
        "SEED",
        "TIMEOUT",
        "TOKEN",
        "URL",
        "VERSIONS",
        "VISITORS",
        "WORKERS",
        "YES",
    )
)
"""Read by options of the command line that are no settings. Here, because an application does not import those."""

# What Kubernetes puts into every container beside a service whose name begins with "headcount".
_OF_A_SERVICE: Final = re.compile(
    PREFIX + r"(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

_said: set[str] = set()

logger = logging.getLogger("headcount")


def variable_of(setting: str) -> str:
    """Return the variable that holds a setting."""
    return PREFIX + setting.upper()


def from_text(setting: str, text: str) -> Any:
    """Return what a text means as the value of a setting; the text itself when it needs no translation or has none."""
    lowered = text.lower()
    match setting:
        case "allowed_origins" | "trusted_proxies":
            return tuple(part.strip() for part in text.split(",") if part.strip())
        case "cookie" if lowered in ("false", "0", "no", "off", ""):
            return False
        case "peer_timeout" if lowered == "none":
            return None
        case "connection_tracking" | "route_tracking" | "ip_tracking":
            if lowered in ("1", "true", "yes", "on"):
                return True
            if lowered in ("0", "false", "no", "off", ""):
                return False
            return lowered if lowered == "anonymized" else text
    return text


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """
    Return how a sentence about a wrong name ends: `; did you mean a or b?`, or a full stop when nothing is close.

    Args:
        name: The wrong one.
        known: The right ones.
        prefix: What all of them begin with; compared without it, because it would make all of them alike.
    """
    short = [other.removeprefix(prefix) for other in known]
    close = difflib.get_close_matches(name.removeprefix(prefix), short, n=2, cutoff=0.75)
    return f"; did you mean {' or '.join(prefix + other for other in close)}?" if close else "."


def warn_of_unknown(environ: Mapping[str, str], settings: Iterable[str]) -> None:
    """
    Log a warning about each variable of ours that nobody reads, once in this process.

    Args:
        environ: Where to look.
        settings: The names of all settings.
    """
    known = COMMAND_VARIABLES.union(map(variable_of, settings))
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in known or variable in _said:
            continue
        if _OF_A_SERVICE.fullmatch(variable):
            continue
        _said.add(variable)
        hint = did_you_mean(variable, sorted(known), PREFIX)
        logger.warning("Headcount knows no variable %s and ignores it%s", variable, hint)
