"""
Whether a page that has left is gone: some proxies keep its stream open, and the page in the figures.

Such a proxy goes on reading the server's answer when nobody reads its own. The server cannot tell that from a page that
is open. So this check opens a stream, leaves it without a word, as pages do, and asks by POST whether the server still
knows it.

Tests: tests/cli/test_doctor.py, tests/cli/test_doctor_mends.py.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any, Final

import msgspec

from ...client import messages
from ...client.access import Access, httpx_errors
from .findings import Report
from .probe import EventStreamProbe, event_stream
from .products import mend

SOON: Final = 4.0
"""Seconds within which a server knows that a page has left, if what is between passes that on."""

_PAUSE: Final = 0.25
"""Seconds between two questions."""

_KEEPALIVES: Final = 2
"""After so many, a proxy that notices only when it writes has noticed: the first write to a peer that left succeeds."""

_PROMPT: Final = 4.0
"""Seconds for an answer on the stream, which an earlier check has found to come."""


async def examine_departure(base: str, access: Access, report: Report, query: dict[str, str], *, brief: bool) -> None:
    """
    Open an event stream, leave, and examine when the server knows.

    Args:
        base: URL of the base path.
        access: Credentials and network options.
        report: Receives the findings.
        query: Of the stream.
        brief: Do not wait for keepalives, with which some proxies notice it.
    """
    with suppress(*httpx_errors, TimeoutError, msgspec.ValidationError):
        async with event_stream(base, access, query) as (probe, client):
            connected = await _open(base, client, probe)
        if connected is None:
            return
        interval = (connected.keepalive_ms or 20_000) / 1000
        patience = SOON if brief else max(SOON, _KEEPALIVES * interval + SOON)
        after = await _gone_after(base, access, report, connected.connection_id, patience)
        if after is not None and after <= SOON:
            report.add("departure", "ok", "A page that leaves is gone from the figures at once.")
            return
        general = "Let the proxy close its connection to the server as soon as a browser has closed its own."
        do = mend("departure", report.products, general)
        if after is not None:
            report.add(
                "departure",
                "warning",
                f"A page that has left stays in the figures for {after:.0f} s: a proxy notices late that it has left.",
                do,
                section="departure",
            )
        else:
            report.add(
                "departure",
                "warning" if brief else "fault",  # the proxy may still notice it later
                f"A page that has left is still in the figures after {patience:.0f} s: a proxy keeps its stream open.",
                do,
                section="departure",
            )


async def _open(base: str, client: Any, probe: EventStreamProbe) -> messages.Connected | None:
    """Wait until the stream is one that the server keeps open; None: it is not."""
    if not await probe.until(lambda one: one.find("connected"), _PROMPT):
        return None
    found = probe.find("connected")
    assert found is not None
    connected = msgspec.convert(found[1], messages.Connected)
    # A viewer that has not shown its right is dropped after some seconds, wherever it is.
    body = {"connectionId": connected.connection_id}
    await client.post(f"{base}/subscribe-stats", json=body)
    if not await probe.until(lambda one: one.find("stats", "stats-unauthorized"), _PROMPT):
        return None
    # Figures would make the proxy write, and so notice what it does not notice of a page that does not watch.
    return connected if await _is_known(base, client, connected.connection_id) else None


async def _gone_after(base: str, access: Access, report: Report, handle: str, patience: float) -> float | None:
    """Return after how many seconds the server does not know the stream any more; None: it knew it all the time."""
    left_at = time.monotonic()
    async with access.http() as client:
        while (passed := time.monotonic() - left_at) < patience:
            if not await _is_known(base, client, handle):
                return passed
            report.on_progress("Waiting for a closed page to leave the figures", passed / patience)
            await asyncio.sleep(_PAUSE)
    return None


async def _is_known(base: str, client: Any, handle: str) -> bool:
    response = await client.post(f"{base}/unsubscribe-stats", json={"connectionId": handle})
    return bool(response.status_code != 404)
