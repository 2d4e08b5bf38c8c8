"""For all tests in this folder."""

from typing import Any

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Pages run in uvloop, so that thousands of them leave the machine to the server."""
    return "asyncio", {"use_uvloop": True}
