"""Which pages acknowledged a message."""

from headcount.core.acknowledgements import KEEP, MAX_MESSAGES, Acknowledgements


def test_each_page_is_counted_once_and_only_if_it_was_sent_the_message() -> None:
    kept = Acknowledgements()
    kept.sent("m", ["a", "b"], 0.0)
    assert kept.acknowledge("m", "a")
    assert not kept.acknowledge("m", "a")
    assert not kept.acknowledge("m", "x")
    assert not kept.acknowledge("n", "a")
    assert kept.count("m") == 1
    assert kept.count("n") is None, "unknown is not zero"


def test_only_the_newest_messages_are_known_and_each_for_a_while() -> None:
    kept = Acknowledgements()
    for number in range(MAX_MESSAGES + 1):
        kept.sent(str(number), ["a"], float(number))
    assert kept.count("0") is None
    assert kept.count("1") == 0
    kept.expire(KEEP + 1)
    assert kept.count("1") is None
    assert kept.count("2") == 0
