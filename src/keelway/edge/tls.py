"""TLS of both ports: contexts made of the configured files, and made anew when those change.

A context is never changed once connections may have it: whoever accepts one asks for the newest. What is wrong with new
files is logged, and the old ones stay in use.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from keelway.access import TlsSettings
from keelway.edge.expiry import expiry_of
from keelway.errors import FailedPrecondition

log = logging.getLogger("keelway.edge")

#: What may be spoken on the HTTP port, and on a port of gRPC's own, as ALPN names it, most wanted first. Browsers, curl
#: and HTTP libraries offer both and want REST, which is spoken over HTTP/1.1; libraries of gRPC offer h2 alone.
HTTP_PORT: Final = ("http/1.1", "h2")
GRPC_PORT: Final = ("h2",)
#: Seconds that a peer may take to say goodbye in TLS when its connection is closed.
FAREWELL: Final = 2.0
#: Seconds for which changed files have to stay as they are before they are taken: what is half written may be read as
#: a whole, such as the first few of several certificates.
_SETTLED: Final = 0.5

_Stamp = tuple[bytes | None, ...]


class Contexts(NamedTuple):
    """What one reading of the files has made: a context for each port, and when the certificate expires, in seconds
    since 1970."""

    http: ssl.SSLContext
    grpc: ssl.SSLContext
    expires: float


class Certificates:
    """The files of ``settings``, which name a certificate. ``renewed`` is told when each certificate that is taken
    expires, in seconds since 1970. Raises ``FailedPrecondition`` naming the setting whose file cannot be used."""

    def __init__(self, settings: TlsSettings, renewed: Callable[[float], None]) -> None:
        self._settings = settings
        self._renewed = renewed
        self._taken = self._complained = self._seen = self._stamp()
        self._contexts = contexts_of(settings)
        renewed(self._contexts.expires)

    def http(self) -> ssl.SSLContext:
        """The newest context of the HTTP port."""
        return self._contexts.http

    def grpc(self) -> ssl.SSLContext:
        """The newest context of a port of gRPC's own."""
        return self._contexts.grpc

    async def follow(self) -> None:
        """Look at the files again and again, until cancelled."""
        pause = interval = self._settings.poll_interval
        while True:
            await asyncio.sleep(pause)
            try:
                # Off the loop: they may lie on a volume that does not answer.
                changed = await asyncio.to_thread(self.look)
                pause = min(interval, _SETTLED) if changed else interval
            except Exception as error:
                # Whatever is wrong, a later look may succeed.
                log.error("the files of TLS could not be looked at", exc_info=error)

    def look(self) -> bool:
        """Whether the files have just changed. They are taken if they are as they were at the last look and can be
        used. What cannot is said once for each change, and tried again: a chain and its key are two files, and one of
        them is written first."""
        stamp, before = self._stamp(), self._seen
        self._seen = stamp
        if stamp != before:
            return True
        if stamp == self._taken:
            if self._complained != stamp:
                self._complained = stamp
                log.info("the files are again those of the certificate in use")
            return False
        try:
            contexts = contexts_of(self._settings)
        except FailedPrecondition as error:
            if stamp != self._complained:
                self._complained = stamp
                log.error("the certificate in use stays: %s", error.message)
            return False
        if self._stamp() == stamp:  # or some of it was read of the files before, some of those behind
            self._contexts = contexts
            self._taken = self._complained = stamp
            self._renewed(contexts.expires)
            log.info("new connections get the new certificate")
        return False

    def _stamp(self) -> _Stamp:
        """Of what stands in the files, wherever links lead to: times and sizes may be those of the file before."""
        return tuple(_stamp(path) for _, path in files_of(self._settings))


def files_of(settings: TlsSettings) -> Sequence[tuple[str, str]]:
    """The files that are read, each with its setting."""
    named = ("private_key", "certificate", "client_ca")
    return [(f"tls.{name}", path) for name in named if (path := getattr(settings, name)) or name == "private_key"]


def certificates(settings: TlsSettings, renewed: Callable[[float], None]) -> Certificates | None:
    """TLS as configured, ``None`` without it. ``FailedPrecondition`` if a file cannot be used, or is of no use without
    a certificate. ``renewed`` is that of ``Certificates``."""
    if settings.certificate:
        return Certificates(settings, renewed)
    for name in ("private_key", "client_ca"):
        if getattr(settings, name):
            raise FailedPrecondition(
                f"tls.{name} needs a certificate of the server's own", hint="set tls.certificate too"
            )
    return None


def contexts_of(settings: TlsSettings) -> Contexts:
    """Read the files. ``FailedPrecondition`` naming the setting whose file cannot be used."""
    if not settings.private_key:
        raise FailedPrecondition("tls.certificate needs its key", hint="set tls.private_key too")
    for name, path in files_of(settings):
        _check_readable(path, name)
    try:
        expires = expiry_of(Path(settings.certificate).read_bytes())
    except (OSError, ValueError):
        raise FailedPrecondition("the file of tls.certificate holds no certificate in PEM") from None
    return Contexts(_context(settings, HTTP_PORT), _context(settings, GRPC_PORT), expires)


def _context(settings: TlsSettings, protocols: Sequence[str]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(protocols)
    try:
        context.load_cert_chain(settings.certificate, settings.private_key, password=_no_password)
    except (OSError, ValueError):
        raise FailedPrecondition(
            "the files of tls.certificate and tls.private_key do not go together",
            hint="they are PEM files, the key is that of the first certificate, and has no passphrase",
        ) from None
    if settings.client_ca:
        required = settings.client_certificates == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        try:
            context.load_verify_locations(settings.client_ca)
        except OSError:
            raise FailedPrecondition("the file of tls.client_ca holds no certificates in PEM") from None
    return context


def _stamp(path: str) -> bytes | None:
    try:
        return sha256(Path(path).read_bytes()).digest()
    except OSError:
        return None


def _no_password() -> str:
    """Asked for where a key has a passphrase; without it, the terminal would be asked."""
    raise ValueError("the key has a passphrase")


def _check_readable(path: str, setting: str) -> None:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"the file of {setting} cannot be read: {error.strerror}", field=setting) from None
