"""What operators' programs do beside reading figures: declare a release, scrape metrics."""

from hmac import compare_digest
from typing import Literal

import msgspec
from starlette.types import Receive, Scope, Send

from ..authorization.authorizer import Authorizer, Grant
from ..core.labels import UNKNOWN, parse_version
from ..errors import Malformed
from ..node.node import Node
from .commands import read_json
from .responses import Headers, Problem, respond, respond_json
from .scope import header, query_of


class _Release(msgspec.Struct):
    version: str


_decoder = msgspec.json.Decoder(_Release)


async def release(node: Node, grant: Grant, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
    """
    Declare the version in the body current and answer `{ok, version, told}`.

    Raises:
        Problem: 400, 403, 413 or 415.
    """
    if not grant.release:
        raise Problem(403, "Your right is to see statistics only; ask for a Grant with release=True.")
    version = parse_version((await read_json(node, scope, receive, _decoder)).version)
    if version == UNKNOWN:
        raise Malformed("The version is empty or 'unknown'; send the build id that is current now.")
    await respond_json(send, {"ok": True, "version": version, "told": await node.release(version)}, headers)


def may_scrape(token: str | None, scope: Scope) -> bool:
    """Say whether a request brings the token that metrics have of their own."""
    if token is None:
        return False
    scheme, _, told = (header(scope, b"authorization") or "").partition(" ")
    return scheme.lower() == "bearer" and compare_digest(told.strip().encode("latin-1", "replace"), token.encode())


async def metrics(node: Node, authorizer: Authorizer, scope: Scope, send: Send, headers: Headers) -> None:
    """
    Answer a scrape.

    Raises:
        Problem: 501 without the package that writes the format.
        Malformed: `scope` is neither `fleet` nor `node`.
    """
    told = query_of(scope["query_string"], ("scope",)).get("scope", "fleet")
    if told not in ("fleet", "node"):
        raise Malformed(f"scope is {told[:40]!r}; write fleet or node.")
    whose: Literal["fleet", "node"] = "node" if told == "node" else "fleet"
    if whose == "fleet":
        await node.refresh(rows=False)
    try:
        from ..metrics import Collector, render
    except ImportError:
        raise Problem(501, "This server cannot write metrics; run: pip install 'headcount[metrics]'") from None
    body, content_type = render(Collector(node, authorizer, whose), header(scope, b"accept") or "")
    await respond(send, 200, body, content_type.encode("ascii"), headers)
