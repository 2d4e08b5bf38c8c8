"""A TCP server of a test, none of whose connections outlives it."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from ssl import SSLContext
from typing import Self

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listener:
    """
    Answers each connection to a port of this machine with `handler`.

    When it is left, all of its connections are closed and all of its handlers are over. asyncio's own server leaves
    some open: those to a peer that does not read, and those whose handler had not begun when the loop ended. The
    garbage collector then warns of them, in whatever test runs.
    """

    def __init__(self, handler: Handler, port: int = 0, *, ssl: SSLContext | None = None) -> None:
        self._handler = handler
        self._port = port
        self._ssl = ssl
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._over = False
        self._server: asyncio.Server

    @property
    def port(self) -> int:
        """Where it listens, also before it is entered again."""
        return self._port

    @property
    def url(self) -> str:
        """The origin of what it serves, without TLS."""
        return f"http://127.0.0.1:{self._port}"

    async def connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection of a handler's own, such as a proxy's to its server. It too is closed at the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers.append(writer)
        return reader, writer

    async def __aenter__(self) -> Self:
        self._over = False
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, ssl=self._ssl)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Go away: connections end, and new ones are refused. Entered again, it is back on the same port."""
        for sock in self._server.sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
        for _turn in range(3):
            # Python 3.11 neither serves nor closes a connection that it accepted just before its server closes.
            await asyncio.sleep(0)
        self._server.close()
        self._over = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        for _turn in range(10):
            await asyncio.sleep(0)  # until what the system had accepted is a connection of the server
        for writer in self._writers:
            writer.transport.abort()  # closing waits until the peer has read all
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)
        self._writers.clear()
        if sys.version_info >= (3, 12):
            await self._server.wait_closed()
        while getattr(self._server, "_active_count", 0):  # before 3.12, `wait_closed` does not wait
            await asyncio.sleep(0)

    # No coroutine: asyncio would make a task of it, and a loop that ends cancels that task before its first step. Then
    # nobody would close the connection.
    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._over:
            writer.transport.abort()  # it was accepted at the last moment
            return
        self._writers.append(writer)
        task = asyncio.ensure_future(self._handle(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()
