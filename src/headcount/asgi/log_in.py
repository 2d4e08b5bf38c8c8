"""
`POST /log-in` and `POST /log-out`: the admin token once, a cookie from then on.

The cookie holds a ticket (core/ticket.py) and not the token; pages cannot read it, and browsers do not send it along
when another site asks. Whoever guesses is slowed down by address.
"""

import os
import time
from collections import OrderedDict
from hmac import compare_digest
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from ..authorization.authorizer import TICKET_COOKIE
from ..core import messages, ticket
from ..core.address import IPNetwork, anonymized
from ..errors import Malformed
from ..node.node import Node
from .commands import body_of, check_type
from .responses import Headers, Problem, respond
from .scope import address_of, header

PATHS: Final = frozenset({"/log-in", "/log-out"})

MAX_FAILURES: Final = 5
"""Wrong tokens from one address within `WINDOW`; then it must wait."""

WINDOW: Final = 60.0
"""Seconds."""

MAX_ADDRESSES: Final = 1_000
"""Addresses that are remembered; with more, the oldest is forgotten first."""


class _Body(msgspec.Struct, frozen=True):
    token: str


_decoder = msgspec.json.Decoder(_Body)


class LogIn:
    """
    Takes the admin token and hands out tickets.

    Args:
        node: Has the settings, with the token, and the clock.
        networks: Of trusted proxies.
    """

    def __init__(self, node: Node, networks: tuple[IPNetwork, ...]) -> None:
        self._node = node
        self._config = node.config
        self._networks = networks
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    async def serve(self, endpoint: str, scope: Scope, receive: Receive, send: Send, cors: Headers) -> None:
        """
        Answer one of `PATHS`.

        Raises:
            Problem: 400, 401, 409, 413, 415, or 429 with Retry-After.
        """
        # Without Path, so that it is the folder of this request as the browser sees it: our base path, behind whatever
        # prefix a proxy has put before it. Whoever claims to use TLS only keeps the cookie from himself.
        attributes = "HttpOnly; SameSite=Strict"
        if "https" in (scope.get("scheme"), header(scope, b"x-forwarded-proto")):
            attributes += "; Secure"
        if endpoint == "/log-out":
            cookie = f"{TICKET_COOKIE}=; Max-Age=0; {attributes}"
        else:
            await self._check(scope, receive)
            token = self._config.admin_token or ""
            value = ticket.make(token, int(time.time()), os.urandom(16))
            cookie = f"{TICKET_COOKIE}={value}; Max-Age={ticket.LIFETIME}; {attributes}"
        headers = [*cors, (b"set-cookie", cookie.encode())]
        await respond(send, 200, b'{"ok":true}', b"application/json", headers)

    async def _check(self, scope: Scope, receive: Receive) -> None:
        token = self._config.admin_token
        if token is None:
            raise Problem(
                409, "This server has no admin token, so nobody can log in here; sign in at the application instead."
            )
        address = address_of(scope, True, self._networks) or ""
        if ":" in address:
            address = anonymized(address)  # whoever has one IPv6 address has the whole network
        self._slow_down(address)
        check_type(scope)
        body = messages.decode_body(await body_of(self._node, scope, receive), _decoder)
        try:
            told = body.token.encode()
        except UnicodeEncodeError:
            raise Malformed("The token holds a character that cannot be; copy it again.") from None
        # Looked at again: others of this address may have failed while the body was on its way.
        recent = self._slow_down(address)
        if not compare_digest(told, token.encode()):
            recent.append(self._node.clock())
            self._failures[address] = recent
            self._failures.move_to_end(address)
            while len(self._failures) > MAX_ADDRESSES:
                self._failures.popitem(last=False)
            raise Problem(401, "This is not the admin token; copy it from the server's settings and try again.")
        self._failures.pop(address, None)

    def _slow_down(self, address: str) -> list[float]:
        now = self._node.clock()
        recent = [at for at in self._failures.get(address, ()) if now - at < WINDOW]
        if len(recent) >= MAX_FAILURES:
            wait = max(1, round(recent[0] + WINDOW - now))
            raise Problem(
                429, f"Too many wrong tokens came from your address; wait {wait} s.", [(b"retry-after", b"%d" % wait)]
            )
        return recent
