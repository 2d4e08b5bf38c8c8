"""What is sealed opens for nodes with the secret, in its context, and once; nothing else opens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core import fleet_messages, sealing
from headcount.core.sealing import Key, Opened, ReplayGuard, Sealer

NODE = "0123456789ab"
SECRET, OTHER = "s" * 16, "t" * 16

PLACES = st.sampled_from(["{headcount:shop}:1:all", "{headcount:shop}:1:to:0123456789ab", "tallies:ab", "", "\ud800"])
DATA = st.binary(max_size=300)


def keys(*secrets: str, fleet: str = "shop") -> list[Key]:
    return [sealing.derive(secret, fleet) for secret in secrets]


def sealer(*secrets: str, session: bytes = b"session1", node: str = NODE) -> Sealer:
    return Sealer(keys(*(secrets or (SECRET,))), node, session)


@given(PLACES, DATA, st.integers(0, 2**63))
def test_what_is_sealed_opens_in_its_context_alone(context: str, data: bytes, at: int) -> None:
    one, two = sealer(), sealer(session=b"session2", node="ff")
    sealed = one.seal(context, data, at)
    assert two.open(context, sealed) == Opened(NODE, b"session1", 1, at, data)
    assert two.open(context + ":", sealed) is None
    assert sealer(OTHER).open(context, sealed) is None
    assert Sealer(keys(SECRET, fleet="shop/2"), NODE, b"session1").open(context, sealed) is None, "another fleet"


@given(PLACES, DATA, st.data())
def test_no_changed_byte_is_believed(context: str, data: bytes, draw: st.DataObject) -> None:
    one = sealer()
    for made, read in ((one.seal(context, data, 5), one.open), (one.mark(context, data), one.read_mark)):
        at = draw.draw(st.integers(0, len(made) - 1))
        bit = draw.draw(st.integers(0, 7))
        assert read(context, made[:at] + bytes([made[at] ^ (1 << bit)]) + made[at + 1 :]) is None
        assert read(context, made[:at]) is None
        assert read(context, made + b"\0") is None
        assert read(context, made) is not None


@given(PLACES, st.binary(max_size=200))
def test_noise_opens_nowhere(context: str, noise: bytes) -> None:
    one = sealer()
    begin = one.seal("", b"", 0)
    for data in (noise, begin[:2] + noise, begin[:10] + noise, begin[:30] + noise):
        assert one.open(context, data) is None
        assert one.read_mark(context, data) is None


def test_a_seal_and_a_mark_are_not_taken_for_one_another() -> None:
    one = sealer()
    assert one.read_mark("context", one.seal("context", b"data", 1)) is None
    assert one.open("context", one.mark("context", b"data")) is None
    assert one.read_mark("context", one.mark("context", b"data")) == b"data"
    assert one.read_mark("elsewhere", one.mark("context", b"data")) is None
    assert sealer(OTHER).read_mark("context", one.mark("context", b"data")) is None


def test_a_context_cannot_be_moved_into_the_data() -> None:
    one = sealer()
    marked = one.mark("ab", b"cd")
    assert one.read_mark("abc", marked[:10] + b"d" + marked[12:]) is None


def test_the_same_data_never_looks_the_same() -> None:
    one, again = sealer(), sealer(session=b"session2")
    data = bytes(200)
    sealed = [each.seal("context", data, 1) for each in (one, one, again, sealer(node="ff"), sealer(OTHER))]
    bodies = {each[-216:-16] for each in sealed}
    assert len(bodies) == 5
    assert data not in bodies


def test_nothing_of_the_data_can_be_read() -> None:
    sealed = sealer().seal("context", b"Authorization: Bearer s3cret", 1)
    assert b"s3cret" not in sealed
    assert len(sealed) == len(b"Authorization: Bearer s3cret") + 63, "what is added is bounded"


def test_while_a_secret_is_changed_each_node_reads_the_others() -> None:
    before, meanwhile, after = sealer(SECRET), sealer(SECRET, OTHER), sealer(OTHER, SECRET)
    for one in (before, meanwhile, after):
        for two in (meanwhile, after):
            assert two.open("context", one.seal("context", b"data", 1)) is not None
            assert two.read_mark("context", one.mark("context", b"data")) == b"data"
    assert before.open("context", after.seal("context", b"data", 1)) is None


def test_for_a_node_without_the_secret_it_is_a_message_of_an_unknown_kind() -> None:
    sealed = sealer().seal("context", fleet_messages.encode(fleet_messages.Heartbeat(node=NODE, sequence=1)), 1)
    assert fleet_messages.decode(sealed) is None
    assert sealing.is_sealed(sealed)
    assert not sealing.is_sealed(fleet_messages.encode(fleet_messages.Heartbeat(node=NODE, sequence=1)))
    assert not sealing.is_sealed(b"")


def test_a_fingerprint_tells_secrets_and_fleets_apart_and_is_no_key() -> None:
    found = [*keys(SECRET), *keys(OTHER), *keys(SECRET, fleet="other")]
    assert len({key.fingerprint for key in found}) == 3
    for key in found:
        assert len({key.fingerprint, key.cipher[:8], key.mac[:8]}) == 3


def opened(number: int, at: int = 1_000_000, *, session: bytes = b"1", node: str = NODE) -> Opened:
    return Opened(node, session, number, at, b"")


@given(st.lists(st.integers(1, 20)))
def test_each_message_is_admitted_at_most_once_and_never_after_a_later_one(numbers: list[int]) -> None:
    guard, highest = ReplayGuard(), 0
    for number in numbers:
        assert guard.admit(opened(number), 1_000_000, 0) is (number > highest)
        highest = max(highest, number)


@pytest.mark.parametrize(
    ("at", "since", "admitted"),
    [
        (1_000_000, 0, True),
        (940_000, 0, True),
        (939_999, 0, False),
        (1_060_000, 0, True),
        (1_060_001, 0, False),
        (995_000, 1_000_000, True),
        (994_999, 1_000_000, False),
    ],
)
def test_a_message_of_another_time_is_refused(at: int, since: int, admitted: bool) -> None:
    """A recording of yesterday is not new to a node that came today."""
    assert ReplayGuard().admit(opened(1, at), 1_000_000, since) is admitted


def test_a_node_that_left_and_came_again_begins_anew_and_its_former_messages_do_not() -> None:
    guard = ReplayGuard()
    assert guard.admit(opened(50, 1_000_000), 1_000_100, 0)
    assert guard.admit(opened(1, 1_000_050, session=b"2"), 1_000_100, 0)
    assert not guard.admit(opened(51, 1_000_040), 1_000_100, 0)
    assert guard.admit(opened(2, 1_000_060, session=b"2"), 1_000_100, 0)
    assert guard.admit(opened(1, node="ff"), 1_000_100, 0), "each node has numbers of its own"


def test_only_so_many_nodes_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MAX_SENDERS", 3)
    guard = ReplayGuard()
    for number in range(10):
        assert guard.admit(opened(1, node=f"{number:02x}"), 1_000_000, 0)
    assert len(guard._last) == 3
