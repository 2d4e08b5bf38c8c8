"""
`headcount swarm`: load on a server.

Tests: tests/cli/test_swarm.py.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from ..errors import HeadcountError, NotAuthorized
from ..tools.terminal import printable
from .options import Number, WholeNumber
from .output import complain, paint, span, write_json
from .release import unreached
from .target import DURATION, AskingCommand, Target, json_option, target_options

if TYPE_CHECKING:
    from ..tools.swarm import Plan, Swarm, Tally
    from .progress import Progress

_REFRESH: Final = 0.5
"""Seconds between two updates of the progress line."""

_RELEASE_PATIENCE: Final = 10.0
"""Seconds, after the end of the run, for the answer to a release."""


class _Versions(click.ParamType[dict[str, int]]):
    name = "V[:N],…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        if isinstance(value, dict):
            return value
        found: dict[str, int] = {}
        for part in str(value).split(","):
            version, _, parts = part.strip().rpartition(":") if ":" in part else (part.strip(), "", "1")
            if not version or not parts.isdecimal() or not 0 < int(parts) < 1_000_000:
                self.fail(f"{value!r} is not a list of versions with their parts; write it as v1:3,v2:1.", param, ctx)
            found[version] = int(parts)
        return found


@click.command(
    "swarm",
    cls=AskingCommand,
    epilog="""
    \b
    Exit codes:
      0  every page was open at some time
      1  error: a page never opened, no navigation arrived, or the release failed
      2  wrong usage

    \b
    Example, a deploy under load:
      headcount swarm localhost:8000 --connections 2000 --duration 2m \\
                      --versions v1 --release v2 --release-after 30s
    """,
)
@target_options(stream=False)
@click.option(
    "--connections",
    default=100,
    show_default=True,
    metavar="N",
    type=WholeNumber(1, 1_000_000),
    envvar="HEADCOUNT_CONNECTIONS",
    help="Pages to keep open.",
)
@click.option(
    "--versions",
    type=_Versions(),
    envvar="HEADCOUNT_VERSIONS",
    help="Versions of the pages and their parts, such as v1:3,v2:1 [default: the server's version].",
)
@click.option(
    "--routes",
    default="/,/products,/products/1,/products/2,/checkout",
    show_default=True,
    metavar="ROUTE,…",
    envvar="HEADCOUNT_ROUTES",
    help="Routes between which pages navigate, separated by commas.",
)
@click.option(
    "--update-strategy",
    type=click.Choice(["auto", "sse", "ws"]),
    default="auto",
    show_default=True,
    envvar="HEADCOUNT_UPDATE_STRATEGY",
    help="Kind of stream; auto: half SSE, half WebSocket, or the other kind where one does not get through.",
)
@click.option(
    "--navigate",
    type=DURATION,
    default="10s",
    show_default=True,
    envvar="HEADCOUNT_NAVIGATE",
    help="Mean time on one route; 0: pages never navigate.",
)
@click.option(
    "--reconnect",
    type=DURATION,
    default="0s",
    show_default=True,
    envvar="HEADCOUNT_RECONNECT",
    help="Mean time until a page loses its connection and reconnects; 0: never.",
)
@click.option(
    "--reload-within",
    type=DURATION,
    default="30s",
    show_default=True,
    envvar="HEADCOUNT_RELOAD_WITHIN",
    help="Time after a release within which every outdated page reloads; 0: no page reloads.",
)
@click.option("--release", metavar="V", envvar="HEADCOUNT_RELEASE", help="Version to declare current during the run.")
@click.option(
    "--release-after",
    type=DURATION,
    default="10s",
    show_default=True,
    envvar="HEADCOUNT_RELEASE_AFTER",
    help="Time from the start to the --release.",
)
@click.option(
    "--rate",
    default=500.0,
    show_default=True,
    metavar="N",
    type=Number(1),
    envvar="HEADCOUNT_RATE",
    help="Connections opened per second, at most.",
)
@click.option(
    "--duration",
    type=DURATION,
    default="0s",
    show_default=True,
    envvar="HEADCOUNT_DURATION",
    help="Length of the run; 0: until Ctrl-C.",
)
@click.option(
    "--seed", default=1, show_default=True, metavar="N", envvar="HEADCOUNT_SEED", help="Seed of the random behaviour."
)
@click.option("--yes", is_flag=True, envvar="HEADCOUNT_YES", help="Put another machine under load without asking.")
@json_option
def command(target: Target, release: str | None, release_after: float, yes: bool, as_json: bool, **options: Any) -> int:
    """
    Put load on a server: real connections that navigate, reconnect and reload.

    Use it only on servers that are yours.
    """
    from ..client import fetch_version
    from ..client.access import Access
    from ..client.address import is_local
    from ..tools.swarm import Plan, Swarm, raise_file_limit

    if release is not None and options["duration"] and release_after >= options["duration"]:
        raise click.UsageError(
            f"The run ends after --duration {span(options['duration'])}, before the release after --release-after "
            f"{span(release_after)}; give a shorter --release-after or a longer --duration."
        )
    base = target.base
    host = urlsplit(base).hostname
    if not is_local(host) and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{host} is another machine; add --yes if you may put it under load.")
        click.confirm(f"Open {options['connections']:,} connections to {host}?", abort=True, err=True)
    raise_file_limit(options["connections"])
    access = Access(**target.access)
    routes = tuple(route.strip() for route in options["routes"].split(",") if route.strip())
    if not routes or not all(route.startswith("/") for route in routes):
        raise click.BadParameter("Each route needs a leading slash, such as /,/products.", param_hint="--routes")

    releaser = _Releaser(target, release, release_after)

    async def run() -> "tuple[Tally, Plan]":
        version = await fetch_version(target.url, base_path=target.base_path, **target.access)
        plan = Plan(
            connections=options["connections"],
            versions=options["versions"] or {version: 1},
            routes=routes,
            navigate=options["navigate"],
            reconnect=options["reconnect"],
            reload_within=options["reload_within"],
            rate=options["rate"],
            strategy=options["update_strategy"],
            seed=options["seed"],
        )
        swarm = Swarm(base, plan, access.tls(base))
        await _run(swarm, plan, options["duration"], releaser)
        return swarm.tally, plan

    started = time.monotonic()
    tally, plan = asyncio.run(run())
    summary = _summary(tally, plan, time.monotonic() - started)
    if as_json:
        write_json(summary)
    else:
        _print_summary(tally, plan, summary)
    if tally.failure:
        complain(f"No navigation reached Headcount. {printable(tally.failure)}")
    return 0 if tally.ever == plan.connections and not releaser.failed and not tally.failure else 1


class _Releaser:
    """Declares a version current during the run. `failed`: it could not."""

    def __init__(self, target: Target, version: str | None, after: float) -> None:
        self._target = target
        self._version = version
        self._after = after
        self.failed = False
        self.clear_progress: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Declare the version current when it is time."""
        if self._version is None:
            return
        from ..client import release

        await asyncio.sleep(self._after)
        try:
            outcome = await release(
                self._target.url,
                self._version,
                unserved=True,  # the swarm stands for a front end that any server may deliver
                base_path=self._target.base_path,
                **self._target.access,
            )
            if outcome.partial:
                self.failed = True
                self.clear_progress()
                complain(unreached(outcome))
        except HeadcountError as error:
            self.failed = True
            reason = self._target.denied(error) if isinstance(error, NotAuthorized) else error
            self.clear_progress()
            complain(f"The release failed. {reason}")

    async def finish(self, task: asyncio.Task[None]) -> None:
        """Wait for the answer to a release that was declared shortly before the end of the run."""
        await asyncio.wait([task], timeout=_RELEASE_PATIENCE)
        if not task.done():
            self.failed = True
            complain(
                f"The server has not answered the release of {self._version} within {_RELEASE_PATIENCE:g} s. "
                "`headcount stats` says which version is current."
            )


async def _run(swarm: "Swarm", plan: "Plan", duration: float, releaser: _Releaser) -> None:
    """Run the swarm until its duration is over or a signal ends it."""
    from .progress import Progress

    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    tasks = [asyncio.create_task(swarm.run()), asyncio.create_task(releaser.run())]
    ended = asyncio.create_task(over.wait())
    started = time.monotonic()
    deadline = started + duration if duration else float("inf")
    try:
        with Progress() as progress:
            releaser.clear_progress = progress.clear
            while time.monotonic() < deadline and not ended.done() and not tasks[0].done():
                _show(progress, swarm.tally, plan, started, duration)
                await asyncio.wait([ended, tasks[0]], timeout=min(_REFRESH, max(0.01, deadline - time.monotonic())),
                                   return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
            _show(progress, swarm.tally, plan, started, duration, last=True)
        if not ended.done() and not tasks[0].done():
            await releaser.finish(tasks[1])
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in (*tasks, ended):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, ended, return_exceptions=True)
        # Transports that were aborted close in the next turns of the loop.
        await asyncio.sleep(0)
        for number in (signal.SIGINT, signal.SIGTERM):
            # Python complains of a second signal that meets a loop which is closing.
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def _show(
    progress: "Progress", tally: "Tally", plan: "Plan", started: float, duration: float, *, last: bool = False
) -> None:
    events, now = tally.events, time.monotonic()
    parts = [f"{tally.open:,} of {plan.connections:,} open"]
    names = ("navigations", "reconnects", "reloads", "refused", "lost")
    parts += [f"{events[name]:,} {name}" for name in names if events[name]]
    left = started + duration - now
    parts.append(f"{span(left)} to go" if left >= 1 else f"after {span(now - started)}")
    progress.show(", ".join(parts), tally.open / plan.connections, state=last)


def _summary(tally: "Tally", plan: "Plan", took: float) -> dict[str, Any]:
    def milliseconds(share: float) -> int | None:
        seconds = tally.quantile(share)
        return None if seconds is None else round(seconds * 1000)

    events = tally.events
    return {
        "connections": plan.connections,
        "everOpen": tally.ever,
        "mostOpen": tally.most,
        "opened": events["opened"],
        "refused": events["refused"],
        "lost": events["lost"],
        "reconnects": events["reconnects"],
        "renewals": events["renewals"],
        "navigations": events["navigations"],
        "failedNavigations": events["failed navigations"],
        "reloads": events["reloads"],
        "drains": events["drains"],
        "receivedBytes": tally.received,
        "openedAfterMs": {"median": milliseconds(0.5), "p99": milliseconds(0.99)},
        "errors": dict(tally.errors.most_common(10)),
        "durationMs": round(took * 1000),
    }


def _print_summary(tally: "Tally", plan: "Plan", summary: dict[str, Any]) -> None:
    opened = summary["openedAfterMs"]
    click.echo(
        paint(f"{tally.ever:,} of {plan.connections:,} pages were open, {tally.most:,} at once.", sys.stdout, bold=True)
    )
    if opened["median"] is not None:
        click.echo(f"Time to open a stream: {opened['median']} ms (median), {opened['p99']} ms (99th percentile).")
    names = ("navigations", "reconnects", "renewals", "reloads", "drains", "refused", "lost", "failed navigations")
    counted = [f"{tally.events[name]:,} {name}" for name in names if tally.events[name]]
    click.echo(f"{', '.join(counted) or 'No other events'}; {_size(tally.received)} received.")
    for reason, count in tally.errors.most_common(5):
        click.echo(paint(f"  {count:,} times: {printable(reason)}", sys.stdout, fg="yellow"))


def _size(count: int) -> str:
    for unit, of in (("MB", 1e6), ("kB", 1e3)):
        if count >= of:
            return f"{count / of:,.1f} {unit}"
    return f"{count} bytes"
