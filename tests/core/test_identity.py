"""Public ids and the secret handles that prove them."""

import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.fleet_messages import Heartbeat, decode, encode
from headcount.core.identity import (
    ID_BYTES,
    IDS_AT_ONCE,
    MAX_HANDLE,
    MAX_NODE_ID,
    NODE_LENGTH,
    handle_for,
    id_of,
    is_node_id,
    owner_of,
    public_id,
    split_random,
)

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
PUBLIC = public_id("n1", bytes(range(ID_BYTES)))
HANDLE = handle_for(PUBLIC, KEY)


def test_a_public_id_tells_its_node_and_the_random_bytes() -> None:
    assert PUBLIC == "n100010203040506070809"


@given(st.binary(min_size=ID_BYTES, max_size=ID_BYTES), st.binary(min_size=32, max_size=32))
def test_a_handle_proves_its_id(random: bytes, key: bytes) -> None:
    public = public_id("0a1b2c3d", random)
    handle = handle_for(public, key)
    assert id_of(handle, key) == public
    assert len(handle) < MAX_HANDLE == 128
    assert set(handle) <= set(string.ascii_letters + string.digits + "-_.")


def test_the_public_id_alone_proves_nothing() -> None:
    assert id_of(PUBLIC, KEY) is None
    assert id_of(PUBLIC + ".", KEY) is None


@pytest.mark.parametrize("length", range(len(HANDLE)))
def test_a_cut_handle_proves_nothing(length: int) -> None:
    assert id_of(HANDLE[:length], KEY) is None


def test_a_handle_with_something_added_proves_nothing() -> None:
    for handle in (HANDLE + "A", HANDLE + "=", HANDLE + ".", " " + HANDLE, HANDLE + "\n", "." + HANDLE):
        assert id_of(handle, KEY) is None


@pytest.mark.parametrize("position", range(len(HANDLE)))
def test_a_handle_with_one_character_changed_proves_nothing(position: int) -> None:
    for character in "Aa0_":
        if HANDLE[position] != character:
            assert id_of(HANDLE[:position] + character + HANDLE[position + 1 :], KEY) is None


def test_the_handle_of_another_node_proves_nothing() -> None:
    assert id_of(handle_for(PUBLIC, OTHER_KEY), KEY) is None


def test_the_proof_of_another_connection_proves_nothing() -> None:
    another = public_id("n1", bytes(ID_BYTES))
    assert id_of(f"{another}.{HANDLE.partition('.')[2]}", KEY) is None


def test_the_proof_depends_on_the_key_and_not_on_the_id_alone() -> None:
    proofs = {handle_for(PUBLIC, bytes([number]) * 32).partition(".")[2] for number in range(100)}
    assert len(proofs) == 100
    assert all(len(proof) == 32 for proof in proofs)  # 128 bits
    assert all(PUBLIC not in proof for proof in proofs)


@pytest.mark.parametrize(
    "handle", ["", ".", "..", "é.ü", "\ud800.\udfff", f"{PUBLIC}.ü", f"{PUBLIC}.\ud800", "🦆." * 60]
)
def test_nonsense_proves_nothing(handle: str) -> None:
    assert id_of(handle, KEY) is None


@given(st.text(st.characters(exclude_categories=())))
def test_no_guess_proves_anything(guess: str) -> None:
    assert id_of(guess, KEY) is None
    assert id_of(f"{PUBLIC}.{guess}", KEY) is None


def test_the_owner_of_an_id_and_of_its_handle_is_the_node_that_made_them() -> None:
    node = "0a1b2c3d4e5f"
    assert len(node) == NODE_LENGTH
    public = public_id(node, bytes(ID_BYTES))
    assert owner_of(public) == owner_of(handle_for(public, KEY)) == node


@pytest.mark.parametrize("made_up", ["", "0a1b2c3d4e5", "0A1B2C3D4E5F", "0a1b2c3d4e5g", "../../etc/passwd", "🦆" * 12])
def test_a_made_up_id_has_no_owner(made_up: str) -> None:
    assert owner_of(made_up) is None


@pytest.mark.parametrize("text", ["a", "0a1b2c3d4e5f", "f" * MAX_NODE_ID])
def test_a_node_of_another_version_may_have_a_shorter_or_longer_id(text: str) -> None:
    assert is_node_id(text)
    assert decode(encode(Heartbeat(node=text, sequence=1))) == Heartbeat(node=text, sequence=1)


@pytest.mark.parametrize("text", ["", "f" * (MAX_NODE_ID + 1), "0A", "g", "a b", "a/b", "ａ"])
def test_what_is_no_node_id_here_is_none_in_a_message(text: str) -> None:
    assert not is_node_id(text)
    assert decode(encode(Heartbeat(node=text, sequence=1))) is None


def test_random_bytes_are_cut_into_those_of_single_ids() -> None:
    random = os.urandom(IDS_AT_ONCE * ID_BYTES)
    parts = split_random(random)
    assert len(parts) == IDS_AT_ONCE
    assert {len(part) for part in parts} == {ID_BYTES}
    assert b"".join(parts) == random
