"""
What a server answers about rollouts: how far a release is, who acknowledged a message, the minutes of a day.

Source: protocol/README.md

Tests: tests/client/test_small_parts.py, tests/cli/test_staged_release.py, tests/cli/test_impact.py.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec

from .messages import Reached, read_answer

RolloutStage: TypeAlias = Literal["none", "at-once", "running", "paused", "aborted", "done"]


class Rollout(msgspec.Struct, frozen=True, rename="camel"):
    """
    How far the release is that was declared last.

    Attributes:
        version: The version; None: none was declared.
        state: How pages are asked.
        share: Of the pages that had a turn by now, from 0 to 1.
        until: The share in the end.
        route: Only pages on this route are asked; None: all.
        ends_at: When the last page gets its turn, in ms since 1970; None: the stage is not running.
        invited: Pages that were asked.
        accepted: Pages that said that they reload.
        refused: Pages whose user said no.
        deferred: Open pages that a guard keeps, by its name.
        silent: Open pages that were asked and have not answered.
        gone: Pages that left, or reconnected to another server, without an answer.
        waiting: Outdated pages that were not asked yet.
        total: Open pages.
        outdated: Those that are not on the version; None: that is not known.
        nodes: How many nodes these figures are of, of how many.
        partial: A node is missing.
    """

    state: RolloutStage
    total: Annotated[int, msgspec.Meta(ge=0)]
    version: str | None = None
    share: float = 0.0
    until: float = 1.0
    route: str | None = None
    ends_at: int | None = None
    invited: Annotated[int, msgspec.Meta(ge=0)] = 0
    accepted: Annotated[int, msgspec.Meta(ge=0)] = 0
    refused: Annotated[int, msgspec.Meta(ge=0)] = 0
    deferred: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    silent: Annotated[int, msgspec.Meta(ge=0)] = 0
    gone: Annotated[int, msgspec.Meta(ge=0)] = 0
    waiting: Annotated[int, msgspec.Meta(ge=0)] = 0
    outdated: Annotated[int, msgspec.Meta(ge=0)] | None = None
    nodes: Reached | None = None
    partial: bool = False


_decode_rollout = msgspec.json.Decoder(Rollout).decode


def decode_rollout(content: bytes) -> Rollout:
    """Read the answer of `GET /admin/rollout`. Raises `Malformed` if it has another shape."""
    return read_answer(_decode_rollout, content, "answer about the rollout")


class Notified(msgspec.Struct, frozen=True):
    """
    What came of a message to pages.

    Attributes:
        sent: Pages that it was handed to.
        acknowledged: Those whose client said in time that it has passed the message on.
        partial: A node did not answer, so there may be more of both.
    """

    sent: Annotated[int, msgspec.Meta(ge=0)]
    acknowledged: Annotated[int, msgspec.Meta(ge=0)]
    partial: bool


_decode_notified = msgspec.json.Decoder(Notified).decode


def decode_notified(content: bytes) -> Notified:
    """Read the answer of `POST /admin/notify`. Raises `Malformed` if it has another shape."""
    return read_answer(_decode_notified, content, "answer to a message")


class Minute(msgspec.Struct, frozen=True):
    """
    The figures of a minute.

    Attributes:
        at: In ms since 1970.
        total: Open connections.
        versions: `{version: count}` of the largest and the current one; the rest is `(other)`.
        outdated: Connections on other versions than the current one; None: that is not known.
        current: The current version; None: it is not known.
        partial: Connections were missing at some time of it.
    """

    at: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    total: Annotated[int, msgspec.Meta(ge=0)]
    versions: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    outdated: Annotated[int, msgspec.Meta(ge=0)] | None = None
    current: str | None = None
    partial: bool = False


class _Minutes(msgspec.Struct):
    samples: list[Minute]


class _History(msgspec.Struct):
    minutes: _Minutes


_decode_history = msgspec.json.Decoder(_History).decode


def decode_minutes(content: bytes) -> list[Minute]:
    """Read the minutes in the answer of `GET /admin/history`. Raises `Malformed` if it has another shape."""
    return read_answer(_decode_history, content, "history").minutes.samples
