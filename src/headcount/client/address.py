"""
Makes the URL of the base path out of the URL that a user gives.

Tests: tests/client/test_small_parts.py.
"""

from typing import Final
from urllib.parse import urlsplit, urlunsplit

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
        raise ConfigError(f"{url!r} is not a URL ({error}); write it as https://www.example.com.") from None
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(f"{url!r} is not the URL of a server; write it as https://www.example.com.")
    path = parts.path.rstrip("/")
    if base_path is not None:
        if not base_path.startswith("/") or base_path != base_path.rstrip("/") or "?" in base_path:
            raise ConfigError(
                f"base_path is {base_path!r}; write it with a leading and no trailing slash, such as /__skew."
            )
        if not path.endswith(base_path):
            path += base_path
    return urlunsplit((scheme, parts.netloc, path or DEFAULT_BASE_PATH, "", ""))


def is_local(host: str | None) -> bool:
    """Return whether a host is this machine by its name or address; nothing is resolved."""
    return host is not None and (host in ("localhost", "::1") or host.endswith(".localhost") or host.startswith("127."))
