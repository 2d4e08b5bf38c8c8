"""What a WebSocket's peer may send on the bare socket: whole, in pieces, wrong, and never ending."""

import asyncio
import contextlib
import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.asgi.app import endpoints_of
from headcount.asgi.request_head import RequestHead
from headcount.asgi.takeover.direct_sessions import DirectWebSocketSession, SessionContext
from headcount.core.messages import MAX_MESSAGE

from .inside import BASE, Peer, frame, make, on_both_loops, running, sse, text, until, upgrade, ws
from .wire import Wire

PING = json.dumps({"type": "ping"}).encode()
LONG = json.dumps({"type": "ping", "fill": "x" * (MAX_MESSAGE - 28)}).encode()
assert len(LONG) == MAX_MESSAGE


@contextlib.asynccontextmanager
async def page(**settings: Any) -> Any:
    headcount = make(**settings)
    async with running(headcount, headcount) as inside:
        peer = await ws(inside)
        assert inside.taken == 1
        yield inside, peer
        peer.fin()
        await inside.empty()


async def answers(peer: Peer, count: int = 1) -> None:
    for _ in range(count):
        assert await peer.message() == {"type": "pong"}


@on_both_loops
async def test_a_message_is_read_however_it_is_cut() -> None:
    async with page() as (_, peer):
        data = (
            frame(1, PING) + frame(1, LONG) + frame(9, b"hello") + frame(2, b"ping") + frame(1, PING, mask=b"\0\0\0\0")
        )
        peer.send(data)
        await answers(peer, 2)
        assert await peer.frame() == (10, b"hello")
        await answers(peer, 2)
        for byte in data:
            peer.send(bytes((byte,)))
            await asyncio.sleep(0)
        await answers(peer, 2)
        assert await peer.frame() == (10, b"hello")
        await answers(peer, 2)


@on_both_loops
async def test_fragments_make_one_message_and_control_frames_may_stand_between_them() -> None:
    async with page() as (_, peer):
        peer.send(frame(1, b"", fin=False) + frame(0, b"", fin=False) + frame(0, PING[:5], fin=False) + frame(9, b"?"))
        assert await peer.frame() == (10, b"?")
        peer.send(frame(0, PING[5:-1], fin=False) + frame(10, b"unasked") + frame(0, PING[-1:]))
        await answers(peer)
        peer.send(frame(1, LONG[:4_000], fin=False) + frame(0, LONG[4_000:]))
        await answers(peer)
        peer.send(frame(1, PING) + frame(2, PING, fin=False) + frame(0, b""))
        await answers(peer, 2)


WRONG: dict[str, tuple[bytes, int]] = {
    "not masked": (frame(1, PING, mask=None), 1002),
    "a reserved bit": (bytes((0xC1,)) + frame(1, PING)[1:], 1002),
    "an unknown opcode": (frame(3, PING), 1002),
    "an unknown control opcode": (frame(11, PING), 1002),
    "a continuation of nothing": (frame(0, PING), 1002),
    "a message inside another": (frame(1, b"{", fin=False) + frame(1, PING), 1002),
    "a ping in fragments": (frame(9, b"", fin=False), 1002),
    "a long ping": (frame(9, b"x" * 126), 1002),
    "a long close": (frame(8, b"\x03\xe8" + b"x" * 124), 1002),
    "too long": (frame(1, b"x" * (MAX_MESSAGE + 1)), 4400),
    "a head that says too long": (b"\x81\xff\x7f" + b"\xff" * 7, 4400),
    "a head that says longer than there are bytes": (b"\x81\xff" + b"\xff" * 8, 4400),
    "fragments that are too long together": (frame(1, LONG, fin=False) + frame(0, b"x"), 4400),
    "no JSON": (frame(1, b"{"), 4400),
    "no UTF-8": (frame(1, b'{"type":"\xff"}'), 4400),
    "an empty message": (frame(1, b""), 4400),
    "a list": (text([]), 4400),
    "a bad route": (text({"type": "route-update", "route": "x" * 513}), 4400),
}


@pytest.mark.parametrize("wrong", WRONG)
@on_both_loops
async def test_who_sends_what_is_wrong_is_told_so_once_and_nobody_else_notices(wrong: str) -> None:
    data, code = WRONG[wrong]
    async with page() as (inside, bystander):
        peer = await ws(inside)
        # What follows is not read any more, be it right or wrong.
        peer.send(data + frame(1, PING) + data)
        told, reason = await peer.closed()
        assert told == code, reason
        assert reason.endswith(".")
        assert await peer.rest() == b""
        assert inside.headcount.node.counters["malformed"] == 1
        assert inside.headcount.node.counters["closed:malformed"] == 1
        bystander.send(frame(1, PING))
        await answers(bystander)


CLOSES: dict[bytes, int] = {
    b"": 1000,
    b"\x03\xe8": 1000,
    b"\x03\xe8bye \xc3\xa9": 1000,
    b"\x03\xe9": 1001,
    b"\x0f\xa0": 4000,
    b"\x0b\xb8": 3000,
    b"\x03": 1002,
    b"\x03\xec": 1002,
    b"\x03\xed": 1002,
    b"\x03\xee": 1002,
    b"\x03\xf7": 1002,
    b"\x00\x00": 1002,
    b"\x07\xd0": 1002,
    b"\x13\x88": 1002,
    b"\xff\xff": 1002,
    b"\x03\xe8\xff": 1007,
    b"\x03\xe8" + b"x" * 123: 1000,
}


@on_both_loops
async def test_a_close_frame_is_answered_as_the_rfc_has_it_and_then_the_connection_ends() -> None:
    async with page() as (inside, _):
        for data, code in CLOSES.items():
            peer = await ws(inside)
            peer.send(frame(8, data) + frame(1, PING) + frame(8, data))
            assert await peer.frame() == (8, code.to_bytes(2, "big")), data
            assert await peer.rest() == b""
        assert inside.headcount.node.counters["closed:client"] == len(CLOSES)
        assert inside.headcount.node.counters["malformed"] == 0


@on_both_loops
async def test_who_does_not_answer_our_close_is_cut_off() -> None:
    async with page() as (inside, _):
        peer = await ws(inside)
        before = asyncio.get_running_loop().time()
        peer.send(frame(1, b"{"))
        opcode, _data = await peer.frame()
        assert opcode == 8
        for _ in range(20):
            peer.send(frame(1, PING) * 100)
            await asyncio.sleep(0.01)
        assert await peer.rest() == b""
        assert asyncio.get_running_loop().time() - before < 5


@pytest.mark.parametrize("kind", ["pings of the protocol", "messages to be answered"])
@on_both_loops
async def test_a_peer_that_floods_and_reads_nothing_costs_a_bounded_amount(kind: str) -> None:
    pings = kind == "pings of the protocol"
    flood = frame(9, b"x" * 125) * 500 if pings else frame(1, PING) * 500
    async with page(send_timeout=60, max_queued_messages=10, max_messages_per_second=1_000_000) as (inside, _):
        peer = await inside.connect()
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        peer.writer.transport.pause_reading()
        peer.send(upgrade())
        await until(lambda: inside.taken == 2)
        *_, stream = inside.headcount.node.sessions.values()
        assert isinstance(stream, DirectWebSocketSession)
        sessions, counters = inside.headcount.node.sessions, inside.headcount.node.counters
        for _ in range(400):
            peer.send(flood)
            with contextlib.suppress(ConnectionError):
                await peer.writer.drain()
            if stream.busy and (pings or stream.id not in sessions):
                break
        if pings:
            for _ in range(20):
                peer.send(flood)
                await peer.writer.drain()
            assert stream.id in sessions, "pings alone are no reason to be dropped"
            assert stream._transport.get_write_buffer_size() < 1_000
            assert not stream._queue
        else:
            await until(lambda: stream.id not in sessions)
            assert counters["closed:slow"] == 1
        peer.rst()
        await until(lambda: inside.taken == 1)


@on_both_loops
async def test_what_a_page_sends_on_its_event_stream_is_not_read() -> None:
    headcount = make()
    async with running(headcount, headcount) as inside:
        peer = await sse(inside)
        for _ in range(50):
            peer.send(b"\x00 not HTTP \xff" * 1_000)
            await peer.writer.drain()
        await headcount.broadcast({"type": "hello"})
        assert await peer.event() == {"type": "hello"}
        peer.fin()
        await inside.empty()


SCOPE: dict[str, Any] = {"type": "websocket", "path": f"{BASE}/ws", "headers": []}
frames_in = st.lists(
    st.one_of(
        st.sampled_from([frame(1, PING), frame(9, b"a"), frame(10), frame(0), frame(1, PING, fin=False), frame(8)]),
        st.binary(max_size=20),
        st.builds(
            frame,
            st.integers(0, 15),
            st.binary(max_size=140),
            fin=st.booleans(),
            mask=st.binary(min_size=4, max_size=4),
        ),
    ),
    max_size=8,
)


@given(frames_in, st.data())
def test_what_is_read_does_not_depend_on_how_it_was_cut(frames: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    async def sent(pieces: list[bytes]) -> bytes:
        headcount = make()
        node, wire = headcount.node, Wire(asyncio.get_running_loop())
        endpoints = endpoints_of(headcount)
        context = SessionContext(endpoints.parts, asyncio.get_running_loop(), set())
        make_check = endpoints.deferred_check_maker(RequestHead(SCOPE, "/ws", endpoints.rules), None)
        stream = DirectWebSocketSession(context, wire, "id", counted=True, make_check=make_check)
        node.open(stream, "v", "/", None)
        for piece in filter(None, pieces):
            stream.data_received(piece)
        stream.connection_lost(None)
        assert not node.sessions
        assert not context.connections
        return bytes(wire.sent)

    assert asyncio.run(sent(pieces)) == asyncio.run(sent([whole]))
