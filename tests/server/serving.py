"""Start servers as users start them: by their own command line, in processes of their own."""

import http.client
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psutil

from kit.packages import installed
from kit.processes import BIN
from kit.servers import ServerProcess

HERE = Path(__file__).parent
VERSION = "2026.11.3"

SERVE = [
    *["headcount", "serve", "--host", "{host}", "--port", "{port}", "--route-tracking"],
    *["--admin-token", "s3cret-of-the-tests"],
]

COMMANDS: dict[str, list[str]] = {
    "uvicorn": ["uvicorn", "{app}", "--host", "{host}", "--port", "{port}"],
    "uvicorn-no-ping": [
        *["uvicorn", "{app}", "--host", "{host}", "--port", "{port}", "--ws-ping-interval", "86400"],
    ],
    "uvicorn-bounded": [
        *["uvicorn", "{app}", "--host", "{host}", "--port", "{port}", "--ws-max-size", "65536"],
    ],
    "uvicorn-plain": [
        *["uvicorn", "{app}", "--host", "{host}", "--port", "{port}"],
        *["--loop", "asyncio", "--http", "h11", "--ws", "wsproto"],
    ],
    "uvicorn-websockets": [
        *["uvicorn", "{app}", "--host", "{host}", "--port", "{port}", "--ws", "websockets"],
    ],
    # Of its own accord granian holds 1,024 requests at once, and a stream is a request that does not end.
    "granian": [
        *["granian", "{app}", "--interface", "asgi", "--host", "{host}", "--port", "{port}"],
        *["--backpressure", "10000"],
    ],
    "hypercorn": ["hypercorn", "{app}", "--bind", "{host}:{port}"],
    "gunicorn": [
        *["gunicorn", "{app}", "--bind", "{host}:{port}", "--worker-class", "uvicorn_worker.UvicornWorker"],
        *["--no-control-socket", "--worker-tmp-dir", "/dev/shm"],
    ],
    "daphne": ["python", "-m", "daphne", "-b", "{host}", "-p", "{port}", "{app}"],
    "uvicorn-workers": ["uvicorn", "{app}", "--host", "{host}", "--port", "{port}", "--workers", "4"],
    "gunicorn-workers": [
        *["gunicorn", "{app}", "--bind", "{host}:{port}", "--worker-class", "uvicorn_worker.UvicornWorker"],
        *["--no-control-socket", "--worker-tmp-dir", "/dev/shm", "--workers", "4"],
    ],
    "gunicorn-preload": [
        *["gunicorn", "{app}", "--bind", "{host}:{port}", "--worker-class", "uvicorn_worker.UvicornWorker"],
        *["--no-control-socket", "--worker-tmp-dir", "/dev/shm", "--workers", "4", "--preload"],
    ],
    "granian-workers": [
        *["granian", "{app}", "--interface", "asgi", "--host", "{host}", "--port", "{port}"],
        *["--backpressure", "10000", "--workers", "4"],
    ],
    "hypercorn-workers": ["hypercorn", "{app}", "--bind", "{host}:{port}", "--workers", "4"],
    "headcount-workers": [
        *SERVE,
        *["--workers", "4"],
    ],
    "headcount-two-workers": [
        *SERVE,
        *["--workers", "2"],
    ],
    "headcount-chaos": [
        *SERVE,
        *["--workers", "3"],
    ],
    "uvicorn-takeover": [
        *["uvicorn", "{app}", "--host", "{host}", "--port", "{port}"],
        *["--http", "{app}_headcount.protocol"],
    ],
    "uvicorn-takeover-asyncio": [
        *["uvicorn", "{app}", "--host", "{host}", "--port", "{port}"],
        *["--http", "{app}_headcount.protocol", "--loop", "asyncio"],
    ],
    "uvicorn-takeover-reload": [
        *["uvicorn", "{app}", "--host", "{host}", "--port", "{port}"],
        *["--http", "{app}_headcount.protocol", "--reload"],
    ],
    "uvicorn-takeover-workers": [
        *["uvicorn", "{app}", "--host", "{host}", "--port", "{port}"],
        *["--http", "{app}_headcount.protocol", "--workers", "1", "--proxy-headers", "--forwarded-allow-ips", "*"],
    ],
    "gunicorn-takeover": [
        *["gunicorn", "{app}", "--bind", "{host}:{port}", "--worker-class", "worker.HeadcountWorker"],
        *["--no-control-socket", "--worker-tmp-dir", "/dev/shm"],
    ],
    "uvicorn-fd": ["python", str(HERE / "given.py"), "{app}", "{host}", "{port}"],
    "uvicorn-hasty": ["python", str(HERE / "hasty.py"), "{app}", "{host}", "{port}"],
    "uvicorn-hasty-takeover": ["python", str(HERE / "hasty.py"), "{app}", "{host}", "{port}", "takeover"],
    "uvicorn-run-takeover": ["python", str(HERE / "run.py"), "{host}", "{port}"],
    "alone": ["python", str(HERE / "alone.py"), "{host}", "{port}"],
    "headcount-serve": [
        *SERVE,
    ],
}
"""By the name that tests use. `{app}` is `apps:mounted`, `apps:wrapped` or another module's."""

TAKEN_OVER = ("uvicorn-takeover", "uvicorn-takeover-asyncio", "alone")
"""Those whose streams are on the bare socket. What holds for `uvicorn` must hold for them."""


def daphne_packages() -> Path:
    """Return a folder with daphne, which is installed there once: its Twisted is nobody else's business."""
    return installed("daphne==4.2.*", dependencies=True)


@contextmanager
def ended_at_last(process: subprocess.Popen[bytes], log: Path) -> Iterator[None]:
    """Kill a process and what it started. Its log must hold no traceback, and is printed if anything fails."""
    try:
        yield
        assert "Traceback" not in log.read_text(), log.read_text()[-3000:]
    except BaseException:
        print(log.read_text()[-3000:])
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


class Server(ServerProcess):
    """
    One server of `COMMANDS`, running. It is ready when `wait_ready` returned; leaving the `with` ends it.

    Args:
        server: Key of `COMMANDS`.
        app: Name in apps.py, or a module and a name.
        settings: Of Headcount, handed on as `HEADCOUNT_*`; None is `null`.
        host: Address to listen on.
        environment: Further variables.
        port: To listen on; None: a free one.
        packages: A folder whose packages go before those that are installed.
    """

    def __init__(
        self,
        server: str,
        app: str = "mounted",
        *,
        host: str = "127.0.0.1",
        environment: dict[str, str] | None = None,
        port: int | None = None,
        packages: Path | None = None,
        **settings: Any,
    ) -> None:
        given = environment
        super().__init__(host, port)
        self.name = f"{server}, {app}"
        self._directory = tempfile.TemporaryDirectory(prefix="headcount-")
        self._log = Path(self._directory.name, "log")
        self._marker = Path(self._directory.name, "marker")
        # A second: most tests of dead nodes are not about what is unaccounted for meanwhile.
        # And most tests of versions are not about a fleet that settles.
        values = {"version": VERSION, "unaccounted_grace": 1, "settle_time": 0, **settings}
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADCOUNT_")},
            **{f"HEADCOUNT_{name.upper()}": _text(value) for name, value in values.items()},
            "PYTHONPATH": os.pathsep.join(map(str, filter(None, (packages, HERE)))),
            "PYTHONUNBUFFERED": "1",
            "MARKER": str(self._marker),
            **(given or {}),
        }
        target = app if ":" in app else f"apps:{app}"
        program, *arguments = [word.format(app=target, host=host, port=self.port) for word in COMMANDS[server]]
        with self._log.open("wb") as log:
            self.launch(
                [BIN / program, *arguments],
                env=environment,
                cwd=self._directory.name,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def shares_socket(self) -> bool:
        """Whether its workers accept from one socket; else each has one, and the kernel spreads connections by hash."""
        return not self.name.startswith(("headcount", "granian"))

    @property
    def url(self) -> str:
        """Origin."""
        return self.origin

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return self._log.read_text(errors="replace")

    @property
    def marks(self) -> list[str]:
        """What the application's lifespan has written so far."""
        return self._marker.read_text().split() if self._marker.exists() else []

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Send one request and wait; returns status, decoded JSON (or None) and headers in lower case."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            text = response.read()
            told = {name.lower(): value for name, value in response.getheaders()}
            return response.status, json.loads(text) if "json" in told.get("content-type", "") else None, told
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any, dict[str, str]]:
        """GET, and wait."""
        return self.request("GET", path, None, headers)

    def sign_in(self) -> str:
        """Return the Cookie header of an admin."""
        status, _, headers = self.request("POST", "/sign-in")
        assert status == 200, status
        return headers["set-cookie"].partition(";")[0]

    def debug(self) -> dict[str, Any]:
        """Look inside the application's process."""
        answer: dict[str, Any] = self.get("/debug")[1]
        return answer

    def processes(self) -> Sequence[psutil.Process]:
        """Return all processes of this server."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def memory(self) -> int:
        """Return the resident bytes of the process that runs the application."""
        size: int = psutil.Process(self.debug()["pid"]).memory_info().rss
        return size

    def stop(self) -> None:
        """End it, and whatever it started, now; when coverage is measured, after it has written what it ran."""
        if "COVERAGE_PROCESS_CONFIG" in os.environ and self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        with suppress(psutil.NoSuchProcess):  # it is just ending
            for process in self.processes() if self.process.poll() is None else ():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(30)
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
