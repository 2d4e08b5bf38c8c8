"""How many pages are open right now, on which version and which route: live, for authorised viewers."""

from .asgi.app import Headcount
from .asgi.cookie import VersionCookie
from .authorization.authorizer import Grant
from .core.stats import ConnectionInfo, Nodes, Stats, StatsDelta
from .errors import Busy, ConfigError, HeadcountError, NotAuthorized, UnknownConnection
from .live.active_connections import ActiveConnections, LiveState
from .live.in_process import LocalConnections
from .live.observable import Observable
from .node.hooks import Connection

__all__ = [
    "ActiveConnections",
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
    "Stats",
    "StatsDelta",
    "UnknownConnection",
    "VersionCookie",
]
