"""A TCP proxy that a test can make slow or deaf: a network, or a load balancer that ends connections."""

import asyncio
import re
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Self

from kit.listener import Listener


class Proxy:
    """
    Forwards to a port on this machine.

    Attributes:
        delay: Seconds that everything takes, each way.
        life: Seconds after which each connection is ended; None: never.
        request_life: Seconds after the client's last bytes at which its connection is ended, as load balancers limit
            each request; None: never. A browser sends several requests by one connection.
        answer: Gives, for the method and the path of a request, the answer of the proxy itself; None: the request is
            forwarded. Then each connection has one request.
        requests: Method and path of each request, if there is an `answer`.
    """

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self.life: float | None = None
        self.request_life: float | None = None
        self.answer: Callable[[str, str], bytes | None] | None = None
        self.requests: list[str] = []
        self._target = port
        self._listener = Listener(self._serve)
        self._whole = asyncio.Event()
        self._whole.set()

    @property
    def port(self) -> int:
        """Where it listens, also while it is away."""
        return self._listener.port

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
        await self._listener.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Go away: connections end, and new ones are refused. Entered again, it is back on the same port."""
        await self._listener.__aexit__(*error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b""
        if self.answer is not None:
            head, own = await self._examine(reader, self.answer)
            if own is not None:
                writer.write(own)
                await writer.drain()
                return
        there, here = await self._listener.connect(self._target)
        with closing(here):
            here.write(head)
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

    async def _examine(
        self, reader: asyncio.StreamReader, answer: Callable[[str, str], bytes | None]
    ) -> tuple[bytes, bytes | None]:
        """Read the head of a request. Returns it as it is forwarded, and the proxy's own answer, if there is one."""
        with suppress(asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            path = target.partition("?")[0]
            self.requests.append(f"{method} {path}")
            own = answer(method, path)
            if own is None:
                return re.sub(rb"(?i)\r\nconnection: keep-alive", b"\r\nConnection: close", head), None
            if length := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head):
                await reader.readexactly(int(length[1]))
            return head, own
        raise ConnectionError

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
