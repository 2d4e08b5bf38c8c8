"""What all tests share: how much hypothesis tries. HYPOTHESIS_PROFILE=ci for more than at a desk."""

import gc
import inspect
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from kit.cpu import Accounts
from kit.pages import everybody_leaves
from kit.scheduling import ByModule, longest_first

# No deadline: a busy machine is no failure, and time is measured in bench/.
settings.register_profile("dev", max_examples=60, deadline=None)
settings.register_profile("ci", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# Whoever runs in the background of a shell without job control, as CI may, is started with Ctrl-C ignored, and so would
# be all that the tests start and interrupt. A handler is not inherited; to ignore is.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where workers meet. A port is free again after a run, and a server at it must not learn of pages of another run's.
_meeting_places = tempfile.TemporaryDirectory(prefix="headcount-tests-", ignore_cleanup_errors=True)
os.environ["XDG_RUNTIME_DIR"] = _meeting_places.name


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio only; anyio would run them on trio as well where that is installed."""
    return "asyncio"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Return an empty folder for builds of a front end."""
    top = tmp_path / "builds"
    top.mkdir()
    return top


@pytest.fixture
def no_descriptor_is_left() -> Iterator[None]:
    """See to it that a test closes all that it opens."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
async def _everybody_leaves() -> AsyncIterator[None]:
    yield
    await everybody_leaves()


@pytest.fixture(autouse=True)
def _no_stream_is_left(request: pytest.FixtureRequest) -> None:
    """Close what a test left open, above all one that failed: its own message should be the one that is read."""
    if request.node.get_closest_marker("anyio") and inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_everybody_leaves")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `make uvicorn-versions` and `make old-version`, and of those who look for slow tests."""
    parser.addoption("--all-versions", action="store_true", help="try every minor version of uvicorn")
    parser.addoption("--cpu", action="store_true", help="say which modules and tests took how many CPU seconds")
    parser.addoption("--old-version", help="git revision of the old nodes in tests/server/old_version.py")


def pytest_configure(config: pytest.Config) -> None:
    """Measure the tests' CPU time for `--cpu`."""
    if config.option.cpu:
        config.pluginmanager.register(Accounts(), "cpu")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest tests first when several workers share them; refuse tests that no part of `make test` runs."""
    if hasattr(config, "workerinput"):
        longest_first(items)
    for item in items:
        if item.get_closest_marker("exclusive") and not item.nodeid.startswith("tests/server/"):
            raise pytest.UsageError(f"{item.nodeid} is marked exclusive; `make test-exclusive` looks in tests/server.")


def pytest_collection_finish() -> None:
    """Exempt modules and collected tests from garbage collection, which many tests ask for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _no_garbage_is_left() -> Iterator[None]:
    """Collect what tests of a module exempted from garbage collection (`asynchronous`) and nobody needs any more."""
    before = gc.get_freeze_count()
    yield
    if gc.get_freeze_count() > before:
        gc.unfreeze()
        gc.collect()
        gc.freeze()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByModule:
    """Spread tests over workers by module."""
    return ByModule(config, log)
