"""
The POSTs of pages: navigate, subscribe, unsubscribe, report tabs, answer a release, acknowledge a message, say goodbye.

Tests: tests/asgi/test_abuse.py, tests/asgi/test_streams.py, tests/asgi/test_farewells.py.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar, assert_never

import msgspec
from starlette.types import Receive

from ..authorization.authorizer import AuthorizationCheck
from ..core import identity, messages
from ..errors import Busy, Malformed, TooLarge, TooManyMessages, UnknownConnection
from ..node.node import Node
from .exchange import Exchange
from .one_step import Suspended, run_one_step
from .request_head import RequestHead
from .responses import OK, Problem

T = TypeVar("T")

_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "/route": msgspec.json.Decoder(messages.RouteBody),
    "/subscribe-stats": msgspec.json.Decoder(messages.SubscribeBody),
    "/unsubscribe-stats": msgspec.json.Decoder(messages.UnsubscribeBody),
    "/tabs": msgspec.json.Decoder(messages.TabsBody),
    "/acknowledge": msgspec.json.Decoder(messages.AcknowledgeBody),
    "/release-reply": msgspec.json.Decoder(messages.ReleaseReplyBody),
    "/bye": msgspec.json.Decoder(messages.ByeBody),
}
PATHS: Final = frozenset(_DECODERS)

_BEACONS: Final = frozenset({"/bye", "/release-reply"})
"""What a page says while it is left or reloaded. A beacon is all that it can send then."""


class DroppedBody(Problem):
    """
    The server dropped the body, as uvicorn with httptools does when a request asks for another protocol.

    Args:
        upgrade: The protocol, as the request names it.
    """

    def __init__(self, upgrade: str) -> None:
        super().__init__(
            400,
            f"The body is missing: the server dropped it because the request asks for Upgrade: {upgrade}. Send the "
            "request without an Upgrade header.",
            # What the server has not dropped, it would take for the next request.
            [(b"connection", b"close")],
        )
        self.upgrade = upgrade


async def serve_post(node: Node, exchange: Exchange, make_check: Callable[[], AuthorizationCheck]) -> None:
    """
    Serve one POST.

    Args:
        node: Of this process.
        exchange: A POST to one of `PATHS`.
        make_check: Makes the check of the right to watch, on this very request.

    Raises:
        Problem: 400, 404, 413, 415, 429 or 503.
    """
    # Beacons are sent as text: JSON would need a preflight.
    check_content_type(exchange.head, "text/plain" if exchange.head.endpoint in _BEACONS else None)
    try:
        await _run_command(node, exchange, make_check)
    except Malformed as error:
        raise Problem(400, str(error)) from None
    except UnknownConnection as error:
        raise Problem(404, str(error)) from None
    except TooManyMessages as error:
        raise Problem(429, str(error), [(b"retry-after", b"1")]) from None
    except Busy as error:
        raise Problem(503, str(error), [(b"retry-after", b"1")]) from None
    await exchange.send({"type": "http.response.start", "status": 200, "headers": [*OK.headers, *exchange.cors]})
    await exchange.send({"type": "http.response.body", "body": OK.body})


async def _run_command(node: Node, exchange: Exchange, make_check: Callable[[], AuthorizationCheck]) -> None:
    body = await read_body(node, exchange.head, exchange.receive)
    handle, message = read_command(exchange.head.endpoint, body)
    coroutine = node.dispatch(handle, message, make_check)
    if coroutine is not None:
        await coroutine


def check_content_type(head: RequestHead, other: str | None = None) -> None:
    """Raise 415 unless the Content-Type is JSON or `other`, or there is none."""
    content_type = head.header(b"content-type")
    if content_type is None or content_type == "application/json":
        return
    content_type = content_type.partition(";")[0].strip().lower()
    if content_type not in ("application/json", other):
        raise Problem(415, f"The Content-Type is {content_type[:100]}; send JSON with Content-Type: application/json.")


def read_command(path: str, data: bytes) -> tuple[str, messages.ClientMessage]:
    """
    Read a body: the secret handle of the connection, and the message.

    Raises:
        Malformed: Not JSON, or a field is missing or wrong.
    """
    body = messages.decode_body(data, _DECODERS[path])
    if not body.connection_id or len(body.connection_id) > identity.MAX_HANDLE:
        raise Malformed("connectionId is empty or too long; send the one in the stream's `connected` message.")
    match body:
        case messages.RouteBody(route=route):
            return body.connection_id, messages.RouteUpdate(messages.checked_route(route))
        case messages.SubscribeBody(deltas=deltas):
            return body.connection_id, messages.SubscribeStats(deltas)
        case messages.TabsBody(set=tabs, remove=remove):
            return body.connection_id, messages.checked_tabs(tabs, remove)
        case messages.AcknowledgeBody(id=number, tab=tab):
            return body.connection_id, messages.checked_acknowledge(number, tab)
        case messages.ReleaseReplyBody(version=version, reply=reply, reason=reason, tab=tab):
            return body.connection_id, messages.checked_release_reply(version, reply, reason, tab)
        case messages.ByeBody(tab=tab):
            return body.connection_id, messages.checked_bye(tab)
        case messages.UnsubscribeBody():
            return body.connection_id, messages.UnsubscribeStats()
        case _:
            assert_never(body)


async def read_body(node: Node, head: RequestHead, receive: Receive) -> bytes:
    """
    Read the body, in place when all of it is here already, else within `body_timeout`.

    Raises:
        Malformed: The client left before the end.
        Problem: 400 when it takes too long, 413 when it is too large.
    """
    try:
        reading = run_one_step(_read_all(head, receive))
        if not isinstance(reading, Suspended):
            return reading
        # A body that is read ends nothing but this request, however it goes wrong.
        async with asyncio.timeout(node.config.body_timeout):
            return await reading
    except TimeoutError:
        raise Problem(
            400, f"The body did not arrive within {node.config.body_timeout:g} s; send the request again."
        ) from None
    except TooLarge as error:
        raise Problem(413, str(error)) from None


async def read_json(node: Node, head: RequestHead, receive: Receive, decoder: msgspec.json.Decoder[T]) -> T:
    """
    Read the JSON body of a POST.

    Raises:
        Problem: 400 when it takes longer than `body_timeout`, 413 when it is too large, 415 when it is not JSON.
        Malformed: Not JSON, or a field is missing or wrong.
    """
    check_content_type(head)
    found: T = messages.decode_body(await read_body(node, head, receive), decoder)
    return found


async def _read_all(head: RequestHead, receive: Receive) -> bytes:
    too_large = TooLarge(f"The body is too large; at most {messages.MAX_MESSAGE} bytes are allowed.")
    length = head.header(b"content-length") or ""
    if length.isdecimal() and int(length[:20]) > messages.MAX_MESSAGE:
        raise too_large
    data = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Malformed("The request ended before its body did.")
        data += message.get("body", b"")
        if len(data) > messages.MAX_MESSAGE:
            raise too_large
        if not message.get("more_body", False):
            if not data:
                _check_missing(head)
            return bytes(data)


def _check_missing(head: RequestHead) -> None:
    """Raise if the head announces a body, of which nothing came."""
    upgrade, length = head.header(b"upgrade"), head.header(b"content-length")
    if length is None:
        announced = upgrade is not None and head.header(b"transfer-encoding") is not None
    else:
        announced = length.isdecimal() and int(length[:20]) > 0
    if not announced:
        return
    if upgrade is not None:
        raise DroppedBody(upgrade[:40])
    raise Problem(
        400,
        "The body is missing: Content-Length announces one, but nothing arrived. Middleware that reads a body must "
        "pass it on.",
    )
