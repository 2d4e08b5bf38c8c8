"""
Recognises proxies by the headers that they add, and says how to mend each fault in each of them.

Every line of `MENDS` stands in docs/doctor.md, where a test looks for it.

Tests: tests/tools/test_doctor_products.py, tests/cli/test_doctor.py, tests/cli/test_doctor_mends.py.
"""

from collections.abc import Mapping
from typing import Final

_BY_HEADER: Final = (
    ("cf-ray", "Cloudflare"),
    ("x-amz-cf-id", "CloudFront"),
    ("x-amzn-trace-id", "AWS ALB"),
    ("x-envoy-upstream-service-time", "Envoy"),
    ("x-azure-ref", "Azure Front Door"),
    ("x-varnish", "Varnish"),
    ("x-vercel-id", "Vercel"),
    ("fly-request-id", "Fly.io"),
    ("x-fastly-request-id", "Fastly"),
)

_BY_VALUE: Final = (
    ("nginx", "nginx"),
    ("openresty", "nginx"),
    ("caddy", "Caddy"),
    ("envoy", "Envoy"),
    ("haproxy", "HAProxy"),
    ("traefik", "Traefik"),
    ("awselb", "AWS ALB"),
    ("google", "Google Cloud"),
    ("microsoft-iis", "IIS"),
    ("arr/", "IIS"),
    ("cloudflare", "Cloudflare"),
    ("varnish", "Varnish"),
    ("apache", "Apache"),
    ("litespeed", "LiteSpeed"),
)
"""Parts of the headers Server, Via and X-Powered-By, in lower case."""


def products(headers: Mapping[str, str]) -> list[str]:
    """Return the names of the proxies that an answer's headers give away; names in lower case."""
    found = [product for header, product in _BY_HEADER if header in headers]
    said = " ".join(headers.get(name, "") for name in ("server", "via", "x-powered-by")).lower()[:2_000]
    found += [product for part, product in _BY_VALUE if part in said]
    return list(dict.fromkeys(found))


MENDS: Final[Mapping[str, Mapping[str, str]]] = {
    "buffering": {
        "nginx": "proxy_buffering off;",
        "Traefik": "remove the buffering middleware from the router",
        "Cloudflare": "turn Response Buffering off",
        "IIS": 'responseBufferLimit="0"',
        "Apache": "flushpackets=on",
    },
    "compression": {
        "nginx": "gzip off;",
        "Traefik": "excludedContentTypes: [text/event-stream]",
        "Caddy": "match header Content-Type text/html*",
        "Cloudflare": "a compression rule with No compression",
        "IIS": 'doDynamicCompression="false"',
    },
    "total-limit": {
        "Traefik": "transport.respondingTimeouts.writeTimeout=0",
        "Caddy": "remove write from the server's timeouts, and stream_timeout from reverse_proxy",
        "Envoy": "timeout: 0s",
        "Google Cloud": "--timeout=3600",
    },
    "idle-limit": {
        "nginx": "proxy_read_timeout 60s;",
        "Caddy": "read_timeout 60s",
        "HAProxy": "timeout client 60s, timeout server 60s, and timeout tunnel 1h for WebSockets",
        "Envoy": "stream_idle_timeout: 300s",
        "AWS ALB": "idle_timeout.timeout_seconds=120",
        "Google Cloud": "--timeout=3600",
        "IIS": 'timeout="00:02:00"',
    },
    "host": {
        "nginx": "proxy_set_header Host $http_host;",
        "HAProxy": "remove http-request set-header Host",
        "Envoy": "remove host_rewrite_literal",
        "AWS ALB": "routing.http.preserve_host_header.enabled=true",
        "IIS": "/preserveHostHeader:true",
        "Apache": "ProxyPreserveHost On",
    },
    "departure": {
        "nginx": "proxy_ignore_client_abort off;",
        "HAProxy": "option abortonclose",
    },
    "websocket": {
        "nginx": "copy location /__skew/ and both maps of docs/proxies.md#nginx",
        "Envoy": "upgrade_type: websocket",
        "Cloudflare": "turn WebSockets on",
        "IIS": "Install-WindowsFeature Web-WebSockets",
        "Apache": "upgrade=websocket",
    },
}
"""By section of docs/doctor.md and product: what mends it."""


def mend(section: str, found: list[str], general: str) -> str:
    """Return what to do, with the lines for the proxies that were recognised, or nginx's if none was."""
    by_product = MENDS.get(section, {})
    lines = [f"{product}: {by_product[product]}" for product in found or ["nginx"] if product in by_product]
    if not lines:
        return general
    text = f"{general} {'; '.join(lines)}"
    return text if text.endswith(";") else f"{text}."
