"""Who is asking: from what a request's head presents, and the connection that it came by, to a principal.

A transport reads a head once and keeps the ``Credentials`` with its verdict on that head, since the same few heads come
again and again. It asks for the principal each time, before a permit is taken or a byte of the body is read: what was
found is remembered in the credentials for as long as it holds, so that a known caller costs a comparison.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from keelway.types import ANONYMOUS, Peer, Principal

Headers = Iterable[tuple[bytes, bytes]]


class Credentials:
    """What one head presents. Made by an ``Authenticator`` and good for it alone; it holds nothing of a connection, so
    that connections may share it."""

    __slots__ = ()


class Authenticator(Protocol):
    """Who finds out."""

    def present(self, headers: Headers) -> Credentials:
        """What a head with ``headers`` (their names in lower case) presents. Raises nothing: what is wrong with it is
        said when the principal is asked for."""
        ...

    def principal(self, credentials: Credentials, peer: Peer) -> Principal:
        """Who asks with ``credentials`` by a connection from ``peer``, now. Waits for nothing.

        Raises ``Unauthenticated`` for what proves nobody, ``RateLimited`` for an address that has failed too often."""
        ...


_NOTHING: Final = Credentials()


class OpenToAll:
    """Where no credentials are configured: everybody is ``ANONYMOUS``."""

    def present(self, headers: Headers) -> Credentials:
        return _NOTHING

    def principal(self, credentials: Credentials, peer: Peer) -> Principal:
        return ANONYMOUS
