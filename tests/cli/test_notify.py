"""`headcount notify`: real processes."""

import asyncio
import json

import pytest

from kit.pages import Sse, everybody_leaves

from .processes import TOKEN, Serve
from .running import Command, run

pytestmark = pytest.mark.anyio


async def test_a_message_reaches_the_pages_that_were_chosen_and_acknowledgements_are_counted() -> None:
    with Serve() as server:
        here, silent, there = [await Sse.open(server.origin, version="v1", route=route) for route in ("/a", "/a", "/b")]
        words = ("--message", '{"type":"sale","percent":20}', "--route", "/a", "--wait", "1s", "--token", TOKEN)
        with Command("notify", server.url, *words) as notifying:
            await here.until(lambda stream: bool(stream.of_type("sale")))
            [message] = here.of_type("sale")
            assert message["percent"] == 20
            assert await here.post(server.origin, "/acknowledge", id=message["acknowledge"]) == 200
            assert await asyncio.to_thread(notifying.wait) == 0
            assert notifying.output == "Sent to 2 pages; 1 acknowledged it.\n"
        assert silent.of_type("sale")
        assert not there.of_type("sale")
        as_json = await asyncio.to_thread(run, "notify", server.url, *words[:-4], "--wait", "0s", *words[-2:], "--json")
        assert json.loads(as_json.stdout) == {"ok": True, "sent": 2, "acknowledged": 0, "partial": False}
        await everybody_leaves()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "Missing option '--message'"),
        (("--message", "sale"), 2, "is not JSON"),
        (("--message", "[1]"), 2, "is not a JSON object"),
        (("--message", "{}", "--wait", "2m"), 2, "give 60s or less"),
        (("--message", "{}"), 1, "connection refused"),
    ],
)
def test_what_goes_wrong_is_said_in_a_sentence(arguments: tuple[str, ...], code: int, words: str) -> None:
    done = run("notify", "127.0.0.1:9", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in " ".join(done.stderr.split())
