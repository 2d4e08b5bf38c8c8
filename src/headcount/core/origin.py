"""
Whether the page that makes a request may make it: the one rule for streams, POSTs and WebSocket handshakes.

Browsers send cookies along with cross-site WebSockets and simple requests, so without this rule any page on the web
could watch with its visitor's rights. Programs send no Origin and have no cookies to abuse.

What a foreign page can forge decides what is believed. No page can set Origin, Host, or a header that begins with
`Sec-` (forbidden request headers of the Fetch standard, in every browser). A page can set other headers only after a
preflight, which foreign pages are refused, and never on a WebSocket, an EventSource or a form. So these are believed,
in this order:

1. `Sec-Fetch-Site: same-origin`. The browser has compared the origins itself, and no proxy changed what it compared.
   Browsers leave it out on plain HTTP outside of this machine, and Chromium on WebSocket handshakes.
2. Origin against Host, and against X-Forwarded-Host, which proxies that change Host set. A page on http is not of an
   application on https: whoever is on the way can make up such a page. That TLS was used is known from the scheme of
   the request and from the headers in which proxies say so; where a proxy ends TLS and says nothing, it is not known,
   and then the scheme is not compared. A browser that says `same-site` or `cross-site` knows better.
3. `public_origins` and `allowed_origins`.

Many proxies drop the port of Host (nginx: `$host`). A Host without a port therefore fits every port of the origin. What
this admits is a page on another port of the same host and, over TLS, of the same scheme, and only where the browser
sends no Sec-Fetch-Site. Such a page gains little: browsers send cookies to every port of a host (RFC 6265, 8.5), so
whoever serves that page already receives them. With `public_origins` set, nothing has to be guessed, and ports are
compared.

Source: https://fetch.spec.whatwg.org/#forbidden-request-header, https://www.w3.org/TR/fetch-metadata/

Tests: tests/asgi/test_request_head.py, tests/asgi/test_abuse.py, tests/server/test_proxies.py.
"""

import enum
import re
from collections.abc import Callable, Collection
from typing import Final

_DEFAULT_PORTS: Final = (":80", ":443")

SCHEME_HEADERS: Final = (
    "x-forwarded-proto", "x-forwarded-protocol", "x-forwarded-scheme", "x-scheme", "x-url-scheme",
    "cloudfront-forwarded-proto",
)  # fmt: skip
"""Where proxies say by which scheme the browser asked them. `forwarded` says it, too (RFC 7239)."""

TLS_HEADERS: Final = ("x-forwarded-ssl", "front-end-https")
"""Headers that are `on` if the browser asked a proxy over TLS."""

_TLS_SCHEMES: Final = ("https", "wss")
_FORWARDED_PROTO: Final = re.compile(r"(?:^|;)\s*proto=\"?([a-z]+)")

_PROXY_HEADERS: Final = frozenset(
    {*SCHEME_HEADERS, *TLS_HEADERS, "cf-connecting-ip", "cf-connecting-ipv6", "cf-visitor", "true-client-ip",
     "fastly-client-ip", "x-appengine-user-ip", "x-client-ip", "x-cluster-client-ip", "x-envoy-external-address",
     "x-real-ip", "x-host", "x-original-host", "x-original-url", "x-rewrite-url", "remote-user", "via"}
)  # fmt: skip
_PROXY_PREFIXES: Final = ("x-auth-request-", "x-remote-", "x-ssl-client-", "x-amzn-oidc-", "x-ms-client-principal")

NO_SITE: Final = "https://headcount-doctor.invalid"
"""Origin of no site (RFC 2606), with which `headcount doctor` asks whether pages of any site may connect."""


class OriginVerdict(enum.Enum):
    """Whether the page that makes a request may make it."""

    OWN = enum.auto()
    """A page of this site, or a program."""
    LISTED = enum.auto()
    """Its origin is in `allowed_origins`."""
    WILDCARD = enum.auto()
    """Allowed only because `allowed_origins` has `*`: it may be counted, but what its browser sends along unasked,
    cookies above all, gives it no right to watch."""
    FOREIGN = enum.auto()
    """Another site's, and not allowed."""


def judge_origin(
    origin: str | None,
    site: str | None,
    host: str | None,
    forwarded_host: str | None,
    public_origins: Collection[str] = (),
    allowed_origins: Collection[str] = (),
    *,
    over_tls: bool = False,
) -> OriginVerdict:
    """
    Judge a request by its headers.

    Args:
        origin: Origin; None: there is none.
        site: Sec-Fetch-Site.
        host: Host.
        forwarded_host: X-Forwarded-Host; the first of several is the one that the browser asked for.
        public_origins: The setting.
        allowed_origins: The setting.
        over_tls: The browser used TLS, as far as it is known (`used_tls`). It matters for origins on http only.
    """
    if origin is None:
        if site != "cross-site":
            return OriginVerdict.OWN
    elif origin in allowed_origins:
        return OriginVerdict.LISTED
    elif site == "same-origin" or origin in public_origins:
        return OriginVerdict.OWN
    elif site in (None, "none") and not (over_tls and is_plain_http(origin)):
        exact = bool(public_origins)
        if _is_of(origin, host, exact) or _is_of(origin, forwarded_host and forwarded_host.partition(",")[0], exact):
            return OriginVerdict.OWN
    return OriginVerdict.WILDCARD if "*" in allowed_origins else OriginVerdict.FOREIGN


def is_plain_http(origin: str | None) -> bool:
    """Say whether a page is on http."""
    return origin is not None and origin[:5].lower() == "http:"


def used_tls(scheme: object, header: Callable[[str], str | None]) -> bool:
    """
    Say whether a browser used TLS, as far as it is known.

    Args:
        scheme: Of the request as the server received it; what a proxy says about the browser's is better.
        header: Returns a header by its lower-case name; in a list, the first is of the proxy next to the browser.
    """
    said = [value.partition(",")[0].strip().lower() for name in SCHEME_HEADERS if (value := header(name))]
    if found := _FORWARDED_PROTO.search((header("forwarded") or "").partition(",")[0].lower()):
        said.append(found[1])
    if any(value in _TLS_SCHEMES for value in said):
        return True
    if any((header(name) or "").strip().lower() == "on" for name in TLS_HEADERS):
        return True
    return not said and scheme in _TLS_SCHEMES


def is_proxy_header(name: str) -> bool:
    """
    Say whether a request header is one that proxies set, and that the application may believe.

    No page needs to set one, and a foreign page could choose its address, its host or its user. So no preflight allows
    one.
    """
    name = name.lower()
    return "forwarded" in name or name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIXES)


def _is_of(origin: str, host: str | None, exact: bool) -> bool:
    """Say whether an http or https origin is of a host; unless `exact`, a host without a port fits every port."""
    scheme, separator, netloc = origin.partition("://")
    if not host or not netloc or not separator or scheme not in ("http", "https"):
        return False
    host, netloc = host.strip().lower(), netloc.lower()
    if _without_default_port(netloc) == _without_default_port(host):
        return True
    name, port = _split(host)
    return not exact and not port and _split(netloc)[0] == name


def _without_default_port(netloc: str) -> str:
    for port in _DEFAULT_PORTS:
        netloc = netloc.removesuffix(port)
    return netloc


def _split(netloc: str) -> tuple[str, str]:
    """Return name and port; an IPv6 address keeps its brackets."""
    name, colon, port = netloc.rpartition(":")
    return (name, port) if colon and port.isdecimal() else (netloc, "")
