"""
The shutdown of Twisted's reactor, which daphne runs on.

A server that stops closes its listening socket first, and that is how Headcount notices (listening_sockets.py). daphne
does not: at a signal it cancels all applications at once, and ends the process when they have ended. Twisted has a hook
for that moment, which waits for whoever it called.

Twisted is never imported here. Where its reactor runs this event loop, it is loaded already.

Tests: tests/server/test_reloading.py.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any


class ReactorShutdown:
    """
    Calls a function when the reactor that runs this thread's event loop shuts down; elsewhere it does nothing.

    Args:
        call: Called at once. The reactor waits for the coroutine that it returns.
    """

    __slots__ = ("_call", "_reactor", "_trigger")

    def __init__(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._call = call
        self._trigger: Any = None
        # The module is the reactor itself: Twisted puts it in the place of the module.
        self._reactor: Any = sys.modules.get("twisted.internet.reactor")
        threads: Any = sys.modules.get("twisted.python.threadable")
        # A thread runs one loop at a time. Another thread may run a loop beside the reactor's.
        if self._reactor is not None and self._reactor.running and threads.isInIOThread():
            self._trigger = self._reactor.addSystemEventTrigger("before", "shutdown", self._on_shutdown)

    def forget(self) -> None:
        """Do not call. To be called in the reactor's thread."""
        if self._trigger is not None:
            self._reactor.removeSystemEventTrigger(self._trigger)
            self._trigger = None

    def _on_shutdown(self) -> Any:
        self._trigger = None  # Twisted has removed it
        return sys.modules["twisted.internet.defer"].Deferred.fromFuture(asyncio.ensure_future(self._call()))
