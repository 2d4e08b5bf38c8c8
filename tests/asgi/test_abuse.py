"""
What strangers may send: each is answered in one sentence or a close code, and nobody else notices.

Every test here holds a bystander and a viewer beside the one who misbehaves.
"""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec
import pytest
from starlette.requests import HTTPConnection

from authorization.test_kept_headers import ADDRESS_HEADERS
from headcount import Headcount
from headcount.asgi import client_posts
from headcount.core.message_rate import BURST
from kit.ports import free_port

from .asgi_client import (
    ADMIN,
    HOST,
    TRANSPORTS,
    WAYS,
    Call,
    Client,
    Clock,
    Figures,
    Site,
    Stream,
    admins_only,
    answer_of,
    asynchronous,
    at_once,
    problem,
    turn_until,
    turns,
)

both = pytest.mark.parametrize("transport", TRANSPORTS)
every_way = pytest.mark.parametrize("way", WAYS)

JSON = {"content-type": "application/json"}
POSTS = ("/route", "/subscribe-stats", "/unsubscribe-stats")


class Scene(NamedTuple):
    """A site, somebody who just sits there, a page under attack, and a viewer of it all."""

    site: Site
    bystander: Stream
    page: Stream
    figures: Figures


@asynccontextmanager
async def undisturbed(way: str = "mounted", **settings: Any) -> AsyncIterator[Scene]:
    """Check that what happens inside changes no figure and reaches nobody, and that all still works afterwards."""
    site = Site(way, stats_interval=0.001, **settings)
    bystander = await site.stranger.open("ws", "?version=v1&route=/by")
    page = await site.stranger.open("sse", "?version=v1&route=/page")
    viewer = await site.admin.open("ws", "?viewer=1")
    figures = await site.admin.watch(viewer)
    before = site.node.figures.stats()
    yield Scene(site, bystander, page, figures)
    await site.settled()
    assert site.node.figures.stats() == before, "a figure has changed"
    for stream in (bystander, page, viewer):
        assert not stream.unread
        assert not stream.done
    await site.stranger.navigate(page, "/on")
    await figures.until(lambda now: now["routes"] == {"/by": 1, "/on": 1})
    assert not site.node.viewers.pending


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"text"', b"1", b"true", b"{}", b"[" * 4000, b'{"a":' * 800, b"\xff\xfe{}", b"\x00",
        b"connectionId=x&route=/",
        b"{'connectionId':'x'}", b'{"connectionId":"\\ud800","route":"/"}', b'{"route":"/a"}',
        b'{"connectionId":"x","route":"/"} trailing',
    ],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
@asynchronous
async def test_body_that_is_not_what_it_should_be_is_refused(path: str, body: bytes) -> None:
    async with undisturbed() as scene:
        problem(await scene.site.stranger.request("POST", path, body, JSON), 400)


@every_way
@asynchronous
async def test_deeply_nested_json_is_refused_or_ignored_and_breaks_nothing(way: str) -> None:
    """How deep is too deep depends on the Python."""
    nested = "[" * 2_000 + "]" * 2_000
    async with undisturbed(way) as scene:
        for path in POSTS:
            body = f'{{"connectionId":"x","x":{nested}}}'.encode()
            answer = await scene.site.stranger.request("POST", path, body, JSON)
            problem(answer, answer.status)
            assert answer.status in (400, 404)
        socket = await scene.site.stranger.open("ws", "?viewer=1")
        socket.say_text(f'{{"type":"x","x":{nested}}}')
        await turn_until(lambda: socket.done or scene.site.node.counters["unknown_messages"])
        assert socket.close is None or socket.close[0] == 4400


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("wrong", [1, None, True, [], {}, ["x"], {"$ne": ""}, 1.5])
@asynchronous
async def test_handle_that_is_no_text_is_refused(path: str, wrong: object) -> None:
    async with undisturbed() as scene:
        answer = await scene.site.stranger.post(path, {"connectionId": wrong, "route": "/a"})
        problem(answer, 400, "connectionId")


@every_way
@pytest.mark.parametrize("path", POSTS)
@asynchronous
async def test_handle_that_names_nobody_is_not_found_and_has_no_power(way: str, path: str) -> None:
    async with undisturbed(way) as scene:
        handle, public = scene.page.handle, scene.page.public
        other = scene.bystander.handle.partition(".")[2]
        closed = await scene.site.stranger.open("sse", "?viewer=1")
        await closed.leave()
        for wrong in (
            public,  # which every viewer sees
            public + ".",
            f"{public}.{other}",  # the proof of somebody else
            handle[:-1],
            handle + "A",
            handle + " ",
            handle.upper(),
            "." + handle,
            "__proto__",
            "x",
            "é.é",
            "\u0000",
            closed.handle,
            "*",
        ):
            for client in (scene.site.stranger, scene.site.admin):
                problem(await client.post(path, {"connectionId": wrong, "route": "/stolen"}), 404)
        problem(await scene.site.stranger.post(path, {"connectionId": "", "route": "/a"}), 400)
        problem(await scene.site.stranger.post(path, {"connectionId": "x" * 129, "route": "/a"}), 400)
        problem(await scene.site.stranger.post(path, {"connectionId": "x" * 10_000, "route": "/a"}), 413)


@asynchronous
async def test_admin_who_names_another_page_does_not_make_it_a_viewer() -> None:
    """The one who posts is authorised, the one who is named would get the figures: a confused deputy."""
    async with undisturbed() as scene:
        answer = await scene.site.admin.post("/subscribe-stats", {"connectionId": scene.page.public})
        problem(answer, 404)
        assert scene.page.public not in scene.site.node.viewers.subscriptions


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("announced", [True, False])
@asynchronous
async def test_long_body_is_refused_before_it_is_read(path: str, announced: bool) -> None:
    async with undisturbed() as scene:
        client = scene.site.stranger
        chunk = b" " * 1_000
        headers = {**JSON, "content-length": "1000000"} if announced else JSON
        call = Call(client.app, client.scope("POST", client.base + path, headers))
        for _ in range(1_000):
            call.put({"type": "http.request", "body": chunk, "more_body": True})
        call.start()
        await call.ended()
        problem(answer_of(call), 413, "4096")
        assert call._incoming.qsize() >= (1_000 if announced else 990)


H2C = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c"}


@pytest.mark.parametrize("path", [*POSTS, "/tabs", "/admin/release", "/log-in"])
@asynchronous
async def test_body_that_the_server_has_dropped_is_said_to_be_missing(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with undisturbed(admin_token="s3cret-of-the-tests") as scene:
        for length in ({"content-length": "38"}, {"transfer-encoding": "chunked"}):
            answer = await scene.site.admin.request("POST", path, b"", {**JSON, **length, **H2C})
            problem(answer, 400, "the server dropped it because the request asks for Upgrade: h2c")
            assert answer.header("connection") == "close"
        assert caplog.text.count("Start it with --http app:headcount.protocol or --http h11.") == 1
        answer = await scene.site.admin.request("POST", path, b"", {**JSON, "content-length": "38"})
        problem(answer, 400, "The body is missing: Content-Length announces one, but nothing arrived.")


@pytest.mark.parametrize("length", [{}, {"content-length": "0"}, {"transfer-encoding": "chunked"}])
@asynchronous
async def test_body_that_is_empty_is_not_said_to_be_missing(length: dict[str, str]) -> None:
    async with undisturbed() as scene:
        upgrade = {} if "transfer-encoding" in length else H2C
        answer = await scene.site.stranger.request("POST", "/route", b"", {**JSON, **length, **upgrade})
        problem(answer, 400, "not valid JSON")
        assert answer.header("connection") is None


@pytest.mark.parametrize("length", ["-1", "x", "", "9" * 400, "²", "0x10", "1, 1"])
@asynchronous
async def test_length_that_lies_or_is_none_harms_nobody(length: str) -> None:
    async with undisturbed() as scene:
        body = json.dumps({"connectionId": scene.page.handle, "route": "/page"}).encode()
        answer = await scene.site.stranger.request("POST", "/route", body, {**JSON, "content-length": length})
        assert answer.status == (413 if len(length) == 400 else 200)


@asynchronous
async def test_body_may_come_in_pieces() -> None:
    async with undisturbed() as scene:
        body = json.dumps({"connectionId": scene.page.handle, "route": "/page"}).encode()
        pieces = [body[n : n + 1] for n in range(len(body))] + [b""]
        assert (await scene.site.stranger.request("POST", "/route", pieces, JSON)).status == 200


@pytest.mark.parametrize("path", POSTS)
@asynchronous
async def test_body_that_never_arrives_is_not_waited_for(path: str) -> None:
    async with undisturbed(body_timeout=0.02) as scene:
        client = scene.site.stranger
        call = Call(client.app, client.scope("POST", client.base + path, JSON))
        call.put({"type": "http.request", "body": b'{"connectionId":', "more_body": True})
        call.start()
        await call.ended()
        problem(answer_of(call), 400, "0.02 s")


@asynchronous
async def test_client_that_leaves_in_the_middle_of_its_body_disturbs_nobody() -> None:
    async with undisturbed() as scene:
        client = scene.site.stranger
        call = Call(client.app, client.scope("POST", client.base + "/route", JSON))
        call.put({"type": "http.request", "body": b'{"connectionId":', "more_body": True})
        call.put({"type": "http.disconnect"})
        call.start()
        await call.ended()


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "application/jsonx", "x" * 10_000],
    ids=lambda text: text[:20],
)  # fmt: skip
@asynchronous
async def test_body_of_another_type_is_refused(path: str, content_type: str) -> None:
    """Among them those that a page of another site can send without being asked first."""
    async with undisturbed() as scene:
        body = json.dumps({"connectionId": scene.page.handle, "route": "/forged"}).encode()
        answer = await scene.site.stranger.request("POST", path, body, {"content-type": content_type})
        problem(answer, 415, "application/json")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", None])
@asynchronous
async def test_json_is_recognised_however_it_is_announced(content_type: str | None) -> None:
    async with undisturbed() as scene:
        body = json.dumps({"connectionId": scene.page.handle, "route": "/page"}).encode()
        headers = {"content-type": content_type} if content_type else {}
        assert (await scene.site.stranger.request("POST", "/route", body, headers)).status == 200


@every_way
@asynchronous
async def test_wrong_method_is_refused_with_the_right_one(way: str) -> None:
    async with undisturbed(way) as scene:
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW"):
            for path in POSTS:
                answer = await scene.site.stranger.request(method, path)
                assert (answer.status, answer.header("allow")) == (405, "POST")
                assert answer.body == b"" or method != "HEAD"
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            for path in ("/sse", "/health", "/admin/stats", "/admin/connections", "/client.js"):
                answer = await scene.site.stranger.request(method, path)
                problem(answer, 405, "GET")
                assert answer.header("allow") == "GET"
        assert (await scene.site.stranger.request("HEAD", "/sse"))[::2] == (405, b"")


@every_way
@pytest.mark.parametrize(
    "path",
    ["/", "", "/nothing", "/ss", "/sse/x", "/ws/x", "/admin", "/../admin/stats", "/%00", "/SSE", "/" + "x" * 10_000],
    ids=lambda path: path[:20],
)
@asynchronous
async def test_unknown_path_is_not_found(way: str, path: str) -> None:
    async with undisturbed(way) as scene:
        for client in (scene.site.stranger, scene.site.admin):
            answer = await client.request("GET", client.base + path)
            if way == "mounted" and path == "":
                assert answer.status in (307, 404)  # Starlette adds the slash
            else:
                problem(answer, 404, "/sse, /subscribe-stats, /tabs, /unsubscribe-stats, /ws")


@every_way
@pytest.mark.parametrize("path", ["/ws", "/ws?route=/a&version=v1"])
@asynchronous
async def test_ordinary_request_to_the_websocket_is_told_what_it_takes(way: str, path: str) -> None:
    async with undisturbed(way) as scene:
        answer = await scene.site.stranger.get(path)
        problem(answer, 426, "WebSocket client")
        assert answer.header("upgrade") == "websocket"
        head = await scene.site.stranger.request("HEAD", path)
        assert (head.status, head.body) == (426, b"")
        problem(await scene.site.stranger.post(path, {}), 405, "GET")
        problem(await scene.site.stranger.get(path, {"origin": "https://evil.example"}), 403)


@every_way
@asynchronous
async def test_a_page_whose_websocket_did_not_open_learns_the_verdict_on_its_handshake(way: str) -> None:
    """What a browser sends when a page asks: no Origin, and the site that Chromium leaves out of the handshake."""
    site = Site(way, allowed_origins=["https://admin.example"])
    asked = {"sec-fetch-site": "same-origin"}
    own, listed = await site.stranger.get("/ws?origin=https://shop.example", asked), "https://admin.example"
    problem(own, 426, "accepts WebSockets of this page, but none arrived")
    problem(await site.stranger.get(f"/ws?origin={listed}", asked), 426, "accepts WebSockets of this page")
    for foreign in ("https://www.example.com", "null", "x" * 1000):
        answer = await site.stranger.get(f"/ws?origin={foreign}", asked)
        problem(answer, 403, f"The handshake of this WebSocket comes from another site, {foreign[:200]}. If")
        assert (await site.stranger.ws("", {"origin": foreign}).closed())[0] == 1008, "the verdict is the same"
    problem(await site.stranger.get("/ws?origin=a&origin=b", asked), 400, "repeated")


@asynchronous
async def test_http_2_is_not_told_to_upgrade_because_it_cannot() -> None:
    site = Site()
    call = Call(site.app, {**site.stranger.scope("GET", "/__skew/ws"), "http_version": "2"})
    await call.start().ended()
    answer = answer_of(call)
    problem(answer, 426, "WebSocket client")
    assert answer.header("upgrade") is None


@every_way
@pytest.mark.parametrize("path", ["/", "/sse", "/wsx", "/authorize", "/admin/stats"])
@asynchronous
async def test_websocket_elsewhere_is_refused_in_the_handshake(way: str, path: str) -> None:
    async with undisturbed(way) as scene:
        client = scene.site.stranger
        socket = client.ws()
        socket._scope["path"] = client.base + path
        code, reason = await socket.closed()
        assert (code, socket.accepted) == (1008, False)
        assert reason.endswith(".")


@every_way
@pytest.mark.parametrize(
    "path", ["/__skew/admin/stats", "/admin/stats/", "//admin/stats", "/admin%2Fstats", "/%61dmin/stats"]
)
@asynchronous
async def test_an_endpoint_has_no_second_path(way: str, path: str) -> None:
    site = Site(way)
    scope = site.admin.scope("GET", site.admin.base + unquote(path))
    call = Call(site.app, {**scope, "raw_path": (site.admin.base + path).encode()}).start()
    call.put({"type": "http.request", "body": b"", "more_body": False})
    await call.ended()
    problem(answer_of(call), 404, "/admin/stats")


@every_way
@pytest.mark.parametrize("path", ["/__skew/ws", "/ws/", "/%77s"])
@asynchronous
async def test_a_websocket_has_no_second_path(way: str, path: str) -> None:
    site = Site(way)
    socket = site.stranger.ws()
    socket._scope.update(path=site.stranger.base + unquote(path), raw_path=(site.stranger.base + path).encode())
    assert ((await socket.closed())[0], socket.accepted) == (1008, False)


GOOD_ROUTES = {
    "/shopping": "/shopping",
    "/a?token=secret#top": "/a",
    "/a#/b?c": "/a",
    "?q=1": "/",
    "#x": "/",
    "/é/日本/😀": "/é/日本/😀",
    "__proto__": "__proto__",
    "constructor": "constructor",
    "no-slash": "no-slash",
    "/" + "x" * 511: "/" + "x" * 511,
    "/a?" + "q" * 3_000: "/a",
    "/<script>alert(1)</script>": "/<script>alert(1)</script>",
    '/"quoted"\\': '/"quoted"\\',
    "/(other)": "/(other)",
}

BAD_ROUTES = ["/" + "x" * 512, "/a\nb", "/a\rb", "/\0", "/\x1b[2J", "/\x7f", "/\u2028", "/\x85", "/\u202e", "(other)"]


@both
@pytest.mark.parametrize("route", GOOD_ROUTES, ids=lambda route: repr(route[:20]))
@asynchronous
async def test_route_is_kept_without_query_and_fragment(transport: str, route: str) -> None:
    site = Site()
    page = await site.stranger.open(transport, "?version=v1")
    opened = await site.stranger.open(transport, "?version=v1&route=" + _quoted(route))
    await site.stranger.navigate(page, route)
    await site.settled()
    assert site.node.figures.stats().routes == {GOOD_ROUTES[route]: 2}
    assert site.total == 2
    assert not opened.unread
    assert b"secret" not in (await site.admin.get("/admin/connections")).body


@pytest.mark.parametrize("route", [*BAD_ROUTES, ""], ids=lambda route: repr(route[:20]))
@asynchronous
async def test_bad_route_is_refused_and_the_page_stays_where_it_was(route: str) -> None:
    async with undisturbed() as scene:
        answer = await scene.site.stranger.post("/route", {"connectionId": scene.page.handle, "route": route})
        problem(answer, 400, "route")
        socket = await scene.site.stranger.open("ws", "?viewer=1")
        socket.say({"type": "route-update", "route": route})
        code, reason = await socket.closed()
        assert code == 4400
        assert "route" in reason
        if route:
            problem(await scene.site.stranger.get("/sse?route=" + _quoted(route)), 400, "route")


@pytest.mark.parametrize("wrong", [None, 1, True, [], {}, {"toString": "x"}])
@asynchronous
async def test_route_that_is_no_text_is_refused(wrong: object) -> None:
    async with undisturbed() as scene:
        problem(await scene.site.stranger.post("/route", {"connectionId": scene.page.handle, "route": wrong}), 400)
        problem(await scene.site.stranger.post("/route", {"connectionId": scene.page.handle}), 400)


@both
@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("?version=" + "x" * 129, "version"),
        ("?version=" + "x" * 10_000, "version"),
        ("?version=a%0D%0Aset-cookie:x", "version"),
        ("?version=%00", "version"),
        ("?version=(other)", "version"),
        ("?version=v1%E2%80%8B", "version"),
        ("?version=%E2%80%AEv1", "version"),
        ("?version=+v1", "version"),
        ("?route=/%E2%80%AE", "route"),
        ("?route=" + "/x" * 5_000, "route"),
        ("?route=/a%0Ab", "route"),
        ("?version=a&version=b", "version"),
        ("?route=/a&route=/b", "route"),
        ("?version=a&version=a", "version"),
        ("?viewer=yes", "viewer"),
        ("?viewer=1&viewer=0", "viewer"),
        ("?" + "&".join(f"p{n}=" for n in range(33)), "parameters"),
        ("?" + "&" * 5_000 + "a=b", "parameters"),
    ],
    ids=lambda text: text[:24],
)
@asynchronous
async def test_bad_query_opens_no_stream(transport: str, query: str, word: str) -> None:
    async with undisturbed() as scene:
        if transport == "sse":
            problem(await scene.site.stranger.get(f"/sse{query}"), 400, word)
        else:
            code, reason = await scene.site.stranger.ws(query).closed()
            assert code == 4400
            assert len(reason.encode()) <= 123
            assert word in reason or word == "parameters"


@both
@pytest.mark.parametrize("version", ["__proto__", "constructor", "é" * 128, "<b>", "a b", "%", "unknown"])
@asynchronous
async def test_version_is_any_word(transport: str, version: str) -> None:
    site = Site(version="current")
    viewer = await site.admin.open("ws", "?viewer=1")
    figures = await site.admin.watch(viewer)
    await site.stranger.open(transport, "?version=" + _quoted(version))
    now = await figures.total(1)
    assert now["versions"] == {version: 1}
    assert now["connections"][0]["version"] == version


@both
@asynchronous
async def test_parameters_that_nobody_knows_are_ignored(transport: str) -> None:
    site = Site()
    await site.stranger.open(transport, "?route=/a&utm_source=x&utm_source=y&=&%00=%00&viewer=0&keepalive=")
    assert site.node.figures.stats().routes == {"/a": 1}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "[]", "1", '"ping"', "true", "{}", '{"type":1}', '{"type":null}', '{"type":{}}', "Ping",
        "ping ", '{"type":"route-update"}', '{"type":"route-update","route":1}', '{"Type":"ping"}', "[" * 4000,
        '{"type":"subscribe-stats","deltas":"yes"}', '{"a":' * 700 + "1" + "}" * 700,
        '{"type":"route-update","route":"\\ud800"}',
        '{"type":"ping"}{"type":"ping"}', '{"type":"route-update","route":""}',
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
@asynchronous
async def test_malformed_message_closes_that_one_peer(text: str) -> None:
    async with undisturbed() as scene:
        socket = await scene.site.stranger.open("ws", "?viewer=1")
        socket.say_text(text)
        code, reason = await socket.closed()
        assert code == 4400
        assert len(reason) > 20
        assert not any(word in reason for word in ("Traceback", "msgspec", ".py"))
        assert not socket.unread
    assert scene.site.node.counters["closed:malformed"] == 1


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"\x00" * 4_096, b"x" * 100_000, '{"type":"ping"}'.encode("utf-16")], ids=len
)
@asynchronous
async def test_malformed_binary_frame_closes_that_one_peer(data: bytes) -> None:
    async with undisturbed() as scene:
        socket = await scene.site.stranger.open("ws", "?viewer=1")
        socket.say_bytes(data)
        assert (await socket.closed())[0] == 4400


@asynchronous
async def test_long_message_closes_that_one_peer_and_a_long_enough_one_does_not() -> None:
    async with undisturbed() as scene:
        socket = await scene.site.stranger.open("ws", "?viewer=1")
        most = '{"type":"ping","x":"' + "é" * 2_037 + '"}'
        assert len(most.encode()) == 4_096
        socket.say_text(most)
        await socket.next("pong")
        socket.say_text(most.replace('"}', 'x"}'))
        code, reason = await socket.closed()
        assert (code, "4096" in reason) == (4400, True)


@asynchronous
async def test_a_websocket_that_sends_too_many_messages_is_closed_with_4429() -> None:
    async with undisturbed() as scene:
        socket = await scene.site.stranger.open("ws", "?viewer=1")
        for _ in range(65):
            socket.say({"type": "ping"})
        assert await socket.closed() == (4429, "Too many messages; send at most 20 a second.")
        assert [message["type"] for message in socket.received].count("pong") == 64
        counters = scene.site.node.counters
        assert (counters["closed:rate"], counters["rate_limited"], counters["malformed"]) == (1, 1, 0)


@asynchronous
async def test_a_page_that_posts_too_often_is_told_to_wait_and_stays_open() -> None:
    async with undisturbed() as scene:
        page = scene.page
        body = {"connectionId": page.handle, "route": "/page"}
        answers = [await scene.site.stranger.post("/route", body) for _ in range(64)]
        assert {answer.status for answer in answers} == {200}
        refused = await scene.site.stranger.post("/route", body)
        while refused.status == 200:  # on a machine that is busy, time goes by
            refused = await scene.site.stranger.post("/route", body)
        problem(refused, 429)
        assert "Too many messages; send at most 20 a second." in str(refused.json)
        assert refused.headers["retry-after"] == "1"
        assert page.public in scene.site.node.sessions
        page_session = scene.site.node.sessions[page.public]
        page_session.paid_until = 0.0  # time has passed


POST_BODIES: dict[str, dict[str, Any]] = {
    "/route": {"route": "/page"},
    "/subscribe-stats": {},
    "/unsubscribe-stats": {},
    "/tabs": {"set": [{"key": "a-tab-of-this-browser"}]},
    "/release-reply": {"version": "v2", "reply": "accepted"},
    "/acknowledge": {"id": "0123456789abcdef"},
    "/bye": {"tab": "no-tab-of-this-browser"},
}
UNCHARGED = {
    "/bye": "It is the last message of a page: refused, it would leave a page that is gone in the figures. It ends one "
    "page or finds none; either costs O(1).",
}


def test_the_posts_that_are_charged_are_all_that_pages_may_send() -> None:
    assert POST_BODIES.keys() == client_posts.PATHS
    assert UNCHARGED.keys() < client_posts.PATHS


@pytest.mark.parametrize("path", sorted(client_posts.PATHS))
@asynchronous
async def test_every_post_is_charged_to_the_stream_that_it_names(path: str) -> None:
    clock = Clock()
    site = Site(clock=clock)
    # Of somebody with the right to watch: a subscription that repeats a granted one is answered at once.
    page = await site.admin.open("sse", "?shared=1" if path == "/tabs" else "")
    body = {"connectionId": page.handle, **POST_BODIES[path]}
    for _ in range(BURST):
        assert (await site.admin.post(path, body)).status == 200
    if path in UNCHARGED:
        assert (await site.admin.post(path, body)).status == 200
        return
    problem(await site.admin.post(path, body), 429, "Too many messages; send at most 20 a second.")
    assert site.node.counters["rate_limited"] == 1
    assert not page.done
    clock.advance(0.2)
    assert (await site.admin.post(path, body)).status == 200


@asynchronous
async def test_reports_of_tabs_and_routes_are_charged_to_one_allowance() -> None:
    site = Site(clock=Clock())
    shared = await site.stranger.open("sse", "?shared=1")
    tabs = {"connectionId": shared.handle, **POST_BODIES["/tabs"]}
    for _ in range(BURST):
        assert (await site.stranger.post("/unsubscribe-stats", {"connectionId": shared.handle})).status == 200
    refused = {"connectionId": shared.handle, "set": [{"key": "another-tab-of-this-browser"}]}
    problem(await site.stranger.post("/tabs", refused), 429)
    await turns()
    assert site.total == 0, "a report that is refused has no effect"
    site.node.sessions[shared.public].paid_until = 0.0  # time has passed
    assert (await site.stranger.post("/tabs", tabs)).status == 200
    await turn_until(lambda: site.total == 1)


@asynchronous
async def test_messages_behind_a_malformed_one_are_not_obeyed() -> None:
    async with undisturbed() as scene:
        socket = await scene.site.admin.open("ws", "?viewer=1")
        for text in ("nonsense", '{"type":"subscribe-stats"}', "nonsense"):
            socket.say_text(text)
        assert (await socket.closed())[0] == 4400
        await turns()
        assert len(scene.site.node.viewers.subscriptions) == 1


@asynchronous
async def test_unknown_types_are_counted_and_nothing_else() -> None:
    async with undisturbed() as scene:
        socket = await scene.site.stranger.open("ws", "?viewer=1")
        for text in ('{"type":"chat","route":1}', '{"type":""}', '{"type":"Ping"}', '{"type":"stats","total":9}'):
            socket.say_text(text)
        socket.say_text("ping")
        await socket.next("pong")
        assert scene.site.node.counters["unknown_messages"] == 4


FOREIGN: list[dict[str, str]] = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": f"https://{HOST}.evil.example"},
    {"origin": f"https://evil.example/{HOST}"},
    {"origin": f"https://x{HOST}"},
    {"origin": f"https://{HOST}:8443", "sec-fetch-site": "same-site"},
    {"origin": f"https://{HOST}:8443", "host": f"{HOST}:80"},
    {"origin": f"https://{HOST}", "sec-fetch-site": "cross-site"},
    {"origin": f"https://evil@{HOST}"},
    {"origin": HOST},
    {"origin": f"ftp://{HOST}"},
    {"origin": "https://"},
    {"origin": ""},
    {"origin": f"https://evil.example, https://{HOST}"},
    {"sec-fetch-site": "cross-site"},
]


@every_way
@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@asynchronous
async def test_request_of_another_site_is_refused_whatever_its_visitors_rights(
    way: str, headers: dict[str, str]
) -> None:
    """A browser sends the visitor's cookies along with these."""
    async with undisturbed(way) as scene:
        client = scene.site.admin
        for transport in ("/sse", "/sse?viewer=1"):
            problem(await client.get(transport, headers), 403, "allowed_origins")
        for path in POSTS:
            answer = await client.post(path, {"connectionId": scene.page.handle, "route": "/forged"}, headers)
            problem(answer, 403, "allowed_origins")
        for path in ("/admin/stats", "/admin/connections"):
            problem(await client.get(path, headers), 403, "allowed_origins")
        for query in ("", "?viewer=1"):
            socket = client.ws(query, headers)
            code, _ = await socket.closed()
            assert (code, socket.accepted) == (1008, False)
        preflight = await client.request(
            "OPTIONS", "/subscribe-stats", headers={**headers, "access-control-request-method": "POST"}
        )
        assert preflight.status == 403
        assert not any(name.startswith("access-control") for name in preflight.headers)


@every_way
@both
@pytest.mark.parametrize(
    "origin", [f"http://{HOST}", f"https://{HOST}", f"https://{HOST}:443", f"https://{HOST.upper()}"]
)
@asynchronous
async def test_same_origin_is_fine_even_where_a_proxy_ended_the_encryption(
    way: str, transport: str, origin: str
) -> None:
    site = Site(way)
    client = Client(site.app, {**ADMIN, "origin": origin, "sec-fetch-site": "same-origin"})
    await client.watch(await client.open(transport))
    assert (await client.get("/admin/stats")).status == 200


@every_way
@asynchronous
async def test_allowed_origin_gets_what_its_browser_wants(way: str) -> None:
    site = Site(way, allowed_origins=["https://www.example.com"])
    origin = {"origin": "https://www.example.com", "sec-fetch-site": "cross-site"}
    client = Client(site.app, {**ADMIN, **origin})
    stream = await client.open("sse")
    socket = await client.open("ws")
    await client.watch(stream)
    await client.watch(socket)
    answers = [stream.headers, (await client.post("/route", {"connectionId": stream.handle, "route": "/a"})).headers]
    answers += [(await client.get(path)).headers for path in ("/admin/stats", "/admin/connections", "/admin/x")]
    for headers in answers:
        assert headers["access-control-allow-origin"] == "https://www.example.com"
        assert headers["access-control-allow-credentials"] == "true"
        assert "origin" in headers["vary"]
    for path, method in (("/subscribe-stats", "POST"), ("/admin/stats", "GET"), ("/sse", "GET")):
        asked = {"access-control-request-method": method, "access-control-request-headers": "content-type"}
        preflight = await client.request("OPTIONS", path, headers=asked)
        assert (preflight.status, preflight.body) == (204, b"")
        assert preflight.headers["access-control-allow-methods"] == method
        assert "content-type" in preflight.headers["access-control-allow-headers"]
        assert "content-length" not in preflight.headers
    for other in ("https://www.example.org", "http://www.example.com", "null", "*"):
        assert (await client.get("/admin/stats", {"origin": other})).status == 403
    # The application's own pages stay welcome, and get no header that they do not need.
    own = await site.admin.get("/admin/stats", {"origin": f"https://{HOST}"})
    assert own.status == 200
    assert "access-control-allow-origin" not in own.headers


@every_way
@pytest.mark.parametrize(
    "foreign", [{"origin": "https://a.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
@asynchronous
async def test_star_lets_every_page_be_counted_and_none_watch_by_its_visitors_cookies(
    way: str, foreign: dict[str, str]
) -> None:
    site = Site(way, allowed_origins=["*", "https://www.example.com"], admin_token="t0p-secret-t0ken")
    pages = [await site.admin.open(transport, headers=foreign) for transport in TRANSPORTS]
    assert site.total == 2
    for page in pages:
        await site.admin.say(page, {"type": "subscribe-stats"}, foreign)
        await page.next("stats-unauthorized")
    basic = {**foreign, "authorization": "Basic dDBwLXNlY3JldC10MGtlbg=="}
    for headers in (foreign, basic):
        answer = await site.admin.get("/admin/stats", headers)
        assert answer.status in (401, 403)
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers.get("access-control-allow-origin", "*") == "*"
    token = {**foreign, "authorization": "Bearer t0p-secret-t0ken"}
    assert (await site.stranger.get("/admin/stats", token)).json["total"] == 2
    named = await site.admin.get("/admin/stats", {"origin": "https://www.example.com"})
    assert (named.status, named.headers["access-control-allow-credentials"]) == (200, "true")
    await site.admin.watch(await site.admin.open("ws", headers={"origin": "https://www.example.com"}))
    await site.admin.watch(await site.admin.open("ws", headers={"origin": f"https://{HOST}"}))
    script = (await site.stranger.get("/client.js", foreign)).body
    assert b'"credentials":"same-origin"' in script


@every_way
@asynchronous
async def test_health_is_told_to_everybody(way: str) -> None:
    for headers in FOREIGN:
        assert (await Site(way).stranger.get("/health", headers)).status == 200


@every_way
@asynchronous
async def test_a_server_that_drains_is_not_ready_and_says_so(way: str) -> None:
    site = Site(way)
    assert (await site.stranger.get("/health?ready=1")).status == 200
    await site.headcount.drain()
    answer = await site.stranger.get("/health?ready=1")
    problem(answer, 503, "draining")
    assert answer.headers["retry-after"] == "1"
    assert (await site.stranger.get("/health")).status == 200, "the process lives"


@asynchronous
async def test_a_server_that_never_reached_its_backend_is_not_ready() -> None:
    site = Site(backend=f"redis://127.0.0.1:{free_port()}")
    problem(await site.stranger.get("/health?ready=1"), 503, "has not reached its backend")
    assert (await site.stranger.get("/health")).status == 200
    await site.node.leave()


ADDRESS = "203.0.113.99"


@every_way
@both
@asynchronous
async def test_without_ip_tracking_no_byte_of_an_address_is_told_or_kept(way: str, transport: str) -> None:
    met: list[tuple[Any, list[str]]] = []

    def hook(request: HTTPConnection) -> bool:
        met.append(
            (request.client, [f"{name}: {value}" for name, value in request.headers.items() if ADDRESS in value])
        )
        return admins_only(request)

    site = Site(way, hook)
    headers = {name.lower(): ADDRESS for name in ADDRESS_HEADERS}
    seen: list[str] = []
    site.headcount.on_connection_open(lambda connection: seen.append(repr((connection, connection.ip))))
    client = Client(site.app, headers, client=ADDRESS)
    page = await client.open(transport, "?route=/a")
    viewer = await site.admin.open("ws", "?viewer=1")
    await site.admin.watch(viewer)
    await client.navigate(page, "/b")
    await page.next() if page.unread else None
    await client.open("ws")
    await site.settled()
    told = json.dumps([viewer.received, page.received, seen])
    told += str([await site.admin.get(path) for path in ("/admin/stats", "/admin/connections", "/health")])
    assert ADDRESS not in told
    assert '"ip"' not in told
    assert len(site.node.viewers.subscriptions) == 1
    watching = await client.open(transport, headers=ADMIN)
    await client.say(watching, {"type": "subscribe-stats"}, ADMIN)
    await watching.next("stats")
    assert len(site.node.viewers.subscriptions) == 2
    kept = [found for found in _strings_within(site.headcount) if ADDRESS in found]
    assert kept == []
    # At the first check, at the next one, and for a program.
    checks = [subscription.check for subscription in site.node.viewers.subscriptions.values()]
    assert [await check() is None for check in checks] == [False, False]
    assert (await client.get("/admin/stats", ADMIN)).status == 200
    assert set(map(repr, met)) == {repr((None, []))}


@every_way
@both
@pytest.mark.parametrize(("tracking", "host"), [(True, ADDRESS), ("anonymized", "203.0.113.0")])
@asynchronous
async def test_with_ip_tracking_the_hook_meets_the_same_client_at_every_check(
    way: str, transport: str, tracking: bool | str, host: str
) -> None:
    met: list[Any] = []

    def hook(request: HTTPConnection) -> bool:
        met.append((request.client and request.client.host, request.headers.get("x-forwarded-for")))
        return True

    site = Site(way, hook, ip_tracking=tracking)
    client = Client(site.app, {"x-forwarded-for": "198.51.100.7"}, client=ADDRESS)
    await client.watch(await client.open(transport))
    (subscription,) = site.node.viewers.subscriptions.values()
    await subscription.check()
    await client.get("/admin/stats")
    assert met == [(host, "198.51.100.7" if tracking is True else None)] * 3


def _strings_within(root: object) -> list[str]:
    """
    Return every text that an object holds, through whatever it refers to.

    Not followed: code and modules; tasks, since the server's own call is in there with its scope; loops, which hold
    those; and the application, which is not ours.
    """
    apart = (type, asyncio.Task, asyncio.AbstractEventLoop, asyncio.Handle, Site, Call, Client)
    seen: set[int] = set()
    found: list[str] = []
    todo: list[object] = [root]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, apart) or type(thing).__name__ in ("module", "frame", "coroutine"):
            continue
        seen.add(id(thing))
        if isinstance(thing, str | bytes):
            found.append(thing if isinstance(thing, str) else thing.decode("latin-1"))
        elif isinstance(thing, msgspec.Struct):  # some of them hide from the collector
            todo.extend(getattr(thing, name) for name in thing.__struct_fields__)
        elif type(thing).__name__ == "function":
            # A function is code, but what it has closed over is kept. A test's `send` has closed over the test.
            if getattr(thing, "__module__", "").startswith("headcount"):
                todo.extend(cell.cell_contents for cell in getattr(thing, "__closure__", None) or ())
        elif type(thing).__name__ == "method" and not getattr(thing, "__module__", "").startswith("headcount"):
            continue
        else:
            todo.extend(gc.get_referents(thing))
            if isinstance(thing, dict):
                todo.extend(thing)  # the collector has no use for keys that are strings
    return found


@asynchronous
async def test_that_the_walk_above_finds_what_is_kept() -> None:
    site = Site(ip_tracking=True)
    await Client(site.app, client=ADDRESS).open("ws")
    assert any(ADDRESS in text for text in _strings_within(site.headcount))
    # Of a viewer something is kept even without tracking: what it takes to ask for its right again.
    site = Site(hook=lambda _: True, authorize_headers=["X-Anything"])
    client = Client(site.app, {"x-anything": ADDRESS})
    viewer = await client.open("ws")
    await client.watch(viewer)
    assert any(ADDRESS in text for text in _strings_within(site.headcount))
    await viewer.leave()
    assert not any(ADDRESS in text for text in _strings_within(site.headcount))


@both
@asynchronous
async def test_forwarded_address_is_believed_of_trusted_proxies_only(transport: str) -> None:
    forged = {"x-forwarded-for": "198.51.100.1", "cf-connecting-ip": "198.51.100.2", "x-real-ip": "198.51.100.3"}
    site = Site(ip_tracking=True)
    await Client(site.app, forged).open(transport)
    behind = Site(ip_tracking=True, trusted_proxies=["10.0.0.0/8"])
    chain = {"x-forwarded-for": "198.51.100.66, 192.0.2.50, 10.0.0.2"}
    await Client(behind.app, chain, client="10.0.0.1").open(transport)
    await Client(behind.app, chain, client="192.0.2.99").open(transport)
    for junk in ("", "x" * 10_000, "1.2.3", "'; DROP TABLE", "unknown", ",,,"):
        await Client(behind.app, {"x-forwarded-for": junk}, client="10.0.0.1").open(transport)
    assert [row.ip for row in site.node.figures.stats().connections] == ["192.0.2.7"]
    ips = [row.ip for row in behind.node.figures.stats().connections]
    assert ips[:2] == ["192.0.2.50", "192.0.2.99"]
    assert set(ips[2:]) == {"10.0.0.1"}


@every_way
@asynchronous
async def test_server_that_is_full_says_so_and_when_to_come_back(way: str) -> None:
    site = Site(way, max_connections=2)
    first = await site.stranger.open("sse")
    await site.stranger.open("ws", "?viewer=1")
    answer = await site.stranger.get("/sse")
    problem(answer, 503, "full")
    assert int(answer.headers["retry-after"]) >= 1
    code, reason = await site.stranger.ws().closed()
    assert (code, "full" in reason) == (1013, True)
    assert (await site.stranger.get("/health")).status == 200
    await first.leave()
    await site.stranger.open("ws")


@every_way
@asynchronous
async def test_one_address_cannot_fill_the_server_for_others(way: str) -> None:
    site = Site(way, max_connections_per_address=3, trusted_proxies=["10.0.0.1"])

    def client(address: str) -> Client:
        return Client(site.app, {"x-forwarded-for": address}, client="10.0.0.1")

    page = await client("192.0.2.7").open("sse")
    await client("192.0.2.7").open("ws", "?viewer=1")
    shared = await client("192.0.2.7").open("ws", "?shared=1")
    answer = await client("192.0.2.7").get("/sse")
    problem(answer, 429, "Too many connections are open from this address")
    assert int(answer.headers["retry-after"]) >= 1
    assert (await client("192.0.2.7").ws().closed())[0] == 1013
    await client("192.0.2.8").open("sse")
    tabs = [{"key": f"key-of-the-tab-{number}", "version": "v1", "route": "/"} for number in range(2)]
    await client("192.0.2.7").say(shared, {"type": "tabs", "set": tabs, "remove": []})
    assert (await shared.closed())[0] == 1013, "its second tab is one too many"
    assert site.node.counters["refused:address full"] == 3
    await page.leave()
    await client("192.0.2.7").open("sse")


@every_way
@asynchronous
async def test_only_so_many_connections_are_opened_in_a_second(way: str) -> None:
    clock = Clock()
    site = Site(way, clock=clock, max_opens_per_second=4)
    for _ in range(4):
        await site.stranger.open("sse")
    answer = await site.stranger.get("/sse")
    problem(answer, 503, "opens no more connections in this second")
    assert int(answer.headers["retry-after"]) >= 1
    assert (await site.stranger.ws().closed())[0] == 1013
    clock.now += 0.5
    stream = await site.stranger.open("ws", "?shared=1")
    tabs = [{"key": f"key-of-the-tab-{number}", "version": "v1", "route": "/"} for number in range(3)]
    await site.stranger.say(stream, {"type": "tabs", "set": tabs, "remove": []})
    assert (await stream.closed())[0] == 1013, "two more than one that is left"
    clock.now += 60
    for _ in range(4):
        await site.stranger.open("sse")
    problem(await site.stranger.get("/sse"), 503, "opens no more")
    assert site.node.counters["refused:opening too fast"] == 4


@every_way
@asynchronous
async def test_limit_holds_when_many_come_at_once_and_do_not_read(way: str) -> None:
    site = Site(way, max_connections=3)
    streams = []
    for _ in range(10):
        stream = site.stranger.sse()
        stream.block()
        streams.append(stream)
    await turn_until(lambda: sum(stream.attempts > 0 for stream in streams) == 10)
    assert len(site.node.sessions) == 3
    for stream in streams:
        stream.unblock()
    await turn_until(lambda: all(stream.status for stream in streams))
    assert sorted(stream.status or 0 for stream in streams) == [200] * 3 + [503] * 7


@asynchronous
async def test_limit_holds_behind_http_middleware_too() -> None:
    async def passes(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    site = Site(middleware=[passes], max_connections=3)
    streams = [site.stranger.sse() for _ in range(10)]
    await turn_until(lambda: all(stream.status for stream in streams))
    assert sorted(stream.status or 0 for stream in streams) == [200] * 3 + [503] * 7
    assert site.total == 3


@asynchronous
async def test_thousand_hostile_requests_leave_nothing_behind() -> None:
    async with undisturbed() as scene:
        site = scene.site
        sizes = [len(site.node.sessions), len(site.node.counters), len(site.node.viewers._tasks)]
        for number in range(250):
            await at_once(
                site.stranger.request("POST", f"/made-up-{number}"),
                site.stranger.post("/route", {"connectionId": f"x{number}.y", "route": "/a"}),
                site.stranger.get(f"/sse?version={'x' * (200 + number)}"),
                site.stranger.get("/admin/stats", {"authorization": f"Bearer {number}"}),
            )
        assert [len(site.node.sessions), len(site.node.counters), len(site.node.viewers._tasks)] == sizes


@asynchronous
async def test_standing_alone_the_base_path_may_be_left_out_or_said() -> None:
    headcount = Headcount(version="v1")
    for base in ("", "/__skew"):
        assert (await Client(headcount, base=base).get("/health")).status == 200
        stream = await Client(headcount, base=base).open("ws")
        await stream.leave()


@asynchronous
async def test_wrapped_application_gets_everything_else_untouched() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    headcount = Headcount(version="v1")
    client = Client(headcount.wrap(app))
    paths: Iterable[str] = ("/", "/__skewed", "/__ske", "/x/__skew/sse", "/sse", "//__skew/sse")
    for path in paths:
        scope = client.scope("GET", "/")
        scope["path"] = path
        call = Call(client.app, scope)
        call.start()
        await call.ended()
        assert seen[-1] is scope
        assert answer_of(call).body == b"hello"


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")
