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
    ├── Unserved               409: a version that no node serves was to be declared current
    ├── Unsettled              409: the settled version was to be declared current, and the fleet has not settled
    └── ProtocolError          a peer sent something that the wire does not allow
        ├── Malformed          400 · WebSocket 4400
        ├── TooManyMessages    429 · WebSocket 4429
        └── TooLarge           413 · WebSocket 4400

A leaf: imports nothing of Headcount.

Tests: tests/test_config.py, tests/asgi/test_abuse.py.
"""

from collections.abc import Mapping, Sequence
from typing import Final

UNKNOWN_HANDLE: Final = (
    "No open connection has this connectionId; open a new stream and use the connectionId from its `connected` message."
)
"""Sent to a client that names a connection which is not open; the text of an `UnknownConnection`."""


MAX_NAMED: Final = 3
"""Versions that a sentence names."""


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


class Unserved(HeadcountError):  # noqa: N818  reads as a sentence where it is raised
    """
    A version that no node serves was to be declared current.

    Args:
        version: The version.
        serving: `{version: nodes}` of those that nodes serve.
    """

    def __init__(self, version: str, serving: Mapping[str, int]) -> None:
        super().__init__(
            f"No node serves version {version}; nodes serve {_served(serving)}. Check the "
            "spelling. If another server delivers the front end, add --unserved."
        )


class NoStage(HeadcountError):  # noqa: N818  reads as a sentence where it is raised
    """A staged release was to be changed, and none is current that can be changed so."""


class Unsettled(HeadcountError):  # noqa: N818  reads as a sentence where it is raised
    """
    The version that the fleet has settled on was to be declared current, and the fleet has not settled on one.

    Args:
        serving: `{version: nodes}` of those that nodes serve.
        nodes: How many nodes there are, those included that do not say which version they serve.
        settle_time: Seconds for which all nodes must have served the same version.
    """

    def __init__(self, serving: Mapping[str, int], nodes: int, settle_time: float) -> None:
        silent = nodes - sum(serving.values())
        if len(serving) != 1:
            why = f"nodes serve {_served(serving)}"
        elif silent > 0:
            why = silent_nodes(silent, nodes)
        else:
            why = f"nodes have not all served {_served(serving)} for {settle_time:g} s yet"
        super().__init__(
            f"The fleet has not settled on a version: {why}. Wait until all nodes serve one version, or name the "
            "version: headcount release VERSION URL"
        )


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


class TooManyMessages(ProtocolError):  # noqa: N818  reads as a sentence where it is raised
    """One stream sends more messages than it may."""


class TooLarge(ProtocolError):  # noqa: N818  reads as a sentence where it is raised
    """A message or body above its limit."""


def name_some(names: Sequence[str], most: int = MAX_NAMED) -> str:
    """Return the first names, and how many more there are, as part of a sentence."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def silent_nodes(silent: int, nodes: int) -> str:
    """Return that so many of all nodes do not say which version they serve, as part of a sentence."""
    which = "nodes does not say which version it serves" if silent == 1 else "nodes do not say which version they serve"
    return f"{silent} of {nodes} {which}"


def _served(serving: Mapping[str, int]) -> str:
    """Name the versions that nodes serve, that of most nodes first."""
    return name_some(sorted(serving, key=lambda each: (-serving[each], each))) or "no version that they name"
