"""Random histories of a registry, as the wire has them: golden files that the browser client applies step by step."""

import json
import random
from pathlib import Path
from typing import Any

from headcount.core import messages
from headcount.core.registry import Registry

PATH = Path(__file__).parents[2] / "protocol/fixtures/histories.json"
VERSIONS = ("v1", "v2", "v3", "unknown", "__proto__", "constructor", "ünï")
ROUTES = ("/", "/a", "/shopping", "/__proto__", "__proto__", "toString", "/🦆")


def history(seed: int) -> dict[str, Any]:
    """Let a small registry live through random events, and write down what its viewer was told."""
    chance = random.Random(seed)
    registry = Registry(route_tracking=seed % 4 != 3, max_listed=5, max_versions=4, max_routes=4)
    registry.note_changes(on=True)
    open_ids: list[str] = []

    def happen() -> None:
        what = chance.choice(("open", "open", "navigate", "close", "hide"))
        if what == "open" or not open_ids:
            open_ids.append(f"c{registry.revision}")
            registry.open(
                open_ids[-1], chance.choice(VERSIONS), chance.choice(ROUTES), chance.choice((None, "192.0.2.7"))
            )
        elif what == "close":
            registry.close(open_ids.pop(chance.randrange(len(open_ids))))
        elif what == "navigate":
            registry.navigate(chance.choice(open_ids), chance.choice(ROUTES))
        else:
            registry.set_hidden(chance.choice(open_ids), chance.random() < 0.5)

    for _ in range(chance.randrange(6)):
        happen()
    registry.pop_changes()
    before = json.loads(messages.stats(registry.snapshot()))
    steps: list[dict[str, Any]] = []
    while len(steps) < 8:
        for _ in range(chance.randrange(1, 6)):
            happen()
        delta = registry.pop_changes()
        if delta is not None:
            steps.append(
                {
                    "delta": json.loads(messages.stats_delta(delta)),
                    "after": json.loads(messages.stats(registry.snapshot())),
                }
            )
    return {"name": f"seed {seed}", "before": before, "steps": steps}


def written() -> str:
    """One history a line."""
    lines = [json.dumps(history(seed), ensure_ascii=False, separators=(",", ":")) for seed in range(12)]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def test_the_golden_histories_are_what_a_registry_tells() -> None:
    """After a change that is meant: .venv/bin/python tests/core/test_histories.py"""
    assert PATH.read_text("utf-8") == written()


if __name__ == "__main__":
    PATH.write_text(written(), "utf-8")
