"""Whose address counts: that of the connection, or, behind proxies that are trusted, the one they report; and whom an
address stands for. A caller can write any address into a header, so only what a trusted proxy has added is believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import Final, Literal

from keelway.errors import InvalidInput
from keelway.types import Peer

Address = IPv4Address | IPv6Address
Header = Literal["x-forwarded-for", "forwarded"]

#: Chains of hops whose ends are remembered, and the bytes of one that is: whoever sends more has written most itself.
_REMEMBERED: Final = 4096
_REMEMBERED_BYTES: Final = 512
#: Hops of a chain that are looked at, and its last bytes that they are looked for in.
_HOPS: Final = 32
_LOOKED_AT: Final = 4096
#: What parts the elements of ``Forwarded`` (RFC 7239), read backwards: a comma, or a quote and what escapes it.
_MARKS: Final = re.compile(r'"\\*|,')
#: One pair of an element, with what ends it.
_PAIR: Final = re.compile(r'\s*([^\s=;"]+)=("(?:[^"\\]|\\.)*"|[^\s;"]*)\s*(?:;|\Z)')
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
            if len(forwarded) <= _REMEMBERED_BYTES:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[key] = address
        return peer if address == peer.address else Peer(address, peer.identities)

    def _address(self, near: str, forwarded: bytes) -> str:
        address = _address(near)
        if address is None:
            return near
        # From right to left, since each proxy has added whom it saw; what the first untrusted one wrote is hearsay.
        hops = islice(self._hops(forwarded[-_LOOKED_AT:].decode("latin-1")), _HOPS)
        while self._trusts(address):
            farther = _address(next(hops, ""))
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


def _list(value: str) -> Iterator[str]:
    """The nodes of ``X-Forwarded-For``, the last one first."""
    return reversed(value.split(","))


def _elements(value: str) -> Iterator[str]:
    """The nodes of ``Forwarded`` (RFC 7239), the last one first; an element without one stands for a hop that does not
    tell.

    Quotes are heeded, since proxies quote there what a caller has written, such as its Host; and read from the right,
    since one that a caller has opened must not swallow what a proxy adds behind it."""
    end, quoted = len(value), False
    for mark in _MARKS.finditer(value[::-1]):
        position = len(value) - 1 - mark.start()
        if mark[0] == ",":
            if not quoted:
                yield _node(value[position + 1 : end])
                end = position
        elif not quoted or len(mark[0]) % 2:
            quoted = not quoted
    yield _node(value[:end])


def _node(element: str) -> str:
    """The value of ``for``; empty without one or with several, and for what is no element."""
    nodes, position = [], 0
    while position < len(element):
        pair = _PAIR.match(element, position)
        if pair is None:
            return ""
        if pair[1].lower() == "for":
            nodes.append(pair[2])
        position = pair.end()
    return nodes[0] if len(nodes) == 1 else ""
