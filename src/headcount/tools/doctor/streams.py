"""
The checks that open streams and hold them.

Tests: tests/cli/test_doctor.py.
"""

import time
from typing import Any, Final

import msgspec

from ...client import messages
from ...client.access import AT_LIMIT, Access, httpx_errors, is_at_limit, problem_detail, unreachable
from ...core.reconnect import PROBLEM
from .findings import Report
from .limits import Cut, examine_limit
from .probe import EventStreamProbe, Probe, WebSocketProbe, event_stream, web_socket
from .products import mend

PROMPT: Final = 2.0
"""Seconds within which an event must arrive; a round trip around the world takes a tenth of that."""

PATIENCE: Final = 12.0
"""Seconds until a buffered stream is given up; the server ends a viewer that is not authorised after 10."""

MAX_CLOCK_SKEW: Final = 5.0
"""Seconds."""

COOKIES: Final = tuple(f"headcount-doctor-{number}={'x' * 2_975}" for number in range(3))
"""9 kB. The package `websockets` accepts header lines of 8 KiB."""

COOKIES_TIMEOUT: Final = 5.0
"""Seconds for a handshake, of which an ordinary one has succeeded."""


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
                await _refused_event_stream(probe, report)
                return False
            _compression(probe, report)
            if not probe.readable:
                return False
            connected = await _connected(probe, report, "SSE")
            if connected is None:
                return False
            unknown_stream = await _round_trip(base, client, probe, connected, report)
            if "viewer" in query and report.has_fault("post", "csrf", "redirect"):
                report.add(
                    "sse-idle",
                    "note",
                    "The SSE stream was not held open: the server ends a stream whose POSTs do not arrive.",
                )
                return unknown_stream
            cut = await _hold(probe, report, "SSE", connected, hold)
        if cut is not None:
            await examine_limit(base, access, report, query, cut)
        return unknown_stream
    except (*httpx_errors, TimeoutError) as error:
        if isinstance(error, TimeoutError):
            _buffered("sse", "No SSE stream begins within 10 s: a proxy buffers it.", report)
        else:
            says = f"The SSE stream does not open: {unreachable(base, error, access.proxy)}"
            report.add("sse", "fault", says, section="unreachable")
    return False


def _buffered(check: str, says: str, report: Report) -> None:
    general = "Turn buffering off for the base path, or obey X-Accel-Buffering."
    report.add(check, "fault", says, mend("buffering", report.products, general), section="buffering")


async def _refused_event_stream(probe: EventStreamProbe, report: Report) -> None:
    status, kind = probe.status, probe.headers.get("content-type", "no content type").partition(";")[0]
    detail = ""
    if kind in (PROBLEM, "text/plain"):
        await probe.until(lambda _: False, PROMPT)  # its end
        detail = problem_detail(bytes(probe.beginning))
    if is_at_limit(status, kind, bytes(probe.beginning)):
        report.add_limit("sse", f"GET /sse is answered with 503, {AT_LIMIT}")
    elif detail:
        report.add(
            "sse",
            "fault",
            f"The server itself refuses streams with {status}: {detail}",
            "No proxy is at fault; run the command again when the server is ready." if status == 503 else "",
            section="refused",
        )
    else:
        report.add(
            "sse",
            "fault",
            f"GET /sse is answered with {status} {kind}, which is not Headcount's answer.",
            "Pass GET requests below the base path on to Headcount.",
            section="html",
        )


def _compression(probe: EventStreamProbe, report: Report) -> None:
    if probe.encoding in ("", "identity"):
        report.add("compression", "ok", "Nothing compresses the stream.")
        return
    report.add(
        "compression",
        "warning" if probe.readable else "fault",
        f"A proxy, or middleware of the application, compresses the stream with {probe.encoding}. It may buffer "
        "events, and middleware takes up to 2 MB of the server's memory for each stream.",
        mend(
            "compression",
            report.products,
            "Turn compression off for text/event-stream; for middleware, see docs/frameworks.md#compression.",
        ),
        section="compression",
    )


async def _connected(probe: Probe, report: Report, kind: str) -> messages.Connected | None:
    check = "sse" if kind == "SSE" else "websocket"
    await probe.until(lambda one: one.find("connected"), PROMPT)
    late = probe.find("connected") is None
    if late:
        await probe.until(lambda one: one.find("connected"), PATIENCE)
    found = probe.find("connected")
    if found is None and probe.ended_at is not None:
        _ended_early(check, kind, probe, report)
        return None
    if found is None or late:
        when = "within 12 s" if found is None else f"for {found[0] - probe.opened_at:.0f} s"
        _buffered(check, f"The {kind} stream opens, but no event came {when}: a proxy buffers it.", report)
        return None
    try:
        connected = msgspec.convert(found[1], messages.Connected)
    except msgspec.ValidationError as error:
        do = "Check the base path: another application answers."
        report.add(check, "fault", f"The first {kind} message is not Headcount's ({error}).", do, section="html")
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
                section="clock",
            )
        else:
            report.add("clock", "ok", "The server's clock agrees with this machine's.")
    return connected


def _ended_early(check: str, kind: str, probe: Probe, report: Report) -> None:
    code = probe.close_code if isinstance(probe, WebSocketProbe) else 0
    if code in (1008, 1012, 1013):
        do = "" if code == 1008 else "No proxy is at fault; run the command again when the server is ready."
        says = f"The server itself refuses streams: the {kind} closes at once with {probe.end}"
        report.add(check, "fault", says if says.endswith(".") else f"{says}.", do, section="refused")
    else:
        report.add(
            check,
            "fault",
            f"The {kind} stream opens and is cut at once ({probe.end}), before any event.",
            "Look for a proxy that ends responses early, and in the server's log.",
            section="total-limit",
        )


async def _round_trip(
    base: str, client: Any, probe: EventStreamProbe, connected: messages.Connected, report: Report
) -> bool:
    """
    Subscribe by POST, on another connection: the answer must come on the stream.

    Returns:
        Whether the POST reached a process that does not hold the stream.
    """
    if report.has_fault("post", "csrf", "redirect"):
        return False  # a POST of a page was answered by something else already
    posted_at = time.monotonic()
    body = {"connectionId": connected.connection_id}
    response = await client.post(f"{base}/subscribe-stats", json=body)
    if response.status_code == 404:
        return True
    if is_at_limit(response.status_code, response.headers.get("content-type", "").partition(";")[0], response.content):
        report.add_limit("post", f"SSE pages cannot send anything: a POST is answered with 503, {AT_LIMIT}")
        return False
    if response.status_code != 200:
        report.add(
            "post",
            "fault",
            f"SSE pages cannot send anything: a POST below the base path is answered with {response.status_code}.",
            "Pass POST requests below the base path on to Headcount.",
            section="html",
        )
        return False
    if not await probe.until(lambda one: one.find("stats", "stats-unauthorized"), 2 * PROMPT):
        _buffered("post", "The answer to a POST did not come on the stream within 4 s: a proxy buffers it.", report)
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
            _buffered(
                "websocket", "A message on the WebSocket was not answered within 4 s: a proxy buffers it.", report
            )
            return
        await probe.socket.send('{"type":"unsubscribe-stats"}')  # figures would break the silence that is examined
        cut = await _hold(probe, report, "WebSocket", connected, hold)
    if cut is not None:
        await examine_limit(base, access, report, query, cut)


async def examine_large_cookies(base: str, access: Access, report: Report, query: dict[str, str]) -> None:
    """Examine whether a WebSocket opens with as many cookies as any other request may have."""
    own = access.headers.get("cookie")
    cookies = {"cookie": "; ".join(filter(None, (own, *COOKIES)))}
    try:
        async with access.http() as client:
            response = await client.get(f"{base}/health", headers=cookies)
    except (*httpx_errors, TimeoutError):
        return
    if response.status_code != 200:
        return  # the site is closed to visitors with so many cookies, so none has them
    async with web_socket(base, access, query, cookies, COOKIES_TIMEOUT) as probe:
        if probe.socket is not None:
            report.add("cookies", "ok", "A WebSocket opens with 9 kB of cookies, too.")
            return
    what = f"answered with {probe.refusal}" if probe.refusal else "not answered"
    delay = "" if probe.refusal else ", after 10 s"
    report.add(
        "cookies",
        "warning",
        f"A WebSocket handshake with 9 kB of cookies is {what}, although other requests with them pass. With "
        f"updateStrategy: 'auto', pages of visitors with so many cookies use SSE{delay}.",
        "Start uvicorn with --http app:headcount.protocol, or set WEBSOCKETS_MAX_LINE_LENGTH=65536 in its environment.",
        section="cookies",
    )


def _no_web_socket(probe: WebSocketProbe, report: Report) -> None:
    if report.upstream_http == "1.0":
        answer = f" with {probe.refusal}" if probe.refusal else ""
        says = f"The WebSocket does not open: a proxy uses HTTP/1.0 to the server, so the handshake is refused{answer}."
    elif probe.refusal == 200 or "html" in probe.kind:
        says = f"The WebSocket does not open: the handshake is answered with {probe.refusal} {probe.kind}."
    elif probe.refusal:
        says = f"The WebSocket does not open: the handshake is answered with {probe.refusal}."
    else:
        says = f"The WebSocket does not open: {probe.failure}"
    general = "Pass the handshake on: over HTTP/1.1, with its Upgrade and Connection headers."
    report.add("websocket", "fault", says, mend("websocket", report.products, general), section="websocket")


async def _hold(
    probe: Probe, report: Report, kind: str, connected: messages.Connected, hold: float | None
) -> Cut | None:
    """Hold a stream. Returns how it was cut off, if it was: which kind of limit did that is not known yet."""
    interval = (connected.keepalive_ms or 20_000) / 1000
    seconds = interval + 3 if hold is None else hold
    if not seconds:
        return None
    check = "sse-idle" if kind == "SSE" else "websocket-idle"
    began = time.monotonic()
    pieces = probe.pieces
    while (passed := time.monotonic() - began) < seconds and probe.ended_at is None:
        report.on_progress(f"Holding streams, {seconds - passed:.0f} s to go", passed / seconds)
        await probe.until(lambda _: False, min(1.0, seconds - passed))
    if probe.ended_at is not None:
        code = probe.close_code if isinstance(probe, WebSocketProbe) else 1006
        if probe.find("drain") is not None or code in (1012, 1013):
            report.add(
                check,
                "note",
                f"The server is stopping and ended the {kind} stream.",
                "Run the command again when the server is up.",
                section="refused",
            )
            return None
        silence = probe.ended_at - max(began, probe.last_byte_at)
        return Cut(check, kind, probe.ended_at - probe.opened_at, silence, interval)
    if probe.pieces == pieces and seconds > interval:
        _buffered(check, f"No keepalive came on the {kind} stream in {seconds:.0f} s: a proxy buffers it.", report)
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
    return None
