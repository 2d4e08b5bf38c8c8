"""
`POST /log-in` and `POST /log-out`: the admin token once, a cookie from then on.

The cookie holds a ticket (core/ticket.py) and not the token; pages cannot read it, and browsers do not send it with
cross-site requests. Guessing is slowed down by address.
"""

import os
import time
from collections import OrderedDict
from hmac import compare_digest
from typing import Final

import msgspec

from ..authorization.authorizer import TICKET_COOKIE
from ..core import messages, ticket
from ..core.address import anonymized
from ..errors import Malformed
from ..node.node import Node
from .client_posts import check_content_type, read_body
from .exchange import Exchange
from .responses import Problem, respond

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
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._config = node.config
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    async def serve(self, exchange: Exchange) -> None:
        """
        Answer a POST to one of `PATHS`.

        Raises:
            Problem: 400, 401, 409, 413, 415, or 429 with Retry-After.
        """
        # Without Path, so that it is the folder of this request as the browser sees it: our base path, behind whatever
        # prefix a proxy has put before it. A client that falsely claims to use TLS only loses its own cookie.
        attributes = "HttpOnly; SameSite=Strict"
        if exchange.scope.get("scheme") == "https" or exchange.head.over_tls:
            attributes += "; Secure"
        if exchange.head.endpoint == "/log-out":
            cookie = f"{TICKET_COOKIE}=; Max-Age=0; {attributes}"
        else:
            await self._check(exchange)
            token = self._config.admin_token or ""
            value = ticket.make(token, int(time.time()), os.urandom(16))
            cookie = f"{TICKET_COOKIE}={value}; Max-Age={ticket.LIFETIME}; {attributes}"
        headers = [*exchange.cors, (b"set-cookie", cookie.encode())]
        await respond(exchange.send, 200, b'{"ok":true}', b"application/json", headers)

    async def _check(self, exchange: Exchange) -> None:
        token = self._config.admin_token
        if token is None:
            raise Problem(
                409, "This server has no admin token, so there is no log-in here; sign in to the application instead."
            )
        address = exchange.head.find_address() or ""
        if ":" in address:
            address = anonymized(address)  # a client with one IPv6 address usually has the whole network
        self._check_rate_limit(address)
        check_content_type(exchange.head)
        body = messages.decode_body(await read_body(self._node, exchange.head, exchange.receive), _decoder)
        try:
            token_sent = body.token.encode()
        except UnicodeEncodeError:
            raise Malformed("The token contains an invalid character; copy it again.") from None
        # Looked at again: others of this address may have failed while the body was on its way.
        recent = self._check_rate_limit(address)
        if not compare_digest(token_sent, token.encode()):
            recent.append(self._node.clock())
            self._failures[address] = recent
            self._failures.move_to_end(address)
            while len(self._failures) > MAX_ADDRESSES:
                self._failures.popitem(last=False)
            raise Problem(401, "This is not the admin token; copy it from the server's settings and try again.")
        self._failures.pop(address, None)

    def _check_rate_limit(self, address: str) -> list[float]:
        now = self._node.clock()
        recent = [at for at in self._failures.get(address, ()) if now - at < WINDOW]
        if len(recent) >= MAX_FAILURES:
            wait = max(1, round(recent[0] + WINDOW - now))
            raise Problem(
                429,
                f"Too many wrong tokens from your address; try again in {wait} s.",
                [(b"retry-after", b"%d" % wait)],
            )
        return recent
