"""Who is at the other end of a connection, as far as the connection itself tells."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any, Final

from keelway.types import NOBODY, Peer

#: Alternative names that are identities, as Python's ``ssl`` calls them, and what is written before them.
_KINDS: Final = {"URI": "URI:", "DNS": "DNS:", "email": "email:"}


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """The peer of ``transport``: asked once for each connection. An IPv4 address that came by a socket of IPv6 is
    written as one of IPv4, so that one peer has one address."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):  # no socket of the Internet's
        return NOBODY
    return Peer(_plain(str(name[0])), identities_of(transport.get_extra_info("peercert") or {}))


def identities_of(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    """The identities in a certificate of a peer that was verified, as ``ssl.SSLSocket.getpeercert`` gives it: its
    alternative names, or without any its common name, if it has exactly one. Names that cannot be printed are none."""
    found = tuple(
        _KINDS[kind] + name
        for kind, name in certificate.get("subjectAltName", ())
        if kind in _KINDS and _is_plain(name)
    )
    if found or any(kind in _KINDS for kind, _ in certificate.get("subjectAltName", ())):
        return found
    common = list(_common_names(certificate))
    return (f"CN={common[0]}",) if len(common) == 1 and _is_plain(common[0]) else ()


def _common_names(certificate: Mapping[str, Any]) -> Iterator[str]:
    for part in certificate.get("subject", ()):
        for kind, name in part:
            if kind == "commonName":
                yield name


def _is_plain(name: str) -> bool:
    return bool(name) and name.isprintable()


def _plain(address: str) -> str:
    try:
        mapped = getattr(ip_address(address), "ipv4_mapped", None)
    except ValueError:
        return address
    return address if mapped is None else str(mapped)
