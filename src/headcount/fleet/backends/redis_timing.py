"""
How soon the Redis backend notices a fault and heals it.

Tests: tests/fleet/backends/test_redis.py.
"""

from typing import Final, NamedTuple


class Timing(NamedTuple):
    """Seconds that decide how soon a fault is noticed and healed. Tests of faults run with a fraction of them."""

    heartbeat: float = 3.0
    """Between two signs of life."""
    expiry: float = 9.0
    """After the last heartbeat at which a node is gone: three heartbeats."""
    store_timeout: float = 3.0
    """In which Redis must answer, and be connected to."""
    longest_wait: float = 5.0
    """Upper bound of the back-off between two attempts to connect, before a jitter of 50 % either way."""


DEFAULT_TIMING: Final = Timing()
