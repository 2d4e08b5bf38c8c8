"""A server with a crowd in it, for the dashboard's tests: connections without sockets, some of whom always move."""

import asyncio
import math
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

from starlette.applications import Starlette
from starlette.routing import Mount

from headcount import Headcount
from headcount.core.history import INTERVAL, Current, sample
from headcount.core.kept_history import History, KeptHistory
from headcount.core.rollouts import NOTHING, encode, fold

CONNECTIONS = int(os.environ.get("CROWD", "10000"))
ROUTES = int(os.environ.get("CROWD_ROUTES", "1000"))
MOVES = os.environ.get("CROWD_MOVES", "1") == "1"
TOKEN = "the tests' own door"

headcount = Headcount(
    version="2026.11.4",
    update_strategy="auto",
    route_tracking=True,
    ip_tracking=True,
    admin_token=TOKEN,
    backend="memory",  # whose history this application can fill by hand
)
node = headcount.node
chance = random.Random(4)
SECTIONS = ("", "products", "products", "cart", "checkout", "account", "help", "blog")
WORDS = ("teapots", "pots", "pans", "knives", "spoons", "bowls", "cups", "kettles", "trays", "jars", "towels", "gifts")


def path(number: int) -> str:
    section = SECTIONS[number % len(SECTIONS)]
    if number == 0 or not section:
        return "/" if number == 0 else f"/{WORDS[number % len(WORDS)]}/{number}"
    return f"/{section}" if number < len(SECTIONS) else f"/{section}/{WORDS[number % len(WORDS)]}/{number}"


PATHS = sorted({path(number) for number in range(ROUTES)}, key=lambda route: (route.count("/"), route))


def some_path() -> str:
    if chance.random() < 0.2:
        return chance.choice(PATHS)
    return PATHS[min(int(chance.paretovariate(0.35)), len(PATHS)) - 1]


def version_at(share_of_new: float) -> str:
    if chance.random() < share_of_new:
        return "2026.11.4"
    return chance.choice(("2026.11.3",) * 6 + ("2026.11.2",) * 2 + ("2026.10.9", "unknown"))


def fill() -> list[str]:
    ids = [f"{number:04x}{chance.getrandbits(48):012x}" for number in range(CONNECTIONS)]
    for each in ids:
        node._registry.open(each, version_at(0.66), some_path(), f"192.0.2.{chance.randrange(1, 255)}")
    return ids


def earlier_rollouts(now: int) -> KeptHistory:
    """Return five rollouts of the days before; nobody knows what happened in the third minute of the newest."""
    names = [*(f"2026.10.{number}" for number in range(5, 10)), "2026.11.3"]
    known = NOTHING
    for day, (before, version) in enumerate(pairwise(names)):
        released = now - (6 - day) * 86_400_000
        samples = [sample(released - 10_000, {before: CONNECTIONS}, current=Current(before))]
        for step in range(181):
            old = round(CONNECTIONS * math.exp(-step / (12 + 4 * day)))
            counts, partial = {version: CONNECTIONS - old, before: old}, day == 4 and 12 < step <= 20
            at = released + step * 10_000
            samples.append(sample(at, counts, partial=partial, current=Current(version, released)))
        known = fold(known, samples, now)
    return KeptHistory(rollouts=encode(known))


def remember_an_hour() -> None:
    """As if this server had run for an hour, with a release in the middle."""
    now = time.time_ns() // 1_000_000
    node.figures.history = History(earlier_rollouts(now))
    released = now - 220 * round(INTERVAL * 1000)
    for step in range(360):
        ago = 360 - step
        since_release = max(0.0, (220 - ago) / 220)
        total = round(CONNECTIONS * (0.82 + 0.18 * step / 360 + chance.uniform(-0.004, 0.004)))
        new = round(total * (1 - 0.34**since_release) if since_release else 0)
        old = total - new
        versions = {
            "2026.11.4": new,
            "2026.11.3": round(old * 0.6),
            "2026.11.2": round(old * 0.2),
            "2026.10.9": round(old * 0.1),
        }
        versions["unknown"] = total - sum(versions.values())
        counts = {version: count for version, count in versions.items() if count}
        current = Current("2026.11.4", released) if ago <= 220 else Current("2026.11.3")
        at = now - round(ago * INTERVAL * 1000)
        node.figures.history.add(node.clock() - ago * INTERVAL, at, counts, current)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    ids = fill()
    remember_an_hour()

    async def move() -> None:
        while True:
            await asyncio.sleep(0.05 if MOVES else 3600)
            with node._lock:
                for each in chance.sample(ids, min(20, len(ids))):
                    node._registry.navigate(each, some_path())
                if ids:
                    gone = ids.pop(0)
                    node._registry.close(gone)
                    ids.append(f"{chance.getrandbits(64):016x}")
                    node._registry.open(ids[-1], version_at(0.9), some_path(), f"192.0.2.{chance.randrange(1, 255)}")
                node.viewers.mark_dirty()

    task = asyncio.create_task(move())
    yield
    task.cancel()


app = Starlette(routes=[Mount(headcount.base_path, headcount)], lifespan=lifespan)
