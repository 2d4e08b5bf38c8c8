"""Programs that tests use. Where one is missing, a test is skipped and says how to get it; CI has them all."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]

INSTALL: Final = {name: f"apt-get install {name}" for name in ("curl", "git", "openssl")}


def missing(program: str) -> str | None:
    """Return why a test is skipped; None: the program is there, or CI must have it."""
    if shutil.which(program) is not None or os.environ.get("CI"):
        return None
    return f"{program} is not installed; run: {INSTALL[program]}"


def needs(*programs: str) -> None:
    """Skip the running test if one of these is missing. In CI it goes on, and fails."""
    for program in programs:
        if (reason := missing(program)) is not None:
            pytest.skip(reason)


def files_of_git(*patterns: str) -> list[str]:
    """Return the files of the repository that git has or would add, by path. The caller asks for `git` first."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name]


def make_certificate(folder: Path, name: str = "DNS:localhost") -> tuple[Path, Path]:
    """
    Make a certificate that no authority knows, or skip the running test without openssl.

    Args:
        folder: Where the files go.
        name: Its `subjectAltName`.

    Returns:
        The files with the certificate and with its key.
    """
    needs("openssl")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "1", "-keyout", key, "-out", certificate),
            *("-subj", f"/CN={name.partition(':')[2]}", "-addext", f"subjectAltName={name}"),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
