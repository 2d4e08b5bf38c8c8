"""
`headcount serve`: Headcount as a server of its own, for back ends in any language.

uvicorn with what held streams need: no compression context per WebSocket (it triples the memory of one), no second ping
beside our keepalives, and a stop that drains first.
"""

import asyncio
import ctypes
import gc
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from ..asgi.app import Headcount
from ..asgi.responses import Problem, respond_problem
from ..asgi.takeover.choose import protocol_class
from ..errors import ConfigError
from .supervisor import Workers, reuse_port

logger = logging.getLogger("headcount")

STOP_TIMEOUT = 3
"""Seconds that streams get to end after SIGTERM; then they are cut."""


_M_MMAP_THRESHOLD: Final = -3
"""Source: glibc's malloc.h"""


class _Connections(set[Any]):
    """
    What uvicorn tells to stop, once, when it does; this set tells those that come later, too.

    And it hears all of them out: one that fails must not keep the others from being told. That of uvicorn's own class
    for WebSockets does when a stranger has sent a handshake with a body, and waits.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Begin to tell newcomers. Accepted before the end, a connection may begin after it, and be waited for."""
        self._loop = asyncio.get_running_loop()

    def add(self, connection: Any) -> None:
        """Take one in."""
        super().add(connection)
        if self._loop is not None:
            self._loop.call_soon(self._tell, connection)  # it has only just begun to begin

    def __iter__(self) -> Iterator[Any]:
        """Go through all; once the server stops, through what tells each of them."""
        return super().__iter__() if self._loop is None else map(_Told, super().__iter__())

    def _tell(self, connection: Any) -> None:
        if connection in self:
            _Told(connection).shutdown()


class _Told:
    __slots__ = ("_connection",)

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def shutdown(self) -> None:
        """Tell a connection to stop, or cut it."""
        try:
            self._connection.shutdown()
        except Exception as error:
            logger.warning("A connection could not be told to stop (%r) and is cut.", error)
            with suppress(AttributeError):
                self._connection.transport.abort()


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, headcount: Headcount, ready: Callable[[], None], lifeline: int | None = None
    ) -> None:
        super().__init__(config)
        self._connections = self.server_state.connections = _Connections()
        self._headcount = headcount
        self._ready = ready
        self._lifeline = lifeline
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()

    async def main_loop(self) -> None:
        """
        Wait for the end, once a second telling uvicorn what time it is for the headers of answers.

        uvicorn looks ten times a second whether it is over, which costs a fifth of all that 10,000 idle streams do.
        """
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._woken.wait()
            self._woken.clear()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note that a signal asks for the end, and look at once."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._woken.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            # Not only with the first request: operators want to see every node, and this one knows its address.
            self._headcount.node.join(sockets[0].getsockname()[:2] if sockets else None)
            if self._lifeline is not None:
                asyncio.get_running_loop().add_reader(self._lifeline, self._orphaned)
            # The process is ours to tune. What start-up left is never garbage; and with the default thresholds, every
            # few hundred new connections all of the old ones are looked at again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 50, 1_000)
            _keep_large_blocks_apart()
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._connections.stop()
        await super().shutdown(sockets)
        await self._headcount.node.leave()

    def _orphaned(self) -> None:
        # Our parent is gone, however that happened: nobody would ever stop us, or start those after us.
        assert self._lifeline is not None
        asyncio.get_running_loop().remove_reader(self._lifeline)
        self.should_exit = True
        self._woken.set()


def serve(
    make: Callable[[], Headcount],
    host: str,
    port: int,
    ready: Callable[[str], None],
    *,
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> bool:
    """
    Serve until SIGTERM or SIGINT.

    Args:
        make: Makes what to serve; called in each process.
        host: Address to listen on.
        port: 0 takes a free one.
        ready: Called with the origin, such as http://127.0.0.1:8000, once connections are accepted by all workers.
        workers: Processes that serve.
        say: Tells the operator what happens to workers.

    Returns:
        False when a worker could not be started.

    Raises:
        ConfigError: The address cannot be listened on, or a setting is wrong.
    """
    shared = workers > 1 and reuse_port()
    if shared and port:
        # Sockets that share an address would share it with those of a server that runs already, and nobody be told.
        listen(host, port).close()
    first = listen(host, port, shared=shared)
    port = first.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    origin = f"http://{shown}:{port}"
    if workers == 1:
        try:
            _serve_on(make(), first, lambda: ready(origin))
        finally:
            first.close()
        return True
    _config(make()).load()  # what is wrong with the settings is said once, not by every worker
    # Workers share the memory that holds what is imported by now, until they write to it, as the collector would.
    gc.collect()
    gc.freeze()
    sockets = [first, *(listen(host, port, shared=True) if shared else first for _ in range(workers - 1))]
    crew = Workers(
        sockets,
        lambda sock, serving, lifeline: _serve_on(_worker(make()), sock, serving, lifeline),
        lambda: ready(origin),
        say,
    )
    number = crew.supervise()
    if number is not None:
        signal.raise_signal(number)  # as uvicorn does, so that whoever started us sees how we ended
    return number is not None


def _serve_on(
    headcount: Headcount, sock: socket.socket, ready: Callable[[], None], lifeline: int | None = None
) -> None:
    _Server(_config(headcount, _only_address(sock)), headcount, ready, lifeline).run(sockets=[sock])


def _config(headcount: Headcount, address: tuple[str, int] | None = None) -> uvicorn.Config:
    beneath = _nothing_else(headcount.base_path)
    return uvicorn.Config(
        headcount.wrap(beneath),
        http=protocol_class(headcount, beneath, address),
        log_level="warning",
        access_log=False,
        lifespan="off",
        proxy_headers=False,  # trusted_proxies decides whose word is taken
        server_header=False,
        ws_per_message_deflate=False,
        # Where the kernel gives up silent peers by itself, a ping would only cost.
        ws_ping_interval=None if hasattr(socket, "TCP_USER_TIMEOUT") else 20.0,
        timeout_graceful_shutdown=STOP_TIMEOUT,
    )


def _keep_large_blocks_apart() -> None:
    """
    Have glibc map large blocks apart, as it does at first, so that their memory goes back when they are freed.

    It would raise what counts as large to the largest freed so far. Those are the dictionaries of all connections, a
    megabyte each for 20,000 and made anew every few minutes while pages come and go, and they would leave holes.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def _worker(headcount: Headcount) -> Headcount:
    headcount.node.expect_workers()
    return headcount


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """
    Bind a socket to listen on; `shared`: others of this user may bind the same address.

    Raises:
        ConfigError: In a sentence that says what to do.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"{host} is no address to listen on ({error.strerror}); try 127.0.0.1 or 0.0.0.0.") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port} ({error.strerror}); choose another with --port, or 0 for any free one."
        ) from None
    return sock


def _only_address(sock: socket.socket) -> tuple[str, int] | None:
    """Return the address that every connection accepted by a socket comes to, or None when there may be several."""
    host, port = sock.getsockname()[:2]
    return None if ipaddress.ip_address(host.partition("%")[0]).is_unspecified else (host, port)


def _nothing_else(base_path: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "There is no WebSocket here."})
        else:
            sentence = f"There is nothing here; the endpoints are below {base_path}, such as {base_path}/health."
            await respond_problem(send, Problem(404, sentence))

    return app
