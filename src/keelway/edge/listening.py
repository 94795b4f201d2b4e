"""Where the server listens: an address in words becomes a socket address, on loopback unless more was allowed."""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple

from keelway.config import Settings
from keelway.errors import FailedPrecondition, InvalidInput


class Addresses(NamedTuple):
    """Where a server listens: the URL of the HTTP port, and of gRPC's own port host and port (empty: there is none)."""

    http: str
    grpc: str

    @classmethod
    def of(cls, settings: Settings, http: str, grpc: str = "") -> Addresses:
        """``http`` and ``grpc`` are host and port."""
        return cls(f"{'https' if settings.tls.certificate else 'http'}://{http}", grpc)


class Endpoint(NamedTuple):
    """A resolved address to listen on. ``setting`` is where it came from, such as ``http.address``."""

    family: socket.AddressFamily
    host: str
    port: int
    setting: str

    @property
    def text(self) -> str:
        return join_address(self.host, self.port)

    def taken(self, reason: str) -> FailedPrecondition:
        """The error of not being able to listen here, with a way out."""
        option = "--" + self.setting.partition(".")[0]
        return FailedPrecondition(
            f"cannot listen on {self.text}: {reason}", hint=f"choose another port with {option} HOST:PORT"
        )


def resolve(address: str, setting: str, anywhere: bool) -> Endpoint:
    """The endpoint of ``address`` (``host:port``). ``InvalidInput`` if that is no address, ``FailedPrecondition`` if it
    is beyond loopback without ``anywhere``: callers prove who they are, or it was said that they need not."""
    host, port = split_address(address, setting)
    try:
        family, _, _, _, resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise InvalidInput(f"the host of {setting} cannot be resolved", field=setting) from None
    if not ipaddress.ip_address(resolved[0]).is_loopback and not anywhere:
        raise FailedPrecondition(
            "refusing to listen beyond loopback without credentials",
            hint="ask callers for credentials (auth.key_secret_file; keelway keys secret makes the secret), listen on "
            "127.0.0.1 behind a gateway, or say --insecure if the network is trusted",
        )
    return Endpoint(family, str(resolved[0]), port, setting)


def bind(endpoint: Endpoint) -> socket.socket:
    """A listening socket. ``FailedPrecondition`` if the address is taken."""
    listener = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((endpoint.host, endpoint.port))
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise endpoint.taken(error.strerror or "it cannot be used") from None
    return listener


def split_address(address: str, setting: str = "http.address") -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6]:port``. ``InvalidInput`` if there is no port."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise InvalidInput(f"{setting} must be HOST:PORT, such as 127.0.0.1:8080", field=setting)
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(listener: socket.socket) -> str:
    """Host and port that ``listener`` really has."""
    host, port = listener.getsockname()[:2]
    return join_address(host, port)
