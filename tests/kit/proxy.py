"""A TCP proxy that a test can make slow or deaf: a network, or a load balancer that ends connections."""

import asyncio
from contextlib import closing, suppress
from typing import Self


class Proxy:
    """
    Forwards to a port on this machine.

    Attributes:
        delay: Seconds that everything takes, each way.
        life: Seconds after which each connection is ended; None: never.
        request_life: Seconds after the client's last bytes at which its connection is ended, as load balancers limit
            each request; None: never. A browser sends several requests by one connection.
    """

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self.life: float | None = None
        self.request_life: float | None = None
        self._target = port
        self._over = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self._whole = asyncio.Event()
        self._whole.set()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def cut(self) -> bool:
        """Nothing gets through, and nobody is told; what was sent comes when the cut is over, as TCP has it."""
        return not self._whole.is_set()

    @cut.setter
    def cut(self, cut: bool) -> None:
        if cut:
            self._whole.clear()
        else:
            self._whole.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._over = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.CancelledError), closing(writer):
            if self._over:
                return  # it was accepted at the last moment
            there, here = await asyncio.open_connection("127.0.0.1", self._target)
            with closing(here):
                ways = [
                    asyncio.ensure_future(self._forward(reader, here, self.request_life)),
                    asyncio.ensure_future(self._forward(there, writer)),
                ]
                try:
                    await asyncio.wait(ways, timeout=self.life, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.wait(ways)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float | None = None
    ) -> None:
        with suppress(OSError):  # TimeoutError is one
            while data := await asyncio.wait_for(reader.read(65_536), patience):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        await self._whole.wait()  # not even the end gets through
