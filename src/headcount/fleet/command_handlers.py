"""
What this node does for others: commands for connections that it owns.

Tests: tests/fleet/backends/test_two_sites.py.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, assert_never

import msgspec

from ..authorization.authorizer import AuthorizationCheck, Grant
from ..core import fleet_messages, messages, paging
from ..core.fleet_messages import Declaration
from ..core.labels import parse_build_id
from ..core.payload import Payload
from ..errors import Malformed, ProtocolError, TooManyMessages, UnknownConnection
from .local_node import ClientMessages, LocalCommands, LocalListing, LocalNotices, LocalReplacements, LocalTickets
from .remote_commands import RemoteCheck, RemoteCommands

MAX_PAGE: Final = 1_000
"""Rows in an answer."""

logger = logging.getLogger("headcount")


class CommandHandlers:
    """
    Runs the commands of other nodes.

    Args:
        node: Id of this node.
        client_messages: What clients ask of it.
        replacements: End streams that new ones replace.
        commands: What the application and its operators ask of it.
        notices: Its messages to many pages.
        listing: Lists its connections.
        tickets: Of the dashboard, which log-outs end.
        authorize: Runs the check of a right. Every failure denies.
        remote: Commands to other nodes, for the check of a right where the request is.
        check_from_description: Makes a check for a request that came in at another node.
    """

    def __init__(
        self,
        node: str,
        *,
        client_messages: ClientMessages,
        replacements: LocalReplacements,
        commands: LocalCommands,
        notices: LocalNotices,
        listing: LocalListing,
        tickets: LocalTickets,
        authorize: Callable[[AuthorizationCheck], Awaitable[Grant | None]],
        remote: RemoteCommands,
        check_from_description: Callable[[Mapping[str, Any]], AuthorizationCheck | None],
    ) -> None:
        self._node = node
        self._client_messages = client_messages
        self._replacements = replacements
        self._commands = commands
        self._notices = notices
        self._listing = listing
        self._tickets = tickets
        self._authorize = authorize
        self._remote = remote
        self._check_from_description = check_from_description

    async def run_command(self, command: fleet_messages.Command) -> fleet_messages.Answer:
        """Run another node's command. Never raises but for cancellation."""
        try:
            return await self._dispatch(command)
        except Malformed as error:
            return fleet_messages.Answer(node=self._node, re=command.re, ok=False, malformed=str(error))
        except TooManyMessages as error:
            return fleet_messages.Answer(node=self._node, re=command.re, ok=False, too_many=str(error))
        except (UnknownConnection, ProtocolError):
            pass
        except Exception:
            logger.exception("Fleet: a command from node %s failed and was refused.", command.node)
        return fleet_messages.Answer(node=self._node, re=command.re, ok=False)

    async def _dispatch(self, command: fleet_messages.Command) -> fleet_messages.Answer:
        client = self._client_messages
        ok, count = True, 0
        match command:
            case (
                fleet_messages.Navigate()
                | fleet_messages.Unsubscribe()
                | fleet_messages.ForwardAcknowledge()
                | fleet_messages.ForwardReleaseReply()
            ):
                client.on_message(client.find(command.handle), _forwarded(command), _no_check)
            case fleet_messages.ReportTabs(handle=handle, set=tabs, remove=remove):
                self._report_tabs(handle, messages.checked_tabs(tabs, remove))
            case fleet_messages.Replace(handle=handle, cut=cut_after, shared=shared):
                ok = self._replacements.replace_here(handle, cut_after, shared=shared)
            case fleet_messages.Bye(handle=handle, tab=tab):
                ok = client.bye_here(handle, messages.checked_bye(tab).tab)
            case fleet_messages.Subscribe(handle=handle, deltas=deltas):
                check = RemoteCheck(self._remote, command.node, command.re, self._check_from_description)
                deciding = client.on_message(client.find(handle), messages.SubscribeStats(deltas), lambda: check)
                if deciding is not None:
                    await deciding
                    count = 1
            case fleet_messages.AuthorizeRequest(request_number=request_number):
                return await self._run_check(command, request_number)
            case fleet_messages.Send(id=connection_id, message=message):
                self._commands.deliver(connection_id, _payload(message))
            case fleet_messages.Broadcast(message=message, version=version, route=route, acknowledge=number):
                count = self._notices.deliver_all(_payload(message), version=version, route=route, acknowledge=number)
            case fleet_messages.AcknowledgedRequest(id=number):
                known = self._notices.acknowledged(number)
                ok, count = known is not None, known or 0
            case fleet_messages.RolloutRequest():
                share = self._commands.invitation_counts()
                return fleet_messages.Answer(node=self._node, re=command.re, rollout=share)
            case fleet_messages.DeclareRelease(number=number):
                ok = not number or self._commands.takes_release(number)
                count = self._commands.release_here(_declared(command))
                released = self._commands.released
                return fleet_messages.Answer(node=self._node, re=command.re, ok=ok, count=count, released=released)
            case fleet_messages.Revoke(id=connection_id):
                ok = await self._commands.revoke_here(connection_id)
            case fleet_messages.EndTickets(tickets=tickets):
                count = await self._tickets.end_here(tickets)
            case fleet_messages.Page(version=version, route=route, limit=limit, after=after):
                limit = min(limit, MAX_PAGE)
                page = self._listing.list_connections(version=version, route=route, limit=limit, after=after)
                return fleet_messages.Answer(node=self._node, re=command.re, rows=tuple(page.rows), next=page.next)
            case fleet_messages.SortedPage(sort=sort, version=version, route=route, limit=limit, after=position):
                order = paging.parse_order(sort)
                found = await self._listing.list_sorted(
                    order, version=version, route=route, limit=min(limit, MAX_PAGE), after=position
                )
                following = 1 if found.more else None
                return fleet_messages.Answer(node=self._node, re=command.re, rows=tuple(found.rows), next=following)
            case _:
                assert_never(command)
        return fleet_messages.Answer(node=self._node, re=command.re, ok=ok, count=count)

    def _report_tabs(self, handle: str, report: messages.Tabs) -> None:
        client = self._client_messages
        try:
            session = client.find(handle)
        except UnknownConnection:  # its stream has ended, and may have left tabs
            if not client.remove_held_tabs(handle, report):
                raise
        else:
            client.on_message(session, report, _no_check)

    async def _run_check(self, command: fleet_messages.AuthorizeRequest, request_number: int) -> fleet_messages.Answer:
        """Check the right on a request that came here for a connection of the node that asks."""
        check = self._remote.pending.pop(request_number, command.node)
        grant = None if check is None else await self._authorize(check)
        if check is None or grant is None:
            return fleet_messages.Answer(node=self._node, re=command.re, ok=False)
        return fleet_messages.Answer(
            node=self._node, re=command.re, grant=msgspec.structs.asdict(grant), request=check.describe()
        )


def _forwarded(
    command: fleet_messages.Navigate
    | fleet_messages.Unsubscribe
    | fleet_messages.ForwardAcknowledge
    | fleet_messages.ForwardReleaseReply,
) -> messages.ClientMessage:
    """Return what a client sent by a POST that came to another node."""
    match command:
        case fleet_messages.Navigate(route=route):
            return messages.RouteUpdate(messages.checked_route(route))
        case fleet_messages.Unsubscribe():
            return messages.UnsubscribeStats()
        case fleet_messages.ForwardAcknowledge(id=number, tab=tab):
            return messages.checked_acknowledge(number, tab)
        case fleet_messages.ForwardReleaseReply(version=version, reply=reply, reason=reason, tab=tab):
            return messages.checked_release_reply(version, reply, reason, tab)
        case _:
            assert_never(command)


def _declared(command: fleet_messages.DeclareRelease) -> Declaration:
    """Return the declaration, all of whose fields the message has."""
    fields = {name: getattr(command, name) for name in Declaration.__struct_fields__}
    return Declaration(**{**fields, "version": parse_build_id(command.version)})


def _payload(message: bytes) -> Payload:
    """Check that a message of another node's application is a JSON object, and encode it anew."""
    try:
        return Payload(messages.application(msgspec.json.decode(message)))
    except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError) as error:
        raise UnknownConnection(f"The message is not a JSON object: {error}") from None


def _no_check() -> AuthorizationCheck:
    raise AssertionError("This command is no subscription.")
