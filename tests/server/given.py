"""Be systemd, which hands a listening socket down: `given.py APP HOST PORT` becomes `uvicorn APP --fd N`."""

import os
import socket
import sys
from pathlib import Path

app, host, port = sys.argv[1:]
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if hasattr(socket, "SO_REUSEPORT"):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # so that several of these serve one address
sock.bind((host, int(port)))
sock.listen(1_024)
sock.set_inheritable(True)
uvicorn = Path(sys.executable).with_name("uvicorn")
os.execv(uvicorn, [str(uvicorn), app, "--fd", str(sock.fileno())])
