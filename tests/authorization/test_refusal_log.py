"""An application that answers an inner request itself. The log says once for each way what to do."""

import logging

import pytest

from headcount.authorization.refusal_log import InnerResponse, RefusalLog, kind_of

PATH = "/__skew/authorize"


@pytest.mark.parametrize(
    ("scheme", "status", "location", "kind"),
    [
        ("http", 301, f"https://shop.example{PATH}", "tls"),
        ("http", 308, f"https://shop.example{PATH}/", "tls"),
        ("https", 301, f"https://shop.example{PATH}/", "slash"),
        ("http", 307, f"{PATH}/", "slash"),
        ("http", 302, "/log-in?next=/__skew/authorize", "redirect"),
        ("http", 302, "https://id.example/authorize", "redirect"),
        ("http", 302, "", "redirect"),
        ("http", 304, "", "redirect"),
        ("http", 400, "", "host"),
        ("http", 401, "", "denied"),
        ("http", 403, "", "denied"),
        ("http", 404, "", "route"),
        ("http", 405, "", "other"),
        ("http", 200, "", "other"),
        ("http", 500, "", "error"),
        ("http", 503, "", "error"),
    ],
)
def test_ways_to_refuse_are_told_apart(scheme: str, status: int, location: str, kind: str) -> None:
    assert kind_of(PATH, scheme, InnerResponse(status, location)) == kind


def test_each_kind_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog("/__skew")
    with caplog.at_level(logging.WARNING, "headcount"):
        for _ in range(3):
            log.note(PATH, "http", InnerResponse(301, f"https://shop.example{PATH}"))
            log.note(PATH, "http", InnerResponse(403))
    first, second = (record.getMessage() for record in caplog.records)
    assert "SECURE_PROXY_SSL_HEADER" in first
    assert f"redirect to 'https://shop.example{PATH}'" in first
    assert "exempt /__skew/ from that check" in second


def test_a_redirect_is_logged_without_what_belongs_to_the_visitor(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog("/__skew")
    log.note(PATH, "http", InnerResponse(302, f"/log-in?token=secret#{'x' * 500}"))
    [record] = caplog.records
    assert "redirect to '/log-in'" in record.getMessage()
    assert "secret" not in record.getMessage()
    assert "\n" not in record.getMessage()
