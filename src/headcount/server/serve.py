"""
The server of `headcount serve`, for back ends in any language.

It is uvicorn with settings for long-lived streams: no compression context per WebSocket (it triples the memory of one),
no ping beside Headcount's own keepalives, and a stop that drains first.

Tests: tests/server/test_servers.py, tests/server/test_stopping.py, tests/cli/test_serve.py.
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

from ..asgi.app import Headcount, endpoints_of
from ..asgi.responses import Problem, respond, respond_problem
from ..asgi.takeover.choose import protocol_class
from ..asgi.takeover.pending_heads import MAX_WEBSOCKET_MESSAGE
from ..errors import ConfigError
from .supervisor import Supervisor, can_reuse_port

logger = logging.getLogger("headcount")

STOP_TIMEOUT = 3
"""Seconds from SIGTERM until streams that are still open are cut."""

_M_MMAP_THRESHOLD: Final = -3
"""Source: glibc's malloc.h"""


class _Connections(set[Any]):
    """
    The connections that uvicorn shuts down when it stops. uvicorn goes through them once; this set also shuts down the
    connections that begin later.

    A connection whose shutdown fails does not keep the others from being shut down. uvicorn's own WebSocket class fails
    so while it waits for a handshake that was sent with a body.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """
        Shut down new connections from now on. uvicorn waits for them too: one may be accepted before the stop and begin
        after it.
        """
        self._loop = asyncio.get_running_loop()

    def add(self, connection: Any) -> None:
        """Add a connection."""
        super().add(connection)
        if self._loop is not None:
            self._loop.call_soon(self._shut_down, connection)  # it is still in connection_made

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the connections; once the server stops, over wrappers whose `shutdown` never raises."""
        return super().__iter__() if self._loop is None else map(_SafeShutdown, super().__iter__())

    def _shut_down(self, connection: Any) -> None:
        if connection in self:
            _SafeShutdown(connection).shutdown()


class _SafeShutdown:
    __slots__ = ("_connection",)

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def shutdown(self) -> None:
        """Shut a connection down; cut it if that fails."""
        try:
            self._connection.shutdown()
        except Exception as error:
            logger.warning("Server: shutdown of a connection failed (%r); the connection is cut.", error)
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
        self._wakeup = asyncio.Event()

    async def main_loop(self) -> None:
        """
        Wait for the stop signal. Once a second, let uvicorn update the Date header of its answers.

        uvicorn itself polls ten times a second, which takes a fifth of the CPU time that 10,000 idle streams take.
        """
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._wakeup.wait()
            self._wakeup.clear()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at once on a signal."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wakeup.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            # Join now and not with the first request: operators want to see every node, and the address is known.
            self._headcount.node.join(sockets[0].getsockname()[:2] if sockets else None)
            if self._lifeline is not None:
                asyncio.get_running_loop().add_reader(self._lifeline, self._on_supervisor_exit)
            # This process runs nothing else, so the collector can be tuned. Objects of the start are never garbage; and
            # with the default thresholds, every few hundred new connections all old ones are traversed again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 50, 1_000)
            _pin_mmap_threshold()
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._connections.stop()
        await super().shutdown(sockets)
        await self._headcount.node.leave()

    def _on_supervisor_exit(self) -> None:
        # Without a supervisor, nothing would stop this worker or replace it.
        assert self._lifeline is not None
        asyncio.get_running_loop().remove_reader(self._lifeline)
        self.should_exit = True
        self._wakeup.set()


def serve(
    make: Callable[[], Headcount],
    host: str,
    port: int,
    ready: Callable[[str], None],
    *,
    workers: int = 1,
    report: Callable[[str], None] = print,
) -> bool:
    """
    Serve until SIGTERM or SIGINT.

    Args:
        make: Makes the Headcount to serve; called in each process.
        host: Address to listen on.
        port: Port to listen on; 0: any free port.
        ready: Called with the origin, such as http://127.0.0.1:8000, once all workers accept connections.
        workers: Number of worker processes.
        report: Called with a sentence for the operator when a worker ends.

    Returns:
        False if a worker could not be started.

    Raises:
        ConfigError: The address cannot be bound, or a setting is invalid.
    """
    raise_file_limit()
    shared = workers > 1 and can_reuse_port()
    if shared and port:
        # Sockets with SO_REUSEPORT would silently share the address with another server that runs already.
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
    _config(make()).load()  # so that an invalid setting is reported once, and not by every worker
    # Workers share the memory of what is imported by now until they write to it, as the collector would.
    gc.collect()
    gc.freeze()
    sockets = [first, *(listen(host, port, shared=True) if shared else first for _ in range(workers - 1))]
    supervisor = Supervisor(
        sockets,
        lambda sock, ready_now, lifeline: _serve_on(_worker(make()), sock, ready_now, lifeline),
        lambda: ready(origin),
        report,
    )
    number = supervisor.supervise()
    if number is not None:
        signal.raise_signal(number)  # as uvicorn does, so that the parent process sees the signal
    return number is not None


def _serve_on(
    headcount: Headcount, sock: socket.socket, ready: Callable[[], None], lifeline: int | None = None
) -> None:
    _Server(_config(headcount, _only_address(sock)), headcount, ready, lifeline).run(sockets=[sock])


def _config(headcount: Headcount, address: tuple[str, int] | None = None) -> uvicorn.Config:
    app, endpoints = _not_found(headcount.base_path), endpoints_of(headcount)
    endpoints.not_found_app = app
    return uvicorn.Config(
        _host_required(headcount.wrap(app)),
        http=protocol_class(endpoints, app, address),
        log_level="warning",
        access_log=False,
        lifespan="off",
        proxy_headers=False,  # trusted_proxies decides which proxies are trusted
        server_header=False,
        ws_per_message_deflate=False,
        ws_max_size=MAX_WEBSOCKET_MESSAGE,
        # Where the kernel closes connections of silent peers itself, a ping only costs.
        ws_ping_interval=None if hasattr(socket, "TCP_USER_TIMEOUT") else 20.0,
        timeout_graceful_shutdown=STOP_TIMEOUT,
    )


def _host_required(app: ASGIApp) -> ASGIApp:
    """Refuse requests of HTTP/1.1 without a Host (RFC 9112, 3.2), which uvicorn accepts."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["http_version"] != "1.1" or any(name == b"host" for name, _ in scope["headers"]):
            await app(scope, receive, send)
        elif scope["type"] == "http":
            await respond_problem(send, Problem(400, "The request has no Host header; send one."))
        else:
            await send({"type": "websocket.close", "code": 1008})

    return checked


def raise_file_limit() -> None:
    """
    Raise the limit of open files to the hard limit: each stream is an open file.

    systemd and Docker start programs with a limit of 1,024, for those that use `select`, and let the others raise it.
    Beyond the limit, uvloop closes each new connection and logs nothing.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says that there is no limit, and has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _pin_mmap_threshold() -> None:
    """
    Keep glibc's threshold for mapping large blocks separately, so that their memory is returned when they are freed.

    By default glibc raises the threshold to the size of the largest block freed so far. The dictionaries of connections
    are such blocks: a megabyte each for 20,000, reallocated every few minutes, and on the heap they would leave holes.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def _worker(headcount: Headcount) -> Headcount:
    headcount.node.expect_workers()
    return headcount


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """
    Bind a listening socket. `shared`: other processes of this user may bind the same address.

    Raises:
        ConfigError: The address is invalid or in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}: not an address of this machine ({error.strerror}); use 127.0.0.1 or 0.0.0.0."
        ) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port} ({error.strerror}); choose another port with --port or HEADCOUNT_PORT; 0 "
            "is any free port."
        ) from None
    return sock


def _only_address(sock: socket.socket) -> tuple[str, int] | None:
    """Return the local address of every connection of a socket; None if there may be several addresses."""
    host, port = sock.getsockname()[:2]
    return None if ipaddress.ip_address(host.partition("%")[0]).is_unspecified else (host, port)


def _not_found(base_path: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "No WebSocket endpoint at this path."})
        elif scope["path"] == "/" and any(
            name == b"accept" and b"text/html" in value.lower() for name, value in scope["headers"]
        ):
            location = f"{base_path.lstrip('/')}/dashboard/".encode()
            await respond(send, 307, b"", b"text/plain", [(b"location", location), (b"vary", b"accept")])
        else:
            sentence = f"Not found: all endpoints are below {base_path}, such as {base_path}/health."
            await respond_problem(send, Problem(404, sentence))

    return app
