"""
Which subscriber is due what, and when: a delta, a snapshot, or nothing for now.

A machine without I/O. Time is an argument, whether a subscriber is busy is asked by a predicate, and every mutator
returns what the caller must do. Subscribers are known by a key of the caller's choice.

The rules, and there are no others:

1. A subscriber is sent a chain: a snapshot, then deltas, each of which starts at the revision where the message before
   it ended. Whoever cannot be sent the next delta gets a snapshot, which starts a new chain.
2. While a subscriber is busy (its last message is still on its way) or withheld (its right is waiting to be checked
   again), it is sent nothing, and all that is kept of it is that a snapshot is due: constant memory however slow it is.
3. After `reauthorize_interval` without a verdict a subscriber is withheld; after `expires_in` its right has expired.
   An expired or removed subscriber is sent nothing.
4. What was chosen but has not been sent when a newer chain starts is void: the epochs differ.
5. After a large message the next flush waits, so that no subscriber is sent more than `MAX_BYTES_PER_SECOND`, whatever
   visitors change.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from enum import Enum, auto
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from . import visibility
from .visibility import Visibility

K = TypeVar("K", bound=Hashable)

MAX_BYTES_PER_SECOND: Final = 2_000_000
"""Of the deltas, and of the snapshots instead of deltas, that one subscriber is sent."""


class Right(visibility.Right, Protocol):
    """What a subscriber may see, and for how long."""

    @property
    def expires_in(self) -> float | None:
        """Seconds from the verdict; None: until it is withdrawn."""


class Due(Enum):
    """What is to be done for a subscriber."""

    NOTHING = auto()
    """It is up to date, busy or withheld."""
    DELTA = auto()
    """Send it the delta of this flush."""
    SNAPSHOT = auto()
    """Send it the snapshot of the last flush."""
    FLUSH = auto()
    """Flush: the figures have moved on, and it gets a snapshot then."""
    WITHDRAW = auto()
    """Its right has expired: remove it and say so."""


class Push(msgspec.Struct, Generic[K], frozen=True, gc=False):
    """
    A message that was chosen for a subscriber. Before it is sent, `is_current()` must be asked.

    A struct, because a flush makes one for each subscriber, and a named tuple takes three times as long.
    """

    key: K
    visibility: Visibility
    epoch: int
    due: Due
    """`DELTA` or `SNAPSHOT`."""


class Flush(NamedTuple, Generic[K]):
    """What a flush comes to."""

    pushes: list[Push[K]]
    expired: list[K]
    """Subscribers whose right has expired: remove them and say so."""
    withheld: int
    """Subscribers that get nothing until their right has been checked again."""
    conflated: int
    """Subscribers that get a snapshot once they have read what they were sent."""


class Rechecks(NamedTuple, Generic[K]):
    """Subscribers whose right must be looked at."""

    due: list[K]
    """Check these again, and call `recheck_ended()` whatever comes of it."""
    expired: list[K]
    """Subscribers whose right has expired: remove them and say so."""


class _Subscriber:
    __slots__ = (
        "deltas",
        "epoch",
        "expires_at",
        "good_until",
        "recheck_at",
        "rechecking",
        "revision",
        "right",
        "visibility",
    )

    def __init__(self, right: Right, *, deltas: bool) -> None:
        self.right = right
        self.visibility = Visibility.of(right)
        self.deltas = deltas
        self.revision: int | None = None
        """Of the last message chosen for it; None: a snapshot is due."""
        self.epoch = 0
        """Chains started so far."""
        self.good_until = 0.0
        self.recheck_at = 0.0
        self.rechecking = False
        self.expires_at: float | None = None

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and now >= self.expires_at


class PushPolicy(Generic[K]):
    """
    The subscribers of one node, and what each is due.

    Args:
        reauthorize_interval: Seconds for which a verdict holds.
    """

    def __init__(self, reauthorize_interval: float) -> None:
        self.flushed = 0
        """Revision of the last flush: what a subscriber must have been sent to be up to date."""
        self.pause = 0.0
        """Seconds for which the next flush waits at least, because the last one was large."""
        self._interval = reauthorize_interval
        self._subscribers: dict[K, _Subscriber] = {}

    def __len__(self) -> int:
        return len(self._subscribers)

    def __iter__(self) -> Iterator[K]:
        return iter(self._subscribers)

    def __contains__(self, key: object) -> bool:
        return key in self._subscribers

    @property
    def shows_connections(self) -> bool:
        """A subscriber may see the list of connections. O(subscribers)."""
        return any(subscriber.visibility.connections for subscriber in self._subscribers.values())

    def add(self, key: K, right: Right, *, deltas: bool, now: float, recheck_after: float) -> None:
        """
        Add a subscriber. The caller must then call `restart()`, so that it gets a first snapshot.

        Args:
            key: New.
            right: The verdict.
            deltas: It understands deltas.
            now: Monotonic seconds.
            recheck_after: Seconds after which the right should be checked again, less than `reauthorize_interval`.
        """
        self._subscribers[key] = subscriber = _Subscriber(right, deltas=deltas)
        self._set_right(subscriber, right, now)
        self._hold(subscriber, now, recheck_after)

    def remove(self, key: K) -> bool:
        """Remove a subscriber. Returns whether there was one; what was chosen for it is void."""
        return self._subscribers.pop(key, None) is not None

    def reset(self, flushed: int) -> None:
        """Start anew with figures from another source, flushed up to revision `flushed`: everybody gets a snapshot."""
        self.flushed = flushed
        for subscriber in self._subscribers.values():
            subscriber.revision = None

    def flush(
        self, base: int | None, revision: int | None, now: float, busy: Callable[[K], bool], *, ready: bool = True
    ) -> Flush[K]:
        """
        Decide for every subscriber after the changes were collected.

        Args:
            base: Revision at which the delta of this flush starts; None: nothing has changed.
            revision: Revision at which it ends.
            now: Monotonic seconds.
            busy: Says whether a subscriber's last message is still on its way.
            ready: False: nobody is sent anything yet. All are due once it is True.

        O(subscribers).
        """
        if revision is not None:
            self.flushed = revision
        pushes: list[Push[K]] = []
        expired: list[K] = []
        withheld = conflated = 0
        if not ready:
            return Flush(pushes, expired, withheld, conflated)
        flushed = self.flushed
        for key, subscriber in self._subscribers.items():
            before = subscriber.revision
            if subscriber.expires_at is not None and now >= subscriber.expires_at:  # not a call: once per subscriber
                expired.append(key)
            elif before == flushed:
                pass
            elif now >= subscriber.good_until:
                subscriber.revision = None
                withheld += 1
            elif busy(key):
                subscriber.revision = None
                conflated += 1
            else:
                due = Due.DELTA if subscriber.deltas and before is not None and before == base else Due.SNAPSHOT
                subscriber.revision = flushed
                pushes.append(Push(key, subscriber.visibility, subscriber.epoch, due))
        return Flush(pushes, expired, withheld, conflated)

    def pause_after(self, sizes: Iterable[int]) -> None:
        """Note the bytes of the messages of a flush. What happens during the pause after it goes into one message."""
        self.pause = max(sizes, default=0) / MAX_BYTES_PER_SECOND

    def restart(self, key: K, newest: int, now: float, *, busy: bool, ready: bool = True) -> Due:
        """
        Start a new chain for a subscriber: after it was added, has caught up, or its right was confirmed or changed.

        Args:
            key: The subscriber.
            newest: Revision of the figures now, which may be past that of the last flush.
            now: Monotonic seconds.
            busy: Its last message is still on its way.
            ready: False: nobody is sent anything yet.

        Returns:
            `SNAPSHOT`, `FLUSH`, `WITHDRAW`, or `NOTHING`: it gets a snapshot once it is no longer busy or withheld.
        """
        subscriber = self._subscribers[key]
        subscriber.revision = None
        subscriber.epoch += 1
        if not ready:
            return Due.NOTHING
        if subscriber.expired(now):
            return Due.WITHDRAW
        if newest != self.flushed:
            return Due.FLUSH
        if busy or now >= subscriber.good_until:
            return Due.NOTHING
        subscriber.revision = self.flushed
        return Due.SNAPSHOT

    def is_current(self, push: Push[K]) -> bool:
        """Say whether a push may still be sent: its subscriber is there, and has started no other chain since."""
        subscriber = self._subscribers.get(push.key)
        return subscriber is not None and subscriber.epoch == push.epoch

    def missed(self, key: K) -> None:
        """Note that a push could not be sent, because the subscriber had become busy: a snapshot is due."""
        subscriber = self._subscribers.get(key)
        if subscriber is not None:
            subscriber.revision = None
            subscriber.epoch += 1

    def snapshot_is_due(self, key: K) -> bool:
        """Say whether a subscriber that has caught up must be sent a snapshot: call `restart()` then."""
        subscriber = self._subscribers.get(key)
        return subscriber is not None and subscriber.revision is None

    def visibility(self, key: K) -> Visibility:
        """Return what a subscriber may see."""
        return self._subscribers[key].visibility

    def rechecks(self, now: float, among: Callable[[K], bool]) -> Rechecks[K]:
        """
        Return the subscribers whose right must be checked again now, each of them once until `recheck_ended()`.

        Args:
            now: Monotonic seconds.
            among: Says whether a subscriber is to be looked at.

        O(subscribers).
        """
        due: list[K] = []
        expired: list[K] = []
        for key, subscriber in self._subscribers.items():
            is_expired = subscriber.expires_at is not None and now >= subscriber.expires_at
            is_due = now >= subscriber.recheck_at and not subscriber.rechecking
            if not (is_expired or is_due) or not among(key):
                continue
            if is_expired:
                expired.append(key)
            else:
                subscriber.rechecking = True
                due.append(key)
        return Rechecks(due, expired)

    def recheck_ended(self, key: K) -> None:
        """Note that a check ended. One that was broken off is due again: a right must not last because of that."""
        subscriber = self._subscribers.get(key)
        if subscriber is not None:
            subscriber.rechecking = False

    def confirm(self, key: K, right: Right, now: float, recheck_after: float) -> bool:
        """
        Note the verdict of a check: the subscriber still has a right, perhaps another one.

        The same `expires_in` as before does not prolong a right.

        Returns:
            Whether a snapshot is due: call `restart()` then.
        """
        subscriber = self._subscribers[key]
        before = subscriber.visibility
        if right != subscriber.right:
            self._set_right(subscriber, right, now)
        self._hold(subscriber, now, recheck_after)
        return subscriber.visibility != before or subscriber.revision is None

    def _set_right(self, subscriber: _Subscriber, right: Right, now: float) -> None:
        subscriber.right = right
        subscriber.visibility = Visibility.of(right)
        subscriber.expires_at = None if right.expires_in is None else now + right.expires_in

    def _hold(self, subscriber: _Subscriber, now: float, recheck_after: float) -> None:
        subscriber.recheck_at = now + recheck_after
        subscriber.good_until = now + self._interval
