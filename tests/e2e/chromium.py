"""Find a Chromium for the browser tests, or get one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIP_LINE = "Chromium is not there; run: sudo apt-get install chromium, or set CHROMIUM=/path/to/it"
"""What a developer without it reads."""

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


SHELLS = ("chromium-headless-shell", "chrome-headless-shell")


def find() -> str | None:
    """Return the path of a Chromium: $CHROMIUM, one on PATH, or Playwright's own."""
    told = os.environ.get("CHROMIUM")
    if told:
        return told
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else None


def find_shell() -> str | None:
    """
    Return the path of Chromium without its user interface, else of a whole one.

    It is the same engine, and a tab costs a sixth of the CPU time.
    """
    if os.environ.get("CHROMIUM"):
        return find()
    return next(filter(None, map(shutil.which, SHELLS)), None) or find()


def may_install() -> bool:
    """Say whether this is Debian and we are root."""
    return shutil.which("apt-get") is not None and os.geteuid() == 0


def install(*packages: str) -> None:
    """Install packages, if Debian has them."""
    print(f"Installing {', '.join(packages)} with apt-get.", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=False)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    subprocess.run(command, check=False, env=environment, stdout=subprocess.DEVNULL)


def fetch() -> None:
    """Get one where there is none, from where that is possible; say what is done."""
    if not os.environ.get("CHROMIUM") and not any(map(shutil.which, SHELLS)) and may_install():
        install("chromium-headless-shell")  # not every Debian has it, and the tests run without it
    if find() is not None:
        return
    print("No Chromium found; downloading Playwright's.", flush=True)
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    if find() is None and may_install():
        print("That did not work.", flush=True)
        install("chromium")


def or_skip() -> str:
    """Return the path from `find_shell`. Where there is none, skip the test; CI fails it."""
    path = find_shell()
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(SKIP_LINE)
    return path
