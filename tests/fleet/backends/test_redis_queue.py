from typing import Any

from headcount.fleet.backends.redis_queue import MAX_BATCH, MAX_QUEUED, MAX_QUEUED_BYTES, NO_REPLY, CommandQueue


def filled(count: int, size: int = 100) -> tuple[CommandQueue, dict[int, Any]]:
    """Return a queue of numbered commands, and the answers that they get."""
    queue, answers = CommandQueue(), dict[int, Any]()
    for number in range(count):
        queue.put((number,), lambda answer, number=number: answers.__setitem__(number, answer), size)  # type: ignore[misc]
    return queue, answers


def test_commands_are_sent_in_order_and_a_bounded_number_at_once() -> None:
    queue, answers = filled(MAX_BATCH + 1)
    first, second = queue.next_batch(), queue.next_batch()
    assert [queued.command[0] for queued in first + second] == list(range(MAX_BATCH + 1))
    assert len(second) == 1
    assert not queue
    assert queue.next_batch() == []
    second[0].answer("OK")
    assert answers == {MAX_BATCH: "OK"}


def test_the_oldest_are_dropped_when_too_many_wait() -> None:
    queue, answers = filled(MAX_QUEUED + 2)
    assert answers == {0: NO_REPLY, 1: NO_REPLY}
    assert queue.next_batch()[0].command == (2,)


def test_the_oldest_are_dropped_when_too_many_bytes_wait() -> None:
    half = MAX_QUEUED_BYTES // 2
    queue, answers = filled(3, half)
    assert answers == {0: NO_REPLY}
    queue.next_batch()
    queue.put(("after",), None, 2 * half)
    assert len(answers) == 1, "what was sent does not count any more"


def test_one_that_is_larger_than_the_limit_is_sent_on_its_own() -> None:
    queue, answers = filled(2, 2 * MAX_QUEUED_BYTES)
    assert answers == {0: NO_REPLY}
    assert [queued.command for queued in queue.next_batch()] == [(1,)]


def test_all_are_answered_when_the_connection_is_lost() -> None:
    queue, answers = filled(2)
    queue.put(("nobody waits for its answer",), None, 100)
    queue.fail_all()
    assert answers == {0: NO_REPLY, 1: NO_REPLY}
    assert not queue
    queue.put(("next",), None, MAX_QUEUED_BYTES)
    assert len(queue.next_batch()) == 1
