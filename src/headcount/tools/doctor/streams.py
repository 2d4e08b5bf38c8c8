"""
The checks that open streams and hold them.

Tests: tests/cli/test_doctor.py.
"""

import time
from typing import Any, Final

import msgspec

from ...client import messages
from ...client.access import Access, httpx_errors, unreachable
from .findings import Report
from .probe import EventStreamProbe, Probe, WebSocketProbe, event_stream, web_socket

PROMPT: Final = 2.0
"""Seconds within which an event must arrive; a round trip around the world takes a tenth of that."""

PATIENCE: Final = 12.0
"""Seconds until a buffered stream is given up; the server ends a viewer that is not authorised after 10."""

MAX_CLOCK_SKEW: Final = 5.0
"""Seconds."""


async def examine_event_stream(
    base: str, access: Access, report: Report, query: dict[str, str], hold: float | None
) -> bool:
    """
    Examine an SSE stream.

    Returns:
        Whether a POST reached a process that does not hold the stream.
    """
    try:
        async with event_stream(base, access, query) as (probe, client):
            if probe.status != 200 or "text/event-stream" not in probe.headers.get("content-type", ""):
                report.add(
                    "sse",
                    "fault",
                    f"The SSE stream is refused with {probe.status} {probe.headers.get('content-type', '')}.",
                    "Pass GET requests below the base path on to Headcount.",
                )
                return False
            _compression(probe, report)
            if not probe.readable:
                return False
            connected = await _connected(probe, report, "SSE")
            if connected is None:
                return False
            unknown_stream = await _round_trip(base, client, probe, connected, report)
            await _hold(probe, report, "SSE", connected, hold)
            return unknown_stream
    except (*httpx_errors, TimeoutError) as error:
        if isinstance(error, TimeoutError):
            report.add("sse", "fault", "No SSE stream begins within 10 s: a proxy buffers it.", _UNBUFFER)
        else:
            report.add("sse", "fault", f"The SSE stream does not open: {unreachable(base, error, access.proxy)}")
    return False


_UNBUFFER: Final = "Turn buffering off for the base path (nginx: proxy_buffering off;), or obey X-Accel-Buffering."


def _compression(probe: EventStreamProbe, report: Report) -> None:
    if probe.encoding in ("", "identity"):
        report.add("compression", "ok", "No proxy compresses the stream.")
        return
    report.add(
        "compression",
        "warning" if probe.readable else "fault",
        f"A proxy compresses the stream with {probe.encoding}, and may buffer events for that.",
        "Turn compression off for text/event-stream.",
    )


async def _connected(probe: Probe, report: Report, kind: str) -> messages.Connected | None:
    check = "sse" if kind == "SSE" else "websocket"
    await probe.until(lambda one: one.find("connected"), PROMPT)
    late = probe.find("connected") is None
    if late:
        await probe.until(lambda one: one.find("connected"), PATIENCE)
    found = probe.find("connected")
    if found is None or late:
        when = "within 12 s" if found is None else f"for {found[0] - probe.opened_at:.0f} s"
        report.add(
            check,
            "fault",
            f"The {kind} stream opens, but no event came {when}: a proxy buffers it.",
            _UNBUFFER,
        )
        return None
    try:
        connected = msgspec.convert(found[1], messages.Connected)
    except msgspec.ValidationError as error:
        report.add(check, "fault", f"The first {kind} message is not Headcount's ({error}).")
        return None
    delay = found[0] - probe.opened_at
    report.add(
        check, "ok", f"The {kind} stream opens, and its first event came after {delay * 1000:.0f} ms: not buffered."
    )
    if kind == "SSE":
        skew = connected.timestamp / 1000 - (time.time() - (time.monotonic() - found[0]))
        if abs(skew) > MAX_CLOCK_SKEW:
            ahead = "ahead of" if skew > 0 else "behind"
            report.add(
                "clock",
                "warning",
                f"The server's clock is {abs(skew):.0f} s {ahead} this machine's.",
                "Synchronise both clocks by NTP.",
            )
        else:
            report.add("clock", "ok", "The server's clock agrees with this machine's.")
    return connected


async def _round_trip(
    base: str, client: Any, probe: EventStreamProbe, connected: messages.Connected, report: Report
) -> bool:
    """
    Subscribe by POST, on another connection: the answer must come on the stream.

    Returns:
        Whether the POST reached a process that does not hold the stream.
    """
    posted_at = time.monotonic()
    body = {"connectionId": connected.connection_id}
    response = await client.post(f"{base}/subscribe-stats", json=body)
    if response.status_code == 404:
        return True
    if response.status_code != 200:
        report.add(
            "post",
            "fault",
            f"SSE pages cannot send anything: a POST below the base path is answered with {response.status_code}.",
            "Pass POST requests below the base path on to Headcount.",
        )
        return False
    if not await probe.until(lambda one: one.find("stats", "stats-unauthorized"), 2 * PROMPT):
        report.add(
            "post",
            "fault",
            "The answer to a POST did not come on the stream within 4 s: a proxy buffers it.",
            _UNBUFFER,
        )
        return False
    found = probe.find("stats", "stats-unauthorized")
    assert found is not None
    report.add("post", "ok", f"A POST was answered on the stream after {(found[0] - posted_at) * 1000:.0f} ms.")
    await client.post(f"{base}/unsubscribe-stats", json=body)  # figures would break the silence that is examined
    return False


async def examine_web_socket(
    base: str, access: Access, report: Report, query: dict[str, str], hold: float | None
) -> None:
    """Examine a WebSocket."""
    async with web_socket(base, access, query) as probe:
        if probe.socket is None:
            _no_web_socket(probe, report)
            return
        if probe.compressed:
            report.add(
                "websocket",
                "note",
                "WebSockets are compressed, which takes about 40 KB of the server's memory for each.",
                "Turn compression off (uvicorn: --ws-per-message-deflate false).",
            )
        connected = await _connected(probe, report, "WebSocket")
        if connected is None:
            return
        await probe.socket.send('{"type":"subscribe-stats"}')
        if not await probe.until(lambda one: one.find("stats", "stats-unauthorized"), 2 * PROMPT):
            report.add(
                "websocket",
                "fault",
                "A message on the WebSocket was not answered within 4 s: a proxy buffers it.",
                _UNBUFFER,
            )
            return
        await probe.socket.send('{"type":"unsubscribe-stats"}')  # figures would break the silence that is examined
        await _hold(probe, report, "WebSocket", connected, hold)


def _no_web_socket(probe: WebSocketProbe, report: Report) -> None:
    if probe.refusal:
        says = f"The WebSocket does not open: the handshake is answered with {probe.refusal}."
    else:
        says = f"The WebSocket does not open: {probe.failure}"
    report.add(
        "websocket",
        "fault",
        says,
        "Pass the handshake on (nginx: proxy_http_version 1.1; and the Upgrade and Connection headers).",
    )


async def _hold(probe: Probe, report: Report, kind: str, connected: messages.Connected, hold: float | None) -> None:
    interval = (connected.keepalive_ms or 20_000) / 1000
    seconds = interval + 3 if hold is None else hold
    if not seconds:
        return
    check = "sse-idle" if kind == "SSE" else "websocket-idle"
    began = time.monotonic()
    pieces = probe.pieces
    await probe.until(lambda _: False, seconds)
    if probe.ended_at is not None:
        silent = probe.ended_at - max(began, probe.last_byte_at)
        drained = probe.find("drain") is not None
        if drained:
            report.add(
                check, "note", f"The server ended the {kind} stream because it is stopping.", "Run the command again."
            )
        elif silent < interval:
            report.add(
                check,
                "fault",
                f"The {kind} stream is cut after {silent:.0f} s of silence, but keepalives come every {interval:g} s.",
                "Raise the proxy's read timeout above keepalive_interval (nginx: proxy_read_timeout 60s;), "
                "or lower keepalive_interval.",
            )
        else:
            lasted = probe.ended_at - probe.opened_at
            report.add(check, "fault", f"The {kind} stream is cut off after {lasted:.0f} s although it was not silent.",
                       "Look for a proxy that limits the total duration of a request.")  # fmt: skip
    elif probe.pieces == pieces and seconds > interval:
        report.add(
            check, "fault", f"No keepalive came on the {kind} stream in {seconds:.0f} s: a proxy buffers it.", _UNBUFFER
        )
    elif probe.pieces == pieces:
        report.add(
            check,
            "note",
            f"The {kind} stream was held for {seconds:.0f} s and not cut off. No keepalive was due: the interval is "
            f"{interval:g} s.",
            "Leave --hold out, or make it longer, to examine keepalives as well.",
        )
    else:
        report.add(check, "ok", f"The {kind} stream was held for {seconds:.0f} s, and its keepalives arrived.")
