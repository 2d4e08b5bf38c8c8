"""What clients report about a limit between them and the server."""

import pytest

from headcount.core.cut_reports import LOG_INTERVAL, MAX_REPORTS, MAX_STREAMS, WINDOW, CutReports, parse_cut_after


class Pages:
    """Pages whose streams are ended, or renewed, after some seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.reports = CutReports()
        self.now = now
        self._number = 0

    def open(self) -> str:
        self._number += 1
        self.reports.opened(f"{self._number}", self.now)
        return f"{self._number}"

    def report(self, limit: float, age: float | None = None, count: int = 1) -> float | None:
        """Let pages open streams with a report, and replace them at an age. Returns the limit to log, if any."""
        streams = [self.open() for _ in range(count)]
        self.now += limit if age is None else age
        logged = None
        for stream in streams:
            logged = self.reports.replaced(stream, self.now, limit) or logged
            self.reports.ended(stream, self.now)
        return logged

    def end(self, count: int) -> None:
        """Let streams end that nobody reports."""
        for _ in range(count):
            self.reports.ended("another", self.now)

    def limit(self) -> float | None:
        return self.reports.limit(self.now)


def test_a_limit_is_known_from_three_reports_on() -> None:
    pages = Pages()
    for limit in (15.0, 15.1):
        pages.report(limit)
        assert pages.limit() is None
    pages.report(14.9)
    assert pages.limit() == 15.0


def test_a_report_without_a_stream_that_was_here_counts_nothing() -> None:
    pages = Pages()
    for _ in range(100):
        assert pages.reports.replaced("made up", pages.now, 15.0) is None
    assert pages.limit() is None


def test_a_stream_proves_one_report() -> None:
    pages = Pages()
    stream = pages.open()
    pages.now = 15.0
    for _ in range(100):
        pages.reports.replaced(stream, pages.now, 15.0)
    assert pages.limit() is None


@pytest.mark.parametrize(
    ("limit", "age", "fits"),
    [
        (15.0, 0.0, False),
        (15.0, 11.9, False),
        (15.0, 12.0, True),  # the earliest renewal
        (15.0, 14.0, True),
        (15.0, 15.0, True),
        (15.0, 19.0, True),  # a busy client noticed the end late
        (15.0, 19.5, False),
        (1.0, 0.4, False),
        (1.0, 0.5, True),
        (3_600.0, 2_800.0, False),
        (3_600.0, 2_880.0, True),
    ],
)
def test_the_age_of_the_stream_must_fit_the_limit(limit: float, age: float, fits: bool) -> None:
    pages = Pages()
    pages.report(limit, age, count=3)
    assert pages.limit() == (limit if fits else None)


def test_the_age_is_that_at_the_end_of_the_stream() -> None:
    pages = Pages()
    early, cut = [pages.open() for _ in range(3)], [pages.open() for _ in range(3)]
    pages.now = 1.0
    for stream in early:
        pages.reports.ended(stream, pages.now)
    pages.now = 15.0
    for stream in cut:
        pages.reports.ended(stream, pages.now)
    pages.now = 60.0
    for stream in early:
        pages.reports.replaced(stream, pages.now, 60.0)
    assert pages.limit() is None, "it did not live for 60 s"
    for stream in cut:
        pages.reports.replaced(stream, pages.now, 15.0)
    assert pages.limit() == 15.0


def test_a_fifth_of_the_streams_that_end_must_have_a_report() -> None:
    pages = Pages()
    pages.end(13)
    pages.report(15.0, count=3)
    assert pages.limit() is None, "3 of 16"
    pages.report(15.0)
    assert pages.limit() == 15.0, "4 of 17"
    pages.end(4)
    assert pages.limit() is None, "4 of 21"


def test_one_that_lies_or_has_another_network_does_not_change_it() -> None:
    pages = Pages()
    pages.report(15.0, count=5)
    pages.report(60.0, count=4)
    assert pages.limit() == 15.0


def test_old_reports_do_not_count() -> None:
    pages = Pages()
    pages.report(15.0, count=3)
    pages.now = WINDOW
    assert pages.limit() == 15.0
    pages.now += WINDOW / 5
    assert pages.limit() is None


def test_more_pages_than_reports_that_are_kept_know_the_limit_all_the_same() -> None:
    pages = Pages()
    pages.report(60.0, count=10 * MAX_REPORTS)
    assert pages.limit() == 60.0


def test_the_newest_reports_are_kept_and_no_more() -> None:
    pages = Pages()
    pages.report(60.0, count=MAX_REPORTS)
    pages.report(10.0, count=MAX_REPORTS // 2 + 1)
    assert pages.limit() == 10.0


def test_whoever_opens_many_streams_makes_it_unknown_and_not_false() -> None:
    pages = Pages()
    streams = [pages.open() for _ in range(3)]
    for _ in range(MAX_STREAMS):
        pages.open()
    pages.now += 15.0
    for stream in streams:
        pages.reports.replaced(stream, pages.now, 15.0)
    assert pages.limit() is None
    pages.report(15.0, count=3)
    assert pages.limit() == 15.0


def test_the_log_is_told_when_it_is_known_and_then_once_an_hour() -> None:
    pages = Pages()
    assert [pages.report(15.0) for _ in range(5)] == [None, None, 15.0, None, None]
    pages.now += LOG_INTERVAL
    assert [pages.report(30.0) for _ in range(4)] == [None, None, 30.0, None]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15000", 15.0),
        ("1000", 1.0),
        ("86400000", 86_400.0),
        ("999", 0.0),
        ("86400001", 0.0),
        ("999999999999", 0.0),
        ("-15000", 0.0),
        ("15.5", 0.0),
        ("1e4", 0.0),
        ("١٥٠٠٠", 0.0),
        ("soon", 0.0),
        ("", 0.0),
    ],
)
def test_what_cannot_be_meant_is_ignored(text: str, seconds: float) -> None:
    assert parse_cut_after(text) == seconds
