"""
The shop with simulated visitors and a release every minute.

    python demo.py

The server runs in this process. The visitors run in a process of their own, so that their CPU time and memory are not
measured as the server's, and connect by sockets, as real ones do.
"""

import argparse
import asyncio
import contextlib
import errno
import logging
import secrets
import signal
import socket
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import uvicorn
from fastapi import FastAPI

from headcount import Headcount, Stats
from headcount.server.serve import raise_file_limit

# In its folder this file is a script beside shop.py; in an installed Headcount both are modules of a package.
if TYPE_CHECKING or not __package__:
    from shop import MissingBuild, create_app
else:
    from .shop import MissingBuild, create_app

VISITORS = Path(__file__).with_name("visitors.py")


class DemoProblem(Exception):  # noqa: N818  it reads as what it is
    """The demo cannot start; `str()` is a sentence that says why and what to do."""


class Server(uvicorn.Server):
    """uvicorn without signal handlers: a signal must stop the visitors as well."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


class Display:
    """
    The output of the demo below its link: a line for each event and, on a terminal, the figures on the last line.

    Elsewhere the figures are a line every 30 s, so that a log stays readable.
    """

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self.pause = 1.0 if self.live else 30.0
        """Seconds between two updates of the figures."""

    def say(self, text: str) -> None:
        """Print an event."""
        print(f"\r\x1b[K{text}" if self.live else text, flush=True)

    def show(self, stats: Stats, version: str) -> None:
        """Print figures; on a terminal, in place of the previous ones."""
        noun = "connection" if stats.total == 1 else "connections"
        noun = "connection" if stats.total == 1 else "connections"
        parts = [f"{stats.total:,} {noun}", *(f"{name} {count}" for name, count in sorted(stats.versions.items()))]
        if stats.total:
            parts.append(f"{100 * stats.versions.get(version, 0) // stats.total}% on {version}")
        text = " · ".join(parts)
        print(f"\r\x1b[K{text}" if self.live else text, end="" if self.live else "\n", flush=True)

    def clear_for_log(self, _: logging.LogRecord) -> bool:
        """Clear the figures before a log line, which would continue theirs. A filter of handlers; it drops nothing."""
        if self.live:
            print("\r\x1b[K", end="", flush=True)
        return True

    @contextlib.contextmanager
    def beside_logs(self) -> Iterator[None]:
        """Make room for the log lines of all handlers."""
        handlers = {handler for name in (None, "uvicorn", "headcount") for handler in logging.getLogger(name).handlers}
        if logging.lastResort is not None:
            handlers.add(logging.lastResort)
        for handler in handlers:
            handler.addFilter(self.clear_for_log)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(self.clear_for_log)

    def close(self) -> None:
        """Move the cursor to a new line."""
        if self.live:
            print(flush=True)


async def main(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    visitors: int = 300,
    seed: int = 1,
    update_strategy: Literal["sse", "ws", "auto"] = "auto",
    deploy_every: float = 60.0,
    open_browser: bool = False,
) -> int:
    """
    Run the demo until Ctrl-C, SIGTERM or cancellation.

    Args:
        host: Address to listen on. The shop is open to everybody there; the admin view needs the link or a password.
        port: Port to listen on; 0: any free port.
        visitors: Approximate number of open pages.
        seed: Seed of the visitors' random behaviour.
        update_strategy: Kind of stream that browsers use; the visitors use both kinds.
        deploy_every: Seconds between two releases; 0: no releases.
        open_browser: Open the link in a browser.

    Returns:
        Exit code: 130 after Ctrl-C, else 0.

    Raises:
        DemoProblem: The demo cannot start.
    """
    stopped = asyncio.Event()
    exit_code = 0

    def stop(code: int) -> None:
        nonlocal exit_code
        exit_code = code
        stopped.set()

    raise_file_limit()  # also for the visitors, whose process inherits it
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop, 130)
    loop.add_signal_handler(signal.SIGTERM, stop, 0)

    token = secrets.token_urlsafe(24)
    password = secrets.token_urlsafe(12)
    try:
        app = create_app(
            "v1",
            admin_password=password,
            admin_token=password,
            update_strategy=update_strategy,
            sign_in_token=token,
            # The visitors send made-up addresses in X-Forwarded-For.
            trusted_proxies=["127.0.0.1", "::1"],
            # This process is the whole fleet, and each demo starts with an empty history.
            backend="memory",
        )
    except MissingBuild as error:
        raise DemoProblem(str(error)) from None
    listener = listen(host, port)
    port = listener.getsockname()[1]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    server = Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            # A compression context triples the memory of a WebSocket, and its messages are small.
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
        )
    )
    display = Display()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(display.close)
        stack.enter_context(display.beside_logs())
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        stack.push_async_callback(stop_serving, server, serving, app.state.headcount)
        link = f"{url}/admin/sign-in?token={token}"
        print(f"\n  {link}\n", flush=True)
        print(
            "This link opens the admin view of a small shop for one hour. After that, log in with this password:\n\n"
            f"  {password}\n\n"  # a line of its own, so that no terminal breaks it
            "Headcount's own dashboard is at /__skew/dashboard there, with the same password.\n"
            f"The same in a terminal: headcount top {url.removeprefix('http://')} --token {password}\n"
            f"About {visitors:,} visitors are connecting; some are away at any time. "
            + (f"A release every {deploy_every:g} s. " if deploy_every else "")
            + "Press Ctrl-C to stop.\n",
            flush=True,
        )
        if visitors:
            visitors_process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(VISITORS), url, "--count", str(visitors), "--seed", str(seed)),
                # A little more than half of the time between two releases, so that each migration ends before the next.
                *("--reload-within", str(0.6 * (deploy_every or 50))),
            )
            stack.push_async_callback(stop_process, visitors_process)
        if open_browser:
            await asyncio.to_thread(webbrowser.open, link)
        chores = [asyncio.ensure_future(show_figures(app, display)), serving]
        if deploy_every:
            chores.append(asyncio.ensure_future(keep_deploying(app, display, deploy_every)))
        waiting = asyncio.ensure_future(stopped.wait())
        try:
            done, _ = await asyncio.wait([waiting, *chores], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (waiting, *chores):
                if task is not serving:
                    task.cancel()
    return exit_code


def listen(host: str, port: int) -> socket.socket:
    """Bind here and not in uvicorn, which exits if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DemoProblem(
                f"Port {port} is in use on {host}; choose another port with --port or HEADCOUNT_PORT."
            ) from None
        raise DemoProblem(f"Cannot listen on {host}, port {port}: {error.strerror}.") from None


async def show_figures(app: FastAPI, display: Display) -> None:
    """Print the figures regularly."""
    while True:
        await asyncio.sleep(display.pause)
        display.show(await app.state.headcount.stats(), app.state.version)


async def keep_deploying(app: FastAPI, display: Display, every: float) -> None:
    """Deploy the other build every `every` seconds; the first time after at most 20 s."""
    live = app.state.headcount.use_active_connections()
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(min(20.0, every))
    while True:
        began = clock()
        version = "v2" if app.state.version == "v1" else "v1"
        await app.state.deploy(version)
        display.say(f"{version} is deployed. Open pages still run the previous build.")
        with contextlib.suppress(TimeoutError):
            # A visitor may keep an old page open; the next release does not wait for them.
            async with asyncio.timeout(every):
                await live.wait_for(lambda stats, version=version: set(stats.versions) <= {version})
                display.say(f"All connections are on {version}, {clock() - began:.0f} s after the deploy.")
        await asyncio.sleep(max(0.0, began + every - clock()))


async def stop_serving(server: Server, serving: asyncio.Future[None], headcount: Headcount) -> None:
    """Drain the browsers' streams, then stop: uvicorn would wait for open streams."""
    await headcount.drain()
    server.should_exit = True
    await serving


async def stop_process(process: asyncio.subprocess.Process) -> None:
    """End a process: SIGTERM, and SIGKILL after a second."""
    if process.returncode is None:
        # It may have ended: Ctrl-C in a terminal reaches both processes.
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 1)
    except TimeoutError:
        process.kill()
        await process.wait()


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command in the docstring of this file."""
    parser = argparse.ArgumentParser(description="Run the shop with simulated visitors.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--visitors", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--update-strategy", choices=("sse", "ws", "auto"), default="sse")
    parser.add_argument("--deploy-every", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--open-browser", action="store_true")
    try:
        return asyncio.run(main(**vars(parser.parse_args(arguments))))
    except DemoProblem as problem:
        print(problem, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(run())
