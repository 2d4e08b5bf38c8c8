"""
What Headcount raises.

    HeadcountError
    ├── ConfigError            something is missing or cannot be; the sentence says what came and what to do
    │   ├── WrongSetting       one setting's value
    │   └── NoVersion          no version was given, and none is known
    ├── UnknownConnection      never opened, or already closed
    ├── NotAuthorized          a viewer without the right, or one that lost it
    ├── ClientError            what a client asked for could not be had
    │   ├── Unreachable        no answer, or one that says to come back later; trying again may help
    │   └── Refused            an answer that trying again does not change
    ├── Busy                   503: too much is going on; come again
    └── ProtocolError          a peer sent something that the wire does not allow
        ├── Malformed          400 · WebSocket 4400
        └── TooLarge           413 · WebSocket 4400

A leaf: imports nothing of Headcount.

Tests: tests/test_config.py, tests/asgi/test_abuse.py.
"""

from typing import Final

UNKNOWN_HANDLE: Final = (
    "No open connection has this connectionId; open a new stream and use the connectionId from its `connected` message."
)
"""Sent to a client that names a connection which is not open; the text of an `UnknownConnection`."""


class HeadcountError(Exception):
    """Root of the tree; catch it to catch all of them."""


class ConfigError(HeadcountError):
    """A setting is missing, unknown or out of range, or what it needs is not there."""


class WrongSetting(ConfigError):  # noqa: N818  reads as a sentence where it is raised
    """
    The value of one setting is invalid.

    Args:
        setting: Its name in Python.
        complaint: What came and what to give instead: the sentence without its first word, which is the name.
        variable: The environment variable that held the value; None when it was an argument.
    """

    def __init__(self, setting: str, complaint: str, variable: str | None = None) -> None:
        super().__init__(f"{variable or setting} {complaint}")
        self.setting = setting
        self.complaint = complaint
        self.variable = variable


class NoVersion(ConfigError):  # noqa: N818  reads as a sentence where it is raised
    """No version was given, and no variable of a CI system tells one."""


class UnknownConnection(HeadcountError):  # noqa: N818  the contract's word
    """No open connection of that id."""


class NotAuthorized(HeadcountError):  # noqa: N818  reads as a sentence where it is raised
    """A viewer has no right to see statistics, or has lost it."""


class ClientError(HeadcountError):
    """A client could not do what it was asked to."""


class Unreachable(ClientError):  # noqa: N818  reads as a sentence where it is raised
    """No answer, or one that says to come back later. `retry_after`: after how many seconds, if the server said."""

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Refused(ClientError):  # noqa: N818  reads as a sentence where it is raised
    """The server refused; the same request would be refused again."""


class Busy(HeadcountError):  # noqa: N818  reads as a sentence where it is raised
    """Too much of this kind is going on already, or another server did not answer in time; try again later."""


class ProtocolError(HeadcountError):
    """A peer sent something that the wire does not allow; `str()` is one sentence fit to send back."""


class Malformed(ProtocolError):  # noqa: N818  reads as a sentence where it is raised
    """Not JSON, not an object, a wrong field, a bad label."""


class TooLarge(ProtocolError):  # noqa: N818  reads as a sentence where it is raised
    """A message or body above its limit."""
