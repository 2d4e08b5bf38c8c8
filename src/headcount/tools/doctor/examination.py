"""All checks, and those that open no stream, one function each."""

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

ASKED: Final = 12
"""Requests to find out how many processes answer."""

LABEL: Final = "headcount-doctor"
"""Version under which a stream is counted that may not be a viewer's."""


_ROUNDED: Final = 0.05
"""Seconds by which an uptime may be off: it is rounded, and clocks of two machines run apart."""


class _Answer(msgspec.Struct):
    """Of `/health?seen=1`."""

    ok: bool
    version: str
    uptime: float
    seen: dict[str, Any] = {}


class _Asked(NamedTuple):
    """An answer, and between which two moments on our clock its process began."""

    answer: _Answer
    earliest: float
    latest: float


async def examine(base: str, access: Access, report: Report, *, hold: float | None = None) -> None:
    """
    Run all checks. Takes as long as a keepalive interval and a few seconds.

    Args:
        base: URL of the base path.
        access: Credentials and network options. Without a right to see statistics one connection is counted meanwhile.
        report: Is given the findings.
        hold: Seconds for which streams are held; None: until a keepalive must have come. 0: not at all.
    """
    answers = await _reach(base, access, report)
    if not answers:
        return
    figures = await _right(base, access, report)
    await _http_version(base, access, report)
    _upstream(answers[-1].answer, report)
    await _origin(base, access, report)
    query = {"viewer": "1"} if figures is not None else {"version": LABEL}
    strangers, _ = await asyncio.gather(
        examine_event_stream(base, access, report, query, hold), examine_web_socket(base, access, report, query, hold)
    )
    _processes(answers, figures, report, strangers=strangers)


async def _reach(base: str, access: Access, report: Report) -> list[_Asked]:
    answers: list[_Asked] = []
    for _ in range(ASKED):
        asked = time.monotonic()
        try:
            # A connection of its own each, so that whatever spreads the load spreads them.
            content = await access.get(f"{base}/health?seen=1")
            answer = msgspec.json.decode(content, type=_Answer)
        except (NotAuthorized, ClientError) as error:
            report.add("reach", "fault", str(error), "Check the URL, and that the server runs.")
            return []
        except msgspec.MsgspecError:
            says = f"What answers at {base}/health is not Headcount."
            report.add(
                "reach", "fault", says, "Give the URL with its base path, such as https://www.example.com/__skew."
            )
            return []
        answers.append(_Asked(answer, asked - answer.uptime, time.monotonic() - answer.uptime))
    versions = sorted({asked.answer.version for asked in answers})
    report.add("reach", "ok", f"The server answers, with version {' and '.join(versions)}.")
    return answers


async def _right(base: str, access: Access, report: Report) -> Stats | None:
    try:
        figures = messages.decode_snapshot(await access.get(f"{base}/admin/stats"))
    except NotAuthorized:
        refused = "authorization" in access.headers
        says = "The server does not take this token" if refused else "No right to see statistics"
        report.add(
            "right",
            "note",
            f"{says}, so some checks are left out, and one connection is counted as {LABEL} meanwhile.",
            "Check --token, or HEADCOUNT_TOKEN and HEADCOUNT_ADMIN_TOKEN." if refused else "Give --token.",
        )
    except (ClientError, Malformed) as error:
        report.add("right", "warning", f"The statistics cannot be read: {error}")
    else:
        report.add("right", "ok", "These credentials may see statistics.")
        return figures
    return None


async def _http_version(base: str, access: Access, report: Report) -> None:
    parts = urlsplit(base)
    wall = (
        "Browsers open six connections to a host over it, and every tab's SSE stream holds one: the seventh tab hangs."
    )
    do = "Serve HTTP/2, or use WebSockets (update_strategy='ws'), which are not counted among the six."
    if parts.scheme == "http":
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        report.add("http", "note" if local else "warning", f"This is HTTP/1.1 without TLS. {wall}", do)
        return
    verified = access.tls(base)
    assert verified is not None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only the protocol is asked for here
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
        report.add("http", "ok", "Browsers speak HTTP/2 with it, so no six-connection wall.")
    else:
        report.add("http", "warning", f"Browsers speak HTTP/1.1 with it. {wall}", do)


def _upstream(answer: _Answer, report: Report) -> None:
    seen = answer.seen
    if seen.get("httpVersion") == "1.0":
        report.add(
            "upstream",
            "fault",
            "A proxy speaks HTTP/1.0 with the server, so no WebSocket can pass.",
            "In nginx: proxy_http_version 1.1; and the Upgrade and Connection headers.",
        )
    forwarded = seen.get("forwarded") or []
    if forwarded:
        report.add(
            "proxy",
            "note",
            f"A proxy names the client in {', '.join(map(str, forwarded))}.",
            "With ip_tracking, set trusted_proxies to the proxy's address; headers from anybody else are not believed.",
        )


async def _origin(base: str, access: Access, report: Report) -> None:
    parts = urlsplit(base)
    own = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    # What is asked for needs no right; only the origin decides.
    mine = await _status(base, access, own)
    foreign = await _status(base, access, "https://headcount-doctor.invalid")
    if mine == 403:
        report.add(
            "origin",
            "fault",
            f"Pages of {own} are refused as another site's: the server does not see the host that browsers name.",
            "Pass it on (nginx: proxy_set_header Host $host;), or add the origin to allowed_origins.",
        )
    elif mine is not None:
        report.add("origin", "ok", f"Pages of {own} are let in.")
    if foreign is not None and foreign != 403:
        report.add(
            "origin",
            "warning",
            "Pages of any other site may connect with their visitor's rights.",
            "List the sites that are yours in allowed_origins instead of '*'.",
        )


async def _status(base: str, access: Access, origin: str) -> int | None:
    """Return the status of a request from an origin that opens nothing."""
    with suppress(*httpx_errors):
        async with access.http(base) as client:
            # A bad version is refused after the origin was looked at.
            url = f"{base}/sse?version={'x' * 200}"
            response = await client.get(url, headers={"origin": origin})
            return response.status_code
    return None


def _processes(answers: list[_Asked], figures: Stats | None, report: Report, *, strangers: bool) -> None:
    # How many moments it takes at least, for each answer to have one at which its process may have begun.
    began: list[float] = []
    for _, earliest, latest in sorted(answers, key=lambda asked: asked.latest):
        if not began or earliest - _ROUNDED > began[-1]:
            began.append(latest)
    versions = {asked.answer.version for asked in answers}
    if len(versions) > 1:
        report.add("processes", "note", f"Processes of {len(versions)} versions answer: a deploy is under way.")
    nodes = 1 if figures is None else figures.nodes.expected
    several = len(began) if len(began) > 1 else 2 if strangers else 1
    if strangers or (figures is not None and several > nodes):
        report.add(
            "processes",
            "fault",
            f"At least {several} processes answer here, and each counts only its own connections.",
            "Run one process, or give all of them the same backend.",
        )
    elif several > 1:
        report.add("processes", "ok", f"At least {several} processes answer here, and they know one another.")
    if figures is not None and figures.partial:
        says = f"The figures are partial: {figures.nodes.reporting} of {figures.nodes.expected} nodes report."
        report.add("processes", "warning", says, "Look at the nodes that are missing, and at the backend.")
