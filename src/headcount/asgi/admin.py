"""
The endpoints for operators and their programs: figures, connections, nodes, history, releases, metrics, health.

Tests: tests/asgi/test_figures.py, tests/asgi/test_small_endpoints.py, tests/test_metrics.py.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from ..authorization.tokens import is_same
from ..core import identity, paging, rollouts
from ..core.address import AddressGaps
from ..core.current_version import UNSETTLED
from ..core.labels import parse_build_id, parse_route, parse_version
from ..core.stats import ConnectionInfo, known_release_fields, unaccounted_fields
from ..core.visibility import Visibility
from ..errors import Busy, Malformed, NoStage, Unserved, Unsettled
from ..node.figures import FigureReader
from ..node.fleet_commands import FleetCommands
from ..node.node import Node
from ..node.notices import MAX_WAIT, Notices
from ..node.releases import StageChange, pace_of
from . import history_csv
from .client_posts import read_json
from .exchange import Exchange
from .history_csv import prefers_csv
from .request_head import RequestHead
from .responses import Problem, respond, respond_json
from .rollout_gate import answer_gate

if TYPE_CHECKING:
    from ..metrics import Collector, Scope

MAX_PAGE = 1_000
"""Rows of one page."""


class _Release(msgspec.Struct):
    version: str = ""
    unserved: bool | None = None
    settled: bool = False
    over: float | None = None
    percent: float | None = None
    route: str | None = None
    change: StageChange | None = None


_decode_release = msgspec.json.Decoder(_Release)


class _Notice(msgspec.Struct):
    message: dict[str, Any]
    version: str | None = None
    route: str | None = None
    wait: Annotated[float, msgspec.Meta(ge=0.0, le=MAX_WAIT)] = 5.0


_decode_notice = msgspec.json.Decoder(_Notice)


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
        notices: The node's.
        make_collector: Makes a collector of metrics; ImportError without the package that writes the format.
        address_gaps: Why addresses of clients are not known.
    """

    def __init__(
        self,
        node: Node,
        figures: FigureReader,
        commands: FleetCommands,
        notices: Notices,
        make_collector: "Callable[[Scope, Visibility], Collector]",
        address_gaps: AddressGaps,
    ) -> None:
        self._node = node
        self._figures = figures
        self._commands = commands
        self._notices = notices
        self._make_collector = make_collector
        self._address_gaps = address_gaps

    async def health(self, exchange: Exchange) -> None:
        """
        Answer with version and uptime, without figures: no right is needed.

        With `seen=1` it also holds how the request arrived, for `headcount doctor`: what a proxy made of it. With
        `version=V`, for a page of that version that has no stream, also what `connected` would say: `currentVersion`,
        absent while it is not known, `release`, and `outdated`, null while that is not known. A page without a stream
        has no turn in a staged release: it hears of it when all pages have been asked.

        Raises:
            Malformed: V is not a version.
            Problem: 503, with `ready=1`: this server should get no traffic yet, or no more.
        """
        node, head = self._node, exchange.head
        query = head.query(("seen", "ready", "version"))
        if query.get("ready") == "1":
            reason = node.unready_reason(head.scope.get("server"))
            if reason is not None:
                raise Problem(503, reason, [(b"retry-after", b"1")])
        answer = {"ok": True, "version": node.config.version, "uptime": round(node.clock() - node.started, 3)}
        if asked := query.get("version"):
            version, release = parse_version(asked), self._figures.release
            if self._commands.is_withheld(version):
                release = UNSETTLED
            answer["outdated"] = None if release.current is None else version != release.current
            answer |= known_release_fields(release)
        if query.get("seen") == "1":
            names = ("cf-connecting-ip", "x-forwarded-for", "x-real-ip", "forwarded")
            answer["seen"] = {
                "httpVersion": head.scope.get("http_version", ""),
                "forwarded": [name for name in names if head.header(name.encode()) is not None],
            }
        # Any page may ask in the mode no-cors, in which it cannot read the answer: so the client tells a server that
        # does not allow its page from a network that is away.
        await respond_json(exchange.send, answer, exchange.cors, b"cross-origin")

    async def stats(self, exchange: Exchange) -> None:
        """
        Answer with the figures of the fleet, as far as the grant lets them be seen.

        With `version=V` also with `ofVersion`: `{version, least, most}`, whatever many other versions there are. The
        two differ while a node counts V together with others and cannot tell them apart.

        Raises:
            Malformed: V is not a version, or comes twice.
        """
        visibility = exchange.visibility
        asked = exchange.head.query(("version",)).get("version")
        version = parse_version(asked) if asked else None
        stats = await self._figures.fresh_stats(rows=visibility.connections, version=version)
        await exchange.respond_json(self._with_gap(visibility.stats(stats).to_dict(), visibility))

    async def connections(self, exchange: Exchange) -> None:
        """
        Answer with one page of all connections of the fleet: `{connections, cursor, total, nodes, partial}`; `cursor`
        is null on the last page, and `total` counts all connections, whatever the filter.

        Raises:
            Problem: 403 when the grant does not show connections, or the field of a filter or order; 503 when too many
                questions to other nodes are open.
            Malformed: A bad limit, cursor or sort, a parameter twice, or an unknown one.
        """
        visibility = exchange.visibility
        if not visibility.connections:
            raise Problem(
                403, "You may not see the connection list; authorize_stats must return Grant(connections=True)."
            )
        # Strict: with a misspelt filter ignored, the answer would be that to another question.
        query = exchange.head.query(("version", "route", "sort", "limit", "cursor"), strict=True)
        if "route" in query and not visibility.shows("route"):
            raise Problem(
                403, "You may not filter by route; leave it out. authorize_stats must return Grant(routes=True)."
            )
        try:
            rows, cursor, partial = await (self._list_connections if "sort" not in query else self._list_sorted)(
                visibility, query
            )
        except Busy as error:
            raise Problem(503, str(error), [(b"retry-after", b"1")]) from None
        stats = await self._figures.fresh_stats(rows=False)
        page = {
            "connections": visibility.rows(rows),
            "cursor": cursor,
            "total": stats.total,
            "nodes": msgspec.to_builtins(stats.nodes),
            "partial": stats.partial or partial,
        }
        await exchange.respond_json(self._with_gap(page, visibility))

    async def _list_connections(
        self, _: Visibility, query: dict[str, str]
    ) -> tuple[list[ConnectionInfo], str | None, bool]:
        limit, cursor = _limit(query.get("limit")), _parse_cursor(query.get("cursor"))
        page = await self._commands.list_connections(
            version=query.get("version"), route=query.get("route"), limit=limit, cursor=cursor
        )
        return page.rows, None if page.cursor is None else f"{page.cursor.node}:{page.cursor.after}", page.partial

    async def _list_sorted(
        self, visibility: Visibility, query: dict[str, str]
    ) -> tuple[list[ConnectionInfo], str | None, bool]:
        order = paging.parse_order(query["sort"])
        # An order would reveal what the viewer may not see.
        if not visibility.shows(order.by):
            raise Problem(403, f"You may not sort by {order.by}; authorize_stats must return Grant({order.by}s=True).")
        cursor = query.get("cursor")
        rows, more, partial = await self._commands.list_sorted(
            order,
            version=query.get("version"),
            route=query.get("route"),
            limit=_limit(query.get("limit")),
            after=None if cursor is None else paging.read_cursor(cursor, order),
        )
        return rows, paging.write_cursor(order, rows[-1]) if more and rows else None, partial

    def _with_gap(self, figures: dict[str, Any], visibility: Visibility) -> dict[str, Any]:
        """Add the reason why addresses are not known, for who may see addresses."""
        if visibility.connections and visibility.ips and (reason := self._address_gaps.reason()) is not None:
            figures["ipsUnknown"] = reason.value
        return figures

    async def nodes(self, exchange: Exchange) -> None:
        """
        Answer with the share of each node: `{shares, nodes, partial}`, this node first. Durations in ms. `version` of a
        share is null while it is not known which version the node serves.

        With `cutAfterMs`, the shortest limit that clients have proven to a node, if there is one; `strangers`, the ids
        of nodes with another secret, if there are any; `{unaccounted, absences}`, if connections are unaccounted for.
        """
        shares = await self._figures.shares()
        stats = self._figures.stats(rows=False)
        cut_after = self._node.cut_after
        limit = {} if cut_after is None else {"cutAfterMs": round(cut_after * 1000)}
        strangers = sorted(self._node.border.strangers)
        await exchange.respond_json(
            {
                "shares": [
                    {
                        "node": share.node,
                        "total": share.total,
                        "reporting": share.reporting,
                        "silentMs": round(share.silent * 1000),
                        "version": share.version,
                    }
                    for share in shares
                ],
                "nodes": msgspec.to_builtins(stats.nodes),
                "partial": stats.partial,
                **limit,
                **({"strangers": strangers} if strangers else {}),
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
        """
        Answer with the history of the fleet, or of this node if it is alone.

        As CSV, its minutes, with `format=csv` or to who prefers text/csv; else as JSON.

        Raises:
            Malformed: `format` is neither json nor csv, or comes twice, or there is another parameter.
        """
        asked = exchange.head.query(("format",), strict=True).get("format")
        if asked not in (None, "json", "csv"):
            raise Malformed(f"format is {asked[:40]!r}; send json or csv.")
        history = await self._figures.whole_history()
        if asked == "csv" or (asked is None and prefers_csv(exchange.head.header(b"accept") or "")):
            headers = (*exchange.cors, history_csv.DISPOSITION)
            await respond(exchange.send, 200, history_csv.render(history.minutes), history_csv.TYPE, headers)
        else:
            await exchange.respond_json(history.to_dict())

    async def rollouts(self, exchange: Exchange) -> None:
        """
        Answer with the adoption curves of the last rollouts, `{rollouts: [...]}`, newest first: what the history has of
        them, for who asks again while a rollout runs.
        """
        await exchange.respond_json({"rollouts": rollouts.to_list(await self._figures.rollouts())})

    async def release(self, exchange: Exchange) -> None:
        """
        Declare the version in the body current and answer
        `{ok, version, told, nodes, partial, alreadyCurrent, unreached}`; `unreached` holds `{node, reason}` of the
        nodes that did not. With `"settled": true` instead of a version, that is the one that the fleet has settled on.

        `over` (seconds), `percent` and `route` ask pages in stages. `"change": "pause"`, `"resume"` or `"abort"`,
        instead of all others, changes the stage of the release that is current.

        Raises:
            Problem: 400, 413 or 415; 409 for a version that no node serves, if the body says `"unserved": false`, when
                the fleet has not settled, and when there is no stage that can be changed so.
            Malformed: The version is not a version, or is missing; or there are both.
        """
        body = await read_json(self._node, exchange.head, exchange.receive, _decode_release)
        _check_route_right(exchange, body.route)
        if body.settled and body.version:
            raise Malformed('The body has a version and "settled": true; send one of the two.')
        try:
            if body.change is not None:
                if body != _Release(change=body.change):
                    raise Malformed("The body has a change and other fields; send the change alone.")
                outcome = await self._commands.change_stage(body.change)
            else:
                version = await self._commands.settled_version() if body.settled else parse_build_id(body.version)
                outcome = await self._commands.release(
                    version, unserved=body.unserved, pace=pace_of(body.over, body.percent, body.route)
                )
        except (Unserved, Unsettled, NoStage) as error:
            raise Problem(409, str(error)) from None
        await exchange.respond_json(
            {
                "ok": True,
                "version": outcome.version,
                "told": outcome.streams,
                "nodes": {"reached": outcome.reached, "expected": outcome.expected},
                "partial": outcome.partial,
                "alreadyCurrent": outcome.already_current,
                "unreached": [each._asdict() for each in outcome.unreached],
            }
        )

    async def notify(self, exchange: Exchange) -> None:
        """
        Send pages the message in the body, wait for them to acknowledge it, and answer
        `{ok, sent, acknowledged, partial}`.

        Raises:
            Problem: 400, 413 or 415.
            Malformed: The message is no object, or has a field `acknowledge`; or another field is invalid.
        """
        body = await read_json(self._node, exchange.head, exchange.receive, _decode_notice)
        _check_route_right(exchange, body.route)
        version = None if body.version is None else parse_version(body.version)
        route = None if body.route is None else parse_route(body.route)
        try:
            found = await self._notices.broadcast_acknowledged(
                body.message, version=version, route=route, wait=body.wait
            )
        except TypeError as error:
            raise Malformed(str(error)) from None
        await exchange.respond_json({"ok": True, **found._asdict()})

    async def rollout(self, exchange: Exchange) -> None:
        """
        Answer how far the release is that was declared last: its stage, and what pages did when they were asked.

        `version` and `outdated` are null while that is not known. `state` is `none` if nothing was declared, `at-once`
        if all pages were asked at once, and else `running`, `paused`, `aborted` or `done`.
        """
        found = await self._commands.rollout()
        if found is None:
            stats = await self._figures.fresh_stats(rows=False)
            answer: dict[str, Any] = {"version": None, "state": "none", "total": stats.total, "outdated": None}
            await exchange.respond_json({**answer, "partial": stats.partial})
            return
        stage, progress = found.released.stage, found.progress
        state = stage.state if stage.state != "running" else "done" if stage.is_over(found.now) else "running"
        await exchange.respond_json(
            {
                "version": found.released.version,
                "state": "at-once" if stage.everybody else state,
                "share": round(stage.share(found.now), 4),
                "until": stage.until,
                "route": (stage.route or None) if exchange.visibility.routes else None,
                "endsAt": stage.ends_at() if state == "running" and not stage.everybody else None,
                **{name: getattr(progress, name) for name in _PROGRESS},
                "total": found.total,
                "outdated": found.outdated,
                "nodes": {"reached": found.reached, "expected": found.expected},
                "partial": found.partial,
            }
        )

    async def gate(self, exchange: Exchange) -> None:
        """Answer whether a rollout may go on. See `answer_gate`."""
        await answer_gate(self._figures, exchange)

    async def metrics(self, exchange: Exchange) -> None:
        """
        Answer a scrape as far as the grant lets the figures be seen.

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

            collector = self._make_collector(scope, exchange.visibility)
        except ImportError:
            raise Problem(501, "Metrics need prometheus-client; run: pip install 'headcount[metrics]'.") from None
        body, content_type = render(collector, exchange.head.header(b"accept") or "")
        await respond(exchange.send, 200, body, content_type.encode("ascii"), exchange.cors)


def not_authorised(head: RequestHead, *, has_hook: bool) -> Problem:
    """Make the problem of a request without the right: 401 when a log-in could help, 403 when there is a session."""
    if has_hook and head.is_rebound:
        return Problem(
            403,
            f"Host is {(head.header(b'host') or '')[:100]!r}, but the request came to a loopback address. If this "
            "server is reached under that name, add the name to allowed_hosts, or use the admin token.",
        )
    if head.header(b"authorization") is None and head.header(b"cookie") is not None:
        return Problem(403, "You are not authorised to see statistics; sign in as a user whom authorize_stats allows.")
    return Problem(
        401,
        "You are not authorised to see statistics; send the admin token as Authorization: Bearer <token>, or sign in.",
        [(b"www-authenticate", b'Bearer realm="headcount"')],
    )


def _check_route_right(exchange: Exchange, route: str | None) -> None:
    """Raise 403 if the answer would say how many pages are on a route, to somebody who may not see routes."""
    if route is not None and not exchange.visibility.routes:
        raise Problem(
            403, "You may not choose pages by route; leave it out. authorize_stats must return Grant(routes=True)."
        )


_PROGRESS: Final = ("invited", "accepted", "refused", "deferred", "silent", "gone", "waiting")


def has_metrics_token(token: str | None, head: RequestHead) -> bool:
    """Say whether a request carries the token of its own that metrics may have."""
    sent = head.bearer_token
    if token is None or sent is None:
        return False
    return is_same(sent.encode("latin-1", "replace"), token.encode())


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
