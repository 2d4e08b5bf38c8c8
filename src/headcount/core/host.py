"""
Which names this server answers to: the rule about the Host header.

DNS rebinding: a page of evil.example makes its own name point to 127.0.0.1 once it is loaded. For the browser, the
server on the visitor's machine is then the page's own site, so no check of origins refuses it. The page cannot send
cookies or tokens of that server, but a hook that lets everybody watch, as in development, lets it watch as well.

The browser connects by that name to the server itself, so Host holds that name and the port that the server listens
on. A proxy on the same machine listens on another port, because this one is taken, and passes that port on in Host, or
none. So a request that came to a loopback address is refused a right if Host names another machine *and* the server's
own port. Nothing a page can choose exempts it: a page may set X-Forwarded-For on requests to its own site.

Names that no DNS server can point here are exempt: addresses, localhost (RFC 6761), the machine's own name. So are
`allowed_hosts` and the hosts of `public_origins`. A right that stands on a token is never refused, because a page of
another site does not have the token.

With `allowed_hosts`, every request is checked, to whatever address it came.

Tests: tests/core/test_host.py, tests/asgi/test_hosts.py.
"""

import ipaddress
import re
from collections.abc import Collection, Iterable
from typing import Any, Final

_DEFAULT_PORTS: Final = ("80", "443")

HOST_PATTERN: Final = re.compile(r"\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
"""An element of `allowed_hosts`."""


def split_host(host: str) -> tuple[str, str]:
    """Return name and port of a Host header, in lower case; an IPv6 address keeps its brackets, a port may be ""."""
    host = host.strip().lower()
    name, colon, port = host.rpartition(":")
    if not colon or not (port.isascii() and (port.isdecimal() or not port)) or (":" in name and name[-1:] != "]"):
        name, port = host, ""
    return name.removesuffix("."), port


class HostRules:
    """
    The names of one server.

    Args:
        allowed_hosts: The setting: `example.com`, `*.example.com`, `*`.
        public_origins: The setting; the hosts of these origins are names of this server.
        own_names: Further names that only this machine has.
    """

    def __init__(
        self,
        allowed_hosts: Collection[str] = (),
        public_origins: Iterable[str] = (),
        own_names: Iterable[str] = (),
    ) -> None:
        self.checks_all = bool(allowed_hosts)
        """Every request is checked, not only those that could be of a page that was rebound."""
        self._any = "*" in allowed_hosts
        self._suffixes = tuple(pattern[1:] for pattern in allowed_hosts if pattern.startswith("*."))
        origins = (split_host(origin.partition("://")[2])[0] for origin in public_origins)
        self._names = frozenset((*allowed_hosts, *origins, *(name.lower() for name in own_names)))

    def is_own(self, host: str) -> bool:
        """Say whether a Host header names this server, as `allowed_hosts` has it, or this machine."""
        name, _ = split_host(host)
        return self._any or name in self._names or name.endswith(self._suffixes) or _is_local(name)

    def is_rebound(self, host: str | None, server: Any) -> bool:
        """
        Say whether a request may be of a page whose name was made to point to this machine.

        Args:
            host: Host; None: there is none.
            server: Where the request arrived, as ASGI has it.
        """
        if not host or not isinstance(server, list | tuple) or len(server) != 2 or not _is_loopback(str(server[0])):
            return False
        name, port = split_host(host)
        # Not by the scheme: a page may send headers from which servers take it.
        if str(server[1]) not in ((port,) if port else _DEFAULT_PORTS):
            return False
        return not _is_address(name.strip("[]")) and not self.is_own(host)


def _is_local(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name.strip("[]"))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_loopback
