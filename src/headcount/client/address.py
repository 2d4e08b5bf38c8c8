"""
Makes the URL of the base path out of the URL that a user gives.

Tests: tests/client/test_small_parts.py.
"""

import re
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from ..errors import ConfigError

DEFAULT_BASE_PATH: Final = "/__skew"


def base_url(url: str, base_path: str | None = None) -> str:
    """
    Return the URL of the base path, without a slash at its end.

    Args:
        url: URL of the application or of the base path: `https://www.example.com`, `https://www.example.com/__skew`,
            `localhost:8000`. Without a scheme it is http for this machine, and https for others. ws and wss stand for
            http and https.
        base_path: Base path below `url`. None: the path of `url`, or `/__skew` if it has none.

    Raises:
        ConfigError: The URL or the base path is invalid.
    """
    text = url.strip()
    if text.removeprefix(":").isdigit():
        # As a host, a number would be an IPv4 address.
        raise ConfigError(f"{url!r} is a port, not a URL; write it as http://localhost:{text.removeprefix(':')}.")
    if "://" not in text:
        text = f"{'http' if is_local(urlsplit('//' + text).hostname) else 'https'}://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(
            f"{without_password(url)!r} is not a URL ({_reason(error, url)}); write it as https://www.example.com."
        ) from None
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(f"{without_password(url)!r} is not the URL of a server; write it as https://www.example.com.")
    path = parts.path.rstrip("/")
    if base_path is not None:
        if not base_path.startswith("/") or base_path != base_path.rstrip("/") or "?" in base_path:
            raise ConfigError(
                f"base_path is {base_path!r}; write it with a leading and no trailing slash, such as /__skew."
            )
        if not path.endswith(base_path):
            path += base_path
    return urlunsplit((scheme, parts.netloc, path or DEFAULT_BASE_PATH, "", ""))


def without_password(url: str) -> str:
    """Return a URL without user and password, for sentences; also one that is not valid."""
    return _USER.sub("…@", url)


def split_user(url: str) -> tuple[str, str]:
    """Return a URL without user and password, and these, decoded, as `user:password`; "": there are none."""
    found = _USER.search(url)
    return (url, "") if found is None else (_USER.sub("", url), unquote(found[0].removesuffix("@")))


# Up to the last @ before the path: a password with an @ that is not escaped must not be shown either.
_USER: Final = re.compile(r"(?:(?<=://)|^(?![a-z]+://))[^/?#]*@", re.IGNORECASE)


def _reason(error: ValueError, url: str) -> str:
    """Return why a URL is not one; the reason may quote a piece of a password."""
    return "it cannot be read" if _USER.search(url) else str(error)


def is_local(host: str | None) -> bool:
    """Return whether a host is this machine by its name or address; nothing is resolved."""
    return host is not None and (host in ("localhost", "::1") or host.endswith(".localhost") or host.startswith("127."))
