"""
Pages that came to this node, and name a stream of another one: candidates for connections that are unaccounted for.

Whether the other node is gone is not known when a page comes: a node that was stopped is found out only later. So a
candidate is kept for a while. A node that lives ends the old stream itself, and then the candidate means nothing.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

MAX_RETURNS: Final = 20_000
"""Candidates kept. The oldest give way; the pages they stand for are then unaccounted for until the grace is over."""

KEPT: Final = 30.0
"""Seconds. A node that is silent is found out after nine."""


class ReturnedPage(NamedTuple):
    """A page that came here. `version` is what it says now."""

    handle: str
    version: str
    came: float


class ReturnedPages:
    """The candidates, by the node that they come from. Not thread-safe."""

    def __init__(self) -> None:
        self._by_node: dict[str, dict[str, ReturnedPage]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nodes(self) -> list[str]:
        """The nodes that pages came from."""
        return list(self._by_node)

    def add(self, node: str, handle: str, version: str, now: float) -> None:
        """Add a page that names a stream of a node. One handle counts once. O(1), but when it is full."""
        pages = self._by_node.setdefault(node, {})
        if handle not in pages:
            self._count += 1
            pages[handle] = ReturnedPage(handle, version, now)
            while self._count > MAX_RETURNS:
                self._drop(next(iter(self._by_node)))

    def discard(self, node: str) -> None:
        """Forget the pages of a node that does not exist."""
        self._count -= len(self._by_node.pop(node, {}))

    def pop_pages(
        self,
        node: str,
        proven: Callable[[ReturnedPage], tuple[str, str] | None],
        since: float = float("-inf"),
        *,
        keep: bool = False,
    ) -> dict[str, str]:
        """
        Return the pages of a node that is gone, and forget them.

        Args:
            node: The node.
            proven: Returns the public id that a handle proves, and the version that its page is counted under; None:
                it proves nothing.
            since: Only those that came at this time or later.
            keep: Do not forget those that prove nothing: they may do so soon.

        Returns:
            `{public id: version}`.
        """
        pages = self._by_node.pop(node, {})
        self._count -= len(pages)
        found: dict[str, str] = {}
        for page in pages.values():
            proof = proven(page) if page.came >= since else None
            if proof is not None:
                found[proof[0]] = proof[1]
            elif keep:
                self._by_node.setdefault(node, {})[page.handle] = page
                self._count += 1
        return found

    def expire(self, now: float) -> None:
        """Forget candidates whose node is alive after all this time. O(candidates)."""
        for node, pages in list(self._by_node.items()):
            old = [handle for handle, page in pages.items() if now - page.came >= KEPT]
            for handle in old:
                del pages[handle]
            self._count -= len(old)
            if not pages:
                del self._by_node[node]

    def _drop(self, node: str) -> None:
        pages = self._by_node[node]
        del pages[next(iter(pages))]
        self._count -= 1
        if not pages:
            del self._by_node[node]
