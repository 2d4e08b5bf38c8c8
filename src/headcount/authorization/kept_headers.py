"""
Which request headers are kept to check a viewer's right again, and handed to `authorize_stats`.

What a hook meets is the same at every check and on every way in, so what may not be kept is left out the first time,
too. With address tracking off nothing may be kept that holds a client's address, and CDNs invent headers for it. So
known headers are kept by name; any other is kept only if its value can hold no address.
"""

import re
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from ..core.address import anonymized, may_hold_address
from ..core.origin import SCHEME_HEADERS, TLS_HEADERS

HeaderLines: TypeAlias = Iterable[tuple[bytes, bytes]]

MAX_KEPT: Final = 32_768
"""Bytes of the kept headers of one request: what nginx accepts by default. Every open WebSocket keeps its own."""

CREDENTIALS: Final = frozenset({b"cookie", b"authorization"})
"""All that an admin token and an `authorize_url` need."""

_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"upgrade", b"content-length", b"content-type", b"transfer-encoding", b"sec-websocket-key",
     b"sec-websocket-version", b"sec-websocket-extensions", b"sec-websocket-protocol", b"te", b"expect"}
)  # fmt: skip
"""Headers of one connection or body, which an inner request does not have."""

_KEPT: Final = CREDENTIALS | frozenset(
    {b"host", b"origin", b"referer", b"user-agent", b"accept", b"accept-language", b"accept-encoding",
     b"accept-charset", b"cache-control", b"pragma", b"dnt", b"priority", b"sec-gpc", b"x-requested-with",
     b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-prefix", b"x-script-name", b"x-host",
     *(name.encode() for name in (*SCHEME_HEADERS, *TLS_HEADERS)),
     # What proxies and programs prove a user by. Tokens and names of certificates may look like anything.
     b"remote-user", b"remote-name", b"remote-email", b"remote-groups", b"x-api-key", b"x-auth-token",
     b"x-access-token", b"x-remote-user", b"x-remote-email", b"x-remote-groups", b"x-webauth-user",
     b"x-forwarded-user", b"x-forwarded-email", b"x-forwarded-groups", b"x-forwarded-preferred-username",
     b"x-forwarded-access-token", b"cf-access-jwt-assertion", b"cf-access-authenticated-user-email",
     b"x-goog-iap-jwt-assertion", b"x-goog-authenticated-user-email", b"x-goog-authenticated-user-id",
     b"x-pomerium-jwt-assertion", b"tailscale-user-login", b"tailscale-user-name"}
)  # fmt: skip
_KEPT_PREFIXES: Final = (
    b"sec-fetch-", b"sec-ch-", b"x-csrf", b"x-xsrf", b"x-auth-request-", b"x-amzn-oidc-", b"x-ms-client-principal",
    b"x-ssl-client-", b"x-authentik-", b"x-pomerium-claim-",
)  # fmt: skip

_IRRELEVANT: Final = frozenset(
    {b"x-forwarded-for", b"x-real-ip", b"true-client-ip", b"cf-connecting-ip", b"cf-connecting-ipv6",
     b"cf-ray", b"cf-visitor", b"cf-warp-tag-id", b"cf-worker", b"cdn-loop", b"via", b"x-forwarded-server",
     b"x-request-id", b"x-amzn-trace-id", b"x-amz-cf-id", b"traceparent", b"tracestate", b"x-client-ip",
     b"fly-client-ip", b"fastly-client-ip", b"x-azure-clientip", b"x-azure-ref", b"x-vercel-forwarded-for",
     b"x-envoy-external-address", b"cloudfront-viewer-address", b"x-original-forwarded-for", b"do-connecting-ip"}
)  # fmt: skip
"""What usual proxies add to every request: addresses, or nothing that proves who a viewer is. Not looked at further."""


class KeptHeaders:
    """
    The rule of one Headcount: what is kept of a request's headers and of its client.

    Args:
        ip_tracking: The setting. True: everything is kept; `anonymized`: of the client, the network.
        authorize_headers: The setting; names of further headers.
    """

    __slots__ = ("_addresses", "_anonymizes", "credentials", "dropped", "names")

    def __init__(self, ip_tracking: bool | str, authorize_headers: Iterable[str] = ()) -> None:
        self._addresses = ip_tracking is True
        self._anonymizes = ip_tracking == "anonymized"
        listed = {name.lower().encode("ascii") for name in authorize_headers}
        self.credentials = CREDENTIALS | listed
        """All that matters where no hook and no application sees a request."""
        self.names = _KEPT | listed
        """Headers that are kept with whatever they hold."""
        self.dropped = (_HOP_BY_HOP if self._addresses else _HOP_BY_HOP | _IRRELEVANT) - listed
        """Headers that are not kept."""

    def value(self, name: bytes, value: bytes) -> bytes | None:
        """Return what is kept of the value of a header; None: the header is not kept."""
        if name in self.names:
            return value
        if name in self.dropped:
            return None
        return self.other_value(name, value)

    def other_value(self, name: bytes, value: bytes) -> bytes | None:
        """Return what is kept of the value of a header that is neither among `names` nor `dropped`."""
        if self._addresses or name.startswith(_KEPT_PREFIXES) or not may_hold_address(value):
            return value
        return _forwarded_without_addresses(value) if name == b"forwarded" else None

    def filter(self, headers: HeaderLines) -> list[tuple[bytes, bytes]]:
        """Return what is kept of headers."""
        return [(name, kept) for name, value in headers if (kept := self.value(name, value)) is not None]

    def client(self, client: Any) -> Any:
        """Return what is kept of an ASGI scope's `client`: nothing takes the place of an address that is not kept."""
        if self._addresses or client is None:
            return client
        if not self._anonymizes:
            return None
        try:
            return (anonymized(str(client[0])), 0)
        except ValueError:  # a name, or the path of a Unix socket
            return None


def _forwarded_without_addresses(value: bytes) -> bytes | None:
    """Return the scheme and the host in a `Forwarded` header (RFC 7239), which frameworks need to know of TLS."""
    hops = (b";".join(_SCHEME_OR_HOST.findall(hop)) for hop in value.split(b","))
    return b", ".join(hop for hop in hops if hop) or None


_SCHEME_OR_HOST: Final = re.compile(rb"(?<![^;\s])(?:proto|host)=[^;\s]*", re.IGNORECASE)


def size_of(headers: HeaderLines) -> int:
    """Return the bytes of the names and values of headers."""
    return sum(len(name) + len(value) for name, value in headers)
