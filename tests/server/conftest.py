"""For all tests in this folder."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kit.pages import everybody_leaves


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Pages run in uvloop, so that thousands of them leave the machine to the server."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def _everybody_leaves() -> AsyncIterator[None]:
    yield
    await everybody_leaves()


@pytest.fixture(autouse=True)
def _no_stream_is_left(request: pytest.FixtureRequest) -> None:
    """Close what a test left open, above all one that failed: its own message should be the one that is read."""
    if request.node.get_closest_marker("anyio"):
        request.getfixturevalue("_everybody_leaves")
