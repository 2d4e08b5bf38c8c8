"""The table of bench/compare.py: what it says when something was not finished, not there, or not to be had."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(scope="module")
def compare() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        yield import_module("compare")
        for name in ("compare", "contenders", "load", "measure", "servers"):
            sys.modules.pop(name, None)


def lines(compare: ModuleType, found: dict[tuple[str, int], dict[str, object]]) -> list[str]:
    plan = compare.Plan(sizes=(100,), storms=(100,))
    others = ["reference", "socket.io"]
    text: str = compare.table(compare.rows_of("SSE", found, plan, others), others)
    return text.splitlines()[2:]


def test_figures_stand_beside_each_other_with_ratios(compare: ModuleType) -> None:
    found = {
        ("ours", 100): {"memory": compare.Value(1_700), "update": compare.Value(50)},
        ("reference", 100): {"memory": compare.Value(36_600), "update": compare.Value(1_234_567)},
        ("socket.io", 100): {"update": compare.Value(0.1)},
    }
    assert lines(compare, found) == [
        "| SSE, 100 connections: memory of one, idle | 1,700 B | 36,600 B | 21.5 | – |  |",
        "| SSE, 100 connections, 5 viewers: CPU a route update | 50.0 µs | 1,234,567 µs | 24,691 | 0.10 µs | 0.002 |",
    ]


def test_what_was_given_up_is_marked_so_in_figure_and_ratio(compare: ModuleType) -> None:
    found = {
        ("ours", 100): {"storm": compare.Value(0.5)},
        ("reference", 100): {"storm": compare.Value(40, finished=False)},
    }
    [line] = lines(compare, found)
    assert line.endswith("| 0.50 s | > 40.0 s | > 80.0 | – |  |")


@pytest.mark.parametrize("ours", [(40, False), (0, True), (-3, True)])
def test_there_is_no_ratio_to_what_is_not_known(compare: ModuleType, ours: tuple[float, bool]) -> None:
    found = {("ours", 100): {"open": compare.Value(*ours)}, ("reference", 100): {"open": compare.Value(7)}}
    [line] = lines(compare, found)
    assert line.endswith(" | 7.00 µs |  | – |  |")


def test_a_total_that_comes_in_two_parts_is_whole(compare: ModuleType) -> None:
    contenders = sys.modules["contenders"]
    onlooker = contenders.Onlooker.__new__(contenders.Onlooker)
    onlooker.received = 0
    onlooker.opened = type("Done", (), {"done": staticmethod(lambda: True)})()
    for part, total in ((b'data: {"type":"stats","tot', -1), (b'al":12', 12), (b'34,"versions":{}}\n\n', 1_234)):
        onlooker.data_received(part)
        assert onlooker.total == total


def test_a_program_that_is_not_there_is_named(compare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(compare, "install_socket_io", lambda: "python-socketio 5")
    others, about = compare.installed()
    assert others == ["socket.io"]
    assert about == [
        "nuxt-skew-protection is left out: there is no node here; install Node 20.19 or newer",
        "python-socketio 5",
    ]


def test_it_starts_as_a_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, BENCH / "compare.py", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "make bench-peers" in done.stdout
