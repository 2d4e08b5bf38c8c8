"""Every message of the wire, against the golden ones and against nonsense."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headcount.core import messages
from headcount.core.current_version import CurrentRelease
from headcount.core.messages import (
    MAX_MESSAGE,
    Acknowledge,
    Ping,
    ReleaseReply,
    RouteBody,
    RouteUpdate,
    SubscribeBody,
    SubscribeStats,
    Tab,
    Tabs,
    TabsBody,
    Unknown,
    UnsubscribeBody,
    UnsubscribeStats,
    decode,
    decode_body,
)
from headcount.core.stats import ConnectionInfo, Nodes, Stats, StatsDelta
from headcount.core.visibility import Visibility
from headcount.errors import Malformed, TooLarge

GOLDEN = json.loads((Path(__file__).parents[2] / "protocol/fixtures/messages.json").read_text())
CLIENT = GOLDEN["client"]
SERVER = GOLDEN["server"]

ROWS = (ConnectionInfo("c1", "v1", "/secret-route"), ConnectionInfo("c2", "v1", "/secret-route", "192.0.2.7"))
FIGURES = Stats(
    total=2, versions={"v1": 2}, routes={"/secret-route": 2}, connections=ROWS, revision=7, nodes=Nodes(1, 1)
)
CHANGES = StatsDelta(7, 8, 2, {"v1": 2}, {"/secret-route": 2}, ROWS, ("c3",))


def text_of(**message: Any) -> str:
    return json.dumps(message)


def test_every_golden_client_message_is_decoded() -> None:
    expected = {
        "subscribe-stats": SubscribeStats(deltas=True),
        "unsubscribe-stats": UnsubscribeStats(),
        "route-update": RouteUpdate("/shopping"),
        "tabs": Tabs((Tab("q3Zk9xYb1VtR7uWm", "v1", "/shopping", True),), ("a-tab-that-was-closed",)),
        "acknowledge": Acknowledge("9f86d081884c7d65", "q3Zk9xYb1VtR7uWm"),
        "release-reply": ReleaseReply("2026.11.4", "deferred", "form", "q3Zk9xYb1VtR7uWm"),
        "ping": Ping(),
    }
    assert {name: decode(json.dumps(message)) for name, message in CLIENT.items()} == expected
    assert {name: decode(json.dumps(message).encode()) for name, message in CLIENT.items()} == expected


@pytest.mark.parametrize("malformed", GOLDEN["malformed"])
def test_every_golden_malformed_message_is_malformed(malformed: str) -> None:
    for data in (malformed, malformed.encode()):
        with pytest.raises(Malformed) as caught:
            decode(data)
        assert str(caught.value).endswith(".")


@pytest.mark.parametrize("route", ["/shopping", "/shipping", "ping", "/ping", "subscribe-stats", '"type":"ping"'])
def test_a_route_that_contains_another_message_is_still_a_route(route: str) -> None:
    assert decode(text_of(type="route-update", route=route)) == RouteUpdate(route)


def test_the_bare_text_ping_is_a_ping() -> None:
    assert decode("ping") == decode(b"ping") == Ping()


@pytest.mark.parametrize("data", ["ping ", " ping", "PING", "ping\n", "pingping", '"ping"', "pong", "shopping"])
def test_nothing_else_that_contains_ping_is_a_ping(data: str) -> None:
    for form in (data, data.encode()):
        with pytest.raises(Malformed):
            decode(form)


def test_deltas_are_only_sent_to_those_who_ask() -> None:
    assert decode('{"type":"subscribe-stats"}') == SubscribeStats(deltas=False)


def test_a_route_loses_query_and_fragment() -> None:
    assert decode(text_of(type="route-update", route="/a?token=secret#b")) == RouteUpdate("/a")
    assert decode(text_of(type="route-update", route="?q")) == RouteUpdate("/")


@pytest.mark.parametrize("name", ["stats", "connected", "Ping", "ping ", "", "__proto__", "🦆", "x" * 1000])
def test_a_type_that_is_not_known_is_unknown_and_not_malformed(name: str) -> None:
    assert decode(text_of(type=name, anything=[1, {"a": None}])) == Unknown(name)


def test_other_fields_are_ignored() -> None:
    assert decode(text_of(type="ping", timestamp=1, more={"type": "nonsense"})) == Ping()
    assert decode(text_of(type="route-update", route="/b", connectionId="x")) == RouteUpdate("/b")


@pytest.mark.parametrize(
    "message",
    [
        {"type": "route-update", "route": None},
        {"type": "route-update", "route": ["/a"]},
        {"type": "route-update", "route": "/" + "a" * 512},
        {"type": "route-update", "route": "/\u2028"},
        {"type": "subscribe-stats", "deltas": 1},
        {"type": "subscribe-stats", "deltas": None},
        {"type": ["ping"]},
        {"type": None},
        {"Type": "ping"},
    ],
    ids=str,
)
def test_a_wrong_field_is_malformed(message: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        decode(json.dumps(message))


def test_a_malformed_message_of_a_known_type_is_named() -> None:
    with pytest.raises(Malformed, match=r"The route-update message is wrong: the field route is missing"):
        decode('{"type":"route-update"}')


def test_a_message_has_at_most_4096_bytes() -> None:
    assert MAX_MESSAGE == 4096
    frame = text_of(type="x", pad="")
    fits = text_of(type="x", pad="a" * (4096 - len(frame)))
    too_long = text_of(type="x", pad="a" * (4097 - len(frame)))
    for form in (fits, fits.encode()):
        assert decode(form) == Unknown("x")
    for longer in (too_long, too_long.encode()):
        with pytest.raises(TooLarge, match=r"The message has 4097 bytes; at most 4096"):
            decode(longer)


def test_the_limit_counts_bytes_and_not_characters() -> None:
    fits = '{"type":"' + "é" * 2042 + '"}'
    too_long = '{"type":"' + "é" * 2043 + '"}'
    assert (len(fits.encode()), len(too_long.encode())) == (4095, 4097)
    assert decode(fits) == decode(fits.encode()) == Unknown("é" * 2042)
    for longer in (too_long, too_long.encode()):
        with pytest.raises(TooLarge):
            decode(longer)


def test_size_is_judged_before_anything_is_read() -> None:
    with pytest.raises(TooLarge):
        decode("not json" * 1000)
    with pytest.raises(TooLarge, match="6000 bytes"):
        decode("\ud800" * 2000)


@pytest.mark.parametrize(
    "data",
    [
        "[" * 4096,
        '{"a":' * 800,
        '{"type":' + "[" * 2000 + "]" * 2000 + "}",
    ],
    ids=["arrays", "objects", "as the type"],
)
def test_deep_nesting_is_malformed(data: str) -> None:
    with pytest.raises(Malformed):
        decode(data)


@pytest.mark.parametrize("kind", ["ping", "unheard-of"])
def test_deep_nesting_in_a_field_that_nobody_reads_is_passed_over_or_malformed(kind: str) -> None:
    # How deep the decoder goes is Python's limit, and that of 3.13 is above what fits into a message.
    try:
        read = decode(f'{{"type":"{kind}","a":' + "[" * 2000 + "]" * 2000 + "}")
    except Malformed as error:
        assert "it is nested too deeply" in str(error)  # noqa: PT017  one of two outcomes
    else:
        assert read == (Ping() if kind == "ping" else Unknown(kind))


@pytest.mark.parametrize(
    "data",
    [
        '{"type":"\ud800"}',
        '{"type":"ping\udfff"}',
        '{"type":"route-update","route":"/\ud800"}',
        r'{"type":"route-update","route":"/\ud800"}',
        r'{"type":"route-update","route":"/\udc00\ud800"}',
        r'{"type":"\ud800"}',
        b'{"type":"route-update","route":"/\xed\xa0\x80"}',
        b'{"type":"\xff"}',
        b"\xff\xfe",
        b'\xef\xbb\xbf{"type":"ping"}',
    ],
    ids=ascii,
)
def test_what_is_no_text_is_malformed(data: str | bytes) -> None:
    with pytest.raises(Malformed) as caught:
        decode(data)
    str(caught.value).encode()


def test_a_surrogate_pair_is_one_character() -> None:
    assert decode(r'{"type":"route-update","route":"/\ud83e\udd86"}') == RouteUpdate("/🦆")


def test_of_two_routes_the_last_counts() -> None:
    assert decode('{"type":"route-update","route":"/a","route":"/b"}') == RouteUpdate("/b")


@pytest.mark.parametrize(
    "data",
    [
        '{"type":"ping","type":"subscribe-stats","deltas":true}',
        '{"type":"subscribe-stats","type":"unsubscribe-stats"}',
        '{"type":"unheard-of","type":"subscribe-stats"}',
        '{"type":"unheard-of","type":5}',
    ],
)
def test_two_types_are_never_the_one_or_the_other(data: str) -> None:
    with pytest.raises(Malformed):
        decode(data)


hostile_text = st.text(st.characters(exclude_categories=()))
hostile_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | hostile_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hostile_text, inner, max_size=4),
    max_leaves=8,
)
hostile_message = st.fixed_dictionaries(
    {"type": st.sampled_from([*CLIENT, "x"]) | hostile_json},
    optional={
        "set": hostile_json,
        "remove": hostile_json,
        "route": hostile_json,
        "deltas": hostile_json,
        "extra": hostile_json,
    },
)


def check_any(data: str | bytes) -> None:
    """Whatever comes in, what comes out is a message or one sentence that can be sent back."""
    sentence = ""
    try:
        message = decode(data)
    except (Malformed, TooLarge) as error:
        sentence = str(error)
    else:
        assert isinstance(message, (SubscribeStats, UnsubscribeStats, RouteUpdate, Tabs, Ping, Unknown))
        if isinstance(message, RouteUpdate):
            assert 1 <= len(message.route) <= 512
            assert message.route.isprintable() or not message.route.isascii()
            message.route.encode()
        return
    assert sentence.endswith(".")
    assert "\n" not in sentence
    sentence.encode()


@given(st.binary() | hostile_text)
@example("{" * 4096)
@example(b'{"type":"' + b"\xff" * 10)
def test_nothing_escapes_decode_but_protocol_errors(data: str | bytes) -> None:
    check_any(data)


@given(hostile_message, st.booleans())
def test_nothing_escapes_decode_for_what_looks_like_a_message(message: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(message, ensure_ascii=ascii_only)
    check_any(text)
    check_any(text.encode("utf-8", "surrogatepass"))


@given(hostile_message, st.data())
def test_nothing_escapes_decode_for_a_damaged_message(message: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(message)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    check_any(text[:start] + text[end:])
    check_any(text[:start] + data.draw(hostile_text) + text[end:])


route_body = msgspec.json.Decoder(RouteBody)
subscribe_body = msgspec.json.Decoder(SubscribeBody)
unsubscribe_body = msgspec.json.Decoder(UnsubscribeBody)
tabs_body = msgspec.json.Decoder(TabsBody)


def test_bodies_are_read_by_their_camel_case_names() -> None:
    assert decode_body(b'{"connectionId":"h","route":"/b"}', route_body) == RouteBody("h", "/b")
    assert decode_body(b'{"connectionId":"h"}', subscribe_body) == SubscribeBody("h", deltas=False)
    assert decode_body(b'{"connectionId":"h","deltas":true}', subscribe_body) == SubscribeBody("h", deltas=True)
    assert decode_body(b'{"connectionId":"h","more":1}', unsubscribe_body) == UnsubscribeBody("h")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b"[]", b"null", b'{"connectionId":5}', b'{"connection_id":"h"}', b'{"connectionId":"\xff"}'),
        *(b"[" * 4096, b'{"connectionId":' + b"[" * 2000 + b"]" * 2000 + b"}", b'{"connectionId":"\\ud800"}'),
    ],
    ids=lambda body: repr(body[:40]),
)
def test_a_wrong_body_is_malformed(body: bytes) -> None:
    for decoder in (route_body, subscribe_body, unsubscribe_body, tabs_body):
        with pytest.raises(Malformed):
            decode_body(body, decoder)


def test_deep_nesting_in_a_field_of_a_body_that_nobody_reads_is_passed_over_or_malformed() -> None:
    try:
        read = decode_body(b'{"connectionId":"h","x":' + b"[" * 2000 + b"]" * 2000 + b"}", subscribe_body)
    except Malformed as error:
        assert "it is nested too deeply" in str(error)  # noqa: PT017  one of two outcomes
    else:
        assert read == SubscribeBody("h")


@given(st.binary())
def test_nothing_escapes_a_body_but_malformed(body: bytes) -> None:
    for decoder in (route_body, subscribe_body, unsubscribe_body, tabs_body):
        with pytest.raises(Malformed):
            decode_body(body, decoder)


def same_shape(golden: object, encoded: object) -> bool:
    """Compare keys, their order, and the types of values."""
    if isinstance(golden, dict) and isinstance(encoded, dict):
        return list(golden) == list(encoded) and all(same_shape(golden[key], encoded[key]) for key in golden)
    if isinstance(golden, list) and isinstance(encoded, list):
        return len(golden) == len(encoded) and all(map(same_shape, golden, encoded))
    return type(golden) is type(encoded)


def golden_stats() -> Stats:
    wire = SERVER["stats"]
    return Stats(
        total=wire["total"],
        versions=wire["versions"],
        routes=wire["routes"],
        connections=tuple(ConnectionInfo(**row) for row in wire["connections"]),
        revision=wire["revision"],
        nodes=Nodes(**wire["nodes"]),
        release=CurrentRelease(**wire["release"]),
    )


def golden_delta() -> StatsDelta:
    wire = SERVER["stats-delta"]
    rows = tuple(ConnectionInfo(**row) for row in wire["connections"]["set"])
    return StatsDelta(
        wire["base"],
        wire["revision"],
        wire["total"],
        wire["versions"],
        wire["routes"],
        rows,
        (),
        release=CurrentRelease("unsettled"),
    )


ENCODED = {
    "connected": messages.greeting(
        SERVER["connected"]["version"], 20000, "sse", CurrentRelease(**SERVER["connected"]["release"])
    )
    % (SERVER["connected"]["connectionId"].encode(), 1795469509367),
    "stats": messages.addressed(messages.stats(golden_stats()), "c1"),
    "stats-delta": messages.stats_delta(golden_delta()),
    "stats-unauthorized": messages.STATS_UNAUTHORIZED,
    "version": messages.version(CurrentRelease(**SERVER["version"]["release"]), SERVER["version"]["timestamp"]),
    "keepalive": messages.KEEPALIVE,
    "pong": messages.PONG,
    "drain": messages.drain(3120),
    "tabs": messages.tabs(SERVER["tabs"]["ids"]),
    "to": messages.to_tabs(SERVER["to"]["tabs"], messages.application(SERVER["to"]["message"])),
}


@given(st.text(max_size=40), st.text(max_size=40))
@example('","connectionId":"","timestamp":0', "100%b %d %%")
def test_any_version_goes_through_a_greeting(version: str, current: str) -> None:
    greeting = json.loads(
        messages.greeting(version, 20_000, "sse", CurrentRelease("settled", current, 0)) % (b"handle", 5)
    )
    assert (greeting["version"], greeting["currentVersion"]) == (version, current)
    assert (greeting["connectionId"], greeting["timestamp"]) == ("handle", 5)


@pytest.mark.parametrize(
    ("release", "fields"),
    [
        (CurrentRelease("unsettled"), {}),
        (CurrentRelease("orphaned", "v2", 7), {"release": {"state": "orphaned", "version": "v2", "number": 7}}),
        (
            CurrentRelease("settled", "v1", 0),
            {"currentVersion": "v1", "release": {"state": "settled", "version": "v1", "number": 0}},
        ),
    ],
)
def test_a_greeting_says_which_release_is_current(release: CurrentRelease, fields: dict[str, object]) -> None:
    greeting = json.loads(messages.greeting("v1", 20_000, "sse", release) % (b"handle", 5))
    assert {name: value for name, value in greeting.items() if name in ("currentVersion", "release")} == fields


def test_every_golden_server_message_is_encoded_here() -> None:
    assert set(ENCODED) == set(SERVER)


@pytest.mark.parametrize("name", ENCODED)
def test_golden_server_message_is_what_is_encoded(name: str) -> None:
    encoded = json.loads(ENCODED[name])
    assert encoded == SERVER[name]
    assert same_shape(SERVER[name], encoded)
    assert ENCODED[name] == json.dumps(SERVER[name], separators=(",", ":")).encode()


@given(st.dictionaries(st.text(), st.integers(1, 9)), st.text(st.sampled_from("0123456789abcdef"), min_size=1))
def test_your_id_is_appended_as_valid_json(counts: dict[str, int], your_id: str) -> None:
    snapshot = messages.stats(Stats(versions=counts, routes=counts))
    assert json.loads(messages.addressed(snapshot, your_id)) == {**json.loads(snapshot), "yourId": your_id}


@pytest.mark.parametrize("label", ["__proto__", '"}', "\\", "🦆", "é", "(other)", ""])
def test_any_label_comes_back_as_it_was(label: str) -> None:
    encoded = json.loads(messages.stats(Stats(versions={label: 1}, connections=(ConnectionInfo("a", label, label),))))
    assert encoded["versions"] == {label: 1}
    assert encoded["connections"] == [{"id": "a", "version": label, "route": label}]


def test_a_snapshot_always_has_all_its_keys() -> None:
    assert json.loads(messages.stats(Stats())) == {"type": "stats", **Stats().to_dict()}


def test_a_delta_omits_what_did_not_change() -> None:
    delta = StatsDelta(1, 2, 0, {}, {}, (), ())
    required = ["type", "base", "revision", "total", "versions", "routes", "connections"]
    assert list(json.loads(messages.stats_delta(delta))) == required
    changed = delta._replace(connections_truncated=False, nodes=Nodes(1, 2), partial=True)
    assert json.loads(messages.stats_delta(changed)) == {
        **json.loads(messages.stats_delta(delta)),
        "connectionsTruncated": False,
        "nodes": {"reporting": 1, "expected": 2},
        "partial": True,
    }


def test_a_grant_without_routes_gets_no_counts_of_routes() -> None:
    assert json.loads(messages.stats(FIGURES, Visibility(routes=False)))["routes"] == {}
    assert json.loads(messages.stats_delta(CHANGES, Visibility(routes=False)))["routes"] == {}


def test_a_grant_without_connections_gets_none_and_the_rest_whole() -> None:
    snapshot = messages.stats(FIGURES, Visibility(connections=False))
    delta = messages.stats_delta(CHANGES, Visibility(connections=False))
    assert json.loads(snapshot) == {**json.loads(messages.stats(FIGURES)), "connections": []}
    assert json.loads(delta)["connections"] == {"set": [], "remove": []}
    for encoded in (snapshot, delta):
        assert not any(told in encoded for told in (b"c1", b"c2", b"c3", b"192.0.2.7"))


def test_a_grant_without_addresses_gets_no_byte_of_one() -> None:
    for encoded in (
        messages.stats(FIGURES, Visibility(ips=False)),
        messages.stats_delta(CHANGES, Visibility(ips=False)),
    ):
        assert b"192" not in encoded
        assert b'"ip"' not in encoded
    rows = [
        {"id": "c1", "version": "v1", "route": "/secret-route"},
        {"id": "c2", "version": "v1", "route": "/secret-route"},
    ]
    assert json.loads(messages.stats(FIGURES, Visibility(ips=False)))["connections"] == rows
    assert json.loads(messages.stats_delta(CHANGES, Visibility(ips=False)))["connections"]["set"] == rows


def test_a_grant_with_addresses_gets_those_that_are_known() -> None:
    rows = json.loads(messages.stats(FIGURES))["connections"]
    assert [row.get("ip") for row in rows] == [None, "192.0.2.7"]
    assert "ip" not in rows[0]


def test_a_grant_without_anything_gets_total_and_versions() -> None:
    encoded = messages.stats(FIGURES, Visibility(routes=False, connections=False, ips=False))
    assert json.loads(encoded) == {
        "type": "stats",
        **FIGURES.to_dict(),
        "routes": {},
        "connections": [],
    }
    assert b"secret" not in encoded
    assert b"secret" not in messages.stats_delta(CHANGES, Visibility(routes=False, connections=False, ips=False))


def test_an_application_message_is_sent_as_it_was_made() -> None:
    assert (
        messages.application({"type": "cart", "items": [1, {"a": None}]}) == b'{"type":"cart","items":[1,{"a":null}]}'
    )


@pytest.mark.parametrize(
    "message",
    [[], "text", b"{}", None, 5, {"a": object()}, {"a": {1, object()}}],
    ids=["list", "text", "bytes", "nothing", "number", "an object inside", "a set inside"],  # the same in each worker
)
def test_what_is_no_json_object_is_refused(message: Any) -> None:
    with pytest.raises(TypeError):
        messages.application(message)


def test_what_cannot_be_written_is_refused_like_what_is_no_json() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = [endless]
    for message in (endless, {"a": "\ud800"}, {"\udfff": 1}):
        with pytest.raises(TypeError, match=r"The message cannot be written as JSON: .*\.$"):
            messages.application(message)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"type":"route-update","route":5}', "The route-update message is wrong: route is a number; send text."),
        ('{"type":"route-update"}', "The route-update message is wrong: the field route is missing."),
        (
            '{"type":"subscribe-stats","deltas":"yes"}',
            "The subscribe-stats message is wrong: deltas is text; send true or",
        ),
        ('{"type":null}', "The JSON is invalid: type is null; send text."),
        ("[1]", "The JSON is invalid: it is an array; send an object."),
        ("7", "The JSON is invalid: it is a number; send an object."),
        ("{}", "The JSON is invalid: the field type is missing."),
        ("hello", "The message is not valid JSON: "),
    ],
)
def test_sentence_about_a_wrong_message_speaks_of_json_and_not_of_python(text: str, sentence: str) -> None:
    with pytest.raises(Malformed) as caught:
        messages.decode(text)
    assert str(caught.value).startswith(sentence)
    assert "`" not in str(caught.value)
