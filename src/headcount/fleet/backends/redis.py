"""
Nodes of many machines, by Redis 7+ or Valkey 7+.

    {headcount:NAME}:nodes       SET     ids of nodes that have been there
    {headcount:NAME}:node:ID     "1"     that node lives; expires by itself (EXPIRE)
    {headcount:NAME}:1:all       channel for everybody
    {headcount:NAME}:1:figures   channel for those who listen
    {headcount:NAME}:1:to:ID     channel for one node

Nothing else is stored: no figure, no label, no address. Figures and commands pass through channels only. The braces
keep all of it in one slot, so that in a cluster one shard has it, and its sharded channels reach nobody else.

A node keeps two connections. Commands go out in batches on one, whatever has gathered while the batch before was under
way, and what does not fit is dropped, which the messages bear. When anything about a connection is odd (an error that
is not this command's own, an answer that does not come), both are closed and opened anew, for ever, at growing and
random intervals: whoever reconnects learns everything again.

Liveness is judged by Redis's own clock (the expiry) and by each listener's own (what it heard when). Clocks of machines
are never compared.
"""

import asyncio
import itertools
import logging
import random
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.sentinel import Sentinel
from redis.crc import key_slot
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from ...core.fleet_messages import MAX_BYTES
from ...errors import ConfigError
from . import Receiver

EXPIRE: Final = 9.0
"""Seconds after the last heartbeat at which a node is gone: three heartbeats."""

BEATS: Final = 3
"""Heartbeats from one time that a node sees to it that it is in the set of nodes to the next."""

STORE_TIMEOUT: Final = 3.0
"""Seconds in which Redis must answer, and be connected to."""

LONGEST_WAIT: Final = 5.0
"""Seconds between two attempts to connect, at most and on average."""

MAX_BATCH: Final = 512
"""Commands sent at once."""

MAX_QUEUED: Final = 10_000
"""Commands that wait for the batch before them."""

MAX_QUEUED_BYTES: Final = 2 * MAX_BYTES
"""Bytes of those."""

MEMBERS_FOR: Final = 0.25
"""Seconds for which the list of nodes is good when strangers name nodes that are not in it."""

GOODBYE_TIMEOUT: Final = 1.0
"""Seconds for the last words of a node that is leaving."""

logger = logging.getLogger("headcount")

_Answer = Callable[[Any], None]


class _Queued(NamedTuple):
    command: tuple[Any, ...]
    size: int
    answer: _Answer | None


class _NoAnswer:
    """Told instead of an answer when there will be none."""


_NO_ANSWER: Final = _NoAnswer()


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
    """

    heartbeat = 3.0
    detects_failures = False

    def __init__(self, node: str, url: str, fleet: str, shown: str) -> None:
        self._node = node
        self._url = url
        self._shown = shown
        self._prefix = f"{{headcount:{fleet}}}"
        self._receiver: Receiver | None = None
        self._task: asyncio.Task[None] | None = None
        self._listens = False
        self._connected = False
        self._sharded = False
        self._said = False
        self._told: set[str] = set()
        """What to do, as the log says it, since Redis went away."""
        self._used = False
        """Whether it ever could be used."""
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._work: asyncio.Event | None = None
        self._commands: Connection | None = None
        self._subscriber: Connection | None = None
        self._heard = 0.0
        self._members: set[str] = set()
        self._members_at = float("-inf")
        self._asking_members: asyncio.Future[set[str] | None] | None = None

    # ---- Backend

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
            if failed is not None and (receivers == 0 or receivers is _NO_ANSWER):
                failed()

        self._publish(f"to:{node}", message, answer)

    async def members(self) -> Collection[str] | None:
        """Return the ids of all other nodes whose sign of life has not expired."""
        if self._commands is None and self._said:
            return None  # it is away, and nobody knows for how long
        if self._asking_members is None:
            self._asking_members = asyncio.get_running_loop().create_future()
            self._put(("SMEMBERS", f"{self._prefix}:nodes"), self._take_members)
        future = self._asking_members
        try:
            return await asyncio.wait_for(asyncio.shield(future), STORE_TIMEOUT)
        except TimeoutError:
            return None

    async def knows(self, node: str) -> bool:
        """Say whether there is a node of that id; asks Redis at most once in a while, whoever asks."""
        loop = asyncio.get_running_loop()
        if node in self._members and loop.time() - self._members_at < EXPIRE:
            return True
        wait = self._members_at + MEMBERS_FOR - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        if loop.time() - self._members_at >= MEMBERS_FOR:
            await self.members()
        return node in self._members

    def forget(self, node: str) -> None:
        """Let no sign remain that a node lives: it would stay for as long as Redis's clock has jumped backwards."""
        self._members.discard(node)
        self._put(("DEL", f"{self._prefix}:node:{node}"), None)

    # ---- the life of the connections

    async def _run(self) -> None:
        attempt = 0
        try:
            while True:
                started = asyncio.get_running_loop().time()
                try:
                    await self._session()
                except (OSError, TimeoutError, RedisError, _Lost) as error:
                    self._lose(error)
                except Exception as error:
                    logger.exception("The connection to Redis failed in a way that nobody thought of.")
                    self._lose(error)
                finally:
                    await self._disconnect()
                if asyncio.get_running_loop().time() - started > LONGEST_WAIT * 2:
                    attempt = 0
                wait = min(LONGEST_WAIT, 0.1 * 2**attempt)
                attempt = min(attempt + 1, 10)
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311  not a secret
        finally:
            self._fail_all()

    async def _session(self) -> None:
        """Connect, and stay connected until something goes wrong."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(4 * STORE_TIMEOUT):
            kwargs = await self._address()
            kwargs, self._sharded = await self._shard(kwargs)
            self._commands = await _connect(kwargs)
            self._subscriber = await _connect(kwargs)
        self._heard = loop.time()
        subscribed = asyncio.Event()
        jobs = [loop.create_task(job) for job in (self._read(subscribed), self._write(), self._beat(subscribed))]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._end(jobs)
            await self._goodbye()
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

    def _lose(self, error: Exception) -> None:
        self._fail_all()
        self._set_connected(connected=False)
        reason = str(error) or type(error).__name__
        advice, for_sure = _advice(error, "" if self._used else self._url)
        if not self._said:
            self._said = True
            logger.warning(
                "Redis at %s cannot be used (%s). Figures are this node's own and partial until it can; it is tried "
                "again every few seconds. %s",
                self._shown,
                reason,
                advice,
            )
        elif for_sure and advice not in self._told:
            # It went away, and is there again: with another password, or as a replica.
            logger.warning("Redis at %s still cannot be used (%s). %s", self._shown, reason, advice)
        self._told.add(advice)

    def _set_connected(self, *, connected: bool) -> None:
        self._used |= connected
        if connected and self._said:
            self._said = False
            self._told.clear()
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

    async def _goodbye(self) -> None:
        """Say the last word. Nobody reads what Redis answers, but it does what it was told before the end."""
        connection, receiver = self._commands, self._receiver
        if connection is None or receiver is None:
            return
        packed = [
            *connection.pack_command(self._publishing, self._channel("figures"), receiver.leave_message()),
            *connection.pack_command("SREM", f"{self._prefix}:nodes", self._node),
            *connection.pack_command("DEL", f"{self._prefix}:node:{self._node}"),
        ]
        with suppress(Exception):
            async with asyncio.timeout(GOODBYE_TIMEOUT):
                await connection.send_packed_command(packed, check_health=False)

    async def _beat(self, subscribed: asyncio.Event) -> None:
        """Give a sign of life, and expect one."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(STORE_TIMEOUT):
            await subscribed.wait()  # whoever learns of us may speak to us at once
        for number in itertools.count(random.randrange(BEATS)):  # noqa: S311  not a secret
            if number % BEATS == 0:
                # Somebody may have taken us for dead and out of the set just as we gave a sign of life, or Redis may
                # have evicted the set and not the key; then posts for our pages would be nobody's.
                self._put(("SADD", f"{self._prefix}:nodes", self._node), None)
            self._put(
                (
                    *("SET", f"{self._prefix}:node:{self._node}", "1"),
                    *("PX", round(EXPIRE * 1_000), "GET"),
                ),
                self._take_beat,
            )
            # Jittered, so that nodes that came together do not stay together.
            await asyncio.sleep(self.heartbeat * random.uniform(0.9, 1.0))  # noqa: S311  not a secret
            if loop.time() - self._heard > self.heartbeat + STORE_TIMEOUT:
                raise _Lost("it does not answer")

    def _take_beat(self, before: Any) -> None:
        if isinstance(before, OutOfMemoryError):
            # The others still hear us; but who comes anew does not find us, nor do we know who came.
            self._set_connected(connected=False)
            if not self._said:
                self._said = True
                logger.warning(
                    "Redis at %s is out of memory. Figures are partial until it is not. Give it more, by maxmemory, or "
                    "a server of its own: Headcount keeps next to nothing there.",
                    self._shown,
                )
            return
        if before is None:
            # New, too long silent, or forgotten by a Redis that was started empty.
            self._put(("SADD", f"{self._prefix}:nodes", self._node), self._take_first)
        elif before is not _NO_ANSWER:
            self._set_connected(connected=True)

    def _take_first(self, added: Any) -> None:
        if isinstance(added, int):
            self._set_connected(connected=True)

    # ---- out

    @property
    def _publishing(self) -> str:
        return "SPUBLISH" if self._sharded else "PUBLISH"

    def _channel(self, name: str) -> str:
        return f"{self._prefix}:1:{name}"

    def _publish(self, channel: str, message: bytes, answer: _Answer | None = None) -> None:
        if self._commands is None:
            if answer is not None:
                answer(_NO_ANSWER)
            return
        self._put((None, self._channel(channel), message), answer, len(message))

    def _put(self, command: tuple[Any, ...], answer: _Answer | None, size: int = 100) -> None:
        while self._queue and (len(self._queue) >= MAX_QUEUED or self._queued_bytes + size > MAX_QUEUED_BYTES):
            old = self._queue.popleft()
            self._queued_bytes -= old.size
            if old.answer is not None:
                old.answer(_NO_ANSWER)
        self._queue.append(_Queued(command, size, answer))
        self._queued_bytes += size
        self._wake()

    def _wake(self) -> None:
        if self._work is not None:
            self._work.set()

    def _fail_all(self) -> None:
        queue, self._queue = self._queue, deque()
        self._queued_bytes = 0
        for queued in queue:
            if queued.answer is not None:
                queued.answer(_NO_ANSWER)
        self._settle_members(None)

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
            batch: list[_Queued] = []
            while self._queue and len(batch) < MAX_BATCH:
                batch.append(self._queue.popleft())
                self._queued_bytes -= batch[-1].size
            if self._queue:
                self._work.set()
            self._queued_bytes = (
                sum(size for _, size, _ in self._queue)
                if len(self._queue) < 16
                else max(0, self._queued_bytes - sum(size for _, size, _ in batch))
            )
            if batch:
                await self._exchange(batch)

    async def _exchange(self, batch: list[_Queued]) -> None:
        connection = self._commands
        assert connection is not None
        answered = 0
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                packed: list[bytes] = []
                for queued in batch:
                    packed += connection.pack_command(queued.command[0] or self._publishing, *queued.command[1:])
                await connection.send_packed_command(packed, check_health=False)
                for queued in batch:
                    result = await self._answer_of(connection)
                    answered += 1
                    if queued.answer is not None:
                        queued.answer(result)
        except TimeoutError:
            raise _Lost(f"it did not answer within {STORE_TIMEOUT:g} s") from None
        finally:
            for queued in batch[answered:]:
                if queued.answer is not None:
                    queued.answer(_NO_ANSWER)

    async def _answer_of(self, connection: Connection) -> Any:
        try:
            return await connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except ResponseError as error:
            if isinstance(error, OutOfMemoryError) or str(error).startswith("OOM"):
                return error if isinstance(error, OutOfMemoryError) else OutOfMemoryError(str(error))
            # READONLY, MOVED, NOPERM, LOADING: not this command alone, and perhaps not this server.
            raise _Lost(str(error)) from None

    # ---- in

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
                if loop.time() - self._heard > self.heartbeat + STORE_TIMEOUT:
                    raise _Lost("nothing comes from it") from None
                if loop.time() - pinged >= self.heartbeat / 2:
                    pinged = loop.time()
                    await connection.send_command("PING", check_health=False)
                continue
            self._heard = loop.time()
            if not isinstance(reply, list) or len(reply) != 3:
                continue
            if reply[0] in (b"message", b"smessage"):
                if self._receiver is not None:
                    self._receiver.received(reply[2])
            elif reply[0] in (b"subscribe", b"ssubscribe"):
                subscribed.set()

    async def _subscribe(self, names: list[str], *, on: bool) -> None:
        connection = self._subscriber
        if connection is not None:
            verb = ("S" if self._sharded else "") + ("SUBSCRIBE" if on else "UNSUBSCRIBE")
            async with asyncio.timeout(STORE_TIMEOUT):
                await connection.send_command(verb, *map(self._channel, names), check_health=False)

    # ---- who is there

    def _take_members(self, ids: Any) -> None:
        if not isinstance(ids, list | set):
            self._settle_members(None)
            return
        names = [name.decode("ascii", "replace") for name in ids if isinstance(name, bytes)]
        if not names:
            self._settle_members(set())
            return
        self._put(
            ("MGET", *(f"{self._prefix}:node:{name}" for name in names)), lambda lives: self._take_lives(names, lives)
        )

    def _take_lives(self, names: list[str], lives: Any) -> None:
        if not isinstance(lives, list) or len(lives) != len(names):
            self._settle_members(None)
            return
        dead = [name for name, life in zip(names, lives, strict=True) if life is None]
        if dead:
            self._put(("SREM", f"{self._prefix}:nodes", *dead), None)
        self._settle_members({name for name, life in zip(names, lives, strict=True) if life is not None})

    def _settle_members(self, found: set[str] | None) -> None:
        if found is not None:
            found.discard(self._node)
            self._members = found
            self._members_at = asyncio.get_running_loop().time()
        future, self._asking_members = self._asking_members, None
        if future is not None and not future.done():
            future.set_result(found)

    # ---- where Redis is

    async def _address(self) -> dict[str, Any]:
        """Return how to connect; asks the sentinels, if that is what the URL names."""
        parts = urlsplit(self._url)
        if not parts.scheme.endswith("+sentinel"):
            return dict(parse_url(self._url))
        scheme = parts.scheme.removesuffix("+sentinel")
        credentials, _, hosts = parts.netloc.rpartition("@")
        service, _, database = parts.path.strip("/").partition("/")
        options = dict(parse_qsl(parts.query))
        asked = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
        sentinels = []
        for host in hosts.split(","):
            name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdecimal() else (host, "", "26379")
            sentinels.append((name.strip("[]"), int(port)))
        base = dict(
            parse_url(
                urlunsplit((scheme, f"{credentials}@x" if credentials else "x", database, urlencode(options), ""))
            )
        )
        timeouts = {"socket_connect_timeout": STORE_TIMEOUT, "socket_timeout": STORE_TIMEOUT}
        sentinel = Sentinel(sentinels, sentinel_kwargs={**asked, **timeouts})  # type: ignore[no-untyped-call]
        try:
            host, port = await sentinel.discover_master(unquote(service))
        finally:
            for one in sentinel.sentinels:
                await one.aclose()
        return {**base, "host": host, "port": int(port)}

    async def _shard(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Find the shard of a cluster that has our slot. Returns how to connect to it, and whether it is a cluster."""
        connection = await _connect(kwargs)
        try:
            await connection.send_command("CLUSTER", "SLOTS", check_health=False)
            slots = await connection.read_response(disable_decoding=True)
        except ResponseError:
            return kwargs, False  # no cluster, or we may not know
        finally:
            await connection.disconnect(nowait=True)
        ours = key_slot(f"{self._prefix}:nodes".encode())
        for start, end, owner, *_ in slots:
            if start <= ours <= end:
                host = owner[0].decode() if owner[0] else kwargs.get("host", "localhost")
                return {**kwargs, "host": host, "port": int(owner[1])}, True
        raise _Lost(f"no node of the cluster serves slot {ours}")


def check(url: str, shown: str) -> None:
    """
    See that redis-py knows the options of a URL; opens nothing.

    Args:
        url: As `RedisBackend` takes it.
        shown: The same, fit for logs.

    Raises:
        ConfigError: It has an option that there is not, or a value that the option does not take.
    """
    parts = urlsplit(url)
    asked = [(name, value) for name, value in parse_qsl(parts.query) if not _is_of_sentinels(parts.scheme, name)]
    scheme = parts.scheme.removesuffix("+sentinel")
    host = "" if scheme == "unix" else "x"
    try:
        options: dict[str, Any] = dict(
            parse_url(urlunsplit((scheme, host, "/0" if host else "/x", urlencode(asked), "")))
        )
        options.pop("connection_class", Connection)(**options)
    except (TypeError, ValueError, RedisError) as error:
        said = str(error).rpartition("() ")[2]  # without the name of the function that was called
        raise ConfigError(
            f"The backend {shown} has an option that redis-py does not take ({said}); correct it, or leave it out."
        ) from None


def _is_of_sentinels(scheme: str, name: str) -> bool:
    return scheme.endswith("+sentinel") and name in ("sentinel_username", "sentinel_password")


_ADVICE: Final = (
    (
        ("WRONGPASS", "NOAUTH", "Authentication required", "invalid username-password", "without any password"),
        "Correct its user and password.",
    ),
    (("NOPERM", "no permissions"), "docs/deployment.md lists what its user must be allowed to do."),
    (("READONLY", "read only replica"), "That is a replica: name the primary, or the sentinels that know it."),
    (
        ("unknown command", "syntax error", "wrong number of arguments"),
        "Headcount needs Redis 7 or Valkey 7, or newer.",
    ),
    (("DB index", "invalid DB"), "There is no database of that number; leave it out for number 0."),
    (("certificate verify failed",), "Name the authority that signed its certificate by ?ssl_ca_certs=/path."),
)
"""What servers and libraries say, and what to do then."""


def _advice(error: Exception, url: str) -> tuple[str, bool]:
    """
    Return a sentence on what to do when Redis cannot be used, and whether that is it for sure.

    Args:
        error: What happened.
        url: Of Redis; empty when the fault is not in there, because it could be used before.
    """
    said = str(error).casefold()
    for words, advice in _ADVICE:
        if any(word.casefold() in said for word in words):
            return advice, True
    scheme = urlsplit(url).scheme.partition("+")[0]
    if scheme == "rediss" and ("ssl" in said or "timeout" in said or isinstance(error, TimeoutError | RedisTimeout)):
        return "See that it runs and can be reached from here; if it does not speak TLS there, write redis://.", False
    if scheme == "redis" and "closed by server" in said:
        return "If it speaks TLS only, write rediss://.", False
    return "See that it runs and can be reached from here.", False


async def _connect(kwargs: dict[str, Any]) -> Connection:
    # Reading has no time-out of its own: whoever waits for an answer has one, and messages come when they come.
    options = {**kwargs, "protocol": 2, "socket_connect_timeout": STORE_TIMEOUT, "socket_timeout": None}
    kind = options.pop("connection_class", Connection)
    connection: Connection = kind(**options)
    await connection.connect()  # type: ignore[no-untyped-call]
    return connection
