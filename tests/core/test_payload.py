"""One message in every framing, and what a stream says last."""

import json

from headcount.core import messages
from headcount.core.ends import GOING_AWAY, QUEUE_FULL
from headcount.core.payload import (
    COMMENT,
    KEEPALIVE,
    Payload,
    sse_close,
    sse_close_chunks,
    websocket_close,
    websocket_close_frames,
)


def test_a_payload_is_framed_once_for_all_who_get_it() -> None:
    payload = Payload(messages.application({"a": "é\n"}))
    assert payload.event == b'data: {"a":"\xc3\xa9\\n"}\n\n'
    assert payload.text == '{"a":"é\\n"}'
    assert payload.event is payload.event
    assert payload.text is payload.text


def test_a_payload_has_every_form_of_one_message_and_makes_each_once() -> None:
    payload = Payload(b'{"type":"keepalive"}')
    assert payload.event == b'data: {"type":"keepalive"}\n\n'
    assert payload.event_chunk == b"1c\r\n" + payload.event + b"\r\n"
    assert payload.text == '{"type":"keepalive"}'
    assert payload.text_frame == b"\x81\x14" + payload.json
    for form in ("event", "event_chunk", "text", "text_frame"):
        assert getattr(payload, form) is getattr(payload, form)


def test_keepalives_are_a_comment_or_a_message() -> None:
    assert COMMENT.event == b":\n\n"
    assert COMMENT.event_chunk == b"3\r\n:\n\n\r\n"
    assert json.loads(KEEPALIVE.text) == {"type": "keepalive"}


def test_an_sse_stream_that_is_drained_says_when_to_reconnect_in_both_ways() -> None:
    end = GOING_AWAY.after(250)
    events = b"retry: 250\n\n" + b'data: {"type":"drain","reconnectMs":250}\n\n'
    assert sse_close(end) == events
    assert sse_close_chunks(end) == b"%x\r\n" % len(events) + events + b"\r\n0\r\n\r\n"


def test_an_sse_stream_that_is_dropped_just_ends() -> None:
    assert sse_close(QUEUE_FULL) == b""
    assert sse_close_chunks(QUEUE_FULL) == b"0\r\n\r\n"


def test_a_websocket_that_is_drained_gets_a_message_before_the_close_frame() -> None:
    end = GOING_AWAY.after(250)
    last = websocket_close(end)
    assert last is not None
    assert json.loads(last.text) == {"type": "drain", "reconnectMs": 250}
    frames = websocket_close_frames(end)
    assert frames.startswith(last.text_frame)
    assert frames.removeprefix(last.text_frame)[:4] == b"\x88" + bytes((len(GOING_AWAY.reason) + 2,)) + b"\x03\xf4"


def test_a_websocket_that_is_dropped_gets_the_close_frame_alone() -> None:
    assert websocket_close(QUEUE_FULL) is None
    assert websocket_close_frames(QUEUE_FULL) == (
        b"\x88" + bytes((len(QUEUE_FULL.reason) + 2,)) + (4408).to_bytes(2, "big") + QUEUE_FULL.reason.encode()
    )
