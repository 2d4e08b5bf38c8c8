"""Labels that strangers send."""

import json
import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.labels import (
    MAX_ROUTE,
    MAX_VERSION,
    UNKNOWN,
    is_version,
    parse_build_id,
    parse_claimed_version,
    parse_route,
    parse_version,
)
from headcount.errors import Malformed

CONTROLS = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *("\ud800", "\udbff", "\udc00", "\udfff", "\u2028", "\u2029"),
]
OVERRIDES = ["\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069"]
FORBIDDEN = [*CONTROLS, *OVERRIDES]
INVISIBLE = [
    *("\u200b", "\u200c", "\u200d", "\u200e", "\u2060", "\ufeff", "\xad", "\u061c", "\u034f", "\u180e", "\ufe0f"),
    *("\u115f", "\u3164", "\u2800", "\U000e0041", "\U000e0100"),
    *("\xa0", "\u1680", "\u2003", "\u202f", "\u205f", "\u3000"),
    *("\ue000", "\U000f0000", "\u0378", "\uffff"),
]
"""Format characters, marks and letters that show nothing, other spaces, private and unassigned characters."""
HARMLESS = [
    *("__proto__", "constructor", "toString", "a (other)", "unknown."),
    *("a b", "\xe9", "\u65e5\u672c\u8a9e", "\U0001f986", "<b>", "'", '"', "\\", "%00", "{}"),
]
FIXTURE = json.loads((Path(__file__).parents[2] / "protocol/fixtures/labels.json").read_text())


@pytest.mark.parametrize("label", HARMLESS)
def test_an_ordinary_label_stays_as_it_is(label: str) -> None:
    assert parse_version(label) == parse_claimed_version(label) == parse_build_id(label) == label
    assert parse_route("/" + label) == "/" + label
    assert is_version(label)


@pytest.mark.parametrize("character", FORBIDDEN, ids=ascii)
def test_a_control_character_is_malformed_wherever_it_stands(character: str) -> None:
    for text in (character, character + "a", "a" + character, "a" + character + "b"):
        with pytest.raises(
            Malformed, match=rf"version contains a character that cannot be seen, U\+{ord(character):04X};"
        ):
            parse_version(text)
        with pytest.raises(Malformed, match="route contains a control character"):
            parse_route("/" + text)


@pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
def test_what_cannot_be_seen_makes_no_second_version_of_one(character: str) -> None:
    for text in (character, character + "v1", "v1" + character, "v" + character + "1"):
        with pytest.raises(Malformed, match=rf"cannot be seen, U\+{ord(character):04X}; send a build id of visible"):
            parse_version(text)
        assert not is_version(text)
        assert parse_route("/" + text) == "/" + text, "a route is what the address bar shows"


@pytest.mark.parametrize("version", [" v1", "v1 ", "v  1", " "])
def test_a_version_has_single_spaces_and_none_at_its_ends(version: str) -> None:
    with pytest.raises(Malformed, match="begins or ends with a space, or has two in a row"):
        parse_version(version)


@pytest.mark.parametrize("version", ["v\uff11", "cafe\u0301", "\uff08other\uff09", "\u2460", "\ufb01x"])
def test_a_version_is_written_in_one_way_of_several(version: str) -> None:
    with pytest.raises(Malformed, match="not in Unicode form NFKC; normalise it before you send it"):
        parse_version(version)


@pytest.mark.parametrize("version", ["\u0301v1", "\u0903", "\u20ddv1"])
def test_a_version_does_not_begin_with_a_character_that_joins_the_one_before(version: str) -> None:
    with pytest.raises(Malformed, match="begins with a combining character; begin it with a letter or a digit"):
        parse_version(version)


def test_letters_of_another_script_are_not_refused() -> None:
    assert parse_version("v1-\u0430") == "v1-\u0430"


@pytest.mark.parametrize("version", ["(other)", "(Other)", "(OTHER)"])
def test_the_label_of_the_rest_cannot_be_claimed(version: str) -> None:
    for parse in (parse_version, parse_claimed_version, parse_build_id):
        with pytest.raises(Malformed, match=r"The version is \(other\), which stands for versions without a count"):
            parse(version)
    assert not is_version(version)


@pytest.mark.parametrize("version", ["", "unknown", "Unknown", "UNKNOWN"])
def test_who_says_unknown_says_nothing(version: str) -> None:
    assert parse_version(version) == UNKNOWN
    assert parse_claimed_version(version) == ""
    with pytest.raises(Malformed, match="The version is empty or 'unknown'; send the build id"):
        parse_build_id(version)


def test_an_empty_version_is_unknown() -> None:
    assert parse_version("") == UNKNOWN == "unknown"


def test_a_version_has_at_most_128_characters_whatever_their_bytes() -> None:
    assert MAX_VERSION == 128
    assert parse_version("🦆" * 128) == "🦆" * 128
    with pytest.raises(Malformed, match=r"version has 129 characters.*at most 128"):
        parse_version("v" * 129)


def test_a_route_has_at_most_512_characters_whatever_their_bytes() -> None:
    assert MAX_ROUTE == 512
    assert parse_route("/" + "🦆" * 511) == "/" + "🦆" * 511
    with pytest.raises(Malformed, match=r"route has 513 characters.*at most 512"):
        parse_route("/" + "a" * 512)


@pytest.mark.parametrize(
    ("raw", "route"),
    [
        ("", "/"),
        ("?", "/"),
        ("#", "/"),
        ("?token=secret", "/"),
        ("#/hash/route", "/"),
        ("/a?token=secret", "/a"),
        ("/a#part", "/a"),
        ("/a?b#c?d#e", "/a"),
        ("/a#b?c", "/a"),
        ("/a/", "/a/"),
        ("a", "a"),
        ("/%3Fa", "/%3Fa"),
    ],
)
def test_query_and_fragment_are_dropped(raw: str, route: str) -> None:
    assert parse_route(raw) == route


def test_what_is_dropped_is_neither_measured_nor_checked() -> None:
    assert parse_route("/" + "a" * 511 + "?" + "q" * 5000) == "/" + "a" * 511
    assert parse_route("/a#\x00") == "/a"


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_a_bounded_encodable_label_or_malformed(text: str) -> None:
    for parse, most in ((parse_version, MAX_VERSION), (parse_route, MAX_ROUTE)):
        try:
            label = parse(text)
        except Malformed:
            continue
        assert 1 <= len(label) <= most
        assert not set(label) & set(FORBIDDEN)
        label.encode()
        assert parse(label) == label


def test_exactly_those_characters_are_refused_that_the_browser_client_strips() -> None:
    routes, versions = (
        {code for first, last in FIXTURE[kind] for code in range(int(first, 16), int(last, 16) + 1)}
        for kind in ("route", "version")
    )
    for code in range(0x10000):
        text = f"a{chr(code)}b"
        if code in routes:
            with pytest.raises(Malformed):
                parse_route(text)
        else:
            assert parse_route(text) == text.partition("?")[0].partition("#")[0]
        if code in versions:
            with pytest.raises(Malformed, match="cannot be seen"):
                parse_version(text)
        elif unicodedata.category(chr(code)) != "Cn" and unicodedata.is_normalized("NFKC", text):
            assert parse_version(text) == text


@pytest.mark.parametrize(("raw", "version"), FIXTURE["versions"])
def test_what_the_browser_client_makes_of_a_version_is_one(raw: str, version: str) -> None:
    assert parse_claimed_version(version) == version
    if raw != version:
        with suppress(Malformed):
            assert parse_claimed_version(raw) != raw
