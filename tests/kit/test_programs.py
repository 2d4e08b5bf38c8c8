import re
import subprocess
import sys
from pathlib import Path

import pytest

from .programs import INSTALL, files_of_git, make_certificate, missing, needs

TESTS = Path(__file__).parents[1]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine that has none of them."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    return monkeypatch


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("program", INSTALL)
def test_without_a_program_a_test_is_skipped_and_says_how_to_get_it(program: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=f"^{program} is not installed; run: apt-get install {program}$"):
        needs(program)


def test_ci_never_skips(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.setenv("CI", "true")
    assert missing("openssl") is None
    with pytest.raises(FileNotFoundError):
        make_certificate(tmp_path)
    with pytest.raises(FileNotFoundError):
        files_of_git()


@pytest.mark.usefixtures("bare")
def test_tests_of_a_bare_machine_are_skipped() -> None:
    tests = [
        "test_docs.py::test_links_between_pages_lead_somewhere",
        "test_build.py::test_the_machines_build_the_same",
        "cli/test_serve.py::test_the_commands_of_the_page_start_it_and_ask_it",
        "client/test_bad_days.py::test_certificates_are_checked_unless_told_otherwise",
        "server/test_taking_over.py::test_with_tls_streams_stay_on_asgi_and_work",
    ]
    command = [sys.executable, "-m", "pytest", "-q", *tests]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)
    assert re.search(rf"^{len(tests)} skipped in", done.stdout, re.MULTILINE), done.stdout + done.stderr
    for program in INSTALL:
        assert f": {program} is not installed; run: apt-get install {program}\n" in done.stdout
