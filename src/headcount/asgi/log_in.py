"""
`POST /log-in` and `POST /log-out`: the admin token once, a cookie from then on.

The cookie holds a ticket (core/ticket.py) and not the token; pages cannot read it, and browsers do not send it with
cross-site requests. A log-out ends the ticket on all nodes, and every stream that watches by it.
"""

from typing import Final

import msgspec

from ..authorization.tokens import SECURE_TICKET_COOKIE, TICKET_COOKIE, WrongTokens, is_same
from ..core import messages, ticket
from ..core.origin import is_plain_http
from ..errors import Malformed
from ..node.log_outs import LogOuts
from ..node.node import Node
from .client_posts import check_content_type, read_body
from .exchange import Exchange
from .request_head import RequestHead
from .responses import Problem, respond

PATHS: Final = frozenset({"/log-in", "/log-out"})


class _Body(msgspec.Struct, frozen=True):
    token: str


_decoder = msgspec.json.Decoder(_Body)


class LogIn:
    """
    Takes the admin token and hands out tickets.

    Args:
        node: Has the settings, with the token.
        log_outs: End tickets.
        wrong_tokens: Answers wrong tokens late.
    """

    def __init__(self, node: Node, log_outs: LogOuts, wrong_tokens: WrongTokens) -> None:
        self._node = node
        self._log_outs = log_outs
        self._config = node.config
        self._wrong_tokens = wrong_tokens

    async def serve(self, exchange: Exchange) -> None:
        """
        Answer a POST to one of `PATHS`.

        Raises:
            Problem: 400, 401, 409, 413, 415, or 429 with Retry-After.
        """
        # Without Path, so that it is the folder of this request as the browser sees it: our base path, behind whatever
        # prefix a proxy has put before it.
        secure = _over_tls(exchange.head)
        if exchange.head.endpoint == "/log-out":
            await self._log_outs.end(self._log_outs.tickets.read(exchange.head.cookies))
            cookies = [_cookie("", 0, secure=False)]
            if secure:
                cookies.append(_cookie("", 0, secure=True))
        else:
            await self._check(exchange)
            cookies = [_cookie(self._log_outs.tickets.make(), ticket.LIFETIME, secure=secure)]
        headers = [*exchange.cors, *((b"set-cookie", cookie) for cookie in cookies)]
        await respond(exchange.send, 200, b'{"ok":true}', b"application/json", headers)

    async def hold_back(self) -> None:
        """
        Wait before a wrong token is answered.

        Raises:
            Problem: 429: too many wait already.
        """
        if not await self._wrong_tokens.hold_back():
            raise Problem(
                429,
                "Too many wrong tokens at this moment; try again in a second. The right token is accepted at once.",
                [(b"retry-after", b"1")],
            )

    async def _check(self, exchange: Exchange) -> None:
        token = self._config.admin_token
        if token is None:
            raise Problem(
                409, "This server has no admin token, so there is no log-in here; sign in to the application instead."
            )
        check_content_type(exchange.head)
        body = messages.decode_body(await read_body(self._node, exchange.head, exchange.receive), _decoder)
        try:
            token_sent = body.token.encode()
        except UnicodeEncodeError:
            raise Malformed("The token contains an invalid character; copy it again.") from None
        if not is_same(token_sent, token.encode()):
            self._wrong_tokens.note()
            await self.hold_back()
            raise Problem(401, "This is not the admin token; copy it from the server's settings and try again.")


def _over_tls(head: RequestHead) -> bool:
    """
    Say whether the browser takes a cookie with `Secure`.

    It knows best: a proxy may end TLS and say nothing, or say it in a header that the server does not read. A client
    that lies about its own page only loses its own cookie.
    """
    origin = head.origin
    if origin is not None and origin[:6].lower() == "https:":
        return True
    return not is_plain_http(origin) and (head.scope.get("scheme") == "https" or head.over_tls)


def _cookie(value: str, max_age: int, *, secure: bool) -> bytes:
    name, suffix = (SECURE_TICKET_COOKIE, "; Secure") if secure else (TICKET_COOKIE, "")
    return f"{name}={value}; Max-Age={max_age}; HttpOnly; SameSite=Strict{suffix}".encode()
