"""The README's quick start, word for word: its commands and its code, in an empty folder with a fresh environment."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from kit.docs import code_in, section_of
from kit.ports import free_port

from .conftest import answers, eventually, wait

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(300)  # packages are installed, and perhaps fetched


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Headcount as `pip install` from a clone makes it."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(out)], cwd=ROOT, check=True
    )
    (found,) = out.glob("headcount-*.whl")
    return found


@pytest.fixture
def started(wheel: Path, tmp_path: Path) -> Iterator[str]:
    """The application of the README, installed and started as it says."""
    page = section_of("README.md", "Quick start")
    install, start = code_in(page, "sh")
    (application,) = code_in(page, "python")
    (tmp_path / "app.py").write_text(application, "utf-8")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    port = free_port()
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        # `headcount` must be the wheel just built.
        "PIP_FIND_LINKS": f"{wheel.parent} {os.environ.get('PIP_FIND_LINKS', '')}".strip(),
        "PIP_QUIET": "1",
        "UVICORN_PORT": str(port),  # 8000 may be taken on this machine
    }
    environment.pop("VIRTUAL_ENV", None)
    subprocess.run(["bash", "-ec", install], cwd=tmp_path, env=environment, check=True)
    installed = subprocess.run(
        [tmp_path / "venv" / "bin" / "pip", "freeze"], env=environment, check=True, capture_output=True, text=True
    )
    assert f"headcount=={wheel.name.split('-')[1]}" in installed.stdout, "another package of this name was installed"
    process = subprocess.Popen(["bash", "-ec", f"exec {start}"], cwd=tmp_path, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: answers(url), "uvicorn answers", seconds=30)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


def test_quick_start_does_what_it_says(started: str, browser: Browser) -> None:
    visitor = browser.new_context(base_url=started)
    admin = browser.new_context(base_url=started)
    try:
        page = visitor.new_page()
        page.goto("/")
        wait(page, "document.querySelector('#figures').textContent === 'Not authorised for live stats'")
        viewer = admin.new_page()
        viewer.goto("/")
        viewer.click("text=sign in")
        wait(viewer, "document.querySelector('#figures').textContent.includes('\"total\":2')")
        page.click("text=products")
        wait(viewer, "document.querySelector('#figures').textContent.includes('\"/products\":1')")
        assert '"versions":{"2026.11.3":2}' in viewer.inner_text("#figures")
        page.close()
        wait(viewer, "document.querySelector('#figures').textContent.includes('\"total\":1')")
    finally:
        visitor.close()
        admin.close()
