"""A node's place in its fleet: which backend it joins, what it does for other nodes, and what it has them do."""

import asyncio
import logging
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from ..authorization.authorizer import AuthorizationCheck, Grant
from ..config import without_password
from ..core import fleet_messages, identity, messages, paging
from ..core.labels import parse_version
from ..core.payload import Payload
from ..core.rows import is_valid_row
from ..core.stats import ConnectionInfo, NodeShare
from ..errors import UNKNOWN_HANDLE, ConfigError, Malformed, ProtocolError, UnknownConnection
from ..node.listening_sockets import Listener, addresses_of
from .view import FleetView

if TYPE_CHECKING:
    from ..node.node import Node

MAX_ASKED: Final = 256
"""Requests to watch that came here for connections of other nodes, and are not decided yet."""

LEAST_PORTION: Final = 16
"""Rows that a node is asked for at least when connections are sorted."""

ASKED_AT_ONCE: Final = 64
"""Nodes that are asked for rows at the same time for one page; the others wait, and so leave room for commands."""

LISTENER_INTERVAL: Final = 0.05
"""Seconds between two looks at the listening socket while there is no page."""

logger = logging.getLogger("headcount")


class _Asked(NamedTuple):
    owner: str
    make_ask: "Callable[[], AuthorizationCheck]"


class Membership:
    """
    See above.

    Args:
        node: Whose place it is.
    """

    def __init__(self, node: "Node") -> None:
        self.peers: FleetView | None = None
        """None while this node is alone for all it knows."""
        self.among_workers = False
        """Whoever started this process says that it is one of several, should that not be visible."""
        self._node = node
        self._listeners: list[Listener] = []
        self._seen: set[Any] = set()
        """`server` values of the requests so far."""
        self._asked: dict[int, _Asked] = {}
        self._alone = node.config.backend == "memory" or not node.config.connection_tracking
        if not self._alone and node.config.backend not in ("auto", "local"):
            # Now, not at the first request: a server that cannot do what it was told should not start.
            try:
                from .backends.redis_address import check
            except ImportError:
                raise ConfigError("The backend needs redis; run: pip install 'headcount[redis]'") from None
            check(node.config.backend, without_password(node.config.backend))

    # ---- joining

    def join(self, server: Any) -> None:
        """Find the others, by the first request that tells where this process listens. In the request's loop."""
        if self._alone:
            return
        key = tuple(server) if server else None
        peers = self.peers
        if key in self._seen and (peers is None or peers.loop is None or not peers.loop.is_closed()):
            return
        if peers is not None and peers.loop is not None and peers.loop.is_closed():
            self._seen.clear()
        self._seen.add(key)
        if (listener := self._node.listeners.adopt(key)) is not None and listener not in self._listeners:
            self._listeners.append(listener)
        if self._node.config.backend in ("auto", "local"):
            self.meet(addresses_of(key) if key is not None else [])
        elif peers is None or not peers.active:
            self._join_redis()

    def meet(self, addresses: list[str]) -> None:
        """Meet the workers that listen on the same addresses, in the running loop."""
        config = self._node.config
        from .backends.local import LocalBackend

        try:
            if not addresses:
                raise OSError("the listening socket of this process could not be found")
            if not hasattr(socket, "AF_UNIX"):
                raise OSError("this system has no Unix sockets")
            peers = self._make_peers()
            backend = peers.backend
            if not peers.active or not isinstance(backend, LocalBackend):
                # The same code makes the same objects in the same order in every worker.
                name = f"{config.fleet_name or config.base_path}\n{self._node.ordinal}"
                backend = LocalBackend(self._node.id, name, addresses[0])
                peers.start(backend)
                self._node.use(peers)
            for address in addresses[1:]:
                peers.call_at_home(partial(backend.meet, address))
        except OSError as error:
            self._cannot_meet(error)

    def _cannot_meet(self, error: OSError) -> None:
        if self._node.config.backend != "local" and not (self.among_workers or several_workers()):
            logger.debug("No other workers are looked for: %s", error)
            if self.peers is not None and not self.peers.active:
                self.peers = None
            return
        logger.error(
            "The workers of this machine cannot find one another, so each counts its own pages only and marks its "
            "figures partial: %s. Give them a directory that they share, by XDG_RUNTIME_DIR or TMPDIR; or set "
            "backend='redis://…'; or, if there is only one worker, backend='memory'.",
            error,
        )
        peers = self._make_peers()
        peers.cut_off()
        self._node.use(peers)

    def _join_redis(self) -> None:
        from .backends.redis import RedisBackend

        config = self._node.config
        peers = self._make_peers()
        fleet = config.fleet_name or config.base_path
        peers.start(RedisBackend(self._node.id, config.backend, fleet, without_password(config.backend)))
        self._node.use(peers)
        self._watch_listener()

    def _make_peers(self) -> FleetView:
        if self.peers is None:
            self.peers = self._node.make_peers(self._obey)
        return self.peers

    # ---- for the node

    @property
    def ready(self) -> bool:
        """The others' figures are in, or had time to come."""
        return self.peers is None or self.peers.ready

    def publish_soon(self) -> None:
        """Tell those who watch elsewhere what changed here. The lock is held."""
        if self.peers is not None:
            self.peers.publish_soon()

    @property
    def report_age(self) -> float:
        """For how many seconds the node that has been silent longest has said nothing. The lock is held."""
        return 0.0 if self.peers is None else self.peers.report_age

    def shares(self) -> list[NodeShare]:
        """Return what each node has told, this one first; empty for a node on its own. The lock is held."""
        return [] if self.peers is None else self.peers.shares()

    def knows_the_fleet(self) -> bool:
        """
        Say whether the figures here are the fleet's. The lock is held.

        Of few workers on one machine they nearly always are, because it costs next to nothing to have them told. Of a
        large fleet they are while somebody watches here; that every node listens to all others is what does not scale.
        """
        return self.peers is None or self.peers.knows_the_fleet()

    async def release(self, released: fleet_messages.Released) -> int:
        """Have all others declare a version current. Returns to how many streams they handed it."""
        if self.peers is None:
            return 0
        answers = await self.peers.forwarding.call_all(
            lambda re: fleet_messages.Release(
                node=self._node.id, re=re, version=released.version, number=released.number
            ),
            2.0,
        )
        return sum(answer.count for answer in answers)

    def reserve_version(self, version: str) -> None:
        """Count a version apart from now on. The lock is held."""
        if self.peers is not None:
            self.peers.reserve_version(version)

    def touch(self, *, rows: bool, linger: float | None = None) -> None:
        """Look at the others for `linger` seconds or a while; `rows`: also at their connections. The lock is held."""
        if self.peers is not None:
            self.peers.touch(rows=rows, linger=linger)

    async def fresh(self, *, rows: bool) -> None:
        """Bring in what all others have now; `rows`: with connections."""
        if self.peers is not None:
            await self.peers.fresh(rows=rows)

    def viewers_changed(self) -> None:
        """Tell that a viewer came who may see more than those before. The lock is held."""
        if self.peers is not None:
            self.peers.viewers_changed()

    def maybe_leave(self) -> None:
        """Leave the fleet, now that there is no stream, if the process is about to end. Does not wait for it."""
        if self.peers is not None and self.peers.active and self._ends():
            self.peers.stop_soon()

    def _ends(self) -> bool:
        """Say whether no server of this process takes anybody in any more."""
        return self._node.draining or (bool(self._listeners) and not any(each.open for each in self._listeners))

    def _watch_listener(self) -> None:
        # With pages, a pulse notices. Without any, a server that stops leaves a tenth of a second, and tells nobody.
        peers = self.peers
        if peers is None or not peers.active or peers.loop is None:
            return
        if not self._node.sessions:
            self.maybe_leave()
        peers.loop.call_later(LISTENER_INTERVAL, self._watch_listener)

    async def leave(self) -> None:
        """Leave the fleet."""
        if self.peers is not None and self.peers.active:
            await self.peers.at_home(self.peers.stop())

    # ---- what others do for us

    async def forward(
        self, handle: str, message: messages.ClientMessage, make_ask: "Callable[[], AuthorizationCheck]"
    ) -> None:
        """
        Have the owner of a connection do what a POST asks.

        Raises:
            UnknownConnection: Nobody owns it.
            Malformed: Its owner cannot do that.
            Busy: Too much is going on.
        """
        owner, peers = self._owner(handle)
        forwarding, name = peers.forwarding, self._node.id
        match message:
            case messages.RouteUpdate(route=route):
                answer = await forwarding.call(
                    owner, lambda re: fleet_messages.Navigate(node=name, re=re, handle=handle, route=route)
                )
            case messages.SubscribeStats(deltas=deltas):
                number = forwarding.number()
                while len(self._asked) >= MAX_ASKED:
                    del self._asked[next(iter(self._asked))]
                self._asked[number] = _Asked(owner, make_ask)
                try:
                    answer = await forwarding.call(
                        owner,
                        lambda re: fleet_messages.Subscribe(node=name, re=re, handle=handle, deltas=deltas),
                        2 * self._node.config.authorize_timeout + 5,
                        number,
                    )
                except BaseException:
                    self._asked.pop(number, None)
                    raise
                if answer.count or not answer.ok:
                    self._asked.pop(number, None)  # else its turn is still to come
            case messages.Tabs(set=tabs, remove=remove):
                answer = await forwarding.call(
                    owner,
                    lambda re: fleet_messages.ReportTabs(node=name, re=re, handle=handle, set=tabs, remove=remove),
                )
            case messages.UnsubscribeStats():
                answer = await forwarding.call(
                    owner, lambda re: fleet_messages.Unsubscribe(node=name, re=re, handle=handle)
                )
            case _:
                raise AssertionError(f"{message} does not come by POST")
        if answer.malformed:
            raise Malformed(answer.malformed)
        if not answer.ok:
            raise UnknownConnection(UNKNOWN_HANDLE)

    def replace(self, handle: str) -> None:
        """Have the owner of a stream end it, because a new one here takes its place. Does not wait for it."""
        try:
            owner, peers = self._owner(handle)
        except UnknownConnection:
            return
        if peers.active and len(handle) <= identity.MAX_HANDLE:
            peers.forwarding.tell(owner, fleet_messages.Replace(node=self._node.id, handle=handle))

    async def send(self, connection_id: str, message: bytes) -> None:
        """
        Have the owner of a connection send it a message.

        Raises:
            UnknownConnection: Nobody owns it.
            Busy: Too much is going on.
        """
        owner, peers = self._owner(connection_id)
        answer = await peers.forwarding.call(
            owner, lambda re: fleet_messages.Send(node=self._node.id, re=re, id=connection_id, message=message)
        )
        if not answer.ok:
            raise UnknownConnection(f"No open connection has the id {connection_id.partition('.')[0]}.")

    async def broadcast(self, message: bytes, version: str | None, route: str | None) -> int:
        """Have all others send a message. Returns to how many connections they handed it."""
        if self.peers is None:
            return 0
        answers = await self.peers.forwarding.call_all(
            lambda re: fleet_messages.Broadcast(
                node=self._node.id, re=re, message=message, version=version, route=route
            ),
            2.0,
        )
        return sum(answer.count for answer in answers)

    async def revoke(self, connection_id: str) -> bool:
        """Have the owner of a connection withdraw its right. Returns False if it had none."""
        try:
            owner, peers = self._owner(connection_id)
            answer = await peers.forwarding.call(
                owner, lambda re: fleet_messages.Revoke(node=self._node.id, re=re, id=connection_id)
            )
        except UnknownConnection:
            return False
        return answer.ok

    async def page(
        self, *, version: str | None, route: str | None, limit: int, cursor: tuple[str, int]
    ) -> tuple[list[ConnectionInfo], tuple[str, int] | None, bool]:
        """
        Page through the connections of all nodes, node by node.

        Args:
            version: Only those of this version.
            route: Only those on this route.
            limit: Rows at most.
            cursor: Node and position in it; `("", 0)` is the start.

        Returns:
            The rows, the cursor of the next page or None, and whether a node did not answer.
        """
        others = await self.peers.forwarding.others() if self.peers is not None else []
        start, after = cursor
        nodes = sorted(node for node in {self._node.id, *others} if node >= start)
        rows: list[ConnectionInfo] = []
        partial = False
        for index, node in enumerate(nodes):
            found, following = await self._page_of(
                node, version=version, route=route, limit=limit - len(rows), after=after if node == start else 0
            )
            partial |= following == -1
            rows += found
            if following is not None and following >= 0:
                return rows, (node, following), partial
            if len(rows) >= limit:
                return rows, (nodes[index + 1], 0) if index + 1 < len(nodes) else None, partial
        return rows, None, partial

    async def _page_of(
        self, node: str, *, version: str | None, route: str | None, limit: int, after: int
    ) -> tuple[list[ConnectionInfo], int | None]:
        """Return a page of one node, and where the next begins: None at its end, -1 if it did not answer."""
        if node == self._node.id:
            return self._node.page_here(version=version, route=route, limit=limit, after=after)
        assert self.peers is not None
        try:
            answer = await self.peers.forwarding.call(
                node,
                lambda re: fleet_messages.Page(
                    node=self._node.id, re=re, limit=limit, after=after, version=version, route=route
                ),
            )
        except UnknownConnection:
            return [], -1
        return [row for row in answer.rows[:limit] if is_valid_row(row, node)], answer.next

    async def sorted_page(
        self,
        order: paging.Order,
        *,
        version: str | None,
        route: str | None,
        limit: int,
        after: paging.Position | None,
    ) -> tuple[list[ConnectionInfo], bool, bool]:
        """
        Page through the connections of all nodes in one order.

        Each node is asked for its share of the page and some more; and again, for twice as much, as long as it may have
        rows that belong to the page. That is at most `limit` rows a node, and next to nothing beyond the page where
        connections are spread evenly.

        Returns:
            The rows, whether there is a next page, and whether a node did not answer.

        Raises:
            Busy: Too much is going on.
        """
        others = await self.peers.forwarding.others() if self.peers is not None else []
        asked: dict[str, paging.Position | None] = dict.fromkeys([self._node.id, *others], after)
        portion = min(limit, max(LEAST_PORTION, 2 * limit // len(asked)))
        merge, partial = paging.Merge(order, limit), False
        at_once = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(node: str, after: paging.Position | None) -> tuple[list[ConnectionInfo], bool] | None:
            async with at_once:
                return await self._portion_of(node, order, version=version, route=route, limit=portion, after=after)

        while asked:
            answers = await asyncio.gather(*(ask(node, position) for node, position in asked.items()))
            for node, answer in zip(asked, answers, strict=True):
                partial |= answer is None
                rows, more = answer or ([], False)
                merge.take(node, rows, more=more)
            asked = {**merge.wanted()}
            portion = min(limit, 2 * portion)
        return merge.rows, merge.more, partial

    async def _portion_of(
        self,
        node: str,
        order: paging.Order,
        *,
        version: str | None,
        route: str | None,
        limit: int,
        after: paging.Position | None,
    ) -> tuple[list[ConnectionInfo], bool] | None:
        """Return the first rows of one node and whether it has more, or None if it did not answer."""
        if node == self._node.id:
            rows_here, more_here, _ = await self._node.sorted_page_here(
                order, version=version, route=route, limit=limit, after=after
            )
            return rows_here, more_here
        assert self.peers is not None
        try:
            answer = await self.peers.forwarding.call(
                node,
                lambda re: fleet_messages.SortedPage(
                    node=self._node.id, re=re, limit=limit, sort=str(order), after=after, version=version, route=route
                ),
            )
        except UnknownConnection:
            return None
        if not answer.ok:
            return None
        rows = [row for row in answer.rows[:limit] if is_valid_row(row, node)]
        return rows, answer.next is not None

    def _owner(self, connection_id: str) -> tuple[str, FleetView]:
        owner = connection_id[: identity.NODE_LENGTH]
        if self.peers is None or owner == self._node.id or not identity.is_node(owner):
            raise UnknownConnection(UNKNOWN_HANDLE)
        return owner, self.peers

    # ---- what we do for others

    async def _obey(self, command: fleet_messages.Command) -> fleet_messages.Answer:
        """Do what another node asks for. Never raises but for cancellation."""
        try:
            return await self._do(command)
        except Malformed as error:
            return fleet_messages.Answer(node=self._node.id, re=command.re, ok=False, malformed=str(error))
        except (UnknownConnection, ProtocolError):
            pass
        except Exception:
            logger.exception("What node %s asked for failed; nothing else is affected.", command.node)
        return fleet_messages.Answer(node=self._node.id, re=command.re, ok=False)

    async def _do(self, command: fleet_messages.Command) -> fleet_messages.Answer:
        node = self._node
        ok, count = True, 0
        match command:
            case fleet_messages.Navigate(handle=handle, route=route):
                node.handle(node.find(handle), messages.RouteUpdate(messages.checked_route(route)), _no_ask)
            case fleet_messages.ReportTabs(handle=handle, set=tabs, remove=remove):
                node.handle(node.find(handle), messages.checked_tabs(tabs, remove), _no_ask)
            case fleet_messages.Unsubscribe(handle=handle):
                node.handle(node.find(handle), messages.UnsubscribeStats(), _no_ask)
            case fleet_messages.Replace(handle=handle):
                ok = node.replace_here(handle)
            case fleet_messages.Subscribe(handle=handle, deltas=deltas):
                ask = RemoteCheck(self, command.node, command.re)
                deciding = node.handle(node.find(handle), messages.SubscribeStats(deltas), lambda: ask)
                if deciding is not None:
                    await deciding
                    count = 1
            case fleet_messages.AuthorizeRequest(of=of):
                return await self._decide(command, of)
            case fleet_messages.Send(id=connection_id, message=message):
                node.deliver(connection_id, _payload(message))
            case fleet_messages.Broadcast(message=message, version=version, route=route):
                count = node.deliver_all(_payload(message), version=version, route=route)
            case fleet_messages.Release(version=version, number=number):
                count = node.release_here(parse_version(version), number)
            case fleet_messages.Revoke(id=connection_id):
                ok = node.revoke_here(connection_id)
            case fleet_messages.Page(version=version, route=route, limit=limit, after=after):
                rows, following = node.page_here(version=version, route=route, limit=min(limit, 1_000), after=after)
                return fleet_messages.Answer(node=node.id, re=command.re, rows=tuple(rows), next=following)
            case fleet_messages.SortedPage(sort=sort, version=version, route=route, limit=limit, after=position):
                rows, more, _ = await node.sorted_page_here(
                    paging.parse_order(sort), version=version, route=route, limit=min(limit, 1_000), after=position
                )
                return fleet_messages.Answer(node=node.id, re=command.re, rows=tuple(rows), next=1 if more else None)
        return fleet_messages.Answer(node=node.id, re=command.re, ok=ok, count=count)

    async def _decide(self, command: fleet_messages.AuthorizeRequest, of: int) -> fleet_messages.Answer:
        asked = self._asked.get(of)
        grant, request = None, None
        if asked is not None and asked.owner == command.node:
            del self._asked[of]
            ask = asked.make_ask()
            grant = await self._node.answer(ask)
            request = ask.describe()
        return fleet_messages.Answer(
            node=self._node.id,
            re=command.re,
            ok=grant is not None,
            grant=msgspec.structs.asdict(grant) if grant is not None else None,
            request=request if grant is not None else None,
        )

    async def ask_elsewhere(self, node: str, of: int) -> fleet_messages.Answer:
        """Have another node decide on the request that it received."""
        if self.peers is None:
            raise UnknownConnection("This node is alone.")
        return await self.peers.forwarding.call(
            node,
            lambda re: fleet_messages.AuthorizeRequest(node=self._node.id, re=re, of=of),
            2 * self._node.config.authorize_timeout,
        )

    def ask_again(self, request: Mapping[str, Any]) -> "AuthorizationCheck | None":
        """Make what asks here on a request that came in elsewhere."""
        return self._node.remake_ask(request) if self._node.remake_ask is not None else None


class RemoteCheck:
    """
    Asks for the right of a viewer whose request came to another node: there the first time, here from then on.

    Args:
        membership: Of this node.
        node: Where the request is.
        of: Its number there.
    """

    def __init__(self, membership: Membership, node: str, of: int) -> None:
        self._membership = membership
        self._node = node
        self._of = of
        self._first = True
        self._again: AuthorizationCheck | None = None

    async def __call__(self) -> Grant | None:
        """Return what the viewer may see now, or None."""
        if not self._first:
            return await self._again() if self._again is not None else None
        self._first = False
        answer = await self._membership.ask_elsewhere(self._node, self._of)
        if not answer.ok or answer.grant is None or answer.request is None:
            return None
        self._again = self._membership.ask_again(answer.request)
        return msgspec.convert(answer.grant, Grant)

    def describe(self) -> dict[str, Any] | None:
        """Return nothing: a request is handed on once."""
        return None


def several_workers() -> bool:
    """Say whether this process is visibly one of several workers."""
    concurrency = os.environ.get("WEB_CONCURRENCY", "")
    return (
        multiprocessing.parent_process() is not None
        or (concurrency.isdecimal() and int(concurrency) > 1)
        or os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn")
        or "gunicorn.arbiter" in sys.modules
    )


def _payload(message: bytes) -> Payload:
    """Take a message of another node's application for what it should be: a JSON object, in our own encoding."""
    try:
        return Payload(messages.application(msgspec.json.decode(message)))
    except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError) as error:
        raise UnknownConnection(f"This is no message: {error}") from None


def _no_ask() -> "AuthorizationCheck":
    raise AssertionError("nobody asks to watch here")
