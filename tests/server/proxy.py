"""A TCP proxy that a test can make slow, deaf or dead, to stand for the network between a node and Redis."""

import asyncio
from contextlib import suppress
from typing import Self


class Proxy:
    """
    Forwards to a port on this machine.

    Attributes:
        delay: Seconds that everything takes, each way.
        cut: What is sent goes nowhere, and nobody is told: as with a pulled cable.
    """

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self.cut = False
        self._target = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.CancelledError):
            there, here = await asyncio.open_connection("127.0.0.1", self._target)
            ways = [
                asyncio.ensure_future(self._forward(reader, here)),
                asyncio.ensure_future(self._forward(there, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
                here.close()
        writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if not self.cut:
                    writer.write(data)
                    await writer.drain()
            while self.cut:  # not even the end gets through
                await asyncio.sleep(0.05)
