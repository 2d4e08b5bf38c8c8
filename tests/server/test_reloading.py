"""Servers that reload their code while pages are open, as they do all day in development, do not wait for the pages."""

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kit.pages import Sse, WebSocket, all_of, ask, until
from kit.ports import free_port
from kit.processes import BIN

from .serving import daphne_packages

pytestmark = pytest.mark.anyio

APPLICATION = """
from starlette.applications import Starlette
from headcount import Headcount

headcount = Headcount(version="{version}")
app = Starlette()
app.mount("/__skew", headcount)
"""
FASTAPI = """
from fastapi import FastAPI
from headcount import Headcount

headcount = Headcount(version="{version}")
app = FastAPI()
app.mount("/__skew", headcount)
"""
DJANGO = """
from django.core.asgi import get_asgi_application
from headcount import Headcount

headcount = Headcount(version="{version}")
app = headcount.wrap(get_asgi_application())
"""
DJANGO_SETTINGS = """
SECRET_KEY = "only-for-this-test"
DEBUG = True
INSTALLED_APPS = ["daphne"]
ASGI_APPLICATION = "reloaded.app"
ROOT_URLCONF = "settings"
urlpatterns = []
"""
COMMANDS = {
    "uvicorn": ["uvicorn", "reloaded:app", "--port", "{port}", "--reload"],
    "hypercorn": ["hypercorn", "reloaded:app", "--bind", "127.0.0.1:{port}", "--reload"],
    "granian": ["granian", "reloaded:app", "--interface", "asgi", "--port", "{port}", "--reload"],
    "gunicorn": [
        *["gunicorn", "reloaded:app", "--bind", "127.0.0.1:{port}", "--worker-class", "uvicorn_worker.UvicornWorker"],
        *["--no-control-socket", "--worker-tmp-dir", "/dev/shm"],
    ],
    "fastapi": ["fastapi", "dev", "reloaded.py", "--port", "{port}"],
    "runserver": ["python", "-m", "django", "runserver", "--settings=settings", "127.0.0.1:{port}"],
}
APPLICATIONS = {"fastapi": FASTAPI, "runserver": DJANGO}
"""Of those that do not run `APPLICATION`."""
CUTS_OFF = "runserver"
"""Its reloader ends the process in which the server is a thread, so pages get no delay from it."""
SECONDS = 3.0
"""That a reload with open pages may take longer than twice one without any, whose time says how busy the machine is."""
DAPHNE = ["python", "-m", "daphne", "-b", "127.0.0.1", "-p", "{port}", "reloaded:app"]


@contextmanager
def running(command: list[str], folder: Path, *packages: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Start a server of `reloaded.py` in a folder."""
    port = free_port()
    program, *arguments = [word.format(port=port) for word in command]
    process = subprocess.Popen(
        [BIN / program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (folder, *packages)))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with the application's first version."""
    with tempfile.TemporaryDirectory(prefix="headcount-test-") as made:
        (Path(made) / "reloaded.py").write_text(APPLICATION.format(version="first"))
        yield Path(made)


async def version(url: str) -> str:
    """Return the version that the server says it has; empty while it does not answer."""
    with suppress(OSError, EOFError, ValueError, asyncio.TimeoutError):
        status, health = await ask(url, "GET", "/__skew/health")
        if status == 200:
            return str(health["version"])
    return ""


async def serves(url: str, wanted: str) -> None:
    """Wait until the server runs a version of the code."""
    async with asyncio.timeout(60):
        while await version(url) != wanted:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_reload_does_not_wait_for_open_pages(name: str, folder: Path) -> None:
    application = APPLICATIONS.get(name, APPLICATION)
    module = folder / "reloaded.py"
    module.write_text(application.format(version="first"))
    (folder / "settings.py").write_text(DJANGO_SETTINGS)
    packages = [daphne_packages()] if name == "runserver" else []
    with running(COMMANDS[name], folder, *packages) as (process, url):

        async def reload(version: str) -> float:
            # Watchers compare times of modification, some by whole seconds. Django's looks once a second, and sees only
            # changes that come after it has looked at a module that was imported.
            await asyncio.sleep(3.3 if name == "runserver" else 1.1)
            began = time.monotonic()
            module.write_text(application.format(version=version))
            if name == "gunicorn":
                process.send_signal(signal.SIGHUP)
            await serves(url, version)
            return time.monotonic() - began

        await serves(url, "first")
        alone = await reload("second")
        pages = await all_of([kind.open(url) for kind in (Sse, WebSocket) for _ in range(3)])
        assert await reload("third") < SECONDS + 2 * alone
        await until(lambda: all(page.ended for page in pages), "the pages to be sent away")
        told = [bool(page.of_type("drain")) for page in pages if isinstance(page, Sse)]
        assert told == [name != CUTS_OFF] * 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_daphne_tells_every_page_when_to_come_back_and_stops(number: signal.Signals, folder: Path) -> None:
    limited = APPLICATION.replace('"{version}"', '"first", max_connections=6')
    (folder / "reloaded.py").write_text(limited)
    with running(DAPHNE, folder, daphne_packages()) as (process, url):
        await serves(url, "first")
        pages = await all_of([kind.open(url) for kind in (Sse, WebSocket) for _ in range(3)])
        # Its library does not send codes below 3000.
        refused = await (await WebSocket.start(url)).until(lambda page: page.close_code is not None)
        assert refused.close_code == 4013
        process.send_signal(number)
        await asyncio.to_thread(process.wait, 15)
        await until(lambda: all(page.ended for page in pages), "the pages to end")
        assert all(len(page.of_type("drain")) == 1 for page in pages), [page.messages for page in pages]
        assert all(page.finished for page in pages if isinstance(page, Sse)), "the stream ends as HTTP has it"
        assert {page.close_code for page in pages if isinstance(page, WebSocket)} == {4012}
