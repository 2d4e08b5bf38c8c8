"""WebSocket frames as a server writes them, read back by a library that is not ours."""

from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from headcount.core.frames import close_frame, cut_reason, pong_frame, text_frame


def parsed(data: bytes) -> Frame:
    """Read one frame, which must be all of the data."""
    at = 0

    def exactly(size: int) -> Generator[None, None, bytes]:
        nonlocal at
        begin, at = at, at + size
        if at > len(data):
            yield  # for more, which does not come
        return data[begin:at]

    reading = Frame.parse(exactly, mask=False)
    with pytest.raises(StopIteration) as end:
        next(reading)
    assert at == len(data)
    frame: Frame = end.value.value
    assert frame.fin
    return frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_text_of_any_size_is_one_frame(size: int) -> None:
    frame = parsed(text_frame(b"x" * size))
    assert (frame.opcode, bytes(frame.data)) == (Opcode.TEXT, b"x" * size)


@given(st.binary(max_size=300))
def test_what_is_framed_is_read_back(data: bytes) -> None:
    assert bytes(parsed(text_frame(data)).data) == data
    assert bytes(parsed(pong_frame(data[:125])).data) == data[:125]
    assert parsed(pong_frame(data[:125])).opcode is Opcode.PONG


@given(st.sampled_from([1000, 1002, 1008, 1011, 1012, 1013, 4400, 4408]), st.text(max_size=200))
def test_a_close_frame_holds_its_code_and_as_much_of_the_reason_as_fits(code: int, reason: str) -> None:
    frame = parsed(close_frame(code, reason))
    close = Close.parse(bytes(frame.data))
    assert close.code == code
    assert len(bytes(frame.data)) <= 125
    assert reason.encode("utf-8", "replace").decode().startswith(close.reason)


def test_a_reason_is_cut_between_characters() -> None:
    assert cut_reason("é" * 100) == "é" * 61
    assert cut_reason("x" + "é" * 100) == "x" + "é" * 61
    assert cut_reason("😀" * 40) == "😀" * 30
    assert cut_reason("short") == "short"
    assert cut_reason("\ud800") == "?"


def test_a_close_frame_without_a_reason_holds_the_code_alone() -> None:
    assert close_frame(1000) == b"\x88\x02\x03\xe8"
