"""The head of one request, read once: where it goes, what it carries, and whether its page may make it at all."""

import enum
import logging
from collections.abc import Collection, Iterable
from functools import cache
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from starlette.requests import cookie_parser
from starlette.types import Scope

from ..config import Config
from ..core.address import IPNetwork, anonymized, client_address, is_told, is_trusted
from ..core.labels import UNKNOWN, parse_version
from ..errors import Malformed

logger = logging.getLogger("headcount")

_MAX_PARAMETERS: Final = 32
_ADDRESS_HEADERS: Final = ("cf-connecting-ip", "x-forwarded-for", "x-real-ip")


class RequestRules(NamedTuple):
    """The settings that decide how a request is read."""

    cookie: str | bool
    """Name of the version cookie; False: there is none."""
    allowed_origins: Collection[str] = ()
    ip_tracking: bool | str = False
    trusted_proxies: tuple[IPNetwork, ...] = ()

    @classmethod
    def of(cls, config: Config) -> "RequestRules":
        """Return the rules that the settings ask for."""
        return cls(config.cookie, config.allowed_origins, config.ip_tracking, tuple(config.networks()))


class OriginVerdict(enum.Enum):
    """
    Whether the page that makes a request may make it.

    Browsers send cookies along with cross-site WebSockets and simple requests, so without this any page on the web
    could watch with its visitor's rights. Programs send no Origin and have no cookies to abuse.
    """

    OWN = enum.auto()
    """A page of this site, or a program."""
    LISTED = enum.auto()
    """Its origin is in `allowed_origins`."""
    WILDCARD = enum.auto()
    """Allowed only because `allowed_origins` has `*`: it may be counted, but what its browser sends along unasked,
    cookies above all, gives it no right to watch."""
    FOREIGN = enum.auto()
    """Another site's, and not allowed."""


class RequestHead:
    """
    What a request says before its body. Each part is read when it is first asked for, the headers once.

    Args:
        scope: The ASGI scope.
        endpoint: The path below `base_path`; see `endpoint_of`.
        rules: How to read it.
    """

    __slots__ = ("_fields", "_rules", "_verdict", "endpoint", "scope")

    def __init__(self, scope: Scope, endpoint: str, rules: RequestRules) -> None:
        self.scope = scope
        self.endpoint = endpoint
        self._rules = rules
        self._fields: dict[bytes, bytes] | None = None
        self._verdict: OriginVerdict | None = None

    def header(self, name: bytes) -> str | None:
        """Return a header, several lines of it joined by commas, or None."""
        fields = self._fields
        if fields is None:
            fields = self._fields = _fields_of(self.scope)
        value = fields.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def origin(self) -> str | None:
        """The Origin header."""
        return self.header(b"origin")

    @property
    def origin_verdict(self) -> OriginVerdict:
        """Whether the page may make this request."""
        verdict = self._verdict
        if verdict is None:
            verdict = self._verdict = self._judge()
        return verdict

    @property
    def cors_origin(self) -> str | None:
        """
        The origin to name in CORS headers: one that is listed, or `*`, with which browsers send no cookies.

        A listed origin is named even if it is this site's own, because a browser may treat it as another.
        """
        origin, allowed = self.origin, self._rules.allowed_origins
        if origin is None or not allowed:
            return None
        return origin if origin in allowed else "*" if "*" in allowed else None

    @property
    def cookie_version(self) -> str:
        """The version in the cookie, or `unknown`: to refuse a bad one would lock the browser out."""
        cookie = self._rules.cookie
        if isinstance(cookie, str) and (text := self.header(b"cookie")):
            try:
                return parse_version(unquote(cookie_parser(text.replace(", ", "; ")).get(cookie, "")))
            except Malformed:
                return UNKNOWN
        return UNKNOWN

    @property
    def bearer_token(self) -> str | None:
        """The token in the Authorization header."""
        scheme, _, token = (self.header(b"authorization") or "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    @property
    def prefix(self) -> str:
        """
        What the path that the server saw has before the endpoint: proxies' prefix, mount point, base path.

        A framework may have cut the mount point off `path`; `raw_path` still holds it.
        """
        scope, endpoint = self.scope, self.endpoint
        for path in (unquote((scope.get("raw_path") or b"").decode("latin-1")), scope["path"]):
            if path.rstrip("/").endswith(endpoint):
                found: str = path.rstrip("/").removesuffix(endpoint)
                return found
        return ""

    @property
    def address(self) -> str | None:
        """The client's address as far as it may be kept. With tracking off nothing is even looked at."""
        tracking = self._rules.ip_tracking
        address = None if tracking is False else self.find_address()
        return anonymized(address) if address is not None and tracking == "anonymized" else address

    def find_address(self) -> str | None:
        """
        Return the client's whole address, whether it may be kept or not.

        uvicorn's `proxy_headers`, on by default, overwrites `client` with the value of X-Forwarded-For when the peer is
        on the same machine, so any program there can forge it. It can be detected: the port is 0, or the address stands
        in that header. The peer itself is lost, so the address is not known, unless such a peer is one of our proxies.
        """
        headers = {name: self.header(name.encode()) or "" for name in _ADDRESS_HEADERS}
        trusted = self._rules.trusted_proxies
        host, port = self.scope.get("client") or (None, None)
        forwarded = headers["x-forwarded-for"]
        if host is not None and str(port) == "0":
            host = next((peer for peer in ("127.0.0.1", "::1") if is_trusted(peer, trusted)), None)
            if host is None:
                _warn_of_rewriting()
                return None
        elif host is not None and forwarded and is_told(host, forwarded) and not is_trusted(host, trusted):
            _warn_of_rewriting()
            return None
        return client_address(host, headers, trusted)

    def query(self, names: Collection[str], *, strict: bool = False) -> dict[str, str]:
        """Return those parameters of the query that are in `names`; see `parse_query`."""
        return parse_query(self.scope["query_string"], names, strict=strict)

    def scope_without_credentials(self) -> Scope:
        """Return the scope without what browsers send along unasked: cookies, and passwords that they remember."""
        kept = [
            (name, value)
            for name, value in self.scope["headers"]
            if name != b"cookie" and not (name == b"authorization" and not value.lower().startswith(b"bearer "))
        ]
        return {**self.scope, "headers": kept}

    def _judge(self) -> OriginVerdict:
        origin, allowed = self.origin, self._rules.allowed_origins
        if origin is None:
            if self.header(b"sec-fetch-site") != "cross-site":
                return OriginVerdict.OWN
        elif origin in allowed:
            return OriginVerdict.LISTED
        elif self._is_own(origin):
            return OriginVerdict.OWN
        return OriginVerdict.WILDCARD if "*" in allowed else OriginVerdict.FOREIGN

    def _is_own(self, origin: str) -> bool:
        # A browser knows better than a comparison of hosts: it tells a page of http:// on our host from one of
        # https://.
        site = self.header(b"sec-fetch-site")
        return site in (None, "same-origin", "none") and _same_host(origin, self.header(b"host") or "")


def endpoint_of(scope: Scope, base_path: str, *, mounted: bool) -> str | None:
    """
    Return the path below `base_path`, such as `/sse`, or None when the request is not for Headcount.

    Mounted, the server's root path holds the mount point, and all that comes is for Headcount; wrapped or by itself,
    `base_path` is still in the path. Behind a proxy that cut a prefix off, the root path may be longer than what the
    path still starts with.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    while root:
        if path == root or path.startswith(root + "/"):
            path = path[len(root) :]
            break
        cut = root.find("/", 1)
        root = root[cut:] if cut > 0 else ""
    if path == base_path or path.startswith(base_path + "/"):
        path = path[len(base_path) :]
    elif not mounted:
        return None
    return path.rstrip("/") or "/"


def parse_query(text: bytes, names: Collection[str], *, strict: bool = False) -> dict[str, str]:
    """
    Return those parameters of a query that are in `names`.

    Raises:
        Malformed: One of them is repeated, so it is ambiguous; there are too many in all; or, when `strict`, there is
            an unknown one.
    """
    found: dict[str, str] = {}
    if not text:
        return found
    try:
        pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise Malformed(f"The query has more than {_MAX_PARAMETERS} parameters; send the documented ones.") from None
    for key, value in pairs:
        if key in names:
            if key in found:
                raise Malformed(f"The query parameter {key} is repeated; send it once.")
            found[key] = value
        elif strict:
            known = ", ".join(sorted(names))
            raise Malformed(f"Unknown query parameter {key[:40]!r}; this endpoint accepts {known}.")
    return found


def _fields_of(scope: Scope) -> dict[bytes, bytes]:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    fields = dict(headers)
    if len(fields) != len(scope["headers"]):
        fields = {}
        for name, value in headers:
            fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


@cache
def _warn_of_rewriting() -> None:
    logger.warning(
        "Client addresses are unknown: the server replaces them with the value of X-Forwarded-For, which any client "
        "can send. Start uvicorn with --no-proxy-headers and, behind a proxy, set trusted_proxies. "
        "This is logged once."
    )


def _same_host(origin: str, host: str) -> bool:
    # The scheme is not compared: behind a proxy that ends TLS it is http here and https in the browser.
    scheme, separator, netloc = origin.partition("://")
    if scheme not in ("http", "https") or not separator or not netloc:
        return False
    return _without_default_port(netloc) == _without_default_port(host)


def _without_default_port(netloc: str) -> str:
    return netloc.lower().removesuffix(":80").removesuffix(":443")
