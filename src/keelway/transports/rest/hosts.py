"""Which Host and Origin headers are let in, for every route.

The Host list stops DNS rebinding: a page whose name was pointed at this address cannot talk to the server. An address
in digits passes, since rebinding needs a name. The Origin check stops a page of another site from using a visitor's
network position, on any method that is not plainly a read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from keelway.transports.rest.errors import HttpRefusal

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_REMEMBERED = 256


class OriginPolicy:
    """``host`` is the name or address listened on. ``*`` among ``hosts`` lets every Host in."""

    def __init__(self, host: str, hosts: Collection[str], origins: Collection[str]) -> None:
        self._names = {"localhost", host.lower(), *(name.lower() for name in hosts)}
        self._origins = {origin.rstrip("/").lower() for origin in origins}
        self._verdicts: dict[bytes, bool] = {}

    def check(self, headers: Mapping[bytes, bytes], method: str) -> None:
        """``HttpRefusal`` 421 for a Host that is not ours, 403 for a write from a page that is not allowed."""
        host = headers.get(b"host", b"")
        if not self._verdicts.get(host) and not self._is_ours(host):
            raise HttpRefusal(421, "this server does not answer for that host; add it to http.allowed_hosts")
        origin = headers.get(b"origin")
        if origin is not None and method not in _READS and not self._may_write(origin, host):
            raise HttpRefusal(403, "pages of that origin may not call this server; add it to http.allowed_origins")

    def _is_ours(self, host: bytes) -> bool:
        name = host_name(host.decode("latin-1"))
        verdict = not name or name in self._names or "*" in self._names or is_address(name)
        if verdict and len(self._verdicts) < _REMEMBERED:
            self._verdicts[host] = True
        return verdict

    def _may_write(self, origin: bytes, host: bytes) -> bool:
        text = origin.decode("latin-1").lower()
        try:
            return text in self._origins or urlsplit(text).netloc == host.decode("latin-1").lower()
        except ValueError:  # no URL at all
            return False


def host_name(host: str) -> str:
    """The name or address of a Host header, lower-case, without its port and the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
