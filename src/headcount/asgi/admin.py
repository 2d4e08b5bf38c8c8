"""
The endpoints for operators and their programs: figures, connections, nodes, history, releases, metrics, health.

Tests: tests/asgi/test_figures.py, tests/asgi/test_small_endpoints.py, tests/test_metrics.py.
"""

from collections.abc import Callable
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

import msgspec

from ..authorization.authorizer import Grant
from ..core import identity, messages, paging
from ..core.address import AddressGaps
from ..core.labels import UNKNOWN, parse_version
from ..core.stats import ConnectionInfo, Stats, unaccounted_fields
from ..errors import Busy, Malformed
from ..node.figures import FigureReader
from ..node.fleet_commands import FleetCommands
from ..node.node import Node
from .client_posts import read_json
from .exchange import Exchange
from .request_head import RequestHead
from .responses import Problem, respond

if TYPE_CHECKING:
    from ..metrics import Collector, Scope

MAX_PAGE = 1_000
"""Rows of one page."""


class _Release(msgspec.Struct):
    version: str


_decode_release = msgspec.json.Decoder(_Release)


class _Forget(msgspec.Struct):
    node: str


_decode_forget = msgspec.json.Decoder(_Forget)


class Admin:
    """
    Answers operators and their programs.

    Args:
        node: Of this process.
        figures: The node's.
        commands: The node's.
        make_collector: Makes a collector of metrics; ImportError without the package that writes the format.
        address_gaps: Why addresses of clients are not known.
    """

    def __init__(
        self,
        node: Node,
        figures: FigureReader,
        commands: FleetCommands,
        make_collector: "Callable[[Scope], Collector]",
        address_gaps: AddressGaps,
    ) -> None:
        self._node = node
        self._figures = figures
        self._commands = commands
        self._make_collector = make_collector
        self._address_gaps = address_gaps

    async def health(self, exchange: Exchange) -> None:
        """
        Answer with version and uptime, without figures: no right is needed.

        With `seen=1` it also holds how the request arrived, for `headcount doctor`: what a proxy made of it.

        Raises:
            Problem: 503, with `ready=1`: this server should get no traffic yet, or no more.
        """
        node, head = self._node, exchange.head
        query = head.query(("seen", "ready"))
        if query.get("ready") == "1":
            reason = node.unready_reason(head.scope.get("server"))
            if reason is not None:
                raise Problem(503, reason, [(b"retry-after", b"1")])
        answer = {"ok": True, "version": node.config.version, "uptime": round(node.clock() - node.started, 3)}
        if query.get("seen") == "1":
            names = ("cf-connecting-ip", "x-forwarded-for", "x-real-ip", "forwarded")
            answer["seen"] = {
                "httpVersion": head.scope.get("http_version", ""),
                "forwarded": [name for name in names if head.header(name.encode()) is not None],
            }
        await exchange.respond_json(answer)

    async def stats(self, exchange: Exchange) -> None:
        """Answer with the figures of the fleet, as far as the grant lets them be seen."""
        grant = _grant_of(exchange)
        stats = await self._figures.fresh_stats(rows=grant.connections)
        await exchange.respond_json(self._with_gap(visible_stats(stats, grant), grant))

    async def connections(self, exchange: Exchange) -> None:
        """
        Answer with one page of all connections of the fleet: `{connections, cursor, total, nodes, partial}`; `cursor`
        is null on the last page, and `total` counts all connections, whatever the filter.

        Raises:
            Problem: 403 when the grant does not show connections, or the field of a filter or order; 503 when too many
                questions to other nodes are open.
            Malformed: A bad limit, cursor or sort, a parameter twice, or an unknown one.
        """
        grant = _grant_of(exchange)
        if not grant.connections:
            raise Problem(
                403, "You may not see the connection list; authorize_stats must return Grant(connections=True)."
            )
        # Strict: with a misspelt filter ignored, the answer would be that to another question.
        query = exchange.head.query(("version", "route", "sort", "limit", "cursor"), strict=True)
        if "route" in query and not grant.routes:
            raise Problem(
                403, "You may not filter by route; leave it out. authorize_stats must return Grant(routes=True)."
            )
        try:
            rows, cursor, partial = await (self._page if "sort" not in query else self._sorted_page)(grant, query)
        except Busy as error:
            raise Problem(503, str(error), [(b"retry-after", b"1")]) from None
        stats = await self._figures.fresh_stats(rows=False)
        page = {
            "connections": messages.rows(rows, routes=grant.routes, ips=grant.ips),
            "cursor": cursor,
            "total": stats.total,
            "nodes": msgspec.to_builtins(stats.nodes),
            "partial": stats.partial or partial,
        }
        await exchange.respond_json(self._with_gap(page, grant))

    async def _page(self, _: Grant, query: dict[str, str]) -> tuple[list[ConnectionInfo], str | None, bool]:
        limit, cursor = _limit(query.get("limit")), _parse_cursor(query.get("cursor"))
        page = await self._commands.page(
            version=query.get("version"), route=query.get("route"), limit=limit, cursor=cursor
        )
        return page.rows, None if page.cursor is None else f"{page.cursor.node}:{page.cursor.after}", page.partial

    async def _sorted_page(self, grant: Grant, query: dict[str, str]) -> tuple[list[ConnectionInfo], str | None, bool]:
        order = paging.parse_order(query["sort"])
        # An order would reveal what the viewer may not see.
        hidden = {"route": not grant.routes, "ip": not grant.ips}
        if hidden.get(order.by):
            raise Problem(403, f"You may not sort by {order.by}; authorize_stats must return Grant({order.by}s=True).")
        cursor = query.get("cursor")
        rows, more, partial = await self._commands.sorted_page(
            order,
            version=query.get("version"),
            route=query.get("route"),
            limit=_limit(query.get("limit")),
            after=None if cursor is None else paging.read_cursor(cursor, order),
        )
        return rows, paging.write_cursor(order, rows[-1]) if more and rows else None, partial

    def _with_gap(self, figures: dict[str, Any], grant: Grant) -> dict[str, Any]:
        """Add the reason why addresses are not known, for who may see addresses."""
        if grant.connections and grant.ips and (reason := self._address_gaps.reason()) is not None:
            figures["ipsUnknown"] = reason.value
        return figures

    async def nodes(self, exchange: Exchange) -> None:
        """
        Answer with the share of each node: `{shares, nodes, partial}`, this node first; and `cutAfterMs`, if this node
        knows it. Durations in ms.

        With `{unaccounted, absences}`, if connections are unaccounted for.
        """
        shares = await self._figures.shares()
        stats = self._figures.stats(rows=False)
        cut_after = self._node.cut_after
        limit = {} if cut_after is None else {"cutAfterMs": round(cut_after * 1000)}
        await exchange.respond_json(
            {
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
                **limit,
                **unaccounted_fields(stats.absences),
            }
        )

    async def forget_node(self, exchange: Exchange) -> None:
        """
        End the doubt about the node in the body, and answer `{ok, node}`.

        Raises:
            Problem: 400, 413 or 415; 404 when nothing of that node is unaccounted for; 503 when the
                backend does not answer.
            Malformed: It is no node id.
        """
        gone = (await read_json(self._node, exchange.head, exchange.receive, _decode_forget)).node
        if not identity.is_node_id(gone):
            raise Malformed(f"node is {gone[:40]!r}; send the id of a node as GET /admin/nodes lists it.")
        try:
            forgotten = await self._commands.forget(gone)
        except Busy as error:
            raise Problem(503, str(error), [(b"retry-after", b"1")]) from None
        if not forgotten:
            raise Problem(404, f"Node {gone} has no unaccounted connections. GET /admin/nodes lists absent nodes.")
        await exchange.respond_json({"ok": True, "node": gone})

    async def history(self, exchange: Exchange) -> None:
        """Answer with the history of the fleet, or of this node if it is alone."""
        await exchange.respond_json(await self._figures.whole_history())

    async def release(self, exchange: Exchange) -> None:
        """
        Declare the version in the body current and answer `{ok, version, told, nodes, partial, alreadyCurrent}`.

        Raises:
            Problem: 400, 413 or 415.
            Malformed: The version is not a version.
        """
        body = await read_json(self._node, exchange.head, exchange.receive, _decode_release)
        version = parse_version(body.version)
        if version == UNKNOWN:
            raise Malformed("The version is empty or 'unknown'; send the build id that is current now.")
        outcome = await self._commands.release(version)
        await exchange.respond_json(
            {
                "ok": True,
                "version": version,
                "told": outcome.streams,
                "nodes": {"reached": outcome.reached, "expected": outcome.expected},
                "partial": outcome.partial,
                "alreadyCurrent": outcome.already_current,
            }
        )

    async def metrics(self, exchange: Exchange) -> None:
        """
        Answer a scrape.

        Raises:
            Problem: 501 without the package that writes the format.
            Malformed: `scope` is neither `fleet` nor `node`.
        """
        asked = exchange.head.query(("scope",)).get("scope", "fleet")
        if asked not in ("fleet", "node"):
            raise Malformed(f"scope is {asked[:40]!r}; send fleet or node.")
        scope: Scope = "node" if asked == "node" else "fleet"
        if scope == "fleet":
            await self._figures.fresh_stats(rows=False)
        try:
            from ..metrics import render

            collector = self._make_collector(scope)
        except ImportError:
            raise Problem(501, "Metrics need prometheus-client; run: pip install 'headcount[metrics]'.") from None
        body, content_type = render(collector, exchange.head.header(b"accept") or "")
        await respond(exchange.send, 200, body, content_type.encode("ascii"), exchange.cors)


def not_authorised(head: RequestHead) -> Problem:
    """Make the problem of a request without the right: 401 when a log-in could help, 403 when there is a session."""
    if head.header(b"authorization") is None and head.header(b"cookie") is not None:
        return Problem(403, "You are not authorised to see statistics; sign in as a user whom authorize_stats allows.")
    return Problem(
        401,
        "You are not authorised to see statistics; send the admin token as Authorization: Bearer <token>, or sign in.",
        [(b"www-authenticate", b'Bearer realm="headcount"')],
    )


def visible_stats(stats: Stats, grant: Grant) -> dict[str, Any]:
    """Return the figures as far as a grant lets them be seen, in the wire's shape."""
    shown = stats.to_dict()
    if not grant.routes:
        shown["routes"] = {}
    rows = messages.rows(stats.connections, routes=grant.routes, ips=grant.ips) if grant.connections else ()
    shown["connections"] = msgspec.to_builtins(rows)
    return shown


def has_metrics_token(token: str | None, head: RequestHead) -> bool:
    """Say whether a request carries the token of its own that metrics may have."""
    sent = head.bearer_token
    if token is None or sent is None:
        return False
    return compare_digest(sent.encode("latin-1", "replace"), token.encode())


def _grant_of(exchange: Exchange) -> Grant:
    assert exchange.grant is not None, "the operation asks for one"
    return exchange.grant


def _limit(text: str | None) -> int:
    if text is None:
        return 100
    limit = _number(text)
    if limit is None or not 1 <= limit <= MAX_PAGE:
        raise Malformed(f"limit is {text[:40]!r}; send a whole number from 1 to {MAX_PAGE}.")
    return limit


def _parse_cursor(cursor: str | None) -> paging.Cursor:
    if cursor is None:
        return paging.START
    node, colon, position = cursor.rpartition(":")
    after = _number(position)
    if after is None or after >= 2**63 or not (identity.is_node_id(node) if colon else after == 0):
        raise Malformed(
            f"cursor is {cursor[:40]!r}; give the cursor that came with the page before, or none for the first page."
        )
    return paging.Cursor(node, after)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
