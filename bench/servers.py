"""Servers in processes of their own, as users start them; each is ended when its `with` is left."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from measure import cpu_seconds, pss, pss_of_its_own

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from kit.servers import ServerProcess

HERE = Path(__file__).parent
TOKEN = "a token for the benchmark only"


class Server(ServerProcess):
    """
    A server that answers `/__skew/health`.

    Args:
        command: Arguments of the program; PORT is replaced.
        settings: Of Headcount, as `HEADCOUNT_*`.
    """

    program = sys.executable
    environment: ClassVar[Mapping[str, str]] = {}
    """Further variables; PORT is replaced."""

    def __init__(self, *command: str, **settings: object) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="headcount-bench-")
        self._observed = Path(self._folder.name, "observed.json")
        port = str(self.port)
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADCOUNT_")},
            # Keepalives cost the same whether anything happens or not; they are measured on their own.
            "HEADCOUNT_KEEPALIVE_INTERVAL": "3600",
            "HEADCOUNT_ADMIN_TOKEN": TOKEN,
            **{f"HEADCOUNT_{name.upper()}": str(value) for name, value in settings.items()},
            "OBSERVED": str(self._observed),
            **{name: value.replace("PORT", port) for name, value in self.environment.items()},
        }
        arguments = [word.replace("PORT", port) for word in command]
        self.launch([self.program, *arguments], cwd=HERE, env=variables, stdout=subprocess.DEVNULL)
        self.pid = self.process.pid

    async def __aenter__(self) -> Self:
        try:
            return await asyncio.to_thread(self.wait_ready, 20)
        except AssertionError:
            if self.process.poll() is not None:
                raise SystemExit("The server did not start; its message stands above.") from None
            self.kill()
            raise SystemExit("The server did not answer within 20 s.") from None

    async def __aexit__(self, *_: object) -> None:
        # Not gently: plain uvicorn would wait for the streams of others to end.
        self.signal(signal.SIGTERM)
        with suppress(AssertionError):
            await asyncio.to_thread(self.wait, 5)
        self.kill()
        self._folder.cleanup()

    @property
    def cpu(self) -> float:
        """CPU seconds so far."""
        return cpu_seconds(self.pid)

    @property
    def memory(self) -> int:
        """Bytes."""
        return pss(self.pid)

    @property
    def own_memory(self) -> int:
        """Bytes that it allocated itself: for what is watched over minutes."""
        return pss_of_its_own(self.pid)

    async def quiet(self) -> None:
        """Wait until the server has nothing more to do."""
        before = self.cpu
        for _ in range(100):
            await asyncio.sleep(0.2)
            now = self.cpu
            if now - before < 0.004:
                return
            before = now

    def broadcast(self) -> None:
        """Let it send all pages a message (`serve` only)."""
        os.kill(self.pid, signal.SIGUSR1)

    async def observed(self) -> dict[str, Any]:
        """Return what observed.py has noted since the last time (`serve` only)."""
        self._observed.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR2)
        for _ in range(200):
            await asyncio.sleep(0.02)
            if self._observed.exists() and (text := self._observed.read_text()):
                noted: dict[str, Any] = json.loads(text)
                return noted
        raise SystemExit("The server does not tell what it noted.")


def serve(**settings: object) -> Server:
    """`headcount serve`."""
    return Server("observed.py", "--port", "PORT", "--version", "v1", "--route-tracking", **settings)


def workers(count: int, **settings: object) -> Server:
    """`headcount serve --workers`."""
    return Server(
        *["-m", "headcount", "serve", "--port", "PORT", "--version", "v1", "--route-tracking"],
        *["--workers", str(count)],
        **settings,
    )


def uvicorn(app: str, *options: str) -> Server:
    """An application of apps.py under plain uvicorn."""
    return Server(
        *["-m", "uvicorn", f"apps:{app}", "--port", "PORT", "--log-level", "warning", "--no-access-log"],
        *["--ws-per-message-deflate", "false", *options],
    )
