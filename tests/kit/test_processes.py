"""Processes that are forked behave like those that are started; each case runs both ways."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .processes import BIN, Popen, run

PROGRAM = """
import atexit, json, os, sys
atexit.register(print, "at exit")
print(json.dumps({
    "argv": sys.argv[1:], "cwd": os.getcwd(), "value": os.environ.get("VALUE"), "lost": os.environ.get("LOST"),
    "session": os.getsid(0) == os.getpid(), "path": [one for one in sys.path if "added" in one],
    "main": sys.modules["__main__"].__name__, "input": sys.stdin.read(), "files": len(os.listdir("/proc/self/fd")),
}))
print("an error", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture(params=["forked", "started"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("HEADCOUNT_TESTS_EXEC", raising=False)
    # Coverage measures only what is started.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    if request.param == "started":
        monkeypatch.setenv("HEADCOUNT_TESTS_EXEC", "1")
    return str(request.param)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a program in place of `headcount`."""
    path = tmp_path / "program"
    path.write_text(f"#!{sys.executable}\n{PROGRAM}")
    path.chmod(0o755)
    monkeypatch.setattr("kit.processes.PROGRAMS", {str(path)})
    return str(path)


def test_a_process_finds_itself_as_if_it_had_been_started(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOST", "1")
    kept = {name: value for name, value in os.environ.items() if name != "LOST"}
    environment = {**kept, "VALUE": "ö", "PYTHONPATH": "/added/first:/added/second"}
    process = run(
        [script, "one", "two words"], env=environment, cwd=tmp_path, timeout=30, input="said", start_new_session=True
    )
    written, at_exit = process.stdout.splitlines()
    assert (process.returncode, process.stderr, at_exit) == (3, "an error\n", "at exit")
    found = json.loads(written)
    assert found.pop("files") <= 5
    assert found == {
        "argv": ["one", "two words"],
        "cwd": str(tmp_path),
        "value": "ö",
        "lost": None,
        "session": True,
        "path": ["/added/first", "/added/second"],
        "main": "__main__",
        "input": "said",
    }


def test_a_signal_ends_it_and_its_end_is_known(script: str, way: str) -> None:
    with Popen[bytes]([script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert (process._report is not None) == (way == "forked")
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
        assert process.poll() == -signal.SIGTERM


def test_ctrl_c_ends_it(script: str) -> None:
    with Popen[str](
        [script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        end = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < end:
            process.send_signal(signal.SIGINT)  # the first may come before Python is there
            time.sleep(0.2)
        assert process.returncode in {-signal.SIGINT, 130}


def test_it_writes_where_this_process_writes_unless_it_is_told_where(
    script: str, way: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Popen[bytes]([script], stdin=subprocess.DEVNULL) as process:
        assert (process._report is not None) == (way == "forked")
        assert process.wait(30) == 3
    written, errors = capfd.readouterr()
    assert "argv" in written
    assert errors == "an error\n"


SPAWNING = """
import multiprocessing, os, sys
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    for target, arguments in ((print, ("spawned",)), (sys.exit, (7,)), (os.abort, ()), (os.chdir, ("/nowhere",))):
        process = context.Process(target=target, args=arguments)
        process.start()
        process.join()
        print(process.exitcode, flush=True)
"""


def test_what_it_spawns_runs_and_ends_as_ever(script: str) -> None:
    Path(script).write_text(f"#!{sys.executable}\n{SPAWNING}")
    done = run([script], timeout=60)
    assert done.stdout.split() == ["spawned", "0", "7", "-6", "1"]
    assert "FileNotFoundError" in done.stderr


IGNORING = """
import multiprocessing, os, signal
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    for handler in (signal.SIG_IGN, signal.default_int_handler):
        signal.signal(signal.SIGINT, handler)
        process = context.Process(target=signal.raise_signal, args=(signal.SIGINT,))
        process.start()
        process.join()
        print(process.exitcode, flush=True)
"""


def test_what_it_spawns_ignores_the_signals_that_it_ignores(script: str) -> None:
    Path(script).write_text(f"#!{sys.executable}\n{IGNORING}")
    assert run([script], timeout=60).stdout.split() == ["0", "1"]


def test_a_script_of_python_is_forked(tmp_path: Path, way: str) -> None:
    (tmp_path / "script.py").write_text("import sys; print(__name__, *sys.argv); sys.exit(3)")
    command = [str(BIN / "python"), str(tmp_path / "script.py"), "one"]
    with Popen[str](command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert (process._report is not None) == (way == "forked")
        assert process.communicate(timeout=30)[0] == f"__main__ {tmp_path / 'script.py'} one\n"
        assert process.returncode == 3


def test_headcount_itself(way: str) -> None:
    done = run([BIN / "headcount", "--version"], timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("headcount, version ")


@pytest.mark.parametrize("special", ["variable", "packages", "elsewhere"])
def test_what_asks_for_something_special_is_started(
    script: str, way: str, special: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables: dict[str, str] = {}
    if special == "variable":
        variables = {"LD_PRELOAD": ""}
    elif special == "packages":
        (tmp_path / "uvicorn").mkdir()
        variables = {"PYTHONPATH": str(tmp_path)}
    else:
        monkeypatch.setattr("kit.processes.NETWORK", 1)
    with Popen[bytes](
        [script],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process._report is None
        assert process.wait(30) == 3
