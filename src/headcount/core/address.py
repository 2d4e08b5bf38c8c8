"""
The client's address: whose word is taken, and how much of it is kept.

Anybody can send X-Forwarded-For. A header is believed only when the peer itself is a trusted proxy, and in a list only
the rightmost address that is not a trusted proxy, because everything to its left was written by a stranger. When all of
them are ours, the request began inside: then it is the leftmost.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import TypeAlias

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(peer: str | None, headers: Mapping[str, str], trusted: Iterable[IPNetwork]) -> str | None:
    """
    Find the address of the client.

    Args:
        peer: Address of the other end of the socket; None for a Unix socket, which only a local proxy reaches.
        headers: By lower-case name; several lines of one name joined by commas.
        trusted: Networks of our proxies.

    Returns:
        The address in its canonical form, or None if it is not known.
    """
    networks = tuple(trusted)
    address = _parse(peer)
    if networks and (address is None or _within(address, networks)):
        farthest: IPAddress | None = None
        for name in ("cf-connecting-ip", "x-forwarded-for", "x-real-ip"):
            hop: IPAddress | None = None
            for word in reversed(headers.get(name, "").split(",")):
                told = _parse(word.strip())
                if told is None:
                    break
                if not _within(told, networks) or networks_are_everything(networks):
                    return str(told)
                hop = told
            farthest = farthest or hop
        address = farthest or address
    return str(address) if address is not None else None


def is_told(address: str, forwarded: str) -> bool:
    """Say whether an address stands in an `x-forwarded-for` header, however it is written."""
    parsed = _parse(address)
    return parsed is not None and any(_parse(word.strip()) == parsed for word in forwarded.split(","))


def is_trusted(address: str, trusted: Iterable[IPNetwork]) -> bool:
    """Say whether an address is that of one of our proxies."""
    parsed = _parse(address)
    return parsed is not None and _within(parsed, tuple(trusted))


def anonymized(address: str) -> str:
    """Cut an address to its network: /24 for IPv4, /48 for IPv6."""
    parsed = ipaddress.ip_address(address)
    network = ipaddress.ip_network((parsed, 24 if parsed.version == 4 else 48), strict=False)
    return str(network.network_address)


def networks_are_everything(networks: tuple[IPNetwork, ...]) -> bool:
    """Say whether every peer is trusted, so that no address can be told from a proxy's."""
    return any(network.prefixlen == 0 for network in networks)


def _within(address: IPAddress, networks: tuple[IPNetwork, ...]) -> bool:
    return any(address in network for network in networks)


def _parse(text: str | None) -> IPAddress | None:
    try:
        # Proxies write 192.0.2.7:5123 and [2001:db8::1]:5123 too.
        word = (text or "").removeprefix("[")
        if "]" in word:
            word = word[: word.index("]")]
        elif word.count(":") == 1:
            word = word[: word.index(":")]
        # A zone (fe80::1%eth0) means nothing elsewhere, and in a header it is free text.
        word = word.partition("%")[0]
        address = ipaddress.ip_address(word)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
