"""The address of a server and the options of a client, checked once when the client is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

import msgspec

from keelway.errors import FailedPrecondition, InvalidInput

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEMES = ("http", "https", "grpc", "grpcs")
_HEADER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
#: Headers that the protocols set themselves.
_OWN_HEADERS = frozenset(
    {"connection", "content-length", "content-type", "host", "inference-header-content-length", "te"}
    | {"transfer-encoding", "x-request-timeout"}
)


class ClientOptions(TypedDict, total=False):
    """Keyword options of ``Client`` and ``AsyncClient``.

    ``timeout``: seconds of a whole call, its retries included (30). ``retries``: attempts after the first (2).
    ``resend``: whether a request whose connection broke under way is sent again (yes; a prediction changes nothing on
    the server). ``max_connections``: connections open at once (32); over gRPC one carries many calls, and more are
    opened from 100 calls on. ``max_answer_bytes``: largest answer that is read (256 MiB). ``token``: sent as
    ``Authorization: Bearer``, an API key or another token. ``api_key``: sent as ``X-API-Key``, beside a token where a
    server asks for both. ``headers``: sent with every call, as metadata over gRPC. ``ca_certificate``: file of the
    authorities to trust, instead of the usual ones. ``certificate``, ``private_key``: files of the client's own, for
    servers that ask for them.
    """

    timeout: float
    retries: int
    resend: bool
    max_connections: int
    max_answer_bytes: int
    token: str
    api_key: str
    headers: Mapping[str, str]
    ca_certificate: str | Path
    certificate: str | Path
    private_key: str | Path


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """``ClientOptions`` with its defaults. ``InvalidInput`` naming the option that makes no sense."""

    timeout: float = 30.0
    retries: int = 2
    resend: bool = True
    max_connections: int = 32
    max_answer_bytes: int = 256 * 2**20
    token: str = ""
    api_key: str = ""
    headers: Mapping[str, str] = {}
    ca_certificate: str | Path = ""
    certificate: str | Path = ""
    private_key: str | Path = ""

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        for name, least in (("retries", 0), ("max_connections", 1), ("max_answer_bytes", 1)):
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} must be at least {least}", field=name)
        if bool(self.certificate) != bool(self.private_key):
            raise InvalidInput("certificate and private_key go together", field="certificate")
        for name, secret in (("token", self.token), ("api_key", self.api_key)):
            if not (secret.isascii() and secret.isprintable()):
                raise InvalidInput(f"the {name} must be printable ASCII", field=name)
        for header, value in self.headers.items():
            _check_header(header, value)

    def __repr__(self) -> str:
        return f"Options(timeout={self.timeout}, retries={self.retries}, …)"  # the rest may be secret

    @property
    def uses_tls(self) -> bool:
        return bool(self.ca_certificate or self.certificate)

    def all_headers(self) -> dict[str, str]:
        """``headers`` and those of the token and the key, with lower-case names."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        if self.api_key:
            headers["x-api-key"] = self.api_key
        return headers


class Endpoint(msgspec.Struct, frozen=True):
    """Where a server is. ``authority`` is host and port; ``path`` is in front of every route (REST)."""

    scheme: str
    authority: str
    path: str = ""

    @property
    def is_rest(self) -> bool:
        return self.scheme in _DEFAULT_PORTS

    @property
    def is_secure(self) -> bool:
        return self.scheme.endswith("s")

    @property
    def text(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def endpoint_of(url: str, options: Options) -> Endpoint:
    """The address in ``url``. ``InvalidInput`` if it is none; its words do not repeat what may hold a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _not_an_address() from None
    if parts.scheme not in _SCHEMES or not host:
        raise _not_an_address()
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidInput("an address has no user, query or fragment", field="url", hint="send a token with token=")
    port = port or _DEFAULT_PORTS.get(parts.scheme)
    path = parts.path.rstrip("/")
    if port is None or (path and parts.scheme not in _DEFAULT_PORTS):
        raise InvalidInput("an address of gRPC is a host and a port", field="url", hint="such as grpc://127.0.0.1:9090")
    endpoint = Endpoint(parts.scheme, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", path)
    if options.uses_tls and not endpoint.is_secure:
        raise InvalidInput("certificates need an address with https:// or grpcs://", field="url")
    return endpoint


def check_timeout(seconds: float) -> float:
    """``seconds`` if a call can have them, else ``InvalidInput``."""
    if not 0 < seconds < float("inf"):
        raise InvalidInput("timeout must be a positive number of seconds", field="timeout")
    return seconds


def read_file(path: str | Path, option: str) -> bytes:
    """The file that ``option`` names. ``FailedPrecondition`` if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"the file of {option} cannot be read: {error.strerror}", field=option) from None


def _check_header(name: str, value: str) -> None:
    if not _HEADER_NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
        raise InvalidInput("a header has a name of letters and a value of printable ASCII", field="headers")
    if name.lower() in _OWN_HEADERS or name.lower().startswith("grpc-"):
        raise InvalidInput(f"the header {name!r} is set by the client itself", field="headers")


def _not_an_address() -> InvalidInput:
    return InvalidInput(
        "an address begins with http://, https://, grpc:// or grpcs://", field="url", hint="such as grpc://host:9090"
    )
