"""
Runs all checks. Those that open no stream are here, one function each; the others are in `streams.py`.

Tests: tests/cli/test_doctor.py.
"""

import asyncio
import ssl
import time
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from ...client import messages
from ...client.access import AT_LIMIT, Access
from ...core.stats import Stats
from ...errors import ClientError, Malformed, NotAuthorized, Unreachable
from .departure import examine_departure
from .findings import Level, Report
from .page_requests import examine_pages, examine_paths, examine_redirects, examine_service_worker
from .processes import TimedHealth, examine_processes
from .streams import examine_event_stream, examine_large_cookies, examine_web_socket

HEALTH_REQUESTS: Final = 12
"""Requests that find out how many processes answer."""

LABEL: Final = "headcount-doctor"
"""Version under which a stream is counted if it may not be a viewer's."""


async def examine(base: str, access: Access, report: Report, *, hold: float | None = None) -> None:
    """
    Run all checks. This takes the time for which streams are held, and a few seconds.

    Args:
        base: URL of the base path.
        access: Credentials and network options. If they may not see statistics, one connection is counted meanwhile.
        report: Receives the findings.
        hold: Seconds for which streams are held; None: until a keepalive is due; 0: not at all.
    """
    if await examine_redirects(base, access, report):
        return
    answers = await _reach(base, access, report)
    if not answers:
        return
    figures = await _right(base, access, report)
    await _http_version(base, access, report)
    _upstream(answers[-1].answer, report)
    await examine_pages(base, access, report)
    await examine_paths(base, access, report)
    await examine_service_worker(base, access, report)
    query = {"viewer": "1"} if figures is not None else {"version": LABEL}
    unknown_stream, _ = await asyncio.gather(
        examine_event_stream(base, access, report, query, hold), examine_web_socket(base, access, report, query, hold)
    )
    if not report.has_fault("websocket"):
        await examine_large_cookies(base, access, report, query)
    # A process that does not know the stream would look like one that knows that its page has left.
    if not unknown_stream and not report.has_fault("sse", "post", "csrf", "redirect", "compression"):
        await examine_departure(base, access, report, query, brief=hold == 0)
    await examine_processes(base, access, report, answers, figures, unknown_stream=unknown_stream)


async def _reach(base: str, access: Access, report: Report) -> list[TimedHealth]:
    answers: list[TimedHealth] = []
    for _ in range(HEALTH_REQUESTS):
        asked = time.monotonic()
        try:
            # Each request on a connection of its own, so that a load balancer spreads them.
            answer = messages.decode_health(await access.get(f"{base}/health?seen=1"))
        except Unreachable as error:
            if AT_LIMIT in str(error):
                report.add_limit("reach", str(error))
                return []
            do = "Check the host and the port of the URL, and that the server is running."
            report.add("reach", "fault", str(error), do, section="unreachable")
            return []
        except (NotAuthorized, ClientError) as error:
            report.add("reach", "fault", str(error), "Check the URL, and that the server is running.", section="html")
            return []
        except Malformed:
            says = f"{base}/health answers JSON, but it is not Headcount's."
            do = "Give the URL with the base path, such as https://www.example.com/__skew."
            report.add("reach", "fault", says, do, section="html")
            return []
        answers.append(TimedHealth.at(answer, asked))
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
        report.add("right", "warning", f"The statistics are not readable: {error}", section="statistics")
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
        level: Level = "note" if local else "warning"
        report.add("http", level, f"The URL is HTTP/1.1 without TLS. {limit}", do, section="six-connections")
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
        report.add("http", "warning", f"Browsers use HTTP/1.1. {limit}", do, section="six-connections")


def _upstream(answer: messages.Health, report: Report) -> None:
    seen = answer.seen
    report.upstream_http = str(seen.get("httpVersion", ""))
    forwarded = seen.get("forwarded") or []
    if forwarded:
        report.add(
            "proxy",
            "note",
            f"A proxy sends the client's address in {', '.join(map(str, forwarded))}.",
            "With ip_tracking, set trusted_proxies: to the proxy's address or network, or to 'server' if uvicorn reads "
            "this header itself.",
            section="addresses",
        )
