"""How many pages are open right now, on which version and which route: live, for authorised viewers."""

from .asgi.app import Headcount
from .asgi.cookie import VersionCookie
from .authorize import Grant
from .core.stats import ConnectionInfo, Nodes, Stats, StatsDelta
from .errors import ConfigError, HeadcountError, UnknownConnection
from .hooks import Connection
from .live import LocalConnections
from .observable import Observable

__all__ = [
    "ConfigError",
    "Connection",
    "ConnectionInfo",
    "Grant",
    "Headcount",
    "HeadcountError",
    "LocalConnections",
    "Nodes",
    "Observable",
    "Stats",
    "StatsDelta",
    "UnknownConnection",
    "VersionCookie",
]
