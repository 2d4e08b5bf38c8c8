"""Messages with acknowledgements in a fleet of real processes."""

import asyncio

import pytest

from headcount import client
from kit.pages import Sse, ask, everybody_leaves
from kit.stores import Store

from .serving import Server

pytestmark = pytest.mark.anyio
SECRET = "s3cret-of-the-tests"


async def test_pages_of_all_nodes_acknowledge_by_whichever_node_their_post_reaches() -> None:
    with (
        Store() as store,
        Server("uvicorn", admin_token=SECRET, backend=store.url) as one,
        Server("uvicorn", admin_token=SECRET, backend=store.url) as two,
    ):
        for server in (one, two):
            await asyncio.to_thread(server.wait_ready)
        pages = [await Sse.open(server.url, version="v1", route="/") for server in (one, two) for _ in range(5)]
        async with asyncio.timeout(30):
            while (await client.fetch_stats(one.url, token=SECRET)).total < len(pages):
                await asyncio.sleep(0.05)
        sending = asyncio.create_task(client.notify(one.url, {"type": "sale"}, wait=30, token=SECRET))
        for number, page in enumerate(pages):
            await page.until(lambda stream: bool(stream.of_type("sale")))
            [message] = page.of_type("sale")
            elsewhere = (two, one)[number // 5]
            body = {"connectionId": page.messages[0]["connectionId"], "id": message["acknowledge"]}
            assert (await ask(elsewhere.url, "POST", "/__skew/acknowledge", body))[0] == 200
        found = await sending
        assert (found.sent, found.acknowledged, found.partial) == (10, 10, False)
        sending = asyncio.create_task(client.notify(two.url, {"type": "sale"}, wait=1, token=SECRET))
        assert ((await sending).sent, (await sending).acknowledged) == (10, 0)
        await everybody_leaves()
