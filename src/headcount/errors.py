"""
What Headcount raises.

    HeadcountError
    ├── ConfigError            a setting is wrong; the sentence says which, what came and what to do
    ├── UnknownConnection      never opened, or already closed
    └── ProtocolError          a peer sent something that the wire does not allow
        ├── Malformed          400 · WebSocket 4400
        └── TooLarge           413 · WebSocket 4400

A leaf: imports nothing of Headcount.
"""


class HeadcountError(Exception):
    """Root of the tree; catch it to catch all of them."""


class ConfigError(HeadcountError):
    """A setting is missing, unknown or out of range."""


class UnknownConnection(HeadcountError):  # noqa: N818  the contract's word
    """No open connection of that id."""


class ProtocolError(HeadcountError):
    """A peer sent something that the wire does not allow; `str()` is one sentence fit to send back."""


class Malformed(ProtocolError):  # noqa: N818  reads as a sentence where it is raised
    """Not JSON, not an object, a wrong field, a bad label."""


class TooLarge(ProtocolError):  # noqa: N818  as above
    """A message or body above its limit."""
