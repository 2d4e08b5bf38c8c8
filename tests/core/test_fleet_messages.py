"""
The keys of the messages between nodes stay as they are, whatever their names in the code.

A node of an older Headcount ignores messages and fields that it does not know, so what a renamed one says is lost.
"""

from typing import get_args

import msgspec
import pytest

from headcount.core import fleet_messages, tallies

EVERY = ("node", "fleet")
"""The fields of every message."""

MESSAGES = {
    "report": "sequence total versions routes rows released serves known away remembers cut",
    "delta": "base sequence total versions routes rows removed away remembers cut",
    "beat": "sequence re known cut",
    "leave": "sequence away transit",
    "away": "away transit unanswered",
    "forget": "gone",
    "hello": "released serves known",
    "interest": "ttl interval rows released known",
    "want": "rows",
    "ask": "re known",
    "current": "re",
    "answer": "re ok malformed too_many count rows next grant request released ended known agreed rollout agreed_for",
    "navigate": "re handle route",
    "tabs": "re handle set remove",
    "replace": "handle re cut shared",
    "release-reply": "re handle version reply reason tab",
    "acknowledge": "re handle id tab",
    "bye": "re handle tab",
    "subscribe": "re handle deltas",
    "unsubscribe": "re handle",
    "decide": "re of",
    "send": "re id message",
    "broadcast": "re message version route acknowledge",
    "release": "re version number unserved stage began",
    "rollout": "re",
    "acknowledged": "re id",
    "revoke": "re id",
    "log-out": "re tickets",
    "page": "re limit after version route",
    "sorted": "re limit sort after version route",
}

STORED: dict[type[msgspec.Struct], str] = {
    tallies.Tally: (
        "at versions away broken unanswered transit left forgotten unknown serves key pages joined fleet life"
    ),
    tallies.SeenAlive: "lived ended",
    fleet_messages.Declaration: "number version unserved stage began",
}


def keys_of(struct: type[msgspec.Struct]) -> set[str]:
    """Return the keys that a struct has on the wire."""
    return {field.encode_name for field in msgspec.structs.fields(struct)}


BY_TAG = {message.__struct_config__.tag: message for message in get_args(fleet_messages.FleetMessage)}


@pytest.mark.parametrize("tag", MESSAGES)
def test_a_message_has_the_tag_and_the_keys_that_older_nodes_know(tag: str) -> None:
    assert {*EVERY, *MESSAGES[tag].split()} <= keys_of(BY_TAG[tag])


@pytest.mark.parametrize("struct", STORED, ids=lambda struct: struct.__name__)
def test_what_is_stored_has_the_keys_that_older_nodes_know(struct: type[msgspec.Struct]) -> None:
    assert set(STORED[struct].split()) <= keys_of(struct)


def test_departed_and_away_pages_keep_the_keys_that_they_had_under_other_names() -> None:
    tally = tallies.Tally(departed={"v1": 1}, away={"v2": 2})
    written = msgspec.msgpack.decode(tallies.encode(tally))
    assert (written["away"], written["broken"]) == ({"v1": 1}, {"v2": 2})
    for message in (
        fleet_messages.Leave(node="0a", sequence=1, departed={"v1": 1}),
        fleet_messages.Departures(node="0a", departed={"v1": 1}, transit=8.0),
    ):
        sent = msgspec.msgpack.decode(fleet_messages.encode(message))
        assert sent["away"] == {"v1": 1}
        assert fleet_messages.decode(fleet_messages.encode(message)) == message
