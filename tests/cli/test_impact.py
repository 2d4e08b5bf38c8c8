"""`headcount impact`: a real server."""

import json

import pytest

from kit.pages import Sse, everybody_leaves

from .processes import TOKEN, Serve
from .running import run

pytestmark = pytest.mark.anyio


async def test_it_says_whom_a_deploy_would_meet() -> None:
    with Serve(version="v2") as server:
        for version, route in (("v1", "/checkout"), ("v2", "/checkout"), ("v2", "/")):
            await Sse.open(server.origin, version=version, route=route)
        done = run("impact", server.url, "--token", TOKEN, "--route", "/checkout")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            "3 pages are open: 2 on v2, 1 on v1.",
            "2 of them are on /checkout.",
            "No rollout is finished yet, so it is not known how long old pages stay.",
            "No hour of the last day is known well enough to say when it is quiet.",
        ]
        found = json.loads(run("impact", server.url, "--token", TOKEN, "--json").stdout)
        assert found == {
            "total": 3,
            "versions": {"v1": 1, "v2": 2},
            "route": None,
            "onRoute": None,
            "partial": False,
            "reachedAfterMs": {},
            "quietHour": None,
        }
        await everybody_leaves()
    with Serve(version="v2", route_tracking=False) as server:
        await Sse.open(server.origin, version="v1")
        done = run("impact", server.url, "--token", TOKEN, "--route", "/checkout")
        assert "How many are on /checkout is not known" in done.stdout
        await everybody_leaves()


def test_without_the_right_it_says_so() -> None:
    with Serve() as server:
        done = run("impact", server.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not authorised" in done.stderr
