"""SSE framing, read back by the rules of the HTML standard."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core import messages
from headcount.core.event_stream import HEADERS, KEEPALIVE, LAST_CHUNK, chunk, frame, retry
from headcount.core.payload import Payload
from headcount.core.stats import ConnectionInfo, Stats

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def events_in(stream: bytes) -> list[str]:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation"""
    events, data = [], ""
    for line in re.split("\r\n|\n|\r", stream.decode("utf-8")):
        if not line:
            if data:
                events.append(data.removesuffix("\n"))
            data = ""
        elif line.startswith("data:"):
            data += line.removeprefix("data:").removeprefix(" ") + "\n"
    return events


@given(st.dictionaries(st.text(), json_values))
def test_a_frame_is_one_data_line_for_any_message(message: dict[str, Any]) -> None:
    framed = frame(messages.application(message))
    lines = re.split(b"\r\n|\n|\r", framed)
    assert len(lines) == 3
    assert lines[0].startswith(b"data: ")
    assert lines[1:] == [b"", b""]
    (event,) = events_in(framed)
    assert json.loads(event) == message


@pytest.mark.parametrize("text", ["\n", "\r", "\r\n", "\n\ndata: {}", "\u2028", "\u2029", "\x85", "\x0b\x0c", "\x00"])
def test_a_line_break_inside_a_message_ends_nothing(text: str) -> None:
    stats = Stats(versions={text: 1}, connections=(ConnectionInfo("a", text, text),))
    for encoded in (messages.application({text: text}), messages.stats(stats)):
        framed = Payload(encoded).event
        assert re.split(b"\r\n|\n|\r", framed)[1:] == [b"", b""]
        assert [json.loads(event) for event in events_in(framed)] == [json.loads(encoded)]


def test_frames_and_comments_follow_one_another() -> None:
    stream = retry(3120) + KEEPALIVE + frame(b'{"a":1}') + KEEPALIVE + frame(b'{"b":2}')
    assert events_in(stream) == ['{"a":1}', '{"b":2}']


def test_a_keepalive_is_a_comment() -> None:
    assert KEEPALIVE == b":\n\n"


def test_retry_is_whole_milliseconds() -> None:
    assert retry(3120) == b"retry: 3120\n\n"


def test_the_headers_keep_proxies_and_caches_away() -> None:
    headers = dict(HEADERS)
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert headers[b"x-accel-buffering"] == b"no"
    assert {b"no-store", b"no-transform", b"private"} <= set(headers[b"cache-control"].split(b", "))


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8))
def test_chunks_are_read_back_as_http_has_them(pieces: list[bytes]) -> None:
    """https://www.rfc-editor.org/rfc/rfc9112#section-7.1.3"""
    rest, read = b"".join(map(chunk, pieces)) + LAST_CHUNK, []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        data, rest = rest[:length], rest[length:]
        assert rest.startswith(b"\r\n")
        rest = rest[2:]
        if not length:
            break
        read.append(data)
    assert read == pieces
    assert rest == b""
