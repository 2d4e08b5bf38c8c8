import socket
import subprocess
import sys
from pathlib import Path

from .ports import free_port


def test_a_port_is_free_on_every_address() -> None:
    with socket.socket() as sock:
        sock.bind(("", free_port()))


def test_no_port_is_given_out_twice_even_by_another_process() -> None:
    ports = [free_port() for _ in range(500)]
    program = "from kit.ports import free_port; print(*(free_port() for _ in range(500)))"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    ).stdout
    ports += map(int, printed.split())
    assert len(set(ports)) == 1_000
