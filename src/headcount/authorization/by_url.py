"""
Asking another server whether a viewer may watch (`--authorize-url`), for back ends in any language.

The URL gets the viewer's own cookies and Authorization header, and those of `authorize_headers`, and nothing else; 2xx
allows, anything else denies.
Connections are kept, because visitors decide how often it is asked. A verdict holds for a second for the very same
credentials; those who ask meanwhile, or at the same time, share one question. A failure is nobody's verdict.
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final

from starlette.requests import HTTPConnection

from ..core.keyed_hash import KEY_BYTES, keyed_hash
from ..errors import ConfigError
from ..loops import Tasks
from .kept_headers import CREDENTIALS

try:
    import httpx2
except ImportError:
    httpx2 = None  # type: ignore[assignment]

REMEMBERED: Final = 1.0
"""Seconds for which a verdict holds."""

MAX_REMEMBERED: Final = 1_024
"""Credentials whose verdict is remembered."""

IDLE: Final = 5.0
"""Seconds after the last question until the connections are closed."""

_Headers = list[tuple[bytes, bytes]]


class UrlCheck:
    """
    An `authorize_stats` hook that asks a URL. Usable from any event loop; each has connections of its own.

    Args:
        url: http:// or https://, fixed by the operator.
        timeout: Seconds for the whole exchange.
        names: Headers that the URL gets.
        clock: Monotonic seconds.

    Raises:
        ConfigError: httpx2 is not installed.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        names: Collection[bytes] = CREDENTIALS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if httpx2 is None:
            raise ConfigError("authorize_url needs httpx2; run: pip install 'headcount[serve]'")
        self._url = url
        self._timeout = timeout
        self._names = names
        self._clock = clock
        self._hash_key = os.urandom(KEY_BYTES)
        # Reading all certificates takes longer than the request, and anybody can cause requests.
        self._trusted = httpx2.create_ssl_context(trust_env=False)
        self._verdicts: OrderedDict[bytes, tuple[float, bool]] = OrderedDict()
        """By a keyed hash of the credentials: until when, and whether they may watch. Oldest first."""
        self._askers: dict[asyncio.AbstractEventLoop, _Asker] = {}

    async def __call__(self, request: HTTPConnection) -> bool:
        """Ask. Raises httpx2's errors, and TimeoutError."""
        # As they came: a header may hold any byte, and HTTP/2 splits Cookie into several lines.
        credentials = [(name, value) for name, value in request.scope["headers"] if name in self._names]
        if not credentials:
            return False  # they have nothing to show; no request is needed
        cookies = b"; ".join(value for name, value in credentials if name == b"cookie")
        headers = [(name, value) for name, value in credentials if name != b"cookie"]
        if cookies:
            headers.append((b"cookie", cookies))
        key = keyed_hash(self._hash_key, *(part for header in headers for part in header))
        known = self._verdicts.get(key)
        if known is not None and self._clock() < known[0]:
            return known[1]
        verdict = await self._asker().ask(key, headers)
        self._verdicts.pop(key, None)
        self._verdicts[key] = (self._clock() + REMEMBERED, verdict)
        if len(self._verdicts) > MAX_REMEMBERED:
            self._verdicts.popitem(last=False)
        return verdict

    async def close(self) -> None:
        """Close the connections of the running loop. The next question opens new ones."""
        asker = self._askers.pop(asyncio.get_running_loop(), None)
        if asker is not None:
            await asker.close()

    def _asker(self) -> "_Asker":
        loop = asyncio.get_running_loop()
        asker = self._askers.get(loop)
        if asker is None:
            for old in [old for old in self._askers if old.is_closed()]:
                del self._askers[old]
            asker = self._askers[loop] = _Asker(self._url, self._timeout, self._trusted)
        return asker


class _Asker:
    """The questions of one event loop, and their connections, which are closed when nobody has asked for a while."""

    def __init__(self, url: str, timeout: float, trusted: Any) -> None:
        self._url = url
        self._timeout = timeout
        self._trusted = trusted
        self._client: httpx2.AsyncClient | None = None
        self._asking: dict[bytes, asyncio.Task[bool]] = {}
        self._idle: asyncio.TimerHandle | None = None
        self._tasks = Tasks()

    async def ask(self, key: bytes, headers: _Headers) -> bool:
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(headers))
            task.add_done_callback(lambda done: self._done(key, done))
        # Of several that wait, each may be cancelled by itself.
        return await asyncio.shield(task)

    async def _ask(self, headers: _Headers) -> bool:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._client is None:
            self._client = httpx2.AsyncClient(
                timeout=self._timeout, trust_env=False, follow_redirects=False, verify=self._trusted
            )
        try:
            return await self._exchange(self._client, headers)
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
            # The back end may have closed an idle connection just when this question was sent on it.
            return await self._exchange(self._client, headers)

    async def _exchange(self, client: "httpx2.AsyncClient", headers: _Headers) -> bool:
        async with asyncio.timeout(self._timeout), client.stream("GET", self._url, headers=headers) as response:
            verdict: bool = response.is_success
            # The status says all. A short body is read, so that the connection can be used again.
            length = response.headers.get("content-length", "")
            if length.isdecimal() and int(length[:9]) <= _MAX_BODY:
                with suppress(httpx2.HTTPError, TimeoutError):
                    async with asyncio.timeout(_BODY_TIMEOUT):
                        async for _ in response.aiter_raw():
                            pass
            return verdict

    def _done(self, key: bytes, task: asyncio.Task[bool]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # retrieved here: everybody who waited may have left
        if not self._asking:
            self._idle = task.get_loop().call_later(IDLE, self._close_soon)

    def _close_soon(self) -> None:
        self._tasks.start(self.close())

    async def close(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


_MAX_BODY: Final = 65_536
_BODY_TIMEOUT: Final = 0.5
"""So many bytes of an answer are read, for so many seconds."""
