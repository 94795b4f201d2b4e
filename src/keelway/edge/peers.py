"""Who is at the other end of a connection, as far as the connection itself tells."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

from keelway.types import NOBODY, Peer


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """The peer of ``transport``: asked once for each connection. An IPv4 address that came by a socket of IPv6 is
    written as one of IPv4, so that one peer has one address."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):  # no socket of the Internet's
        return NOBODY
    return Peer(_plain(str(name[0])))


def _plain(address: str) -> str:
    try:
        mapped = getattr(ip_address(address), "ipv4_mapped", None)
    except ValueError:
        return address
    return address if mapped is None else str(mapped)
