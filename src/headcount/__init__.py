"""
How many pages are open right now, on which version and which route: live, for authorised viewers.

The names below are imported when they are first used: the command line and the client need neither the server's side
nor a framework, and start in half the time without them.

Tests: tests/test_public_names.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asgi.app import Headcount
    from .asgi.assets import Assets
    from .asgi.cookie import VersionCookie
    from .asgi.outdated import OutdatedClients, refuse_outdated
    from .authorization.authorizer import Grant
    from .core.stats import ConnectionInfo, Nodes, Stats, StatsDelta
    from .errors import Busy, ConfigError, HeadcountError, NotAuthorized, UnknownConnection
    from .live.active_connections import ActiveConnections, LiveState
    from .live.in_process import LocalConnections
    from .live.observable import Observable
    from .node.hooks import Connection

__all__ = [
    "ActiveConnections",
    "Assets",
    "Busy",
    "ConfigError",
    "Connection",
    "ConnectionInfo",
    "Grant",
    "Headcount",
    "HeadcountError",
    "LiveState",
    "LocalConnections",
    "Nodes",
    "NotAuthorized",
    "Observable",
    "OutdatedClients",
    "Stats",
    "StatsDelta",
    "UnknownConnection",
    "VersionCookie",
    "refuse_outdated",
]

_MODULES = {
    "ActiveConnections": "live.active_connections",
    "Assets": "asgi.assets",
    "Busy": "errors",
    "ConfigError": "errors",
    "Connection": "node.hooks",
    "ConnectionInfo": "core.stats",
    "Grant": "authorization.authorizer",
    "Headcount": "asgi.app",
    "HeadcountError": "errors",
    "LiveState": "live.active_connections",
    "LocalConnections": "live.in_process",
    "Nodes": "core.stats",
    "NotAuthorized": "errors",
    "Observable": "live.observable",
    "OutdatedClients": "asgi.outdated",
    "Stats": "core.stats",
    "StatsDelta": "core.stats",
    "UnknownConnection": "errors",
    "VersionCookie": "asgi.cookie",
    "refuse_outdated": "asgi.outdated",
}


if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import a public name; called for those that this module does not have yet."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
