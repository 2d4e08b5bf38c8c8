"""`headcount swarm`."""

import asyncio
import json
import shutil
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from ..errors import HeadcountError, NotAuthorized
from .output import complain, paint, shown, span, write_json
from .target import DURATION, Target, json_option, target_options

if TYPE_CHECKING:
    from ..tools.swarm import Plan, Swarm, Tally

_LINE_EVERY: Final = 10.0
"""Seconds between two lines where there is no terminal."""


_BAR: Final = 13
"""Columns of the progress bar."""


class _Versions(click.ParamType[dict[str, int]]):
    name = "V[:N],…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        if isinstance(value, dict):
            return value
        found: dict[str, int] = {}
        for part in str(value).split(","):
            version, _, parts = part.strip().rpartition(":") if ":" in part else (part.strip(), "", "1")
            if not version or not parts.isdecimal() or not 0 < int(parts) < 1_000_000:
                self.fail(f"{value!r} is no list of versions; write it as v1:3,v2:1.", param, ctx)
            found[version] = int(parts)
        return found


@click.command(
    "swarm",
    epilog="""
    \b
    Exit codes:
      0  all pages were open
      1  some never were, or the release failed
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
    type=click.IntRange(1, 1_000_000),
    envvar="HEADCOUNT_CONNECTIONS",
    help="Pages to hold open.",
)
@click.option(
    "--versions",
    type=_Versions(),
    envvar="HEADCOUNT_VERSIONS",
    help="Their versions and parts, as v1:3,v2:1 [default: the server's].",
)
@click.option(
    "--routes",
    default="/,/products,/products/1,/products/2,/checkout",
    show_default=True,
    envvar="HEADCOUNT_ROUTES",
    help="Paths between which they move.",
)
@click.option(
    "--update-strategy",
    type=click.Choice(["auto", "sse", "ws"]),
    default="auto",
    show_default=True,
    envvar="HEADCOUNT_UPDATE_STRATEGY",
    help="Which streams they use; auto: half of each.",
)
@click.option(
    "--navigate",
    type=DURATION,
    default="10s",
    show_default=True,
    envvar="HEADCOUNT_NAVIGATE",
    help="Mean time on one route; 0: they stay.",
)
@click.option(
    "--reconnect",
    type=DURATION,
    default="0s",
    show_default=True,
    envvar="HEADCOUNT_RECONNECT",
    help="Mean time until one loses its connection; 0: never.",
)
@click.option(
    "--reload-within",
    type=DURATION,
    default="30s",
    show_default=True,
    envvar="HEADCOUNT_RELOAD_WITHIN",
    help="How long after a release the last one reloads; 0: they do not.",
)
@click.option("--release", metavar="V", envvar="HEADCOUNT_RELEASE", help="Declare this version current meanwhile.")
@click.option(
    "--release-after", type=DURATION, default="10s", show_default=True, envvar="HEADCOUNT_RELEASE_AFTER", help="When."
)
@click.option(
    "--rate",
    default=500.0,
    show_default=True,
    type=click.FloatRange(1),
    envvar="HEADCOUNT_RATE",
    help="Connections to open a second.",
)
@click.option(
    "--duration",
    type=DURATION,
    default="0s",
    show_default=True,
    envvar="HEADCOUNT_DURATION",
    help="How long; 0: until Ctrl-C.",
)
@click.option("--seed", default=1, show_default=True, envvar="HEADCOUNT_SEED", help="The same seed, the same pages.")
@click.option("--yes", is_flag=True, envvar="HEADCOUNT_YES", help="Do not ask before loading another machine.")
@json_option
def command(target: Target, release: str | None, release_after: float, yes: bool, as_json: bool, **options: Any) -> int:
    """
    Put load on a server: real connections that navigate, reconnect and reload.

    Only load what is yours: a server is not asked whether it wants to be.
    """
    from ..client.access import Access
    from ..client.address import is_local
    from ..tools.swarm import Plan, Swarm, raise_file_limit

    if release is not None and options["duration"] and release_after >= options["duration"]:
        raise click.UsageError(
            f"The release comes after {span(release_after)}, and all ends after {span(options['duration'])}: give a "
            "shorter --release-after, or a longer --duration."
        )
    base = target.base
    host = urlsplit(base).hostname
    if not is_local(host) and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{host} is another machine; add --yes if it is yours to load.")
        click.confirm(f"Open {options['connections']:,} connections to {host}?", abort=True, err=True)
    raise_file_limit(options["connections"])
    access = Access(**target.access)
    routes = tuple(route.strip() for route in options["routes"].split(",") if route.strip())
    if not routes or not all(route.startswith("/") for route in routes):
        raise click.BadParameter("write paths with a leading slash, as /,/products.", param_hint="--routes")

    releaser = _Releaser(target, release, release_after)

    async def run() -> "tuple[Tally, Plan]":
        version = json.loads(await access.get(f"{base}/health")).get("version", "v1")
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
        _tell(tally, plan, summary)
    return 0 if tally.ever == plan.connections and not releaser.failed else 1


class _Releaser:
    def __init__(self, target: Target, version: str | None, after: float) -> None:
        self._target = target
        self._version = version
        self._after = after
        self.failed = False

    async def run(self) -> None:
        """Declare the version current when it is time."""
        if self._version is None:
            return
        from ..client import release

        await asyncio.sleep(self._after)
        try:
            await release(self._target.url, self._version, base_path=self._target.base_path, **self._target.access)
        except HeadcountError as error:
            self.failed = True
            why = self._target.denied(error) if isinstance(error, NotAuthorized) else error
            if sys.stderr.isatty():
                click.echo("\r\x1b[K", err=True, nl=False)  # over the progress, which is written again below it
            complain(f"The release failed. {why}")


async def _run(swarm: "Swarm", plan: "Plan", duration: float, releaser: _Releaser) -> None:
    """Let the swarm live until time is up or somebody ends it."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    tasks = [asyncio.create_task(swarm.run()), asyncio.create_task(releaser.run())]
    ended = asyncio.create_task(over.wait())
    progress = _Progress(swarm.tally, plan, duration)
    deadline = time.monotonic() + duration if duration else float("inf")
    try:
        while time.monotonic() < deadline and not ended.done() and not tasks[0].done():
            progress.show()
            await asyncio.wait([ended, tasks[0]], timeout=min(0.5, max(0.01, deadline - time.monotonic())),
                               return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        progress.show(last=True)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in (*tasks, ended):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, ended, return_exceptions=True)
        # Transports that were aborted close in the next turns of the loop.
        await asyncio.sleep(0)


class _Progress:
    def __init__(self, tally: "Tally", plan: "Plan", duration: float) -> None:
        self._terminal = sys.stderr.isatty()
        self._tally = tally
        self._plan = plan
        self._duration = duration
        self._started = time.monotonic()
        self._said_at = float("-inf")

    def show(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1 - _BAR
            text = "" if last else self._bar() + shown(self._text(now), width).rstrip()
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
        elif last or now - self._said_at >= _LINE_EVERY:
            self._said_at = now
            click.echo(self._text(now), err=True)

    def _text(self, now: float) -> str:
        events, tally = self._tally.events, self._tally
        parts = [f"{tally.open:,} of {self._plan.connections:,} open"]
        parts += [f"{events[name]:,} {name}" for name in ("navigations", "reconnects", "reloads") if events[name]]
        parts += [f"{events[name]:,} {name}" for name in ("refused", "lost") if events[name]]
        left = self._started + self._duration - now
        return ", ".join(parts) + (f", {span(left)} to go" if left >= 1 else f", after {span(now - self._started)}")

    def _bar(self) -> str:
        share = self._tally.open / self._plan.connections
        full = round(share * (_BAR - 1))
        return paint("█" * full + "░" * (_BAR - 1 - full), sys.stderr, fg="green") + " "


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
        "navigations": events["navigations"],
        "failedNavigations": events["failed navigations"],
        "reloads": events["reloads"],
        "drains": events["drains"],
        "receivedBytes": tally.received,
        "openedAfterMs": {"median": milliseconds(0.5), "p99": milliseconds(0.99)},
        "errors": dict(tally.errors.most_common(10)),
        "durationMs": round(took * 1000),
    }


def _tell(tally: "Tally", plan: "Plan", summary: dict[str, Any]) -> None:
    opened = summary["openedAfterMs"]
    click.echo(
        paint(f"{tally.ever:,} of {plan.connections:,} pages were open, {tally.most:,} at once.", sys.stdout, bold=True)
    )
    if opened["median"] is not None:
        click.echo(f"A stream was open after {opened['median']} ms (median), {opened['p99']} ms (99 of 100).")
    names = ("navigations", "reconnects", "reloads", "drains", "refused", "lost", "failed navigations")
    counted = [f"{tally.events[name]:,} {name}" for name in names if tally.events[name]]
    click.echo(f"{', '.join(counted) or 'Nothing else happened'}; {_size(tally.received)} came.")
    for why, count in tally.errors.most_common(5):
        click.echo(paint(f"  {count:,} times: {shown(why)}", sys.stdout, fg="yellow"))


def _size(count: int) -> str:
    for unit, of in (("MB", 1e6), ("kB", 1e3)):
        if count >= of:
            return f"{count / of:,.1f} {unit}"
    return f"{count} bytes"
