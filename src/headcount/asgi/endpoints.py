"""
Everything that is served below `base_path`: one table from path to method, right and handler.

404, 405, HEAD and OPTIONS follow from the table. An endpoint is added in `Endpoints._make_operations`; a handler gets
an `Exchange`, and a viewer's `Grant` where its operation asks for one. Opening a stream is in `stream_request.py`.
"""

import enum
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..authorization.authorizer import Grant
from ..authorization.deferred import DeferredCheckMaker, HandshakeTemplate
from ..authorization.inner_request import PATH as AUTHORIZE
from ..authorization.inner_request import InnerRequestCheck, InnerRequests
from ..core.address import AddressGap, AddressGaps
from ..core.ends import CROSS_SITE, FULL_ADDRESS, MALFORMED, NO_WEBSOCKET, WRONG_HOST, End
from ..core.origin import NO_SITE, OriginVerdict, is_proxy_header
from ..core.payload import Payload
from ..errors import Malformed
from ..log_throttle import LogThrottle
from ..node.check_runner import CheckRunner
from ..node.log_outs import LogOuts
from ..node.node_parts import NodeParts
from . import client_posts, log_in
from .admin import Admin, has_metrics_token, not_authorised
from .buffering_clients import refuse_buffering_client
from .client_js import SCRIPTS, ClientScript
from .dashboard import PREFIX as DASHBOARD
from .dashboard import Dashboard
from .exchange import Exchange
from .handover import sse_offer, websocket_offer
from .log_in import LogIn
from .request_head import RequestHead, RequestRules
from .responses import VARY, VARY_BASE, VARY_FORMAT, VARY_LINK, VARY_ORIGIN, Headers, Problem, respond_problem
from .sse_session import SseSession, ignore
from .stream_request import StreamGate, StreamRefused
from .ws_session import WebSocketSession, needs_handshake, send_close

logger = logging.getLogger("headcount")

PREFLIGHT_AGE: Final = 7_200
"""Seconds for which browsers may keep the answer to a preflight; none keeps it longer."""

_BASE: Final = "/"
"""The base path itself. It is no endpoint: from there, browsers are led to the dashboard."""

HISTORY: Final = "/admin/history"
_LINKED: Final = frozenset({_BASE, DASHBOARD, f"{DASHBOARD}/"})
"""
What a link of another site may open: the page of the dashboard, which holds no figures and cannot be framed, and what
leads there.
"""

_WRONG_HOST: Final = "Host is {!r}, which is not in allowed_hosts; use a name that is, or add this one."

_USUAL_HEADERS: Final = b"content-type, authorization"
_MAX_REQUESTED_HEADERS: Final = 2_048
"""Bytes of the headers that a preflight asks for."""

_HEADER_NAMES: Final = re.compile(rb"[ ,]*[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ ,]+[A-Za-z0-9!#$%&'*+.^_`|~-]+)*[ ,]*")

StreamTask: TypeAlias = Coroutine[Any, Any, None]
"""Serves a stream to its end. Await it in the outermost frame, so that no frame that opened it stays in memory."""


class Access(enum.Enum):
    """What a request needs, so that its handler is called."""

    NONE = enum.auto()
    """Anybody may."""
    HANDLE = enum.auto()
    """The secret `connectionId`, which the body holds and the handler checks."""
    FIGURES = enum.auto()
    """A grant, on a server that counts connections."""
    METRICS = enum.auto()
    """The metrics token, or a grant."""
    RELEASE = enum.auto()
    """A grant with `release=True`."""


class Operation(NamedTuple):
    """One endpoint: its method, right and handler."""

    method: str
    """GET or POST. HEAD is answered like GET, without the body."""
    access: Access
    handler: Callable[[Exchange], Awaitable[StreamTask | None]]
    """Answers, or begins a stream and returns it."""
    allow_head: bool = True
    """HEAD is allowed where GET is."""


class Endpoints:
    """
    The endpoints of one Headcount.

    Args:
        parts: The node of this process, which has the settings, and what belongs to it.
        gate: Admits streams to it.
        check_runner: Runs the checks of rights.
        inner_requests: Check rights with the application's own session and user.
        admin: Answers operators.
        address_gaps: Why addresses of clients are not known, which `admin` says.
        log_outs: End tickets of the dashboard.
    """

    def __init__(
        self,
        parts: NodeParts,
        gate: StreamGate,
        check_runner: CheckRunner,
        inner_requests: InnerRequests,
        admin: Admin,
        address_gaps: AddressGaps,
        log_outs: LogOuts,
    ) -> None:
        self.parts = parts
        self.node = parts.node
        self.config = parts.node.config
        self.rules = RequestRules.of(self.config, self._note_gap)
        self.gate = gate
        self._check_runner = check_runner
        self._inner_requests = inner_requests
        self._admin = admin
        self._template: HandshakeTemplate | None = None
        self.not_found_app: ASGIApp | None = None
        """
        The application of `serve`, which answers 404 to everything; None: Headcount has another application.

        It has no session and no user, so checks of rights do not pass through it.
        """
        self._client_script = ClientScript(self.config)
        self._dashboard = Dashboard(self.config)
        self._log_in = LogIn(parts.node, log_outs, inner_requests.authorizer.wrong_tokens)
        self._log_throttle = LogThrottle()
        self._address_gaps = address_gaps
        self._logged_gaps: set[AddressGap] = set()
        self.operations = self._make_operations()
        # What the raw paths of a request contain or end with, for the protocol classes.
        self.raw_base = self.config.base_path.encode() + b"/"
        self.raw_sse_path = self.raw_base + b"sse"
        self.raw_ws_path = self.raw_base + b"ws"
        self.raw_route_path = self.raw_base + b"route"

    def _make_operations(self) -> dict[str, Operation]:
        """Return the table. A path that ends with a slash stands for everything below it."""
        none, figures = Access.NONE, Access.FIGURES
        return {
            "/sse": Operation("GET", none, self._open_sse, allow_head=False),
            "/ws": Operation("GET", none, _ask_for_handshake),
            **{path: Operation("POST", Access.HANDLE, self._command) for path in client_posts.PATHS},
            **{path: Operation("POST", none, self._log_in.serve) for path in log_in.PATHS},
            **{path: Operation("GET", none, self._client_script.serve) for path in SCRIPTS},
            f"{DASHBOARD}/": Operation("GET", none, self._dashboard.serve),
            "/health": Operation("GET", none, self._admin.health),
            "/metrics": Operation("GET", Access.METRICS, self._admin.metrics),
            "/admin/stats": Operation("GET", figures, self._admin.stats),
            "/admin/connections": Operation("GET", figures, self._admin.connections),
            "/admin/nodes": Operation("GET", figures, self._admin.nodes),
            "/admin/nodes/forget": Operation("POST", Access.RELEASE, self._admin.forget_node),
            HISTORY: Operation("GET", figures, self._admin.history),
            "/admin/notify": Operation("POST", Access.RELEASE, self._admin.notify),
            "/admin/history/rollouts": Operation("GET", figures, self._admin.rollouts),
            "/admin/rollout": Operation("GET", figures, self._admin.rollout),
            "/admin/gate": Operation("GET", figures, self._admin.gate),
            "/admin/release": Operation("POST", Access.RELEASE, self._admin.release),
        }

    def find_operation(self, endpoint: str) -> Operation | None:
        """Return the operation of a path below `base_path`, or None."""
        if endpoint == DASHBOARD or endpoint.startswith(f"{DASHBOARD}/"):
            endpoint = f"{DASHBOARD}/"
        return self.operations.get(endpoint)

    async def serve(
        self, endpoint: str, scope: Scope, receive: Receive, send: Send, *, wrapped_app: ASGIApp | None
    ) -> StreamTask | None:
        """
        Answer, or begin a stream.

        Args:
            endpoint: The path below `base_path`.
            scope: The request.
            receive: Its body, or the peer's messages.
            send: For the answer.
            wrapped_app: The application that Headcount is wrapped round, if it is.

        Returns:
            What holds the stream.
        """
        self.join_fleet(scope, wrapped_app)
        head = RequestHead(scope, endpoint, self.rules)
        if scope["type"] == "websocket":
            return await self._open_websocket(head, receive, send, wrapped_app)
        if scope["method"] == "HEAD":
            send = _without_body(send)
        cors: Headers = _vary(head.endpoint)
        try:
            cors = (*cors, *self.cors_headers(head))
            return await self._dispatch(Exchange(head, receive, send, cors, wrapped_app))
        except Malformed as error:
            await respond_problem(send, Problem(400, str(error)), cors)
        except Problem as problem:
            if isinstance(problem, client_posts.DroppedBody):
                self._log_dropped_body(problem.upgrade)
            await respond_problem(send, problem, cors)
        return None

    def wrap(self, app: ASGIApp) -> None:
        """Note the application that Headcount is wrapped round."""
        self._inner_requests.wrap(app)

    def join_fleet(self, scope: Scope, wrapped_app: ASGIApp | None) -> None:
        """Learn from a request where this process listens, and so which other nodes there are, and its application."""
        self.node.join(scope.get("server"))
        self._inner_requests.learn_app(scope, wrapped_app)

    def cors_headers(self, head: RequestHead) -> Headers:
        """
        Refuse a cross-site request.

        Returns:
            The CORS headers of one that is allowed.

        Raises:
            Problem: 403.
        """
        allowed = head.cors_origin
        if head.endpoint == "/health" and allowed is None:
            return ()
        if allowed is not None:
            cors = (
                (b"access-control-allow-origin", allowed.encode("latin-1")),
                (b"access-control-expose-headers", b"retry-after"),
            )
            return cors if allowed == "*" else (*cors, (b"access-control-allow-credentials", b"true"))
        if (
            head.origin_verdict is OriginVerdict.FOREIGN
            and head.endpoint not in SCRIPTS
            and not (head.endpoint in _LINKED and head.is_link)
        ):
            # A browser may say that a page is another site's without saying which.
            self._log_foreign(head)
            raise _foreign("This request", head.origin)
        return ()

    def _log_foreign(self, head: RequestHead) -> None:
        if head.origin == NO_SITE:
            return
        # One kind, because anybody can choose the origin.
        if head.origin is not None and (suppressed := self._log_throttle.suffix_if_due("foreign")) is not None:
            logger.warning(
                "Refused a cross-site request from %r: Host is %r. If this origin is the application's own, let the "
                "proxy pass Host on with its port (nginx: proxy_set_header Host $http_host), or add the origin to "
                "public_origins. If it is another site of yours, add it to allowed_origins.%s",
                head.origin[:200],
                (head.header(b"host") or "")[:200],
                suppressed,
            )

    def _log_host(self, head: RequestHead) -> None:
        if (suppressed := self._log_throttle.suffix_if_due("host")) is not None:
            logger.warning(
                "Refused a request: Host is %r, which is not in allowed_hosts.%s",
                (head.header(b"host") or "")[:200],
                suppressed,
            )

    def _log_dropped_body(self, upgrade: str) -> None:
        if (suppressed := self._log_throttle.suffix_if_due("dropped body")) is not None:
            logger.warning(
                "The server dropped the body of a POST that asks for Upgrade: %s, and Headcount answered 400. "
                "uvicorn does so when it parses with httptools. Start it with --http app:headcount.protocol or "
                "--http h11.%s",
                upgrade,
                suppressed,
            )

    def _note_gap(self, gap: AddressGap | None) -> None:
        self._address_gaps.add(gap)
        if gap is not None and gap not in self._logged_gaps and self._address_gaps.reason() is gap:
            self._logged_gaps.add(gap)
            logger.warning("Client addresses are unknown. %s Each process logs this once.", gap.value)

    def template(self, scope: Scope, wrapped_app: ASGIApp | None) -> HandshakeTemplate:
        """Make the template for all WebSocket handshakes on the path that this one came on."""
        prefix = RequestHead(scope, "/ws", self.rules).prefix
        return HandshakeTemplate(self._inner_requests, scope, prefix, self._asked(wrapped_app))

    def deferred_check_maker(self, head: RequestHead, wrapped_app: ASGIApp | None) -> DeferredCheckMaker:
        """Return the maker of a WebSocket's authorization check, which keeps what that needs of the handshake."""
        wildcard = head.origin_verdict is OriginVerdict.WILDCARD
        scope = head.scope_without_credentials() if wildcard else head.scope
        template = self._template
        if template is None or not template.fits(scope, self._asked(wrapped_app)):
            # The newest is kept, because nearly all come by one path.
            template = self._template = self.template(scope, wrapped_app)
        return DeferredCheckMaker(template, scope.get("client"), scope["headers"])

    def _asked(self, wrapped_app: ASGIApp | None) -> ASGIApp | None:
        """Return the application that a check of a right passes through; None: it goes to the authorizer at once."""
        return None if wrapped_app is self.not_found_app else wrapped_app

    def _check(self, head: RequestHead, wrapped_app: ASGIApp | None) -> InnerRequestCheck:
        wildcard = head.origin_verdict is OriginVerdict.WILDCARD
        scope = head.scope_without_credentials() if wildcard else head.scope
        return InnerRequestCheck(self._inner_requests, scope, head.prefix, wrapped_app, use_request_itself=not wildcard)

    def _check_websocket(self, scope: Scope, wrapped_app: ASGIApp | None) -> InnerRequestCheck:
        # A new head, so that what was read of the other one is not kept for as long as the stream.
        return self._check(RequestHead(scope, "/ws", self.rules), wrapped_app)

    async def _dispatch(self, exchange: Exchange) -> StreamTask | None:
        head, method = exchange.head, exchange.scope["method"]
        if head.endpoint == AUTHORIZE and await self._inner_requests.answer(exchange.scope, exchange.send):
            return None
        if (defect := head.defect) is not None:
            raise Malformed(defect)
        if not head.is_for_this_server:
            self._log_host(head)
            raise Problem(403, _WRONG_HOST.format((head.header(b"host") or "")[:100]))
        operation = self.find_operation(head.endpoint)
        if operation is None and head.endpoint == _BASE and method in ("GET", "HEAD") and head.accepts_html:
            await self._dashboard.redirect(exchange)
            return None
        if operation is None:
            known = ", ".join(sorted(self.operations))
            raise Problem(404, f"No endpoint at {head.endpoint[:48]}; the endpoints are {known}.")
        if method == "OPTIONS" and head.cors_origin is not None and head.endpoint != "/health":
            await _answer_preflight(exchange, operation)
            return None
        if method != operation.method and not (method == "HEAD" and operation.method == "GET" and operation.allow_head):
            allow = [(b"allow", operation.method.encode())]
            raise Problem(405, f"{head.endpoint} accepts {operation.method}, not {method[:20]}.", allow)
        if operation.access not in (Access.NONE, Access.HANDLE):
            exchange = exchange._replace(grant=await self._check_access(exchange, operation.access))
        return await operation.handler(exchange)

    async def _check_access(self, exchange: Exchange, access: Access) -> Grant:
        head = exchange.head
        if access is Access.METRICS and has_metrics_token(self.config.metrics_token, head):
            return Grant()
        grant = await self._check_runner.run(self._check(head, exchange.wrapped_app), for_request=True)
        if grant is None:
            if head.bearer_token is not None and (self.config.admin_token or self.config.metrics_token):
                await self._log_in.hold_back()
            raise not_authorised(head, has_hook=self._inner_requests.authorizer.hook is not None)
        if access is Access.RELEASE and not grant.release:
            raise Problem(403, "You may not declare releases; authorize_stats must return Grant(release=True).")
        if access is Access.FIGURES and not self.config.connection_tracking:
            raise Problem(409, "This server does not count connections; set connection_tracking=True.")
        return grant

    async def _command(self, exchange: Exchange) -> None:
        await client_posts.serve_post(self.node, exchange, partial(self._check, exchange.head, exchange.wrapped_app))

    async def _open_sse(self, exchange: Exchange) -> StreamTask | None:
        refuse_buffering_client(exchange.scope, exchange.receive)
        try:
            stream = self.gate.admit(exchange.head)
        except StreamRefused as refused:
            self.node.counters["reconnects"] += refused.reconnect
            seconds = max(1, self.parts.admission.reconnect_delay() // 1000)
            status = 429 if refused.end is FULL_ADDRESS else 503
            raise Problem(status, refused.end.reason, [(b"retry-after", b"%d" % seconds)]) from None
        session = SseSession(exchange.send, stream)
        stays = session.open(stream, sse_offer(exchange.scope), exchange.cors)
        return session.serve(exchange.receive, ignore) if stays else None

    async def _open_websocket(
        self, head: RequestHead, receive: Receive, send: Send, wrapped_app: ASGIApp | None
    ) -> StreamTask | None:
        await receive()  # websocket.connect
        if head.defect is not None or not head.is_for_this_server:
            if head.defect is None:
                self._log_host(head)
            await _refuse(send, WRONG_HOST)
            return None
        if head.origin_verdict is OriginVerdict.FOREIGN or head.endpoint != "/ws":
            # Before accepting, a close is an HTTP 403: the handshake itself is refused. The extension for HTTP
            # responses could say why, but uvicorn logs an error each time, and anybody could fill its log.
            foreign = head.origin_verdict is OriginVerdict.FOREIGN
            if foreign:
                self._log_foreign(head)
            await _refuse(send, CROSS_SITE if foreign else NO_WEBSOCKET)
            return None
        try:
            await send({"type": "websocket.accept"})
        except OSError:  # it left before it was answered
            return None
        # From here on refusals are close codes, because a page can read those and not the status of a handshake.
        try:
            stream = self.gate.admit(head)
        except Malformed as error:
            await _refuse(send, MALFORMED.because(str(error)))
            return None
        except StreamRefused as refused:
            self.node.counters["reconnects"] += refused.reconnect
            await _refuse(send, refused.end)
            return None
        offer = websocket_offer(head.scope)
        if offer is not None:
            # What is handed over keeps no scope, so what is needed of it is packed.
            deferred = self.deferred_check_maker(head, wrapped_app)
            taken = offer.websocket(self.parts, stream.id, counted=stream.request.counted, make_check=deferred)
            if taken is not None:
                taken.send(Payload(stream.connected))
                stream.enter(taken)
                return None
        session = WebSocketSession(send, stream)
        session.open(stream)
        make_check = partial(self._check_websocket, head.scope, wrapped_app)
        return session.serve(receive, partial(session.on_message, make_check))


async def _ask_for_handshake(exchange: Exchange) -> None:
    """
    Say that a WebSocket is expected.

    A browser does not tell a page why its WebSocket was refused. The page therefore asks by GET, with its origin in the
    query because browsers send none with such a request, and gets the verdict on the handshake.
    """
    origin = exchange.head.query(("origin",)).get("origin")
    if origin and exchange.head.judge_handshake(origin) is OriginVerdict.FOREIGN:
        raise _foreign("The handshake of this WebSocket", origin)
    raise needs_handshake(exchange.scope, asked_by_page=bool(origin))


def _vary(endpoint: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return the header that tells caches which request headers decide about an answer, if any do."""
    if endpoint == _BASE:
        return (VARY_BASE,)
    if endpoint in SCRIPTS or endpoint == "/health":
        return (VARY_ORIGIN,)
    if endpoint == HISTORY:
        return (VARY_FORMAT,)
    return (VARY_LINK if endpoint in _LINKED else VARY,)


def _foreign(what: str, origin: str | None) -> Problem:
    site = "another site" if origin is None else f"another site, {origin[:200]}"
    return Problem(
        403,
        f"{what} comes from {site}. If this application is reached under that origin, add it to public_origins; if it "
        "is another site of yours, to allowed_origins.",
    )


async def _answer_preflight(exchange: Exchange, operation: Operation) -> None:
    # Tracing and monitoring scripts add headers to every request of a page. The page's origin is listed, so any header
    # is welcome that makes no difference to what the page may do. What proxies say is believed, and is theirs to say.
    requested = (exchange.head.header(b"access-control-request-headers") or "").encode("latin-1")
    names = requested if len(requested) <= _MAX_REQUESTED_HEADERS and _HEADER_NAMES.fullmatch(requested) else b""
    if any(map(is_proxy_header, (listed := names.decode("latin-1").replace(",", " ").split()))):
        names = ", ".join(name for name in listed if not is_proxy_header(name)).encode("latin-1")
    headers = [
        *exchange.cors,
        (b"access-control-allow-methods", operation.method.encode()),
        (b"access-control-allow-headers", names.strip(b" ,") or _USUAL_HEADERS),
        (b"access-control-max-age", b"%d" % PREFLIGHT_AGE),
    ]
    # Not respond(): a 204 has no length and no type.
    await exchange.send({"type": "http.response.start", "status": 204, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": b""})


def _without_body(send: Send) -> Send:
    """Answer HEAD as GET, without the body."""

    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head


async def _refuse(send: Send, end: End) -> None:
    with suppress(OSError):  # it left first
        await send_close(send, end)
