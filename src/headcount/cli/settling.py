"""
Waits until every live node serves a version, for `headcount release --when-settled`.

Tests: tests/cli/test_release.py.
"""

import asyncio
import importlib
import time
from typing import Final, NamedTuple

from ..core.stats import Stats
from ..errors import ClientError, NotAuthorized, Refused
from ..tools.settling_gate import Settling, SettlingGate
from ..tools.terminal import printable
from .output import span
from .progress import Progress
from .rollout import ERROR, HELD, INTERRUPTED, LOST, TIMED_OUT
from .target import Target

INTERVAL: Final = 1.0
"""Seconds between two requests."""

ANSWER_TIMEOUT: Final = 10.0
"""Seconds that the server has to answer."""


class Waited(NamedTuple):
    """How waiting ended: the exit code, and the reason in a sentence."""

    code: int
    reason: str


def wait_settled(target: Target, version: str, timeout: float, lost_after: float) -> Waited:
    """
    Wait until every live node of a server's fleet serves a version, and show how far it is.

    Args:
        target: The server.
        version: The version.
        timeout: Seconds; 0: for ever.
        lost_after: Seconds without an answer; 0: for ever.
    """
    # Before the clock starts: on a busy machine the import may take a second.
    importlib.import_module("headcount.client")
    with Progress() as progress:
        try:
            return asyncio.run(_wait(target, version, timeout or float("inf"), lost_after or float("inf"), progress))
        except KeyboardInterrupt:
            return Waited(INTERRUPTED, "Interrupted by Ctrl-C.")


async def _wait(target: Target, version: str, timeout: float, lost_after: float, progress: Progress) -> Waited:
    gate, started = SettlingGate(version), time.monotonic()
    contact, error = started, "The server sent nothing."
    while True:
        left = min(started + timeout, contact + lost_after) - time.monotonic()
        stats: Stats | None = None
        try:
            async with asyncio.timeout(max(1.0, min(ANSWER_TIMEOUT, left))):
                stats = await _fetch(target)
        except NotAuthorized as denied:
            return Waited(ERROR, target.denied(denied))
        except Refused as refused:
            return Waited(ERROR, str(refused))
        except (ClientError, TimeoutError) as failed:
            error = str(failed) or error
        now = time.monotonic()
        settling = gate.look(now, stats)
        if settling.done:
            return Waited(HELD, "Every node serves it.")
        if stats is not None:
            contact = now
        if now - contact >= lost_after:
            return Waited(LOST, f"No contact with the server for {span(now - contact)}. {error}")
        if now - started >= timeout:
            if stats is None:
                return Waited(LOST, f"Timed out: {settling.reason}. {error}")
            return Waited(TIMED_OUT, f"Timed out: {settling.reason}. {printable(version)} was not declared.")
        progress.show(f"Waiting for {version}: {_progress(settling)}", _share(settling), settling.reason)
        await asyncio.sleep(max(0.01, min(INTERVAL, started + timeout - now, contact + lost_after - now)))


async def _fetch(target: Target) -> Stats:
    from ..client import fetch_stats

    return await fetch_stats(target.url, base_path=target.base_path, **target.access)


def _progress(settling: Settling) -> str:
    if settling.serving is None:
        return settling.reason
    return f"{settling.serving} of {settling.nodes} nodes serve it; {settling.reason}"


def _share(settling: Settling) -> float | None:
    return None if not settling.serving or not settling.nodes else min(1.0, settling.serving / settling.nodes)
