"""
Which nodes on a store belong to this fleet.

With a `fleet_secret`, everything that a node hands to the store is sealed (core/sealing.py), and what does not open is
ignored. Without one, nodes with an admin token put its fingerprint in what they say, and ignore nodes with another one.
Nodes without either, and those of an older version, say no fingerprint: they belong to every fleet that has no secret.

A *stranger* is a node that the store lists under this fleet's name, and that does not belong to it. Its figures are not
merged. But it may be one of ours, whose secret is being changed: so it is expected, and figures are partial while it is
there. The gate of a deploy stays shut, whoever it is.

Source: docs/adr/0020-fleet-secret.md

Tests: tests/fleet/test_border.py, tests/fleet/backends/test_neighbours.py.
"""

import logging
import os
from collections.abc import Sequence

from ..core import fleet_messages, sealing
from ..core.liveness import MAX_NODES

logger = logging.getLogger("headcount")


class Border:
    """
    A fleet that is open: all that comes is taken. The workers of one machine are such a fleet.

    Args:
        name: Of the fleet, for the log.
    """

    fingerprint = b""
    """In what this node says in the clear; empty: it says none."""
    sealed = False
    """What this node hands to the store is sealed."""

    def __init__(self, name: str = "") -> None:
        self.strangers: frozenset[str] = frozenset()
        """Nodes that the store listed last, and that are not of this fleet."""
        self.ignored = 0
        """Messages and stored values of strangers that were ignored."""
        self._name = name
        self._logged = False

    def seal(self, context: str, data: bytes, at: int) -> bytes:  # noqa: ARG002
        """
        Return data as the store may have it.

        Args:
            context: The channel; for a stored value, its key, such as `release` or `tallies:NODE`.
            data: The message or value.
            at: The time of the store's clock in ms.
        """
        return data

    def open_message(self, context: str, data: bytes, now: int | None, since: int) -> bytes | None:  # noqa: ARG002
        """
        Return a message that came by a channel; None: it is not of this fleet, or it is a replay.

        Args:
            context: The channel.
            data: What came.
            now: The time of the store's clock in ms; None: not known.
            since: When this node came.
        """
        return data

    def open_value(self, context: str, data: bytes) -> bytes | None:  # noqa: ARG002
        """Return a stored value; None: nobody of this fleet wrote it there."""
        return None if sealing.is_sealed(data) else data

    def is_older(self, context: str, data: bytes, known: bytes) -> bool:  # noqa: ARG002
        """Say whether a stored value must give way to one that was read before, because it is forged or older."""
        return False

    def mark(self, context: str, data: bytes) -> bytes:  # noqa: ARG002
        """Return a short value that is no secret as the store may have it."""
        return data

    def read_mark(self, context: str, data: bytes) -> bytes | None:  # noqa: ARG002
        """Return what was marked; None: nobody of this fleet did that."""
        return data

    def accepts(self, message: fleet_messages.FleetMessage) -> bool:
        """Say whether a message is to be carried out. Those of strangers are counted, and not carried out."""
        if not self.is_foreign(message.fleet) or isinstance(message, fleet_messages.PROVEN):
            return True
        self.ignored += 1
        return False

    def is_foreign(self, fingerprint: bytes) -> bool:
        """Say whether a fingerprint is that of another fleet."""
        return bool(fingerprint and self.fingerprint) and fingerprint != self.fingerprint

    def note_strangers(self, nodes: Sequence[str]) -> None:
        """Note which nodes are strangers now: those that the store lists, and whose tallies do not open."""
        self.strangers = frozenset(nodes[:MAX_NODES])
        if nodes and not self._logged:
            self._logged = True
            logger.error(
                "Fleet: nodes with another fleet_secret or admin_token use the fleet name %s on this Redis, such as "
                "node %s. Their connections are not counted here, and figures are partial while they run. If they are "
                "another environment, give each environment a fleet_name of its own. If they are this application, "
                "give all nodes the same fleet_secret. Each process logs this once.",
                self._name,
                nodes[0],
            )


class TokenBorder(Border):
    """
    A fleet whose nodes have an admin token and no secret. The token's fingerprint shows who is a stranger; a stranger
    could forge it.

    Args:
        name: Of the fleet.
        prefix: How its channels begin: no other fleet on that store has the same.
        token: The admin token.
    """

    def __init__(self, name: str, prefix: str, token: str) -> None:
        super().__init__(name)
        self.fingerprint = sealing.derive(token, f"{prefix} admin token").fingerprint


class SecretBorder(Border):
    """
    A fleet with a secret.

    Args:
        name: Of the fleet.
        prefix: How its channels begin: no other fleet on that store has the same.
        secrets: The first one seals; nodes with any of them are of this fleet.
        node: Id of this node.
    """

    sealed = True

    def __init__(self, name: str, prefix: str, secrets: Sequence[str], node: str) -> None:
        super().__init__(name)
        keys = [sealing.derive(secret, prefix) for secret in secrets]
        self._sealer = sealing.Sealer(keys, node, os.urandom(sealing.SESSION_BYTES))
        self._guard = sealing.ReplayGuard()

    def seal(self, context: str, data: bytes, at: int) -> bytes:
        """See `Border`."""
        return self._sealer.seal(context, data, at)

    def open_message(self, context: str, data: bytes, now: int | None, since: int) -> bytes | None:
        """See `Border`."""
        opened = self._sealer.open(context, data)
        if opened is None or now is None or not self._guard.admit(opened, now, since):
            self.ignored += 1
            return None
        return opened.data

    def open_value(self, context: str, data: bytes) -> bytes | None:
        """See `Border`."""
        opened = self._sealer.open(context, data)
        if opened is None:
            self.ignored += 1
        return None if opened is None else opened.data

    def is_older(self, context: str, data: bytes, known: bytes) -> bool:
        """See `Border`."""
        before, found = self._sealer.open(context, known), self._sealer.open(context, data)
        if before is None or found is None:
            return before is not None
        return (found.node, found.session) == (before.node, before.session) and found.number < before.number

    def mark(self, context: str, data: bytes) -> bytes:
        """See `Border`."""
        return self._sealer.mark(context, data)

    def read_mark(self, context: str, data: bytes) -> bytes | None:
        """See `Border`."""
        return self._sealer.read_mark(context, data)


def border_of(name: str, prefix: str, node: str, secrets: Sequence[str], admin_token: str | None) -> Border:
    """
    Make the border of a fleet that meets on a store.

    Args:
        name: Of the fleet, for the log.
        prefix: How its channels begin: no other fleet on that store has the same.
        node: Id of this node.
        secrets: `fleet_secret`.
        admin_token: Tells fleets without a secret apart.
    """
    if secrets:
        return SecretBorder(name, prefix, secrets, node)
    return Border(name) if admin_token is None else TokenBorder(name, prefix, admin_token)
