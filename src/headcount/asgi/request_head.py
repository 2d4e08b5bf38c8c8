"""The head of one request, read once: where it goes, what it carries, and whether its page may make it at all."""

import re
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from starlette.requests import cookie_parser
from starlette.types import Scope

from ..config import SERVER, Config
from ..core.address import AddressGap, IPNetwork, anonymized, locate_client
from ..core.host import HostRules
from ..core.labels import UNKNOWN, parse_version
from ..core.origin import OriginVerdict, is_plain_http, judge_origin, used_tls
from ..errors import Malformed

_MAX_PARAMETERS: Final = 32
_HTTP_VERSIONS: Final = frozenset({"1.0", "1.1", "2", "3"})
_ADDRESS_HEADERS: Final = ("cf-connecting-ip", "x-forwarded-for", "x-real-ip")


class RequestRules(NamedTuple):
    """The settings that decide how a request is read."""

    cookie: str | bool
    """Name of the version cookie; False: there is none."""
    allowed_origins: Collection[str] = ()
    ip_tracking: bool | str = False
    trusted_proxies: tuple[IPNetwork, ...] = ()
    public_origins: Collection[str] = ()
    hosts: HostRules = HostRules()  # immutable
    trusts_server: bool = False
    """The server's own view of the client's address is believed."""
    note_gap: Callable[[AddressGap | None], object] = lambda _: None
    """Called for each stream, if addresses are tracked, with the reason why its address is not known."""
    have_defaults: bool = False
    """Neither `allowed_hosts` nor `allowed_origins` are set."""

    @classmethod
    def of(cls, config: Config, note_gap: Callable[[AddressGap | None], object] = lambda _: None) -> "RequestRules":
        """Return the rules that the settings ask for."""
        hosts = config.host_rules()
        return cls(
            config.cookie,
            config.allowed_origins,
            config.ip_tracking,
            config.networks(),
            config.public_origins,
            hosts,
            SERVER in config.trusted_proxies,
            note_gap,
            not hosts.checks_all and not config.allowed_origins,
        )


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
            verdict = self._verdict = self._judge_origin(self.header(b"origin"), self.header(b"sec-fetch-site"))
        return verdict

    @property
    def cors_origin(self) -> str | None:
        """
        The origin to name in CORS headers: one that is listed, or `*`, with which browsers send no cookies.

        A listed origin is named even if it is this site's own, because a browser may treat it as another.
        """
        allowed = self._rules.allowed_origins
        if not allowed or (origin := self.origin) is None:
            return None
        return origin if origin in allowed else "*" if "*" in allowed else None

    @property
    def is_valid_own_request(self) -> bool:
        """
        The request is valid, comes from a page of this site or a program, and its answer needs no CORS headers.

        Whoever takes streams over has to ask nothing else.
        """
        fields, rules = self._fields, self._rules
        if fields is None:
            fields = self._fields = _fields_of(self.scope)
        host = fields.get(b"host")
        if host is None or b"," in host or self.scope.get("http_version", "1.1") not in _HTTP_VERSIONS:  # see `defect`
            return False
        if rules.have_defaults:
            # What the properties below say of nearly every page, for a fifth of the cost.
            site = fields.get(b"sec-fetch-site")
            if site == b"same-origin" or (site != b"cross-site" and b"origin" not in fields):
                return True
        return self.is_for_this_server and self.cors_origin is None and self.origin_verdict is OriginVerdict.OWN

    @property
    def defect(self) -> str | None:
        """What makes the request invalid, whatever it is for, as a sentence; None: nothing (RFC 9112, 2.3 and 3.2)."""
        version = self.scope.get("http_version", "1.1")
        if version not in _HTTP_VERSIONS:
            return f"The request is of HTTP {version[:10]}; send HTTP/1.1, or HTTP/2 to a server that speaks it."
        # One may be missing: whether it may is the question of the server that read the request.
        return "The request has more than one Host; send one." if "," in (self.header(b"host") or "") else None

    @property
    def is_for_this_server(self) -> bool:
        """Host is one of `allowed_hosts`, or nothing is said about hosts, or the question is whether it lives."""
        hosts = self._rules.hosts
        return not hosts.checks_all or self.endpoint == "/health" or hosts.is_own(self.header(b"host") or "")

    @property
    def is_rebound(self) -> bool:
        """The page that makes the request may be of another site whose name was made to point here."""
        return self._rules.hosts.is_rebound(self.header(b"host"), self.scope.get("server"))

    @property
    def is_link(self) -> bool:
        """The browser follows a link to this, to show it in a tab: no page gets to know the answer."""
        return (
            self.scope.get("method") in ("GET", "HEAD")
            and self.origin is None
            and self.header(b"sec-fetch-mode") == "navigate"
            and self.header(b"sec-fetch-dest") == "document"
        )

    @property
    def accepts_html(self) -> bool:
        """Whoever asks shows pages: it is a browser, in whose address bar somebody typed the URL."""
        return "text/html" in (self.header(b"accept") or "").lower()

    @property
    def cookie_version(self) -> str:
        """The version in the cookie, or `unknown`: to refuse a bad one would lock the browser out."""
        cookie = self._rules.cookie
        if isinstance(cookie, str) and (text := self.header(b"cookie")):
            try:
                return parse_version(unquote(_parse_cookies(text).get(cookie, "")))
            except Malformed:
                return UNKNOWN
        return UNKNOWN

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name, from all lines of the header."""
        return _parse_cookies(self.header(b"cookie") or "")

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
            if path.endswith(endpoint):
                found: str = path.removesuffix(endpoint)
                return found
        return ""

    def address_to_keep(self) -> str | None:
        """
        Return the client's address as far as it may be kept, and note why it is unknown.

        With tracking off nothing is even looked at.
        """
        rules = self._rules
        if rules.ip_tracking is False:
            return None
        address, gap = self._locate()
        rules.note_gap(gap)
        return anonymized(address) if address is not None and rules.ip_tracking == "anonymized" else address

    def find_address(self) -> str | None:
        """Return the client's whole address, for limits: it must not be kept."""
        return self._locate()[0]

    def _locate(self) -> tuple[str | None, AddressGap | None]:
        headers = {name: self.header(name.encode()) or "" for name in _ADDRESS_HEADERS}
        rules = self._rules
        return locate_client(
            self.scope.get("client"), headers, rules.trusted_proxies, trusts_server=rules.trusts_server
        )

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

    @property
    def over_tls(self) -> bool:
        """The browser used TLS, as far as it is known."""
        return used_tls(self.scope.get("scheme"), lambda name: self.header(name.encode()))

    def judge_handshake(self, origin: str) -> OriginVerdict:
        """Return the verdict on the handshake of a page of this origin that takes the way of this request."""
        # Chromium sends no Sec-Fetch-Site with a handshake, but does with the request by which a page asks.
        return self._judge_origin(origin, None)

    def _judge_origin(self, origin: str | None, site: str | None) -> OriginVerdict:
        header, rules = self.header, self._rules
        if origin is None or site == "same-origin":  # nothing to compare with, or the browser has compared
            return judge_origin(origin, site, None, None, allowed_origins=rules.allowed_origins)
        return judge_origin(
            origin,
            site,
            header(b"host"),
            header(b"x-forwarded-host"),
            rules.public_origins,
            rules.allowed_origins,
            over_tls=is_plain_http(origin) and self.over_tls,
        )


def endpoint_of(scope: Scope, base_path: str, *, mounted: bool) -> str | None:
    """
    Return the path below `base_path`, such as `/sse`, or None when the request is not for Headcount.

    Mounted, the server's root path holds the mount point, and all that comes is for Headcount; wrapped or by itself,
    `base_path` is still in the path. Behind a proxy that cut a prefix off, the root path may be longer than what the
    path still starts with.

    Each endpoint has one path, so that a rule of a proxy for that path holds for the endpoint. What stands before the
    endpoint is cut off once: the mount point, or `base_path`. Other spellings of the path (percent escapes, a slash at
    the end, two slashes) name no endpoint; they are returned as they came, for the answer. Whoever takes streams over
    recognises only the one spelling, and leaves all else to this function.
    """
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path") or b""
    root: str = scope.get("root_path", "")
    # Starlette leaves the root path of the whole application here; what `root` has more is a mount point.
    app_root: str = scope.get("app_root_path", root)
    find = _find_endpoint_cached if len(path) <= _MAX_CACHED_PATH and len(raw) <= _MAX_CACHED_PATH else _find_endpoint
    return find(path, raw, root, app_root, base_path, mounted)


_MAX_CACHED_PATH: Final = 128
"""Characters; longer paths are looked at each time."""

_FOLDER: Final = "/dashboard/"
"""The only endpoint whose path ends with a slash."""

_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~/-]*")
"""Paths that browsers and proxies never escape."""

_SLASHES: Final = re.compile("/+")


def _find_endpoint(path: str, raw: bytes, root: str, app_root: str, base_path: str, mounted: bool) -> str | None:
    raw = raw.partition(b"?")[0]
    has_mount_point = root != app_root
    # Litestar puts a slash behind every path. Without a raw path it is not known which slashes came from the client.
    if not (raw.endswith(b"/") if raw else path.endswith(_FOLDER)):
        path = path.rstrip("/")
    root = root.rstrip("/")
    cut = ""
    while root:
        if path == root or path.startswith(root + "/"):
            path, cut = path[len(root) :], root
            break
        slash = root.find("/", 1)
        root = root[slash:] if slash > 0 else ""
    if not (mounted and (cut.endswith(base_path) or (cut and has_mount_point) or _is_cut(raw, path, cut, base_path))):
        if path == base_path or path.startswith(base_path + "/"):
            path = path[len(base_path) :]
        elif not mounted:
            return None
    if raw and not _is_spelled_so(raw, base_path, path):
        return "/" + raw.decode("latin-1").lstrip("/")
    return path or "/"


# Nearly all requests are for a few paths.
_find_endpoint_cached = lru_cache(maxsize=256)(_find_endpoint)


def _is_cut(raw: bytes, path: str, cut: str, base_path: str) -> bool:
    """Say whether a framework cut the mount point off the path and left it in the raw path, as Litestar does."""
    tail = path.encode("utf-8", "surrogatepass")
    return not cut and raw.endswith(tail) and unquote(raw.removesuffix(tail).decode("latin-1")).endswith(base_path)


def _is_spelled_so(raw: bytes, base_path: str, endpoint: str) -> bool:
    """
    Say whether a raw path ends with an endpoint as it is, and with `base_path` before it.

    False for another spelling of either. True for a path that leads elsewhere, which middleware has rewritten.
    """
    if raw.endswith((base_path + endpoint).encode("utf-8", "surrogatepass")):
        return True
    plain = _SLASHES.sub("/", unquote(raw.decode("latin-1"))).rstrip("/")
    for path in (base_path + endpoint, endpoint):
        if plain.endswith(path.rstrip("/") or "/") and _UNRESERVED.fullmatch(path):
            return path == endpoint and raw.endswith(path.encode())
    return True


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


def _parse_cookies(text: str) -> dict[str, str]:
    return cookie_parser(text.replace(", ", "; "))


def _fields_of(scope: Scope) -> dict[bytes, bytes]:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    fields = dict(headers)
    if len(fields) != len(scope["headers"]):
        fields = {}
        for name, value in headers:
            fields[name] = fields[name] + b", " + value if name in fields else value
    return fields
