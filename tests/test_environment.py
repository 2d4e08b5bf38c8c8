"""Variables that begin like ours and are none: a word in the log, once, and nothing else."""

import logging

import pytest

from headcount import environment
from headcount.config import Config
from headcount.environment import COMMAND_VARIABLES, variable_of


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_warned", set())


def said(caplog: pytest.LogCaptureFixture, environ: dict[str, str]) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "headcount"):
        Config.load({"version": "v1"}, environ)
    return caplog.messages


@pytest.mark.parametrize(
    ("variable", "end"),
    [
        ("HEADCOUNT_ROUT_TRACKING", "; did you mean HEADCOUNT_ROUTE_TRACKING or HEADCOUNT_IP_TRACKING?"),
        ("HEADCOUNT_MAXCONNECTIONS", "; did you mean HEADCOUNT_MAX_CONNECTIONS or HEADCOUNT_CONNECTIONS?"),
        ("HEADCOUNT_ALLOWED_ORIGIN", "; did you mean HEADCOUNT_ALLOWED_ORIGINS?"),
        ("HEADCOUNT_ADMINTOKEN", "; did you mean HEADCOUNT_ADMIN_TOKEN?"),
        ("HEADCOUNT_PROT", "; did you mean HEADCOUNT_PORT?"),
        (
            "HEADCOUNT_AUTHORISE_TIMEOUT",
            "; did you mean HEADCOUNT_AUTHORIZE_TIMEOUT?",
        ),
        ("HEADCOUNT_MAX_ROUTE", "; did you mean HEADCOUNT_MAX_ROUTES?"),
        ("HEADCOUNT_AFFECTION", "."),
        ("HEADCOUNT_", "."),
    ],
)
def test_a_variable_that_nobody_reads_is_told_with_those_that_are_close(
    variable: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert said(caplog, {variable: "a secret"}) == [f"Unknown environment variable {variable} is ignored{end}"]


def test_it_is_told_once_however_many_are_made(caplog: pytest.LogCaptureFixture) -> None:
    assert len(said(caplog, {"HEADCOUNT_LOVE": "x"})) == 1
    assert said(caplog, {"HEADCOUNT_LOVE": "y"}) == []
    assert len(said(caplog, {"HEADCOUNT_LOVE": "x", "HEADCOUNT_HATE": "x"})) == 1


def test_variables_that_are_read_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, {"HEADCOUNT_ROUTE_TRACKING": "on", **dict.fromkeys(COMMAND_VARIABLES, "1")}) == []
    assert not COMMAND_VARIABLES & {variable_of(name) for name in Config.__struct_fields__}


def test_variables_of_other_programs_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, {"HEADCOUNTER": "x", "headcount_love": "x", "MY_HEADCOUNT_LOVE": "x"}) == []


def test_variables_that_kubernetes_sets_for_a_service_of_that_name_are_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = (
        *("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8000_TCP", "PORT_8000_TCP_PROTO"),
        *("PORT_8000_TCP_PORT", "PORT_8000_TCP_ADDR", "REDIS_SERVICE_HOST", "REDIS_PORT", "REDIS_PORT_6379_TCP"),
    )
    assert said(caplog, {f"HEADCOUNT_{name}": "tcp://10.0.0.1:8000" for name in names}) == []
