"""Find a Chromium for the browser tests, or get one; run as a program to do so beforehand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


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


def main() -> int:
    """Make sure that there is one; say what is done."""
    path = find()
    if path is None:
        print("No Chromium found; downloading Playwright's.", flush=True)
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
        path = find()
    if path is None and shutil.which("apt-get") and os.geteuid() == 0:
        print("That did not work; installing the system's chromium with apt-get.", flush=True)
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], check=False, env=environment)
        path = find()
    if path is None:
        print("The browser tests need Chromium; install one and set CHROMIUM=/path/to/it.", file=sys.stderr)
        return 1
    print(f"Browser tests use {path}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
