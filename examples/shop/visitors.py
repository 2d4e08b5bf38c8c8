"""
Simulated visitors of the shop: real connections that behave like open pages.

    python visitors.py http://127.0.0.1:8000 --count 200 --seed 1

Each visitor loads a page, reads its build id, opens a stream with it, views a few products, leaves, and comes back
later. After a release is announced on the stream, a visitor reloads the page within `reload_within` seconds and is on
the new build from then on. A page that is left says goodbye. Half use SSE, half WebSocket.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx2 as httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Origin

BASE_PATH = "/__skew"
BUILD_ID = re.compile(r'<meta name="headcount-version" content="([^"]+)"')

# Entry pages, and the next pages after each page, with weights: many on the first products, few at the checkout.
ENTRANCES = {"/": 6.0, "/products": 2.0, "/products/1": 1.0, "/products/5": 1.0}
FROM_A_PRODUCT = {"/products": 6.0, "/checkout": 2.0, "/products/1": 2.0, "/products/4": 1.0, "/": 2.0}
NEXT_PAGES: dict[str, dict[str, float]] = {
    "/": {"/products": 5.0, "/products/1": 2.0, "/products/2": 1.0, "/products/3": 1.0},
    "/products": {f"/products/{number}": 9 / number for number in range(1, 10)} | {"/": 3.0},
    "/checkout": {"/": 2.0, "/products": 2.0},
}

# Networks for documentation (RFC 5737), so that the list of connections shows different addresses. The shop uses the
# addresses only if it trusts this machine as a proxy.
NETWORKS = ("192.0.2", "198.51.100", "203.0.113")
ADDRESS = "X-Forwarded-For"

LOST = (httpx.HTTPError, WebSocketException, OSError)
TRIES = 5

Message: TypeAlias = Mapping[str, Any]
Navigate: TypeAlias = Callable[[str], Awaitable[object]]
Stream: TypeAlias = tuple[AsyncIterator[Message], Navigate]


@dataclass(frozen=True)
class Pace:
    """
    The pace of visitors, in seconds.

    Attributes:
        page: Mean time on one page.
        visit: Mean time in the shop.
        away: Mean time between two visits.
        arrive: Time over which the first visits start.
        reload_within: Longest time from a release until a page reloads.
    """

    page: float = 12.0
    visit: float = 150.0
    away: float = 6.0
    arrive: float = 6.0
    reload_within: float = 30.0


class Visitor:
    """One person with one tab. `client` and `rng` belong to this visitor."""

    def __init__(self, client: httpx.AsyncClient, rng: random.Random, pace: Pace, *, websocket: bool) -> None:
        self.client = client
        self.rng = rng
        self.pace = pace
        self.open = self.open_websocket if websocket else self.open_sse
        self.page = "/"

    async def live(self) -> None:
        """Visit again and again, until the shop has not been reachable for about a minute."""
        await asyncio.sleep(self.rng.uniform(0, self.pace.arrive))
        failures = 0
        while failures < TRIES:
            self.page = self.choose(ENTRANCES)
            try:
                await self.visit()
            except LOST:
                # With jitter, because all visitors lose their connections at the same moment.
                failures += 1
                await asyncio.sleep(self.rng.uniform(0.5, 1) * 2**failures)
            else:
                failures = 0
                await asyncio.sleep(self.rng.expovariate(1 / self.pace.away))

    async def visit(self) -> None:
        """Make one visit, with a page load for each release during it."""
        leaves = asyncio.get_running_loop().time() + self.rng.expovariate(1 / self.pace.visit)
        reload = True
        while reload:
            version = await self.load()
            async with self.open(version) as (messages, navigate):
                reload = await self.stay(version, messages, navigate, leaves)

    async def load(self) -> str:
        """Load the page as a browser does, and return its build id."""
        response = (await self.client.get(self.page)).raise_for_status()
        found = BUILD_ID.search(response.text)
        if found is None:
            raise httpx.DecodingError("The page has no build id; give the URL of the shop.", request=response.request)
        return found[1]

    async def stay(self, version: str, messages: AsyncIterator[Message], navigate: Navigate, leaves: float) -> bool:
        """Navigate and listen. Returns True to reload after a release, False to leave."""
        listening = asyncio.ensure_future(self.listen(version, messages))
        wandering = asyncio.ensure_future(self.wander(navigate, leaves))
        both = [listening, wandering]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            return wandering not in done
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def listen(self, version: str, messages: AsyncIterator[Message]) -> None:
        """Return within `reload_within` seconds after another version was announced."""
        async for message in messages:
            if message["type"] == "version" and message["version"] != version:
                await asyncio.sleep(self.rng.uniform(0, self.pace.reload_within))
                return
        raise ConnectionError("The server ended the stream.")

    async def wander(self, navigate: Navigate, leaves: float) -> None:
        """Navigate until it is time to leave."""
        clock = asyncio.get_running_loop().time
        while (left := leaves - clock()) > 0:
            await asyncio.sleep(min(left, self.rng.expovariate(1 / self.pace.page)))
            if clock() < leaves:
                self.page = self.choose(NEXT_PAGES.get(self.page, FROM_A_PRODUCT))
                await navigate(self.page)

    def choose(self, weights: Mapping[str, float]) -> str:
        """Draw one of the keys."""
        return self.rng.choices(list(weights), list(weights.values()))[0]

    @contextlib.asynccontextmanager
    async def open_sse(self, version: str) -> AsyncIterator[Stream]:
        """Open an SSE stream."""
        async with self.client.stream(
            "GET", f"{BASE_PATH}/sse", params={"version": version, "route": self.page}
        ) as response:
            response.raise_for_status()
            messages = sse_messages(response)
            # The handle for POSTs, from the first message.
            connection_id = (await anext(messages))["connectionId"]

            async def navigate(route: str) -> None:
                body = {"connectionId": connection_id, "route": route}
                (await self.client.post(f"{BASE_PATH}/route", json=body)).raise_for_status()

            try:
                yield messages, navigate
            finally:
                # As a page says goodbye that is closed or reloaded. Without it, the page might come back for 48 s.
                with contextlib.suppress(*LOST):
                    await self.client.post(f"{BASE_PATH}/bye", json={"connectionId": connection_id})

    @contextlib.asynccontextmanager
    async def open_websocket(self, version: str) -> AsyncIterator[Stream]:
        """Open a WebSocket. Closing it with 1000, as its context does, is the farewell."""
        base = self.client.base_url
        url = base.copy_with(
            scheme={"http": "ws", "https": "wss"}[base.scheme],
            path=f"{BASE_PATH}/ws",
            params={"version": version, "route": self.page},
        )
        async with connect(
            str(url),
            origin=Origin(self.client.headers["Origin"]),
            additional_headers={ADDRESS: self.client.headers[ADDRESS]},
            compression=None,
            proxy=None,
            close_timeout=1,
        ) as socket:

            async def messages() -> AsyncIterator[Message]:
                async for text in socket:
                    yield json.loads(text)

            async def navigate(route: str) -> None:
                await socket.send(json.dumps({"type": "route-update", "route": route}))

            yield messages(), navigate


async def sse_messages(response: httpx.Response) -> AsyncIterator[Message]:
    """Read the messages of an SSE stream; Headcount's are one `data:` line each."""
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))


async def run_visitors(url: str, count: int, *, seed: int = 1, pace: Pace | None = None) -> None:
    """
    Run `count` visitors of the shop at `url`, until cancelled or until the shop is gone.

    Args:
        url: URL of the shop, such as http://127.0.0.1:8000.
        count: Number of visitors; at any moment a few of them are away.
        seed: Seed of the random behaviour; the timing of the network is not covered by it.
        pace: Pace of the visitors.
    """
    # Made once, because it takes most of the time of making a client.
    tls = ssl.create_default_context()
    parts = httpx.URL(url)
    origin = f"{parts.scheme}://{parts.netloc.decode('ascii')}"

    async def visitor(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        # A client for each visitor, as each is a browser. One client for all would search its pool of thousands of
        # connections for every request.
        async with httpx.AsyncClient(
            base_url=url,
            headers={"Origin": origin, ADDRESS: f"{rng.choice(NETWORKS)}.{rng.randint(1, 254)}"},
            # The longest silence of a stream is its keepalive interval, 15 s by default.
            timeout=httpx.Timeout(10, read=60),
            verify=tls,
            # The shop is on this machine, so the proxy of the environment is not used.
            trust_env=False,
        ) as client:
            await Visitor(client, rng, pace or Pace(), websocket=number % 2 == 1).live()

    async with asyncio.TaskGroup() as people:
        for number in range(count):
            people.create_task(visitor(number))


async def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command in the docstring of this file, until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description="Run simulated visitors of the shop.")
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reload-within", type=float, default=Pace.reload_within, metavar="SECONDS")
    options = parser.parse_args(arguments)
    running = asyncio.ensure_future(
        run_visitors(options.url, options.count, seed=options.seed, pace=Pace(reload_within=options.reload_within))
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    for number in (signal.SIGINT, signal.SIGTERM):
        # After Ctrl-C comes the demo's SIGTERM. Python complains of a signal that meets a loop which is closing.
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    asyncio.run(main())
