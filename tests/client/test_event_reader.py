"""Event streams are read as the HTML standard has it, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.client import event_reader
from headcount.client.event_reader import Event, EventReader
from headcount.core import event_stream
from headcount.errors import TooLarge


def read(*pieces: bytes) -> list[Event]:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event("a", "message", None)]),
        (b"data:a\r\n\r\n", [Event("a", "message", None)]),
        (b"data:  a\r\r", [Event(" a", "message", None)]),
        (b"data: a\ndata: b\n\n", [Event("a\nb", "message", None)]),
        (b"event: stats\ndata: a\n\ndata: b\n\n", [Event("a", "stats", None), Event("b", "message", None)]),
        (b":\n\n: comment\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [Event("a", "message", None)]),
        (b"data\n\n", [Event("", "message", None)]),
        (b"data: a\n", []),
        (b"id: 7\nunknown: 8\ndata: a\n\n", [Event("a", "message", None)]),
        (b"retry: 250\ndata: a\n\n", [Event("a", "message", 250)]),
        (b"retry: soon\nretry: -1\nretry: 99999999999999\ndata: a\n\n", [Event("a", "message", None)]),
        (b"data: \xff\n\n", [Event("\ufffd", "message", None)]),
    ],
)
def test_stream_is_interpreted_as_the_standard_says(stream: bytes, expected: list[Event]) -> None:
    assert read(stream) == expected
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == expected


def test_retry_is_known_although_no_event_follows() -> None:
    reader = EventReader()
    assert list(reader.feed(b"retry: 3120\n\n")) == []
    assert reader.retry == 3120


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1)), st.data())
def test_what_the_server_frames_is_read_back_however_it_is_cut(messages: list[str], data: st.DataObject) -> None:
    stream = b"".join(event_stream.frame(message.encode()) + event_stream.KEEPALIVE for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    # One space after the colon belongs to the framing.
    assert [event.data for event in read(*pieces)] == messages


def test_event_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_reader, "MAX_EVENT", 1_000)
    with pytest.raises(TooLarge):
        read(b"data: " + b"x" * 1_001)
    with pytest.raises(TooLarge):
        read(*[b"data: " + b"x" * 100 + b"\n"] * 11)
    assert len(read(*[b"data: " + b"x" * 100 + b"\n\n"] * 11)) == 11
