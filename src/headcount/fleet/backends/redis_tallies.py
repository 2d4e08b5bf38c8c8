"""
The tallies of all nodes, in Redis.

    {headcount:NAME}:tallies   HASH  {node: Tally}   written with each sign of life, removed when nothing follows
    {headcount:NAME}:doubts    HASH  {node: SeenAlive}   silent nodes that were seen to live
    {headcount:NAME}:pages:ID  the list of pages that belongs to its tally, written when it has changed
    {headcount:NAME}:back:ID   HASH  {connection: version}   pages of that node that came to others
    {headcount:NAME}:store     random id of what is stored here

Their history is there too (redis_history.py).

Ages are measured by Redis's own clock alone. A node writes the time as Redis told it; a reader asks for the time again.

Whether a silent node lives: Redis lists its connections as long as the kernel of the node's machine holds them, also
while the process is stopped and while the network swallows packets. Each tally names the ids of both. Where
`CLIENT LIST` is not permitted, nobody can tell, and the grace decides.

A Redis that was started empty knows nothing of nodes that died before. A node notices because the id of the store is
another one. It writes back what it read last, and takes its figures for partial until the others had time to do so.

With a fleet_secret, each value is sealed for its key and field: nobody else can make one, or move one elsewhere. What
does not open is not believed. A tally that was read before stands against one that does not open, or that its node
wrote earlier, and is written back. Without such a memory, a tally that does not open is that of a stranger: a node that
is there, or of which nobody knows how many connections it had.

Source: docs/adr/0017-unaccounted.md, docs/adr/0020-fleet-secret.md

Tests: tests/fleet/backends/test_tallies.py, tests/server/test_unaccounted.py.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec
from redis.asyncio.connection import Connection
from redis.exceptions import ResponseError

from ...core import tallies
from ...core.history import LENGTH, MINUTES
from ...core.identity import is_node_id
from ...core.kept_history import KeptHistory
from ...core.liveness import MAX_NODES
from ...core.tallies import Entry, SeenAlive, Tally
from ..border import Border
from .redis_history import KEPT, RELEASE_KEPT, Ask, RedisHistory
from .redis_queue import NO_REPLY
from .redis_values import MAX_STORED, STRANGER, RedisValues, pairs_of

logger = logging.getLogger("headcount")

REMEMBERED: Final = 75.0
"""Seconds after a reading for which tallies are written back that Redis lost. Nodes that left are listed for longer."""

GIVEN_UP: Final = 240.0
"""Seconds of silence after which Redis may have closed a connection because the network is gone (its `tcp-keepalive` is
300 s). Before that, a connection whose end was seen means that its process has ended."""

MAX_BACK: Final = 100_000
"""Pages that are noted as returned, of one node."""


class _Seen(NamedTuple):
    """When a tally was first seen."""

    written_at: int
    """When it was written, in ms by Redis's clock."""
    store_time: int
    """When it was first seen, in ms by Redis's clock."""
    seen_at: float
    """The same moment, in seconds by the clock of this node."""


class RedisTallies:
    """
    Reads and writes them. In the backend's loop.

    Args:
        node: Id of this node.
        prefix: Of all keys of the fleet.
        ask: See `Ask`.
        clock: Monotonic seconds.
        patience: Seconds in which every node reconnects to a Redis that was away, and looks at the tallies.
        border: Which nodes are of this fleet; None: all that are there.
    """

    def __init__(
        self,
        node: str,
        prefix: str,
        ask: Ask,
        clock: Callable[[], float],
        patience: float,
        border: Border | None = None,
    ) -> None:
        self._node = node
        self._prefix = prefix
        self._border = border or Border()
        self._values = RedisValues(self._border, self._now)
        self._foreign: dict[str, int] = {}
        """Strangers, and when each was first found silent, in ms by Redis's clock."""
        self._crowded = False
        """Redis has more tallies than a fleet can have, so that some were not read."""
        self._history = RedisHistory(prefix, ask, self._values, self._border)
        self._ask = ask
        self._clock = clock
        self._made = clock()
        self._offset: float | None = None
        """Redis's clock at second 0 of ours, in ms."""
        self._clients: tuple[int, ...] = ()
        self._patience = patience
        self._complete_from = float("-inf")
        """When the other nodes have written back what they know, since Redis was started empty."""
        self._store: bytes | None = None
        """Id of what Redis stores, as it was last."""
        self._heard = float("-inf")
        """When that was."""
        self._remembered: dict[str, bytes] = {}
        self._looked = float("-inf")
        self._seen: dict[str, _Seen] = {}
        self._had_departed = False
        """The last tally said that pages were sent away."""
        self._pages_written = 0
        """Number of the list of pages that was written last."""
        self._seen_alive: dict[str, bytes] = {}
        """By node: the encoded `SeenAlive` of each that is still silent. Redis may lose them."""
        self._listed_before: set[str] = set()
        """Silent nodes that Redis listed since this node's own connection was made."""

    async def introduce(self, connections: Collection[Connection]) -> None:
        """
        Name this node's connections, so that others find them, and learn Redis's time.

        Raises:
            OSError: A connection is lost.
        """
        ids = []
        for connection in connections:
            await _direct(connection, "CLIENT", "SETNAME", f"headcount-{self._node}")
            ids.append(await _direct(connection, "CLIENT", "ID"))
        self._pages_written = 0  # Redis may have been started anew
        self._clients = tuple(each for each in ids if isinstance(each, int))
        # Whatever ended this node's connection, such as a restart of Redis, may have ended the others', too.
        self._listed_before.clear()
        for connection in list(connections)[:1]:
            self.set_time(await _direct(connection, "TIME"))

    @property
    def complete(self) -> bool:
        """What any node knows of nodes that are gone is in Redis, as far as this node can tell."""
        return self._clock() >= self._complete_from and not self._crowded

    @property
    def joined(self) -> int:
        """When this node came, in ms by the clock that Redis has now; 0: not known."""
        return 0 if self._offset is None else max(0, round(self._offset + self._made * 1000))

    def ask_store(self, proposed: str) -> tuple[Any, ...]:
        """Return the command that asks for the id of the store, and gives it one if it has none."""
        return ("SET", f"{self._prefix}:store", proposed, "NX", "GET", "EX", KEPT)

    def on_store(self, proposed: str, answer: Any) -> list[tuple[Any, ...]]:
        """
        Take the answer to `ask_store`.

        Returns:
            The commands that write back what Redis lost, if it is another store than before.
        """
        if answer is not None and not isinstance(answer, bytes):
            return []
        before, self._store = self._store, proposed.encode() if answer is None else answer
        heard, self._heard = self._heard, self._clock()
        if before is None or before == self._store:
            return []
        self._complete_from = self._heard + self._patience
        known = self._remembered if heard - self._looked < REMEMBERED else {}
        return [("HSETNX", f"{self._prefix}:tallies", node, data) for node, data in known.items()]

    def set_time(self, answer: Any) -> None:
        """Take over Redis's time from the answer to `TIME`."""
        now = _milliseconds(answer)
        if now is not None:
            self._offset = now - self._clock() * 1000

    def write_pages(self, tally: Tally, pages: bytes) -> list[tuple[Any, ...]]:
        """
        Return the command that writes the list of pages that belongs to a tally, if it is not written yet.

        Its answer is for `on_pages_answer`: Redis may refuse it, and then it has to be sent again.
        """
        if tally.pages == self._pages_written:
            return []
        key = f"{self._prefix}:pages:{self._node}"
        sealed = self._values.seal(f"pages:{self._node}", pages)
        return [("SET", key, sealed, "EX", KEPT) if tally.pages else ("DEL", key)]

    def on_pages_answer(self, number: int, answer: Any) -> None:
        """Note Redis's answer to `write_pages`, whose tally named the list of this number."""
        if answer is not NO_REPLY and answer is not None and not isinstance(answer, Exception):
            self._pages_written = number

    def write(self, tally: Tally) -> list[tuple[Any, ...]]:
        """
        Return the commands that write this node's tally, as of now.

        When pages that were sent away are on their way no more, what others noted about them is removed.
        """
        over = self.clear_own() if self._had_departed and not tally.departed else []
        self._had_departed = bool(tally.departed)
        now = msgspec.structs.replace(tally, at=self._now(), joined=self.joined, liveness_ids=self._clients)
        return [*over, ("HSET", f"{self._prefix}:tallies", self._node, self._values.encode(self._node, now))]

    def keep(self) -> list[tuple[Any, ...]]:
        """Return the commands that keep the tallies for another day: a fleet that is gone leaves nothing for ever."""
        names = ("tallies", "doubts", "store", f"pages:{self._node}")
        return [("EXPIRE", f"{self._prefix}:{name}", KEPT) for name in names]

    def clear_own(self) -> list[tuple[Any, ...]]:
        """Return the commands that remove what others noted of this node while it was silent."""
        return [("DEL", f"{self._prefix}:back:{self._node}"), ("HDEL", f"{self._prefix}:doubts", self._node)]

    async def entries(self, nodes: Collection[str] | None = None) -> Mapping[str, Entry] | None:
        """
        Return the tallies of all nodes, or of some. Returns None when Redis does not answer, or may not be asked.

        Args:
            nodes: Which; None: all.
        """
        key = f"{self._prefix}:tallies"
        if nodes is None:
            found, time = await asyncio.gather(self._ask("HGETALL", key), self._ask("TIME"))
            raw = self._pairs(found)
        else:
            names = [node for node in nodes if is_node_id(node)]
            found, time = await asyncio.gather(self._ask("HMGET", key, *names), self._ask("TIME"))
            raw = dict(zip(names, found, strict=True)) if isinstance(found, list) and len(found) == len(names) else None
        now = _milliseconds(time)
        if raw is None or now is None:
            return None
        if nodes is None:
            await self._write_back(raw)
        held = {
            node: tally
            for node, data in raw.items()
            if data and (tally := self._values.read_tally(node, data)) is not None
        }
        foreign = [node for node, tally in held.items() if tally is STRANGER]
        found_entries = await self._read_entries(held, now)
        if nodes is None:
            self._border.note_strangers([node for node in foreign if found_entries[node].has_heartbeat])
        return found_entries

    def unknown(self, nodes: Collection[str]) -> list[tuple[Any, ...]]:
        """Return the commands that note nodes which are gone and wrote no tally: nobody knows what they had."""
        if self._offset is None:
            return []
        tally = Tally(at=self._now(), unknown=True)
        key = f"{self._prefix}:tallies"
        return [("HSETNX", key, node, self._values.encode(node, tally)) for node in nodes if is_node_id(node)]

    async def pages(self, node: str) -> bytes | None:
        """Return the list of pages that a node wrote with its tally; None: there is none, or no answer."""
        answer = await self._ask("MGET", f"{self._prefix}:pages:{node}")
        found = answer[0] if isinstance(answer, list) and answer else None
        return self._border.open_value(f"pages:{node}", found) if isinstance(found, bytes) else None

    async def note_returned(self, node: str, pages: Mapping[str, str]) -> None:
        """Note pages of a node that came to this one: `{public id: version}`. The first to note one is right."""
        key = f"{self._prefix}:back:{node}"
        count = await self._ask("HLEN", key)
        if isinstance(count, int) and count < MAX_BACK:
            marked = {page: self._values.mark_returned(node, page, version) for page, version in pages.items()}
            await asyncio.gather(*(self._ask("HSETNX", key, page, version) for page, version in marked.items()))
            await self._ask("EXPIRE", key, KEPT)

    async def keep_seen_alive(self, node: str, seen_alive: SeenAlive) -> None:
        """Keep that a silent node was seen to live."""
        self._seen_alive[node] = data = self._values.seal(f"doubts:{node}", tallies.encode(seen_alive))
        await self._ask("HSET", f"{self._prefix}:doubts", node, data)

    async def drop(self, node: str) -> None:
        """Remove what is kept of a node: nothing follows from it any more."""
        self._remembered.pop(node, None)
        self._seen_alive.pop(node, None)
        await asyncio.gather(
            self._ask("HDEL", f"{self._prefix}:tallies", node),
            self._ask("HDEL", f"{self._prefix}:doubts", node),
            self._ask("DEL", f"{self._prefix}:back:{node}", f"{self._prefix}:pages:{node}"),
            self._ask("SREM", f"{self._prefix}:nodes", node),
        )

    async def forget(self, node: str) -> bool:
        """End the doubt about a node, for all nodes that look. Returns False when Redis did not note it."""
        if self._offset is None:
            return False
        tally = Tally(at=self._now(), forgotten=True)
        return await self._ask("HSET", f"{self._prefix}:tallies", node, self._values.encode(node, tally)) is not None

    def _now(self) -> int:
        """Return Redis's time, in ms; 0: not known."""
        return 0 if self._offset is None else max(0, round(self._offset + self._clock() * 1000))

    def _steady(self, node: str, tally: Tally, now: int) -> int:
        """
        Return the time for an entry: Redis's when this tally was first seen, and what has passed here since.

        So a jump of Redis's clock ends no grace.
        """
        seen = self._seen.get(node)
        if seen is None or seen.written_at != tally.at:
            self._seen[node] = _Seen(tally.at, max(now, tally.at), self._clock())
            return max(now, tally.at)
        return seen.store_time + round((self._clock() - seen.seen_at) * 1000)

    def now(self) -> int | None:
        """Return Redis's time, in ms; None: not known."""
        return None if self._offset is None else self._now()

    async def claim_sample(self, slot: int) -> bool:
        """Say whether this node is the first to ask in an interval of the history."""
        return await self._history.claim(slot, self._node)

    async def add_sample(self, data: bytes, *, minute: bytes | None = None) -> None:
        """Add an encoded sample to the history."""
        await self._history.add(data, minute)

    async def keep_rollouts(self, data: bytes) -> None:
        """Keep the encoded rollouts."""
        await self._history.keep_rollouts(data)

    async def history(self, fine: int = LENGTH, minutes: int = MINUTES) -> KeptHistory | None:
        """Return the history, with so many of the newest samples at most; None: no answer."""
        return await self._history.read(fine, minutes)

    async def keep_release(self, data: bytes) -> None:
        """Keep which version was declared current, also while no node runs."""
        await self._ask("SET", f"{self._prefix}:release", self._values.seal("release", data), "EX", RELEASE_KEPT)

    async def kept_release(self) -> bytes | None:
        """Return what was kept; None: nothing of this fleet, or no answer."""
        answer = await self._ask("MGET", f"{self._prefix}:release")
        found = answer[0] if isinstance(answer, list) and answer else None
        return self._border.open_value("release", found) if isinstance(found, bytes) else None

    async def _read_entries(self, held: dict[str, Tally], now: int) -> dict[str, Entry]:
        names = list(held)
        if not names:
            return {}
        signs, all_seen = await asyncio.gather(
            self._ask("MGET", *(f"{self._prefix}:node:{name}" for name in names)),
            self._ask("HMGET", f"{self._prefix}:doubts", *names),
        )
        if not isinstance(signs, list) or len(signs) != len(names):
            signs = [None] * len(names)
        if not isinstance(all_seen, list) or len(all_seen) != len(names):
            all_seen = [None] * len(names)
        # What does not open is as good as nothing: what this node remembers stands.
        all_seen = [
            seen if isinstance(seen, bytes) and self._values.read_seen_alive(name, seen) is not None else None
            for name, seen in zip(names, all_seen, strict=True)
        ]
        for name, seen in zip(names, all_seen, strict=True):
            if isinstance(seen, bytes):
                self._seen_alive[name] = seen
        present = {name for name, sign in zip(names, signs, strict=True) if sign is not None} | {self._node}
        silent = [name for name in names if name not in present and not held[name].left]
        for name in self._seen_alive.keys() - set(silent):
            if name in held:
                del self._seen_alive[name]
        lost = [name for name, seen in zip(names, all_seen, strict=True) if seen is None and name in self._seen_alive]
        for name in lost:
            # In a sealed fleet there may be a forgery in its place.
            await self._ask(
                "HSET" if self._border.sealed else "HSETNX", f"{self._prefix}:doubts", name, self._seen_alive[name]
            )
        asked_back = [name for name in names if name in silent or held[name].departed]
        lives, *back = await asyncio.gather(
            self._listed({name: held[name] for name in silent}, now),
            *(self._ask("HGETALL", f"{self._prefix}:back:{name}") for name in asked_back),
        )
        returned = {
            name: self._values.count_returned(name, pages) for name, pages in zip(asked_back, back, strict=True)
        }
        for name in names:
            if held[name] is STRANGER:
                if name in present:
                    self._foreign.pop(name, None)
                held[name] = Tally(at=now if name in present else self._foreign.setdefault(name, now), unknown=True)
        return {
            name: Entry(
                held[name],
                self._steady(name, held[name], now),
                has_heartbeat=name in present,
                process_lives=lives.get(name),
                seen_alive=self._values.read_seen_alive(name, seen if seen is not None else self._seen_alive.get(name)),
                back=returned.get(name, {}),
            )
            for name, seen in zip(names, all_seen, strict=True)
        }

    async def _listed(self, silent: Mapping[str, Tally], now: int) -> dict[str, bool | None]:
        """
        Return which nodes' connections Redis still holds.

        False means that Redis held them before, and that this node was connected ever since: the process has ended.
        """
        ids = [str(client) for tally in silent.values() for client in tally.liveness_ids]
        if not ids:
            return {}
        answer = await self._ask("CLIENT", "LIST", "ID", *ids)
        if not isinstance(answer, bytes):
            _say_that_lists_are_refused()
            return {}
        # After a restart of Redis, the same number is somebody else's; the name is not.
        names = {word[5:] for word in answer.decode("utf-8", "replace").split() if word.startswith("name=")}
        listed = {node for node in silent if f"headcount-{node}" in names}
        self._listed_before |= listed
        lives: dict[str, bool | None] = dict.fromkeys(listed, True)
        for node, tally in silent.items():
            if node in self._listed_before - listed and now - tally.at < GIVEN_UP * 1000:
                lives[node] = False
        return lives

    async def _write_back(self, raw: dict[str, bytes]) -> None:
        """Write back the tallies that Redis has lost since the last reading, and remember those that are there."""
        if self._clock() - self._looked < REMEMBERED:
            lost = {node: data for node, data in self._remembered.items() if node not in raw}
            key = f"{self._prefix}:tallies"
            await asyncio.gather(*(self._ask("HSETNX", key, node, data) for node, data in lost.items()))
            raw |= lost
            forged = {
                node: data
                for node, data in self._remembered.items()
                if raw[node] != data and self._border.is_older(f"tallies:{node}", raw[node], data)
            }
            await asyncio.gather(*(self._ask("HSET", key, node, data) for node, data in forged.items()))
            raw |= forged
        self._remembered = dict(list(raw.items())[:MAX_NODES])
        self._looked = self._clock()
        self._seen = {node: seen for node, seen in self._seen.items() if node in raw}
        self._seen_alive = {node: seen for node, seen in self._seen_alive.items() if node in raw}
        self._listed_before &= raw.keys()
        self._foreign = {node: since for node, since in self._foreign.items() if node in raw}

    def _pairs(self, answer: Any) -> dict[str, bytes] | None:
        found = pairs_of(answer)
        if found is None:
            return None
        tallies_found = {name.decode("ascii", "replace"): data for name, data in found if len(data) <= MAX_STORED}
        nodes = {node: data for node, data in tallies_found.items() if is_node_id(node)}
        self._crowded = len(nodes) > MAX_NODES
        return dict(list(nodes.items())[:MAX_NODES])


@cache
def _say_that_lists_are_refused() -> None:
    logger.warning(
        "Redis refused CLIENT LIST. A node that is stopped or cut off cannot be distinguished from one that has "
        "crashed, so its connections, too, count as gone after unaccounted_grace. Allow `+client|list` to the Redis "
        "user of this node. Each process logs this once."
    )


async def _direct(connection: Connection, *words: str) -> Any:
    """Send a command on a connection that nothing else uses yet. Returns None if it is refused."""
    await connection.send_command(*words, check_health=False)
    try:
        return await connection.read_response(disable_decoding=True, disconnect_on_error=False)
    except ResponseError:
        return None


def _milliseconds(answer: Any) -> int | None:
    if not isinstance(answer, list) or len(answer) != 2:
        return None
    try:
        return int(answer[0]) * 1000 + int(answer[1]) // 1000
    except (TypeError, ValueError):
        return None
