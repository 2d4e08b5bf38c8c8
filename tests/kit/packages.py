"""Packages of their own for some tests. Where their registry is out of reach, a test is skipped and says so."""

import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from .programs import ROOT

CACHE = ROOT / ".cache" / "packages"


def installed(*requirements: str, dependencies: bool = False) -> Path:
    """
    Install packages in a folder of their own, unless that was done before.

    Args:
        requirements: As pip takes them.
        dependencies: Whether to install what they depend on, too.

    Returns:
        The folder.
    """
    folder = CACHE / "-".join(re.sub(r"[^\w.]+", "", requirement) for requirement in requirements)
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as incomplete:
            made = Path(incomplete) / "packages"
            command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
            command += [*([] if dependencies else ["--no-deps"]), "--target", str(made), *requirements]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                _out_of_reach(f"{' '.join(requirements)} cannot be installed", done.stderr)
            with suppress(OSError):  # another test installed it meanwhile
                made.rename(folder)
            assert folder.exists()
    return folder


def needs_registries() -> None:
    """Skip the running test if PyPI or npm's registry cannot be reached. In CI it goes on, and fails."""
    commands = {
        "PyPI": [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--quiet", "--refresh", "hatchling"],
        "npm's registry": ["npm", "ping", "--fetch-retries=0", "--fetch-timeout=20000"],
    }
    for name, command in commands.items():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            _out_of_reach(f"{name} cannot be reached", done.stderr)


def _out_of_reach(what: str, why: str) -> None:
    if os.environ.get("CI"):
        raise AssertionError(f"{what}:\n{why}")
    pytest.skip(f"{what}; run the tests with a network: {why.strip().splitlines()[-1] if why.strip() else 'no reason'}")
