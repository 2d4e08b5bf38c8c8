"""
Short responses: JSON, and the problems of RFC 9457.

Tests: tests/asgi/test_abuse.py, tests/asgi/test_small_endpoints.py.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
from starlette.types import Send

Headers = Iterable[tuple[bytes, bytes]]

_encode = msgspec.json.Encoder().encode


class Problem(Exception):  # noqa: N818  the word of RFC 9457
    """
    A response that says why there is no other.

    Args:
        status: HTTP status.
        detail: What happened, what was expected, what to do. Shown to anybody.
        headers: Further response headers.
        fields: Further fields of the body.
    """

    def __init__(
        self, status: int, detail: str, headers: Headers = (), fields: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = tuple(headers)
        self.fields = fields


class StaticResponse(NamedTuple):
    """A response that is always the same."""

    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


VARY_ORIGIN: Final = (b"vary", b"origin")
VARY: Final = (b"vary", b"origin, sec-fetch-site")
VARY_LINK: Final = (b"vary", b"origin, sec-fetch-site, sec-fetch-mode, sec-fetch-dest")
VARY_FORMAT: Final = (b"vary", b"accept, origin, sec-fetch-site")
VARY_BASE: Final = (b"vary", b"accept, origin, sec-fetch-site, sec-fetch-mode, sec-fetch-dest")
"""Which headers decide whether a page may have the answer; a shared cache must not give it to another page."""


def _headers(
    content_type: bytes, size: int, caching: bytes = b"no-store", embedders: bytes = b"same-origin"
) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"content-type", content_type),
        (b"content-length", b"%d" % size),
        (b"cache-control", caching),
        (b"x-content-type-options", b"nosniff"),
        (b"cross-origin-resource-policy", embedders),
    )


OK: Final = StaticResponse(_headers(b"application/json", 11), b'{"ok":true}')


async def respond(
    send: Send,
    status: int,
    body: bytes,
    content_type: bytes,
    headers: Headers = (),
    caching: bytes = b"no-store",
    embedders: bytes = b"same-origin",
) -> None:
    """
    Send a response.

    Args:
        send: The server's.
        status: HTTP status.
        body: The whole body.
        content_type: Of the body.
        headers: Further response headers.
        caching: Its only cache-control: of several, the strictest would win.
        embedders: Pages that may embed it without CORS; see Cross-Origin-Resource-Policy.
    """
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*_headers(content_type, len(body), caching, embedders), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def respond_json(
    send: Send, content: Mapping[str, Any], headers: Headers = (), embedders: bytes = b"same-origin"
) -> None:
    """Send 200 and a JSON object; see `respond`."""
    await respond(send, 200, _encode(content), b"application/json", headers, embedders=embedders)


async def respond_problem(send: Send, problem: Problem, headers: Headers = ()) -> None:
    """Send a problem."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        **problem.fields,
    }
    await respond(send, problem.status, _encode(body), b"application/problem+json", (*problem.headers, *headers))
