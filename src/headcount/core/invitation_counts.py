"""
What came of the invitations of one node, as it tells the others.

Tests: tests/asgi/test_staged_releases.py, tests/server/test_staged_releases.py.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Final, TypeAlias

import msgspec

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**40)]

_COUNTED: Final = ("invited", "accepted", "refused", "silent", "gone", "waiting")


class InvitationCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What came of the invitations of one node, or of several together, to the declaration with this number.

    Attributes:
        number: Of the declaration.
        invited: Pages that were asked.
        accepted: Pages that said that they reload.
        refused: Pages whose user said no.
        deferred: Open pages that a guard keeps, by its name.
        silent: Open pages that have not answered.
        gone: Pages that left, or reconnected to another server, without having accepted or refused.
        waiting: Open outdated pages that were not asked yet.
    """

    number: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    invited: Count = 0
    accepted: Count = 0
    refused: Count = 0
    deferred: Annotated[dict[Annotated[str, msgspec.Meta(max_length=32)], Count], msgspec.Meta(max_length=16)] = {}
    silent: Count = 0
    gone: Count = 0
    waiting: Count = 0

    @staticmethod
    def sum(shares: "Iterable[InvitationCounts]") -> "InvitationCounts":
        """Return several shares of the same release together."""
        number, counts, deferred = 0, Counter[str](), Counter[str]()
        for share in shares:
            number = share.number
            deferred.update(share.deferred)
            counts.update({name: getattr(share, name) for name in _COUNTED})
        return InvitationCounts(number, deferred=dict(deferred), **counts)
