"""
`HEADCOUNT_*` in the environment: the name of a setting's variable, the value of its text, and unknown variables.

An unknown variable is nearly always a misspelt one, and its setting keeps the default. Each process logs it once.
It is not an error: several programs may share an environment, and one of them may be newer.
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
        "ABORT",
        "BELOW",
        "CA_FILE",
        "CONNECTIONS",
        "COOKIES",
        "CSV",
        "DEPLOY_EVERY",
        "DETACH",
        "DRY_RUN",
        "DURATION",
        "FOR",
        "HEADER",
        "HOLD",
        "HOST",
        "INCLUDE_AWAY",
        "INSECURE",
        "JSON",
        "KEEP",
        "LIMIT",
        "LIST",
        "LOST_AFTER",
        "MIN_AGE",
        "MESSAGE",
        "NAVIGATE",
        "NOT_VERSION",
        "OF",
        "OPEN",
        "OUTDATED",
        "OVER",
        "PAUSE",
        "PERCENT",
        "PORT",
        "PROXY",
        "REQUIRE_SEEN",
        "QUICK",
        "RATE",
        "RECONNECT",
        "RELEASE",
        "RELEASE_AFTER",
        "RELOAD_WITHIN",
        "RESUME",
        "ROUTE",
        "ROUTES",
        "SEED",
        "TIMEOUT",
        "TOKEN",
        "UNSERVED",
        "URL",
        "VERSIONS",
        "VISITORS",
        "WAIT",
        "WHEN_SETTLED",
        "WORKERS",
        "YES",
    )
)
"""Variables of command line options that are not settings. They are listed here: an application does not import cli."""

# Kubernetes sets these in every container of a namespace with a Service whose name begins with "headcount".
_KUBERNETES_SERVICE: Final = re.compile(
    PREFIX + r"(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

_warned: set[str] = set()

logger = logging.getLogger("headcount")


def variable_of(setting: str) -> str:
    """Return the name of a setting's variable."""
    return PREFIX + setting.upper()


def from_text(setting: str, text: str) -> Any:
    """Return the value of a setting that is given as text. A text that is not understood is returned as it is."""
    lowered = text.lower()
    match setting:
        case (
            "authorize_headers"
            | "allowed_origins"
            | "public_origins"
            | "allowed_hosts"
            | "trusted_proxies"
            | "known_versions"
        ):
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
    Return the end of a sentence about an unknown name: `; did you mean a or b?`, or a full stop if no name is close.

    Args:
        name: The unknown name.
        known: The known names.
        prefix: A prefix of all names. It is left out of the comparison, because it makes all names similar.
    """
    short = [other.removeprefix(prefix) for other in known]
    close = difflib.get_close_matches(name.removeprefix(prefix), short, n=2, cutoff=0.75)
    return f"; did you mean {' or '.join(prefix + other for other in close)}?" if close else "."


def warn_of_unknown(environ: Mapping[str, str], settings: Iterable[str]) -> None:
    """
    Log a warning about each unknown HEADCOUNT_* variable, once in this process.

    Args:
        environ: The environment.
        settings: The names of all settings.
    """
    known = COMMAND_VARIABLES.union(map(variable_of, settings))
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in known or variable in _warned:
            continue
        if _KUBERNETES_SERVICE.fullmatch(variable):
            continue
        _warned.add(variable)
        hint = did_you_mean(variable, sorted(known), PREFIX)
        logger.warning("Unknown environment variable %s is ignored%s", variable, hint)
