"""
Every setting: its default, unit, environment variable, and what is wrong with a wrong one, in a sentence.

A setting given in Python wins over `HEADCOUNT_<NAME>`, which wins over the default. The environment is read when a
`Headcount` is made, never at import.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from .core.address import IPNetwork
from .core.labels import parse_version
from .errors import ConfigError, Malformed

VERSION_VARIABLES: Final = (
    "GIT_SHA",
    "GITHUB_SHA",
    "CI_COMMIT_SHA",
    "SOURCE_VERSION",
    "RENDER_GIT_COMMIT",
    "RAILWAY_GIT_COMMIT_SHA",
    "VERCEL_GIT_COMMIT_SHA",
    "HEROKU_SLUG_COMMIT",
    "K_REVISION",
)
"""Where CI systems and platforms put the commit, in the order in which they are asked."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The settings of one `Headcount`. Durations are seconds.

    Raises:
        ConfigError: From `load`; a value is missing or out of range.
    """

    version: str
    """Build id of this server's code, 1-128 characters."""

    update_strategy: Literal["sse", "ws", "auto"] = "sse"
    """What clients are told to use; both endpoints are always served."""

    connection_tracking: bool = True
    """Off, streams stay open for messages, and nothing is counted."""

    route_tracking: bool = False
    """Count which route each connection is on."""

    ip_tracking: bool | Literal["anonymized"] = False
    """Keep client addresses and show them to viewers; `anonymized` cuts them to /24 and /48."""

    base_path: str = "/__skew"
    """Where the endpoints are."""

    cookie: str | bool = "__nkpv"
    """Name of the version cookie; False: none is read."""

    backend: str = "memory"
    """How nodes find one another. `memory`: this process is alone."""

    admin_token: str | None = None
    """A bearer token that authorises, beside the hook."""

    authorize_url: str | None = None
    """A URL that is asked whether a viewer may watch; it gets the viewer's cookies and Authorization, 2xx allows."""

    allowed_origins: tuple[str, ...] = ()
    """Other origins whose pages may connect, such as https://www.example.com; `*` allows all."""

    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose word about the client's address is taken; `*` trusts every peer."""

    stats_interval: float = 0.25
    """Shortest time between two pushes to viewers; the first change after a quiet time goes out at once."""

    keepalive_interval: float = 20.0
    """Longest silence on a stream."""

    peer_timeout: float | None = 30.0
    """
    How long sent bytes may stay unacknowledged before the kernel gives the peer up (TCP_USER_TIMEOUT, Linux). It is set
    on the server's listening socket, so it holds for all its connections; None leaves sockets alone, and a peer whose
    cable was pulled then stays in the figures for up to a quarter of an hour.
    """

    send_timeout: float = 10.0
    """A peer that does not read for this long is dropped."""

    authorize_timeout: float = 10.0
    """A hook that takes longer means no."""

    reauthorize_interval: float = 60.0
    """How often a viewer's right is asked for again, at most 60."""

    viewer_timeout: float = 10.0
    """A `viewer=1` connection without a right is closed after this long."""

    hook_timeout: float = 30.0
    """An asynchronous hook that takes longer is cancelled."""

    body_timeout: float = 10.0
    """The body of a POST must have arrived after this long."""

    reconnect_spread: float = 5.0
    """Clients of a draining server come back spread over this long."""

    max_connections: int | None = None
    """Streams of this process; more are answered 503, WebSockets 1013."""

    max_listed_connections: int = 1_000
    """Rows in a snapshot; totals and maps are always whole."""

    max_versions: int = 1_000
    """Versions counted apart; the rest under `(other)`."""

    max_routes: int = 10_000
    """Routes counted apart; the rest under `(other)`."""

    max_queued_messages: int = 64
    """Application messages that wait for a peer that does not read; one more drops the peer."""

    @classmethod
    def load(cls, settings: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> "Config":
        """
        Make a checked configuration.

        Args:
            settings: What the caller gave; None counts as not given, but for `peer_timeout`, where it is a value.
            environ: Defaults to the process's environment.

        Raises:
            ConfigError: With a sentence that names the setting.
        """
        environ = os.environ if environ is None else environ
        for name in settings:
            if name not in cls.__struct_fields__:
                raise ConfigError(
                    f"There is no setting called {name}. The settings are: {', '.join(sorted(cls.__struct_fields__))}."
                )
        values: dict[str, Any] = {}
        for name in cls.__struct_fields__:
            if settings.get(name) is not None or (name == "peer_timeout" and name in settings):
                values[name] = _plain(name, settings[name])
            elif (text := environ.get(f"HEADCOUNT_{name.upper()}")) is not None:
                values[name] = _from_text(name, text)
        if "version" not in values:
            values["version"] = _version_from(environ)
        try:
            config = msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"A setting is wrong: {error}.") from None
        config.check()
        return config

    def networks(self) -> tuple[IPNetwork, ...]:
        """Return `trusted_proxies` as networks; `*` is every network."""
        if "*" in self.trusted_proxies:
            return (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
        return tuple(ipaddress.ip_network(proxy, strict=False) for proxy in self.trusted_proxies)

    def check(self) -> None:
        """
        Check what types cannot say.

        Raises:
            ConfigError: In a sentence.
        """
        if not self.version:
            raise ConfigError("version is empty; give the build id that this server runs.")
        try:
            parse_version(self.version)
        except Malformed as error:
            raise ConfigError(f"version: {error}") from None
        if not self.base_path.startswith("/") or self.base_path.endswith("/") or "?" in self.base_path:
            raise ConfigError(
                f"base_path is {self.base_path!r}; write it with a leading and no trailing slash, such as /__skew."
            )
        if self.cookie is True or (
            isinstance(self.cookie, str)
            and (not self.cookie.isascii() or not self.cookie.replace("_", "a").replace("-", "a").isalnum())
        ):
            raise ConfigError(f"cookie is {self.cookie!r}; use letters, digits, - and _ only, or False for none.")
        if self.backend != "memory":
            raise ConfigError(
                f"backend is {self.backend!r}; this release counts one process: leave it out or write 'memory'."
            )
        for name in (
            "stats_interval",
            "keepalive_interval",
            "send_timeout",
            "authorize_timeout",
            "viewer_timeout",
            "hook_timeout",
            "body_timeout",
        ):
            if not 0 < getattr(self, name) < 86_400:
                raise ConfigError(f"{name} is {getattr(self, name)}; give seconds, more than 0 and less than a day.")
        if not 0 < self.reauthorize_interval <= 60:
            raise ConfigError(
                f"reauthorize_interval is {self.reauthorize_interval}; rights are re-checked at least every 60 s."
            )
        if not 0 <= self.reconnect_spread <= 3_600:
            raise ConfigError(f"reconnect_spread is {self.reconnect_spread}; give 0 to 3600 seconds.")
        if self.peer_timeout is not None and not 1 <= self.peer_timeout <= 3_600:
            raise ConfigError(f"peer_timeout is {self.peer_timeout}; give 1 to 3600 seconds, or None.")
        for name in ("max_connections", "max_listed_connections", "max_versions", "max_routes", "max_queued_messages"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; give at least 1.")
        if self.admin_token is not None and not self.admin_token.strip():
            raise ConfigError("admin_token is empty; leave it out, or make one with: openssl rand -hex 24.")
        if self.authorize_url is not None and not _is_url(self.authorize_url):
            raise ConfigError(f"authorize_url is {self.authorize_url!r}; give an http:// or https:// URL.")
        for origin in self.allowed_origins:
            if origin != "*" and (not _ORIGIN.fullmatch(origin) or _DEFAULT_PORT.fullmatch(origin)):
                raise ConfigError(
                    f"allowed_origins has {origin!r}; write it as browsers do, such as https://www.example.com: scheme "
                    "and host only, in lower case, and a port only when it is not the scheme's own."
                )
        try:
            self.networks()
        except ValueError as error:
            raise ConfigError(f"trusted_proxies: {error}; write addresses or networks such as 10.0.0.0/8.") from None


_LISTS: Final = ("allowed_origins", "trusted_proxies")

# Origins are compared as strings, so one that no browser ever sends would be allowed in vain.
_ORIGIN: Final = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_DEFAULT_PORT: Final = re.compile(r"http:.*:80|https:.*:443")


def _plain(name: str, value: Any) -> Any:
    if name in _LISTS:
        # A single origin as a plain string is a mistake everybody makes once; characters are never meant.
        return (value,) if isinstance(value, str) else value
    return value


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _from_text(name: str, text: str) -> Any:
    if name in _LISTS:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if name == "cookie" and text.lower() in ("false", "0", "no", "off", ""):
        return False
    lowered = text.lower()
    if name == "peer_timeout" and lowered == "none":
        return None
    if name in ("connection_tracking", "route_tracking", "ip_tracking"):
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("0", "false", "no", "off", ""):
            return False
    return text


def _version_from(environ: Mapping[str, str]) -> str:
    for name in VERSION_VARIABLES:
        if environ.get(name):
            return environ[name]
    raise ConfigError(
        "No version is known. Pass Headcount(version=…) or set HEADCOUNT_VERSION to the build id of this deploy, for "
        "example the commit: HEADCOUNT_VERSION=$(git rev-parse --short HEAD)."
    )
