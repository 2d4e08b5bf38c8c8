"""
The mends of docs/doctor.md, applied word for word to real proxies.

Each case sets a proxy of docs/proxies.md up wrong: `doctor` names the fault. Then the row of the page is applied, and
`doctor` finds nothing.
"""

import asyncio
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from headcount.client.access import Access
from headcount.tools.doctor import Report, examine
from headcount.tools.doctor.products import MENDS
from kit.docs import blocks, section_of
from kit.proxies import PRODUCTS, Product, RunningProxy

from .processes import TOKEN, Serve

NAMES = {
    "nginx": "nginx",
    "haproxy": "HAProxy",
    "caddy": "Caddy",
    "traefik": "Traefik",
    "envoy": "Envoy",
    "vite": "Vite",
}
"""Of products, as they stand in the tables, by program."""

AT_ONCE = 3
"""Examinations. More of them would make a busy machine look like a proxy that buffers."""


class Edit(NamedTuple):
    """
    A change of a configuration of docs/proxies.md.

    Attributes:
        at: A text in it.
        wrong: What stands there instead.
        mend: What stands there when the row was applied; `{0}`, `{1}` … are the pieces of code in the row.
    """

    at: str
    wrong: str
    mend: str


class Case(NamedTuple):
    """
    A fault.

    Attributes:
        section: Heading in docs/doctor.md.
        edits: What is wrong.
        removes: Whether the row says what to remove: its first piece of code stands in the wrong configuration.
        also: What `doctor` finds besides because of it, such as `buffering`.
        option: Of the command line; what is wrong there.
        mended_option: The same, mended.
    """

    section: str
    edits: tuple[Edit, ...] = ()
    removes: bool = False
    also: str = ""
    option: str = ""
    mended_option: str = ""


GZIP = "listen 80; gzip on; gzip_types text/event-stream; gzip_min_length 0; gzip_proxied any;"
BUFFERS = "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"
HTML = "location / { default_type text/html; return 200 hello; }"
FORWARD = "    option forwardfor\n"
HAPROXY_HTML = "backend html\n    http-request return status 200 content-type text/html string hello\n\n"
ENCODE = "    encode {\n        gzip\n        minimum_length 1\n"
HEADER_UP = "        header_up -CF-Connecting-IP\n"
ROUTE = "timeout: 0s # the default ends every response after 15 s"
IN_ROUTE = "\n                            "
UPGRADES = "                upgrade_configs:\n                  - upgrade_type: websocket\n"
COMPRESSOR = """http_filters:
                  - name: compressor
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor
                      response_direction_config:
                        common_config: { min_content_length: 1, content_type: [text/event-stream] }
                      compressor_library:
                        name: gzip
                        typed_config:
                          "@type": type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip
"""


RBAC = """http_filters:
                  - name: rbac
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
                      rules:
                        action: DENY
                        policies:
                          posts:
                            permissions: [{ header: { name: ":method", string_match: { exact: POST } } }]
                            principals: [{ any: true }]
"""
ENVOY_ROUTE = "                        - match: { prefix: / }\n"
ENVOY_REDIRECT = (
    '                        - match: { prefix: /, headers: [{ name: ":method", string_match: { exact: POST } }] }\n'
    "                          redirect: { path_redirect: /log-in }\n"
)
IF_POST = "if ($request_method = POST) { return 302 /log-in; }"
CADDY_POSTS = "    @posts {\n        method POST\n    }\n"
CADDY_OTHER_POSTS = "    @posts {\n        method POST\n        {0}\n    }\n"
OTHER_POSTS = """    posts:
      rule: Method(`POST`)
      priority: 100
      service: app
      middlewares: [no-cloudflare, all]
"""
HEADCOUNT_ROUTER = """    headcount:
      rule: {0}
      {1}: 200
      service: app
      middlewares: [no-cloudflare]
"""


def traefik_posts(section: str, middleware: str) -> Case:
    """POSTs of a site meet a middleware of Traefik."""
    posts = Edit(
        "  middlewares:\n    no",
        OTHER_POSTS + "  middlewares:\n    no",
        OTHER_POSTS + HEADCOUNT_ROUTER + "  middlewares:\n    no",
    )
    return Case(section, (posts, more_middleware(middleware)))


def more_middleware(middleware: str) -> Edit:
    """Define a middleware `all` for Traefik."""
    return Edit(
        "  services:", f"    all:\n      {middleware}\n  services:", f"    all:\n      {middleware}\n  services:"
    )


CASES: dict[str, tuple[Case, ...]] = {
    "nginx": (
        Case("Idle limit", (Edit("proxy_read_timeout 60s;", "proxy_read_timeout 2s;", "{0}"),)),
        Case(
            "Departure",
            (
                Edit(
                    "proxy_http_version 1.1;",
                    "proxy_http_version 1.1; proxy_ignore_client_abort on;",
                    "proxy_http_version 1.1; {0}",
                ),
            ),
        ),
        Case("Host", (Edit("proxy_set_header Host $http_host;", "", "{0}"),)),
        Case(
            "WebSocket",
            (
                Edit("proxy_http_version 1.1;", "", "{0}"),
                Edit("proxy_set_header Upgrade $websocket;", "", "{1}"),
                Edit("proxy_set_header Connection $connection_upgrade;", "", "{2}"),
            ),
        ),
        Case(
            "Compression",
            (Edit("listen 80;", GZIP, GZIP), Edit("location /__skew/ {", "location / {", "location / { {0}")),
        ),
        Case(
            "Buffering",
            (
                Edit("listen 80;", GZIP, GZIP),
                Edit("location /__skew/ {", f"location / {{ {BUFFERS}", "location / { {0}"),
            ),
        ),
        Case("HTML", (Edit("location /__skew/ {", HTML + " location /other/ {", HTML + " {0} {"),)),
        Case(
            "CSRF",
            (Edit("location /__skew/ {", "location /__skew/ { limit_except GET { deny all; }", "location /__skew/ {"),),
            removes=True,
        ),
        Case(
            "Redirects",
            (
                Edit(
                    "location /__skew/ {",
                    f"{IF_POST} location /__skew/ {{",
                    f"location / {{ {IF_POST} }} location /__skew/ {{",
                ),
            ),
        ),
    ),
    "haproxy": (
        Case("Departure", (Edit("option abortonclose", "", "{0}"),)),
        Case(
            "Idle limit",
            (
                Edit("timeout client 60s", "timeout client 2s", "{0}"),
                Edit("timeout server 60s", "timeout server 2s", "{1}"),
                Edit("timeout tunnel 1h", "timeout tunnel 2s", "{2}"),
            ),
        ),
        Case(
            "Host", (Edit(FORWARD, FORWARD + "    http-request set-header Host app.internal\n", FORWARD),), removes=True
        ),
        *(
            Case(
                section,
                (
                    Edit(
                        FORWARD,
                        f"{FORWARD}    http-request {action} if METH_POST\n",
                        f"{FORWARD}    http-request {action} if METH_POST {{0}}\n",
                    ),
                ),
            )
            for section, action in (("CSRF", "deny"), ("Redirects", "redirect location /log-in"))
        ),
        Case(
            "HTML",
            (
                Edit("default_backend app", "default_backend html", "default_backend html\n    {0}"),
                Edit(
                    "backend app\n    option",
                    HAPROXY_HTML + "backend headcount\n    option",
                    HAPROXY_HTML + "backend headcount\n    option",
                ),
            ),
        ),
    ),
    "caddy": (
        *(
            Case(
                section,
                (
                    Edit(
                        "    reverse_proxy",
                        f"{CADDY_POSTS}    {directive}\n    reverse_proxy",
                        f"{CADDY_OTHER_POSTS}    {directive}\n    reverse_proxy",
                    ),
                ),
            )
            for section, directive in (("CSRF", "respond @posts 403"), ("Redirects", "redir @posts /log-in"))
        ),
        Case(
            "Idle limit",
            (
                Edit(
                    HEADER_UP,
                    HEADER_UP + "        transport http {\n            read_timeout 2s\n        }\n",
                    HEADER_UP + "        transport http {\n            {0}\n        }\n",
                ),
            ),
        ),
        Case(
            "Total limit",
            (
                Edit(
                    "www.example.com {",
                    "{\nservers {\ntimeouts {\nwrite 2s\n}\n}\n}\nwww.example.com {",
                    "www.example.com {",
                ),
            ),
            removes=True,
        ),
        Case(
            "Compression",
            (
                Edit(
                    "    reverse_proxy",
                    ENCODE + "        match header Content-Type text/*\n    }\n    reverse_proxy",
                    ENCODE + "        {0}\n    }\n    reverse_proxy",
                ),
            ),
            also="buffering",
        ),
        Case(
            "HTML",
            (
                Edit("    reverse_proxy", "    handle /other/* {\n    reverse_proxy", "    {0} {\n    reverse_proxy"),
                Edit("    }\n}", "    }\n}\nhandle {\nrespond hello\n}\n}", "    }\n}\nhandle {\nrespond hello\n}\n}"),
            ),
        ),
    ),
    "traefik": (
        traefik_posts("CSRF", "ipAllowList: { sourceRange: [192.0.2.1] }"),
        traefik_posts("Redirects", "redirectRegex: { regex: '^(.*)/__skew/.*', replacement: '${1}/log-in' }"),
        Case(
            "Total limit",
            option="--entryPoints.web.transport.respondingTimeouts.writeTimeout=2s",
            mended_option="--entryPoints.web.{0}",
        ),
        Case(
            "Buffering",
            (
                Edit("[no-cloudflare]", "[no-cloudflare, all]", "[no-cloudflare]"),
                more_middleware("buffering: { maxResponseBodyBytes: 1000000 }"),
            ),
        ),
        Case(
            "Compression",
            (
                Edit("[no-cloudflare]", "[no-cloudflare, all]", "[no-cloudflare, all]"),
                Edit(
                    "  services:",
                    "    all:\n      compress: { minResponseBodyBytes: 1 }\n  services:",
                    "    all:\n      compress: { minResponseBodyBytes: 1, {0} }\n  services:",
                ),
            ),
        ),
    ),
    "envoy": (
        Case(
            "CSRF",
            (
                Edit("http_filters:\n", RBAC, RBAC),
                Edit(ENVOY_ROUTE, ENVOY_ROUTE, ENVOY_ROUTE + "                          {1}: { rbac: { {0} } }\n"),
            ),
        ),
        Case(
            "Redirects",
            (
                Edit(
                    ENVOY_ROUTE,
                    ENVOY_REDIRECT + ENVOY_ROUTE,
                    "                        - match: { {0} }\n"
                    "                          route: { cluster: app, timeout: 0s }\n" + ENVOY_REDIRECT + ENVOY_ROUTE,
                ),
            ),
        ),
        Case("Total limit", (Edit(ROUTE, "timeout: 2s", "{0}"),)),
        Case("Idle limit", (Edit("stream_idle_timeout: 300s", "stream_idle_timeout: 2s", "{0}"),)),
        Case("Host", (Edit(ROUTE, ROUTE + IN_ROUTE + "host_rewrite_literal: app.internal", ROUTE),), removes=True),
        Case("WebSocket", (Edit(UPGRADES, "", "                upgrade_configs:\n                  - {0}\n"),)),
        Case(
            "HTML",
            (
                Edit(
                    "                        - match: { prefix: / }\n",
                    "                        - match: { prefix: / }\n"
                    "                          direct_response: { status: 200, body: { inline_string: hello } }\n"
                    "                        - match: { prefix: /__skew/ }\n",
                    "                        - match: { {0} }\n",
                ),
            ),
        ),
    ),
    "vite": (Case("Host", (Edit("changeOrigin: false", "changeOrigin: true", "{0}"),)),),
}

HARMLESS: dict[str, tuple[Case, ...]] = {
    "haproxy": (
        Case(
            "Compression",
            (Edit(FORWARD, FORWARD + "    compression algo gzip\n    compression type text/event-stream\n", ""),),
        ),
    ),
    "caddy": (
        Case("Buffering", (Edit(HEADER_UP, HEADER_UP + "        flush_interval 1h\n", ""),)),
        Case("Host", (Edit(HEADER_UP, HEADER_UP + "        header_up Host app.internal\n", ""),)),
    ),
    "traefik": (Case("Host", (Edit("passHostHeader: true", "passHostHeader: false", ""),)),),
    "envoy": (Case("Compression", (Edit("http_filters:\n", COMPRESSOR, ""),)),),
}
"""Settings that break nothing, whatever they look like. The page says so, and `doctor` finds nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[Serve]:
    # A short interval, so that streams need not be held for long.
    with Serve(keepalive_interval=3) as serving:
        yield serving


def row(section: str, product: str) -> str:
    """Return what the page says of a product in a section."""
    text = section_of("docs/doctor.md", f"{section}\n")
    rows = [line.split("|", 2) for line in text.splitlines() if line.startswith("| ")]
    (found,) = [rest for _, names, rest in rows if NAMES[product] in re.split(r", | and ", names.strip())]
    return found


def pieces(text: str) -> list[str]:
    """Return the pieces of code in a row."""
    return [long or short for long, short in re.findall(r"``(.+?)``|`(.+?)`", text)]


def filled(text: str, codes: list[str]) -> str:
    """Put the pieces of code of a row where `{0}`, `{1}` … stand. Other braces belong to the configuration."""
    return re.sub(r"\{(\d)\}", lambda number: codes[int(number[1])], text)


class Examiner:
    """Examines proxies of one kind, each configuration once."""

    def __init__(self, product: Product, folder: Path, upstream: int) -> None:
        self._product, self._folder, self._upstream = product, folder, upstream
        self.block = next(block.code for block in blocks("proxies.md") if product.match(block))
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._made: dict[tuple[str, str, bool], asyncio.Task[Report]] = {}

    async def examine(self, config: str, option: str = "", *, hold: bool) -> Report:
        """Return what `doctor` says. `hold`: whether streams are held until a keepalive is due."""
        key = (config, option, hold)
        if key not in self._made:
            self._made[key] = asyncio.create_task(self._examine(config, option, hold))
        return await self._made[key]

    async def _examine(self, config: str, option: str, hold: bool) -> Report:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        async with self._gate:
            proxy = RunningProxy(self._product, config, folder, self._upstream, [option] if option else [])
            await asyncio.to_thread(proxy.__enter__)
            try:
                report = Report()
                await examine(f"{proxy.origin}/__skew", Access(token=TOKEN), report, hold=None if hold else 0)
                return report
            finally:
                await asyncio.to_thread(proxy.__exit__)


def sections(report: Report) -> set[str]:
    """Return the sections of the page that faults and warnings lead to."""
    return {finding.see.partition("#")[2] for finding in report.findings if finding.level in ("fault", "warning")}


async def fault_and_mend(examiner: Examiner, product: str, case: Case) -> None:
    codes = pieces(row(case.section, product))
    wrong = mended = examiner.block
    for edit in case.edits:
        assert edit.at in wrong, (case.section, edit.at)
        wrong, mended = wrong.replace(edit.at, edit.wrong), mended.replace(edit.at, filled(edit.mend, codes))
    if case.removes:
        removed = codes[0].removesuffix(" …")
        assert removed in wrong
        assert removed not in mended
    hold = case.section.endswith("limit") or case.section == "Departure"
    before = await examiner.examine(wrong, case.option, hold=hold)
    section = case.section.lower().replace(" ", "-")
    assert sections(before) == {section, case.also or section}, (
        f"{product} {case.section}, set up wrong: {before.findings}"
    )
    if NAMES[product] in before.products and section in MENDS:
        line = MENDS[section][NAMES[product]]
        assert any(line in finding.do for finding in before.findings), f"{product}: no finding says {line!r}"
    after = await examiner.examine(mended, filled(case.mended_option, codes), hold=hold)
    assert after.healthy, f"{product} {case.section}, mended: {after.findings}"
    assert section not in sections(after), f"{product} {case.section}, mended: {after.findings}"


async def nothing_wrong(examiner: Examiner, product: str, case: Case) -> None:
    config = examiner.block
    for edit in case.edits:
        assert edit.at in config, (case.section, edit.at)
        config = config.replace(edit.at, edit.wrong)
    section = case.section.lower()
    assert NAMES[product] not in MENDS[section]
    assert re.search(r"do not|does not|obey|look at the next proxy", row(case.section, product))
    report = await examiner.examine(config, hold=False)
    assert sections(report) == set(), f"{product} {case.section}: {report.findings}"


@pytest.mark.anyio
@pytest.mark.parametrize("product", CASES)
async def test_doctor_names_each_fault_and_the_row_of_the_page_mends_it(
    product: str, server: Serve, tmp_path: Path
) -> None:
    if PRODUCTS[product].missing:
        pytest.skip(str(PRODUCTS[product].missing))
    examiner = Examiner(PRODUCTS[product], tmp_path, server.port)
    done = await asyncio.gather(
        *(fault_and_mend(examiner, product, case) for case in CASES[product]),
        *(nothing_wrong(examiner, product, case) for case in HARMLESS.get(product, ())),
        return_exceptions=True,
    )
    if failures := [failure for failure in done if isinstance(failure, Exception)]:
        raise ExceptionGroup(f"{len(failures)} cases of {product}", failures)


def test_each_product_that_runs_here_has_its_cases() -> None:
    assert set(CASES) == set(PRODUCTS) == set(NAMES)
