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
from urllib.parse import parse_qsl, urlsplit

import msgspec

from .core.address import IPNetwork
from .core.labels import parse_version
from .environment import did_you_mean, from_text, variable_of, warn_of_unknown
from .errors import ConfigError, Malformed, NoVersion, WrongSetting

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

    backend: str = "auto"
    """
    How nodes find one another. `auto`: the workers of this machine, if there are several; `local`: the same, and a
    warning if they cannot be found; `memory`: this process is alone; `redis://…`: all machines that use that server.
    """

    fleet_name: str | None = None
    """What tells the nodes of this application from those of others on the same Redis; None: `base_path`."""

    admin_token: str | None = None
    """A bearer token that authorises, beside the hook."""

    metrics_token: str | None = None
    """A bearer token that may scrape `/metrics` and nothing else."""

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

    max_metric_labels: int = 50
    """Versions, and routes, that metrics tell apart; the rest under `(other)`."""

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
        known = cls.__struct_fields__
        for name in settings:
            if name not in known:
                raise ConfigError(
                    f"There is no setting called {name}{did_you_mean(name, known)} "
                    f"The settings are: {', '.join(sorted(known))}."
                )
        warn_of_unknown(environ, known)
        values: dict[str, Any] = {}
        variables: dict[str, str] = {}
        for name in known:
            variable = variable_of(name)
            if settings.get(name) is not None or (name == "peer_timeout" and name in settings):
                values[name] = _plain(name, settings[name])
            elif variable in environ:
                values[name], variables[name] = _plain(name, from_text(name, environ[variable])), variable
        if "version" not in values:
            values["version"], variables["version"] = _version_from(environ)
        try:
            return cls._checked(values)
        except WrongSetting as wrong:
            raise WrongSetting(wrong.setting, wrong.complaint, variables.get(wrong.setting)) from None

    @classmethod
    def _checked(cls, values: Mapping[str, Any]) -> "Config":
        converted: dict[str, Any] = {}
        for field in msgspec.structs.fields(cls):
            if field.name in values:
                try:
                    converted[field.name] = msgspec.convert(values[field.name], field.type, strict=False)
                except msgspec.ValidationError:
                    raise _wrong(field.name, values[field.name]) from None
        config = cls(**converted)
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
            WrongSetting: In a sentence.
        """
        if not self.version:
            raise WrongSetting("version", f"is empty; give {_TAKES['version']}.")
        try:
            parse_version(self.version)
        except Malformed:
            raise _wrong("version", self.version) from None
        if not _PATH.fullmatch(self.base_path):
            raise _wrong("base_path", self.base_path)
        if self.cookie is True or (isinstance(self.cookie, str) and not _COOKIE.fullmatch(self.cookie)):
            raise _wrong("cookie", self.cookie)
        if self.backend not in ("auto", "local", "memory") and not _is_store(self.backend):
            raise _wrong("backend", without_password(self.backend))
        if self.fleet_name is not None and not _FLEET_NAME.fullmatch(self.fleet_name):
            raise _wrong("fleet_name", self.fleet_name)
        for name in _DURATIONS:
            if not 0 < getattr(self, name) < 86_400:
                raise _wrong(name, getattr(self, name))
        if not 0 < self.reauthorize_interval <= 60:
            raise _wrong("reauthorize_interval", self.reauthorize_interval)
        if not 0 <= self.reconnect_spread <= 3_600:
            raise _wrong("reconnect_spread", self.reconnect_spread)
        if self.peer_timeout is not None and not 1 <= self.peer_timeout <= 3_600:
            raise _wrong("peer_timeout", self.peer_timeout)
        for name in _LIMITS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise _wrong(name, value)
        for name in _SECRETS:
            token = getattr(self, name)
            if token is not None and not token.strip():
                raise WrongSetting(name, f"is empty; leave it out, or give {_TAKES[name]}.")
            if token is not None and not token.isprintable():
                raise WrongSetting(name, f"has a line end or the like in it; give {_TAKES[name]}.")
        if self.authorize_url is not None and not _is_url(self.authorize_url):
            raise _wrong("authorize_url", self.authorize_url)
        for origin in self.allowed_origins:
            if origin != "*" and (not _ORIGIN.fullmatch(origin) or _DEFAULT_PORT.fullmatch(origin)):
                raise _wrong("allowed_origins", origin)
        for proxy in self.trusted_proxies:
            try:
                _ = proxy == "*" or ipaddress.ip_network(proxy, strict=False)
            except ValueError:
                raise _wrong("trusted_proxies", proxy) from None


REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
"""Of `backend` URLs."""

_FLEET_NAME: Final = re.compile(r"[A-Za-z0-9._/-]{1,64}")
_SECRETS: Final = ("admin_token", "metrics_token")

_DURATIONS: Final = (
    "stats_interval",
    "keepalive_interval",
    "send_timeout",
    "authorize_timeout",
    "viewer_timeout",
    "hook_timeout",
    "body_timeout",
)
_LIMITS: Final = (
    "max_connections",
    "max_listed_connections",
    "max_versions",
    "max_routes",
    "max_queued_messages",
    "max_metric_labels",
)

_TAKES: Final[Mapping[str, str]] = {
    "version": "the build id of this server's code, 1-128 characters and no control character",
    "update_strategy": "sse, ws or auto",
    "connection_tracking": "True or False",
    "route_tracking": "True or False",
    "ip_tracking": "True, False or anonymized",
    "base_path": "a path with a leading and no trailing slash, such as /__skew",
    "cookie": "a name of letters, digits, - and _ only, or False for none",
    "backend": "auto, local, memory, or a URL such as redis://localhost:6379/0, with / ? # @ % of a password written "
    "as %2F %3F %23 %40 %25",
    "fleet_name": "1-64 letters, digits and any of . _ / - in it, such as shop",
    "admin_token": "a long random text, made with: openssl rand -hex 24",
    "metrics_token": "a long random text, made with: openssl rand -hex 24",
    "authorize_url": "an http:// or https:// URL",
    "allowed_origins": "origins as browsers write them, such as https://www.example.com: scheme and host only, in "
    "lower case, and a port only when it is not the scheme's own",
    "trusted_proxies": "addresses or networks such as 10.0.0.0/8, or * for all",
    **dict.fromkeys(_DURATIONS, "seconds, more than 0 and less than a day"),
    "peer_timeout": "1 to 3600 seconds, or None",
    "reauthorize_interval": "more than 0 and at most 60 seconds, because rights are re-checked at least every 60 s",
    "reconnect_spread": "0 to 3600 seconds",
    **dict.fromkeys(_LIMITS, "a whole number, at least 1"),
}
"""What each setting takes, as the end of a sentence that begins with what came."""

# Origins are compared as strings, so one that no browser ever sends would be allowed in vain.
_ORIGIN: Final = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_DEFAULT_PORT: Final = re.compile(r"http:.*:80|https:.*:443")
_PATH: Final = re.compile(r"(?:/[^/?#%\s]+)+")
_DATABASE: Final = re.compile(r"[0-9]*")
_COOKIE: Final = re.compile(r"[A-Za-z0-9_-]+")
# Up to the last @: whoever forgot to quote a / in a password shall not read it in a log.
_PASSWORD_IN_URL: Final = re.compile(r"(?<=//).*@|(?<=password=)[^&'\"]*")


def _wrong(name: str, value: Any) -> WrongSetting:
    if name in _SECRETS:
        shown = f"a {type(value).__name__}"  # whatever came, it may be the secret
    else:
        shown = f"{value:g}" if isinstance(value, float) else without_password(repr(value))
        shown = shown if len(shown) <= 80 else f"{shown[:76]} …"
    verb = "has" if name in ("allowed_origins", "trusted_proxies") and isinstance(value, str) else "is"
    return WrongSetting(name, f"{verb} {shown}; give {_TAKES[name]}.")


def _plain(name: str, value: Any) -> Any:
    if name in ("allowed_origins", "trusted_proxies"):
        # A single origin as a plain string is a mistake everybody makes once; characters are never meant.
        return (value,) if isinstance(value, str) else value
    if name in _SECRETS and isinstance(value, str):
        return value.strip()  # a secret that was read from a file ends in a newline, and no header can
    return value


def without_password(url: str) -> str:
    """Return a URL fit for logs."""
    return _PASSWORD_IN_URL.sub(lambda found: "…@" if found[0].endswith("@") else "…", url)


def _is_store(url: str) -> bool:
    """
    Say whether a URL can be one of Redis, so that a mistake in it is told at start and not by a connection that fails.

    redis-py takes a database that is no number for 0, and parts of a password that is not quoted for a port, a path or
    a fragment.
    """
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
        if not parts.scheme.endswith("+sentinel"):
            _ = parts.port
    except ValueError:
        return False
    if "://" not in url or parts.scheme not in REDIS_SCHEMES or parts.fragment:
        return False
    if parts.scheme == "unix":
        database, is_whole = "0", len(parts.path) > 1
    elif parts.scheme.endswith("+sentinel"):
        service, _, database = parts.path.strip("/").partition("/")
        is_whole = bool(service) and "@" not in parts.path and bool(parts.netloc.rpartition("@")[2])
    else:
        database = parts.path.strip("/")
        is_whole = bool(parts.hostname) or not parts.netloc
    return is_whole and all(_DATABASE.fullmatch(db) for db in (database, dict(pairs).get("db", "")))


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _version_from(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return a version and the variable that told it."""
    for name in VERSION_VARIABLES:
        if environ.get(name):
            return environ[name], name
    raise NoVersion(
        "No version is known. Pass Headcount(version=…) or set HEADCOUNT_VERSION to the build id of this deploy, for "
        "example the commit: HEADCOUNT_VERSION=$(git rev-parse --short HEAD)."
    )
