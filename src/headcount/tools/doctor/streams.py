"""The checks that open streams and hold them."""

import time
from typing import Any, Final

import msgspec

from ...client import messages
from ...client.access import Access, httpx_errors, unreachable
from .findings import Report
from .probe import EventStreamProbe, Probe, WebSocketProbe, event_stream, web_socket

PROMPT: Final = 2.0
"""Seconds within which an event must arrive; on the way round the world it takes a tenth of that."""

PATIENCE: Final = 12.0
"""Seconds that a held-back stream is given to come after all; a viewer without a right is ended after 10."""

SKEW: Final = 5.0
"""Seconds that clocks may differ."""


async def examine_event_stream(
    base: str, access: Access, report: Report, query: dict[str, str], hold: float | None
) -> bool:
    """
    Look at an SSE stream.

    Returns:
        Whether a POST met a process that did not know the stream.
    """
    try:
        async with event_stream(base, access, query) as (probe, client):
            if probe.status != 200 or "text/event-stream" not in probe.headers.get("content-type", ""):
                report.add(
                    "sse",
                    "fault",
                    f"The SSE stream is answered with {probe.status} {probe.headers.get('content-type', '')}.",
                    "Let GET requests to the base path through to Headcount.",
                )
                return False
            _compression(probe, report)
            if not probe.readable:
                return False
            told = await _connected(probe, report, "SSE")
            if told is None:
                return False
            stranger = await _round_trip(base, client, probe, told, report)
            await _hold(probe, report, "SSE", told, hold)
            return stranger
    except (*httpx_errors, TimeoutError) as error:
        if isinstance(error, TimeoutError):
            report.add("sse", "fault", "No SSE stream begins within 10 s: something between holds it back.", _UNBUFFER)
        else:
            report.add("sse", "fault", f"No SSE stream opens: {unreachable(base, error, access.proxy)}")
    return False


_UNBUFFER: Final = (
    "Switch buffering off for the base path (nginx: proxy_buffering off;), and do not ignore X-Accel-Buffering."
)


def _compression(probe: EventStreamProbe, report: Report) -> None:
    if probe.encoding in ("", "identity"):
        report.add("compression", "ok", "Nothing between compresses the stream.")
        return
    report.add(
        "compression",
        "warning" if probe.readable else "fault",
        f"Something between compresses the stream with {probe.encoding}, and may hold events back to do it well.",
        "Switch compression off for text/event-stream.",
    )


async def _connected(probe: Probe, report: Report, kind: str) -> messages.Connected | None:
    check = "sse" if kind == "SSE" else "websocket"
    await probe.until(lambda one: one.find("connected"), PROMPT)
    late = probe.find("connected") is None
    if late:
        await probe.until(lambda one: one.find("connected"), PATIENCE)
    found = probe.find("connected")
    if found is None or late:
        when = "within 12 s" if found is None else f"before {found[0] - probe.opened_at:.0f} s had passed"
        report.add(
            check,
            "fault",
            f"The {kind} stream opens, but nothing of it came {when}: something between buffers it.",
            _UNBUFFER,
        )
        return None
    try:
        connected = msgspec.convert(found[1], messages.Connected)
    except msgspec.ValidationError as error:
        report.add(check, "fault", f"The first {kind} message is not Headcount's ({error}).")
        return None
    delay = found[0] - probe.opened_at
    report.add(check, "ok", f"{kind} opens, and its first event came after {delay * 1000:.0f} ms: not buffered.")
    if kind == "SSE":
        skew = connected.timestamp / 1000 - (time.time() - (time.monotonic() - found[0]))
        if abs(skew) > SKEW:
            ahead = "ahead of" if skew > 0 else "behind"
            report.add("clock", "warning", f"The server's clock is {abs(skew):.0f} s {ahead} this one.", "Use NTP.")
        else:
            report.add("clock", "ok", "The server's clock and this one agree.")
    return connected


async def _round_trip(
    base: str, client: Any, probe: EventStreamProbe, told: messages.Connected, report: Report
) -> bool:
    """Ask for statistics on a connection of its own: the answer must come on the stream. Returns True at a stranger."""
    asked = time.monotonic()
    body = {"connectionId": told.connection_id}
    response = await client.post(f"{base}/subscribe-stats", json=body)
    if response.status_code == 404:
        return True
    if response.status_code != 200:
        report.add(
            "post",
            "fault",
            f"SSE pages cannot tell anything: a POST to the base path is answered with {response.status_code}.",
            "Let POST requests to the base path through to Headcount.",
        )
        return False
    if not await probe.until(lambda one: one.find("stats", "stats-unauthorized"), 2 * PROMPT):
        report.add("post", "fault", "What was asked for by POST did not come on the stream within 4 s.", _UNBUFFER)
        return False
    found = probe.find("stats", "stats-unauthorized")
    assert found is not None
    report.add("post", "ok", f"Asked by POST, answered on the stream after {(found[0] - asked) * 1000:.0f} ms.")
    await client.post(f"{base}/unsubscribe-stats", json=body)  # or figures would break the silence that is tested
    return False


async def examine_web_socket(
    base: str, access: Access, report: Report, query: dict[str, str], hold: float | None
) -> None:
    """Look at a WebSocket."""
    async with web_socket(base, access, query) as probe:
        if probe.socket is None:
            _no_web_socket(probe, report)
            return
        if probe.compressed:
            report.add(
                "websocket",
                "note",
                "WebSockets are compressed, which costs the server about 40 KB for each.",
                "With uvicorn: --ws-per-message-deflate false.",
            )
        told = await _connected(probe, report, "WebSocket")
        if told is None:
            return
        await probe.socket.send('{"type":"subscribe-stats"}')
        if not await probe.until(lambda one: one.find("stats", "stats-unauthorized"), 2 * PROMPT):
            report.add(
                "websocket", "fault", "What was asked for on the WebSocket was not answered within 4 s.", _UNBUFFER
            )
            return
        await probe.socket.send('{"type":"unsubscribe-stats"}')  # or figures would break the silence that is tested
        await _hold(probe, report, "WebSocket", told, hold)


def _no_web_socket(probe: WebSocketProbe, report: Report) -> None:
    if probe.refusal:
        says = f"No WebSocket opens: the handshake is answered with {probe.refusal}, as if it were a plain request."
    else:
        says = f"No WebSocket opens: {probe.failure}"
    report.add(
        "websocket",
        "fault",
        says,
        "Pass the handshake on (nginx: proxy_http_version 1.1; and the headers Upgrade and Connection).",
    )


async def _hold(probe: Probe, report: Report, kind: str, told: messages.Connected, hold: float | None) -> None:
    interval = (told.keepalive_ms or 20_000) / 1000
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
                check, "note", f"The server ended the {kind} stream itself: it was stopped just now.", "Try again."
            )
        elif silent < interval:
            report.add(
                check,
                "fault",
                f"{kind} is cut off after {silent:.0f} s of silence, and keepalives come every {interval:g} s.",
                "Raise the proxy's read time-out above keepalive_interval (nginx: proxy_read_timeout 60s;), "
                "or lower keepalive_interval.",
            )
        else:
            lasted = probe.ended_at - probe.opened_at
            report.add(check, "fault", f"{kind} is cut off after {lasted:.0f} s, although it was not silent.",
                       "Look for a limit of the whole length of a request in what lies between.")  # fmt: skip
    elif probe.pieces == pieces and seconds > interval:
        report.add(
            check, "fault", f"No keepalive came on the {kind} stream in {seconds:.0f} s: it is held back.", _UNBUFFER
        )
    elif probe.pieces == pieces:
        report.add(
            check,
            "note",
            f"{kind} was held for {seconds:.0f} s and not cut off; keepalives come every {interval:g} s, so none was "
            "due.",
            "Leave --hold out, or make it longer, to see whether they come through.",
        )
    else:
        report.add(check, "ok", f"{kind} was held for {seconds:.0f} s, and its keepalives came through.")
