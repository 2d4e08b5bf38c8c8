"""
Follows the figures of a server until a rollout gate opens, for `headcount wait`.

Tests: tests/cli/test_asking.py.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from ..core.current_version import CurrentRelease
from ..core.labels import OTHER, UNKNOWN
from ..core.rollout_gate import Judge, Verdict, away_sentence, unknown_sentence
from ..core.stats import Nodes, Stats
from ..errors import ClientError, NotAuthorized, Refused
from .output import connections, span
from .target import Target

if TYPE_CHECKING:
    from ..core.rollouts import AdoptionCurve
    from ..live.active_connections import LiveState

HELD: Final = 0
ERROR: Final = 1
TIMED_OUT: Final = 3
LOST: Final = 4
INTERRUPTED: Final = 130
"""Exit codes."""

_TICK: Final = 1.0
"""Seconds between two looks when nothing changed: for the time that the condition must hold, and for the terminal."""

_DENIED: Final = (
    " The stream showed that the condition holds; a request to the same URL did not. Two applications may answer "
    "there; run `headcount doctor`."
)

_EXACT_FOR: Final = 1.0
"""Seconds for which an exact number is used, that the server counts only on request."""

_CONFIRM_TIMEOUT: Final = 10.0
"""Seconds that the server has to confirm its figures."""


class Situation(NamedTuple):
    """
    What the gate says at one moment. `error` is the last error of the stream, `nodes` who reported the figures, and
    `release` what they say of the current version. `awaited` is the version whose release is waited for, if one is.
    """

    verdict: Verdict
    nodes: Nodes | None = None
    error: str | None = None
    release: CurrentRelease | None = None
    awaited: str | None = None

    def is_served(self, version: str | None) -> bool:
        """Return whether a node is known to serve a version."""
        return self.nodes is not None and version in (self.nodes.versions or {})

    @property
    def unknown(self) -> str:
        """Why the figures cannot be used, as the end of a sentence."""
        if self.verdict.unknown == "no contact":
            return "no contact with the server"
        return unknown_sentence(self.verdict, self.nodes, self.release, self.awaited, time.time_ns() // 1_000_000)


class Result(NamedTuple):
    """How the wait ended: an exit code, the last verdict, and the reason in a sentence."""

    code: int
    verdict: Verdict
    reason: str


class RolloutFollower:
    """
    Follows the figures until the condition has held, or waiting longer is of no use.

    Args:
        target: The server.
        judge: The rules.
        timeout: Seconds; 0: for ever.
        lost_after: Seconds without contact; 0: for ever.
        show: Called with each new situation.
    """

    def __init__(
        self, target: Target, judge: Judge, timeout: float, lost_after: float, show: Callable[[Situation], None]
    ) -> None:
        self._target = target
        self._judge = judge
        self._deadline = judge.started + timeout if timeout else float("inf")
        self._lost_after = lost_after or float("inf")
        self._show = show
        self.rollouts: list[AdoptionCurve] = []
        """The adoption curves of the last rollouts, newest first, once they are known."""
        self._unconfirmed: LiveState | None = None
        """The state of a stream whose server did not confirm its figures."""
        self._exact_stats: Stats | None = None
        """The last answer with an exact number."""
        self._exact_until = 0.0
        self._denials = 0
        """How often, without a break, a request denied that the condition holds, of which the stream said so."""

    async def run(self) -> Result:
        """Wait."""
        from ..client import use_active_connections

        judge, target = self._judge, self._target
        try:
            # A wrong URL or token ends the command now; a server that is down may still start.
            # It names the version, so that the server counts it apart from now on, whatever strangers open.
            await self._fetch(judge.selection.version)
        except NotAuthorized as error:
            return Result(ERROR, judge.look(judge.started, None, None), target.denied(error))
        except Refused as error:
            return Result(ERROR, judge.look(judge.started, None, None), str(error))
        except ClientError as error:
            self._show(Situation(judge.look(judge.started, None, None), None, str(error)))
        looking_back = asyncio.create_task(self._look_back())
        live = use_active_connections(
            target.url, update_strategy=target.update_strategy, base_path=target.base_path, **target.access
        )
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        live.state.subscribe(lambda _: loop.call_soon(changed.set))
        opening = asyncio.create_task(live.open())
        try:
            while True:
                changed.clear()
                if opening.done():
                    opening.result()
                result, pause = await self._look(live.state.value)
                if result is not None:
                    return result
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await changed.wait()
        finally:
            opening.cancel()
            looking_back.cancel()
            await asyncio.gather(opening, looking_back, return_exceptions=True)
            await live.aclose()

    async def _look_back(self) -> None:
        """Fetch the adoption curves of the last rollouts, for pages that come to the current version."""
        if self._judge.selection.kind not in ("outdated", "release"):
            return
        from ..client import fetch_adoption

        target = self._target
        with suppress(ClientError, NotAuthorized):  # an older server has none
            self.rollouts = await fetch_adoption(target.url, base_path=target.base_path, **target.access)

    async def _look(self, state: "LiveState") -> tuple[Result | None, float]:
        """Judge a state. Returns the result, if there is one, and the longest time until the next look in seconds."""
        judge = self._judge
        known = state.status == "open" and state.authorized is True and not state.is_stale
        if known and state is self._unconfirmed:
            known = await self._answers()
        stats = await self._exact(state) if known else None
        now = time.monotonic()
        verdict = judge.look(now, stats, state.current_version)
        situation = self._situation(verdict, stats, state.error)
        if state.authorized is False:
            return Result(ERROR, verdict, state.error or "The server denied access to the figures."), 0
        if not verdict.done:
            self._denials = 0
        if not self._denials and (known or state.status == "reconnecting" or self._unconfirmed is not None):
            self._show(situation)
        if verdict.done:
            answer = await self._confirm(verdict, state)
            if not isinstance(answer, Verdict):
                return answer, 0.01
            verdict, now = answer, time.monotonic()
            situation = situation._replace(verdict=verdict)
            self._denials += 1
        if judge.declared_instead is not None:
            reason = f"{judge.declared_instead} was declared in place of {judge.selection.version}."
            return Result(TIMED_OUT, verdict, reason), 0
        lost = judge.lost(now)
        detail = state.error or "The server sent nothing."
        if lost >= self._lost_after:
            if verdict.unknown == "no contact":
                return Result(LOST, verdict, f"No contact with the server for {span(lost)}. {detail}"), 0
            return Result(LOST, verdict, f"Gave up after {span(lost)}: {situation.unknown}."), 0
        if now >= self._deadline:
            if verdict.unknown == "no contact":
                return Result(LOST, verdict, f"Timed out: {situation.unknown}. {detail}"), 0
            return Result(TIMED_OUT, verdict, self._too_late(situation)), 0
        pause = min(_TICK, self._deadline - now, self._lost_after - lost)
        return None, max(0.01, pause if verdict.held is None else min(pause, judge.hold - verdict.held))

    def _situation(self, verdict: Verdict, stats: Stats | None, error: str | None = None) -> Situation:
        selection = self._judge.selection
        awaited = selection.version if selection.kind == "release" else None
        if stats is None:
            return Situation(verdict, None, error, None, awaited)
        return Situation(verdict, stats.nodes, error, stats.release, awaited)

    async def _exact(self, state: "LiveState") -> Stats:
        """
        Return the figures of the stream; while there are too many versions, those of a request, with an exact number.

        Strangers may have made them up. Those that the server counts together may be of the version that decides, as
        far as the stream says.
        """
        version = self._judge.selection.named(state.current_version)
        if version is None or version == UNKNOWN or OTHER not in state.stats.versions:
            return state.stats
        now = time.monotonic()
        if now >= self._exact_until:
            self._exact_until, self._exact_stats = now + _EXACT_FOR, None
            with suppress(ClientError, NotAuthorized, TimeoutError):
                async with asyncio.timeout(self._answer_timeout()):
                    self._exact_stats = await self._fetch(version)
        return self._exact_stats or state.stats

    async def _confirm(self, verdict: Verdict, state: "LiveState") -> Result | Verdict | None:
        """
        Fetch the figures once more before the condition is said to hold. Returns what they say; None: no answer came.

        A stream that is cut off without a close goes on to show its last figures for a while. Only an answer to a new
        request proves that they are still true.
        """
        judge = self._judge
        try:
            async with asyncio.timeout(self._answer_timeout()):
                stats = await self._fetch(judge.selection.named(state.current_version))
        except NotAuthorized as error:
            return Result(ERROR, verdict, self._target.denied(error))
        except (ClientError, TimeoutError):
            judge.reset()
            self._unconfirmed = state
            return None
        again = judge.look(time.monotonic(), stats, stats.known_version(state.current_version))
        self._show(self._situation(again, stats))
        return Result(HELD, again, "It holds.") if again.done else again

    async def _answers(self) -> bool:
        """Ask a server again that did not confirm its figures. Returns whether it answers now."""
        with suppress(ClientError, NotAuthorized, TimeoutError):
            async with asyncio.timeout(self._answer_timeout()):
                await self._fetch()
                self._unconfirmed = None
        return self._unconfirmed is None

    def _answer_timeout(self) -> float:
        """Return for how long to wait for an answer, in seconds."""
        now = time.monotonic()
        return max(1.0, min(_CONFIRM_TIMEOUT, self._deadline - now, self._lost_after - self._judge.lost(now)))

    def _too_late(self, situation: Situation) -> str:
        verdict = situation.verdict
        if verdict.left is None:
            return f"Timed out: {situation.unknown}."
        judge = self._judge
        still = f"{verdict.left:,} of {connections(verdict.total)} {'is' if verdict.left == 1 else 'are'} still"
        if verdict.held is not None:
            detail = f", within the limit of {judge.bound}, but not yet for --for {span(judge.hold)}."
        elif verdict.away and judge.include_away:
            counts, them = ("It counts", "it") if verdict.away == 1 else ("They count", "them")
            detail = (
                f", and {away_sentence(verdict.away)}. {counts} against the limit of {judge.bound}; --exclude-away "
                f"leaves {them} out."
            )
        else:
            detail = f"; the limit is {judge.bound}."
        denied = _DENIED if self._denials > 1 else ""
        return f"Timed out: {still} {judge.selection}{detail}{denied}"

    async def _fetch(self, version: str | None = None) -> Stats:
        from ..client import fetch_stats

        target = self._target
        return await fetch_stats(target.url, base_path=target.base_path, version=version, **target.access)
