"""Reading an ASGI scope: where a request goes, what it carries, and whether its page may ask at all."""

import logging
from collections.abc import Collection, Iterable
from functools import cache
from urllib.parse import parse_qsl, unquote

from starlette.requests import cookie_parser
from starlette.types import Scope

from ..core.address import IPNetwork, anonymized, client_address, is_told, is_trusted
from ..core.labels import UNKNOWN, parse_version
from ..errors import Malformed

logger = logging.getLogger("headcount")

_MAX_FIELDS = 32


def endpoint_of(scope: Scope, base_path: str, *, mounted: bool) -> str | None:
    """
    Return the path below `base_path`, such as `/sse`, or None when the request is not for Headcount.

    Mounted, the server's root path holds the mount point, and all that comes is for Headcount; wrapped or run alone,
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


def prefix_of(scope: Scope, endpoint: str) -> str:
    """
    Return what stands before an endpoint in the path that the server saw: proxies' prefix, mount point, base path.

    A framework may have cut the mount point off `path`; `raw_path` still holds it.
    """
    for path in (unquote((scope.get("raw_path") or b"").decode("latin-1")), scope["path"]):
        if path.rstrip("/").endswith(endpoint):
            return path.rstrip("/").removesuffix(endpoint)
    return ""


def header(scope: Scope, name: bytes) -> str | None:
    """Return a request header, several lines of it joined by commas, or None."""
    found = None
    for key, value in scope["headers"]:
        if key == name:
            found = value if found is None else found + b", " + value
    return None if found is None else found.decode("latin-1")


def query_of(text: bytes, names: Collection[str], *, strict: bool = False) -> dict[str, str]:
    """
    Return those parameters of a query that are in `names`.

    Raises:
        Malformed: One of them is repeated, so that nobody can know which is meant; there are too many in all; or, when
            `strict`, there is another.
    """
    found: dict[str, str] = {}
    if not text:
        return found
    try:
        pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise Malformed(f"The query has more than {_MAX_FIELDS} parameters; send those that are documented.") from None
    for key, value in pairs:
        if key in names:
            if key in found:
                raise Malformed(f"The query parameter {key} is given more than once; give it once.")
            found[key] = value
        elif strict:
            known = ", ".join(sorted(names))
            raise Malformed(f"The query parameter {key[:40]!r} is not known here; those that are: {known}.")
    return found


def version_in_cookie(scope: Scope, cookie: str | bool) -> str:
    """Return the version that the cookie tells, or `unknown`: to refuse a bad one would lock the browser out."""
    if isinstance(cookie, str) and (text := header(scope, b"cookie")):
        try:
            return parse_version(unquote(cookie_parser(text.replace(", ", "; ")).get(cookie, "")))
        except Malformed:
            return UNKNOWN
    return UNKNOWN


def address_of(scope: Scope, tracking: bool | str, trusted: Iterable[IPNetwork]) -> str | None:
    """
    Return the client's address as far as it may be kept. With tracking off nothing is even looked at.

    uvicorn's `proxy_headers`, on by default, overwrites `client` with what X-Forwarded-For tells when the peer is on
    the same machine, so whoever can be that peer can forge it. It shows: the port is 0, or the address stands in that
    header. The peer itself is lost, so the address is not known, unless such a peer is one of our proxies.
    """
    if tracking is False:
        return None
    names = ("cf-connecting-ip", "x-forwarded-for", "x-real-ip")
    headers = {name: header(scope, name.encode()) or "" for name in names}
    trusted = tuple(trusted)
    host, port = scope.get("client") or (None, None)
    forwarded = headers["x-forwarded-for"]
    if host is not None and str(port) == "0":
        host = next((peer for peer in ("127.0.0.1", "::1") if is_trusted(peer, trusted)), None)
        if host is None:
            _warn_of_rewriting()
            return None
    elif host is not None and forwarded and is_told(host, forwarded) and not is_trusted(host, trusted):
        _warn_of_rewriting()
        return None
    address = client_address(host, headers, trusted)
    return anonymized(address) if address is not None and tracking == "anonymized" else address


@cache
def _warn_of_rewriting() -> None:
    logger.warning(
        "The address of a client is not known: the server has overwritten it with what X-Forwarded-For tells, which "
        "anybody can send. Start uvicorn with --no-proxy-headers, and set trusted_proxies if there is a proxy. "
        "This is said once."
    )


def foreign_origin(scope: Scope, origin: str | None, allowed: Collection[str]) -> str | None:
    """
    Return the origin of a cross-site request that is not allowed, or None when the request may go on.

    Args:
        scope: The request.
        origin: Its header of that name.
        allowed: The setting.

    Browsers send cookies along with cross-site WebSockets and simple requests, so without this any page on the web
    could watch with its visitor's rights. Programs send no Origin and have no cookies to abuse.
    """
    if origin is None:
        return "another site" if header(scope, b"sec-fetch-site") == "cross-site" and "*" not in allowed else None
    if "*" in allowed or origin in allowed or _is_own(origin, scope):
        return None
    return origin


def is_anybody(scope: Scope, allowed: Collection[str]) -> bool:
    """
    Say whether a request may go on only because `*` lets everybody in.

    Such a page may be counted; what its browser sends along unasked, cookies above all, gives it no right to watch.
    """
    if "*" not in allowed:
        return False
    origin = header(scope, b"origin")
    if origin is None:
        return header(scope, b"sec-fetch-site") == "cross-site"
    return origin not in allowed and not _is_own(origin, scope)


def without_ambient_rights(scope: Scope) -> Scope:
    """Return a request without what browsers send along unasked: cookies, and passwords that they remember."""
    kept = [
        (name, value)
        for name, value in scope["headers"]
        if name != b"cookie" and not (name == b"authorization" and not value.lower().startswith(b"bearer "))
    ]
    return {**scope, "headers": kept}


def allowed_origin(origin: str | None, allowed: Collection[str]) -> str | None:
    """Return the origin to name in CORS headers: one that is listed, or `*`, with which browsers send no cookies."""
    if origin is None:
        return None
    return origin if origin in allowed else "*" if "*" in allowed else None


def _is_own(origin: str, scope: Scope) -> bool:
    # A browser knows better than a comparison of hosts: it tells a page of http:// on our host from one of https://.
    site = header(scope, b"sec-fetch-site")
    return site in (None, "same-origin", "none") and _same_host(origin, header(scope, b"host") or "")


def _same_host(origin: str, host: str) -> bool:
    # The scheme is not compared: behind a proxy that ends TLS it is http here and https in the browser.
    scheme, separator, netloc = origin.partition("://")
    if scheme not in ("http", "https") or not separator or not netloc:
        return False
    return _bare(netloc) == _bare(host)


def _bare(netloc: str) -> str:
    return netloc.lower().removesuffix(":80").removesuffix(":443")
