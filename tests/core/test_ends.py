"""The table of the ways a stream ends is whole, documented, and fits in a close frame."""

import re
from pathlib import Path

from headcount.core import ends
from headcount.core.ends import CAUSES, ENDS, MALFORMED, End, private_code, standard_code
from headcount.core.frames import cut_reason

ROOT = Path(__file__).parents[2]


def test_every_end_is_in_the_table_once() -> None:
    named = [value for value in vars(ends).values() if isinstance(value, End)]
    assert len(named) == len(ENDS)
    assert set(named) == set(ENDS)


def test_nobody_makes_ends_beside_the_table() -> None:
    for path in (ROOT / "src/headcount").rglob("*.py"):
        if path.name != "ends.py":
            assert not re.search(r"\bEnd\(", path.read_text("utf-8")), path


def test_codes_are_those_of_the_contract() -> None:
    codes = {end.cause: end.code for end in ENDS if end.code >= 1008}
    assert codes == {
        "denied": 1008,
        "drain": 1012,
        "full": 1013,
        "address full": 1013,
        "opening too fast": 1013,
        "malformed": 4400,
        "rate": 4429,
        "no tabs": 4400,
        "slow": 4408,
    }


def test_a_code_that_a_server_refuses_to_send_has_another_that_means_the_same() -> None:
    for end in ENDS:
        private = private_code(end.code)
        assert standard_code(private) == standard_code(end.code) == end.code
        assert private == end.code or 4000 < private < 4100
    assert {private_code(code) for code in (1008, 1012, 1013)} == {4008, 4012, 4013}, "protocol/README.md says so"


def test_codes_that_clients_get_are_documented() -> None:
    _, table = (ROOT / "protocol/README.md").read_text("utf-8").split("| code |", 1)
    documented = {int(code) for code in re.findall(r"^\| (\d{4})", table, re.MULTILINE)}
    assert {end.code for end in ENDS} - documented <= {1000, 1002, 1006}


def test_sentences_are_whole_and_fit_in_a_close_frame() -> None:
    for end in ENDS:
        assert end.reason[0].isupper()
        assert end.reason.endswith(".")
        assert cut_reason(end.reason) == end.reason


def test_an_end_takes_another_sentence_or_delay_and_keeps_the_rest() -> None:
    assert MALFORMED.because("No.") == End(4400, "malformed", "No.")
    assert ends.STALLED.lasting(2.5).reason == "The client read nothing for 2.5 s."
    assert ends.GOING_AWAY.after(250) == ends.GOING_AWAY._replace(reconnect=250)
    assert ends.GOING_AWAY.reconnect is None


def test_causes_are_those_that_hooks_get() -> None:
    assert {
        *("broken", "cancelled", "client", "denied", "drain", "loop closed", "malformed", "no tabs", "replaced"),
        *("no answer", "rate", "slow", "full", "address full", "opening too fast"),
    } == CAUSES
