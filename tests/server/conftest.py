"""For all tests in this folder."""

from typing import Any

import pytest

from headcount.asgi.takeover.choose import TESTED


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Pages run in uvloop, so that thousands of them leave the machine to the server."""
    return "asyncio", {"use_uvloop": True}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the minor versions of uvicorn: `A_FEW` of the module, or all."""
    if "minor" in metafunc.fixturenames:
        all_of_them = metafunc.config.getoption("--all-versions")
        metafunc.parametrize("minor", TESTED if all_of_them else metafunc.module.A_FEW)
