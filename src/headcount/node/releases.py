"""
Which version is current: the one that was declared last, and when that was.

One object that the node and its view of the fleet are given: an operator declares a version here or on another node,
and whichever of two declarations is newer wins on all nodes.
"""

from collections.abc import Callable
from contextlib import suppress

from ..core.fleet_messages import MAX_NUMBER, Released
from ..core.labels import parse_version
from ..errors import Malformed


class Releases:
    """
    The versions that were declared current.

    Args:
        own_version: The server's, which is current until one is declared.
        timestamp: Returns milliseconds since 1970.
        announce: Declares a version that another node told of, and tells every stream of this node.
    """

    def __init__(
        self, own_version: str, timestamp: Callable[[], int], announce: Callable[[str, int], object] = lambda *_: None
    ) -> None:
        self.released: Released | None = None
        """The last declaration; None: there was none."""
        self._own_version = own_version
        self._timestamp = timestamp
        self._announce = announce

    @property
    def current(self) -> str:
        """The version that was declared last, else the server's own."""
        return self._own_version if self.released is None else self.released.version

    def declare(self, version: str, number: int = 0) -> bool:
        """
        Declare a version current. To be called with the node's lock held.

        Args:
            version: From `parse_version`.
            number: When that was, as `Released` has it; 0: just now.

        Returns:
            Whether there is another current version now, which every stream must be told. False for a declaration that
            is older than the last.
        """
        before = self.released
        if not number:
            number = max(self._timestamp(), 0 if before is None else before.number + 1)
        declared = Released(min(number, MAX_NUMBER), version)
        if before is not None and declared <= before:
            return False
        self.released = declared
        return before is None or before.version != version

    def learn(self, released: Released) -> None:
        """Declare what another node told of, unless it is older. One that is no version is ignored."""
        with suppress(Malformed):
            self._announce(parse_version(released.version), released.number)
