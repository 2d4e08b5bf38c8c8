"""
The client's address: whose word is taken, and how much of it is kept.

Anybody can send X-Forwarded-For. A header is believed only when the peer itself is a trusted proxy, and in a list only
the rightmost address that is not a trusted proxy, because everything to its left can be written by anybody. When all of
them are ours, the request began inside: then it is the leftmost.
"""

import enum
import ipaddress
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class AddressGap(enum.Enum):
    """Why the address of a client is not known, and what to do; shown to operators."""

    REWRITTEN = (
        "The server replaces client addresses with the value of X-Forwarded-For, which visitors can forge if the proxy "
        "passes it on unchanged. If your proxy sets it or appends to it, set trusted_proxies='server'; otherwise start "
        "uvicorn with --no-proxy-headers."
    )
    UNIX_SOCKET = (
        "Connections arrive over a Unix socket, so the proxy must send client addresses. Let it set X-Forwarded-For, "
        "and set trusted_proxies='*': only the proxy reaches the socket."
    )
    NO_ADDRESS = (
        "trusted_proxies is 'server', but the server passes on no client address. Check which proxies the server "
        "trusts (uvicorn: --forwarded-allow-ips)."
    )


NEWEST_STREAMS: Final = 32
"""Streams of which `AddressGaps` knows whether their address is known."""


class AddressGaps:
    """
    Why the addresses of the newest streams are not known.

    A visitor can send headers that make the address of their own stream unknown. So a reason holds only while at least
    half of the newest streams have no address.
    """

    __slots__ = ("_newest",)

    def __init__(self) -> None:
        self._newest: deque[AddressGap | None] = deque(maxlen=NEWEST_STREAMS)

    def add(self, gap: AddressGap | None) -> None:
        """Add a stream; None: its address is known. O(1)."""
        self._newest.append(gap)

    def reason(self) -> AddressGap | None:
        """Return the most frequent reason; None: most addresses are known. O(streams)."""
        gaps = Counter(gap for gap in self._newest if gap is not None)
        return gaps.most_common(1)[0][0] if gaps and 2 * gaps.total() >= len(self._newest) else None


def locate_client(
    client: tuple[object, object] | None,
    headers: Mapping[str, str],
    trusted: Iterable[IPNetwork],
    *,
    trusts_server: bool = False,
) -> tuple[str | None, AddressGap | None]:
    """
    Find the address of the client in what an ASGI server passes on.

    uvicorn's `proxy_headers`, on by default, replaces the peer with an address from X-Forwarded-For when the peer is
    on the same machine. It can be detected: the port is 0, or the address stands in that header. The proxy or the
    visitor may have written the address, and nothing shows which: without a line in its configuration, nginx passes on
    the header of the visitor. So it is believed only on request (`trusts_server`), or when such a peer is one of our
    proxies, whose header is then read by our own rules.

    Args:
        client: `client` of the ASGI scope.
        headers: As for `client_address`.
        trusted: Networks of our proxies.
        trusts_server: `client` is the address of the client, whatever the server made it of.

    Returns:
        The address or None, and why it is not known.
    """
    host, port = client or (None, None)
    peer = None if host is None else str(host)
    if trusts_server:
        address = _parse(peer)
        return (None, AddressGap.NO_ADDRESS) if address is None else (str(address), None)
    networks, forwarded = tuple(trusted), headers.get("x-forwarded-for", "")
    if peer is not None and str(port) == "0":
        peer = next((local for local in ("127.0.0.1", "::1") if is_trusted(local, networks)), None)
        if peer is None:
            return None, AddressGap.REWRITTEN
    elif peer is not None and forwarded and is_forwarded(peer, forwarded) and not is_trusted(peer, networks):
        return None, AddressGap.REWRITTEN
    found = client_address(peer, headers, networks)
    # A name, as test clients have one, is no Unix socket.
    return found, AddressGap.UNIX_SOCKET if found is None and _parse(peer) is None and port is None else None


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
                found = _parse(word.strip())
                if found is None:
                    break
                if not _within(found, networks) or networks_are_everything(networks):
                    return str(found)
                hop = found
            farthest = farthest or hop
        address = farthest or address
    return str(address) if address is not None else None


def is_forwarded(address: str, forwarded: str) -> bool:
    """Say whether an address stands in an `x-forwarded-for` header, however it is written."""
    parsed = _parse(address)
    return parsed is not None and any(_parse(word.strip()) == parsed for word in forwarded.split(","))


def is_trusted(address: str, trusted: Iterable[IPNetwork]) -> bool:
    """Say whether an address is that of one of our proxies."""
    parsed = _parse(address)
    return parsed is not None and _within(parsed, tuple(trusted))


def anonymized(address: str) -> str:
    """
    Cut an address to its network: /24 for IPv4, /48 for IPv6.

    An IPv6 address of a transition mechanism contains an IPv4 address, often within its first 48 bits. It becomes the
    network of that IPv4 address.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = _ipv4_inside(parsed) or parsed
    network = ipaddress.ip_network((parsed, 24 if parsed.version == 4 else 48), strict=False)
    return str(network.network_address)


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


def _ipv4_inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """
    Return the client's IPv4 address in an IPv6 address, or None.

    In 64:ff9b:1::/48 and in ISATAP addresses it begins after the first 48 bits, of which `anonymized` keeps nothing
    else. The prefixes of providers (6rd, their own NAT64) cannot be recognised.

    Source: RFC 4291 (mapped, compatible), RFC 3056 (6to4), RFC 4380 (Teredo), RFC 6052 and RFC 8215 (NAT64).
    """
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]  # the first is the Teredo server's
    if address in _NAT64 or (address in _COMPATIBLE and int(address) >> 16):  # not `::` and `::1`
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def may_hold_address(value: bytes) -> bool:
    """Say whether the value of a header may hold an IP address, in any of the ways that proxies write one."""
    return _ADDRESS_LIKE.search(value) is not None or _PACKED_ADDRESS.fullmatch(value) is not None


# Dotted, as reverse DNS writes it (host-203-0-113-7), or with two colons; percent-encoded, too.
_ADDRESS_LIKE: Final = re.compile(
    rb"(?<!\d)\d{1,3}(?:(?:[._-]|%2e)\d{1,3}){3}(?!\d)|(?::|%3a)[0-9a-f]{0,4}(?::|%3a)", re.IGNORECASE
)
_PACKED_ADDRESS: Final = re.compile(rb"\W*(?:0x)?(?:[0-9a-f]{8}|[0-9a-f]{32}|\d{8,10})\W*", re.IGNORECASE)


def networks_are_everything(networks: tuple[IPNetwork, ...]) -> bool:
    """Say whether every peer is trusted, so that no address can be distinguished from a proxy's."""
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
