"""
What other nodes do for this one: commands and questions about connections that they own.

Tests: tests/fleet/backends/test_two_sites.py.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from ..authorization.authorizer import AuthorizationCheck, Grant
from ..core import fleet_messages, identity, messages, paging
from ..core.fleet_messages import Declaration
from ..core.rows import is_valid_row
from ..core.ticket import EndedTicket
from ..errors import UNKNOWN_HANDLE, Busy, Malformed, TooManyMessages, UnknownConnection
from .calls import Answers, Caller, NoCaller, NodeUnreachable
from .local_node import LocalListing
from .pending_checks import PendingChecks

MIN_PORTION: Final = 16
"""Rows that a node is asked for at least when connections are sorted."""

MAX_CONCURRENT_PORTIONS: Final = 64
"""Nodes that are asked for rows at the same time for one page; the others wait, and so leave room for commands."""

ALL_TIMEOUT: Final = 2.0
"""Seconds in which all nodes must answer what is asked of all."""

NOT_REVOKED: Final = (
    "Could not revoke: the node that holds this connection did not answer. Try again; the viewer may still be watching."
)
"""The text of the `Busy` that `revoke` raises."""

NOT_SENT: Final = (
    "The message may not have arrived: the node that holds this connection did not answer. "
    "Try again; the connection may still be open."
)
"""The text of the `Busy` that `send` raises."""

SUBSCRIBE_SLACK: Final = 5.0
"""Seconds that a subscription may take in addition to the two checks of the right."""


class RemoteCommands:
    """
    Commands for the owners of connections, and lists of the connections of all nodes.

    Args:
        node: Id of this node.
        listing: Lists its connections.
        authorize_timeout: Seconds in which an application's hook must decide.
    """

    def __init__(self, node: str, listing: LocalListing, authorize_timeout: float) -> None:
        self.calls: Caller = NoCaller()
        """The way to the other nodes, once there are any."""
        self.pending = PendingChecks()
        """Where the checks wait that an owner will ask for."""
        self._node = node
        self._listing = listing
        self._authorize_timeout = authorize_timeout

    async def forward(
        self, handle: str, message: messages.ClientMessage, make_check: Callable[[], AuthorizationCheck]
    ) -> None:
        """
        Have the owner of a connection do what a POST asks.

        Raises:
            UnknownConnection: No node owns it.
            Malformed: Its owner cannot do that.
            TooManyMessages: The connection sends more than it may.
            Busy: Too many questions wait already.
        """
        owner, name = self._owner_of(handle), self._node
        match message:
            case messages.RouteUpdate(route=route):
                answer = await self.calls.call(
                    owner, lambda re: fleet_messages.Navigate(node=name, re=re, handle=handle, route=route)
                )
            case messages.SubscribeStats(deltas=deltas):
                answer = await self._subscribe(owner, handle, make_check, deltas=deltas)
            case messages.Tabs(set=tabs, remove=remove):
                answer = await self.calls.call(
                    owner,
                    lambda re: fleet_messages.ReportTabs(node=name, re=re, handle=handle, set=tabs, remove=remove),
                )
            case messages.Acknowledge(id=number, tab=tab):
                answer = await self.calls.call(
                    owner,
                    lambda re: fleet_messages.ForwardAcknowledge(node=name, re=re, handle=handle, id=number, tab=tab),
                )
            case messages.ReleaseReply(version=version, reply=reply, reason=reason, tab=tab):
                answer = await self.calls.call(
                    owner,
                    lambda re: fleet_messages.ForwardReleaseReply(
                        node=name, re=re, handle=handle, version=version, reply=reply, reason=reason, tab=tab
                    ),
                )
            case messages.UnsubscribeStats():
                answer = await self.calls.call(
                    owner, lambda re: fleet_messages.Unsubscribe(node=name, re=re, handle=handle)
                )
            case _:
                raise AssertionError(f"{message} does not come by POST")
        if answer.malformed:
            raise Malformed(answer.malformed)
        if answer.too_many:
            raise TooManyMessages(answer.too_many)
        if not answer.ok:
            raise UnknownConnection(UNKNOWN_HANDLE)

    async def say_bye(self, handle: str, tab: str) -> None:
        """
        Have the owner of a stream end the count of its page, which says that it leaves.

        Args:
            handle: Secret handle of the stream.
            tab: Key of the tab that leaves; "": the stream is the page's own.

        Raises:
            UnknownConnection: No node owns it.
        """
        owner = self._owner_of(handle)
        try:
            answer = await self.calls.call(
                owner, lambda re: fleet_messages.Bye(node=self._node, re=re, handle=handle, tab=tab)
            )
        except Busy:
            # A page says it once, whether or not others ask too much.
            self._send_to_owner(handle, lambda: fleet_messages.Bye(node=self._node, re=0, handle=handle, tab=tab))
            return
        if not answer.ok:
            raise UnknownConnection(UNKNOWN_HANDLE)

    def replace(self, handle: str, cut_after: float = 0.0, *, shared: bool = False) -> None:
        """
        Have the owner of a stream end it, because a new one here takes its place. Does not wait for it.

        Args:
            handle: Secret handle of the stream.
            cut_after: What the client reports about a limit, in seconds; the owner can check it. 0: nothing.
            shared: Tabs share the new stream; the owner holds those of the old one until `drop_tabs`.
        """
        self._send_to_owner(
            handle,
            lambda: fleet_messages.Replace(node=self._node, handle=handle, cut=cut_after, shared=shared),
        )

    def drop_tabs(self, handle: str, keys: Iterable[str]) -> None:
        """Tell the owner of a stream to stop counting tabs that are counted here now. Does not wait for it."""
        self._send_to_owner(
            handle,
            lambda: fleet_messages.ReportTabs(node=self._node, re=0, handle=handle, remove=tuple(keys)),
        )

    async def send(self, connection_id: str, message: bytes) -> None:
        """
        Have the owner of a connection send it a message.

        Raises:
            UnknownConnection: No node owns it.
            Busy: The owner did not answer, or cannot be looked for; or too many questions wait already.
        """
        answer = await self._ask_owner(
            connection_id,
            lambda re: fleet_messages.Send(node=self._node, re=re, id=connection_id, message=message),
            NOT_SENT,
        )
        if answer is None or not answer.ok:
            raise UnknownConnection(f"No open connection has the id {connection_id.partition('.')[0]}.")

    async def broadcast(self, message: bytes, version: str | None, route: str | None, acknowledge: str = "") -> Answers:
        """Have all other nodes send a message. The `count` of an answer is of connections that it was handed to."""
        return await self.calls.call_all(
            lambda re: fleet_messages.Broadcast(
                node=self._node, re=re, message=message, version=version, route=route, acknowledge=acknowledge
            ),
            ALL_TIMEOUT,
        )

    async def acknowledged(self, number: str) -> Answers:
        """Ask all other nodes how many of their pages acknowledged a message: the `count` of an answer."""
        return await self.calls.call_all(
            lambda re: fleet_messages.AcknowledgedRequest(node=self._node, re=re, id=number), ALL_TIMEOUT
        )

    async def release(self, released: Declaration) -> Answers:
        """Have all other nodes declare a version current. The `count` of an answer is of streams that were told."""
        return await self.calls.call_all(
            lambda re: fleet_messages.DeclareRelease(node=self._node, re=re, **msgspec.structs.asdict(released)),
            ALL_TIMEOUT,
        )

    async def rollout(self) -> Answers:
        """Ask all other nodes what came of their invitations to the current version."""
        return await self.calls.call_all(lambda re: fleet_messages.RolloutRequest(node=self._node, re=re), ALL_TIMEOUT)

    async def end_tickets(self, tickets: Iterable[EndedTicket]) -> None:
        """Have all other nodes end tickets. Those that are away learn of it when they are back."""
        ended = tuple(tickets)
        await self.calls.call_all(
            lambda re: fleet_messages.EndTickets(node=self._node, re=re, tickets=ended), ALL_TIMEOUT
        )

    async def revoke(self, connection_id: str) -> bool:
        """
        Have the owner of a connection withdraw its right. Returns False if it had none.

        Raises:
            Busy: The owner did not answer, or cannot be looked for; or too many questions wait already.
        """
        answer = await self._ask_owner(
            connection_id,
            lambda re: fleet_messages.Revoke(node=self._node, re=re, id=connection_id),
            NOT_REVOKED,
        )
        return answer is not None and answer.ok

    async def list_connections(
        self, *, version: str | None, route: str | None, limit: int, cursor: paging.Cursor
    ) -> paging.ConnectionPage:
        """
        Page through the connections of all nodes, node by node.

        Args:
            version: Only those of this version.
            route: Only those on this route.
            limit: Rows at most.
            cursor: Where the page begins.
        """
        others = await self.calls.other_nodes()
        nodes = sorted(node for node in {self._node, *(others or ())} if node >= cursor.node)
        found = paging.ConnectionPage([], None, partial=others is None)
        for index, node in enumerate(nodes):
            after = cursor.after if node == cursor.node else 0
            limit_here = limit - len(found.rows)
            page = await self._page_of(node, version=version, route=route, limit=limit_here, after=after)
            if page is None:
                found = found._replace(partial=True)
                continue
            found.rows.extend(page.rows)
            if page.next is not None:
                return found._replace(cursor=paging.Cursor(node, page.next))
            if len(found.rows) >= limit:
                following = paging.Cursor(nodes[index + 1], 0) if index + 1 < len(nodes) else None
                return found._replace(cursor=following)
        return found

    async def list_sorted(
        self,
        order: paging.Order,
        *,
        version: str | None,
        route: str | None,
        limit: int,
        after: paging.Position | None,
    ) -> paging.SortedRows:
        """
        Page through the connections of all nodes in one order.

        Each node is asked for its share of the page and some more; and again, for twice as much, as long as it may have
        rows that belong to the page. That is at most `limit` rows a node, and next to nothing beyond the page where
        connections are spread evenly.

        Raises:
            Busy: Too many questions wait already.
        """
        others = await self.calls.other_nodes()
        asked: dict[str, paging.Position | None] = dict.fromkeys([self._node, *(others or ())], after)
        portion = min(limit, max(MIN_PORTION, 2 * limit // len(asked)))
        merge, partial = paging.Merge(order, limit), others is None
        places = asyncio.Semaphore(MAX_CONCURRENT_PORTIONS)

        async def ask(node: str, after: paging.Position | None) -> paging.SortedRows | None:
            async with places:
                return await self._portion_of(node, order, version=version, route=route, limit=portion, after=after)

        while asked:
            answers = await asyncio.gather(*(ask(node, position) for node, position in asked.items()))
            for node, answer in zip(asked, answers, strict=True):
                if answer is None:
                    partial = True
                    merge.feed(node, [], more=False)
                else:
                    merge.feed(node, answer.rows, more=answer.more)
            asked = {**merge.wanted()}
            portion = min(limit, 2 * portion)
        return paging.SortedRows(merge.rows, merge.more, partial)

    async def check(self, node: str, request_number: int) -> fleet_messages.Answer:
        """Have another node check the right to watch, on the request that it received."""
        return await self.calls.call(
            node,
            lambda re: fleet_messages.AuthorizeRequest(node=self._node, re=re, request_number=request_number),
            2 * self._authorize_timeout,
        )

    def _owner_of(self, connection_id: str) -> str:
        owner = identity.owner_of(connection_id)
        if owner is None or owner == self._node:
            raise UnknownConnection(UNKNOWN_HANDLE)
        return owner

    async def _ask_owner(
        self, connection_id: str, make: Callable[[int], fleet_messages.Command], error_text: str
    ) -> fleet_messages.Answer | None:
        """
        Ask the node that owns a connection.

        Args:
            connection_id: Public id or secret handle.
            make: Makes the command with its number.
            error_text: Text of the error when it is not known whether there is such a node.

        Returns:
            Its answer; None: it is certain that no node owns the connection.

        Raises:
            Busy: It is not known, the owner did not answer, or too many questions wait already.
        """
        try:
            owner = self._owner_of(connection_id)
        except UnknownConnection:
            return None
        try:
            return await self.calls.call(owner, make)
        except NodeUnreachable:
            raise Busy(error_text) from None
        except UnknownConnection:
            if await self.calls.may_live(owner):
                raise Busy(error_text) from None
            return None

    def _send_to_owner(self, handle: str, make: Callable[[], fleet_messages.Command]) -> None:
        """Send the owner of a stream a command that needs no answer; anybody may have made the handle up."""
        try:
            owner = self._owner_of(handle)
        except UnknownConnection:
            return
        if len(handle) <= identity.MAX_HANDLE:
            self.calls.send_one_way(owner, make())

    async def _subscribe(
        self, owner: str, handle: str, make_check: Callable[[], AuthorizationCheck], *, deltas: bool
    ) -> fleet_messages.Answer:
        number = self.calls.next_number()
        self.pending.add(number, owner, make_check)
        try:
            answer = await self.calls.call(
                owner,
                lambda re: fleet_messages.Subscribe(node=self._node, re=re, handle=handle, deltas=deltas),
                3 * self._authorize_timeout + SUBSCRIBE_SLACK,
                number,
            )
        except BaseException:
            self.pending.discard(number)
            raise
        if answer.count or not answer.ok:
            self.pending.discard(number)  # else its turn is still to come
        return answer

    async def _page_of(
        self, node: str, *, version: str | None, route: str | None, limit: int, after: int
    ) -> paging.LocalPage | None:
        """Return a page of one node; None: it did not answer, or refused."""
        if node == self._node:
            return self._listing.list_connections(version=version, route=route, limit=limit, after=after)
        try:
            answer = await self.calls.call(
                node,
                lambda re: fleet_messages.Page(
                    node=self._node, re=re, limit=limit, after=after, version=version, route=route
                ),
            )
        except UnknownConnection:
            return None
        if not answer.ok:
            return None
        return paging.LocalPage([row for row in answer.rows[:limit] if is_valid_row(row, node)], answer.next)

    async def _portion_of(
        self,
        node: str,
        order: paging.Order,
        *,
        version: str | None,
        route: str | None,
        limit: int,
        after: paging.Position | None,
    ) -> paging.SortedRows | None:
        """Return the first rows of one node; None: it did not answer, or refused."""
        if node == self._node:
            return await self._listing.list_sorted(order, version=version, route=route, limit=limit, after=after)
        try:
            answer = await self.calls.call(
                node,
                lambda re: fleet_messages.SortedPage(
                    node=self._node, re=re, limit=limit, sort=str(order), after=after, version=version, route=route
                ),
            )
        except UnknownConnection:
            return None
        if not answer.ok:
            return None
        rows = [row for row in answer.rows[:limit] if is_valid_row(row, node)]
        return paging.SortedRows(rows, answer.next is not None)


class RemoteCheck:
    """
    Checks the right of a viewer whose request came to another node: there the first time, here from then on.

    Args:
        remote: Commands to other nodes.
        node: Where the request is.
        request_number: Its number there.
        check_from_description: Makes a check of what that node described; None: it cannot be made here.
    """

    def __init__(
        self,
        remote: RemoteCommands,
        node: str,
        request_number: int,
        check_from_description: Callable[[Mapping[str, Any]], AuthorizationCheck | None],
    ) -> None:
        self._remote = remote
        self._node = node
        self._request_number = request_number
        self._check_from_description = check_from_description
        self._first = True
        self._again: AuthorizationCheck | None = None

    async def __call__(self) -> Grant | None:
        """Return what the viewer may see now, or None."""
        if not self._first:
            return await self._again() if self._again is not None else None
        self._first = False
        answer = await self._remote.check(self._node, self._request_number)
        if not answer.ok or answer.grant is None or answer.request is None:
            return None
        self._again = self._check_from_description(answer.request)
        return msgspec.convert(answer.grant, Grant)

    def visitor(self) -> tuple[bytes, str] | None:
        """Return who asks, once the request is known here; None: its node checks."""
        return None if self._again is None else self._again.visitor()

    def question(self) -> object | None:
        """Return None: the request is at another node, so nothing is known of it."""
        return None

    def describe(self) -> dict[str, Any] | None:
        """Return nothing: a request is handed on once."""
        return None

    def contains(self, nonce: bytes) -> bool:
        """See `AuthorizationCheck`."""
        return self._again is not None and self._again.contains(nonce)
