"""
Combine what `coverage run` measured, and print it beside the last run: `coverage_report.py [--update]`.

The last run is in tests/coverage.json, which `--update` writes. `make coverage` runs this program.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LAST = Path(__file__).with_name("coverage.json")
LEAST = 10
"""Modules that are listed: the least covered ones."""


def measure() -> dict[str, float]:
    """Return percent of lines and branches that ran, by module; that of all of them is `total`."""
    subprocess.run([sys.executable, "-m", "coverage", "combine", "--quiet"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "coverage.json")
        subprocess.run([sys.executable, "-m", "coverage", "json", "--quiet", "-o", str(out)], check=True)
        found: dict[str, Any] = json.loads(out.read_text())
    measured = {name: file["summary"]["percent_covered"] for name, file in found["files"].items()}
    return {
        name: round(percent, 1) for name, percent in {"total": found["totals"]["percent_covered"], **measured}.items()
    }


def table(now: dict[str, float], last: dict[str, float]) -> str:
    """Show the total and the least covered modules, each beside its last value."""
    least = sorted((name for name in now if name != "total"), key=lambda name: now[name])[:LEAST]
    lines = [f"{'branch coverage':<50} {'now':>6} {'last':>6}"]
    for name in ["total", *least]:
        before = f"{last[name]:5.1f}%" if name in last else "new"
        lines.append(f"{name:<50} {now[name]:5.1f}% {before:>6}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Print the table; with `--update`, keep the values as those of the last run."""
    now = measure()
    last: dict[str, float] = json.loads(LAST.read_text()) if LAST.exists() else {}
    print(table(now, last))
    if arguments == ["--update"]:
        LAST.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
