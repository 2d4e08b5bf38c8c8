"""What every backend keeps of its nodes for the time when they cannot speak: one suite for all of them."""

import asyncio
import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError

from headcount.core import identity
from headcount.core.history import INTERVAL, encode_sample, sample
from headcount.core.tallies import SeenAlive, Tally
from headcount.fleet.backends import Backend, local_tallies
from headcount.fleet.backends.redis import RedisBackend
from headcount.fleet.backends.redis_queue import NO_REPLY
from headcount.fleet.backends.redis_tallies import RedisTallies
from headcount.fleet.backends.redis_timing import DEFAULT_TIMING, Timing
from kit.pages import until
from kit.stores import Store

from .test_conformance import Ear, Make, _eventually, make, named, stores  # noqa: F401  fixtures

pytestmark = pytest.mark.anyio


class Node(Ear):
    """A backend, and what it says about itself."""

    def __init__(self, make: Make) -> None:  # noqa: F811
        super().__init__()
        self.id = named()
        self.versions = {"v1": 3}
        self.departed: dict[str, int] = {}
        self.key = identity.return_key(self.id.encode())
        self.listed = 0
        self.backend: Backend = make(self.id)
        self.backend.start(self)

    def tally(self, *, leaving: bool) -> Tally:
        if leaving:
            return Tally(departed=self.versions, transit=5.0, left=True, key=self.key, pages=self.listed)
        return Tally(versions=self.versions, departed=self.departed, transit=5.0, key=self.key, pages=self.listed)

    def page_list(self) -> bytes:
        return b"list %d" % self.listed if self.listed else b""


@pytest.fixture
async def nodes(make: Make) -> Any:  # noqa: F811
    made = [Node(make) for _ in range(2)]
    await until(lambda: all(node.connected for node in made))
    yield made
    for node in made:
        await node.backend.stop()


async def test_a_node_finds_its_own_tally_and_those_of_the_others(nodes: list[Node]) -> None:
    one, two = nodes
    both = {one.id, two.id}
    found = await _eventually(one.backend.tallies.entries, lambda found: found is not None and set(found) == both)
    assert found[two.id].tally.versions == {"v1": 3}
    assert found[two.id].tally.key == two.key
    assert await _eventually(one.backend.tallies.entries, lambda found: found[two.id].has_heartbeat)
    two.versions = {"v1": 1, "v2": 7}
    two.backend.write_tally()
    await _eventually(one.backend.tallies.entries, lambda found: found[two.id].tally.versions == {"v1": 1, "v2": 7})
    some = await one.backend.tallies.entries((two.id, "abcdef"))
    assert some is not None
    assert set(some) == {two.id}


async def test_the_last_word_of_a_node_that_left_stays(nodes: list[Node]) -> None:
    one, two = nodes
    await two.backend.stop()
    found = await _eventually(
        one.backend.tallies.entries, lambda found: two.id in found and not found[two.id].has_heartbeat
    )
    assert (found[two.id].tally.left, found[two.id].tally.departed) == (True, {"v1": 3})
    assert found[two.id].age < 5
    await one.backend.tallies.drop(two.id)
    assert two.id not in (await one.backend.tallies.entries() or {})


async def test_a_page_that_came_back_counts_once_whoever_notes_it(nodes: list[Node]) -> None:
    one, two = nodes
    two.departed = {"v1": 3}
    two.backend.write_tally()
    await _eventually(
        one.backend.tallies.entries, lambda found: bool(found.get(two.id) and found[two.id].tally.departed)
    )
    for pages in ({"p1": "v1", "p2": "v 2"}, {"p1": "v1"}, {"p1": "other"}):
        await one.backend.tallies.note_returned(two.id, pages)
    found = await one.backend.tallies.entries()
    assert found is not None
    if "Memory" not in type(one.backend).__name__:
        assert found[two.id].back == {"v1": 1, "v 2": 1}
    # When its pages are no longer on their way, what came back is forgotten: it would be taken off of others.
    two.departed = {}
    two.backend.write_tally()
    two.departed = {"v1": 1}
    two.backend.write_tally()
    if "Memory" not in type(one.backend).__name__:
        found = await _eventually(one.backend.tallies.entries, lambda found: not found[two.id].back)


async def test_the_list_of_pages_belongs_to_the_tally(nodes: list[Node]) -> None:
    one, two = nodes
    await _eventually(one.backend.tallies.entries, lambda found: two.id in found)
    assert await one.backend.tallies.pages(two.id) is None
    for number in (1, 2, 2, 3):
        two.listed = number
        two.backend.write_tally()
        found = await _eventually(one.backend.tallies.entries, lambda found: found[two.id].tally.pages == two.listed)
        assert await one.backend.tallies.pages(two.id) == b"list %d" % found[two.id].tally.pages
    two.listed = 4
    await two.backend.stop()
    await _eventually(one.backend.tallies.entries, lambda found: found[two.id].tally.left)
    assert await one.backend.tallies.pages(two.id) == b"list 4"
    await one.backend.tallies.drop(two.id)
    assert await one.backend.tallies.pages(two.id) is None


async def test_what_was_seen_to_live_and_an_operators_word_are_kept_for_all(nodes: list[Node]) -> None:
    one, two = nodes
    await _eventually(one.backend.tallies.entries, lambda found: two.id in found)
    await one.backend.tallies.keep_seen_alive(two.id, SeenAlive(5))
    assert (await two.backend.tallies.entries() or {})[two.id].seen_alive == SeenAlive(5)
    await two.backend.stop()
    await _eventually(one.backend.tallies.entries, lambda found: found[two.id].tally.left)
    await one.backend.tallies.forget(two.id)
    found = await one.backend.tallies.entries()
    assert found is not None
    assert found[two.id].tally.forgotten


async def test_the_history_is_the_same_for_all_and_one_node_adds_to_it(nodes: list[Node]) -> None:
    one = nodes[0]
    for node in nodes:
        await _eventually(
            node.backend.tallies.entries,
            lambda found: len(found) == 2 and all(entry.has_heartbeat for entry in found.values()),
        )
    now = one.backend.tallies.now()
    assert now is not None
    turns = [await node.backend.tallies.claim_sample(now // round(INTERVAL * 1000)) for node in nodes]
    assert sorted(turns) == [False, True]
    lines = [encode_sample(sample(at, {"v1": at})) for at in range(3)]
    for number, line in enumerate(lines):
        await one.backend.tallies.add_sample(line, minute=lines[0] if number == 1 else None)
    for node in nodes:
        assert await node.backend.tallies.history() == (lines, lines[:1], None)
    for data in (b"older", b"x" * 40_000):
        await one.backend.tallies.keep_rollouts(data)
    for node in nodes:
        assert await node.backend.tallies.history(2, 1) == (lines[1:], lines[:1], b"x" * 40_000)


@pytest.fixture
def valkey() -> Iterator[Store]:
    with Store("valkey") as store:
        yield store


async def _redis(store: Store, count: int) -> list[Node]:
    made = [Node(lambda node: RedisBackend(node, store.url, "fleet", store.url)) for _ in range(count)]
    await until(lambda: all(node.connected for node in made))
    return made


async def test_a_user_without_the_rights_loses_only_what_they_are_for(valkey: Store) -> None:
    rights = ("~*", "&*", "+@all", "-hset", "-hgetall", "-client", "-time", "-hdel", "-rpush", "-lrange", "-hmget")
    assert valkey.ask("ACL", "SETUSER", "few", "on", ">pw", *rights) == b"+OK"
    url = f"redis://few:pw@127.0.0.1:{valkey.port}/0"
    node = Node(lambda name: RedisBackend(name, url, "fleet", url))
    await until(lambda: node.connected)
    assert await node.backend.tallies.entries() is None
    assert await node.backend.tallies.history() is None
    assert node.connected
    await node.backend.stop()


async def test_a_node_whose_connections_redis_still_holds_lives(valkey: Store) -> None:
    one, two = await _redis(valkey, 2)
    await _eventually(one.backend.tallies.entries, lambda found: len(found or ()) == 2)
    # As if it were stopped: its sign of life expires, its connections stay.
    backend: Any = two.backend
    task = backend._task
    backend.write_tally = lambda: None
    valkey.ask("DEL", f"{{headcount:fleet}}:node:{two.id}")
    found = await one.backend.tallies.entries()
    assert found is not None
    assert (found[two.id].has_heartbeat, found[two.id].process_lives) == (False, True)
    backend._receiver.leave_message = lambda: b""
    for connection in (backend._commands, backend._subscriber):
        await connection.disconnect(nowait=True)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    valkey.ask("DEL", f"{{headcount:fleet}}:node:{two.id}")
    found = await _eventually(one.backend.tallies.entries, lambda found: found[two.id].process_lives is None)
    await one.backend.stop()


async def test_what_redis_lost_is_written_back_by_whoever_saw_it(valkey: Store) -> None:
    one, two = await _redis(valkey, 2)
    await _eventually(one.backend.tallies.entries, lambda found: len(found or ()) == 2)
    await two.backend.stop()
    await _eventually(one.backend.tallies.entries, lambda found: found[two.id].tally.left)
    valkey.ask("HDEL", "{headcount:fleet}:tallies", two.id)
    found = await one.backend.tallies.entries()
    assert found is not None
    assert found[two.id].tally.left
    assert two.id.encode() in valkey.lines("HKEYS", "{headcount:fleet}:tallies")
    await one.backend.stop()


async def test_a_redis_that_was_emptied_is_not_trusted_before_everybody_wrote_back(valkey: Store) -> None:
    timing = Timing(*(seconds * 0.1 for seconds in DEFAULT_TIMING))
    one, two, gone = [Node(lambda node: RedisBackend(node, valkey.url, "fleet", valkey.url, timing)) for _ in range(3)]
    nodes = (one, two)
    await until(lambda: all(node.connected for node in (*nodes, gone)))
    await _eventually(one.backend.tallies.entries, lambda found: len(found or ()) == 3)
    await gone.backend.stop()
    await _eventually(one.backend.tallies.entries, lambda found: found[gone.id].tally.left)
    assert all(node.backend.tallies.complete for node in nodes)
    # The second never looked, so it has nothing to write back, and must wait for those who have.
    valkey.ask("FLUSHALL")
    incomplete: set[str] = set()

    def noticed() -> bool:
        incomplete.update(node.id for node in nodes if not node.backend.tallies.complete)
        return len(incomplete) == len(nodes)

    await until(noticed)
    await until(lambda: all(node.backend.tallies.complete for node in nodes))
    found = await two.backend.tallies.entries()
    assert found is not None
    assert found[gone.id].tally.left
    for node in nodes:
        await node.backend.stop()


def test_a_store_is_another_one_also_when_the_answer_that_said_so_was_lost() -> None:
    async def ask(*_: Any) -> None:
        return None

    now = 0.0
    tallies = RedisTallies("node", "fleet", ask, lambda: now, patience=10.0)
    for proposed, answer, complete in (
        ("one", None, True),  # it had none
        ("two", b"one", True),
        ("three", object(), True),  # lost: Redis took "three" for its id, or did not
        ("four", b"three", False),
        ("five", b"three", False),
    ):
        assert tallies.on_store(proposed, answer) == []
        assert tallies.complete is complete, proposed
    now = 10.0
    assert tallies.complete
    tallies.on_store("six", None)
    assert not tallies.complete


@pytest.mark.parametrize("answer", [NO_REPLY, None, OutOfMemoryError("OOM")], ids=["none", "refused", "full"])
def test_a_list_of_pages_that_redis_did_not_take_is_sent_again(answer: Any) -> None:
    async def ask(*_: Any) -> None:
        return None

    tallies = RedisTallies("node", "fleet", ask, lambda: 0.0, patience=10.0)
    tally = Tally(pages=7)
    (command,) = tallies.write_pages(tally, b"list")
    tallies.on_pages_answer(7, answer)
    assert tallies.write_pages(tally, b"list") == [command]
    tallies.on_pages_answer(7, b"OK")
    assert tallies.write_pages(tally, b"list") == []
    assert tallies.write_pages(Tally(), b"") == [("DEL", command[1])]


async def test_a_jump_of_redis_clock_ends_no_grace(valkey: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await _redis(valkey, 2)
    await _eventually(one.backend.tallies.entries, lambda found: len(found or ()) == 2)
    await two.backend.stop()
    await _eventually(one.backend.tallies.entries, lambda found: found[two.id].tally.left)
    before = (await one.backend.tallies.entries() or {})[two.id]
    tallies: Any = one.backend.tallies
    real = tallies._ask

    async def ask(*command: Any) -> Any:
        answer = await real(*command)
        return [b"%d" % (int(answer[0]) + 3_600), answer[1]] if command == ("TIME",) else answer

    monkeypatch.setattr(tallies, "_ask", ask)
    after = (await one.backend.tallies.entries() or {})[two.id]
    assert after.age - before.age < 60
    await one.backend.stop()


def test_processes_are_known_by_number_and_start() -> None:
    import subprocess

    own = local_tallies.process_liveness_ids(os.getpid())
    child = subprocess.Popen(["sleep", "60"])
    try:
        ids = local_tallies.process_liveness_ids(child.pid)
        assert local_tallies._lives(ids, own) is True
        assert local_tallies._lives((ids[0], ids[1] + 1, *ids[2:]), own) is False, "another one under that number"
        assert local_tallies._lives((*ids[:2], ids[2] + 1, ids[3]), own) is None, "another container's"
        assert local_tallies._lives((*ids[:3], ids[3] + 1), own) is False, "before the machine was started"
    finally:
        child.kill()
        child.wait()
    assert local_tallies._lives(ids, own) is False
    assert local_tallies._lives((), own) is None


def test_files_that_nobody_looks_at_are_removed_after_a_day(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "aaaaaaaaaaaa.tally").write_bytes(b"x")
        (tmp_path / name / "history").write_bytes(b"x")
    now = time.time()
    local_tallies.remove_abandoned_files(tmp_path, now)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}
    (tmp_path / "new" / "somebody's").write_text("")
    local_tallies.remove_abandoned_files(tmp_path, now + local_tallies.ABANDONED_AFTER + 60)
    assert {path.name for path in tmp_path.iterdir()} == {"new"}


async def test_a_tally_that_could_not_be_written_is_written_with_the_next_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = local_tallies.TallyFiles("aaaaaaaaaaaa", lambda: [tmp_path], lambda: ())
    files.write(Tally(versions={"v1": 5}))
    first = (await files.entries())["aaaaaaaaaaaa"].tally
    await asyncio.sleep(0.01)
    with monkeypatch.context() as full:

        def no_space(path: Path, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(local_tallies, "write_whole", no_space)
        files.write(Tally(versions={"v1": 1}))
        held = (await files.entries())["aaaaaaaaaaaa"].tally
        assert held.versions == {"v1": 5}
        assert held.at > first.at, "it lives"
    files.write(Tally(versions={"v1": 1}))
    assert (await files.entries())["aaaaaaaaaaaa"].tally.versions == {"v1": 1}
    files.leave(Tally(left=True))
