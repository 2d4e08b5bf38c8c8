"""The simulation in bench/ with few nodes: its checks must hold, and it must keep up with the code that it runs."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def test_viewers_converge_though_messages_are_lost_and_nodes_die() -> None:
    options = ["--nodes", "8", "--connections", "100", "--cells", "20", "--loss", "0.05", "--repeat", "0.05"]
    command = [sys.executable, str(BENCH / "fleet_simulation.py"), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["nodes"], found["connections"]) == (8, 800)
    assert 0 < found["after deaths right after s"] < 15, "virtual seconds"
