"""
Who may watch.

Default deny: without a bearer token, a hook or an authorize URL every viewer is denied, and any failure denies. An
authorised viewer gets a `Grant`, which is checked again while the viewer watches (node/viewers.py).
"""

import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Any, Final, Protocol, TypeAlias

import anyio
import msgspec
from starlette.requests import HTTPConnection

from ..core import ticket
from ..log_throttle import LogThrottle
from .threads import Threads

logger = logging.getLogger("headcount")

TICKET_COOKIE: Final = "headcount_admin"
"""Set by `POST /log-in`."""


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


Verdict: TypeAlias = bool | Grant | None
AuthorizeHook: TypeAlias = Callable[[HTTPConnection], Awaitable[Verdict] | Verdict]


class Authorizer:
    """
    Asks the bearer token, or the cookie that the dashboard got for it, then the hook.

    Args:
        admin_token: Bearer token that authorises; None: there is none.
        timeout: Seconds after which a hook that has not answered means no.
    """

    def __init__(self, admin_token: str | None, timeout: float) -> None:
        self._token = admin_token.encode() if admin_token is not None else None
        self._timeout = timeout
        self.hook: AuthorizeHook | None = None
        self.errors = 0
        """Checks that failed, as opposed to those that denied."""
        self._told = False
        self._log_throttle = LogThrottle()
        self.threads = Threads()
        """Where synchronous hooks run."""

    async def decide(self, request: HTTPConnection) -> Grant | None:
        """Return what this request may see, or None. Never raises but for cancellation."""
        if self._has_token(request):
            return Grant(release=True)
        if self.hook is None:
            if self._token is None and not self._told:
                self._told = True
                logger.warning(
                    "A viewer asked for statistics, but nobody may see them: register an authorize_stats hook, or set "
                    "admin_token or authorize_url."
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
        if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004
            answer = hook(request)
        else:
            # A synchronous hook may query a database; in a thread it can hang without holding up other requests.
            answer = await self.threads.run(hook, request)
        return await answer if inspect.isawaitable(answer) else answer

    def _has_token(self, request: HTTPConnection) -> bool:
        if self._token is None:
            return False
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # latin-1 is how the header was decoded, so these are the bytes that came.
        sent = token.strip(" \t").encode("latin-1", "replace")
        if scheme.lower() == "bearer" and compare_digest(sent, self._token):
            return True
        kept = request.cookies.get(TICKET_COOKIE)
        return kept is not None and ticket.is_good(kept, self._token.decode(), time.time())


def _hint(request: HTTPConnection) -> str:
    """Return a hint for the log: what a hook that failed may have missed."""
    if "session" in request.scope or "user" in request.scope:
        return ""
    return (
        " The request has neither a session nor a user. Add the middleware that sets them, such as SessionMiddleware "
        "or, in Django, headcount.integrations.django.HeadcountMiddleware."
    )
