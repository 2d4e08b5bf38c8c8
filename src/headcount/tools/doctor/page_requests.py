"""
Requests as a page of the application sends them, and what answers.

Each is sent twice: with Sec-Fetch-Site, as browsers do over TLS and on this machine, and without it, as they do on
plain HTTP elsewhere, and Chromium on WebSocket handshakes. Nothing is opened and nothing is changed: the POST names a
connection that does not exist.

Tests: tests/cli/test_doctor.py.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

from ...client.access import AT_LIMIT, Access, httpx_errors, is_at_limit, printable_url, problem_detail
from ...core.origin import NO_SITE
from ...core.reconnect import PROBLEM
from .findings import Report
from .probe import web_socket
from .products import mend, products

WORKERS: Final = ("/sw.js", "/service-worker.js", "/serviceworker.js", "/ngsw-worker.js", "/firebase-messaging-sw.js")
"""Where service workers usually are."""

_HANDLE: Final = "headcount-doctor.none"


class Answer(NamedTuple):
    """
    How a request was answered; `status` 0: not at all.

    Attributes:
        status: HTTP status.
        kind: Media type.
        detail: The sentence of Headcount's error; empty: the answer is not an error of Headcount.
        is_at_limit: It is uvicorn's answer at its limit of connections.
        headers: By lower-case name.
    """

    status: int = 0
    kind: str = ""
    detail: str = ""
    is_at_limit: bool = False
    headers: Mapping[str, str] = {}

    @property
    def is_ours(self) -> bool:
        """Whether it is an error of Headcount."""
        return bool(self.detail)


def own_origin(base: str) -> str:
    """Return the origin of the pages of a server."""
    parts = urlsplit(base)
    netloc = parts.netloc.rpartition("@")[2].lower()
    default = {"http": ":80", "https": ":443"}[parts.scheme]
    return f"{parts.scheme}://{netloc.removesuffix(default)}"


async def examine_redirects(base: str, access: Access, report: Report) -> bool:
    """
    Examine whether requests are redirected, which browsers do not follow for WebSockets and repeat as GET for POSTs.

    Returns:
        Whether they are.
    """
    answer = await _send(access, "GET", f"{base}/health")
    report.products[:] = products(answer.headers)
    if report.products:
        report.add("products", "note", f"Between this machine and the server: {', '.join(report.products)}.")
    if not 300 <= answer.status < 400:
        return False
    target = urljoin(base, answer.headers.get("location", ""))
    to_tls = target.startswith("https:") and base.startswith("http:")
    report.add(
        "redirect",
        "fault",
        f"Requests are redirected to {printable_url(target)}; WebSockets and POSTs of browsers do not follow.",
        "Give the URL with https://, and load your pages from it."
        if to_tls
        else "Exempt the base path from the redirect.",
        section="redirects",
    )
    return True


async def examine_pages(base: str, access: Access, report: Report) -> None:
    """Examine which pages may connect: the application's own must, with each kind of request; others must not."""
    own = own_origin(base)
    marked = await _post(base, access, {"origin": own, "sec-fetch-site": "same-origin"})
    unmarked = await _post(base, access, {"origin": own})
    refused: list[str] = []
    if marked.status and not _may(marked):
        _explain(marked, report)
    elif _is_cross_site(marked):
        refused.append("POSTs")
    elif _is_cross_site(unmarked):
        refused.append("POSTs from browsers that send no Sec-Fetch-Site")
    elif unmarked.status and not _may(unmarked):
        _explain(unmarked, report)
    async with web_socket(base, access, {"viewer": "1"}, {"origin": own}) as from_page:
        opened = from_page.socket is not None
    if not opened and from_page.refusal in (401, 403):
        async with web_socket(base, access, {"viewer": "1"}) as from_program:
            if from_program.socket is not None:
                refused.append("WebSockets")
    if refused:
        report.add(
            "origin",
            "fault",
            f"Pages of {own} are refused as cross-site: {' and '.join(refused)}. The server does not see the Host "
            "header of browsers.",
            mend(
                "host",
                report.products,
                "Pass the Host header on with its port, or add the origin to public_origins.",
            ),
            section="host",
        )
    elif marked.status and _may(marked):
        report.add("origin", "ok", f"Pages of {own} may connect.")
    foreign = await _post(base, access, {"origin": NO_SITE, "sec-fetch-site": "cross-site"})
    if foreign.is_ours and not _is_cross_site(foreign):
        report.add(
            "origin",
            "warning",
            "Pages of any other site may connect with the rights of their visitor.",
            "List your own sites in allowed_origins instead of '*'.",
            section="other-sites",
        )


async def examine_paths(base: str, access: Access, report: Report) -> None:
    """Examine whether paths of more than one segment reach Headcount."""
    answer = await _send(access, "GET", f"{base}/admin/headcount-doctor")
    if answer.status and not answer.is_ours and answer.status not in (401, 403):
        report.add(
            "paths",
            "fault",
            f"Not everything below the base path reaches Headcount: {base}/admin/… is answered with {answer.status} "
            f"{answer.kind}.",
            "Pass the base path on as a prefix, with all paths below it.",
            section="html",
        )


async def examine_service_worker(base: str, access: Access, report: Report) -> None:
    """Look for a service worker whose scope includes the base path."""
    origin = own_origin(base)
    for path in WORKERS:
        answer = await _send(access, "GET", origin + path)
        if answer.status == 200 and "javascript" in answer.kind:
            report.add(
                "service-worker",
                "note",
                f"There seems to be a service worker at {path}; one that caches every GET request keeps streams of "
                "closed pages open.",
                "Let it ignore the base path.",
                section="service-workers",
            )
            return


def _may(answer: Answer) -> bool:
    """Say whether Headcount has read a POST: it says that there is no such connection, or refuses the origin."""
    return answer.is_ours and answer.status in (403, 404, 503)


def _is_cross_site(answer: Answer) -> bool:
    return answer.status == 403 and "another site" in answer.detail


def _explain(answer: Answer, report: Report) -> None:
    status, kind = answer.status, answer.kind or "no content type"
    target = printable_url(answer.headers.get("location", ""))
    if status in (401, 403):
        report.add(
            "csrf",
            "fault",
            f"SSE pages cannot send anything: a POST is refused with {status} before it reaches Headcount, such as by "
            "a CSRF check, a log-in or a firewall.",
            "Exempt the base path from the check.",
            section="csrf",
        )
    elif answer.is_at_limit:
        report.add_limit("post", f"SSE pages cannot send anything: a POST is answered with 503, {AT_LIMIT}")
    elif 300 <= status < 400:
        report.add(
            "redirect",
            "fault",
            f"SSE pages cannot send anything: a POST is redirected to {target}.",
            "Exempt the base path from the redirect.",
            section="redirects",
        )
    else:
        report.add(
            "post",
            "fault",
            f"SSE pages cannot send anything: a POST below the base path is answered with {status} {kind}, not by "
            "Headcount.",
            "Pass POST requests below the base path on to Headcount.",
            section="html",
        )


async def _post(base: str, access: Access, page: Mapping[str, str]) -> Answer:
    body = {"connectionId": _HANDLE, "route": "/"}
    return await _send(access, "POST", f"{base}/route", headers={"sec-fetch-mode": "cors", **page}, json=body)


async def _send(access: Access, method: str, url: str, **options: Any) -> Answer:
    with suppress(*httpx_errors):
        async with access.http() as client:
            response = await client.request(method, url, follow_redirects=False, **options)
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            detail = problem_detail(response.content) if kind == PROBLEM else ""
            full = is_at_limit(response.status_code, kind, response.content)
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status_code, kind, detail, full, headers)
    return Answer()
