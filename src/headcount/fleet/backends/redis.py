"""
Nodes of many machines, by Redis 7+ or Valkey 7+.

    {headcount:NAME}:nodes       SET     ids of nodes that have been there
    {headcount:NAME}:node:ID     "1"     that node lives; expires by itself (`Timing.expiry`)
    {headcount:NAME}:tallies     the tallies of all nodes, and further keys; see redis_tallies.py
    {headcount:NAME}:1:all       channel for everybody
    {headcount:NAME}:1:figures   channel for those who listen
    {headcount:NAME}:1:to:ID     channel for one node

Keys belong to a database, channels do not: in another database than 0, `1` in the name of a channel is `1@NUMBER`, so
that fleets of one name in two databases do not hear one another.

With a fleet_secret, values and messages are sealed (fleet/border.py); ids of nodes, times and lengths are not.

Nothing else is stored: no route, no address. Figures and commands pass through channels only. The braces
keep all of it in one slot, so that in a cluster one shard has it, and its sharded channels reach nobody else.

A node keeps two connections. Commands go out in batches on one, whatever has gathered while the batch before was under
way, and what does not fit is dropped: the messages may be lost. When anything about a connection is odd (an error that
is not this command's own, an answer that does not come), both are closed and opened anew, for ever, at growing and
random intervals: whoever reconnects learns everything again.

Liveness is judged by Redis's own clock (the expiry) and by each listener's own (what it heard when). Clocks of machines
are never compared.
"""

import asyncio
import itertools
import logging
import random
import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, Final

from redis.asyncio.connection import Connection
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from ..border import Border
from . import Receiver
from .redis_address import NoShardError, advice_for, channel_prefix, connect, find_shard, prefix_of, resolve
from .redis_queue import NO_REPLY, CommandQueue, OnAnswer, Queued
from .redis_tallies import RedisTallies
from .redis_timing import DEFAULT_TIMING, Timing

HEARTBEATS_PER_SET_CHECK: Final = 3
"""Heartbeats from one check that a node is in the set of nodes to the next."""

MEMBERS_FOR: Final = 0.25
"""Seconds for which the list of nodes is good when strangers name nodes that are not in it."""

LEAVE_TIMEOUT: Final = 1.0
"""Seconds that a node which stops gives Redis to carry out its leave message."""

logger = logging.getLogger("headcount")


class _Lost(Exception):  # noqa: N818  a state, not a mistake
    """The connections are not to be trusted any more; the text says why."""


class RedisBackend:
    """
    Implements `Backend`.

    Args:
        node: Id of this node.
        url: redis://, rediss://, unix:// or redis+sentinel://, as docs/deployment.md has it.
        fleet: What tells this application from others on the same server.
        shown: The URL, fit for logs.
        timing: How soon faults are noticed and healed; the same on all nodes of a fleet.
        border: Which nodes are of this fleet; None: all that are there.
    """

    detects_failures = False

    def __init__(
        self,
        node: str,
        url: str,
        fleet: str,
        shown: str,
        timing: Timing = DEFAULT_TIMING,
        border: Border | None = None,
    ) -> None:
        self.heartbeat = timing.heartbeat
        self._timing = timing
        self._node = node
        self._url = url
        self._shown = shown
        self._prefix = prefix_of(fleet)
        self._channels = channel_prefix(url, fleet)
        self._border = border or Border()
        self._receiver: Receiver | None = None
        self._task: asyncio.Task[None] | None = None
        self._listens = False
        self._connected = False
        self._sharded = False
        self._reported = False
        self._advice_given: set[str] = set()
        """Sentences of advice that were logged since Redis was lost."""
        self._was_connected = False
        """Whether the connection ever worked."""
        self._queue = CommandQueue()
        self._work: asyncio.Event | None = None
        self._commands: Connection | None = None
        self._subscriber: Connection | None = None
        self._heard = 0.0
        self._members: set[str] = set()
        self._members_at = float("-inf")
        """When `_members` was learned."""
        self._members_asked = float("-inf")
        """When Redis was asked for it: who joined later is not in it."""
        self._asking_members: asyncio.Future[set[str] | None] | None = None
        self._asking_since = float("-inf")
        patience = 1.5 * timing.longest_wait + timing.store_timeout + 2 * timing.heartbeat
        self.tallies = RedisTallies(node, self._prefix, self._ask, time.monotonic, patience, self._border)

    def start(self, receiver: Receiver) -> None:
        """Begin to reach and to be reached, as soon as Redis can be."""
        self._receiver = receiver
        self._work = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Be gone for the others at once."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def listen(self, *, on: bool) -> None:
        """Receive what others publish, or no more."""
        if on != self._listens:
            self._listens = on
            if self._subscriber is not None and self._connected:
                self._wake()

    def publish(self, message: bytes) -> None:
        """Hand a message to all that listen."""
        self._publish("figures", message)

    def announce(self, message: bytes) -> None:
        """Hand a message to all."""
        self._publish("all", message)

    def send(self, node: str, message: bytes, failed: Callable[[], None] | None = None) -> None:
        """Hand a message to one node."""

        def answer(receivers: Any) -> None:
            if failed is not None and (receivers == 0 or receivers is NO_REPLY):
                failed()

        self._publish(f"to:{node}", message, answer)

    async def members(self) -> Collection[str] | None:
        """Return the ids of all other nodes whose sign of life has not expired."""
        if self._commands is None and self._reported:
            return None  # it is away, and nobody knows for how long
        if self._asking_members is None:
            self._asking_members = asyncio.get_running_loop().create_future()
            self._asking_since = asyncio.get_running_loop().time()
            self._put(("SMEMBERS", f"{self._prefix}:nodes"), self._on_members)
        future = self._asking_members
        try:
            return await asyncio.wait_for(asyncio.shield(future), self._timing.store_timeout)
        except TimeoutError:
            return None

    async def knows(self, node: str) -> bool | None:
        """
        Say whether there is a node of that id. Asks Redis at most once in a while.

        Returns:
            None: Redis is away, or does not know all nodes. False only after a look that began after the call.
        """
        loop = asyncio.get_running_loop()
        called = loop.time()
        if node in self._members and called - self._members_at < self._timing.expiry:
            return True
        while self._members_asked < called:
            await asyncio.sleep(self._members_at + MEMBERS_FOR - loop.time())
            if self._members_asked < called and await self.members() is None:
                return None
        if node in self._members:
            return True
        return False if self.tallies.complete else None

    def remove_sign_of_life(self, node: str) -> None:
        """Let no sign remain that a node lives: it would stay for as long as Redis's clock has jumped backwards."""
        self._members.discard(node)
        self._put(("DEL", f"{self._prefix}:node:{node}"), None)

    def write_tally(self) -> None:
        """Write this node's tally now, before anything that is published after this call."""
        if self._receiver is not None and self._commands is not None:
            tally, pages = self._receiver.tally(leaving=False), self._receiver.page_list()
            for command in self.tallies.write_pages(tally, pages):
                written = partial(self.tallies.on_pages_answer, tally.pages)
                self._put(command, written, 100 + len(pages), may_be_refused=True)
            for command in self.tallies.write(tally):
                size = sum(len(word) for word in command if isinstance(word, bytes))
                self._put(command, None, 100 + size, may_be_refused=True)

    def _ask_store(self) -> None:
        """Learn whether Redis was emptied."""
        proposed = secrets.token_hex(8)

        def answered(answer: Any) -> None:
            for command in self.tallies.on_store(proposed, answer):
                self._put(command, None, 100 + len(command[-1]), may_be_refused=True)

        self._put(self.tallies.ask_store(proposed), answered)

    async def _ask(self, *command: Any) -> Any:
        """Send a command; return the answer, or None when there is none or the command is refused."""
        if self._commands is None:
            return None
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(answer: Any) -> None:
            if not future.done():
                future.set_result(None if answer is NO_REPLY or isinstance(answer, Exception) else answer)

        self._put(
            command, answered, 100 + sum(len(word) for word in command if isinstance(word, bytes)), may_be_refused=True
        )
        return await future

    async def _run(self) -> None:
        attempt = 0
        try:
            while True:
                started = asyncio.get_running_loop().time()
                try:
                    await self._stay_connected()
                except (OSError, TimeoutError, RedisError, NoShardError, _Lost) as error:
                    self._report_loss(error)
                except Exception as error:
                    logger.exception("Unexpected error on the Redis connection; reconnecting.")
                    self._report_loss(error)
                finally:
                    await self._disconnect()
                if asyncio.get_running_loop().time() - started > self._timing.longest_wait * 2:
                    attempt = 0
                wait = min(self._timing.longest_wait, 0.1 * 2**attempt)
                attempt = min(attempt + 1, 10)
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311  not a secret
        finally:
            self._fail_all()

    async def _stay_connected(self) -> None:
        """Connect, and stay connected until something goes wrong."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(4 * self._timing.store_timeout):
            timeout = self._timing.store_timeout
            arguments = await resolve(self._url, timeout)
            arguments, self._sharded = await find_shard(arguments, f"{self._prefix}:nodes", timeout)
            self._commands = await connect(arguments, timeout)
            self._subscriber = await connect(arguments, timeout)
            await self.tallies.introduce((self._commands, self._subscriber))
        if self._border.sealed and self.tallies.now() is None:
            raise _Lost("no permissions to run TIME, which fleet_secret needs")
        self._heard = loop.time()
        subscribed = asyncio.Event()
        jobs = [
            loop.create_task(job) for job in (self._read(subscribed), self._write(), self._send_heartbeats(subscribed))
        ]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            try:
                await self._end(jobs)
            finally:
                # A loop that ends meanwhile cancels this task once more; the leave message goes out all the same.
                await self._publish_leave()
            raise
        await self._end(jobs)
        for job in jobs:
            if not job.cancelled() and (error := job.exception()) is not None:
                raise error
        raise _Lost("the connection ended")

    async def _end(self, jobs: list[asyncio.Task[None]]) -> None:
        for job in jobs:
            job.cancel()
        await asyncio.wait(jobs)

    def _report_loss(self, error: Exception) -> None:
        self._fail_all()
        self._set_connected(connected=False)
        reason = str(error) or type(error).__name__
        advice, for_sure = advice_for(error, "" if self._was_connected else self._url)
        if not self._reported:
            self._reported = True
            logger.warning(
                "Redis at %s cannot be used (%s). Figures are partial and show only this node until it can; retrying "
                "every few seconds. %s",
                self._shown,
                reason,
                advice,
            )
        elif for_sure and advice not in self._advice_given:
            # It went away, and is there again: with another password, or as a replica.
            logger.warning("Redis at %s still cannot be used (%s). %s", self._shown, reason, advice)
        self._advice_given.add(advice)

    def _set_connected(self, *, connected: bool) -> None:
        self._was_connected |= connected
        if connected and self._reported:
            self._reported = False
            self._advice_given.clear()
            logger.warning("Redis at %s can be used again.", self._shown)
        if connected != self._connected and self._receiver is not None:
            self._connected = connected
            self._receiver.connectivity_changed(connected=connected)

    async def _disconnect(self) -> None:
        for connection in (self._commands, self._subscriber):
            if connection is not None:
                with suppress(Exception):
                    await connection.disconnect(nowait=True)
        self._commands = self._subscriber = None

    async def _publish_leave(self) -> None:
        """Publish the leave message. Nobody reads the answers, but Redis carries the commands out before it closes."""
        connection, receiver = self._commands, self._receiver
        if connection is None or receiver is None:
            return
        tally, pages = receiver.tally(leaving=True), receiver.page_list()
        commands = [
            *self.tallies.write_pages(tally, pages),
            *self.tallies.write(tally),
            (self._publishing, self._channel("figures"), self._seal("figures", receiver.leave_message())),
            *self.tallies.keep(),
            ("SREM", f"{self._prefix}:nodes", self._node),
            ("DEL", f"{self._prefix}:node:{self._node}"),
        ]
        packed = [part for command in commands for part in connection.pack_command(*command)]
        for _ in range(2):
            with suppress(Exception):
                try:
                    async with asyncio.timeout(LEAVE_TIMEOUT):
                        await connection.send_packed_command(packed, check_health=False)
                except asyncio.CancelledError:
                    continue  # a loop that ends cancels this, too, perhaps before a byte is written; twice does no harm
            return

    async def _send_heartbeats(self, subscribed: asyncio.Event) -> None:
        """Send heartbeats, and expect something from Redis between two of them."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._timing.store_timeout):
            await subscribed.wait()  # whoever learns of us may speak to us at once
        self._ask_store()  # before it is known that Redis can be used again
        for command in self.tallies.clear_own():  # what others noted while this node was silent
            self._put(command, None, may_be_refused=True)
        for number in itertools.count(random.randrange(HEARTBEATS_PER_SET_CHECK)):  # noqa: S311  not a secret
            if number % HEARTBEATS_PER_SET_CHECK == 0:
                # Somebody may have taken us for dead and out of the set just as we gave a sign of life, or Redis may
                # have evicted the set and not the key; then posts for our pages would be nobody's.
                self._put(("SADD", f"{self._prefix}:nodes", self._node), None)
                for command in self.tallies.keep():
                    self._put(command, None, may_be_refused=True)
            self._put(
                (
                    *("SET", f"{self._prefix}:node:{self._node}", "1"),
                    *("PX", round(self._timing.expiry * 1_000), "GET"),
                ),
                self._on_heartbeat_answer,
            )
            self._put(("TIME",), self.tallies.set_time, may_be_refused=True)
            self.write_tally()
            if self._receiver is not None:
                self._receiver.on_own_heartbeat()
            # Jittered, so that nodes that came together do not stay together.
            await asyncio.sleep(self.heartbeat * random.uniform(0.9, 1.0))  # noqa: S311  not a secret
            if loop.time() - self._heard > self.heartbeat + self._timing.store_timeout:
                raise _Lost("it does not answer")

    def _on_heartbeat_answer(self, before: Any) -> None:
        if isinstance(before, OutOfMemoryError):
            # The others still hear us; but who comes anew does not find us, nor do we know who came.
            self._set_connected(connected=False)
            if not self._reported:
                self._reported = True
                logger.warning(
                    "Redis at %s is out of memory. Figures are partial until it has memory again. Raise its maxmemory, "
                    "or give Headcount a Redis of its own; it stores almost nothing.",
                    self._shown,
                )
            return
        if before is None:
            # New, too long silent, or forgotten by a Redis that was emptied.
            self._ask_store()
            self._put(("SADD", f"{self._prefix}:nodes", self._node), self._on_first_answer)
        elif before is not NO_REPLY:
            self._set_connected(connected=True)

    def _on_first_answer(self, added: Any) -> None:
        if isinstance(added, int):
            self._set_connected(connected=True)

    @property
    def _publishing(self) -> str:
        return "SPUBLISH" if self._sharded else "PUBLISH"

    def _channel(self, name: str) -> str:
        return f"{self._channels}:{name}"

    def _publish(self, channel: str, message: bytes, answer: OnAnswer | None = None) -> None:
        if self._commands is None:
            if answer is not None:
                answer(NO_REPLY)
            return
        sealed = self._seal(channel, message)
        self._put((None, self._channel(channel), sealed), answer, len(sealed))

    def _seal(self, channel: str, message: bytes) -> bytes:
        return self._border.seal(self._channel(channel), message, self.tallies.now() or 0)

    def _received(self, channel: Any, message: Any) -> None:
        if self._receiver is None or not isinstance(channel, bytes) or not isinstance(message, bytes):
            return
        tallies = self.tallies
        opened = self._border.open_message(channel.decode("utf-8", "replace"), message, tallies.now(), tallies.joined)
        if opened is not None:
            self._receiver.received(opened)

    def _put(
        self, command: tuple[Any, ...], answer: OnAnswer | None, size: int = 100, *, may_be_refused: bool = False
    ) -> None:
        self._queue.put(command, answer, size, may_be_refused=may_be_refused)
        self._wake()

    def _wake(self) -> None:
        if self._work is not None:
            self._work.set()

    def _fail_all(self) -> None:
        self._queue.fail_all()
        self._resolve_members(None)

    async def _write(self) -> None:
        """Send what has gathered, read the answers, and start over."""
        assert self._work is not None
        assert self._commands is not None
        listening = False
        while True:
            await self._work.wait()
            self._work.clear()
            if listening != self._listens:
                listening = self._listens
                await self._subscribe(["figures"], on=listening)
            batch = self._queue.next_batch()
            if self._queue:
                self._work.set()
            if batch:
                await self._exchange(batch)

    async def _exchange(self, batch: list[Queued]) -> None:
        connection = self._commands
        assert connection is not None
        answered = 0
        try:
            async with asyncio.timeout(self._timing.store_timeout):
                packed: list[bytes] = []
                for queued in batch:
                    packed += connection.pack_command(queued.command[0] or self._publishing, *queued.command[1:])
                await connection.send_packed_command(packed, check_health=False)
                for queued in batch:
                    result = await self._answer_of(connection, may_be_refused=queued.may_be_refused)
                    answered += 1
                    queued.answer(result)
        except TimeoutError:
            raise _Lost(f"it did not answer within {self._timing.store_timeout:g} s") from None
        finally:
            for queued in batch[answered:]:
                queued.answer(NO_REPLY)

    async def _answer_of(self, connection: Connection, *, may_be_refused: bool) -> Any:
        try:
            return await connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except ResponseError as error:
            if isinstance(error, OutOfMemoryError) or str(error).startswith("OOM"):
                return error if isinstance(error, OutOfMemoryError) else OutOfMemoryError(str(error))
            if may_be_refused:
                return None
            # READONLY, MOVED, NOPERM, LOADING: not this command alone, and perhaps not this server.
            raise _Lost(str(error)) from None

    async def _read(self, subscribed: asyncio.Event) -> None:
        """Take what comes by the channels."""
        connection = self._subscriber
        assert connection is not None
        loop = asyncio.get_running_loop()
        await self._subscribe(["all", f"to:{self._node}", *(["figures"] if self._listens else [])], on=True)
        self._wake()
        pinged = loop.time()
        while True:
            quiet = self._heard + self.heartbeat - loop.time()
            try:
                async with asyncio.timeout(max(0.05, quiet)):
                    reply = await connection.read_response(
                        disable_decoding=True, timeout=None, disconnect_on_error=False
                    )
            except TimeoutError:
                if loop.time() - self._heard > self.heartbeat + self._timing.store_timeout:
                    raise _Lost("nothing comes from it") from None
                if loop.time() - pinged >= self.heartbeat / 2:
                    pinged = loop.time()
                    await connection.send_command("PING", check_health=False)
                continue
            self._heard = loop.time()
            if not isinstance(reply, list) or len(reply) != 3:
                continue
            if reply[0] in (b"message", b"smessage"):
                self._received(reply[1], reply[2])
            elif reply[0] in (b"subscribe", b"ssubscribe"):
                subscribed.set()

    async def _subscribe(self, names: list[str], *, on: bool) -> None:
        connection = self._subscriber
        if connection is not None:
            verb = ("S" if self._sharded else "") + ("SUBSCRIBE" if on else "UNSUBSCRIBE")
            async with asyncio.timeout(self._timing.store_timeout):
                await connection.send_command(verb, *map(self._channel, names), check_health=False)

    def _on_members(self, ids: Any) -> None:
        if not isinstance(ids, list | set):
            self._resolve_members(None)
            return
        names = [name.decode("ascii", "replace") for name in ids if isinstance(name, bytes)]
        if self._connected and self._node not in names:
            # This node is there, so others may be there, too: the set was lost, with or without the rest of the store.
            self._ask_store()
            self._put(("SADD", f"{self._prefix}:nodes", self._node), None)
            self._resolve_members(None)
            return
        if not names:
            self._resolve_members(set())
            return
        self._put(
            ("MGET", *(f"{self._prefix}:node:{name}" for name in names)),
            lambda lives: self._on_signs_of_life(names, lives),
        )

    def _on_signs_of_life(self, names: list[str], lives: Any) -> None:
        if not isinstance(lives, list) or len(lives) != len(names):
            self._resolve_members(None)
            return
        dead = [name for name, life in zip(names, lives, strict=True) if life is None]
        if dead:
            # Nodes of an older version wrote no tally. A node that joins later would not know that they were there.
            for command in self.tallies.unknown(dead):
                self._put(command, None, may_be_refused=True)
            self._put(("SREM", f"{self._prefix}:nodes", *dead), None)
        self._resolve_members({name for name, life in zip(names, lives, strict=True) if life is not None})

    def _resolve_members(self, found: set[str] | None) -> None:
        if found is not None:
            found.discard(self._node)
            self._members, self._members_asked = found, self._asking_since
            self._members_at = asyncio.get_running_loop().time()
        future, self._asking_members = self._asking_members, None
        if future is not None and not future.done():
            future.set_result(found)
