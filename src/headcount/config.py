"""
Every setting: its default, unit and environment variable, and the error for an invalid value.

A setting given in Python wins over `HEADCOUNT_<NAME>`, which wins over the default. The environment is read when a
`Headcount` is made, never at import.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

import msgspec

from .core.address import IPNetwork
from .core.host import HOST_PATTERN, HostRules
from .core.known_versions import MAX_LISTED
from .core.labels import parse_build_id
from .core.redis_url import split_redis_url
from .core.sealing import MAX_SECRETS, MIN_SECRET
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
"""Variables in which CI systems and platforms put the commit; the first one that is set is used."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The settings of one `Headcount`. Durations are seconds.

    Raises:
        ConfigError: From `load`; a value is missing or invalid.
    """

    version: str
    """Build id of this server's code, 1-128 characters."""

    update_strategy: Literal["sse", "ws", "auto"] = "auto"
    """
    Kind of stream that clients try first; `auto`: the client decides. Both endpoints are always served, and a client
    uses what gets through.
    """

    connection_tracking: bool = True
    """Count connections. If off, streams stay open for messages."""

    route_tracking: bool = False
    """Count which route each connection is on."""

    ip_tracking: bool | Literal["anonymized"] = False
    """Keep client addresses and show them to viewers; `anonymized` cuts them to /24 and /48."""

    base_path: str = "/__skew"
    """Path of the endpoints."""

    cookie: str | bool = "__nkpv"
    """Name of the version cookie; False: no cookie is read."""

    backend: str = "auto"
    """
    How nodes find one another. `auto`: the workers of this machine, if there are several; `local`: the same, with a
    warning if they cannot be found; `memory`: only this process; `redis://…`: all machines that use that server.
    """

    fleet_name: str | None = None
    """Name of this application among others on the same Redis; None: `base_path`."""

    fleet_secret: tuple[str, ...] = ()
    """
    Secret of the nodes on one Redis, at least 16 characters: with it, nobody else can read what they exchange and store
    there, or take part. Further ones are accepted and not used, while a secret is being changed.
    """

    admin_token: str | None = None
    """Bearer token that authorises, in addition to the hook."""

    metrics_token: str | None = None
    """Bearer token that may read `/metrics` and nothing else."""

    authorize_url: str | None = None
    """URL that decides who may watch: it gets the viewer's cookies and Authorization header; 2xx allows."""

    authorize_headers: tuple[str, ...] = ()
    """Further request headers for `authorize_stats`, which are kept while a page is open; see docs/hooks.md."""

    allowed_origins: tuple[str, ...] = ()
    """Other origins whose pages may connect, such as https://www.example.com; `*` allows all."""

    public_origins: tuple[str, ...] = ()
    """Origins under which this application is reached, for proxies that change Host; see core/origin.py."""

    allowed_hosts: tuple[str, ...] = ()
    """
    Names to which this server answers, such as www.example.com or *.example.com; `*` allows all. None: all, but a hook
    cannot authorise what may be a page whose name was made to point to this machine; see core/host.py.
    """

    trusted_proxies: tuple[str, ...] = ()
    """
    Addresses or networks of proxies that are trusted to name the client's address; `*` trusts every peer. `server`,
    alone: the address is the one that the ASGI server found.
    """

    stats_interval: float = 0.25
    """Shortest time between two pushes to viewers; the first change after a quiet time is pushed at once."""

    keepalive_interval: float = 15.0
    """Longest silence on a stream."""

    peer_timeout: float | None = 30.0
    """
    Longest time that sent bytes may stay unacknowledged before the kernel closes the connection (TCP_USER_TIMEOUT,
    Linux). It is set on the server's listening socket, so it applies to all its connections. None leaves sockets as
    they are; a peer whose cable was pulled then stays in the figures for up to a quarter of an hour.
    """

    send_timeout: float = 10.0
    """Time without reading after which a peer is dropped."""

    authorize_timeout: float = 10.0
    """Longest time of an `authorize_stats` hook; a hook that takes longer denies."""

    reauthorize_interval: float = 60.0
    """Time between two checks of a viewer's right, at most 60."""

    viewer_timeout: float = 10.0
    """Time after which a `viewer=1` connection that is not authorised is closed."""

    hook_timeout: float = 30.0
    """Longest time of an asynchronous hook; then it is cancelled."""

    body_timeout: float = 10.0
    """Longest time until the body of a POST has arrived."""

    reconnect_spread: float = 5.0
    """Time over which the clients of a draining server reconnect."""

    unaccounted_grace: float = 120.0
    """Time for which connections of a node that vanished are unaccounted for; then they count as gone."""

    settle_time: float = 30.0
    """Time for which all nodes must have served the same version until it is current without a declaration."""

    state_file: str | None = None
    """File that keeps the declared version, and beside it the history, while no process of this machine runs."""

    known_versions: tuple[str, ...] = ()
    """
    Count only versions that are known, all others under `unknown`: `fleet`, those that nodes serve, that were released
    or that an operator waits for; other names, those as well. Empty: every version counts.
    """

    max_connections: int | None = None
    """
    Most connections of this process, tabs that share a stream included; more are refused with 503, WebSockets with
    1013. None: no limit.
    """

    max_connections_per_address: int | None = None
    """Most connections of one client address to this process; more are refused with 429, WebSockets with 1013."""

    max_opens_per_second: int | None = None
    """Most connections that this process opens in a second; more are refused with 503, WebSockets with 1013."""

    max_listed_connections: int = 1_000
    """Most rows in a snapshot; totals and maps are always complete."""

    max_versions: int = 1_000
    """Most versions with a count of their own; the rest counts under `(other)`."""

    max_routes: int = 10_000
    """Most routes with a count of their own; the rest counts under `(other)`."""

    max_queued_messages: int = 64
    """Most application messages queued for a peer that does not read; one more drops the peer."""

    max_messages_per_second: int = 20
    """
    Most messages of one stream in the long run, POSTs for it included; 64 may come at once. One more closes a WebSocket
    with 4429, and a POST is answered 429.
    """

    max_metric_labels: int = 50
    """Most versions, and most routes, with a metric of their own; the rest counts under `(other)`."""

    @classmethod
    def load(cls, settings: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> "Config":
        """
        Make a checked configuration.

        Args:
            settings: The given settings. None means not given, except for `peer_timeout`, where None is a value.
            environ: Defaults to the process's environment.

        Raises:
            ConfigError: A setting is unknown, invalid or missing; the sentence names it.
        """
        environ = os.environ if environ is None else environ
        known = cls.__struct_fields__
        for name in settings:
            if name not in known:
                raise ConfigError(
                    f"Unknown setting {name}{did_you_mean(name, known)} The settings are: {', '.join(sorted(known))}."
                )
        warn_of_unknown(environ, known)
        values: dict[str, Any] = {}
        variables: dict[str, str] = {}
        try:
            for name in known:
                variable = variable_of(name)
                if settings.get(name) is not None or (name == "peer_timeout" and name in settings):
                    values[name] = _plain(name, settings[name])
                elif variable in environ:
                    variables[name] = variable
                    values[name] = _plain(name, from_text(name, environ[variable]))
            if "version" not in values:
                values["version"], variables["version"] = _version_from(environ)
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
        """Return `trusted_proxies` as networks; `*` is every network, `server` none."""
        if "*" in self.trusted_proxies:
            return (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
        if SERVER in self.trusted_proxies:
            return ()
        return tuple(ipaddress.ip_network(proxy, strict=False) for proxy in self.trusted_proxies)

    def host_rules(self) -> HostRules:
        """Return the rules about the Host header."""
        return HostRules(self.allowed_hosts, self.public_origins, (socket.gethostname(),))

    def _check_versions(self) -> None:
        if not self.version:
            raise WrongSetting("version", f"is empty; give {_EXPECTED['version']}.")
        for name, version in [("version", self.version), *(("known_versions", each) for each in self.known_versions)]:
            try:
                parse_build_id(version)
            except Malformed:
                raise _wrong(name, version) from None
        if len(self.known_versions) > MAX_LISTED:
            raise _wrong("known_versions", self.known_versions)

    def check(self) -> None:
        """
        Check what types cannot express.

        Raises:
            WrongSetting: A value is invalid.
        """
        self._check_versions()
        if not _PATH.fullmatch(self.base_path):
            raise _wrong("base_path", self.base_path)
        if self.cookie is True or (isinstance(self.cookie, str) and not _COOKIE.fullmatch(self.cookie)):
            raise _wrong("cookie", self.cookie)
        if self.backend not in ("auto", "local", "memory") and not _is_redis_url(self.backend):
            raise _wrong("backend", without_password(self.backend))
        if self.fleet_name is not None and not _FLEET_NAME.fullmatch(self.fleet_name):
            raise _wrong("fleet_name", self.fleet_name)
        for name in _DURATIONS:
            if not 0 < getattr(self, name) < 86_400:
                raise _wrong(name, getattr(self, name))
        if not 0 < self.reauthorize_interval <= 60:
            raise _wrong("reauthorize_interval", self.reauthorize_interval)
        for name in _SPANS:
            value = getattr(self, name)
            if not 0 <= value <= 3_600:
                raise _wrong(name, value)
        if self.peer_timeout is not None and not 1 <= self.peer_timeout <= 3_600:
            raise _wrong("peer_timeout", self.peer_timeout)
        for name in _LIMITS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise _wrong(name, value)
        self._check_secrets()
        if self.authorize_url is not None and not _is_url(self.authorize_url):
            raise _wrong("authorize_url", self.authorize_url)
        if self.state_file is not None and not _is_file_path(self.state_file):
            raise _wrong("state_file", self.state_file)
        for header in self.authorize_headers:
            if not _HEADER.fullmatch(header):
                raise _wrong("authorize_headers", header)
        for origin in self.allowed_origins:
            if origin != "*" and not is_browser_origin(origin):
                raise _wrong("allowed_origins", origin)
        for origin in self.public_origins:
            if not is_browser_origin(origin) or not origin.startswith("http"):
                raise _wrong("public_origins", origin)
        for host in self.allowed_hosts:
            if not HOST_PATTERN.fullmatch(host):
                raise _wrong("allowed_hosts", host)
        if SERVER in self.trusted_proxies:
            if len(self.trusted_proxies) > 1:
                raise WrongSetting("trusted_proxies", "has server and addresses; give one or the other.")
            return
        for proxy in self.trusted_proxies:
            try:
                _ = proxy == "*" or ipaddress.ip_network(proxy, strict=False)
            except ValueError:
                raise _wrong("trusted_proxies", proxy) from None

    def _check_secrets(self) -> None:
        for name in SECRETS:
            token = getattr(self, name)
            if token is not None and not token.strip():
                raise WrongSetting(name, f"is empty; leave it out, or give {_EXPECTED[name]}.")
            if token is not None and not token.isprintable():
                raise WrongSetting(name, f"contains a line break or another control character; give {_EXPECTED[name]}.")
            if token is not None and len(token) < MIN_SECRET:
                raise WrongSetting(
                    name, f"has {len(token)} characters, and at least {MIN_SECRET} are needed; give {_EXPECTED[name]}."
                )
        if not all(len(secret) >= MIN_SECRET and secret.isprintable() for secret in self.fleet_secret):
            raise WrongSetting(
                "fleet_secret",
                f"is shorter than {MIN_SECRET} characters, or contains a control character; give "
                f"{_EXPECTED['fleet_secret']}.",
            )
        if len(self.fleet_secret) > MAX_SECRETS:
            raise WrongSetting("fleet_secret", f"has {len(self.fleet_secret)} secrets; give at most {MAX_SECRETS}.")


SERVER: Final = "server"
"""In `trusted_proxies`: the ASGI server has found the client's address already."""

REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
"""Schemes of `backend` URLs."""

_FLEET_NAME: Final = re.compile(r"[A-Za-z0-9._/-]{1,64}")
SECRETS: Final = ("admin_token", "metrics_token")
HIDDEN: Final = (*SECRETS, "fleet_secret")
"""Settings whose value is never shown."""
LISTS: Final = (
    *("authorize_headers", "allowed_origins", "public_origins", "allowed_hosts", "trusted_proxies"),
    "known_versions",
)

FLEET: Final = "fleet"
"""In `known_versions`: only what the fleet knows."""

_DURATIONS: Final = (
    *("stats_interval", "keepalive_interval", "send_timeout", "authorize_timeout"),
    *("viewer_timeout", "hook_timeout", "body_timeout", "unaccounted_grace"),
)
_SPANS: Final = ("reconnect_spread", "settle_time")
_LIMITS: Final = (
    "max_connections",
    "max_connections_per_address",
    "max_opens_per_second",
    "max_listed_connections",
    "max_versions",
    "max_routes",
    "max_queued_messages",
    "max_messages_per_second",
    "max_metric_labels",
)

_EXPECTED: Final[Mapping[str, str]] = {
    "version": "the build id of this server's code, 1-128 visible characters, and neither unknown nor (other)",
    "update_strategy": "sse, ws or auto",
    "connection_tracking": "True or False",
    "route_tracking": "True or False",
    "ip_tracking": "True, False or anonymized",
    "base_path": "a path with a leading and no trailing slash, such as /__skew",
    "cookie": "a name of letters, digits, - and _ only, or False for none",
    "backend": "auto, local, memory, or a URL such as redis://localhost:6379/0; in its password, write / ? # @ % as "
    "%2F %3F %23 %40 %25",
    "fleet_name": "1-64 letters, digits, dots, _, / and -, such as shop",
    "fleet_secret": f"a random text of at least {MIN_SECRET} characters without commas, such as the output of: openssl "
    "rand -hex 24; during a change, the new and the old one, separated by a comma",
    "admin_token": "a long random text, such as the output of: openssl rand -hex 24",
    "metrics_token": "a long random text, such as the output of: openssl rand -hex 24",
    "authorize_url": "an http:// or https:// URL",
    "state_file": "the path of a file in a directory that this user may write to, such as /var/lib/shop/headcount.json",
    "authorize_headers": "names of request headers, such as X-Tenant",
    "allowed_origins": "origins as browsers send them, such as https://www.example.com: scheme and host in lower case, "
    "no path, and the port if it is not the default of the scheme; other schemes, such as capacitor://localhost, are "
    "allowed",
    "public_origins": "origins as browsers send them, such as https://www.example.com: scheme and host in lower case, "
    "no path, and the port if it is not the default of the scheme",
    "allowed_hosts": "host names in lower case without scheme and port, such as www.example.com, *.example.com for all "
    "names below it, or * for all",
    "trusted_proxies": "addresses or networks such as 10.0.0.0/8, * for all, or server for the address that the ASGI "
    "server found",
    **dict.fromkeys(_DURATIONS, "seconds, more than 0 and less than 86400"),
    "known_versions": f"fleet, or at most {MAX_LISTED} build ids",
    "peer_timeout": "1 to 3600 seconds, or None",
    "reauthorize_interval": "more than 0 and at most 60 seconds, because rights are re-checked at least every 60 s",
    **dict.fromkeys(_SPANS, "0 to 3600 seconds"),
    **dict.fromkeys(_LIMITS, "a whole number, at least 1"),
}
"""Valid values of each setting: the end of a sentence that begins with the invalid value."""

# Origins are compared as strings, so an origin in a form that no browser sends would never match. Browsers write the
# host in lower case for http and https only; of other schemes (an extension's id, a WebView's host) it stays as it is.
# Pages that were opened from a file send `file://` with WebSockets.
_ORIGIN: Final = re.compile(
    r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?"
    r"|(?!(?:https?|ftp|wss?|data|blob|about|javascript|null):)[a-z][a-z0-9+.-]*://[A-Za-z0-9._~-]+(?::[1-9][0-9]{0,4})?"
    r"|file://"
)
_DEFAULT_PORT: Final = re.compile(r"http:.*:80|https:.*:443")
_PATH: Final = re.compile(r"(?:/[^/?#%\s]+)+")
_DATABASE: Final = re.compile(r"[0-9]*")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_COOKIE: Final = re.compile(r"[A-Za-z0-9_-]+")
# Up to the last @: a password with a / that is not escaped must not reach a log.
_PASSWORD_IN_URL: Final = re.compile(r"(?<=//).*@|(?<=password=)[^&'\"]*")

_QUERY_VALUE: Final = re.compile(r"([?&][^=&#'\"]*=)[^&#'\"]*")


def _wrong(name: str, value: Any) -> WrongSetting:
    if name in HIDDEN:
        shown = f"a {type(value).__name__}"  # the value itself may be the secret
    else:
        shown = f"{value:g}" if isinstance(value, float) else without_secrets(name, repr(value))
        shown = shown if len(shown) <= 80 else f"{shown[:76]} …"
    verb = "has" if name in LISTS and isinstance(value, str) else "is"
    return WrongSetting(name, f"{verb} {shown}; give {_EXPECTED[name]}.")


def _plain(name: str, value: Any) -> Any:
    if name == "fleet_secret" and isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
        if not value:
            raise WrongSetting(name, f"is empty; leave it out, or give {_EXPECTED[name]}.")
    if name == "fleet_secret" and isinstance(value, list | tuple):
        return tuple(part.strip() if isinstance(part, str) else part for part in value)
    if name in LISTS:
        # A single origin as a plain string is a common mistake; its characters are never meant as a list.
        return (value,) if isinstance(value, str) else value
    if name in SECRETS and isinstance(value, str):
        return value.strip()  # a secret read from a file may end in a newline, which no header can hold
    return value


def is_browser_origin(text: str) -> bool:
    """Say whether a text is an origin in the form in which browsers send it."""
    return _ORIGIN.fullmatch(text) is not None and _DEFAULT_PORT.fullmatch(text) is None


def without_password(url: str) -> str:
    """Return a URL without its password, for logs and errors."""
    return _PASSWORD_IN_URL.sub(lambda found: "…@" if found[0].endswith("@") else "…", url)


def without_secrets(name: str, value: str) -> str:
    """Return the value of a setting without what may be secret in it: passwords, and the values in a URL's query."""
    shown = without_password(value)
    return _QUERY_VALUE.sub(r"\1…", shown) if name == "authorize_url" else shown


def _is_file_path(text: str) -> bool:
    return bool(text.strip()) and text.isprintable() and not text.endswith("/")


def _is_redis_url(url: str) -> bool:
    """
    Return whether a URL is a valid Redis URL, so that a mistake is an error at the start and not a failed connection.

    redis-py reads a database that is not a number as 0, and parts of a password that is not escaped as a port, a path
    or a fragment.
    """
    try:
        parts = split_redis_url(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
        if not parts.scheme.endswith("+sentinel"):
            _ = parts.port
    except ValueError:
        return False
    if "://" not in url or parts.scheme not in REDIS_SCHEMES or parts.fragment:
        return False
    if parts.scheme == "unix":
        database, is_complete = "0", len(parts.path) > 1
    elif parts.scheme.endswith("+sentinel"):
        service, _, database = parts.path.strip("/").partition("/")
        is_complete = bool(service) and "@" not in parts.path and bool(parts.netloc.rpartition("@")[2])
    else:
        database = parts.path.strip("/")
        is_complete = bool(parts.hostname) or not parts.netloc
    return is_complete and all(_DATABASE.fullmatch(db) for db in (database, dict(pairs).get("db", "")))


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _version_from(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the version and the variable that it came from."""
    for name in VERSION_VARIABLES:
        if environ.get(name):
            return environ[name], name
    raise NoVersion(
        "The version is missing. Pass Headcount(version=…) or set HEADCOUNT_VERSION to the build id of this deploy, "
        "for example the commit: HEADCOUNT_VERSION=$(git rev-parse --short HEAD)."
    )
