"""
The process that kit/processes.py starts others from: it has imported what they import, and forks itself for each.

It serves one test process, over the socket that is its standard input, and ends with it. For programs that import more
than most it first forks another process like itself, which imports that.
"""

import atexit
import gc
import importlib
import json
import multiprocessing.process
import multiprocessing.util
import os
import select
import signal
import socket
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

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

FURTHER = {
    "granian": ("granian.cli", "granian.server"),
    "gunicorn": ("gunicorn.app.wsgiapp", "gunicorn.arbiter", "uvicorn_worker"),
    "hypercorn": ("hypercorn.__main__", "hypercorn.asyncio.run", "hypercorn.protocol", "hypercorn.run"),
}
"""By the program's name. Nothing else may find these imported: Headcount looks whether gunicorn's arbiter is."""


class Order(types.SimpleNamespace):
    """What to run; see kit/processes.py. `files`: what becomes its standard input, output and errors."""

    further: str | None
    script: str
    arguments: list[str]
    environment: dict[str, str]
    cwd: str | None
    session: bool
    files: list[int]


def serve(orders: socket.socket, own: str | None = None) -> Order:
    """
    Fork for each order, and say how each process ended. Returns in the new processes only, what they must run.

    Args:
        orders: Where they come from.
        own: Which of `FURTHER` this process has imported.
    """
    running: dict[int, socket.socket] = {}
    others: dict[str, socket.socket] = {}
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
        order = Order(**json.loads(data))
        if order.further is not None and order.further != own:
            if order.further not in others:
                others[order.further], theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                if os.fork() == 0:
                    for file in files:
                        os.close(file)
                    for inherited in (orders, waking, woken, *running.values(), *others.values()):
                        inherited.close()
                    load(FURTHER[order.further])
                    return serve(theirs, order.further)
                theirs.close()
            socket.send_fds(others[order.further], [data], files)
            for file in files:
                os.close(file)
            continue
        report = socket.socket(fileno=files.pop())
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            order.files = files
            return order
        for file in files:
            os.close(file)
        running[pid] = report
        report.send(pid.to_bytes(4, "little"))


def load(modules: Iterable[str]) -> None:
    """Import modules, which every process that is forked will have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what some servers use and others do not
        for name in modules:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def spawn(_: object, arguments: Sequence[Any], files: Iterable[int]) -> int:
    """
    Start a process of multiprocessing's method "spawn", in place of its function that executes Python anew.

    What the parent has imported, the process has, too. Supervisors leave the application to their workers; hypercorn's
    does not with `--reload`, and must be started otherwise.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid == 0:
        _be_spawned([os.fsdecode(argument) for argument in arguments], {0, 1, 2, *files})
    return pid


def _be_spawned(arguments: list[str], files: set[int]) -> NoReturn:
    """Run what follows Python's `-c`. It ends here, and does not return to what its parent was about to do."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # which a new process inherits
            signal.signal(signal.SIGINT, signal.default_int_handler)
        atexit._clear()
        atexit.register(multiprocessing.util._exit_function)  # type: ignore[attr-defined]
        for file in map(int, os.listdir("/dev/fd")):
            if file not in files:
                with suppress(OSError):  # that of the list itself
                    os.close(file)
        index = arguments.index("-c")
        sys.argv = arguments[index:]
        program = sys.argv.pop(1)
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            exec(program, main.__dict__)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):  # closed
            sys.stdout.flush()
        os._exit(code)


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
    multiprocessing.util.spawnv_passfds = spawn  # type: ignore[assignment]
    main = types.ModuleType("__main__")
    main.__file__ = order.script
    sys.modules["__main__"] = main
    return main.__dict__


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    load(MODULES)
    order = serve(socket.socket(fileno=os.dup(0)))
    namespace = become(order)
    with open(order.script) as file:
        code = compile(file.read(), order.script, "exec")
    exec(code, namespace)
