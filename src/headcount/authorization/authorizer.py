"""
Who may watch.

Default deny: without a bearer token, a hook or an authorize URL every viewer is denied, and any failure denies. An
authorised viewer gets a `Grant`, which is checked again while the viewer watches (node/viewers.py).
"""

import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

import anyio
import msgspec
from starlette.requests import HTTPConnection

from ..core.host import HostRules
from ..log_throttle import LogThrottle
from .threads import Threads
from .tokens import Tickets, WrongTokens, is_same

logger = logging.getLogger("headcount")


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a viewer may see. `total` and `versions` are always in it.

    Attributes:
        routes: Which routes there are, and which of them each connection is on.
        connections: The list of connections.
        ips: Addresses in that list.
        expires_in: Seconds until the right ends by itself; 0 or less denies; None: it lasts while the hook agrees.
        release: Declaring a version current, which is sent to every page. The token and a hook that returns True allow
            it; a `Grant` allows it only if it says so.

    Raises:
        TypeError: A value of another type: "no" would be true, and NaN would never be reached.
    """

    routes: bool = True
    connections: bool = True
    ips: bool = True
    expires_in: float | None = None
    release: bool = False

    def __post_init__(self) -> None:
        """Check the types, which msgspec does only when it decodes."""
        for name in ("routes", "connections", "ips", "release"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"Grant({name}=…) takes True or False, not {getattr(self, name)!r}.")
        seconds = self.expires_in
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, int | float) or math.isnan(seconds)
        ):
            raise TypeError(f"Grant(expires_in=…) takes seconds or None, not {seconds!r}.")


class AuthorizationCheck(Protocol):
    """Checks whether one viewer may watch: at first, and again while it watches."""

    def __call__(self) -> Awaitable[Grant | None]:
        """Return what the viewer may see now, or None."""

    def describe(self) -> dict[str, Any] | None:
        """Return what another process needs to check again; None: it cannot. To be called after the first check."""

    def contains(self, nonce: bytes) -> bool:
        """Say whether the viewer has the ticket with this nonce, which is in hexadecimal digits."""

    def visitor(self) -> tuple[bytes, str] | None:
        """Return the credentials and the address, "" if unknown, of who asks; None: another process checks."""

    def question(self) -> object | None:
        """Return what is asked, credentials included: equal to that of another check of the same; None: not known."""


Verdict: TypeAlias = bool | Grant | None
AuthorizeHook: TypeAlias = Callable[[HTTPConnection], Awaitable[Verdict] | Verdict]


class Authorizer:
    """
    Asks the bearer token, or the cookie that the dashboard got for it, then the hook.

    Args:
        admin_token: Bearer token that authorises; None: there is none.
        timeout: Seconds after which a hook that has not answered means no.
        hosts: The names of this server.
        tickets: That were made with the token; None: there are none.
    """

    def __init__(
        self, admin_token: str | None, timeout: float, hosts: HostRules, tickets: Tickets | None = None
    ) -> None:
        self._token = admin_token.encode() if admin_token is not None else None
        self._timeout = timeout
        self._hosts = hosts
        self.tickets = tickets
        self.wrong_tokens = WrongTokens()
        self.hook: AuthorizeHook | None = None
        self.asks_url = False
        """The hook is that of `authorize_url`."""
        self.errors = 0
        """Checks that failed, as opposed to those that denied."""
        self._told = False
        self._log_throttle = LogThrottle()
        self.threads = Threads()
        """Where synchronous hooks run."""

    @property
    def reads_credentials_only(self) -> bool:
        """Of a request's headers, only the credentials matter (`kept_headers.CREDENTIALS`)."""
        return self.hook is None or self.asks_url

    async def decide(self, request: HTTPConnection) -> Grant | None:
        """Return what this request may see, or None. Never raises but for cancellation."""
        if self.has_token(request):
            return Grant(release=True)
        grant = await self._ask_hook(request)
        if grant is None and self._token is not None and _bearer(request) is not None:
            self.wrong_tokens.note()
        return grant

    async def _ask_hook(self, request: HTTPConnection) -> Grant | None:
        if self.hook is None:
            if self._token is None and not self._told:
                self._told = True
                logger.warning(
                    "A viewer asked for statistics, but nobody may see them: register an authorize_stats hook, or set "
                    "admin_token or authorize_url."
                )
            return None
        host = request.headers.get("host")
        if self._hosts.is_rebound(host, request.scope.get("server")):
            if (suppressed := self._log_throttle.suffix_if_due("rebound")) is not None:
                logger.warning(
                    "Viewer denied: Host is %r, but the request came to a loopback address of this machine. A page of "
                    "another site could have sent it (DNS rebinding). If this server is reached under that name, add "
                    "the name to allowed_hosts.%s",
                    (host or "")[:200],
                    suppressed,
                )
            return None
        try:
            with anyio.fail_after(self._timeout) as limit:
                verdict = await self._ask(self.hook, request)
                # The hook caught its cancellation, or blocked the event loop.
                if anyio.current_time() >= limit.deadline:
                    raise TimeoutError
        except TimeoutError:
            self.errors += 1
            if (suppressed := self._log_throttle.suffix_if_due("slow")) is not None:
                logger.warning(
                    "authorize_stats did not return within %g s; viewer denied%s.", self._timeout, suppressed
                )
            return None
        except Exception as error:
            self.errors += 1
            if (suppressed := self._log_throttle.suffix_if_due(type(error))) is not None:
                logger.exception("authorize_stats failed; viewer denied%s.%s", suppressed, _hint(request))
            return None
        if isinstance(verdict, Grant):
            return None if verdict.expires_in is not None and verdict.expires_in <= 0 else verdict
        if verdict is True:
            return Grant(release=True)
        if verdict is False or verdict is None:
            return None
        self.errors += 1
        if (suppressed := self._log_throttle.suffix_if_due(("returned", type(verdict)))) is not None:
            logger.error(
                "authorize_stats returned a %s, not a bool or a Grant; viewer denied%s.",
                type(verdict),
                suppressed,
            )
        return None

    async def _ask(self, hook: AuthorizeHook, request: HTTPConnection) -> object:
        if not runs_in_thread(hook):
            answer = hook(request)
        else:
            # A synchronous hook may query a database; in a thread it can hang without holding up other requests.
            answer = await self.threads.run(hook, request)
        return await answer if inspect.isawaitable(answer) else answer

    @property
    def token(self) -> str | None:
        """The admin token; None: there is none."""
        return None if self._token is None else self._token.decode()

    def has_token(self, request: HTTPConnection) -> bool:
        """Say whether a request has the admin token, or a ticket that is good."""
        if self._token is None:
            return False
        sent = _bearer(request)
        if sent is not None and is_same(sent, self._token):
            return True
        return self.tickets is not None and bool(self.tickets.read(request.cookies))


def _bearer(request: HTTPConnection) -> bytes | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    # latin-1 is how the header was decoded, so these are the bytes that came.
    return token.strip(" \t").encode("latin-1", "replace") if scheme.lower() == "bearer" else None


def runs_in_thread(hook: AuthorizeHook) -> bool:
    """Say whether a hook is synchronous, so that it is called in a thread."""
    return not (inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)))  # noqa: B004


def _hint(request: HTTPConnection) -> str:
    """Return a hint for the log: what a hook that failed may have missed."""
    if "session" in request.scope or "user" in request.scope:
        return ""
    return (
        " The request has neither a session nor a user. Add the middleware that sets them, such as SessionMiddleware "
        "or, in Django, headcount.integrations.django.HeadcountMiddleware."
    )
