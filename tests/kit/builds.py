"""Builds of a front end on the disk, as a deploy script copies them."""

import os
from pathlib import Path


def put(top: Path, build: str, files: dict[str, str], deployed: float = 1_000.0) -> Path:
    for name, text in files.items():
        path = top / build / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    os.utime(top / build, (deployed, deployed))
    return top / build
