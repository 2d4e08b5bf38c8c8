"""
What the application and its operators ask of the whole fleet, each command with its half for this node.

`send`, `broadcast`, `revoke`, `release` and both lists reach all nodes. What begins with `deliver` or ends in `_here`
concerns the streams of this node alone: the fleet-wide command calls it, and so do the commands of other nodes
(fleet/command_handlers.py). The half for the other nodes is in fleet/remote_commands.py.

Tests: tests/asgi/test_streams.py, tests/asgi/test_authorization.py, tests/fleet/backends/test_two_sites.py.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, assert_never

import msgspec

from ..core import messages, paging
from ..core.fleet_messages import Declaration
from ..core.invitation_counts import InvitationCounts
from ..core.payload import Payload
from ..core.registry import Registry
from ..core.stage import Stage
from ..errors import NoStage, UnknownConnection, Unserved, Unsettled
from ..fleet.calls import Answers
from ..fleet.membership import Membership
from ..loops import call_in_loop, catch_up_with
from .figures import FigureReader
from .listening_sockets import servers_of_process
from .release_file import ReleaseFile
from .releases import Pace, ReleaseOutcome, Releases, RolloutState, StageChange, UnreachedNode
from .rollout import Rollout
from .session import Session
from .shared_streams import SharedStreams
from .viewers import Viewers

MAX_BESIDE: Final = 64
"""Versions that a declaration names as served when it was made."""

MAX_RELEASE_ROUNDS: Final = 3
"""How often a release is declared on all nodes at most, when some of them know a later one."""

REVOKE_TIMEOUT: Final = 2.0
"""Seconds in which the loop of a stream must have sent what was chosen before its viewer's right was withdrawn."""


class CommandHost(Protocol):
    """The node. Its key and its membership are read each time, because a fork replaces them."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Open streams, and the tabs of shared ones, by public id."""

    @property
    def membership(self) -> Membership:
        """Its place in the fleet."""

    def join(self, server: Any) -> None:
        """Find the other nodes, by the `server` value of an ASGI scope."""

    def learn_versions(self, versions: Iterable[str]) -> None:
        """Take versions for known, and count them apart from now on."""

    def stream_id(self, handle: str) -> str | None:
        """Return the public id that a secret handle of this node names; None: it is forged, or another node's."""


class FleetCommands:
    """
    The commands for connections of the whole fleet.

    Args:
        host: The node.
        registry: Its connections.
        lock: The node's.
        counters: The node's.
        releases: Which version was declared current.
        viewers: Have rights, which can be withdrawn.
        shared_streams: Streams that tabs share.
        figures: Say how many nodes there are.
        rollout: Asks the pages of this node to come to a version.
        settle_time: Seconds for which all nodes must have served the same version.
        release_file: Keeps the declared version on this machine; None: nothing does.
    """

    def __init__(
        self,
        host: CommandHost,
        registry: Registry,
        lock: threading.RLock,
        counters: defaultdict[str, int],
        *,
        releases: Releases,
        viewers: Viewers,
        shared_streams: SharedStreams,
        figures: FigureReader,
        rollout: Rollout,
        settle_time: float,
        release_file: ReleaseFile | None = None,
    ) -> None:
        self._host = host
        self._registry = registry
        self._lock = lock
        self._counters = counters
        self._releases = releases
        self._viewers = viewers
        self._shared_streams = shared_streams
        self._figures = figures
        self._rollout = rollout
        self._settle_time = settle_time
        self._release_file = release_file

    async def send(self, connection_id: str, message: Mapping[str, Any]) -> None:
        """
        Send one connection a JSON object, by public id or secret handle, whichever node it is on.

        Raises:
            UnknownConnection: It is not open on any node.
            Busy: It is not known whether it is: the node that has it did not answer, or cannot be looked for. Or too
                many messages wait for other nodes.
            TypeError: The message is not a mapping, or holds a value that is not JSON.
        """
        encoded = messages.application(message)
        try:
            self.deliver(connection_id, Payload(encoded))
        except UnknownConnection:
            await self._host.membership.remote.send(connection_id, encoded)

    def deliver(self, connection_id: str, payload: Payload) -> None:
        """
        Send one connection of this node an encoded message, by public id or secret handle.

        Raises:
            UnknownConnection: It is not open here.
        """
        public = self._host.stream_id(connection_id) or connection_id
        session = self._host.sessions.get(public)
        if session is None:
            raise UnknownConnection(f"No open connection has the id {public}.")
        call_in_loop(session.loop, session.send, payload)

    def join_unasked(self) -> None:
        """
        Find the other nodes before a request for Headcount has come: the application wants something of all of them. In
        the loop of its requests.

        Without one server that must be its own, as in a script, the process stays alone.
        """
        if self._host.membership.join_pending and len(servers := servers_of_process()) == 1:
            self._host.join(servers[0])

    async def revoke(self, connection_id: str) -> bool:
        """
        Withdraw a viewer's right, by public id or secret handle, whichever node it is on.

        Returns:
            False if it had none and no subscription was pending.

        Raises:
            Busy: The node that it is on did not answer, or cannot be looked for; or too many requests wait for other
                nodes.
        """
        return await self.revoke_here(connection_id) or await self._host.membership.remote.revoke(connection_id)

    async def revoke_here(self, connection_id: str) -> bool:
        """
        Withdraw the right of a viewer of this node, by public id or secret handle. No figure follows its return.

        Returns:
            False if it had none and no subscription was pending.
        """
        public = self._shared_streams.stream_of(self._host.stream_id(connection_id) or connection_id)
        session = self._host.sessions.get(public)
        if session is None or not self._viewers.revoke(session):
            return False
        # In another thread, the stream's loop may just be sending what was chosen before.
        await catch_up_with(session.loop, REVOKE_TIMEOUT)
        return True

    async def release(self, version: str, *, unserved: bool | None = None, pace: Pace | None = None) -> ReleaseOutcome:
        """
        Declare a version current on all nodes.

        Args:
            version: From `parse_build_id`.
            unserved: Whether it may be a version that no node serves, because another server delivers the front end.
                None or True: it may, and it is current as long as no other is declared.
            pace: How fast pages are asked to come to it; None: all at once. A stage of the same version goes on from
                the share that it has reached.

        Raises:
            Unserved: No node serves it, and that is not allowed.

        A node may know a release that is dated later than this one, such as one of a clock that is ahead. What an
        operator declares now wins all the same: it is declared once more, with a later date than that.
        """
        serving = (await self._figures.fresh_stats(rows=False)).nodes.versions or {}
        if version not in serving and unserved is False:
            raise Unserved(version, serving)
        before = self._releases.released
        stage = Stage()
        if pace is not None:
            start = 0.0
            # A share of the pages on one route says nothing of those on others: these draw from 0.
            if before is not None and before.version == version and pace.route == before.stage.route:
                start = before.stage.share(self._releases.now())
            until = max(start, pace.until)
            stage = Stage(pace.over, self._releases.now(), start, until, pace.route)
        # A stage of the same version goes on: pages know it as the same release.
        began = 0
        if before is not None and before.version == version and (pace is not None or not before.stage.everybody):
            began = before.release_id
        beside = tuple(sorted(serving))[:MAX_BESIDE]
        return await self._declare(Declaration(0, version, version not in serving, stage, began, beside))

    async def change_stage(self, change: StageChange) -> ReleaseOutcome:
        """
        Pause, resume or abort the staged release that is current, on all nodes.

        Raises:
            NoStage: There is none, or it is over, or it cannot be changed so.
        """
        await self._figures.fresh_stats(rows=False)  # another node may know a newer release
        released, now = self._releases.released, self._releases.now()
        if released is None or released.stage.everybody:
            raise NoStage("No staged release is current; declare one with `headcount release VERSION URL --over 10m`.")
        stage = released.stage
        if stage.state == "aborted" or stage.is_over(now):
            how = "was aborted" if stage.state == "aborted" else "is over"
            raise NoStage(f"The staged release of {released.version} {how}; declare it again to ask further pages.")
        match change:
            case "pause":
                stage = stage if stage.state == "paused" else stage.halted(now, "paused")
            case "resume":
                stage = stage.resumed(now)
            case "abort":
                stage = stage.halted(now, "aborted")
            case _:
                assert_never(change)
        return await self._declare(msgspec.structs.replace(released, number=0, stage=stage, began=released.release_id))

    async def rollout(self) -> RolloutState | None:
        """Return how far the release is that was declared last, on all nodes; None: none was declared."""
        stats, found = await self._figures.fresh_stats(rows=False), await self._host.membership.remote.rollout()
        released, share = self._releases.released, self._rollout.counts()
        if released is None or share is None:
            return None
        shares = [share, *(answer.rollout for answer in found.answers if answer.rollout is not None)]
        same = [each for each in shares if each.number == released.number]
        is_current = stats.current_version == released.version
        outdated = stats.total - stats.versions.get(released.version, 0) if is_current else None
        expected = 1 + (stats.nodes.expected - 1 if found.asked is None else found.asked)
        return RolloutState(
            released=released,
            progress=InvitationCounts.sum(same),
            total=stats.total,
            outdated=outdated,
            reached=len(same),
            expected=max(len(same), expected),
            partial=stats.partial or found.asked is None or len(same) < expected,
            now=self._releases.now(),
        )

    async def _declare(self, release: Declaration) -> ReleaseOutcome:
        before, version = self._releases.released, release.version
        streams = self.release_here(release)
        for _ in range(MAX_RELEASE_ROUNDS):
            declared = self._releases.released
            assert declared is not None
            found = await self._host.membership.remote.release(declared)
            streams += sum(answer.count for answer in found.answers)
            later = [each.released for each in found.answers if each.released is not None and each.released > declared]
            if not later or not self._outdo(declared, max(later)):
                break
        await self._host.membership.view.keep_release()
        if self._release_file is not None and self._releases.released is not None:
            await asyncio.to_thread(self._release_file.save, self._releases.released)
        reached = 1 + sum(answer.ok for answer in found.answers)
        # Without the backend, the nodes that it knew are all that is known of the fleet.
        others = self._figures.stats(rows=False).nodes.expected - 1 if found.asked is None else found.asked
        return ReleaseOutcome(
            version=version,
            streams=streams,
            reached=reached,
            expected=max(reached, 1 + others),
            partial=found.asked is None or reached <= found.asked,
            already_current=not streams and before is not None and before.version == version,
            unreached=self._unreached(found),
        )

    def _unreached(self, found: Answers) -> tuple[UnreachedNode, ...]:
        """Return the nodes that did not declare a version, and why, as far as is known."""
        accepted = {answer.node: answer.ok for answer in found.answers}
        if found.asked is None:
            view = self._host.membership.view
            with self._lock:
                others = [share.node for share in view.shares()[1:]]
            return tuple(UnreachedNode(node, "disconnected") for node in sorted(others) if not accepted.get(node))
        return (
            *(
                UnreachedNode(node, "refused" if node in accepted else "silent")
                for node in found.others
                if not accepted.get(node)
            ),
            *(UnreachedNode(node, "stranger") for node in found.strangers),
        )

    async def settled_version(self) -> str:
        """
        Return the version that the fleet has settled on, whatever was declared.

        Raises:
            Unsettled: It has not: nodes serve several versions, or one does not say, or it is too early to tell.
        """
        stats, view = await self._figures.fresh_stats(rows=False), self._host.membership.view
        with self._lock:
            settled = view.settled if view.active else self._registry.settled
        if settled is None or self._host.membership.join_pending:
            raise Unsettled(stats.nodes.versions or {}, stats.nodes.expected, self._settle_time)
        return settled

    def release_here(self, release: Declaration, *, is_new: bool = True) -> int:
        """
        Declare a version current, and tell every stream of this node, viewers' too. See `Releases.declare`.

        Args:
            release: The declaration.
            is_new: It is made now. Else this node learns of one that may be old: pages hear of it if a node serves it.

        Returns:
            The number of streams that were told; 0 for the current version and for a declaration older than the last.
        """
        with self._lock:
            before = self._releases.released
            is_news = self._releases.declare(release)
            declared = self._releases.released
            if declared is None or declared == before:
                return 0
            self._host.learn_versions((declared.version,))
            self._registry.declare(declared.version, declared.release_id, insisted=declared.unserved)
            self._host.membership.view.declare(declared)
            self._viewers.mark_dirty()
            if not is_news:
                # A newer declaration of the same version. Pages go by it when they ask next, as on all other nodes.
                return 0
            streams = self._rollout.announce(is_new=is_new)
        # Not under the lock: a stream that is too slow ends here, and then hooks run.
        told = self._rollout.tell(streams)
        self._viewers.notify_observers()
        self._counters["releases"] += 1
        return told

    def is_withheld(self, version: str) -> bool:
        """Say whether a page of a version that asks now must wait for its turn to hear of the release."""
        return self._rollout.is_withheld(version)

    def invitation_counts(self) -> InvitationCounts | None:
        """Return what came of the invitations of this node; None: nothing was declared."""
        return self._rollout.counts()

    def takes_release(self, number: int) -> bool:
        """Say whether a release of another node, with this number, can be applied here. See `Releases`."""
        return self._releases.is_acceptable(number)

    def _outdo(self, release: Declaration, later: Declaration) -> bool:
        """Declare a version that was just declared with a later date than another. Returns whether it could be."""
        if not self._releases.is_acceptable(later.number):
            return False
        self.release_here(msgspec.structs.replace(release, number=later.number + 1))
        return self._releases.current == release.version

    @property
    def released(self) -> Declaration | None:
        """The newest release that is known here."""
        return self._releases.released

    async def list_connections(
        self, *, version: str | None, route: str | None, limit: int, cursor: paging.Cursor = paging.START
    ) -> paging.ConnectionPage:
        """
        Page through the connections of all nodes, node by node.

        Args:
            version: Only those of this version.
            route: Only those on this route.
            limit: Rows at most.
            cursor: Of the previous page.

        Raises:
            Busy: Too many requests wait for other nodes.
        """
        return await self._host.membership.remote.list_connections(
            version=version, route=route, limit=limit, cursor=cursor
        )

    async def list_sorted(
        self,
        order: paging.Order,
        *,
        version: str | None,
        route: str | None,
        limit: int,
        after: paging.Position | None = None,
    ) -> paging.SortedRows:
        """
        Return the first connections of all nodes after a position in an order.

        Raises:
            Busy: Too many requests wait for other nodes.
        """
        remote = self._host.membership.remote
        return await remote.list_sorted(order, version=version, route=route, limit=limit, after=after)

    async def forget(self, gone: str) -> bool:
        """
        End the doubt about a node that is gone, on all nodes.

        Returns:
            Whether anything of it was unaccounted for.

        Raises:
            Busy: The backend did not answer.
        """
        return await self._host.membership.view.forget(gone)
