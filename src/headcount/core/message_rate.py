"""
How many messages one stream may send: a token bucket that is one number.

The number is the time up to which the messages so far have paid: each message costs a fixed time, and may be paid in
advance as long as the bucket holds. This is the generic cell rate algorithm of ITU-T I.371.
"""

from typing import Final

from ..errors import TooManyMessages

BURST: Final = 64
"""Messages that may come at once."""


class MessageRate:
    """
    The rate of one stream.

    Args:
        per_second: Messages a second, in the long run.
        burst: Messages that may come at once; at least those of a second may.
    """

    __slots__ = ("_advance", "_sentence", "cost")

    def __init__(self, per_second: float, burst: int = BURST) -> None:
        self.cost = 1 / per_second
        """Seconds that a message costs. Who has paid up to now or less may be charged without a call."""
        # Half a message more, so that rounding does not decide.
        self._advance = (max(burst, per_second) - 0.5) / per_second
        self._sentence = f"Too many messages; send at most {per_second:g} a second."

    def charge(self, paid_until: float, now: float) -> float:
        """
        Charge a stream for one message.

        Args:
            paid_until: What the last call returned; 0.0 for a new stream.
            now: Monotonic seconds.

        Returns:
            The new `paid_until`.

        Raises:
            TooManyMessages: The bucket is empty. A message that is refused costs nothing.
        """
        if paid_until <= now:
            return now + self.cost
        if paid_until - now > self._advance:
            raise TooManyMessages(self._sentence)
        return paid_until + self.cost
