"""Labels that strangers send."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.labels import MAX_ROUTE, MAX_VERSION, UNKNOWN, parse_route, parse_version
from headcount.errors import Malformed

FORBIDDEN = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *("\ud800", "\udbff", "\udc00", "\udfff", "\u2028", "\u2029"),
]
HARMLESS = [
    *("__proto__", "constructor", "toString", "(other)", "unknown"),
    *(" ", "\xa0", "é", "日本語", "🦆", "\ue000", "<b>", "'", '"', "\\", "%00", "{}"),
]


@pytest.mark.parametrize("label", HARMLESS)
def test_an_ordinary_label_stays_as_it_is(label: str) -> None:
    assert parse_version(label) == label
    assert parse_route("/" + label) == "/" + label


@pytest.mark.parametrize("character", FORBIDDEN, ids=ascii)
def test_a_control_character_is_malformed_wherever_it_stands(character: str) -> None:
    for text in (character, character + "a", "a" + character, "a" + character + "b"):
        with pytest.raises(Malformed, match="version contains a control character"):
            parse_version(text)
        with pytest.raises(Malformed, match="route contains a control character"):
            parse_route("/" + text)


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
    fixture = json.loads((Path(__file__).parents[2] / "protocol/fixtures/labels.json").read_text())
    ranges = [range(int(first, 16), int(last, 16) + 1) for first, last in fixture["forbidden"]]
    for code in range(0x10000):
        text = f"a{chr(code)}b"
        if any(code in each for each in ranges):
            for parse in (parse_version, parse_route):
                with pytest.raises(Malformed):
                    parse(text)
        else:
            assert parse_version(text) == text
            assert parse_route(text) == text.partition("?")[0].partition("#")[0]
