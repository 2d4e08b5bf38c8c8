"""How pytest-xdist spreads the tests over its workers."""

import re
from typing import Any

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

ONE_BY_ONE = (
    "tests/cli/test_asking.py",
    "tests/cli/test_doctor.py",
    "tests/cli/test_doctor_mends.py",
    "tests/fleet/backends/test_conformance.py",
    "tests/fleet/backends/test_redis.py",
    "tests/fleet/backends/test_two_sites.py",
    "tests/fleet/backends/test_neighbours.py",
    "tests/server/test_fleet.py",
    "tests/server/test_gate_chaos.py",
    "tests/server/test_mixed_versions.py",
    "tests/server/test_unaccounted.py",
    "tests/server/test_uvicorn_versions.py",
)
"""Modules whose tests share little, and wait for most of their time: each test may run on any worker."""

ENGINES = "tests/e2e/test_engines.py"

FIRST = (
    ENGINES,
    "tests/e2e/test_service_workers.py",
    "tests/test_build.py",
    "tests/server/test_slow.py",
    "tests/server/test_leaks.py",
    "tests/server/test_workers.py",
    "tests/server/test_hostile.py",
    "tests/server/test_chaos.py",
    "tests/server/test_unaccounted.py",
    "tests/server/test_gate_chaos.py",
    "tests/server/test_mixed_versions.py",
    "tests/server/test_fleet_faults.py",
    "tests/server/test_cut_off.py",
    "tests/server/test_servers.py",
    "tests/server/test_fleet.py",
    "tests/cli/test_asking.py",
    "tests/cli/test_doctor.py",
    "tests/cli/test_doctor_mends.py",
    "tests/fleet/",
    "tests/server/",
    "tests/cli/",
    "tests/client/",
    "tests/e2e/test_browser.py",
    "tests/e2e/test_shop.py",
    "tests/e2e/test_dashboard.py",
    "tests/e2e/test_shared.py",
    "tests/e2e/test_lifecycles.py",
)
"""What takes long is begun early, so that no worker is left with it at the end."""


class ByModule(LoadScopeScheduling):  # type: ignore[misc]
    """
    Gives a worker whole modules, whose fixtures are made once, except those of `ONE_BY_ONE`.

    In the order of collection, which `longest_first` has changed.
    """

    def __init__(self, config: Any, log: Any = None) -> None:
        config.option.loadscopereorder = False  # by the number of tests, which says nothing about time
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if module in ONE_BY_ONE:
            return nodeid
        # Each engine is a browser of its own, and its tests share that.
        engine = re.search(r"\[(chromium|firefox|webkit)\b", nodeid) if module == ENGINES else None
        return f"{module}[{engine[1]}]" if engine else module


def longest_first(items: list[Any]) -> None:
    """Sort collected tests by `FIRST`; those of one module keep their order."""

    def rank(item: Any) -> int:
        return next((index for index, prefix in enumerate(FIRST) if item.nodeid.startswith(prefix)), len(FIRST))

    items.sort(key=rank)
