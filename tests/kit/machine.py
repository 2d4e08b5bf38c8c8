"""How busy this machine is: bounds on time hold for an idle one."""

import time

SPIN = 0.05
"""Seconds of computing that show it."""


def slowdown() -> float:
    """Return how many seconds a process waits for each second that it computes; 1.0 on an idle machine."""
    started, computed = time.monotonic(), time.process_time()
    while time.process_time() - computed < SPIN:
        pass
    return max(1.0, (time.monotonic() - started) / SPIN)
