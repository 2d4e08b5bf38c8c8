"""
The ASGI object: what is served where, and the public face of Headcount.

Mounted, it is an application below `base_path`; wrapped, the outermost middleware, which answers `base_path` itself and
hands everything else on untouched. Either way streams never pass through a framework's response classes.

Tests: tests/asgi/test_endpoints.py, tests/asgi/test_streams.py, tests/asgi/test_isolation.py.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from ..authorization.authorizer import AuthorizeHook, Authorizer, runs_in_thread
from ..authorization.inner_request import InnerRequests
from ..authorization.kept_headers import KeptHeaders
from ..authorization.threads import MAX_THREADS
from ..authorization.tokens import Tickets
from ..config import Config
from ..core.address import AddressGaps
from ..core.labels import UNKNOWN, parse_build_id, parse_version
from ..core.stats import Stats
from ..core.visibility import EVERYTHING, Visibility
from ..errors import ConfigError, Malformed
from ..live.in_process import LocalConnections
from ..node.hooks import CloseHook, Hooks, OpenHook, RouteHook, validate_hook
from ..node.node import Node
from ..node.node_parts import NodeParts
from ..node.notices import Acknowledged
from ..node.releases import pace_of
from .admin import Admin
from .endpoints import Endpoints
from .request_head import RequestHead, endpoint_of
from .stream_request import StreamGate

if TYPE_CHECKING:
    from ..metrics import Collector, MetricLabels


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
    fleet_secret: str | list[str] | tuple[str, ...]
    admin_token: str | None
    metrics_token: str | None
    authorize_url: str | None
    authorize_headers: list[str] | tuple[str, ...]
    allowed_origins: list[str] | tuple[str, ...]
    public_origins: list[str] | tuple[str, ...]
    allowed_hosts: list[str] | tuple[str, ...]
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
    unaccounted_grace: float
    settle_time: float
    state_file: str | None
    known_versions: str | list[str] | tuple[str, ...]
    max_connections: int | None
    max_connections_per_address: int | None
    max_opens_per_second: int | None
    max_listed_connections: int
    max_versions: int
    max_routes: int
    max_queued_messages: int
    max_messages_per_second: int
    max_metric_labels: int


class Headcount:
    """
    Counts the open pages of one application and shows the figures to authorised viewers.

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
        tickets = Tickets(self.config.admin_token, self.config.fleet_name or self.config.base_path)
        kept = KeptHeaders(self.config.ip_tracking, self.config.authorize_headers)
        self._authorizer = Authorizer(
            self.config.admin_token, self.config.authorize_timeout, self.config.host_rules(), tickets
        )
        close_hook: Callable[[], Coroutine[Any, Any, None]] | None = None
        if self.config.authorize_url is not None:
            from ..authorization.by_url import UrlCheck

            hook = UrlCheck(self.config.authorize_url, self.config.authorize_timeout, kept.credentials)
            self._authorizer.hook, close_hook = hook, hook.close
            self._authorizer.asks_url = True
        inner_requests = InnerRequests(self._authorizer, self.config.base_path, kept)
        self.node = Node(
            self.config,
            self._hooks,
            ordinal=_next_ordinal(self.config.base_path),
            check_from_description=inner_requests.check_from_description,
            tickets=tickets,
        )
        """The connections of this process, for integrations and metrics."""
        self.node.on_leave = close_hook
        self._check_runner = self.node.check_runner
        self._figures = self.node.figures
        self._commands = self.node.commands
        self._notices = self.node.notices
        self._viewers = self.node.viewers
        parts = NodeParts(
            self.node, self.node.replacements, self.node.timers, self._viewers, self.node.rollout, self.node.admission
        )
        gaps = AddressGaps()
        self._endpoints = Endpoints(
            parts,
            StreamGate(parts, self._figures),
            self._check_runner,
            inner_requests,
            Admin(self.node, self._figures, self._commands, self._notices, self._make_collector, gaps),
            gaps,
            self.node.log_outs,
        )
        self._protocol: type[asyncio.Protocol] | None = None
        self._metric_labels: MetricLabels | None = None

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

            self._protocol = protocol_class(self._endpoints)
        return self._protocol

    def authorize_stats(self, hook: AuthorizeHook) -> AuthorizeHook:
        """
        Register who may watch. The hook gets the request and returns a bool or a `Grant`.

        Raises:
            ConfigError: It cannot be called with a request; or there is one already, and two would leave open which of
                them decides.
        """
        validate_hook("authorize_stats", hook, "request")
        if self._authorizer.hook is not None:
            raise ConfigError("authorize_stats (or authorize_url) is set already; combine the rules in one function.")
        self._authorizer.hook = hook
        if runs_in_thread(hook):
            # Else those who wait would wait for a thread, where whoever comes first is first.
            self._check_runner.limit_to(MAX_THREADS)
        return hook

    def on_connection_open(self, hook: OpenHook) -> OpenHook:
        """Call `hook(connection)` when a page connected. ConfigError: it cannot be called so."""
        self._hooks.open.append(validate_hook("on_connection_open", hook, "connection"))
        return hook

    def on_connection_close(self, hook: CloseHook) -> CloseHook:
        """Call `hook(connection, reason)` when a page's stream ended. ConfigError: it cannot be called so."""
        self._hooks.close.append(validate_hook("on_connection_close", hook, "connection", "reason"))
        return hook

    def on_route_update(self, hook: RouteHook) -> RouteHook:
        """Call `hook(connection, previous_route)` when a page navigated. ConfigError: it cannot be called so."""
        self._hooks.route.append(validate_hook("on_route_update", hook, "connection", "previous_route"))
        return hook

    async def stats(self) -> Stats:
        """
        Return the figures now, of the whole fleet.

        Other nodes get a second to tell theirs; if one does not, the figures are `partial`.
        """
        self._commands.join_unasked()
        return await self._figures.fresh_stats()

    async def send(self, connection_id: str, message: Mapping[str, Any]) -> None:
        """
        Send one page a JSON object, by the public id that hooks and viewers see or by its secret `connectionId`.

        Raises:
            UnknownConnection: It is not open on any node.
            Busy: The node that it is connected to did not answer in 5 s, or the backend cannot say whether there is
                one; the message may not have arrived. Or too many messages for other nodes are on their way.
            TypeError: The message is not a mapping, or holds what is no JSON.
        """
        self._commands.join_unasked()
        await self._commands.send(connection_id, message)

    @overload
    async def broadcast(
        self, message: Mapping[str, Any], *, version: str | None = None, route: str | None = None
    ) -> int: ...

    @overload
    async def broadcast(
        self,
        message: Mapping[str, Any],
        *,
        version: str | None = None,
        route: str | None = None,
        acknowledge: Literal[True],
        wait: float = 5.0,
    ) -> Acknowledged: ...

    async def broadcast(
        self,
        message: Mapping[str, Any],
        *,
        version: str | None = None,
        route: str | None = None,
        acknowledge: bool = False,
        wait: float = 5.0,
    ) -> int | Acknowledged:
        """
        Send a JSON object to all pages, or those of one version or on one route.

        Args:
            message: The object.
            version: Only to pages of this version.
            route: Only to pages on this route.
            acknowledge: Count the pages that acknowledge it. They get it with one field more, `acknowledge`.
            wait: Seconds to wait for that, 60 at most; it returns earlier when all have.

        Returns:
            To how many it was handed, on the nodes that answered within 2 s. With `acknowledge`, that number as `sent`,
            and `acknowledged`; `partial`: a node did not answer.

        Raises:
            TypeError: The message is not a mapping, or holds what is no JSON; or, with `acknowledge`, it has a field of
                that name.
        """
        self._commands.join_unasked()
        if not acknowledge:
            return await self._notices.broadcast(message, version=version, route=route)
        return await self._notices.broadcast_acknowledged(message, version=version, route=route, wait=wait)

    async def revoke(self, connection_id: str) -> bool:
        """
        Withdraw a viewer's right, by public id or `connectionId`, whichever node it is connected to.

        Returns:
            False if it had none.

        Raises:
            Busy: The node that it is connected to did not answer in 5 s, or the backend cannot say whether there is
                one; or too many requests wait for other nodes. The viewer may still be watching; try again.
        """
        self._commands.join_unasked()
        return await self._commands.revoke(connection_id)

    async def drain(self) -> None:
        """Ask every page to reconnect elsewhere, spread over time, and end its stream; refuse new streams."""
        self.node.drain()

    @property
    def current_version(self) -> str | None:
        """The version that is current in the fleet; None: it is not known, as in a rolling update without a release."""
        return self._figures.current_version

    def is_client_outdated(self, request: HTTPConnection, *, query: str | None = "version") -> bool:
        """
        Say whether a request comes from a page of another version than the current one.

        The page's version is in the header `x-headcount-version`, else in a query parameter, else in the cookie. A
        request without one is not outdated: programs that call an API have no version. While it is not known which
        version is current, as in a rolling update without a release, nobody is outdated. Nor is anybody until the
        stages of a staged release are over: its pages come one after another.

        Args:
            request: The request.
            query: Name of the query parameter; None: the application uses one of that name for something else.
        """
        current = self.current_version
        version = self._client_version(request, query)
        if current is None or version in (UNKNOWN, current):
            return False
        return not self._commands.is_withheld(version)

    def _client_version(self, request: HTTPConnection, query: str | None) -> str:
        try:
            if named := request.headers.get("x-headcount-version"):
                return parse_version(named)
            head = RequestHead(request.scope, "", self._endpoints.rules)
            if query is not None and (named := head.query((query,)).get(query)):
                return parse_version(named)
        except Malformed:
            return UNKNOWN
        return head.cookie_version

    def use_active_connections(self) -> LocalConnections:
        """Return the figures as observable values, inside this process."""
        return LocalConnections(self._figures, self._viewers)

    async def release(
        self,
        version: str,
        *,
        unserved: bool | None = None,
        over: float | None = None,
        percent: float | None = None,
        route: str | None = None,
    ) -> int:
        """
        Declare a version current, and send it to every open page: at once, or in stages.

        In stages, an outdated page hears of the version when its turn comes. The turns are spread evenly over `over`
        seconds, over all nodes. Declared again, a stage of the same version goes on from where it is.

        Args:
            version: The build id.
            unserved: Whether it may be a version that no node serves, because another server delivers the front end.
                None or True: it may.
            over: Seconds from the first page to the last, 30 days at most.
            percent: How many of the outdated pages are asked in the end; None: all.
            route: Only pages on this route are asked; None: all.

        Returns:
            The number of streams that it was sent to by now, on the nodes that answered within 2 s; the others learn of
            it when they can be reached. 0 if the version is current already.

        Raises:
            ConfigError: The version is empty, too long, reserved, or has invisible characters; or the stage is
                invalid.
            Unserved: No node serves it, and `unserved` is False.
        """
        try:
            checked, pace = parse_build_id(version), pace_of(over, percent, route)
        except Malformed as error:
            raise ConfigError(str(error)) from None
        self._commands.join_unasked()
        return (await self._commands.release(checked, unserved=unserved, pace=pace)).streams

    def collector(self, scope: Literal["fleet", "node"] = "fleet") -> "Collector":
        """
        Return the metrics for an application's own registry: `REGISTRY.register(headcount.collector())`.

        With other nodes, the first scrape after minutes without one is `headcount_partial`: it does not wait for them.

        Raises:
            ConfigError: prometheus-client is not installed.
        """
        try:
            from ..metrics import SCRAPE_LINGER

            return self._make_collector(scope, linger=SCRAPE_LINGER)
        except ImportError:
            raise ConfigError("Metrics need prometheus-client; run: pip install 'headcount[metrics]'") from None

    def _make_collector(
        self, scope: Literal["fleet", "node"], visibility: Visibility = EVERYTHING, linger: float | None = None
    ) -> "Collector":
        from ..metrics import Collector, MetricLabels

        if self._metric_labels is None:
            self._metric_labels = MetricLabels(self.config.max_metric_labels)
        return Collector(
            self.node,
            self._figures,
            self._viewers,
            self._hooks,
            self._authorizer,
            self.node.rollout,
            scope,
            linger,
            labels=self._metric_labels,
            visibility=visibility,
        )

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Answer `base_path` in front of any ASGI application; everything else goes to it untouched."""
        self._endpoints.wrap(app)

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] in ("http", "websocket"):
                endpoint = endpoint_of(scope, self.config.base_path, mounted=False)
                if endpoint is not None:
                    stream = await self._endpoints.serve(endpoint, scope, receive, send, wrapped_app=app)
                    if stream is not None:
                        await self._serve_stream(stream)
                    return
            await app(scope, receive, send)

        return wrapped

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as a mounted application or the only one."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        endpoint = endpoint_of(scope, self.config.base_path, mounted=True) or scope["path"]
        stream = await self._endpoints.serve(endpoint, scope, receive, send, wrapped_app=None)
        if stream is not None:
            await self._serve_stream(stream)

    async def _serve_stream(self, stream: Coroutine[Any, Any, None]) -> None:
        """Serve a stream to its end. The last one of a process that ends holds it until the leave message is out."""
        try:
            await stream
        except asyncio.CancelledError:  # daphne cancels all that runs, and waits until it has ended
            await self.node.wait_left()
            raise
        await self.node.wait_left()


_made: Counter[str] = Counter()
"""Objects so far, by base path."""


def _next_ordinal(base_path: str) -> int:
    """Number the objects of one base path in this process; the same code numbers them alike in every worker."""
    _made[base_path] += 1
    return _made[base_path]


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def endpoints_of(headcount: Headcount) -> Endpoints:
    """Return what serves a Headcount's requests, for the protocol classes; applications do not need it."""
    return headcount._endpoints  # noqa: SLF001  the same module
