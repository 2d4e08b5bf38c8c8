"""
The figures of a server from anywhere: `use_active_connections(url)` live, `fetch_stats(url)` once.

    async with use_active_connections("https://www.example.com", token=token) as live:
        print(live.total.value)
        async for stats in live:
            print(stats.total, dict(stats.versions))

Needs the extra `headcount[client]`.

Tests: tests/client/test_remote.py, tests/client/test_bad_days.py.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Literal, Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote

from ..core.rollouts import AdoptionCurve
from ..core.stats import ConnectionInfo, Nodes, NodeShare, Stats
from ..errors import ClientError, ConfigError, HeadcountError, Malformed, NotAuthorized, Refused, Unreachable
from ..live.active_connections import ActiveConnections, LiveState, Status
from ..live.observable import Observable
from . import adoption, messages, rollout_messages
from .access import Access
from .address import base_url
from .blocking import BlockingConnections
from .connection import Connection, LiveStore, UpdateStrategy
from .messages import FleetNodes, ReleaseResult
from .rollout_messages import Minute, Notified, Rollout

T = TypeVar("T")


class AccessOptions(TypedDict, total=False):
    """Credentials and network options; `headcount.client.access.Access` documents each."""

    token: str | None
    headers: Mapping[str, str] | None
    cookies: Mapping[str, str] | str | None
    verify: bool | str | ssl.SSLContext
    proxy: str | bool | None


class RemoteConnections(ActiveConnections):
    """
    The figures of a server, live; see `ActiveConnections`. It is a viewer and is not counted.

    `async with` opens the stream and waits until the server authorises or denies it, or until the first attempt fails.
    After that it reconnects by itself, and `status`, `error` and `is_stale` show its state. A plain `with` does the
    same in a thread and returns a `BlockingConnections`, for scripts.
    """

    def __init__(self, base: str, access: Access, update_strategy: UpdateStrategy, *, deltas: bool) -> None:
        self._store = LiveStore()
        super().__init__(self._store)
        self.url = base
        """URL of the base path."""
        self._connection = Connection(base, access, update_strategy, self._store, deltas=deltas)
        self._task: asyncio.Task[None] | None = None
        self._blocking: BlockingConnections | None = None

    async def open(self) -> Self:
        """
        Open the stream, and wait until the server authorises or denies it, or until the first attempt fails.

        Raises:
            ClientError: The stream is already open.
            ConfigError: The TLS or proxy options are invalid.
        """
        if self._task is not None:
            raise ClientError("This stream is already open; make another with use_active_connections().")
        self._store.set(authorized=None, status="connecting", error=None)
        self._task = asyncio.create_task(self._connection.run(), name="headcount-client")
        decided = asyncio.ensure_future(self._until_decided())
        try:
            await asyncio.wait([self._task, decided], return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self.aclose()
            raise
        finally:
            decided.cancel()
        if self._task.done() and not self._task.cancelled() and self._task.exception() is not None:
            task, self._task = self._task, None
            task.result()
        return self

    async def aclose(self) -> None:
        """Close the stream. Idempotent; the last figures stay readable."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        self._store.set(status="closed", is_stale=bool(self.authorized.value))

    async def __aiter__(self) -> AsyncGenerator[Stats, None]:
        """
        Yield the first figures, then the newest after each change; a slow reader skips the figures between.

        Raises:
            NotAuthorized: The viewer is not authorised, or not any more.
            ClientError: The stream was never opened.
        """
        if self.status.value == "idle":
            raise ClientError("The stream is not open; iterate inside: async with use_active_connections(url) as live.")
        async with aclosing(super().__aiter__()) as figures:
            async for stats in figures:
                yield stats

    async def __aenter__(self) -> Self:
        """Open the stream; see `open()`."""
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        """Close the stream."""
        await self.aclose()

    def __enter__(self) -> BlockingConnections:
        """
        Open the stream in a thread of its own.

        Raises:
            RuntimeError: An event loop is running in this thread; this would block it.
        """
        if _in_event_loop():
            raise RuntimeError(
                "A plain `with` would block the event loop; write: async with use_active_connections(url) as live."
            )
        self._blocking = BlockingConnections(self)
        return self._blocking.open()

    def __exit__(self, *exc: object) -> None:
        """Close the stream and end its thread."""
        if self._blocking is not None:
            self._blocking.close()
            self._blocking = None

    async def _until_decided(self) -> None:
        while self.authorized.value is None and self.status.value not in ("reconnecting", "closed"):
            await self.state.changed()


def use_active_connections(
    url: str,
    *,
    update_strategy: UpdateStrategy = "auto",
    base_path: str | None = None,
    deltas: bool = True,
    **access: Unpack[AccessOptions],
) -> RemoteConnections:
    """
    Return the figures of a server as observable values, live. Nothing is opened before `async with` or `with`.

    Args:
        url: URL of the application or of its base path: `https://www.example.com`, `localhost:8000/__skew`.
        update_strategy: `sse`, `ws`, or `auto`: WebSocket, or SSE where WebSockets do not get through.
        base_path: Base path of Headcount below `url`; None: the path of `url`, or `/__skew` if it has none.
        deltas: Receive changes instead of complete figures.
        access: `token`, `headers`, `cookies`, `verify`, `proxy`; see `Access`.

    Raises:
        ConfigError: The URL or an option is invalid.
    """
    if update_strategy not in ("sse", "ws", "auto"):
        raise ConfigError(f"update_strategy is {update_strategy!r}; write sse, ws or auto.")
    return RemoteConnections(base_url(url, base_path), Access(**access), update_strategy, deltas=deltas)


async def fetch_stats(
    url: str, *, base_path: str | None = None, version: str | None = None, **access: Unpack[AccessOptions]
) -> Stats:
    """
    Return the figures of a server, once.

    Args:
        url: As for `use_active_connections`.
        base_path: As there.
        version: Have this version counted apart from all others, and return its exact number as `of_version`.
        access: As there.

    Raises:
        ConfigError: The URL or an option is invalid.
        NotAuthorized: The server denies access.
        Unreachable: No answer, or an error that may pass.
        Refused: Another answer: there is no Headcount, or connection tracking is off.
    """
    stats_url = f"{base_url(url, base_path)}/admin/stats"
    if version is not None:
        stats_url += f"?version={quote(version, safe='')}"
    return await _fetch(stats_url, access, messages.decode_snapshot, "statistics")


async def fetch_nodes(url: str, *, base_path: str | None = None, **access: Unpack[AccessOptions]) -> list[NodeShare]:
    """
    Return the count of each node of a server's fleet, starting with the node that answers.

    Raises the errors of `fetch_stats`.
    """
    nodes_url = f"{base_url(url, base_path)}/admin/nodes"
    return await _fetch(nodes_url, access, messages.decode_shares, "nodes")


async def release(
    url: str,
    version: str | None,
    *,
    unserved: bool = False,
    over: float | None = None,
    percent: float | None = None,
    route: str | None = None,
    base_path: str | None = None,
    **access: Unpack[AccessOptions],
) -> ReleaseResult:
    """
    Declare a version current and notify every page: at once, or in stages.

    Args:
        url: Where the server is.
        version: The build id; None: the version that the fleet has settled on.
        unserved: It may be a version that no node serves, because another server delivers the front end.
        over: Seconds from the first outdated page that hears of it to the last.
        percent: How many of the outdated pages hear of it in the end; None: all.
        route: Only pages on this route hear of it; None: all.
        base_path: Where Headcount is mounted; None: as the URL says.
        **access: See `AccessOptions`.

    Returns:
        How many streams and nodes were reached. With `partial`, a node was not.

    Raises the errors of `fetch_stats`; `Refused` also for a stage at a server whose Headcount is too old for stages.
    """
    body: dict[str, object] = {"settled": True} if version is None else {"version": version, "unserved": unserved}
    stage = {"over": over, "percent": percent, "route": route}
    body |= {name: value for name, value in stage.items() if value is not None}
    if stage != dict.fromkeys(stage):
        try:  # an older server would ignore the stage, and tell all pages at once
            await fetch_rollout(url, base_path=base_path, **access)
        except Refused as error:
            raise Refused(f"The server cannot ask pages in stages; upgrade it. {error}") from None
    return await _release(url, body, version, base_path, access)


async def change_stage(
    url: str,
    change: Literal["pause", "resume", "abort"],
    *,
    base_path: str | None = None,
    **access: Unpack[AccessOptions],
) -> ReleaseResult:
    """
    Pause, resume or abort the staged release that is current.

    Raises the errors of `fetch_stats`; `Refused` also if there is none that can be changed so.
    """
    return await _release(url, {"change": change}, None, base_path, access)


async def _release(
    url: str, body: Mapping[str, object], version: str | None, base_path: str | None, access: AccessOptions
) -> ReleaseResult:
    release_url = f"{base_url(url, base_path)}/admin/release"
    content = await Access(**access).post(release_url, body)
    return _decoded(release_url, content, lambda data: messages.decode_release(data, version), "answer to a release")


async def notify(
    url: str,
    message: Mapping[str, object],
    *,
    version: str | None = None,
    route: str | None = None,
    wait: float = 5.0,
    base_path: str | None = None,
    **access: Unpack[AccessOptions],
) -> Notified:
    """
    Send pages a JSON object, and count those that acknowledge it.

    Args:
        url: Where the server is.
        message: The object. Pages get it with one field more, `acknowledge`.
        version: Only to pages of this version.
        route: Only to pages on this route.
        wait: Seconds to wait for acknowledgements, 60 at most.
        base_path: Where Headcount is mounted; None: as the URL says.
        **access: See `AccessOptions`.

    Raises the errors of `fetch_stats`.
    """
    notify_url = f"{base_url(url, base_path)}/admin/notify"
    only = {name: value for name, value in (("version", version), ("route", route)) if value is not None}
    content = await Access(**access).post(notify_url, {"message": dict(message), "wait": wait, **only})
    return _decoded(notify_url, content, rollout_messages.decode_notified, "answer to a message")


async def fetch_rollout(url: str, *, base_path: str | None = None, **access: Unpack[AccessOptions]) -> Rollout:
    """Return how far the release is that was declared last. Raises the errors of `fetch_stats`."""
    return await _fetch(f"{base_url(url, base_path)}/admin/rollout", access, rollout_messages.decode_rollout, "rollout")


async def fetch_version(url: str, *, base_path: str | None = None, **access: Unpack[AccessOptions]) -> str:
    """Return the version that a server runs. Raises the errors of `fetch_stats`."""
    return await _fetch(f"{base_url(url, base_path)}/health", access, messages.decode_version, "health")


async def fetch_fleet(url: str, *, base_path: str | None = None, **access: Unpack[AccessOptions]) -> FleetNodes:
    """
    Return the nodes of a server's fleet, those included whose connections are unaccounted for.

    Raises the errors of `fetch_stats`.
    """
    nodes_url = f"{base_url(url, base_path)}/admin/nodes"
    return await _fetch(nodes_url, access, messages.decode_fleet, "nodes")


async def fetch_adoption(
    url: str, *, base_path: str | None = None, **access: Unpack[AccessOptions]
) -> list[AdoptionCurve]:
    """
    Return the adoption curves of the last rollouts, newest first.

    Raises the errors of `fetch_stats`.
    """
    rollouts_url = f"{base_url(url, base_path)}/admin/history/rollouts"
    return await _fetch(rollouts_url, access, adoption.decode, "rollouts")


async def fetch_minutes(url: str, *, base_path: str | None = None, **access: Unpack[AccessOptions]) -> list[Minute]:
    """Return the figures of each known minute of the last day, oldest first. Raises the errors of `fetch_stats`."""
    history_url = f"{base_url(url, base_path)}/admin/history"
    return await _fetch(history_url, access, rollout_messages.decode_minutes, "history")


async def forget_node(url: str, node: str, *, base_path: str | None = None, **access: Unpack[AccessOptions]) -> None:
    """Declare a node gone, so that its connections no longer count as unaccounted for. See `fetch_stats`."""
    forget_url = f"{base_url(url, base_path)}/admin/nodes/forget"
    content = await Access(**access).post(forget_url, {"node": node})
    _decoded(forget_url, content, lambda data: messages.decode_forgotten(data, node), "answer to this request")


async def _fetch(url: str, access: AccessOptions, decode: Callable[[bytes], T], what: str) -> T:
    return _decoded(url, await Access(**access).get(url), decode, what)


def _decoded(url: str, content: bytes, decode: Callable[[bytes], T], what: str) -> T:
    """Decode an answer: the one place that decides whether JSON is Headcount's."""
    try:
        return decode(content)
    except Malformed:
        raise Refused(f"{url} answered JSON, but not Headcount's {what}; check the URL.") from None


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


__all__ = [
    "AccessOptions",
    "ActiveConnections",
    "BlockingConnections",
    "ClientError",
    "ConfigError",
    "ConnectionInfo",
    "HeadcountError",
    "LiveState",
    "Minute",
    "NodeShare",
    "Nodes",
    "NotAuthorized",
    "Notified",
    "Observable",
    "Refused",
    "ReleaseResult",
    "RemoteConnections",
    "Rollout",
    "Stats",
    "Status",
    "Unreachable",
    "UpdateStrategy",
    "change_stage",
    "fetch_adoption",
    "fetch_fleet",
    "fetch_minutes",
    "fetch_nodes",
    "fetch_rollout",
    "fetch_stats",
    "fetch_version",
    "forget_node",
    "notify",
    "release",
    "use_active_connections",
]
