"""
The process that kit/processes.py starts others from: it has imported what they import, and forks itself for each.

It serves one test process, over the socket that is its standard input, and ends with it.
"""

import gc
import importlib
import json
import multiprocessing.process
import os
import select
import signal
import socket
import sys
import types
import warnings
from contextlib import suppress
from typing import Any

MODULES = (
    "headcount.cli.demo",
    "headcount.cli.doctor",
    "headcount.cli.nodes",
    "headcount.cli.release",
    "headcount.cli.rollout",
    "headcount.cli.serve",
    "headcount.cli.stats",
    "headcount.cli.swarm",
    "headcount.cli.wait",
    "headcount.client.access",
    "headcount.fleet.backends.redis",
    "headcount.metrics",
    "headcount.server.serve",
    "headcount.tools.doctor",
    "headcount.tools.swarm",
    "rich.progress",
    "rich.table",
    "starlette.applications",
    "starlette.middleware.sessions",
    "starlette.routing",
    "starlette.staticfiles",
    "uvicorn.lifespan.on",
    "uvicorn.main",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.websockets_impl",
    "uvicorn.protocols.websockets.wsproto_impl",
    "uvloop",
)


class Order(types.SimpleNamespace):
    """What to run; see kit/processes.py. `files`: what becomes its standard input, output and errors."""

    script: str
    arguments: list[str]
    environment: dict[str, str]
    cwd: str | None
    session: bool
    files: list[int]


def serve(orders: socket.socket) -> Order:
    """Fork for each order, and say how each process ended. Returns in the new processes only, what they must run."""
    running: dict[int, socket.socket] = {}
    waking, woken = socket.socketpair()
    for end in (waking, woken):
        end.setblocking(False)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([orders, woken], [], [])
        if woken in ready:
            with suppress(BlockingIOError):
                woken.recv(4096)
            for pid, report in list(running.items()):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    with suppress(OSError):  # nobody wants to know any more
                        report.send(status.to_bytes(4, "little"))
                    report.close()
                    del running[pid]
        if orders not in ready:
            continue
        data, files, _, _ = socket.recv_fds(orders, 1 << 20, 4)
        if not data:
            os._exit(0)
        report = socket.socket(fileno=files.pop())
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return Order(**json.loads(data), files=files)
        for file in files:
            os.close(file)
        running[pid] = report
        report.send(pid.to_bytes(4, "little"))


def become(order: Order) -> dict[str, Any]:
    """Make this process look as if it had just been started. Returns the namespace in which the script runs."""
    if order.session:
        os.setsid()
    for number, file in enumerate(order.files):
        os.dup2(file, number)
    os.closerange(3, 256)
    if order.cwd is not None:
        os.chdir(order.cwd)
        multiprocessing.process.ORIGINAL_DIR = order.cwd  # type: ignore[attr-defined]  # where processes that it starts look for modules
    os.environ.clear()
    os.environ.update(order.environment)
    unbuffered = bool(order.environment.get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False, buffering=-1)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=unbuffered, line_buffering=stream is sys.stderr)
    sys.argv = [order.script, *order.arguments]
    added = [path for path in order.environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [os.path.dirname(order.script), *added]
    main = types.ModuleType("__main__")
    main.__file__ = order.script
    sys.modules["__main__"] = main
    return main.__dict__


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what some servers use and others do not
        for name in MODULES:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    order = serve(socket.socket(fileno=os.dup(0)))
    namespace = become(order)
    with open(order.script) as file:
        code = compile(file.read(), order.script, "exec")
    exec(code, namespace)
