"""
`headcount serve`: Headcount as a server of its own, for back ends in any language.

uvicorn with what held streams need: no compression context per WebSocket (it triples the memory of one), no second ping
beside our keepalives, and a stop that drains first.
"""

import gc
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from .asgi.app import Headcount
from .asgi.responses import Problem, respond_problem
from .asgi.takeover.choose import protocol_class
from .errors import ConfigError

STOP_TIMEOUT = 3
"""Seconds that streams get to end after SIGTERM; then they are cut."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            # The process is ours to tune. What start-up left is never garbage; and with the default thresholds, every
            # few hundred new connections all of the old ones are looked at again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 50, 1_000)
            self._ready()


def serve(headcount: Headcount, host: str, port: int, ready: Callable[[str], None]) -> None:
    """
    Serve until SIGTERM or SIGINT.

    Args:
        headcount: What to serve.
        host: Address to listen on.
        port: 0 takes a free one.
        ready: Called with the base URL once connections are accepted.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    sock = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{sock.getsockname()[1]}{headcount.base_path}"
    beneath = _nothing_else(headcount.base_path)
    config = uvicorn.Config(
        headcount.wrap(beneath),
        http=protocol_class(headcount, beneath=beneath),
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
    try:
        _Server(config, lambda: ready(url)).run(sockets=[sock])
    finally:
        sock.close()


def listen(host: str, port: int) -> socket.socket:
    """
    Bind a listening socket.

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
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port} ({error.strerror}); choose another with --port, or 0 for any free one."
        ) from None
    return sock


def _nothing_else(base_path: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "There is no WebSocket here."})
        else:
            sentence = f"There is nothing here; the endpoints are below {base_path}, such as {base_path}/health."
            await respond_problem(send, Problem(404, sentence))

    return app
