"""What a server costs: CPU seconds and memory of its processes as the kernel accounts for them, never wall time."""

import os
import platform
import subprocess
from pathlib import Path


def processes(pid: int) -> list[int]:
    """Return a process and all that it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += processes(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time so far of a process and its children, to the nanosecond."""
    total = 0
    for process in processes(pid):
        for task in Path(f"/proc/{process}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def pss(pid: int) -> int:
    """Memory of a process and its children in bytes; shared pages are divided among those who share them."""
    return _memory(pid, "Pss:")


def pss_of_its_own(pid: int) -> int:
    """
    The same without files, that is without code: what they allocated themselves.

    Code counts less while any other process runs Python, so over minutes `pss` steps by 3 MB although nothing happens.
    """
    return _memory(pid, "Pss_Anon:")


def _memory(pid: int, kind: str) -> int:
    total = 0
    for process in processes(pid):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith(kind):
                total += int(line.split()[1]) * 1024
    return total


def machine() -> str:
    """One line for the head of a table: where and of which commit its figures are."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "src"], check=False).returncode:
        commit.stdout += " and changes"
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "CPU")
    return (
        f"{os.cpu_count()} cores of {model}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, commit {commit.stdout.replace(chr(10), '') or 'unknown'}"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
