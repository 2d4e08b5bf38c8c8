"""Where a server is: what people write after a command, made into the URL of its base path."""

from typing import Final
from urllib.parse import urlsplit, urlunsplit

from ..errors import ConfigError

DEFAULT_BASE_PATH: Final = "/__skew"


def base_url(url: str, base_path: str | None = None) -> str:
    """
    Return the URL below which the endpoints are, without a slash at its end.

    Args:
        url: Of the application or of the base path itself: `https://www.example.com`, `https://www.example.com/__skew`,
            `localhost:8000`. Without a scheme it is https, but for this machine, where it is http. ws and wss are
            taken for http and https.
        base_path: Where the endpoints are below `url`. None: `url` says so, and if it has no path, `/__skew`.

    Raises:
        ConfigError: It is no such URL.
    """
    text = url.strip()
    if text.removeprefix(":").isdigit():
        # As a host it would be an IPv4 address that nobody means.
        raise ConfigError(
            f"{url!r} is no URL of a server but a port; write it as http://localhost:{text.removeprefix(':')}."
        )
    if "://" not in text:
        text = f"{'http' if is_local(urlsplit('//' + text).hostname) else 'https'}://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is no URL ({error}); write it as https://www.example.com.") from None
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(f"{url!r} is no URL of a server; write it as https://www.example.com.")
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
    """Say whether a host name or address is this machine's own by its looks; nothing is resolved."""
    return host is not None and (host in ("localhost", "::1") or host.endswith(".localhost") or host.startswith("127."))
