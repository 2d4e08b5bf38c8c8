"""`headcount serve` as a real process, for commands and clients that ask it."""

import signal
from typing import Any, Self

from kit.servers import ServerProcess

from .running import Command

TOKEN = "a-token-for-tests-0123456789"
VERSION = "2026.11.3"


class Serve(ServerProcess):
    """
    `headcount serve`, which can be stopped and started again at the same address.

    Args:
        settings: Of Headcount.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        values = {"version": VERSION, "route_tracking": True, "admin_token": TOKEN, "settle_time": 0, **settings}
        self._env = {f"HEADCOUNT_{name.upper()}": str(value) for name, value in values.items() if value is not None}
        self.command: Command | None = None

    @property
    def url(self) -> str:
        """URL of the base path."""
        return f"{self.origin}{self._env.get('HEADCOUNT_BASE_PATH', '/__skew')}"

    @property
    def log(self) -> str:
        """What it has written since it was started."""
        return "" if self.command is None else self.command.output

    def start(self) -> Self:
        """Start it and wait until it serves."""
        self.command = Command("serve", "--port", str(self.port), env=self._env)
        self.process = self.command.process
        self.command.until(r"Headcount serves")
        return self

    def stop(self, *, gently: bool = True) -> None:
        """Stop it, by SIGTERM or by SIGKILL."""
        assert self.command is not None
        self.signal(signal.SIGTERM if gently else signal.SIGKILL)
        self.command.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.command is not None:
            self.command.kill()
