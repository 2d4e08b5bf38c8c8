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
    """What came of one node's invitations to the release with this number; see `Progress` in core/invitations.py."""

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
