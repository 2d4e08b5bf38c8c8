"""
Waits until every live node serves a version, for `headcount release --when-settled`.

Tests: tests/cli/test_release.py.
"""

import asyncio
import importlib
import time
from collections.abc import Awaitable
from typing import Final, NamedTuple, TypeVar

from ..core.stats import Stats
from ..errors import ClientError, NotAuthorized, Refused
from ..tools.release_gate import ReleaseGate, Verdict
from ..tools.terminal import printable
from .output import span
from .progress import Progress
from .rollout import ERROR, HELD, INTERRUPTED, LOST, TIMED_OUT
from .target import Target

INTERVAL: Final = 1.0
"""Seconds between two requests."""

ANSWER_TIMEOUT: Final = 10.0
"""Seconds that the server has to answer."""


NO_ANSWER: Final = "The server sent nothing."

T = TypeVar("T")


class Outcome(NamedTuple):
    """How waiting ended: the exit code, and the reason in a sentence."""

    code: int
    reason: str


def wait_settled(target: Target, version: str, timeout: float, lost_after: float) -> Outcome:
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
            return Outcome(INTERRUPTED, "Interrupted by Ctrl-C.")


async def poll(target: Target, request: Awaitable[T], seconds: float = ANSWER_TIMEOUT) -> T | Outcome | str:
    """
    Ask a server once.

    Args:
        target: The server.
        request: To it.
        seconds: That it has to answer.

    Returns:
        Its answer; the end of the command, if asking again is of no use; or what went wrong, if that may pass.
    """
    try:
        async with asyncio.timeout(seconds):
            return await request
    except NotAuthorized as denied:
        return Outcome(ERROR, target.denied(denied))
    except Refused as refused:
        return Outcome(ERROR, str(refused))
    except (ClientError, TimeoutError) as failed:
        return str(failed)


async def _wait(target: Target, version: str, timeout: float, lost_after: float, progress: Progress) -> Outcome:
    gate, started = ReleaseGate(version), time.monotonic()
    contact, error = started, NO_ANSWER
    while True:
        left = min(started + timeout, contact + lost_after) - time.monotonic()
        answer = await poll(target, _fetch(target), max(1.0, min(ANSWER_TIMEOUT, left)))
        if isinstance(answer, Outcome):
            return answer
        stats = None if isinstance(answer, str) else answer
        if isinstance(answer, str):
            error = answer or error
        now = time.monotonic()
        verdict = gate.judge(now, stats)
        if verdict.done:
            return Outcome(HELD, "Every node serves it.")
        if stats is not None:
            contact = now
        if now - contact >= lost_after:
            return Outcome(LOST, f"No contact with the server for {span(now - contact)}. {error}")
        if now - started >= timeout:
            if stats is None:
                return Outcome(LOST, f"Timed out: {verdict.reason}. {error}")
            return Outcome(TIMED_OUT, f"Timed out: {verdict.reason}. Nothing was declared.")
        progress.show(f"Waiting for {printable(version)}: {_progress(verdict)}", _share(verdict), verdict.reason)
        await asyncio.sleep(max(0.01, min(INTERVAL, started + timeout - now, contact + lost_after - now)))


async def _fetch(target: Target) -> Stats:
    from ..client import fetch_stats

    return await fetch_stats(target.url, base_path=target.base_path, **target.access)


def _progress(verdict: Verdict) -> str:
    if verdict.serving is None or verdict.nodes == 1:
        return verdict.reason
    return f"{verdict.serving} of {verdict.nodes} nodes serve it; {verdict.reason}"


def _share(verdict: Verdict) -> float | None:
    return None if not verdict.serving or not verdict.nodes else min(1.0, verdict.serving / verdict.nodes)
