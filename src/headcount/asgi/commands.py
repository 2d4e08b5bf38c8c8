"""The POSTs of SSE pages: navigate, subscribe, unsubscribe, report tabs."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from ..authorization.authorizer import AuthorizationCheck
from ..core import identity, messages
from ..errors import Busy, Malformed, TooLarge, UnknownConnection
from ..node.node import Node
from .one_step import Suspended, run_one_step
from .responses import OK, Headers, Problem
from .scope import header

T = TypeVar("T")

_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "/route": msgspec.json.Decoder(messages.RouteBody),
    "/subscribe-stats": msgspec.json.Decoder(messages.SubscribeBody),
    "/unsubscribe-stats": msgspec.json.Decoder(messages.UnsubscribeBody),
    "/tabs": msgspec.json.Decoder(messages.TabsBody),
}
PATHS: Final = frozenset(_DECODERS)


async def command(
    node: Node,
    path: str,
    scope: Scope,
    receive: Receive,
    send: Send,
    make_check: Callable[[], AuthorizationCheck],
    headers: Headers,
) -> None:
    """
    Do what a POST asks and answer it.

    Args:
        node: Of this process.
        path: One of `PATHS`.
        scope: The request.
        receive: Its body.
        send: For the answer.
        make_check: Makes the check of the right to watch, on this very request.
        headers: Further response headers.

    Raises:
        Problem: 400, 404, 413, 415 or 503.
    """
    check_type(scope)
    try:
        handle, message = read(path, await body_of(node, scope, receive))
        coroutine = node.dispatch(handle, message, make_check)
    except Malformed as error:
        raise Problem(400, str(error)) from None
    try:
        if coroutine is not None:
            await coroutine
    except UnknownConnection as error:
        raise Problem(404, str(error)) from None
    except Busy as error:
        raise Problem(503, str(error), [(b"retry-after", b"1")]) from None
    await send({"type": "http.response.start", "status": 200, "headers": [*OK.headers, *headers]})
    await send({"type": "http.response.body", "body": OK.body})


def check_type(scope: Scope) -> None:
    """Raise 415 unless the body is said to be JSON, or nothing is said."""
    content_type = header(scope, b"content-type")
    if content_type is None or content_type == "application/json":
        return
    content_type = content_type.partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Problem(415, f"The body is {content_type[:100]}; send JSON with Content-Type: application/json.")


def read(path: str, data: bytes) -> tuple[str, messages.ClientMessage]:
    """
    Read a body: whose connection, and what is asked.

    Raises:
        Malformed: In a sentence.
    """
    body = messages.decode_body(data, _DECODERS[path])
    if not body.connection_id or len(body.connection_id) > identity.MAX_HANDLE:
        raise Malformed("connectionId is empty or too long; send the one that the stream's connected message told.")
    match body:
        case messages.RouteBody(route=route):
            return body.connection_id, messages.RouteUpdate(messages.checked_route(route))
        case messages.SubscribeBody(deltas=deltas):
            return body.connection_id, messages.SubscribeStats(deltas)
        case messages.TabsBody(set=tabs, remove=remove):
            return body.connection_id, messages.checked_tabs(tabs, remove)
        case _:
            return body.connection_id, messages.UnsubscribeStats()


async def body_of(node: Node, scope: Scope, receive: Receive) -> bytes:
    """
    Read the body, in place when all of it is here already, else within `body_timeout`.

    Raises:
        Malformed: Broken off.
        Problem: 400 when it takes too long, 413 when it is.
    """
    try:
        reading = run_one_step(_read_body(scope, receive))
        if not isinstance(reading, Suspended):
            return reading
        # A body that is read ends nothing but this request, however it goes wrong.
        async with asyncio.timeout(node.config.body_timeout):
            return await reading
    except TimeoutError:
        raise Problem(400, f"The body did not arrive within {node.config.body_timeout:g} s.") from None
    except TooLarge as error:
        raise Problem(413, str(error)) from None


async def read_json(node: Node, scope: Scope, receive: Receive, decoder: msgspec.json.Decoder[T]) -> T:
    """
    Read the JSON body of a POST.

    Raises:
        Problem: 400 when it takes longer than `body_timeout`, 413 when it is too long, 415 when it is no JSON.
        Malformed: Not what `decoder` takes.
    """
    check_type(scope)
    found: T = messages.decode_body(await body_of(node, scope, receive), decoder)
    return found


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    too_large = TooLarge(f"The body is too long; at most {messages.MAX_MESSAGE} bytes are allowed.")
    length = header(scope, b"content-length") or ""
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
            return bytes(data)
