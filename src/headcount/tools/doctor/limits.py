"""
Which limit cut a stream off: one of silence, or one of its whole life.

A stream that was held in silence cannot tell them apart: a limit of 10 s on the whole life, before the first keepalive,
looks like one of silence. So a second stream is kept busy, with less time between two messages than the silence that
the first one had. A limit of silence spares it; a limit of the whole life ends it after the same time.

Tests: tests/cli/test_doctor.py.
"""

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec
from websockets.exceptions import ConnectionClosed

from ...client import messages
from ...client.access import Access, httpx_errors
from .findings import Report
from .probe import Probe, event_stream, web_socket
from .products import mend

_MAX_PAUSE: Final = 2.0
"""Seconds between two messages of a busy stream."""

_TOO_SILENT: Final = 1.5
"""Pauses. Where requests take that long, a stream is not kept busy, and a limit of silence may end it, too."""

_CLEARLY_SHORTER: Final = 0.8
"""Of the silence that ended a stream: a busy one that was silent for less was not ended by a limit of silence."""

_SAME_LIFE: Final = 0.3
"""Seconds by which the lives of two streams differ that one limit of the whole duration ends."""

_LONGER: Final = 1.4
"""How many times as long as the silent stream a busy one is held; limits of one proxy are equal to some hundred ms."""

_SLACK: Final = 2.0
"""Seconds more, for short limits."""

_RARE: Final = 600.0
"""Seconds. A reported limit of this length is no fault: some proxies must have one, and pages renew before."""


_TRIES: Final = 3
"""Streams that are kept busy, at most: on a busy machine or network, one falls silent all the same."""


class Fate(enum.Enum):
    """What became of a stream that was to be kept busy."""

    HELD = enum.auto()
    """It outlived the silent one, or did not open."""
    CUT = enum.auto()
    """It was ended although it was busy."""
    FELL_SILENT = enum.auto()
    """It was ended when it had been silent for long: either limit may have ended it."""


class Cut(NamedTuple):
    """
    How a silent stream ended. Times in seconds.

    Attributes:
        check: Name of the check.
        kind: `SSE` or `WebSocket`.
        life: From its request.
        silence: Since its last byte.
        interval: Between two keepalives of the server.
    """

    check: str
    kind: str
    life: float
    silence: float
    interval: float


async def examine_limit(base: str, access: Access, report: Report, query: dict[str, str], cut: Cut) -> None:
    """Keep a stream busy for as long as a silent one lived, and report which limit ends streams."""
    for _ in range(_TRIES):
        fate = await _keep_busy(base, access, report, query, cut)
        if fate is not Fate.FELL_SILENT:
            break
    if fate is Fate.CUT:
        report.add(
            cut.check,
            "fault",
            f"Every {cut.kind} stream ends after {cut.life:.0f} s, even a busy one: a proxy limits the duration of a "
            "request.",
            mend("total-limit", report.products, "Raise that limit, or turn it off for the base path."),
            section="total-limit",
        )
        return
    slow = f", but keepalives come every {cut.interval:g} s" if cut.silence < cut.interval else ""
    report.add(
        cut.check,
        "fault",
        f"The {cut.kind} stream is cut after {cut.silence:.0f} s of silence{slow}; a busy one is not.",
        mend(
            "idle-limit",
            report.products,
            "Raise the proxy's read timeout above keepalive_interval, or lower keepalive_interval.",
        ),
        section="idle-limit",
    )


def examine_reported_limit(seconds: Iterable[float], report: Report) -> None:
    """Report the shortest limit that clients have reported, unless a stream was seen to end by one; 0: none."""
    limit = min(filter(None, seconds), default=0.0)
    if not limit or any(finding.see.endswith("#total-limit") for finding in report.findings):
        return
    report.add(
        "reported-limit",
        "fault" if limit < _RARE else "note",
        f"Pages report that something ends every stream after {round(limit, 1):g} s, idle or busy.",
        mend("total-limit", report.products, "Raise that limit, or turn it off for the base path."),
        section="total-limit",
    )


async def _keep_busy(base: str, access: Access, report: Report, query: dict[str, str], cut: Cut) -> Fate:
    """Keep one stream busy, and return what became of it."""
    pause = max(0.2, min(_MAX_PAUSE, cut.silence / 3))
    hold = cut.life * _LONGER + _SLACK
    with suppress(*httpx_errors, TimeoutError, msgspec.ValidationError):
        if cut.kind == "SSE":
            async with event_stream(base, access, query) as (probe, client):
                await probe.until(lambda one: one.find("connected"), _SLACK)
                found = probe.find("connected")
                if found is None:
                    return Fate.HELD
                body = {"connectionId": msgspec.convert(found[1], messages.Connected).connection_id}

                async def subscribe() -> None:
                    await client.post(f"{base}/subscribe-stats", json=body)

                return await _fate(probe, subscribe, report, cut, pause, hold)
        async with web_socket(base, access, query) as socket_probe:
            if socket_probe.socket is None:
                return Fate.HELD
            socket = socket_probe.socket

            async def ping() -> None:
                await socket.send('{"type":"ping"}')

            return await _fate(socket_probe, ping, report, cut, pause, hold)
    return Fate.HELD


async def _fate(
    probe: Probe, say: Callable[[], Awaitable[None]], report: Report, cut: Cut, pause: float, hold: float
) -> Fate:
    while (passed := time.monotonic() - probe.opened_at) < hold and probe.ended_at is None:
        report.on_progress("Finding out which limit ends streams", passed / hold)
        with suppress(*httpx_errors, ConnectionClosed, TimeoutError):
            async with asyncio.timeout(_MAX_PAUSE + _SLACK):
                await say()
        await probe.until(lambda _: False, min(pause, max(0.01, hold - passed)))
    if probe.ended_at is None:
        return Fate.HELD
    silence, life = probe.ended_at - probe.last_byte_at, probe.ended_at - probe.opened_at
    # The server sends figures that moved with its next flush, so a busy stream may be silent for longer than a pause.
    # Two that lived equally long, and heard something at different times, were not ended by silence.
    heard = cut.life - cut.silence > _SAME_LIFE
    if silence <= max(_TOO_SILENT * pause, _CLEARLY_SHORTER * cut.silence):
        return Fate.CUT
    return Fate.CUT if heard and abs(life - cut.life) < _SAME_LIFE else Fate.FELL_SILENT
