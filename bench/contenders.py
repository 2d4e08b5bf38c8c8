"""
Whom Headcount is compared with: how each is installed, started, spoken to and watched.

What others need goes to bench/results/peers/, stays there for the next time, and is made anew when peers/ has changed.
"""

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from load import Peer, Poster, SsePeer, WebSocketPeer, open_peers
from servers import TOKEN, Server, serve

from kit.frames import frame

HERE = Path(__file__).parent
SCRATCH = HERE / "results" / "peers"
ADMIN = f"Authorization: Bearer {TOKEN}"

_TOTAL = re.compile(rb'"total":(\d+)')


class Impossible(Exception):  # noqa: N818 that is what it is
    """A contender cannot be had on this machine; the message says why."""


class Onlooker(Peer):
    """A page that is sent statistics. Looks for totals only, so that megabytes a message cost the load little."""

    total = -1
    """As of the newest statistics; -1 before the first."""
    _end = b""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        seen = self._end + data
        if found := _TOTAL.findall(seen):
            self.total = int(found[-1])
        self._end = seen[-32:]  # a total may come in two parts


class SseOnlooker(Onlooker, SsePeer):
    """An event stream that is sent statistics."""


class WebSocketOnlooker(Onlooker, WebSocketPeer):
    """A WebSocket that is sent statistics."""


class SocketIoPeer(WebSocketPeer):
    """A Socket.IO socket on a WebSocket of its own, without the long polling that others begin with."""

    join, joined = "40", b'40{"sid"'
    _head = b""
    _asked = False

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self.opened.done():
            return
        self._head += data
        if not self._asked and b'0{"sid"' in self._head:
            self._asked = True
            self.transport.write(frame(1, self.join.encode()))
        if self.joined in self._head:
            self._head = b""
            self.opened.set_result(None)


class SocketIoAdmin(SocketIoPeer):
    """An admin, who is sent events; what adds up to what is left to it."""

    join, joined = "40/admin,", b'"config"'


class NodeServer(Server):
    """A server of Nitro's."""

    program = "node"
    environment: ClassVar = {"HOST": "127.0.0.1", "PORT": "PORT", "NODE_ENV": "production", "NODE_NO_WARNINGS": "1"}


class SocketIoServer(Server):
    """A server under the Python that python-socketio was installed for."""

    program = str(SCRATCH / "socket_io" / "venv" / "bin" / "python")


class Contender(NamedTuple):
    """One server on one transport."""

    start: Callable[[], Server]
    page: type[Peer]
    path: str
    viewer: type[Peer]
    viewer_path: str
    subscribe: Callable[[Server, Sequence[Peer]], Awaitable[None]]
    """Let these viewers watch; done when they have been sent the first statistics."""
    update: Callable[[str], str] | None
    """The text frame that says which route a page is on; None: it is POSTed."""
    viewers_counted: bool = False
    totals: bool = True
    """Whether viewers are told totals."""


async def watch(contender: Contender, server: Server, count: int) -> list[Peer]:
    """Let `count` viewers watch."""
    watching: list[Peer] = list(await open_peers(contender.viewer, server.port, count, contender.viewer_path, [ADMIN]))
    await contender.subscribe(server, watching)
    return watching


def _subscriber(**message: object) -> Callable[[Server, Sequence[Peer]], Awaitable[None]]:
    async def subscribe(server: Server, viewers: Sequence[Peer]) -> None:
        poster: Poster | None = None
        for viewer in viewers:
            if isinstance(viewer, WebSocketPeer):
                viewer.send({"type": "subscribe-stats", **message})
            else:
                poster = poster or await open_poster(server)
                await poster.post("/__skew/subscribe-stats", {"connectionId": viewer.handle, **message}, [ADMIN])
        async with asyncio.timeout(60):
            while any(isinstance(viewer, Onlooker) and viewer.total < 0 for viewer in viewers):
                await asyncio.sleep(0.005)
        if poster:
            poster.close()

    return subscribe


async def _subscribed_by_joining(_server: Server, _viewers: Sequence[Peer]) -> None:
    """Admins of Socket.IO need not ask."""


async def open_poster(server: Server) -> Poster:
    """Open a connection for POSTs."""
    _, poster = await asyncio.get_running_loop().create_connection(Poster, "127.0.0.1", server.port)
    return poster


def _route_update(route: str) -> str:
    return f'{{"type":"route-update","route":"{route}"}}'


def headcount(transport: str, *, listed: int = 1_000, deltas: bool = True) -> Contender:
    """
    `headcount serve`, which keeps addresses as the others do.

    Args:
        transport: "SSE" or "WebSocket".
        listed: How many connections a viewer is told one by one.
        deltas: Whether viewers are told what changed, or everything as by the reference.
    """
    stream = "sse" if transport == "SSE" else "ws"
    return Contender(
        start=lambda: serve(max_listed_connections=listed, ip_tracking="true"),
        page=SsePeer if transport == "SSE" else WebSocketPeer,
        path=f"/__skew/{stream}?version=v1&route=/",
        viewer=SseOnlooker if transport == "SSE" else WebSocketOnlooker,
        viewer_path=f"/__skew/{stream}?viewer=1",
        subscribe=_subscriber(deltas=deltas),
        update=None if transport == "SSE" else _route_update,
    )


def reference(transport: str) -> Contender:
    """Return nuxt-skew-protection in a Nuxt application with nothing else in it."""
    stream = "sse" if transport == "SSE" else "ws"
    entry = str(SCRATCH / "reference" / stream / "server" / "index.mjs")
    return Contender(
        start=lambda: NodeServer(entry),
        page=SsePeer if transport == "SSE" else WebSocketPeer,
        path=f"/__skew/{stream}?route=/",
        viewer=SseOnlooker if transport == "SSE" else WebSocketOnlooker,
        viewer_path=f"/__skew/{stream}?route=/",
        subscribe=_subscriber(),
        update=None if transport == "SSE" else _route_update,
        viewers_counted=True,
    )


def socket_io() -> Contender:
    """Return python-socketio under uvicorn, instrumented."""
    command = ["-m", "uvicorn", "instrumented:app", "--app-dir", str(HERE / "peers" / "socket_io"), "--port", "PORT"]
    options = ["--log-level", "warning", "--no-access-log", "--ws-per-message-deflate", "false"]
    # Pings of the WebSocket are left out as well; the load would have to answer them.
    options += ["--ws-ping-interval", "3600", "--ws-ping-timeout", "3600"]
    path = "/socket.io/?EIO=4&transport=websocket"
    return Contender(
        start=lambda: SocketIoServer(*command, *options),
        page=SocketIoPeer,
        path=f"{path}&version=v1&route=/",
        viewer=SocketIoAdmin,
        viewer_path=path,
        subscribe=_subscribed_by_joining,
        update=lambda route: f'42["route-update","{route}"]',
        totals=False,
    )


def install_reference() -> str:
    """Install and build the reference for both transports; returns what it is."""
    node = _version("node", "Node 20.19 or newer")
    _version("npm", "npm, which comes with Node")
    folder, fresh = _folder("reference")
    if fresh:
        run = _runner(folder)
        run("npm", "install", "--no-fund", "--no-audit")
        for strategy in ("sse", "ws"):
            run("npx", "--no-install", "nuxt", "build", STRATEGY=strategy, CI="1", NUXT_TELEMETRY_DISABLED="1")
            (folder / ".output").rename(folder / strategy)
        _finished(folder)
    return f"nuxt-skew-protection {_pinned('nuxt-skew-protection')} in nuxt {_pinned('nuxt')}, node {node.lstrip('v')}"


def install_socket_io() -> str:
    """Install python-socketio and its server; returns what it is."""
    folder, fresh = _folder("socket_io")
    if fresh:
        run = _runner(folder)
        run(sys.executable, "-m", "uv", "venv", "--python", sys.executable, "venv")
        python = str(folder / "venv" / "bin" / "python")
        run(sys.executable, "-m", "uv", "pip", "install", "--python", python, "-r", "requirements.txt")
        _finished(folder)
    return ", ".join(
        line.replace("==", " ")
        for line in (HERE / "peers" / "socket_io" / "requirements.txt").read_text().splitlines()
        if line.startswith(("python-socketio", "uvicorn"))
    )


def _version(program: str, wanted: str) -> str:
    if shutil.which(program) is None:
        raise Impossible(f"there is no {program} here; install {wanted}")
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def _pinned(package: str) -> str:
    found = re.search(rf'"{package}": "([^"]+)"', (HERE / "peers" / "reference" / "package.json").read_text())
    assert found, package
    return found[1]


def _folder(name: str) -> tuple[Path, bool]:
    """Return the folder to install into, and whether that is to be done."""
    source, folder = HERE / "peers" / name, SCRATCH / name
    if _stamp(folder).exists() and _stamp(folder).read_text() == _digest(source):
        return folder, False
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    print(f"… installing {name.replace('_', ' ')} into {folder}", file=sys.stderr, flush=True)
    return folder, True


def _finished(folder: Path) -> None:
    _stamp(folder).write_text(_digest(HERE / "peers" / folder.name))


def _stamp(folder: Path) -> Path:
    return folder / ".installed"


def _digest(folder: Path) -> str:
    """Name the contents of what is installed from, and the Python that a virtual environment is for."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def _runner(folder: Path) -> Callable[..., None]:
    log = folder / "install.log"
    # A virtual environment of ours must not be where theirs is installed to.
    inherited = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}

    def run(*command: str, **environment: str) -> None:
        with log.open("a") as out:
            try:
                done = subprocess.run(
                    command,
                    check=False,
                    cwd=folder,
                    env={**inherited, **environment},
                    stdout=out,
                    stderr=out,
                    timeout=300,
                )
            except subprocess.TimeoutExpired:
                raise Impossible(f"`{' '.join(command[:4])}` took longer than five minutes; see {log}") from None
        if done.returncode:
            last = (log.read_text().strip().splitlines() or ["nothing"])[-1]
            raise Impossible(f"`{' '.join(command[:4])}` failed with `{last}`; see {log}")

    return run
