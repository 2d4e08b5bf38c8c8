"""A short run with a new seed each time. `make fuzz` feeds a million."""

import asyncio
import random

from .run import run


def test_no_input_raises_lingers_or_is_answered_wrongly() -> None:
    seed = random.SystemRandom().randrange(2**32)
    outcomes = asyncio.run(run(12_000, seed, print, looks=3))
    # Whatever is drawn, each of these is among thousands; else the generators feed one kind only.
    for outcome in (
        "read",
        "refused",
        "http 101",
        "http 200",
        "http 400",
        "http 404",
        "ws closed with 4400",
        "ws open",
    ):
        assert outcomes[outcome] > 10, (seed, outcomes)
