"""A page that comes back before the network noticed that it left is counted once."""

import pytest

from .asgi_client import TRANSPORTS, WAYS, Site, WebSocket, asynchronous, turn_until

both = pytest.mark.parametrize("transport", TRANSPORTS)
every_way = pytest.mark.parametrize("way", WAYS)


@every_way
@both
@asynchronous
async def test_a_stream_takes_the_place_of_the_one_it_names(way: str, transport: str) -> None:
    site = Site(way)
    causes: list[str] = []
    site.headcount.on_connection_close(lambda connection, cause: causes.append(cause))
    old = await site.visitor.open(transport, "?version=v1&route=/a")
    await site.visitor.open(transport, f"?version=v1&route=/b&replaces={old.handle}")
    assert site.node.figures.stats().routes == {"/b": 1}, "at once, although the old peer has said nothing"
    await old.ended()
    if isinstance(old, WebSocket):
        assert old.close == (1000, "A newer stream replaced this one.")
    assert causes == ["replaced"]
    assert site.total == 1


@both
@asynchronous
async def test_a_peer_that_does_not_read_is_replaced_too(transport: str) -> None:
    site = Site()
    old = await site.visitor.open(transport)
    old.block()
    await site.visitor.open(transport, f"?replaces={old.handle}")
    assert site.total == 1


@both
@asynchronous
async def test_whoever_names_no_open_stream_replaces_none(transport: str) -> None:
    site = Site()
    stream = await site.visitor.open(transport)
    for guess in (stream.public, f"{stream.handle}x", "", "." * 500):
        await site.visitor.open(transport, f"?replaces={guess}")
    assert site.total == 5
    assert not stream.done


@asynchronous
async def test_a_shared_stream_is_replaced_and_its_tabs_wait_to_be_reported() -> None:
    site = Site()
    old = await site.visitor.open("ws", "?shared=1")
    await site.visitor.say(old, {"type": "tabs", "set": [{"key": "a-tab-of-this-browser"}]})
    await old.next("tabs")
    await site.visitor.open("ws", f"?shared=1&replaces={old.handle}")
    assert site.total == 1
    await turn_until(lambda: site.total == 0, "nobody reported it")
