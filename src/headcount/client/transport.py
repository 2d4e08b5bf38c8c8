"""
A viewer's stream by SSE or WebSocket, behind one interface. A stream is opened once and never reconnects.

Every failure is one of four errors: `Ended`, `Unreachable`, `Refused`, `NotAuthorized`.

Tests: tests/client/test_remote.py, tests/client/test_bad_days.py.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Literal, Protocol
from urllib.parse import urlencode

import msgspec

from ..core.ends import standard_code
from ..errors import ClientError, ConfigError, Refused, UnknownConnection, Unreachable
from . import messages
from .access import (
    CONNECT_TIMEOUT,
    NO_SOCKS,
    Access,
    Place,
    check_post,
    failure,
    is_same_site,
    printable_url,
    sends_token,
    unreachable,
)
from .event_reader import MAX_EVENT, EventReader

try:
    import httpx2 as httpx
    from websockets.asyncio.client import ClientConnection, connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
    from websockets.uri import WebSocketURI, parse_uri
except ImportError:
    raise ConfigError("The client needs httpx2 and websockets; run: pip install 'headcount[client]'") from None

VIEWER: Final = {"viewer": "1"}


class Ended(ClientError):  # noqa: N818  reads as a sentence where it is raised
    """
    The stream was open and is over.

    Attributes:
        code: A WebSocket's close code; 1006 for one that just broke off, and for SSE.
        retry: Seconds of the stream's last `retry:` field; 0: there was none.
    """

    def __init__(self, sentence: str, code: int = 1006, retry: float = 0.0) -> None:
        super().__init__(sentence)
        self.code = code
        self.retry = retry


class Stream(Protocol):
    """An open stream."""

    def __aiter__(self) -> AsyncIterator[messages.ServerMessage | None]:
        """
        Yield each message, and None for other bytes, which prove that the stream is alive.

        Raises:
            Ended: The stream has ended. Iteration ends in no other way.
            Malformed: The server sent an invalid message.
        """

    async def subscribe(self, connection_id: str, *, deltas: bool) -> None:
        """
        Subscribe to statistics; the answer comes as a message.

        Raises the errors of `open_stream`, and `Ended`.
        """


class _EventStream:
    def __init__(self, base: str, access: Access, client: "httpx.AsyncClient", response: "httpx.Response") -> None:
        self._base = base
        self._access = access
        self._client = client
        self._response = response

    async def __aiter__(self) -> AsyncIterator[messages.ServerMessage | None]:
        reader = EventReader()
        try:
            async for chunk in self._response.aiter_bytes():
                yield None
                for event in reader.feed(chunk):
                    yield messages.decode(event.data)
        except httpx.HTTPError as error:
            raise Ended(f"The stream broke off ({str(error) or type(error).__name__}).", retry=_retry(reader)) from None
        raise Ended("The server ended the stream.", retry=_retry(reader))

    async def subscribe(self, connection_id: str, *, deltas: bool) -> None:
        url = f"{self._base}/subscribe-stats"
        body = {"connectionId": connection_id, "deltas": deltas}
        response = await self._access.send(self._client, "POST", url, json=body, timeout=CONNECT_TIMEOUT)
        try:
            check_post(url, response)
        except UnknownConnection:
            # Another process holds the stream, or the stream has just ended: a new stream may work.
            raise Ended(
                "The subscription reached another process than the stream; give all processes the same backend."
            ) from None


def _retry(reader: EventReader) -> float:
    return (reader.retry or 0) / 1000


@asynccontextmanager
async def _event_stream(base: str, access: Access, query: dict[str, str]) -> AsyncIterator[Stream]:
    url = f"{base}/sse"
    async with access.http() as client:
        try:
            # The timeout is for the start of the answer; the caller watches for silence.
            timeout = httpx.Timeout(CONNECT_TIMEOUT, read=None)
            request = client.build_request(
                "GET", url, params=query, headers={"accept": "text/event-stream"}, timeout=timeout
            )
            response = await client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise Unreachable(unreachable(url, error, access.proxy)) from None
        try:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code != 200:
                content = await response.aread() if int(response.headers.get("content-length", "0")) < 65_536 else b""
                token = sends_token(access.headers)
                raise failure(url, response.status_code, response.headers, content, token=token)
            if kind != "text/event-stream":
                raise Refused(
                    f"The server answered {kind[:80] or 'nothing'} with status 200; check that the proxy passes "
                    f"{printable_url(base)} on to Headcount."
                )
            yield _EventStream(base, access, client, response)
        finally:
            await response.aclose()


class HomeConnect(connect):
    """Opens a WebSocket, and leaves the own headers behind when it is redirected to another site."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the next URL, or the error."""
        before = self.ws_uri
        following = super().process_redirect(exc)
        if isinstance(following, str) and not is_same_site(_place(before), _place(parse_uri(following))):
            self.additional_headers = None
        return following


def _place(uri: WebSocketURI) -> Place:
    port = None if uri.port == (443 if uri.secure else 80) else uri.port
    return uri.host, port, "https" if uri.secure else "http"


class _WebSocket:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def __aiter__(self) -> AsyncIterator[messages.ServerMessage | None]:
        try:
            while True:
                yield messages.decode(await self._socket.recv())
        except ConnectionClosed as closed:
            code = 1006 if closed.rcvd is None else standard_code(closed.rcvd.code)
            reason = "" if closed.rcvd is None else "".join(c for c in closed.rcvd.reason if c.isprintable())
            raise Ended(reason or f"The server closed the WebSocket ({code}).", code) from None

    async def subscribe(self, connection_id: str, *, deltas: bool) -> None:  # noqa: ARG002  the stream says whose it is
        try:
            await self._socket.send(
                msgspec.json.encode({"type": "subscribe-stats", "deltas": deltas}).decode(), text=True
            )
        except ConnectionClosed:
            return  # reading raises the reason


@asynccontextmanager
async def _websocket(base: str, access: Access, query: dict[str, str]) -> AsyncIterator[Stream]:
    url, shown = f"{base}/ws?{urlencode(query)}", f"{printable_url(base)}/ws"
    headers = dict(access.headers)
    try:
        socket = await HomeConnect(
            "ws" + url.removeprefix("http"),
            additional_headers={name: value for name, value in headers.items() if name not in ("user-agent", "origin")},
            user_agent_header=headers.get("user-agent"),
            origin=headers.get("origin"),  # type: ignore[arg-type]
            ssl=access.tls(url),
            proxy=access.proxy or None,
            compression=None,  # messages are small: compression contexts cost more than they save
            ping_interval=None,  # the client watches the server's keepalives
            open_timeout=CONNECT_TIMEOUT,
            close_timeout=1,
            max_size=MAX_EVENT,
        )
    except InvalidStatus as error:
        response = error.response
        if response.status_code == 403:
            # Servers answer 403 to any WebSocket they reject: for its path, its origin or its right.
            raise Refused(f"{shown} refuses WebSockets (403); check the URL and the credentials.") from None
        body, token = bytes(response.body or b""), sends_token(access.headers)
        raise failure(f"{base}/ws", response.status_code, dict(response.headers), body, token=token) from None
    except ImportError:
        raise ConfigError(NO_SOCKS) from None
    except InvalidURI:
        raise Refused(f"{printable_url(base)} is not a URL for WebSockets.") from None
    except InvalidHandshake as error:
        sentence = f"The server at {shown} did not accept a WebSocket ({str(error).rstrip('.')})."
        raise Unreachable(sentence) from None
    except (OSError, TimeoutError, WebSocketException) as error:
        raise Unreachable(unreachable(base, error, access.proxy)) from None
    try:
        yield _WebSocket(socket)
    finally:
        await socket.close()


def open_stream(
    kind: Literal["sse", "ws"], base: str, access: Access, query: dict[str, str]
) -> AbstractAsyncContextManager[Stream]:
    """
    Open a stream below the URL `base`; leaving the `async with` closes it.

    Raises:
        Unreachable: No answer, or an error that may pass.
        NotAuthorized: 401 or 403.
        Refused: Another answer.
    """
    return (_websocket if kind == "ws" else _event_stream)(base, access, query)
