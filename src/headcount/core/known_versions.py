"""
The versions that are known: those that nodes serve, those that were released, and those that an operator waits for.

Anybody can open pages of made-up versions, and these share a bounded number of counts. A known version always has a
count of its own, so that no visitor can push a real one under `(other)`, whoever came first.

What was learnt stays known: the pages of a version outlive its nodes and its release. Only the newest are kept, because
another node of the fleet may be wrong.

Tests: tests/core/test_known_versions.py.
"""

from collections.abc import Iterable
from typing import Final

from .labels import UNKNOWN, is_version

MAX_LEARNT: Final = 64
"""Versions that are learnt. When another one comes, the one that was named least recently is forgotten."""

MAX_LISTED: Final = 64
"""Versions that an operator may list."""


class KnownVersions:
    """
    The known versions of one node. Not thread-safe: the caller holds the node's lock.

    Args:
        fixed: Versions that are always known: the node's own, and those that its operator lists.
    """

    __slots__ = ("_fixed", "_learnt", "names")

    def __init__(self, fixed: Iterable[str]) -> None:
        self._fixed = frozenset(fixed)
        self._learnt: dict[str, None] = {}
        self.names = self._fixed
        """All of them, without `unknown`."""

    def learn(self, versions: Iterable[str]) -> bool:
        """
        Take versions for known. What is no version is ignored, and so is `unknown`.

        Returns:
            Whether the known versions are others now.
        """
        before = self.names
        for version in versions:
            if version in self._learnt:
                self._learnt[version] = self._learnt.pop(version)  # the newest is last
            elif version and version != UNKNOWN and version not in self._fixed and is_version(version):
                self._learnt[version] = None
                if len(self._learnt) > MAX_LEARNT:
                    del self._learnt[next(iter(self._learnt))]
        if self._learnt.keys() != self.names - self._fixed:
            self.names = self._fixed.union(self._learnt)
        return self.names is not before
