"""Which nodes on a store belong to a fleet."""

import pytest

from headcount.core import fleet_messages
from headcount.core.fleet_messages import Broadcast, DeclareRelease, Heartbeat, Join, Navigate
from headcount.core.tallies import Tally
from headcount.fleet.backends.redis_values import STRANGER, RedisValues
from headcount.fleet.border import Border, border_of

NODE, OTHER = "0123456789ab", "ba9876543210"
SECRET = "a secret of the fleet"


def border(secrets: tuple[str, ...] = (), token: str | None = None, node: str = NODE, prefix: str = "shop") -> Border:
    return border_of("shop", prefix, node, secrets, token)


def values(of: Border) -> RedisValues:
    return RedisValues(of, lambda: 1_000_000)


OPEN = border()
TOKEN, TOKEN_2 = border(token="the admin token of production"), border(token="the admin token of staging")
SEALED, SEALED_2 = border((SECRET,)), border(("another secret of a fleet",))


@pytest.mark.parametrize(
    ("writer", "reader", "stranger"),
    [
        (OPEN, OPEN, False),
        (OPEN, TOKEN, False),
        (TOKEN, OPEN, False),
        (TOKEN, TOKEN, False),
        (TOKEN, TOKEN_2, True),
        (OPEN, SEALED, True),
        (TOKEN, SEALED, True),
        (SEALED, OPEN, True),
        (SEALED, TOKEN, True),
        (SEALED, SEALED, False),
        (SEALED, SEALED_2, True),
    ],
)
def test_whose_tally_is_read(writer: Border, reader: Border, stranger: bool) -> None:
    tally = Tally(versions={"v1": 3})
    data = values(writer).encode(OTHER, tally)
    found = values(reader).read_tally(OTHER, data)
    assert (found is STRANGER) is stranger
    if not stranger:
        assert found is not None
        assert found.versions == {"v1": 3}
        if reader.sealed:
            assert values(reader).read_tally(NODE, data) is STRANGER, "it is not the tally of another node"


def test_a_secret_outlives_a_change_of_the_admin_token() -> None:
    before, after = border((SECRET,), "the old admin token"), border((SECRET,), "the new admin token", OTHER)
    assert after.open_message("all", before.seal("all", b"x", 5), 5, 0) == b"x"
    assert not before.fingerprint


def test_what_a_node_without_fingerprint_says_is_carried_out_as_before() -> None:
    """A node of an older version names none; nor does one that has no admin token."""
    for each in (OPEN, TOKEN):
        assert each.accepts(Join(node=OTHER))
    assert OPEN.accepts(Join(node=OTHER, fleet=TOKEN.fingerprint))


def test_strangers_can_do_nothing_but_what_the_handle_of_a_page_proves() -> None:
    border = border_of("shop", "shop", NODE, (), "the admin token of production")
    fleet = TOKEN_2.fingerprint
    for refused in (
        Heartbeat(node=OTHER, sequence=1, fleet=fleet),
        DeclareRelease(node=OTHER, re=1, version="v2", fleet=fleet),
        Broadcast(node=OTHER, re=1, message=b"{}", fleet=fleet),
    ):
        assert not border.accepts(refused)
    assert border.ignored == 3
    assert border.accepts(Navigate(node=OTHER, re=1, handle="h", route="/", fleet=fleet))
    assert {each.__name__ for each in fleet_messages.PROVEN} == {
        "Bye", "Navigate", "ReportTabs", "Replace", "Unsubscribe", "Answer"
    }  # fmt: skip


def test_a_message_is_taken_once_at_its_channel_and_by_a_node_that_was_there() -> None:
    one, two = border((SECRET,)), border((SECRET,), node=OTHER)
    sealed = one.seal("all", b"data", 1_000_000)
    assert two.open_message("to:ab", sealed, 1_000_000, 0) is None
    assert two.open_message("all", sealed, None, 0) is None, "without a clock nothing can be new"
    assert two.open_message("all", sealed, 1_000_000, 0) == b"data"
    assert two.open_message("all", sealed, 1_000_000, 0) is None
    late = border((SECRET,), node="ff")
    assert late.open_message("all", sealed, 1_030_000, 1_020_000) is None
    assert two.ignored == 3


def test_an_older_tally_does_not_stand_against_a_later_one() -> None:
    one, reader = border((SECRET,)), border((SECRET,), node=OTHER)
    first, second = (one.seal("tallies:ab", each, 5) for each in (b"1", b"2"))
    assert reader.is_older("tallies:ab", first, second)
    assert not reader.is_older("tallies:ab", second, first)
    assert reader.is_older("tallies:ab", b"forged", second)
    assert not reader.is_older("tallies:ab", second, b"forged")
    assert not reader.is_older("tallies:ab", border((SECRET,), node="ff").seal("tallies:ab", b"", 9), second)
    assert not OPEN.is_older("tallies:ab", b"old", b"new")


def test_strangers_are_logged_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    border = border_of("shop", "shop", NODE, (SECRET,), None)
    border.note_strangers([])
    assert not caplog.records
    border.note_strangers([OTHER])
    border.note_strangers([OTHER, "ff"])
    assert border.strangers == {OTHER, "ff"}
    assert len(caplog.records) == 1
    for words in (OTHER, "fleet name shop", "a fleet_name of its own", "the same fleet_secret", "partial"):
        assert words in caplog.text
    assert SECRET not in caplog.text
