"""
Commands for connections of other nodes: sent to the owner, answered by it.

A public id begins with the id of the node that owns the connection, so everybody knows whom to ask; whether a handle is
genuine only the owner can tell, because the key is its own. A stranger can make up handles: so an id that names no node
of the fleet never leaves this process, and only so many questions are open at once.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final

from ..core import fleet_messages
from ..errors import UNKNOWN_HANDLE, Busy, UnknownConnection

if TYPE_CHECKING:
    from .view import FleetView

MAX_OPEN: Final = 256
"""Commands that wait for another node's answer; more of clients' are refused, and they come again."""

MAX_RUNNING: Final = 1_024
"""Commands of other nodes that are being done."""

AT_ONCE: Final = 64
"""Nodes that are told at once what concerns all of them."""

MAX_TOLD: Final = 1_024
"""Messages without an answer whose owner is being looked for; more are dropped. After a deploy all pages come at once,
and each names a stream of a node that is gone."""

TIMEOUT: Final = 5.0
"""Seconds after which an owner that does not answer counts as gone."""

logger = logging.getLogger("headcount")


class Calls:
    """
    See above.

    Args:
        peers: The way to the others.
        obey: Does what another node asks for, and never raises.
    """

    def __init__(
        self, peers: "FleetView", obey: Callable[[fleet_messages.Command], Awaitable[fleet_messages.Answer]]
    ) -> None:
        self._peers = peers
        self._obey = obey
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[str, asyncio.Future[fleet_messages.Answer | None]]] = {}
        """By number: whom we asked, and what waits for the answer; None: it is gone."""
        self._running: set[asyncio.Task[None]] = set()
        self._telling: set[asyncio.Task[None]] = set()

    def tell(self, node: str, message: fleet_messages.Command) -> None:
        """Send a node a command that needs no answer, if there is such a node. Whoever named it may have made it up."""
        self._peers.call_at_home(lambda: self._tell(node, message))

    async def call(
        self,
        node: str,
        make: Callable[[int], fleet_messages.Command],
        timeout: float = TIMEOUT,
        number: int | None = None,
    ) -> fleet_messages.Answer:
        """
        Send a node a command, and wait for its answer.

        Args:
            node: Id that a client or the application named.
            make: Makes the command with its number.
            timeout: Seconds.
            number: From `number()`, if it had to be known before.

        Raises:
            UnknownConnection: There is no such node, or it does not answer.
            Busy: Too many wait already.
        """
        if not self._peers.active:
            raise _unknown()
        answer: fleet_messages.Answer = await self._peers.at_home(self._call(node, make, timeout, number))
        return answer

    def number(self) -> int:
        """Return a number that no other command of this node has."""
        return next(self._numbers)

    async def call_all(
        self, make: Callable[[int], fleet_messages.Command], timeout: float
    ) -> list[fleet_messages.Answer]:
        """Send all nodes a command, and return what they answered in time."""
        if not self._peers.active:
            return []
        answers: list[fleet_messages.Answer] = await self._peers.at_home(self._call_all(make, timeout))
        return answers

    async def call_some(
        self, nodes: Iterable[str], make: Callable[[int], fleet_messages.Question], timeout: float
    ) -> list[fleet_messages.Answer]:
        """Ask some nodes, and return what they answered in time. In the backend's loop."""
        places = asyncio.Semaphore(AT_ONCE)

        async def call(node: str) -> fleet_messages.Answer | None:
            async with places:
                try:
                    return await self._ask(node, make, timeout, self.number())
                except UnknownConnection:
                    return None

        answers = await asyncio.gather(*map(call, nodes))
        return [answer for answer in answers if answer is not None]

    async def others(self) -> list[str]:
        """Return the ids of all other nodes that seem to live."""
        if not self._peers.active:
            return []
        found: list[str] = await self._peers.at_home(self._others())
        return found

    def _tell(self, node: str, message: fleet_messages.Command) -> None:
        if len(self._telling) < MAX_TOLD:
            task = asyncio.get_running_loop().create_task(self._find_and_send(node, message))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _find_and_send(self, node: str, message: fleet_messages.Command) -> None:
        backend = self._peers.backend
        if backend is not None and await backend.knows(node):
            backend.send(node, fleet_messages.encode(message))

    async def _others(self) -> list[str]:
        backend = self._peers.backend
        members = None if backend is None else await backend.members()
        return sorted(node for node in members or () if node != self._peers.node)

    async def _call(
        self, node: str, make: Callable[[int], fleet_messages.Command], timeout: float, number: int | None
    ) -> fleet_messages.Answer:
        if len(self._open) >= MAX_OPEN:
            raise Busy("Too many requests for connections of other servers are waiting; come again.")
        return await self._ask(node, make, timeout, self.number() if number is None else number)

    async def _ask(
        self, node: str, make: Callable[[int], fleet_messages.Question], timeout: float, re: int
    ) -> fleet_messages.Answer:
        backend = self._peers.backend
        future: asyncio.Future[fleet_messages.Answer | None] = asyncio.get_running_loop().create_future()
        self._open[re] = (node, future)
        try:
            async with asyncio.timeout(timeout):
                if backend is None or node == self._peers.node or not await backend.knows(node):
                    raise _unknown()
                backend.send(node, fleet_messages.encode(make(re)), lambda: self._settle(re, None))
                answer = await future
        except TimeoutError:
            answer = None
        finally:
            del self._open[re]
        if answer is None:
            raise _unknown()
        return answer

    async def _call_all(
        self, make: Callable[[int], fleet_messages.Command], timeout: float
    ) -> list[fleet_messages.Answer]:
        return await self.call_some(await self._others(), make, timeout)

    # ---- called by Peers, in the backend's loop

    def take(self, message: fleet_messages.FleetMessage) -> None:
        """Take a command or an answer."""
        if isinstance(message, fleet_messages.Answer):
            asked = self._open.get(message.re)
            if asked is not None and asked[0] == message.node:
                self._settle(message.re, message)
        elif isinstance(message, fleet_messages.Command):
            if len(self._running) >= MAX_RUNNING:
                return  # who asked gives up by itself
            task = asyncio.get_running_loop().create_task(self._serve(message))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def left(self, node: str) -> None:
        """Give up what a node that is gone was asked."""
        for re, (asked, _) in list(self._open.items()):
            if asked == node:
                self._settle(re, None)

    def _settle(self, re: int, answer: fleet_messages.Answer | None) -> None:
        asked = self._open.get(re)
        if asked is not None and not asked[1].done():
            asked[1].set_result(answer)

    async def _serve(self, command: fleet_messages.Command) -> None:
        answer = await self._obey(command)
        backend = self._peers.backend
        if backend is not None and command.re:
            backend.send(command.node, fleet_messages.encode(answer))


def _unknown() -> UnknownConnection:
    return UnknownConnection(UNKNOWN_HANDLE)
