"""Messages to many pages, and who acknowledges them."""

import asyncio
from types import MappingProxyType
from typing import Any

import pytest

from headcount.core import acknowledgements

from .asgi_client import TRANSPORTS, Site, asynchronous, problem, turn_until

both = pytest.mark.parametrize("transport", TRANSPORTS)
KEYS = ("the-key-of-one-tab", "the-key-of-a-second-tab")


async def acknowledge(site: Site, page: Any, message: dict[str, Any], **more: str) -> None:
    await site.visitor.say(page, {"type": "acknowledge", "id": message["acknowledge"], **more})


def in_background(awaitable: Any) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(awaitable)


@both
@asynchronous
async def test_pages_that_acknowledge_are_counted_and_nobody_waits_longer_than_for_the_last(transport: str) -> None:
    site = Site()
    pages = [await site.visitor.open(transport, "?version=v1&route=/a") for _ in range(3)]
    await site.visitor.open(transport, "?version=v1&route=/b")
    sending = in_background(site.headcount.broadcast({"type": "sale"}, route="/a", acknowledge=True, wait=60))
    for page in pages:
        message = await page.next("sale")
        assert set(message) == {"type", "acknowledge"}
        for _ in range(2):
            await acknowledge(site, page, message)
    assert await sending == (3, 3, False)


@asynchronous
async def test_whoever_is_silent_is_not_counted() -> None:
    site = Site()
    page, silent = [await site.visitor.open("ws", "?version=v1") for _ in range(2)]
    sending = in_background(
        site.admin.post("/admin/notify", {"message": {"type": "sale"}, "version": "v1", "wait": 0.3})
    )
    await acknowledge(site, page, await page.next("sale"))
    await silent.next("sale")
    stranger = await site.stranger.open("ws", "?version=v1")
    await acknowledge(site, stranger, {"acknowledge": "0123456789abcdef"})
    answer = await sending
    assert answer.json == {"ok": True, "sent": 2, "acknowledged": 1, "partial": False}


@both
@asynchronous
async def test_tabs_of_a_shared_stream_acknowledge_by_their_keys(transport: str) -> None:
    site = Site()
    stream = await site.visitor.open(transport, "?shared=1")
    tabs = [{"key": key, "version": "v1"} for key in KEYS]
    await site.visitor.say(stream, {"type": "tabs", "set": tabs, "remove": []})
    await stream.next("tabs")
    sending = in_background(site.headcount.broadcast({"type": "sale"}, acknowledge=True, wait=60))
    message = (await stream.next("to"))["message"]
    await acknowledge(site, stream, message, tab="a-key-of-nobody-at-all")
    for key in KEYS:
        await acknowledge(site, stream, message, tab=key)
    assert await sending == (2, 2, False)
    await stream.leave()
    await turn_until(lambda: site.total == 0, "its tabs are gone")


@asynchronous
async def test_a_message_that_cannot_be_sent_is_refused() -> None:
    site = Site()
    with pytest.raises(TypeError, match="field 'acknowledge'"):
        await site.headcount.broadcast({"acknowledge": 1}, acknowledge=True)
    with pytest.raises(TypeError, match="pass a dict"):
        await site.headcount.broadcast([], acknowledge=True)  # type: ignore[call-overload]
    for body, words in (
        ({"message": {"acknowledge": "x"}}, "field 'acknowledge'"),
        ({"message": []}, "message"),
        ({}, "message"),
        ({"message": {}, "wait": 61}, "wait"),
        ({"message": {}, "route": "/\x00"}, "route"),
    ):
        problem(await site.admin.post("/admin/notify", body), 400, words)


@asynchronous
async def test_without_the_right_nobody_sends() -> None:
    site = Site()
    assert (await site.stranger.post("/admin/notify", {"message": {"type": "sale"}})).status == 401


@asynchronous
async def test_what_is_not_known_any_more_is_not_called_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledgements, "MAX_MESSAGES", 1)
    site = Site()
    page = await site.visitor.open("ws", "?version=v1")
    first = in_background(site.headcount.broadcast({"type": "one"}, acknowledge=True, wait=0.4))
    await page.next("one")
    second = await site.headcount.broadcast({"type": "two"}, acknowledge=True, wait=0)
    assert (second.sent, second.partial) == (1, False)
    assert await first == (1, 0, True)


@asynchronous
async def test_any_mapping_is_a_message() -> None:
    site = Site()
    page = await site.visitor.open("ws", "?version=v1")
    sending = in_background(site.headcount.broadcast(MappingProxyType({"type": "sale"}), acknowledge=True, wait=60))
    await acknowledge(site, page, await page.next("sale"))
    assert await sending == (1, 1, False)
