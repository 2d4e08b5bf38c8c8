"""
What an open stream needs of the node, for the transports: node/session.py is the other way round.

Tests: tests/asgi/test_streams.py, tests/asgi/test_slow_peers.py.
"""

from typing import NamedTuple

from .admission import Admission
from .node import Node
from .replacements import Replacements
from .rollout import Rollout
from .timers import Timers
from .viewers import Viewers


class NodeParts(NamedTuple):
    """The parts of one node that its streams call. One object for all of them."""

    node: Node
    """Takes what the client asks, and the end of the stream."""
    replacements: Replacements
    """End the stream that a new one replaces."""
    timers: Timers
    """Are told when the peer does not read, and when it reads again."""
    viewers: Viewers
    """Are told when a viewer has read all that was sent."""
    rollout: Rollout
    """Says whether a page hears of a release now."""
    admission: Admission
    """Says whether the server stops, and when clients should reconnect."""
