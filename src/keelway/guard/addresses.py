"""Whose address counts: that of the connection, or, behind proxies that are trusted, the one they report; and whom an
address stands for. A caller can write any address into a header, so only what a trusted proxy has added is believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal

from keelway.errors import InvalidInput
from keelway.types import Peer

Address = IPv4Address | IPv6Address
Header = Literal["x-forwarded-for", "forwarded"]

_REMEMBERED: Final = 4096
#: Hops of a chain that are looked at; whoever sends more has written them itself.
_HOPS: Final = 32
#: Who holds an address of IPv6 holds the other 2^64 of its network too.
_HOST_BITS: Final = 64


class Proxies:
    """``trusted`` are networks of proxies, ``header`` is what they report the other end of their connections in.

    Raises ``InvalidInput`` for what is no network."""

    def __init__(self, trusted: Sequence[str] = (), header: Header = "x-forwarded-for") -> None:
        self._trusted = [_network(text) for text in trusted]
        self._header = header.encode()
        self._hops = _elements if header == "forwarded" else _list
        self._known: dict[tuple[str, bytes], str] = {}

    def forwarded(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """What the head of a request says of whom it comes from; empty where nobody is asked."""
        if not self._trusted:
            return b""
        return b",".join([value for name, value in headers if name == self._header])

    def behind(self, peer: Peer, forwarded: bytes) -> Peer:
        """The caller at the other end of ``peer``'s connection, or of those that trusted proxies report. What ``peer``
        has proved to be stays."""
        if not forwarded:
            return peer
        key = (peer.address, forwarded)
        address = self._known.get(key)
        if address is None:
            address = self._address(*key)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = address
        return peer if address == peer.address else Peer(address, peer.identities)

    def _address(self, near: str, forwarded: bytes) -> str:
        address = _address(near)
        if address is None:
            return near
        # From right to left, since each proxy has added whom it saw; what the first untrusted one wrote is hearsay.
        hops = self._hops(forwarded)[-_HOPS:]
        while hops and self._trusts(address):
            farther = _address(hops.pop())
            if farther is None:
                break
            address = farther
        return str(address)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError:
        raise InvalidInput(
            "settings: rate_limits.trusted_proxies: that is no network",
            field="rate_limits.trusted_proxies",
            hint="write addresses or networks, such as 10.0.0.0/8 or 2001:db8::/32",
        ) from None


def _address(text: str) -> Address | None:
    """The address in ``text``, perhaps with a port, brackets or a zone; ``None`` if there is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def counted(address: str) -> str:
    """Whom ``address`` is counted for: itself, or its network if it is one of IPv6."""
    if ":" not in address:
        return address
    network = _networks.get(address)
    if network is None:
        if len(_networks) >= _REMEMBERED:
            _networks.clear()
        parsed = _address(f"[{address}]")
        if isinstance(parsed, IPv6Address):
            network = f"{IPv6Address(int(parsed) >> _HOST_BITS << _HOST_BITS)}/{128 - _HOST_BITS}"
        else:
            network = address if parsed is None else str(parsed)
        _networks[address] = network
    return network


#: What ``counted`` has found out; it depends on nothing else.
_networks: Final[dict[str, str]] = {}


def _list(value: bytes) -> list[str]:
    return value.decode("latin-1").split(",")


def _elements(value: bytes) -> list[str]:
    """The nodes of ``Forwarded`` (RFC 7239): an element without one stands for a hop that does not tell."""
    nodes = []
    for element in value.decode("latin-1").split(","):
        pairs = (pair.strip().partition("=") for pair in element.split(";"))
        nodes.append(next((node for name, _, node in pairs if name.lower() == "for"), ""))
    return nodes
