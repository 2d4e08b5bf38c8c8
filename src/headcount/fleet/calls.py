"""
Numbered questions to other nodes, and their answers.

A public id begins with the id of the node that owns the connection, so every node knows whom to ask. Only the owner can
tell whether a handle is genuine, because the key is its own. Anybody can make up handles: an id that names no node
of the fleet never leaves this process, and only so many questions are open at once.

Tests: tests/fleet/backends/test_conformance.py, tests/fleet/backends/test_two_sites.py.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple, Protocol, TypeAlias

from ..core import fleet_messages
from ..errors import UNKNOWN_HANDLE, Busy, UnknownConnection
from ..loops import Tasks
from .link import FleetLink

MAX_OPEN: Final = 256
"""Questions of clients that wait for another node's answer; more are refused, and the clients try again."""

MAX_RUNNING: Final = 1_024
"""Commands of other nodes that run at once."""

MAX_CONCURRENT_CALLS: Final = 64
"""Nodes that are asked at the same time what is asked of all."""

MAX_ONE_WAY: Final = 1_024
"""One-way messages whose receiver is being looked for; more are dropped. After a deploy all pages come at once,
and each names a stream of a node that is gone."""

TIMEOUT: Final = 5.0
"""Seconds after which a node that does not answer counts as gone."""

CommandHandler: TypeAlias = Callable[[fleet_messages.Command], Awaitable[fleet_messages.Answer]]
"""Runs another node's command. Never raises."""


class Answers(NamedTuple):
    """
    What came of a question to all nodes.

    Attributes:
        answers: Those that came in time.
        asked: How many other nodes were asked; None: the backend cannot tell at the moment who there is.
        others: Ids of the nodes that were asked.
        strangers: Ids of nodes with another secret, which were not asked; `asked` contains them.
    """

    answers: list[fleet_messages.Answer]
    asked: int | None
    others: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()


class NodeUnreachable(UnknownConnection):
    """The other node may live, and was not reached or did not answer. Clients take it for gone, and open a stream."""


class Caller(Protocol):
    """The questions that this node can ask."""

    def send_one_way(self, node: str, message: fleet_messages.Command) -> None:
        """Send a node a command that needs no answer, if there is such a node. Anybody may have made it up."""

    def next_number(self) -> int:
        """Return a number that no other question of this node has."""

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
            number: From `next_number()`, if it had to be known before.

        Raises:
            UnknownConnection: There is no such node; if a `NodeUnreachable`, the node did not answer.
            Busy: Too many questions wait already.
        """

    async def call_all(self, make: Callable[[int], fleet_messages.Command], timeout: float) -> Answers:
        """Send all nodes a command, and return the answers that came in time."""

    async def other_nodes(self) -> list[str] | None:
        """Return the ids of all other nodes that seem to live; None: the backend cannot tell at the moment."""

    async def may_live(self, node: str) -> bool:
        """
        Say whether a node that was not found may be there all the same.

        It may unless the backend says for certain that it is not: that it left, was forgotten, or never was there. A
        node that the backend has lost may go on to serve its streams.
        """


class NoCaller:
    """A `Caller` where there are no other nodes."""

    def send_one_way(self, node: str, message: fleet_messages.Command) -> None:
        """Do nothing: there is no such node."""

    def next_number(self) -> int:
        """Return a number; it is never used."""
        return 0

    async def call(
        self,
        node: str,  # noqa: ARG002
        make: Callable[[int], fleet_messages.Command],  # noqa: ARG002
        timeout: float = TIMEOUT,  # noqa: ARG002
        number: int | None = None,  # noqa: ARG002
    ) -> fleet_messages.Answer:
        """Raise UnknownConnection: there is no such node."""
        raise UnknownConnection(UNKNOWN_HANDLE)

    async def call_all(
        self,
        make: Callable[[int], fleet_messages.Command],  # noqa: ARG002
        timeout: float,  # noqa: ARG002
    ) -> Answers:
        """Return no answer."""
        return Answers([], 0)

    async def other_nodes(self) -> list[str] | None:
        """Return no node."""
        return []

    async def may_live(self, node: str) -> bool:  # noqa: ARG002
        """Return False: there are no other nodes."""
        return False


class NotJoined(NoCaller):
    """A `Caller` of a node that has other nodes and has not joined them yet: nothing about them is known."""

    async def call(
        self,
        node: str,  # noqa: ARG002
        make: Callable[[int], fleet_messages.Command],  # noqa: ARG002
        timeout: float = TIMEOUT,  # noqa: ARG002
        number: int | None = None,  # noqa: ARG002
    ) -> fleet_messages.Answer:
        """Raise NodeUnreachable: there may be such a node."""
        raise NodeUnreachable(UNKNOWN_HANDLE)

    async def call_all(
        self,
        make: Callable[[int], fleet_messages.Command],  # noqa: ARG002
        timeout: float,  # noqa: ARG002
    ) -> Answers:
        """Return no answer, of nobody knows how many nodes."""
        return Answers([], None)

    async def other_nodes(self) -> list[str] | None:
        """Return None."""
        return None

    async def may_live(self, node: str) -> bool:  # noqa: ARG002
        """Return True."""
        return True


_Outcome: TypeAlias = fleet_messages.Answer | UnknownConnection
"""The answer, or the error that the caller is to see."""


class _Open(NamedTuple):
    node: str
    """The node that was asked."""
    outcome: asyncio.Future[_Outcome]


class Calls:
    """
    Implements `Caller` on a link, and answers the other nodes' questions.

    Args:
        link: To the other nodes.
        run_command: Runs another node's command.
    """

    def __init__(self, link: FleetLink, run_command: CommandHandler) -> None:
        self._link = link
        self._run_command = run_command
        self._numbers = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._running = Tasks()
        self._one_way = Tasks()

    def send_one_way(self, node: str, message: fleet_messages.Command) -> None:
        """See `Caller`."""
        self._link.call(lambda: self._send_one_way(node, message))

    def next_number(self) -> int:
        """See `Caller`."""
        return next(self._numbers)

    async def call(
        self,
        node: str,
        make: Callable[[int], fleet_messages.Command],
        timeout: float = TIMEOUT,
        number: int | None = None,
    ) -> fleet_messages.Answer:
        """See `Caller`."""
        if not self._link.active:
            raise NodeUnreachable(UNKNOWN_HANDLE)
        return await self._link.run(self._call(node, make, timeout, number))

    async def call_all(
        self,
        make: Callable[[int], fleet_messages.Command],
        timeout: float,
    ) -> Answers:
        """See `Caller`."""
        if not self._link.active:
            return Answers([], None)
        return await self._link.run(self._call_all(make, timeout))

    async def other_nodes(self) -> list[str] | None:
        """See `Caller`."""
        if not self._link.active:
            return None
        return await self._link.run(self._other_nodes())

    async def may_live(self, node: str) -> bool:
        """See `Caller`."""
        return not self._link.active or await self._link.run(self._may_live(node))

    async def call_some(
        self,
        nodes: Iterable[str],
        make: Callable[[int], fleet_messages.Question],
        timeout: float,
    ) -> list[fleet_messages.Answer]:
        """Ask some nodes, and return the answers that came within `timeout` seconds. In the backend's loop."""
        slots = asyncio.Semaphore(MAX_CONCURRENT_CALLS)

        async def call(node: str) -> fleet_messages.Answer | None:
            async with slots:
                try:
                    return await self._ask(node, make, timeout, self.next_number())
                except UnknownConnection:
                    return None

        calls = [asyncio.ensure_future(call(node)) for node in nodes]
        if not calls:
            return []
        try:
            # For all of them together: nodes that do not answer hold the slots of those that were not asked yet.
            done, _ = await asyncio.wait(calls, timeout=timeout)
        finally:
            for task in calls:
                task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        answers = [task.result() for task in calls if task in done]
        return [answer for answer in answers if answer is not None]

    def receive(self, message: fleet_messages.Answer | fleet_messages.Command) -> None:
        """Receive another node's command, or its answer. In the backend's loop."""
        if isinstance(message, fleet_messages.Answer):
            question = self._open.get(message.re)
            if question is not None and question.node == message.node:
                self._resolve(message.re, message)
        elif len(self._running) < MAX_RUNNING:  # else the other node gives up by itself
            self._running.start(self._serve(message))

    def node_left(self, node: str) -> None:
        """Give up the questions to a node that is gone. In the backend's loop."""
        for number, question in list(self._open.items()):
            if question.node == node:
                self._resolve(number, UnknownConnection(UNKNOWN_HANDLE))

    def _send_one_way(self, node: str, message: fleet_messages.Command) -> None:
        if len(self._one_way) < MAX_ONE_WAY:
            self._one_way.start(self._find_and_send(node, message))

    async def _find_and_send(self, node: str, message: fleet_messages.Command) -> None:
        if await self._link.knows(node):
            self._link.send(node, message)

    async def _other_nodes(self) -> list[str] | None:
        members = await self._link.members()
        return None if members is None else sorted({*members} - {self._link.node} - self._link.border.strangers)

    async def _may_live(self, node: str) -> bool:
        others, backend = await self._other_nodes(), self._link.backend
        if others is None or node in others or node in self._link.border.strangers or backend is None:
            return True
        # Its sign of life is gone. Its tally stays until it leaves, or counts as gone.
        entries = await backend.tallies.entries((node,))
        if entries is None or not backend.tallies.complete:
            return True
        entry = entries.get(node)
        return (
            entry is not None and entry.process_lives is not False and not (entry.tally.left or entry.tally.forgotten)
        )

    async def _call(
        self, node: str, make: Callable[[int], fleet_messages.Command], limit: float, number: int | None
    ) -> fleet_messages.Answer:
        if len(self._open) >= MAX_OPEN:
            raise Busy("Too many requests for connections of other servers are waiting; try again.")
        return await self._ask(node, make, limit, self.next_number() if number is None else number)

    async def _call_all(self, make: Callable[[int], fleet_messages.Command], limit: float) -> Answers:
        others = await self._other_nodes()
        answers = await self.call_some(others or (), make, limit)
        if others is None:
            return Answers(answers, None)
        # Strangers are not asked. If they are nodes of this application after all, they have not done it.
        strangers = tuple(sorted(self._link.border.strangers))
        return Answers(answers, len(others) + len(strangers), tuple(others), strangers)

    async def _ask(
        self, node: str, make: Callable[[int], fleet_messages.Question], limit: float, number: int
    ) -> fleet_messages.Answer:
        future: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        self._open[number] = _Open(node, future)
        try:
            async with asyncio.timeout(limit):
                known = await self._link.knows(node)
                if not known:
                    raise (NodeUnreachable if known is None else UnknownConnection)(UNKNOWN_HANDLE)
                message, border = make(number), self._link.border
                if node in border.strangers and (border.sealed or not isinstance(message, fleet_messages.PROVEN)):
                    raise NodeUnreachable(UNKNOWN_HANDLE)
                self._link.send(node, message, lambda: self._resolve(number, NodeUnreachable(UNKNOWN_HANDLE)))
                outcome = await future
        except TimeoutError:
            raise NodeUnreachable(UNKNOWN_HANDLE) from None
        finally:
            del self._open[number]
        if isinstance(outcome, UnknownConnection):
            raise outcome
        return outcome

    def _resolve(self, number: int, outcome: _Outcome) -> None:
        question = self._open.get(number)
        if question is not None and not question.outcome.done():
            question.outcome.set_result(outcome)

    async def _serve(self, command: fleet_messages.Command) -> None:
        answer = await self._run_command(command)
        if command.re:
            self._link.send(command.node, answer)
