"""
Network namespaces of our own on one bridge, whose cables can be pulled and put back.

    this namespace        a bridge, which has ADDRESS, and whatever runs here
      ├─ port-a ═ eth-a   namespace a
      └─ port-b ═ eth-b   namespace b

Whoever is behind a pulled cable is gone without FIN, RST or ICMP, and what was sent meanwhile comes late, when the
cable is back. All of it needs a process of its own, started by `run`.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CLONE_NEWNET = 0x40000000
ADDRESS = "10.231.0.1"
_libc = ctypes.CDLL(None, use_errno=True)


def make_bridge() -> None:
    """Make the bridge, before any namespace. In a process that `run` has started."""
    _ip("link set lo up")
    _ip("link add name bridge type bridge")
    _ip(f"addr add {ADDRESS}/24 dev bridge")
    _ip("link set bridge up")


class Namespace:
    """
    A network namespace on a port of the bridge.

    Args:
        name: At most ten characters.
        number: Last byte of its address.
    """

    def __init__(self, name: str, number: int) -> None:
        with _returning():
            _check(_libc.unshare(CLONE_NEWNET))
            self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        path = f"/proc/{os.getpid()}/fd/{self._fd}"
        self._port = f"port-{name}"
        _ip(f"link add {self._port} type veth peer name eth-{name} netns {path}")
        _ip(f"link set {self._port} master bridge up")
        for command in (
            f"addr add 10.231.0.{number}/24 dev eth-{name}",
            f"link set eth-{name} up",
            "link set lo up",
        ):
            subprocess.run(["nsenter", f"--net={path}", "ip", *command.split()], check=True)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Make sockets and start processes here. Nothing may be awaited inside."""
        with _returning():
            _check(_libc.setns(self._fd, CLONE_NEWNET))
            yield

    def pull(self) -> None:
        """Pull the cable out of the switch."""
        _ip(f"link set {self._port} down")

    def plug(self) -> None:
        """Put it back."""
        _ip(f"link set {self._port} up")


def run(module: str, plan: Any, timeout: float) -> Any:
    """
    Run a module of this package where namespaces can be made. Skips where they cannot, but fails in CI.

    Args:
        module: Name in this package.
        plan: JSON value, its argument.
        timeout: Seconds.

    Returns:
        What it writes, decoded.
    """
    command = _namespaces()
    if command is None:
        reason = (
            "no network namespace can be made here; run as root, or allow unprivileged user namespaces, and: "
            "apt-get install iproute2"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(f"The cable cannot be pulled, because {reason}.")
        pytest.skip(reason)
    package = __package__ or ""
    done = subprocess.run(
        [*command, sys.executable, "-m", f"{package}.{module}", json.dumps(plan)],
        cwd=Path(__file__).parents[package.count(".") + 1],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def _namespaces() -> list[str] | None:
    """Return the command that makes a network namespace here, as root or in a user namespace, or None."""
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        return None
    for command in (["unshare", "-n"], ["unshare", "-Urn"]):
        # A bridge, because some sandboxes allow the namespace and nothing in it.
        probe = [*command, "ip", "link", "add", "name", "bridge", "type", "bridge"]
        try:
            if subprocess.run(probe, capture_output=True, timeout=30, check=False).returncode == 0:
                return command
        except OSError:
            continue
    return None


@contextmanager
def _returning() -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        yield
    finally:
        _check(_libc.setns(home, CLONE_NEWNET))
        os.close(home)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)
