"""Ports for servers that tests start."""

import random
import socket
from pathlib import Path

_LOWEST, _HIGHEST = 12_000, 32_000
"""Below the ports that the kernel gives to outgoing connections: thousands of pages would take one again at once."""
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_reserved: list[socket.socket] = []


def free_port() -> int:
    """
    Return a TCP port that is free on all addresses.

    No other process that calls this function gets the same port until this process ends: an abstract Unix socket of
    that number reserves it. So tests that run side by side do not collide, although the server binds the port later.
    """
    highest = _HIGHEST
    if _RANGE.exists():
        highest = max(min(highest, int(_RANGE.read_text().split()[0]) - 1), _LOWEST + 1_000)
    for _ in range(1_000):
        port = random.SystemRandom().randint(_LOWEST, highest)
        if _reserve(port) and _is_free(port):
            return port
    raise RuntimeError(f"No free port between {_LOWEST} and {highest} in 1,000 attempts.")


def _reserve(port: int) -> bool:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.bind(f"\0headcount-tests-port-{port}")
    except OSError:
        sock.close()
        return False
    _reserved.append(sock)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("", port))
        except OSError:
            return False
        return True
