"""The Retry-After header, as protocol/fixtures/reconnect.json says; vitest reads it as well."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from headcount.client.retry_after import parse_retry_after

FIXTURE = json.loads((Path(__file__).parents[2] / "protocol/fixtures/reconnect.json").read_text())["retryAfter"]
NOW = datetime.fromtimestamp(FIXTURE["nowMs"] / 1000, UTC)


@pytest.mark.parametrize("case", FIXTURE["headers"], ids=lambda case: case["name"])
def test_retry_after(case: dict[str, Any]) -> None:
    assert (parse_retry_after(case["header"], NOW) or 0) * 1000 == case["namedMs"]


@pytest.mark.parametrize("nonsense", [None, "", "soon", "-3", "٣", "Mon, 99 Foo 2026"])
def test_what_is_neither_seconds_nor_a_date_names_no_delay(nonsense: str | None) -> None:
    assert parse_retry_after(nonsense) is None


def test_a_date_is_compared_with_the_clock() -> None:
    seconds = parse_retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert seconds is not None
    assert 80 < seconds <= 90
