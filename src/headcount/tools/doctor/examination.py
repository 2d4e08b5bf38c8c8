"""
Runs all checks. Those that open no stream are here, one function each; the others are in `streams.py`.

Tests: tests/cli/test_doctor.py.
"""

import asyncio
import ssl
import time
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from ...client import messages
from ...client.access import Access, httpx_errors
from ...core.stats import Stats
from ...errors import ClientError, Malformed, NotAuthorized
from .findings import Report
from .streams import examine_event_stream, examine_web_socket

HEALTH_REQUESTS: Final = 12
"""Requests that find out how many processes answer."""

LABEL: Final = "headcount-doctor"
"""Version under which a stream is counted if it may not be a viewer's."""

_UPTIME_TOLERANCE: Final = 0.05
"""Seconds. Uptimes are rounded, and clocks of two machines drift."""


class _Health(msgspec.Struct):
    """The answer of `/health?seen=1`."""

    ok: bool
    version: str
    uptime: float
    seen: dict[str, Any] = {}


class _TimedHealth(NamedTuple):
    """An answer, and the earliest and latest start of its process, in monotonic time of this machine."""

    answer: _Health
    earliest: float
    latest: float


async def examine(base: str, access: Access, report: Report, *, hold: float | None = None) -> None:
    """
    Run all checks. This takes a keepalive interval and a few seconds.

    Args:
        base: URL of the base path.
        access: Credentials and network options. If they may not see statistics, one connection is counted meanwhile.
        report: Receives the findings.
        hold: Seconds for which streams are held; None: until a keepalive is due; 0: not at all.
    """
    answers = await _reach(base, access, report)
    if not answers:
        return
    figures = await _right(base, access, report)
    await _http_version(base, access, report)
    _upstream(answers[-1].answer, report)
    await _origin(base, access, report)
    query = {"viewer": "1"} if figures is not None else {"version": LABEL}
    unknown_stream, _ = await asyncio.gather(
        examine_event_stream(base, access, report, query, hold), examine_web_socket(base, access, report, query, hold)
    )
    _processes(answers, figures, report, unknown_stream=unknown_stream)


async def _reach(base: str, access: Access, report: Report) -> list[_TimedHealth]:
    answers: list[_TimedHealth] = []
    for _ in range(HEALTH_REQUESTS):
        asked = time.monotonic()
        try:
            # Each request on a connection of its own, so that a load balancer spreads them.
            content = await access.get(f"{base}/health?seen=1")
            answer = msgspec.json.decode(content, type=_Health)
        except (NotAuthorized, ClientError) as error:
            report.add("reach", "fault", str(error), "Check the URL, and that the server is running.")
            return []
        except msgspec.MsgspecError:
            says = f"The answer of {base}/health is not Headcount's."
            report.add(
                "reach", "fault", says, "Give the URL with the base path, such as https://www.example.com/__skew."
            )
            return []
        answers.append(_TimedHealth(answer, asked - answer.uptime, time.monotonic() - answer.uptime))
    versions = sorted({timed.answer.version for timed in answers})
    report.add("reach", "ok", f"The server answers, with version {' and '.join(versions)}.")
    return answers


async def _right(base: str, access: Access, report: Report) -> Stats | None:
    try:
        figures = messages.decode_snapshot(await access.get(f"{base}/admin/stats"))
    except NotAuthorized:
        refused = "authorization" in access.headers
        says = "The server does not accept this token" if refused else "Not authorised to see statistics"
        report.add(
            "right",
            "note",
            f"{says}: some checks are skipped, and one connection is counted as version {LABEL} meanwhile.",
            "Check --token, or HEADCOUNT_TOKEN and HEADCOUNT_ADMIN_TOKEN." if refused else "Give --token.",
        )
    except (ClientError, Malformed) as error:
        report.add("right", "warning", f"The statistics are not readable: {error}")
    else:
        report.add("right", "ok", "These credentials may see statistics.")
        return figures
    return None


async def _http_version(base: str, access: Access, report: Report) -> None:
    parts = urlsplit(base)
    limit = (
        "Browsers open at most six HTTP/1.1 connections to a host, and each tab's SSE stream holds one: the seventh "
        "tab hangs."
    )
    do = "Serve HTTP/2, or use WebSockets (update_strategy='ws'), which do not count towards the six."
    if parts.scheme == "http":
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        report.add("http", "note" if local else "warning", f"The URL is HTTP/1.1 without TLS. {limit}", do)
        return
    verified = access.tls(base)
    assert verified is not None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only the protocol is examined here
    context.set_alpn_protocols(["h2", "http/1.1"])
    chosen = None
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(10):
            _, writer = await asyncio.open_connection(
                parts.hostname, parts.port or 443, ssl=context, server_hostname=parts.hostname
            )
            chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            writer.close()
    if chosen == "h2":
        report.add("http", "ok", "Browsers use HTTP/2, so the limit of six connections does not apply.")
    else:
        report.add("http", "warning", f"Browsers use HTTP/1.1. {limit}", do)


def _upstream(answer: _Health, report: Report) -> None:
    seen = answer.seen
    if seen.get("httpVersion") == "1.0":
        report.add(
            "upstream",
            "fault",
            "A proxy uses HTTP/1.0 to the server, so WebSockets cannot pass.",
            "Use HTTP/1.1 and pass the Upgrade and Connection headers on (nginx: proxy_http_version 1.1;).",
        )
    forwarded = seen.get("forwarded") or []
    if forwarded:
        report.add(
            "proxy",
            "note",
            f"A proxy sends the client's address in {', '.join(map(str, forwarded))}.",
            "With ip_tracking, set trusted_proxies to the address of the proxy; other peers may not send these.",
        )


async def _origin(base: str, access: Access, report: Report) -> None:
    parts = urlsplit(base)
    own = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    # The request needs no authorisation; only the origin decides.
    same_site = await _status(base, access, own)
    cross_site = await _status(base, access, "https://headcount-doctor.invalid")
    if same_site == 403:
        report.add(
            "origin",
            "fault",
            f"Pages of {own} are refused as cross-site: the server does not see the Host header of browsers.",
            "Pass the header on (nginx: proxy_set_header Host $host;), or add the origin to allowed_origins.",
        )
    elif same_site is not None:
        report.add("origin", "ok", f"Pages of {own} may connect.")
    if cross_site is not None and cross_site != 403:
        report.add(
            "origin",
            "warning",
            "Pages of any other site may connect with the rights of their visitor.",
            "List your own sites in allowed_origins instead of '*'.",
        )


async def _status(base: str, access: Access, origin: str) -> int | None:
    """Return the status of a request with an Origin header that opens no stream; None: no answer."""
    with suppress(*httpx_errors):
        async with access.http(base) as client:
            # The version is invalid, which the server finds after it has checked the origin.
            url = f"{base}/sse?version={'x' * 200}"
            response = await client.get(url, headers={"origin": origin})
            return response.status_code
    return None


def _processes(answers: list[_TimedHealth], figures: Stats | None, report: Report, *, unknown_stream: bool) -> None:
    # The smallest number of start times that explains all answers.
    starts: list[float] = []
    for _, earliest, latest in sorted(answers, key=lambda timed: timed.latest):
        if not starts or earliest - _UPTIME_TOLERANCE > starts[-1]:
            starts.append(latest)
    versions = {timed.answer.version for timed in answers}
    if len(versions) > 1:
        report.add("processes", "note", f"Processes of {len(versions)} versions answer: a deploy is in progress.")
    nodes = 1 if figures is None else figures.nodes.expected
    several = len(starts) if len(starts) > 1 else 2 if unknown_stream else 1
    if unknown_stream or (figures is not None and several > nodes):
        report.add(
            "processes",
            "fault",
            f"At least {several} processes answer, and each counts only its own connections.",
            "Run one process, or give all processes the same backend.",
        )
    elif several > 1:
        report.add("processes", "ok", f"At least {several} processes answer, and they count together.")
    if figures is not None and figures.partial:
        says = f"The figures are partial: {figures.nodes.reporting} of {figures.nodes.expected} nodes report."
        report.add("processes", "warning", says, "Check the missing nodes and the backend.")
