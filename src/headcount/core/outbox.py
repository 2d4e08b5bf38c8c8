"""
The queue policy of one stream: what goes out at once, what waits, and how many messages may wait.

A peer that does not read has one message in flight and a short queue of application messages. Figures are not queued:
only the newest are worth reading, so a push skips a busy stream.
"""

from collections import deque

from .ends import QUEUE_FULL, End
from .payload import Payload


class Outbox:
    """
    The sending half of a stream. A transport inherits from it and says how to send; nothing here does I/O.

    A transport calls `resume` when its peer reads again, and `discard` when the stream is over.
    """

    # A stream that nobody holds up has no queue: most never need one, and there are many streams.
    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[Payload] | None = None

    @property
    def busy(self) -> bool:
        """A message is still on its way."""
        raise NotImplementedError

    @property
    def over(self) -> bool:
        """Nothing but the last message may be sent any more."""
        raise NotImplementedError

    @property
    def max_queued(self) -> int:
        """Messages that may wait."""
        raise NotImplementedError

    def transmit(self, payload: Payload) -> None:
        """Send now; must not be called while busy."""
        raise NotImplementedError

    def end(self, end: End) -> None:
        """End the stream from this side. Idempotent."""
        raise NotImplementedError

    def send(self, payload: Payload) -> None:
        """Send now or, while busy, after what is on its way. A full queue ends the stream."""
        if self.over:
            return
        if not self.busy:
            self.transmit(payload)
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(payload)
        if len(self._queue) > self.max_queued:
            self._queue = None
            self.end(QUEUE_FULL)

    def resume(self) -> bool:
        """Send what waits, until the peer holds the stream up again. Returns whether everything is sent."""
        while self._queue and not self.busy:
            self.transmit(self._queue.popleft())
        if self.busy:
            return False
        self._queue = None
        return True

    def discard(self) -> None:
        """Forget what waits."""
        self._queue = None
