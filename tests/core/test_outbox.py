"""The queue policy of a stream, without a stream."""

import sys

import pytest

from headcount.core.ends import QUEUE_FULL, End
from headcount.core.outbox import Outbox
from headcount.core.payload import Payload

LIMIT = 3
MESSAGES = [Payload(b"%d" % number) for number in range(10)]


class Wire(Outbox):
    """A peer that takes `capacity` messages and then holds up the stream."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.sent: list[Payload] = []
        self.ended: list[End] = []

    @property
    def busy(self) -> bool:
        return self.capacity <= 0

    @property
    def over(self) -> bool:
        return bool(self.ended)

    @property
    def max_queued(self) -> int:
        return LIMIT

    def transmit(self, payload: Payload) -> None:
        assert not self.busy
        self.capacity -= 1
        self.sent.append(payload)

    def end(self, end: End) -> None:
        self.ended.append(end)


def test_what_meets_no_resistance_is_sent_at_once_and_needs_no_queue() -> None:
    wire = Wire(10)
    for message in MESSAGES:
        wire.send(message)
    assert wire.sent == MESSAGES
    assert wire._queue is None


@pytest.mark.parametrize("capacity", range(LIMIT + 2))
def test_what_waits_is_sent_in_order_as_far_as_the_peer_reads(capacity: int) -> None:
    wire = Wire(0)
    for message in MESSAGES[:LIMIT]:
        wire.send(message)
    assert wire.sent == []
    wire.capacity = capacity
    assert wire.resume() is (capacity > LIMIT)
    assert wire.sent == MESSAGES[: min(capacity, LIMIT)]
    assert (wire._queue is None) is (capacity > LIMIT)


def test_one_message_too_many_ends_the_stream_and_frees_the_queue() -> None:
    wire = Wire(0)
    for message in MESSAGES[:LIMIT]:
        wire.send(message)
    assert wire.ended == []
    wire.send(MESSAGES[LIMIT])
    assert wire.ended == [QUEUE_FULL]
    assert wire._queue is None


def test_nothing_is_sent_or_kept_for_a_stream_that_is_over() -> None:
    wire = Wire(1)
    wire.end(QUEUE_FULL)
    wire.send(MESSAGES[0])
    wire.capacity = 0
    wire.send(MESSAGES[1])
    assert wire.sent == []
    assert wire._queue is None


def test_what_was_discarded_is_not_sent_later() -> None:
    wire = Wire(0)
    wire.send(MESSAGES[0])
    wire.discard()
    wire.capacity = 5
    assert wire.resume()
    assert wire.sent == []


def test_a_stream_pays_one_reference_for_it() -> None:
    class Bare:
        __slots__ = ()

    assert sys.getsizeof(Outbox()) <= sys.getsizeof(Bare()) + 8
