"""
How a client reaches a server: credentials, TLS, proxies and errors.

Tests: tests/client/test_small_parts.py, tests/client/test_bad_days.py.
"""

import socket
import ssl
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from importlib.metadata import version
from typing import Any, Final, TypeAlias
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec

from ..core.reconnect import PROBLEM, is_refusal, post_outcome
from ..errors import ClientError, ConfigError, NotAuthorized, Refused, UnknownConnection, Unreachable
from ..live.active_connections import NOT_AUTHORIZED, REFUSED_CREDENTIAL
from .address import DEFAULT_BASE_PATH, without_password
from .retry_after import parse_retry_after

try:
    import httpx2 as httpx
except ImportError:
    raise ConfigError("The client needs httpx2 and websockets; run: pip install 'headcount[client]'") from None

httpx_errors: Final = (httpx.HTTPError,)
"""Errors of the HTTP library when there is no answer."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds until a server must have answered."""

JSON: Final = "application/json"
AT_LIMIT: Final = (
    "uvicorn's answer when as many connections are open as --limit-concurrency allows, and each open page is one."
)

NO_SOCKS: Final = (
    "A SOCKS proxy needs two more packages; run: pip install socksio 'python-socks[asyncio]', or use an HTTP proxy."
)


class _Problem(msgspec.Struct):
    detail: str = ""


class _Verdict(msgspec.Struct):
    ok: bool = False


_decode_problem = msgspec.json.Decoder(_Problem).decode
_decode_verdict = msgspec.json.Decoder(_Verdict).decode


class Access:
    """
    Credentials and network options of one client. They are checked at once; no connection is opened.

    Args:
        token: Bearer token.
        headers: Sent with every request.
        cookies: Sent with every request: a mapping, or the text of a Cookie header.
        verify: How to verify the server's certificate. True: by the system's authorities; False: not at all; a file of
            authorities; or an `ssl.SSLContext`, which may also hold a client certificate.
        proxy: URL of a proxy; True: from the environment (HTTPS_PROXY, NO_PROXY …); None or False: no proxy.

    Raises:
        ConfigError: An option is invalid.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | str | None = None,
        verify: bool | str | ssl.SSLContext = True,
        proxy: str | bool | None = True,
    ) -> None:
        self.headers: dict[str, str] = {"user-agent": f"headcount/{version('headcount')}"}
        for name, value in (headers or {}).items():
            self.headers[name.lower()] = value
        if token is not None:
            token = token.strip()  # a token read from a file may end in a newline
            if not token or not token.isascii() or not token.isprintable():
                raise ConfigError(
                    "The token is empty, or contains a line break or a non-ASCII character; give the server's token."
                )
            self.headers["authorization"] = f"Bearer {token}"
        if cookies:
            self.headers["cookie"] = _cookie_header(cookies)
        for name, value in self.headers.items():
            if not _is_token(name) or any(ord(character) < 32 or ord(character) > 255 for character in value):
                raise ConfigError(
                    f"The header {name!r} contains a character that headers cannot hold; give printable latin-1 text."
                )
        if isinstance(proxy, str):
            try:
                httpx.Proxy(proxy)
            except (ValueError, httpx.InvalidURL):
                raise ConfigError(
                    f"The proxy {without_password(proxy)!r} is not a URL; write it as http://proxy.example.com:3128."
                ) from None
        self.proxy = proxy
        self._verify = verify
        self._context: ssl.SSLContext | None = verify if isinstance(verify, ssl.SSLContext) else None

    def tls(self, url: str) -> ssl.SSLContext | None:
        """
        Return the TLS context for a URL, made once; None: the URL uses no TLS.

        Raises:
            ConfigError: The file of authorities is not readable.
        """
        return self._tls_context() if url.startswith("https:") else None

    def _tls_context(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                cafile = self._verify if isinstance(self._verify, str) else None
                self._context = ssl.create_default_context(cafile=cafile)
            except OSError as error:
                raise ConfigError(
                    f"Cannot read the certificates in {self._verify!r} ({error}); give a file in PEM format."
                ) from None
            if self._verify is False:
                self._context.check_hostname = False
                self._context.verify_mode = ssl.CERT_NONE
        return self._context

    def http(self, *, timeout: float = CONNECT_TIMEOUT) -> "httpx.AsyncClient":
        """
        Make an HTTP client; the caller must close it.

        Raises:
            ConfigError: The environment's proxy is not a URL, a SOCKS package is missing, or a TLS option is invalid.
        """
        # Also for http: it may redirect to https, and without one httpx reads all authorities for each client.
        context = self._tls_context()
        try:
            return httpx.AsyncClient(
                headers=self.headers,
                verify=context,
                proxy=self.proxy if isinstance(self.proxy, str) else None,
                trust_env=self.proxy is True,
                timeout=timeout,
                follow_redirects=True,
                event_hooks={"request": [self._keep_own_headers_home]},
            )
        except (ValueError, httpx.InvalidURL):
            # The library's sentence may quote a password.
            proxy = without_password(str(self.proxy)) if isinstance(self.proxy, str) else "of the environment"
            raise ConfigError(f"The proxy {proxy} cannot be used; check HTTPS_PROXY and HTTP_PROXY.") from None
        except ImportError:
            raise ConfigError(NO_SOCKS) from None

    async def _keep_own_headers_home(self, request: "httpx.Request") -> None:
        """Take the own headers off a request that was redirected to another site. Redirects keep the extensions."""
        first: httpx.URL = request.extensions.setdefault("headcount.first_url", request.url)
        if not is_same_site(_place(first), _place(request.url)):
            for name in self.headers.keys() - {"user-agent"}:
                request.headers.pop(name, None)

    async def get(self, url: str, kind: str = JSON) -> bytes:
        """
        GET a document of Headcount. `kind`: its media type.

        Raises:
            NotAuthorized: 401 or 403.
            Refused: Another answer that does not pass, such as 404, a redirect to a log-in page, or HTML.
            Unreachable: No answer, 429, or a status from 500 on.
        """
        async with self.http() as client:
            response = await self.send(client, "GET", url)
        check(url, response, kind)
        return response.content

    async def post(self, url: str, body: Mapping[str, Any]) -> bytes:
        """POST a JSON document. Raises the errors of `get`."""
        async with self.http() as client:
            response = await self.send(client, "POST", url, json=dict(body))
        check(url, response)
        return response.content

    async def send(self, client: "httpx.AsyncClient", method: str, url: str, **options: Any) -> "httpx.Response":
        """
        Send a request with a client of `http()`; the caller must `check` the answer. A POST stays one when redirected.

        Raises:
            Unreachable: No answer.
        """
        try:
            response = await client.request(method, url, follow_redirects=method == "GET", **options)
            for _ in range(_MAX_REDIRECTS):
                # These two repeat the POST; after the others, httpx would send a GET, whose answer tells nothing.
                if response.status_code not in (307, 308) or response.next_request is None:
                    break
                response = await client.send(response.next_request)
        except httpx.HTTPError as error:
            raise Unreachable(unreachable(url, error, self.proxy)) from None
        return response


_MAX_REDIRECTS: Final = 5

Place: TypeAlias = tuple[str, int | None, str]
"""Host, port (None: the scheme's own) and scheme, http or https, of a URL."""


def is_same_site(first: Place, other: Place) -> bool:
    """Say whether what was meant for the first URL may go to the other: the same origin, or its https."""
    if first == other:
        return True
    return first[0] == other[0] and first[1:] == (None, "http") and other[1:] == (None, "https")


def _place(url: "httpx.URL") -> Place:
    return url.host, url.port, url.scheme


def check(url: str, response: "httpx.Response", kind: str = JSON) -> None:
    """
    Check that an answer is Headcount's.

    Args:
        url: URL of the request.
        response: The answer.
        kind: The media type that it must have.

    Raises the errors of `Access.get`.
    """
    status, headers = response.status_code, response.headers
    if status != 200:
        raise failure(url, status, headers, response.content, token=sends_token(response.request.headers))
    if content_type(headers) != kind:
        raise wrong_answer(url, headers, str(response.url))


def check_post(url: str, response: "httpx.Response") -> None:
    """
    Check that Headcount has accepted the POST of a page.

    Args:
        url: URL of the request.
        response: The answer.

    Raises:
        UnknownConnection: No stream has this handle: another process holds it, or it has just ended.
        NotAuthorized: 401 or 403.
        Refused: Something else answered, and will again; or Headcount refuses the message.
        Unreachable: An error that may pass.
    """
    status, headers, kind = response.status_code, response.headers, content_type(response.headers)
    match post_outcome(status, kind, ok=says_ok(response.content)):
        case "done":
            return
        case "unknown":
            raise UnknownConnection(problem_detail(response.content))
        case "refused" if status not in (200, 403) and not 300 <= status < 400:
            raise Refused(foreign_post(url, status, kind))
        case _:
            if status == 200:
                raise wrong_answer(url, headers, str(response.url))
            raise failure(url, status, headers, response.content)


def says_ok(body: bytes) -> bool:
    """Say whether a body is Headcount's answer to a POST of a page."""
    try:
        return _decode_verdict(body).ok
    except (msgspec.MsgspecError, UnicodeError):
        return False


def foreign_post(url: str, status: int, kind: str) -> str:
    """Return a sentence for an answer to a POST that is not Headcount's, on a path where GET may work."""
    base = urlsplit(_without_endpoint(url)).path or "/"
    return (
        f"{printable_url(url)} answered {status} with {kind or 'no content type'}, not Headcount; check that the proxy "
        f"passes POST requests below {base} on to Headcount."
    )


def wrong_answer(url: str, headers: Mapping[str, str], answered_by: str = "") -> Refused:
    """
    Make the error for a success that is not Headcount's: the page of an application, a log-in, a captive portal.

    Args:
        url: URL of the request.
        headers: Of the answer.
        answered_by: URL that answered, after redirects.
    """
    kind, base = content_type(headers) or "no content type", _without_endpoint(url)
    if answered_by and answered_by.partition("?")[0] != url.partition("?")[0]:
        return Refused(
            f"{_host(url)} redirects to {printable_url(answered_by)}, which answered {kind}, not Headcount; check "
            "the URL, and whether something before Headcount asks for a log-in."
        )
    path = urlsplit(base).path or "/"
    return Refused(
        f"{printable_url(url)} answered {kind}, not Headcount; check the URL, and that the proxy passes {path} "
        "on to Headcount."
    )


def problem_detail(body: bytes) -> str:
    """Return the sentence of an error of Headcount, bounded and printable. Returns "" for any other body."""
    try:
        detail = _decode_problem(body).detail
    except (msgspec.MsgspecError, UnicodeError):
        return ""
    return "".join(character for character in detail[:400] if character.isprintable())


def is_at_limit(status: int, kind: str, body: bytes) -> bool:
    """Say whether an answer is uvicorn's own at its limit of connections."""
    return status == 503 and kind == "text/plain" and body.strip() == b"Service Unavailable"


def failure(
    url: str, status: int, headers: Mapping[str, str], body: bytes, *, token: bool = False
) -> NotAuthorized | ClientError:
    """Make the error for an answer that is not the one asked for. `token`: the request had a token."""
    kind = content_type(headers)
    detail = problem_detail(body) if kind in (PROBLEM, JSON, "") else ""
    if status in (401, 403):
        if not detail and kind:
            return NotAuthorized(
                f"{printable_url(url)} answered {status} with {kind}, which is not Headcount's answer: something "
                "before Headcount refuses the request, such as a log-in, a firewall or a CSRF check."
            )
        # The server's sentence asks for a token, whether or not one was sent.
        if token and ("Authorization: Bearer" in detail or not detail):
            return NotAuthorized(REFUSED_CREDENTIAL)
        return NotAuthorized(detail or NOT_AUTHORIZED)
    if not is_refusal(status):
        cause = AT_LIMIT if is_at_limit(status, kind, body) else "the server, or a proxy before it, has an error."
        sentence = detail or f"{printable_url(url)} answered {status}: {cause}"
        return Unreachable(sentence, parse_retry_after(headers.get("retry-after")))
    if 300 <= status < 400 and (location := headers.get("location")):
        target = printable_url(urljoin(url, location))
        return Refused(
            f"{printable_url(url)} redirects to {target}; give the URL that it redirects to, or, if that is "
            "a log-in page, let requests for Headcount pass without it."
        )
    if status == 404:
        return _not_found(printable_url(_without_endpoint(url)), kind)
    # Frameworks, too, name what is wrong in `detail`, but not as a problem document.
    own = detail if kind == PROBLEM else ""
    return Refused(
        own or f"{printable_url(url)} answered {status}, which is not an answer of Headcount; check the URL."
    )


def _not_found(base: str, kind: str) -> Refused:
    """Make the error for a URL of a base path where there is no Headcount, with the URL to try instead."""
    path = urlsplit(base).path
    answer = f"{base} answered 404 ({kind or 'no content type'}), which is not Headcount's answer"
    if path == DEFAULT_BASE_PATH:
        return Refused(
            f"{answer}; check that the server runs Headcount, and that the proxies before it pass {path} on to it."
        )
    before, found, _ = path.partition(DEFAULT_BASE_PATH)
    other = urljoin(base, (before if found else "") + DEFAULT_BASE_PATH)
    return Refused(f"{answer}; try {other}, or give the URL with the base path that the server is configured with.")


def sends_token(headers: Mapping[str, str]) -> bool:
    """Return whether request headers carry a bearer token."""
    return headers.get("authorization", "").lower().startswith("bearer ")


def printable_url(url: str) -> str:
    """Return a URL of a server's answer, fit for a sentence: without query, credentials and control characters."""
    try:
        parts = urlsplit(url)
        url = parts._replace(query="", fragment="", netloc=parts.netloc.rpartition("@")[2]).geturl()
    except ValueError:
        url = "an invalid URL"
    return "".join(character for character in url[:200] if character.isprintable())


def content_type(headers: Mapping[str, str]) -> str:
    """Return the media type of an answer, fit for a sentence; "": it names none."""
    kind = (headers.get("content-type") or "").partition(";")[0].strip().lower()
    return "".join(character for character in kind[:80] if character.isprintable())


def unreachable(url: str, error: BaseException, proxy: str | bool | None) -> str:
    """
    Return a sentence that says why a server did not answer.

    Args:
        url: URL of the request.
        error: Error of the HTTP library, the WebSocket library or the system.
        proxy: As in `Access`: with a proxy, a refused connection is the proxy's.
    """
    host = _host(url)
    # The request may have been redirected to another server.
    request = getattr(error, "_request", None)
    if request is not None and (elsewhere := _host(str(request.url))) != host:
        url, host = str(request.url), f"{elsewhere}, to which {host} redirects,"
    reason = str(error).strip().rstrip(".") or type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError) or "Errno 111" in reason or "Errno 61" in reason:
            reason = "connection refused; no server is listening"
            host = _proxy_of(url, proxy) or host
        elif isinstance(cause, socket.gaierror):
            reason = "unknown host"
            host = _proxy_of(url, proxy) or host
        elif isinstance(cause, httpx.TimeoutException | TimeoutError):
            reason = "no answer in time"
        elif isinstance(cause, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted: {cause.verify_message.rstrip('.')}"
        elif isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
            reason = "the server does not use TLS; write http:// if that is intended"
        cause = cause.__cause__ or cause.__context__
    return f"{host} cannot be reached: {reason}."


def _host(url: str) -> str:
    """Return host and port of a URL."""
    return httpx.URL(url).netloc.decode("ascii", "replace")


def _proxy_of(url: str, proxy: str | bool | None) -> str | None:
    """Name the proxy for a URL, without its credentials; None: there is no proxy."""
    if proxy is True:
        parts = urlsplit(url)
        proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    if not isinstance(proxy, str):
        return None
    return f"The proxy {_host(proxy if '://' in proxy else 'http://' + proxy)}"


def _without_endpoint(url: str) -> str:
    path = printable_url(url)
    for endpoint in (
        "/admin/stats",
        "/admin/nodes",
        "/admin/release",
        "/subscribe-stats",
        "/route",
        "/sse",
        "/ws",
        "/health",
        "/metrics",
    ):
        path = path.removesuffix(endpoint)
    return path


def _cookie_header(cookies: Mapping[str, str] | str) -> str:
    if isinstance(cookies, str):
        return cookies
    jar = SimpleCookie()
    try:
        for name, value in cookies.items():
            jar[name] = value
    except CookieError as error:
        raise ConfigError(f"A cookie is invalid: {error}.") from None
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


def _is_token(name: str) -> bool:
    return bool(name) and name.isascii() and all(c.isalnum() or c in "!#$%&'*+-.^_`|~" for c in name)
