"""This node's share in the fleet's figures is what its registry has, whatever strangers do to its labels."""

import pytest

from headcount.core.fleet_figures import FleetFigures
from headcount.core.publication import Publication
from headcount.core.registry import Registry
from headcount.core.report_sums import _RESERVED_SLACK
from headcount.fleet.own_share import OwnShare

OWN = "00"


def share(max_versions: int, held: int) -> tuple[Registry, FleetFigures, OwnShare]:
    """Return a registry that counts so many versions apart, and figures that hold so many of each node."""
    registry = Registry(max_versions=max_versions)
    figures = FleetFigures(OWN, max_versions=held)
    own = OwnShare(registry, figures, Publication(OWN, 1_000), lambda: 0.0, lambda: None)
    figures.note_changes(on=True)
    own.set_collecting(True)
    own.sync()
    return registry, figures, own


def replace_all(registry: Registry, round_: int, count: int) -> None:
    for number in range(count):
        registry.close(f"{OWN}{round_ - 1}.{number}")
    for number in range(count):
        registry.open(f"{OWN}{round_}.{number}", f"made-up-{round_}-{number}", f"/{round_}/{number}")


@pytest.mark.parametrize("held", [200, 200 - _RESERVED_SLACK], ids=["as many", "fewer"])
def test_the_figures_have_every_change_when_all_labels_are_replaced_at_once(held: int) -> None:
    registry, figures, own = share(200, held)
    for number in range(30):
        registry.open(f"{OWN}real{number}", "v1", "/")
    for round_ in range(5):
        replace_all(registry, round_, 190)
        registry.close(f"{OWN}real{round_}")
        own.sync()
        now = figures.snapshot()
        assert not now.partial, "nothing is missing of this node"
        assert (now.total, now.nodes.reporting) == (190 + 29 - round_, 1)
        assert sum(now.versions.values()) == now.total
    if held == 200:
        assert figures.snapshot().versions["v1"] == 25
