"""What operators and their programs ask for: figures, all connections, health."""

from typing import Any

import msgspec
from starlette.types import Scope

from ..authorization.authorizer import Grant
from ..core import identity, messages, paging
from ..core.stats import ConnectionInfo, Stats
from ..errors import Busy, Malformed
from ..node.node import Node
from .responses import Problem
from .scope import header, query_of

MAX_PAGE = 1_000
"""Rows of one page."""


def health(node: Node, scope: Scope) -> dict[str, Any]:
    """
    Say that the server runs. No figures: anybody may ask.

    With `seen=1` it also says how the request arrived, for `headcount doctor`: nothing that the client did not send,
    but what a proxy made of it.
    """
    told = {"ok": True, "version": node.config.version, "uptime": round(node.clock() - node.started, 3)}
    if query_of(scope["query_string"], ("seen",)).get("seen") == "1":
        names = ("cf-connecting-ip", "x-forwarded-for", "x-real-ip", "forwarded")
        told["seen"] = {
            "httpVersion": scope.get("http_version", ""),
            "forwarded": [name for name in names if header(scope, name.encode()) is not None],
        }
    return told


def not_authorised(scope: Scope) -> Problem:
    """Make the answer for somebody without the right: 401 when a login could help, 403 when somebody is logged in."""
    if header(scope, b"authorization") is None and header(scope, b"cookie") is not None:
        return Problem(403, "You are not authorised to see statistics; the application's authorize_stats said no.")
    return Problem(
        401,
        "You are not authorised to see statistics; send Authorization: Bearer with the admin token, or sign in.",
        [(b"www-authenticate", b'Bearer realm="headcount"')],
    )


def visible(stats: Stats, grant: Grant) -> dict[str, Any]:
    """Return the figures as far as a grant lets them be seen, in the wire's shape."""
    shown = stats.to_dict()
    if not grant.routes:
        shown["routes"] = {}
    rows = messages.rows(stats.connections, routes=grant.routes, ips=grant.ips) if grant.connections else ()
    shown["connections"] = msgspec.to_builtins(rows)
    return shown


async def connections(node: Node, scope: Scope, grant: Grant) -> dict[str, Any]:
    """
    Return one page of all connections of the fleet: `{connections, cursor, total, nodes, partial}`; `cursor` is null on
    the last page, and `total` counts all connections, whatever the filter.

    Raises:
        Problem: 403 when the grant does not show connections, or not what is asked for or sorted by; 503 when too many
            ask other nodes.
        Malformed: A bad limit, cursor or sort, a parameter twice, or one that there is not.
    """
    if not grant.connections:
        raise Problem(
            403, "Your right does not include the list of connections; ask for a Grant with connections=True."
        )
    # Strict: a filter that is misspelt and ignored would answer another question than the one that was asked.
    query = query_of(scope["query_string"], ("version", "route", "sort", "limit", "cursor"), strict=True)
    if "route" in query and not grant.routes:
        raise Problem(403, "Your right does not include routes; leave route out, or ask for a Grant with routes=True.")
    try:
        rows, cursor, partial = await (_page if "sort" not in query else _sorted_page)(node, grant, query)
    except Busy as error:
        raise Problem(503, str(error), [(b"retry-after", b"1")]) from None
    stats = await node.fresh_stats(rows=False)
    return {
        "connections": messages.rows(rows, routes=grant.routes, ips=grant.ips),
        "cursor": cursor,
        "total": stats.total,
        "nodes": msgspec.to_builtins(stats.nodes),
        "partial": stats.partial or partial,
    }


async def _page(node: Node, _: Grant, query: dict[str, str]) -> tuple[list[ConnectionInfo], str | None, bool]:
    limit, cursor = _limit(query.get("limit")), _after(query.get("cursor"))
    page = await node.page(version=query.get("version"), route=query.get("route"), limit=limit, cursor=cursor)
    return page.rows, None if page.cursor is None else f"{page.cursor.node}:{page.cursor.after}", page.partial


async def _sorted_page(
    node: Node, grant: Grant, query: dict[str, str]
) -> tuple[list[ConnectionInfo], str | None, bool]:
    order = paging.parse_order(query["sort"])
    # What must not be seen must not be told by an order either.
    hidden = {"route": not grant.routes, "ip": not grant.ips}
    if hidden.get(order.by):
        raise Problem(403, f"Your right does not include what {order} sorts by; ask for a Grant with {order.by}s=True.")
    cursor = query.get("cursor")
    rows, more, partial = await node.sorted_page(
        order,
        version=query.get("version"),
        route=query.get("route"),
        limit=_limit(query.get("limit")),
        after=None if cursor is None else paging.read_cursor(cursor, order),
    )
    return rows, paging.write_cursor(order, rows[-1]) if more and rows else None, partial


async def nodes(node: Node) -> dict[str, Any]:
    """Return what each node has: `{shares, nodes, partial}`, the answering one first. Durations in ms."""
    shares = await node.shares()
    stats = node.stats(rows=False)
    return {
        "shares": [
            {
                "node": share.node,
                "total": share.total,
                "reporting": share.reporting,
                "silentMs": round(share.silent * 1000),
            }
            for share in shares
        ],
        "nodes": msgspec.to_builtins(stats.nodes),
        "partial": stats.partial,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return 100
    limit = _number(text)
    if limit is None or not 1 <= limit <= MAX_PAGE:
        raise Malformed(f"limit is {text[:40]!r}; give a whole number from 1 to {MAX_PAGE}.")
    return limit


def _after(cursor: str | None) -> paging.Cursor:
    if cursor is None:
        return paging.START
    node, colon, position = cursor.rpartition(":")
    after = _number(position)
    if after is None or after >= 2**63 or (colon and not identity.is_node_id(node)):
        raise Malformed(
            f"cursor is {cursor[:40]!r}; give the cursor that came with the page before, or none for the first page."
        )
    return paging.Cursor(node, after)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
