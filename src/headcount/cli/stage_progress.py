"""
Shows how a staged release goes on, for `headcount release --over`.

Tests: tests/cli/test_staged_release.py.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from ..tools.terminal import printable
from .output import span
from .progress import Progress
from .release_wait import INTERVAL, NO_ANSWER, Outcome, poll
from .rollout import HELD, INTERRUPTED, LOST, TIMED_OUT
from .target import Target

if TYPE_CHECKING:
    from ..client import Rollout


def follow_stage(target: Target, version: str, lost_after: float) -> tuple[Outcome, "Rollout | None"]:
    """
    Show how a staged release goes on, until all pages had their turn, or somebody changes or aborts it.

    Args:
        target: The server.
        version: That was declared.
        lost_after: Seconds without an answer; 0: for ever.

    Returns:
        How it ended, and the last answer of the server.
    """
    with Progress() as progress:
        follower = _Follower(target, version, lost_after or float("inf"), progress)
        try:
            return asyncio.run(follower.run()), follower.last
        except KeyboardInterrupt:
            return Outcome(INTERRUPTED, "Interrupted by Ctrl-C. The release goes on"), follower.last


class _Follower:
    def __init__(self, target: Target, version: str, lost_after: float, progress: Progress) -> None:
        self.last: Rollout | None = None
        self._target = target
        self._version = version
        self._lost_after = lost_after
        self._progress = progress

    async def run(self) -> Outcome:
        contact, error = time.monotonic(), NO_ANSWER
        while True:
            answer = await poll(self._target, self._fetch())
            if isinstance(answer, Outcome):
                return answer
            if isinstance(answer, str):
                error = answer or error
            else:
                self.last, contact = answer, time.monotonic()
                if (outcome := self._ended(answer)) is not None:
                    return outcome
                self._progress.show(sentence(answer), _share(answer), answer.state)
            lost = time.monotonic() - contact
            if lost >= self._lost_after:
                return Outcome(LOST, f"No contact with the server for {span(lost)}. {error} The release goes on.")
            await asyncio.sleep(min(INTERVAL, max(0.01, self._lost_after - lost)))

    def _ended(self, rollout: "Rollout") -> Outcome | None:
        version = printable(self._version)
        if rollout.version != self._version:
            return Outcome(TIMED_OUT, f"{printable(str(rollout.version))} was declared in place of {version}.")
        match rollout.state:
            case "aborted":
                return Outcome(TIMED_OUT, f"The staged release of {version} was aborted. {sentence(rollout)}")
            case "done" | "at-once":
                return Outcome(HELD, sentence(rollout))
            case _:
                return None

    async def _fetch(self) -> "Rollout":
        from ..client import fetch_rollout

        return await fetch_rollout(self._target.url, base_path=self._target.base_path, **self._target.access)


def sentence(rollout: "Rollout") -> str:
    """Say what pages did, as a list: `412 of 2,000 pages asked: 380 accepted, 12 deferred (form 10, media 2)`."""
    deferred = sum(rollout.deferred.values())
    reasons = ", ".join(f"{printable(name)} {count:,}" for name, count in sorted(rollout.deferred.items()))
    parts = [
        f"{rollout.accepted:,} accepted",
        f"{deferred:,} deferred ({reasons})" if deferred else "",
        f"{rollout.refused:,} refused" if rollout.refused else "",
        f"{rollout.silent:,} without an answer" if rollout.silent else "",
        f"{rollout.gone:,} gone" if rollout.gone else "",
    ]
    outdated = "an unknown number" if rollout.outdated is None else f"{rollout.outdated:,}"
    asked = "1 page" if rollout.invited == 1 else f"{rollout.invited:,} pages"
    paused = "Paused. " if rollout.state == "paused" else ""
    partial = "" if not rollout.partial else " Figures are partial: a node did not answer."
    said = f"{asked} asked: {', '.join(filter(None, parts))}." if rollout.invited else "No page was asked yet."
    return f"{paused}{said} {outdated} outdated.{partial}"


def _share(rollout: "Rollout") -> float | None:
    return None if not rollout.until else min(1.0, rollout.share / rollout.until)
