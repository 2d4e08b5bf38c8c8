"""
Reads the framing of Server-Sent Events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from ..errors import TooLarge

MAX_EVENT: Final = 64 * 1024 * 1024
"""Bytes of one event or line. A stream that sends more is not Headcount's."""


class Event(NamedTuple):
    """One event. `retry` is the newest reconnect delay in ms so far; None: the server sent none."""

    data: str
    name: str
    retry: int | None


class EventReader:
    """
    Parses bytes as they arrive and yields complete events.

    Attributes:
        retry: The newest reconnect delay of the stream in ms; None: the server sent none.
    """

    def __init__(self) -> None:
        self.retry: int | None = None
        self._buffer = bytearray()
        self._searched = 0
        self._after_cr = False
        self._data: list[str] = []
        self._size = 0
        self._name = ""
        self._first = True

    def feed(self, data: bytes) -> Iterator[Event]:
        """
        Yield the events that end in `data`.

        Raises:
            TooLarge: An event has more than `MAX_EVENT` bytes.
        """
        self._buffer += data
        while (line := self._next_line()) is not None:
            event = self._interpret(line)
            if event is not None:
                yield event
        if len(self._buffer) + self._size > MAX_EVENT:
            raise TooLarge(f"The event stream sent an event of more than {MAX_EVENT // 1024**2} MB.")

    def _next_line(self) -> str | None:
        buffer = self._buffer
        if self._after_cr and buffer:
            # The second half of a CR LF that arrived in two pieces.
            if buffer[0] == 0x0A:
                del buffer[0]
            self._after_cr = False
        for position in range(self._searched, len(buffer)) if b"\r" in buffer[self._searched :] else ():
            if buffer[position] in b"\r\n":
                return self._cut(position)
        position = buffer.find(b"\n", self._searched)
        if position >= 0:
            return self._cut(position)
        self._searched = len(buffer)
        return None

    def _cut(self, position: int) -> str:
        self._after_cr = self._buffer[position] == 0x0D
        line = self._buffer[:position].decode("utf-8", "replace")
        del self._buffer[: position + 1]
        self._searched = 0
        if self._first:
            self._first = False
            return line.removeprefix("\ufeff")
        return line

    def _interpret(self, line: str) -> Event | None:
        if not line:
            data, name = self._data, self._name
            self._data, self._name, self._size = [], "", 0
            return Event("\n".join(data), name or "message", self.retry) if data else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
            self._size += len(value)
        elif field == "event":
            self._name = value
        elif field == "retry" and value.isascii() and value.isdecimal() and len(value) < 12:
            self.retry = int(value)
        return None
