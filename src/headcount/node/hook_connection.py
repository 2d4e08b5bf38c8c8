"""
A connection as the application's hooks see it.

Tests: tests/node/test_hooks.py.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from ..core import messages
from ..core.payload import Payload
from ..core.stats import ConnectionInfo


class HookConnection(msgspec.Struct, frozen=True):
    """
    A connection of this node; implements `hooks.Connection`.

    Args:
        info: What it was at the moment of the event.
        deliver: Sends an encoded message to the connection with this public id.
    """

    info: ConnectionInfo
    deliver: Callable[[str, Payload], None]

    @property
    def id(self) -> str:
        """Public id."""
        return self.info.id

    @property
    def version(self) -> str:
        """Build id of the page."""
        return self.info.version

    @property
    def route(self) -> str:
        """Path the page shows."""
        return self.info.route

    @property
    def ip(self) -> str | None:
        """Client address; None unless IP tracking is on."""
        return self.info.ip

    def send(self, message: Mapping[str, Any]) -> Awaitable[None]:
        """
        Send the page a JSON object. Takes effect at once.

        Returns:
            An awaitable that is done already, so that `await` may stand before it or not. It is not a coroutine:
            `asyncio.create_task` does not accept it.

        Raises:
            UnknownConnection: The page has left.
            TypeError: The message is not a mapping, or holds a value that is not JSON.
        """
        self.deliver(self.info.id, Payload(messages.application(message)))
        return DONE


class _Done:
    """An awaitable that is done, so that `send` serves synchronous and asynchronous hooks alike."""

    def __await__(self) -> Any:
        return iter(())


DONE = _Done()
