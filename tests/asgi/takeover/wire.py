"""A transport in memory, so that a million peers need no socket."""

import asyncio
from collections.abc import Callable
from typing import Any


class Wire(asyncio.Transport):
    """
    The server's end of one connection. What a protocol writes is kept in `sent` until `read`.

    Attributes:
        reads: The peer reads. While it does not, what is written waits, and the protocol is told to pause.
        waiting: Bytes that the peer has not read.
        closing: The server closed its end, or the peer left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, reads: bool = True) -> None:
        self.sent = bytearray()
        self.reads = reads
        self.waiting = 0
        self.closing = False
        self.reading = True
        self._loop = loop
        self._protocol: Any = None
        self._high = 65_536
        self._paused = False
        self._lost = False

    def begin(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        """Connect to a protocol."""
        self._protocol = make()
        self._protocol.connection_made(self)

    def feed(self, data: bytes) -> None:
        """Let bytes arrive."""
        if data and not self.closing and self.reading:
            self._protocol.data_received(data)

    def leave(self) -> None:
        """Let the peer leave."""
        if not self._lost:
            self.closing = self._lost = True
            protocol, self._protocol = self._protocol, None
            protocol.connection_lost(None)

    def write(self, data: Any) -> None:
        if self.closing and self._lost:
            return
        self.sent += data
        if not self.reads:
            self.waiting += len(data)
            self._look()

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            # A peer that does not read is cut off later, by `abort`.
            if self.reads:
                self._loop.call_soon(self.leave)

    def abort(self) -> None:
        self.closing = True
        self._loop.call_soon(self.leave)

    def is_closing(self) -> bool:
        return self.closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        if not self._lost:
            self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 65_536 if high is None else high
        self._look()

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)}.get(name, default)

    def _look(self) -> None:
        if self.waiting > self._high and not self._paused and not self._lost:
            self._paused = True
            self._protocol.pause_writing()
