"""`headcount rollout`, as a process against a real server that knows earlier rollouts from its `state_file`."""

import csv
import io
import json
from collections.abc import Iterator

import pytest

from headcount.core import rollouts
from headcount.core.history import Current, encode_sample, sample
from headcount.core.kept_history import Added, KeptHistory
from headcount.fleet.backends.history_folder import HistoryFolder

from .processes import TOKEN, Serve
from .running import run

START = 1_700_000_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    state = tmp_path_factory.mktemp("state") / "state.json"
    samples = [sample(START, {"v1": 100}, current=Current("v1"))]
    for number, version in enumerate(("v2", "v3")):
        for step in range(20):
            at = START + 10_000 + number * 200_000 + step * 10_000
            on = min(100, 10 * step) if version == "v2" else 5 * step
            before = "v1" if version == "v2" else "v2"
            declared = START + 10_000 + number * 200_000
            samples.append(sample(at, {version: on, before: 100 - on}, current=Current(version, declared)))
    lines = [encode_sample(each) for each in samples]
    folder = HistoryFolder(str(state))
    for line in lines:
        folder.write(Added(line, None, None))
        folder.flush()
    known = KeptHistory(lines).catch_up(START + 10**9)
    folder.write(Added(None, None, rollouts.encode(known)))
    folder.flush()
    # Alone and without a page, it adds no samples of its own.
    with Serve(state_file=str(state), backend="memory") as started:
        yield started


def rollout(server: Serve, *arguments: str, token: str = TOKEN) -> tuple[int, str, str]:
    done = run("rollout", server.url, "--token", token, *arguments, env={"TZ": "UTC"})
    return done.returncode, done.stdout, done.stderr


def test_it_shows_this_rollout_against_the_last_ones(server: Serve) -> None:
    code, out, _ = rollout(server)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == (
        "v3 is current since 2023-11-14 22:16 (declared). 95 % of 100 connections are on it; the rollout is running."
    )
    assert lines[1] == (
        "The last rollout that reached 99 %: 50 % after 50 s, 90 % after 1 min 30 s, 99 % after 1 min 40 s."
    )
    assert lines[3].split() == ["Version", "Current", "since", "50", "%", "90", "%", "99", "%", "Half-life", "State"]
    assert " ".join(lines[4].split()) == "v3 2023-11-14 22:16 100 s 3 min - 100 s running"
    assert " ".join(lines[5].split()) == "v2 2023-11-14 22:13 50 s 90 s 100 s 50 s done"


def test_json_is_the_servers_and_csv_a_row_for_each(server: Serve) -> None:
    code, out, _ = rollout(server, "--json")
    told = json.loads(out)["rollouts"]
    assert (code, [each["version"] for each in told]) == (0, ["v3", "v2"])
    assert told[0]["state"] == "running"
    assert told[1]["reached"][2] == {"percent": 99, "afterMs": 100_000}
    code, out, _ = rollout(server, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, [each["seconds_to_99"] for each in rows]) == (0, ["", "100.0"])


def test_usage_and_refusals_are_sentences(server: Serve) -> None:
    code, _, err = rollout(server, "--csv", "--json")
    assert (code, "--json and --csv exclude one another; give one of them." in err) == (2, True)
    code, out, err = rollout(server, token="wrong-token-of-the-tests")
    assert (code, out) == (1, "")
    assert "authori" in err


def test_a_server_without_a_rollout_says_how_one_begins() -> None:
    with Serve() as server:
        code, out, _ = rollout(server)
        assert (code, out) == (
            0,
            "No rollout in the history yet. One begins when another version becomes current: headcount release VERSION "
            "URL\n",
        )
