"""
Inner requests that the application answered in Headcount's place: why, and what to do.

Such an answer denies the viewer. It is right for a visitor without a session, and a mistake in the set-up for everybody
else; without a line in the log the two look alike.

Tests: tests/authorization/test_refusal_log.py, tests/integrations/test_wrapped_frameworks.py.
"""

import logging
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

logger = logging.getLogger("headcount")

_MAX_LOCATION: Final = 200
"""Characters of a redirect's target in the log. Its query is left out: it may hold what belongs to the visitor."""


class InnerResponse(NamedTuple):
    """How the application answered: the status, and Location of a redirect."""

    status: int
    location: str = ""


class RefusalLog:
    """
    Logs each kind of refusal once.

    Args:
        base_path: Of Headcount, for the advice.
    """

    def __init__(self, base_path: str) -> None:
        self._base_path = base_path
        self._logged: set[str] = set()

    def note(self, path: str, scheme: str, response: InnerResponse) -> None:
        """
        Log a refusal, unless one of its kind was logged before.

        Args:
            path: Of the inner request.
            scheme: Of the inner request.
            response: What the application answered.
        """
        kind = kind_of(path, scheme, response)
        if kind in self._logged:
            return
        self._logged.add(kind)
        what = f"status {response.status}"
        if response.location:
            target = _split(response.location)._replace(query="", fragment="").geturl()
            what += f" and a redirect to {target[:_MAX_LOCATION]!r}"
        logger.warning(
            "A viewer was denied before authorize_stats was called: the application answered Headcount's request for "
            "%s with %s. %s Each process logs this once.",
            path,
            what,
            _ADVICE[kind].format(base=self._base_path),
        )


def kind_of(path: str, scheme: str, response: InnerResponse) -> str:
    """Return which kind of refusal it is, a key of the advice."""
    status = response.status
    if 300 <= status < 400:
        target = _split(response.location)
        same_path = target.path.rstrip("/") == path.rstrip("/")
        if same_path and target.scheme == "https" and scheme != "https":
            return "tls"
        return "slash" if same_path and target.path != path else "redirect"
    if status in (400, 401, 403, 404):
        return {400: "host", 404: "route"}.get(status, "denied")
    return "error" if status >= 500 else "other"


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # no URL: the application's mistake
        return SplitResult("", "", "", "", "")


_ADVICE: Final = {
    "tls": "It takes the request for one without TLS. Let the proxy send X-Forwarded-Proto: https, and let the "
    "application trust it (Django: SECURE_PROXY_SSL_HEADER), or exempt {base}/ from the redirect (Django: "
    "SECURE_REDIRECT_EXEMPT).",
    "slash": "It adds or removes a slash at the end of paths; exempt {base}/ from that.",
    "redirect": "Expected for visitors who are not signed in. If signed-in users are redirected, too, exempt {base}/.",
    "host": "It may not accept the Host header of the request; check which hosts it allows (Django: ALLOWED_HOSTS).",
    "denied": "Expected for visitors whom the application's own middleware refuses. If it refuses others, too, such as "
    "those without a CSRF token, exempt {base}/ from that check.",
    "route": "Headcount seems to be mounted at another path than base_path, or a route before it matches {base}/.",
    "error": "The application's log has the error.",
    "other": "Let the application pass GET requests below {base}/ on to Headcount.",
}
