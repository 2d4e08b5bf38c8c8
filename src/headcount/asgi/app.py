"""
The ASGI object: what is served where, and the public face of Headcount.

Mounted, it is an application below `base_path`; wrapped, the outermost middleware, which answers `base_path` itself and
hands everything else on untouched. Either way streams never pass through a framework's response classes.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..authorization.authorizer import AuthorizeHook, Authorizer
from ..authorization.deferred import DeferredCheck, HandshakeTemplate
from ..authorization.inner_request import PATH as AUTHORIZE
from ..authorization.inner_request import InnerRequestCheck, InnerRequests
from ..config import Config
from ..core import messages
from ..core.ends import CROSS_SITE, FULL, GOING_AWAY, MALFORMED, NO_WEBSOCKET, End
from ..core.frames import cut_reason
from ..core.labels import UNKNOWN, parse_version
from ..core.payload import Payload
from ..core.stats import Stats
from ..errors import ConfigError, Malformed
from ..live.in_process import LocalConnections
from ..node.hooks import CloseHook, Hooks, OpenHook, RouteHook, checked
from ..node.node import Node
from . import admin, commands, dashboard, log_in, operating
from .client_js import SCRIPTS, ClientScript
from .handover import sse_offer, websocket_offer
from .responses import Headers, Problem, respond_json, respond_problem
from .scope import (
    allowed_origin,
    endpoint_of,
    foreign_origin,
    header,
    is_anybody,
    prefix_of,
    version_in_cookie,
    without_ambient_rights,
)
from .sse import SseSession, ignore
from .stream_request import Opening, read_opening
from .ws import WebSocketSession, needs_handshake

if TYPE_CHECKING:
    from ..metrics import Collector

_GET = SCRIPTS | {
    *("/sse", "/health", "/metrics"),
    *("/admin/stats", "/admin/connections", "/admin/nodes", "/admin/history"),
}
_POST = commands.PATHS | log_in.PATHS | {"/admin/release"}
_ENDPOINTS = ", ".join(sorted({*_GET, *_POST, "/ws", f"{dashboard.PREFIX}/"}))


class Settings(TypedDict, total=False):
    """Keyword arguments of `Headcount`; what each means stands in `headcount.config.Config`."""

    version: str | None
    update_strategy: Literal["sse", "ws", "auto"]
    connection_tracking: bool
    route_tracking: bool
    ip_tracking: bool | Literal["anonymized"]
    base_path: str
    cookie: str | Literal[False]
    backend: str
    fleet_name: str | None
    admin_token: str | None
    metrics_token: str | None
    authorize_url: str | None
    allowed_origins: list[str] | tuple[str, ...]
    trusted_proxies: list[str] | tuple[str, ...]
    stats_interval: float
    keepalive_interval: float
    peer_timeout: float | None
    send_timeout: float
    authorize_timeout: float
    reauthorize_interval: float
    viewer_timeout: float
    hook_timeout: float
    body_timeout: float
    reconnect_spread: float
    max_connections: int | None
    max_listed_connections: int
    max_versions: int
    max_routes: int
    max_queued_messages: int
    max_metric_labels: int


class Headcount:
    """
    Counts the open pages of one application and shows the figures to whoever may see them.

        headcount = Headcount(version="2026.11.3", route_tracking=True)

        @headcount.authorize_stats
        async def admins_only(request):
            return request.session.get("role") == "admin"

        app.mount(headcount.base_path, headcount)

    Args:
        settings: See `Settings`; what is not given comes from `HEADCOUNT_<NAME>`, then from the default.

    Raises:
        ConfigError: A setting is wrong, or no version is known.
    """

    def __init__(self, **settings: Unpack[Settings]) -> None:
        self.config = Config.load(settings)
        self._hooks = Hooks(self.config.hook_timeout)
        self._authorizer = Authorizer(self.config.admin_token, self.config.authorize_timeout)
        if self.config.authorize_url is not None:
            from ..authorization.by_url import ask_url

            self._authorizer.hook = ask_url(self.config.authorize_url, self.config.authorize_timeout)
        self._inner_requests = InnerRequests(
            self._authorizer, self.config.base_path, forget_address=self.config.ip_tracking is False
        )
        self._networks = self.config.networks()
        self._common: HandshakeTemplate | None = None
        self._greeting: tuple[str, bytes] | None = None
        """Of which current version it tells, and its template."""
        self._client_script = ClientScript(self.config)
        self.node = Node(self.config, self._hooks, ordinal=_next_of(self.config.base_path))
        """The machinery, for integrations and metrics."""
        self.node.remake_ask = self._inner_requests.check_from_description
        self._dashboard = dashboard.Dashboard(self.config)
        self._log_in = log_in.LogIn(self.node, self._networks)
        self.base = self.config.base_path.encode() + b"/"
        self.stream_paths = (self.base + b"sse", self.base + b"ws")
        """What the raw paths of streams end with, for `protocol`."""
        self.route_path = self.base + b"route"
        self._protocol: type[asyncio.Protocol] | None = None

    # ---- what applications use

    @property
    def base_path(self) -> str:
        """Where to mount it."""
        return self.config.base_path

    @property
    def version(self) -> str:
        """Build id of this server."""
        return self.config.version

    @property
    def protocol(self) -> type[asyncio.Protocol]:
        """
        A protocol class for uvicorn, which keeps a stream in a fraction of the memory that ASGI takes.

            uvicorn app:app --http app:headcount.protocol

        Everything else is served as before. See docs/performance.md.
        """
        if self._protocol is None:
            from .takeover.choose import protocol_class

            self._protocol = protocol_class(self)
        return self._protocol

    def authorize_stats(self, hook: AuthorizeHook) -> AuthorizeHook:
        """
        Register who may watch. The hook gets the request and returns a bool or a `Grant`.

        Raises:
            ConfigError: It cannot be called with a request; or there is one already, and two would leave open which of
                them decides.
        """
        checked("authorize_stats", hook, "request")
        if self._authorizer.hook is not None:
            raise ConfigError("authorize_stats (or authorize_url) is set already; combine the rules in one function.")
        self._authorizer.hook = hook
        return hook

    def on_connection_open(self, hook: OpenHook) -> OpenHook:
        """Call `hook(connection)` when a page connected. ConfigError: it cannot be called so."""
        self._hooks.open.append(checked("on_connection_open", hook, "connection"))
        return hook

    def on_connection_close(self, hook: CloseHook) -> CloseHook:
        """Call `hook(connection, reason)` when a page's stream ended. ConfigError: it cannot be called so."""
        self._hooks.close.append(checked("on_connection_close", hook, "connection", "reason"))
        return hook

    def on_route_update(self, hook: RouteHook) -> RouteHook:
        """Call `hook(connection, previous_route)` when a page navigated. ConfigError: it cannot be called so."""
        self._hooks.route.append(checked("on_route_update", hook, "connection", "previous_route"))
        return hook

    async def stats(self) -> Stats:
        """
        Return the figures now, of the whole fleet.

        Other nodes get a second to tell theirs; if one does not, the figures are `partial`.
        """
        return await self.node.fresh_stats()

    async def send(self, connection_id: str, message: Mapping[str, Any]) -> None:
        """
        Send one page a JSON object, by the public id that hooks and viewers see or by its secret `connectionId`.

        Raises:
            UnknownConnection: It is not open, on no node.
            Busy: Too many messages for other nodes are on their way.
            TypeError: The message is not a mapping, or holds what is no JSON.
        """
        await self.node.send(connection_id, message)

    async def broadcast(
        self, message: Mapping[str, Any], *, version: str | None = None, route: str | None = None
    ) -> int:
        """
        Send a JSON object to all pages, or those of one version or on one route.

        Returns:
            To how many it was handed.
        """
        return await self.node.broadcast(message, version=version, route=route)

    async def revoke(self, connection_id: str) -> bool:
        """
        Withdraw a viewer's right, by public id or `connectionId`, whichever node it is connected to.

        Returns:
            False if it had none.
        """
        return await self.node.revoke(connection_id)

    async def drain(self) -> None:
        """Tell every page to come back elsewhere, spread over time, and end its stream; refuse new ones."""
        self.node.drain()

    def is_client_outdated(self, request: HTTPConnection) -> bool:
        """
        Say whether a request comes from a page of another version than this server's.

        The page says it in the header `x-headcount-version` or by its cookie. One that does not say is not outdated:
        nobody knows, and programs that call an API have no version.
        """
        told = request.headers.get("x-headcount-version") or version_in_cookie(request.scope, self.config.cookie)
        return told not in (UNKNOWN, self.config.version)

    def use_active_connections(self) -> LocalConnections:
        """Return the figures as observable values, inside this process."""
        return LocalConnections(self.node)

    async def release(self, version: str) -> int:
        """
        Declare a version current; every open page is told.

        Returns:
            How many streams were told; the same version again tells nobody.

        Raises:
            ConfigError: It is no version: empty, too long, or with control characters.
        """
        try:
            checked = parse_version(version)
        except Malformed as error:
            raise ConfigError(str(error)) from None
        if checked == UNKNOWN:
            raise ConfigError("The version is empty or 'unknown'; give the build id that is current now.")
        return await self.node.release(checked)

    def collector(self, scope: Literal["fleet", "node"] = "fleet") -> "Collector":
        """
        Return the metrics for an application's own registry: `REGISTRY.register(headcount.collector())`.

        With other nodes, the first scrape after minutes without one is `headcount_partial`: it does not wait for them.

        Raises:
            ConfigError: prometheus-client is not installed.
        """
        try:
            from ..metrics import SCRAPE_LINGER, Collector
        except ImportError:
            raise ConfigError("Metrics need prometheus-client; run: pip install 'headcount[metrics]'") from None
        return Collector(self.node, self._authorizer, scope, SCRAPE_LINGER)

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Answer `base_path` in front of any ASGI application; everything else goes to it untouched."""
        self._inner_requests.wrap(app)

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] in ("http", "websocket"):
                endpoint = endpoint_of(scope, self.config.base_path, mounted=False)
                if endpoint is not None:
                    stream = await self._serve(endpoint, scope, receive, send, inner=app)
                    if stream is not None:
                        await stream
                    return
            await app(scope, receive, send)

        return wrapped

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as a mounted application or the only one."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        endpoint = endpoint_of(scope, self.config.base_path, mounted=True) or scope["path"]
        stream = await self._serve(endpoint, scope, receive, send, inner=None)
        if stream is not None:
            await stream

    # ---- serving

    async def _serve(
        self, endpoint: str, scope: Scope, receive: Receive, send: Send, *, inner: ASGIApp | None
    ) -> Coroutine[Any, Any, None] | None:
        """
        Answer, or begin a stream.

        Returns:
            What holds the stream, to be awaited at once; the frames of this call are not to last as long as it does.
        """
        self.meet(scope, inner)
        if scope["type"] == "websocket":
            return await self._websocket(endpoint, scope, receive, send, inner)
        if scope["method"] == "HEAD":
            send = _without_body(send)
        cors: Headers = ()
        try:
            cors = self.admit(endpoint, scope)
            if endpoint == "/sse" and scope["method"] == "GET":
                return self._sse(scope, receive, send, cors)
            await self._http(endpoint, scope, receive, send, cors, inner)
        except Malformed as error:
            await respond_problem(send, Problem(400, str(error)), cors)
        except Problem as problem:
            await respond_problem(send, problem, cors)
        return None

    def admit(self, endpoint: str, scope: Scope) -> Headers:
        """Refuse cross-site requests; return the CORS headers of those that are allowed."""
        if endpoint == "/health":
            return ()
        origin = header(scope, b"origin")
        allowed = allowed_origin(origin, self.config.allowed_origins)
        if allowed is not None:
            named = (b"access-control-allow-origin", allowed.encode("latin-1")), (b"vary", b"origin")
            return named if allowed == "*" else (*named, (b"access-control-allow-credentials", b"true"))
        foreign = foreign_origin(scope, origin, self.config.allowed_origins)
        if foreign is not None and endpoint not in SCRIPTS:
            # A browser may say that a page is another site's without saying which.
            whose = f"{foreign[:200]}, another site" if origin is not None else "a page of another site"
            raise Problem(
                403,
                f"This request comes from {whose} than the one it goes to. "
                "If that site is yours, add its origin to allowed_origins.",
            )
        return ()

    async def _http(
        self, endpoint: str, scope: Scope, receive: Receive, send: Send, cors: Headers, inner: ASGIApp | None
    ) -> None:
        method: str = scope["method"]
        if endpoint == AUTHORIZE and await self._inner_requests.answer(scope, send):
            return
        shown = endpoint == dashboard.PREFIX or endpoint.startswith(f"{dashboard.PREFIX}/")
        allowed = "POST" if endpoint in _POST else "GET" if endpoint in _GET or endpoint == "/ws" or shown else None
        if endpoint == "/ws" and method in ("GET", "HEAD"):
            raise needs_handshake(scope)
        if allowed is None:
            raise Problem(404, f"There is nothing at {endpoint[:100]} here; the endpoints are {_ENDPOINTS}.")
        if method == "OPTIONS" and cors:
            preflight = [
                (b"access-control-allow-methods", allowed.encode()),
                (b"access-control-allow-headers", b"content-type, authorization"),
                (b"access-control-max-age", b"600"),
            ]
            # Not respond(): a 204 has no length and no type.
            await send({"type": "http.response.start", "status": 204, "headers": [*cors, *preflight]})
            await send({"type": "http.response.body", "body": b""})
            return
        if method != allowed and not (method == "HEAD" and allowed == "GET" and endpoint != "/sse"):
            raise Problem(405, f"{endpoint} takes {allowed}, not {method[:20]}.", [(b"allow", allowed.encode())])
        if endpoint in commands.PATHS:
            make_check = partial(self._asking, endpoint, scope, inner)
            await commands.command(self.node, endpoint, scope, receive, send, make_check, cors)
        elif endpoint in log_in.PATHS:
            await self._log_in.serve(endpoint, scope, receive, send, cors)
        elif shown:
            await self._dashboard.serve(endpoint, scope, send)
        elif endpoint == "/health":
            await respond_json(send, admin.health(self.node, scope))
        elif endpoint in SCRIPTS:
            await self._script(endpoint, scope, send, cors)
        elif endpoint == "/metrics" and operating.may_scrape(self.config.metrics_token, scope):
            await operating.metrics(self.node, self._authorizer, scope, send, cors)
        else:
            grant = await self.node.answer(self._asking(endpoint, scope, inner))
            if grant is None:
                raise admin.not_authorised(scope)
            if endpoint == "/metrics":
                await operating.metrics(self.node, self._authorizer, scope, send, cors)
                return
            if endpoint == "/admin/release":
                await operating.release(self.node, grant, scope, receive, send, cors)
                return
            if not self.config.connection_tracking:
                raise Problem(409, "Connections are not counted here; set connection_tracking=True.")
            if endpoint == "/admin/stats":
                await respond_json(
                    send, admin.visible(await self.node.fresh_stats(rows=grant.connections), grant), cors
                )
            elif endpoint == "/admin/nodes":
                await respond_json(send, await admin.nodes(self.node), cors)
            elif endpoint == "/admin/history":
                await respond_json(send, self.node.history.to_dict(), cors)
            else:
                await respond_json(send, await admin.connections(self.node, scope, grant), cors)

    def _sse(self, scope: Scope, receive: Receive, send: Send, cors: Headers) -> Coroutine[Any, Any, None] | None:
        opening = self.opening(scope)
        listener = self.node.listeners.adopt(scope.get("server"))
        if self.node.closed_to_streams(listener):
            end = GOING_AWAY if self.node.leaving(listener) else FULL
            seconds = max(1, self.node.reconnect_delay() // 1000)
            raise Problem(503, end.reason, [(b"retry-after", b"%d" % seconds)])
        public, handle = self.node.identify()
        session = SseSession(
            self.node, send, public, counted=opening.counted, visible_keepalives=opening.visible_keepalives
        )
        stays = session.open(self.connected(handle), opening, listener, sse_offer(scope), cors)
        return session.serve(receive, ignore) if stays else None

    async def _websocket(
        self, endpoint: str, scope: Scope, receive: Receive, send: Send, inner: ASGIApp | None
    ) -> Coroutine[Any, Any, None] | None:
        await receive()  # websocket.connect
        foreign = foreign_origin(scope, header(scope, b"origin"), self.config.allowed_origins)
        if endpoint != "/ws" or foreign is not None:
            # Before accepting, a close is an HTTP 403: the handshake itself is refused. The extension for HTTP
            # responses could say why, but uvicorn logs an error each time, and strangers could fill its log.
            await _refuse(send, CROSS_SITE if foreign else NO_WEBSOCKET)
            return None
        try:
            await send({"type": "websocket.accept"})
        except OSError:  # it left before it was answered
            return None
        # From here on refusals are close codes, because a page can read those and not the status of a handshake.
        try:
            opening = self.opening(scope)
        except Malformed as error:
            await _refuse(send, MALFORMED.because(str(error)))
            return None
        listener = self.node.listeners.adopt(scope.get("server"))
        if self.node.closed_to_streams(listener):
            await _refuse(send, GOING_AWAY if self.node.leaving(listener) else FULL)
            return None
        public, handle = self.node.identify()
        connected = self.connected(handle)
        offer = websocket_offer(scope)
        if offer is not None:
            # What is handed over keeps no scope, so what is needed of it is packed.
            make_check = self.ask_later(scope, inner)
            stream = offer.websocket(self.node, public, counted=opening.counted, make_check=make_check)
            if stream is not None:
                stream.post(Payload(connected))
                opening.open(self.node, stream, listener)
                return None
        session = WebSocketSession(self.node, send, public, counted=opening.counted)
        session.open(connected, opening, listener)
        return session.serve(receive, partial(session.take, partial(self._asking, endpoint, scope, inner)))

    async def _script(self, endpoint: str, scope: Scope, send: Send, cors: Headers) -> None:
        body, etag = self._client_script.read(endpoint, prefix_of(scope, endpoint))
        headers = [*cors, (b"etag", etag), (b"cache-control", b"no-cache")]
        # Proxies that compress make the tag a weak one.
        known = [tag.strip().removeprefix("W/") for tag in (header(scope, b"if-none-match") or "").split(",")]
        if etag.decode() in known or "*" in known:
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"text/javascript; charset=utf-8"),
                    (b"content-length", b"%d" % len(body)),
                    (b"x-content-type-options", b"nosniff"),
                    *headers,
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})

    def _asking(self, endpoint: str, scope: Scope, inner: ASGIApp | None) -> InnerRequestCheck:
        anybody = is_anybody(scope, self.config.allowed_origins)
        if anybody:
            scope = without_ambient_rights(scope)
        prefix = prefix_of(scope, endpoint)
        return InnerRequestCheck(self._inner_requests, scope, prefix, inner, use_request_itself=not anybody)

    def ask_later(self, scope: Scope, inner: ASGIApp | None) -> DeferredCheck:
        """Remember of a WebSocket's handshake what it takes to ask for its right to watch."""
        if is_anybody(scope, self.config.allowed_origins):
            scope = without_ambient_rights(scope)
        common = self._common
        if common is None or not common.fits(scope, inner):
            # The newest is kept, because nearly all come by one path.
            common = self._common = self.common(scope, inner)
        return DeferredCheck(common, scope.get("client"), scope["headers"])

    def common(self, scope: Scope, inner: ASGIApp | None) -> HandshakeTemplate:
        """Make what the handshakes of WebSockets share that came by the path of this one."""
        return HandshakeTemplate(self._inner_requests, scope, prefix_of(scope, "/ws"), inner)

    def meet(self, scope: Scope, inner: ASGIApp | None) -> None:
        """Learn from a request where this process listens, and so who its fellows are, and which application it is."""
        self.node.join(scope.get("server"))
        self._inner_requests.learn_app(scope, inner)

    def opening(self, scope: Scope) -> Opening:
        """Read the request for a stream. Raises `Malformed`."""
        opening = read_opening(scope, self.config, self._networks)
        self.node.counters["reconnects"] += opening.again
        return opening

    def connected(self, handle: str) -> bytes:
        """Make the first message of a stream."""
        config, current = self.config, self.node.current_version
        if self._greeting is None or self._greeting[0] != current:
            keepalive = round(config.keepalive_interval * 1000)
            self._greeting = current, messages.greeting(config.version, keepalive, config.update_strategy, current)
        return self._greeting[1] % (handle.encode("ascii"), self.node.timestamp())


_made: Counter[str] = Counter()


def _next_of(base_path: str) -> int:
    """Number the objects of one base path in this process; the same code numbers them alike in every worker."""
    _made[base_path] += 1
    return _made[base_path]


def _without_body(send: Send) -> Send:
    """Answer HEAD as GET, without the body."""

    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head


async def _refuse(send: Send, end: End) -> None:
    with suppress(OSError):  # it left first
        await send({"type": "websocket.close", "code": end.code, "reason": cut_reason(end.reason)})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
