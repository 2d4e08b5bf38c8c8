"""
`headcount demo`: the example shop, from the wheel or from a clone.

Tests: tests/cli/test_demo.py.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from .options import WholeNumber, listening
from .target import DURATION

CLONE = Path(__file__).parents[3] / "examples" / "shop"


@click.command("demo")
@listening
@click.option(
    "--visitors",
    default=300,
    show_default=True,
    metavar="N",
    type=WholeNumber(0, 15_000),
    envvar="HEADCOUNT_VISITORS",
    help="About how many pages to keep open; some visitors are away at any time.",
)
@click.option(
    "--update-strategy",
    default="auto",
    show_default=True,
    type=click.Choice(["sse", "ws", "auto"]),
    envvar="HEADCOUNT_UPDATE_STRATEGY",
    help="Kind of stream that browsers use; the simulated visitors use both.",
)
@click.option(
    "--deploy-every",
    default="60s",
    show_default=True,
    type=DURATION,
    envvar="HEADCOUNT_DEPLOY_EVERY",
    help="Time between two deploys; 0: no deploys.",
)
@click.option(
    "--seed",
    default=1,
    show_default=True,
    metavar="N",
    type=WholeNumber(0),
    envvar="HEADCOUNT_SEED",
    help="Seed of the visitors' random behaviour.",
)
@click.option("--open", "open_browser", is_flag=True, envvar="HEADCOUNT_OPEN", help="Open the admin view in a browser.")
def command(**options: Any) -> int:
    """
    Run a small shop with visitors, two versions and the admin view.

    A few hundred real connections view products, check out, leave, and move to the new version after each deploy.
    """
    return run(options)


def run(options: dict[str, Any]) -> int:
    """
    Run the shop.

    Raises:
        ConfigError: The shop or a package that it needs is not installed.
    """
    import asyncio

    demo = load()
    try:
        code: int = asyncio.run(demo.main(**options))
    except demo.DemoProblem as problem:
        raise ConfigError(str(problem)) from None
    return code


def load() -> Any:
    """
    Import the shop's demo: a part of the wheel, or a folder of the clone.

    Raises:
        ConfigError: There is neither, or a package that the shop needs is missing.
    """
    try:
        if Path(__file__).parents[1].joinpath("_demo").is_dir():
            return importlib.import_module("headcount._demo.demo")
        if CLONE.is_dir():
            sys.path.insert(0, str(CLONE))
            return importlib.import_module("demo")
    except ModuleNotFoundError as error:
        raise ConfigError(f"The demo needs the package {error.name}; run: pip install 'headcount[demo]'") from None
    raise ConfigError("The demo is not part of this installation; run: pip install 'headcount[demo]'")
