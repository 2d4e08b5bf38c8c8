"""
Which version is current.

Rules:

1. The version that was declared last. It must be one that a live node serves, or the operator insisted on it, because
   another server delivers the front end. A declared version that no live node serves any more, as after a roll-back
   that nobody declared, is orphaned: then it is not known which version is current. Nor is it while a node serves a
   version that none served at the declaration: then the next rollout is under way, and the pages of the new version
   must not be asked to go back.
2. Without a declaration, the version that the fleet has settled on: the one that all live nodes have served for
   `settle_time`. A node that never had others is settled at once.
3. Else it is not known, as in a rolling update before the release: nodes serve several versions, or one does not say
   (a node of an older Headcount). Then nobody is known to be outdated, and nobody is known to be up to date.

Releases have an order, and all nodes know the same one without asking one another: a declaration carries its number
(`Declaration`), and a version that the fleet has settled on without any has `SETTLED_RELEASE`, which is less.

A node that has not reported yet decides nothing: the figures are partial because of it.

Tests: tests/core/test_current_version.py.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from .labels import OTHER

State: TypeAlias = Literal["declared", "settled", "unsettled", "orphaned"]
"""Why a version is current, or why none is: see above."""

STATES: Final[tuple[State, ...]] = ("declared", "settled", "unsettled", "orphaned")

MAX_NAMED: Final = 3
"""Versions that a sentence names."""


SETTLED: Final = 1e9
"""Seconds of agreement that are enough for every node, whatever its `settle_time`."""

SETTLED_RELEASE: Final = 0
"""Number of a release that nobody declared. There is none after the first declaration, so it is the first of all."""

OWN: Final = "own"
"""The source that says which version this node serves itself."""


class CurrentRelease(msgspec.Struct, frozen=True):
    """
    What a node knows of the release.

    Attributes:
        state: Why `version` is current, or why none is.
        version: The version that was declared or that the fleet settled on; None: neither.
        number: Of two releases of a fleet, the one with the larger number is the newer; None: not known.
    """

    state: State
    version: str | None = None
    number: int | None = None

    @property
    def current(self) -> str | None:
        """The current version; None: it is not known."""
        return None if self.state == "orphaned" else self.version


UNSETTLED: Final = CurrentRelease("unsettled")
"""What a page hears that is to know of no release."""


class CurrentVersion:
    """
    Works out which version is current from what was declared and what the nodes serve.

    What the nodes serve is learnt from several sources, such as the nodes' reports and the backend's store, which may
    lag behind one another. Only what all of them say counts as agreement. Not thread-safe, and without a clock.

    Args:
        own: The version that this node serves; empty: it serves none.
        settle_time: Seconds for which all nodes must have served the same version.
        needs: Sources without which nothing is settled: this node may not have seen the others yet.
    """

    __slots__ = (
        "_agreed",
        "_beside",
        "_declared",
        "_disagreed",
        "_insisted",
        "_is_settled",
        "_needs",
        "_number",
        "_settle_time",
        "_since",
        "_sources",
        "_told",
    )

    def __init__(self, own: str, settle_time: float = 0.0, needs: Collection[str] = ()) -> None:
        self._settle_time = settle_time
        self._needs = frozenset(needs)
        self._sources: dict[str, tuple[frozenset[str], bool]] = {OWN: (frozenset([own] if own else []), False)}
        self._declared: str | None = None
        self._insisted = False
        self._beside = frozenset[str]()
        """The versions that nodes served at the declaration; empty: that is not known."""
        self._number = SETTLED_RELEASE
        self._agreed: str | None = None
        self._since: float | None = None
        """When the nodes began to agree, as the clock of `look` has it; None: it has not been looked at since."""
        self._told = "", 0.0
        """On which version all nodes agreed, as another one said, and since when."""
        self._is_settled = False
        self._disagreed = False
        """Nodes served several versions since the fleet had settled last."""
        self._agree()

    @property
    def release(self) -> CurrentRelease:
        """Which version is current, and why."""
        if self._declared is not None:
            served = frozenset[str]().union(*(versions for versions, _ in self._sources.values()))
            if not self._insisted and self._declared not in served:
                return CurrentRelease("orphaned", self._declared, self._number)
            if not self._insisted and self._beside and served - self._beside - {self._declared}:
                return UNSETTLED
            return CurrentRelease("declared", self._declared, self._number)
        return (
            CurrentRelease("settled", self._agreed, SETTLED_RELEASE)
            if self._is_settled
            else CurrentRelease("unsettled")
        )

    @property
    def shown(self) -> CurrentRelease | None:
        """What figures say of the release; None: nothing was declared, and no node says which version it serves."""
        said = self._declared is not None or any(versions or silent for versions, silent in self._sources.values())
        return self.release if said else None

    @property
    def settled(self) -> str | None:
        """The version that the fleet has settled on, whatever was declared; None: it has not settled."""
        return self._agreed if self._is_settled else None

    @property
    def agreement(self) -> str | None:
        """The version that all live nodes serve, settled or not; None: they differ, or one does not say."""
        return self._agreed

    def declare(self, version: str, number: int, *, insisted: bool, beside: Iterable[str] = ()) -> bool:
        """
        Take a version for declared.

        Args:
            version: The version.
            number: Of the declaration.
            insisted: It is current though no node serves it.
            beside: The versions that nodes served at the declaration; empty: that is not known.

        Returns:
            Whether another version is current now, or by another release, or for another reason.
        """
        before = self.release
        self._declared, self._number, self._insisted = version, number, insisted
        self._beside = frozenset(beside)
        return self.release != before

    def note(self, source: str, versions: Iterable[str], *, silent: bool) -> bool:
        """
        Note what the other nodes serve.

        Args:
            source: Who says it. Replaces what the same source said before.
            versions: The versions.
            silent: A node does not say which version it serves.

        Returns:
            Whether another version is current now, or for another reason.
        """
        said = frozenset(versions), silent
        if self._sources.get(source) == said:
            return False
        before = self.release
        self._sources[source] = said
        self._agree()
        return self.release != before

    def forget(self, source: str) -> bool:
        """Forget what a source said. Returns whether another version is current now, or for another reason."""
        if source not in self._sources:
            return False
        before = self.release
        del self._sources[source]
        self._agree()
        return self.release != before

    def look(self, now: float) -> bool:
        """
        Settle if the nodes have agreed for long enough.

        Args:
            now: Monotonic seconds.

        Returns:
            Whether another version is current now, or for another reason.
        """
        if self._agreed is None:
            return False
        if self._since is None:
            self._since = now
        if self._is_settled or now - self._since < self._settle_time:
            return False
        self._is_settled, self._disagreed = True, False
        return self._declared is None

    def agreed_for(self, now: float) -> float:
        """Return for how many seconds the nodes have agreed, as far as was looked at; `SETTLED`: for long enough."""
        if self._is_settled:
            return SETTLED
        return 0.0 if self._since is None else max(0.0, now - self._since)

    def adopt(self, version: str, seconds: float, now: float) -> None:
        """Learn from another node for how long the nodes have agreed on a version; it may have seen more of it."""
        if version and self._agreed in (None, version):
            self._told = version, now - seconds
            self._look_back()

    def _look_back(self) -> None:
        """Count the time that another node has seen, also if it said so before this one had seen the others itself."""
        version, since = self._told
        if version and version == self._agreed:
            self._since = since if self._since is None else min(since, self._since)

    def _agree(self) -> None:
        versions = frozenset[str]().union(*(said for said, _ in self._sources.values()))
        mute = any(silent for _, silent in self._sources.values())
        complete = self._needs <= self._sources.keys()
        agreed = next(iter(versions)) if len(versions) == 1 and complete and not mute else None
        if agreed == OTHER:
            agreed = None
        if agreed != self._agreed:
            self._agreed, self._since, self._is_settled = agreed, None, False
            self._look_back()
        if len(versions) > 1 or mute:
            self._told, self._disagreed = ("", 0.0), True
        is_alone = not any(said or mute for source, (said, mute) in self._sources.items() if source != OWN)
        # One that had others a moment ago is no fleet of its own: in a rolling update they are being replaced.
        if agreed is not None and ((is_alone and not self._disagreed) or self._settle_time <= 0):
            self._is_settled = True


def why_unknown(serving: Mapping[str, int] | None, nodes: int, release: CurrentRelease | None = None) -> str:
    """
    Say why the current version is not known, and what to do, as the end of a sentence.

    Args:
        serving: `{version: nodes}` of those that say which version they serve; None: the server does not say.
        nodes: Nodes whose share is in the figures.
        release: What the server says of the release; None: nothing.
    """
    if serving is None:
        return "the current version is not known"
    if release is not None and release.state == "orphaned":
        return (
            f"no node serves {release.version}, which was declared; declare the version that nodes serve: headcount "
            "release VERSION URL"
        )
    versions = sorted(serving, key=lambda version: (-serving[version], version))
    todo = "declare one: headcount release VERSION URL"
    if len(versions) > 1:
        return f"nodes serve {_listed(versions)}, and no release was declared; {todo}"
    silent = nodes - sum(serving.values())
    if len(versions) == 1 and silent <= 0:
        return f"nodes have not served {versions[0]} for long enough, and no release was declared; wait, or {todo}"
    silent = max(1, silent)
    who = "nodes does not say which version it serves" if silent == 1 else "nodes do not say which version they serve"
    return f"{silent} of {nodes} {who}, and no release was declared; {todo}"


def _listed(versions: Sequence[str]) -> str:
    rest = len(versions) - MAX_NAMED
    if rest > 1:
        return f"{', '.join(versions[:MAX_NAMED])} and {rest} other versions"
    return f"{', '.join(versions[:-1])} and {versions[-1]}"
