"""The head of one request, read once: where it goes, what it carries, and whether its page may make it at all."""

from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from starlette.requests import cookie_parser
from starlette.types import Scope

from ..config import SERVER, Config
from ..core.address import AddressGap, IPNetwork, anonymized, locate_client
from ..core.labels import UNKNOWN, parse_version
from ..core.origin import OriginVerdict, is_plain_http, judge_origin, used_tls
from ..errors import Malformed

_MAX_PARAMETERS: Final = 32
_ADDRESS_HEADERS: Final = ("cf-connecting-ip", "x-forwarded-for", "x-real-ip")


class RequestRules(NamedTuple):
    """The settings that decide how a request is read."""

    cookie: str | bool
    """Name of the version cookie; False: there is none."""
    allowed_origins: Collection[str] = ()
    ip_tracking: bool | str = False
    trusted_proxies: tuple[IPNetwork, ...] = ()
    public_origins: Collection[str] = ()
    trusts_server: bool = False
    """The server's own view of the client's address is believed."""
    note_gap: Callable[[AddressGap | None], object] = lambda _: None
    """Called for each stream, if addresses are tracked, with the reason why its address is not known."""

    @classmethod
    def of(cls, config: Config, note_gap: Callable[[AddressGap | None], object] = lambda _: None) -> "RequestRules":
        """Return the rules that the settings ask for."""
        return cls(
            config.cookie,
            config.allowed_origins,
            config.ip_tracking,
            config.networks(),
            config.public_origins,
            SERVER in config.trusted_proxies,
            note_gap,
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
    def is_own_page(self) -> bool:
        """A page of this site makes the request, or a program, and the answer needs no CORS headers."""
        return self.cors_origin is None and self.origin_verdict is OriginVerdict.OWN

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
        """Return the client's whole address, whether it may be kept or not."""
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
        if origin is None:  # nothing to compare with
            return judge_origin(None, site, None, None, allowed_origins=rules.allowed_origins)
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
