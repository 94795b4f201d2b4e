"""Who is asking: from what a request's head presents, and the connection that it came by, to a principal.

A transport reads a head once and keeps the ``Credentials`` with its verdict on that head, since the same few heads come
again and again. It asks for the principal each time, before a permit is taken or a byte of the body is read: what was
found is remembered in the credentials for as long as it holds, so that a known caller costs a comparison. When the keys
change, nothing that was remembered holds any more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, NoReturn, Protocol

from keelway.access import AuthSettings, JwtSettings
from keelway.clock import Clock
from keelway.errors import InvalidInput, RateLimited, Unauthenticated, Unavailable
from keelway.guard.certificates import Certificates
from keelway.guard.faults import AttemptLimit, CredentialFault
from keelway.guard.introductions import Introductions
from keelway.guard.keys import NAME, PREFIX, KeyRing, read_secret
from keelway.guard.tokens import KeyWanted, Tokens
from keelway.types import ANONYMOUS, AuditEvent, Peer, Principal, StoredKey

Headers = Iterable[tuple[bytes, bytes]]

#: Seconds for which a caller is known without being looked at again. The last use of a key is as coarse.
_REMEMBERED: Final = 60.0
_KEY_BYTES: Final = 256
_WORD: Final = re.compile(rb"[A-Za-z0-9._~+/=-]+")
_NEVER: Final = float("-inf")
METHODS: Final = ("key", "jwt", "mtls")
#: What each of them needs in the settings.
_NEEDS: Final = {"key": "auth.key_secret_file", "jwt": "the section jwt", "mtls": "auth.mtls"}


class Credentials:
    """What one head presents, and who that was found to be. Made by an ``Authenticator`` and good for it alone. It
    holds nothing of a connection but the identities that it was last proved with: connections may share it."""

    __slots__ = ("era", "fault", "identities", "key", "principal", "token", "until")

    def __init__(self, key: bytes = b"", token: bytes = b"", fault: str = "") -> None:
        self.key = key
        self.token = token
        #: Why it cannot hold, whatever it says.
        self.fault = fault
        self.principal = ANONYMOUS
        self.until = _NEVER
        self.era: object = None
        self.identities: tuple[str, ...] = ()


class NotYet(Exception):
    """Who asks is not known without waiting: ``Authenticator.later``."""


class Authenticator(Protocol):
    """Who finds out."""

    def present(self, headers: Headers) -> Credentials:
        """What a head with ``headers`` (their names in lower case) presents. Raises nothing: what is wrong with it is
        said when the principal is asked for."""
        ...

    def principal(self, credentials: Credentials, peer: Peer) -> Principal:
        """Who asks with ``credentials`` by a connection from ``peer``, now. Waits for nothing.

        Raises ``Unauthenticated`` for what proves nobody, ``RateLimited`` for an address that has failed too often,
        ``NotYet`` if it takes a wait."""
        ...

    async def later(self, credentials: Credentials, peer: Peer, seconds: float) -> Principal:
        """The same, waiting where that helps, ``seconds`` at most. Instead of ``NotYet``: ``DeadlineExceeded``, or
        ``Unavailable``, also if too many wait."""
        ...

    def denied(self, principal: Principal, peer: Peer, action: str, target: str) -> None:
        """Take note that ``principal`` is known, and asked for what it may not do."""
        ...


_NOTHING: Final = Credentials()


class OpenToAll:
    """Where no credentials are configured: everybody is ``ANONYMOUS``."""

    def present(self, headers: Headers) -> Credentials:
        return _NOTHING

    def principal(self, credentials: Credentials, peer: Peer) -> Principal:
        return ANONYMOUS

    async def later(self, credentials: Credentials, peer: Peer, seconds: float) -> Principal:
        return ANONYMOUS

    def denied(self, principal: Principal, peer: Peer, action: str, target: str) -> None:
        """Nobody is denied anything."""


class _Proof(NamedTuple):
    """Who was proved, and until when, in seconds since the Unix epoch."""

    principal: Principal
    expires_at: float = float("inf")


class Guarded:
    """Where credentials are configured: API keys, tokens, client certificates, any or all of them.

    ``failed`` is told the reason of each failure, ``audit`` each event that matters later. Raises ``KeelwayError`` if
    the settings do not fit together."""

    def __init__(
        self,
        auth: AuthSettings,
        jwt: JwtSettings,
        clock: Clock,
        failed: Callable[[str], None] = lambda reason: None,
        audit: Callable[[AuditEvent], None] = lambda event: None,
    ) -> None:
        self._clock = clock
        self._now = clock.monotonic
        self._failed = failed
        self._audit = audit
        self._limit = AttemptLimit(auth.max_failures, clock.monotonic)
        self._secret = read_secret(auth.key_secret, auth.key_secret_file, "auth.key_secret") if auth.keys else b""
        self._ring: KeyRing | None = KeyRing(self._secret, ()) if auth.keys else None
        self.tokens = Tokens(jwt, clock) if jwt.configured else None
        self._certificates = Certificates(auth.mtls) if auth.mtls else None
        self._introductions = Introductions()
        self._require = _checked(auth.require, self._has)
        self._both = {"key", "jwt"} <= set(self._require)
        #: When each key was last seen, in seconds since the Unix epoch, since ``take_used`` was called.
        self._used: dict[str, float] = {}
        # Whatever was remembered under another one does not hold any more.
        self._era = object()
        if self.tokens is not None and self.tokens.published is not None:
            self.tokens.published.changed = self._forget

    @property
    def methods(self) -> tuple[str, ...]:
        """By what callers may prove who they are."""
        return self._require or tuple(filter(self._has, METHODS))

    def renew_keys(self, keys: Sequence[StoredKey]) -> None:
        """From now on ``keys`` hold, and no other."""
        if self._ring is not None:
            self._ring = KeyRing(self._secret, keys)
            self._era = object()

    def take_used(self) -> dict[str, float]:
        """Which keys were used since this was last asked, and when, in seconds since the Unix epoch."""
        used, self._used = self._used, {}
        return used

    def present(self, headers: Headers) -> Credentials:
        keys, bearers, fault = [], [], ""
        for name, value in headers:
            if name == b"x-api-key":
                keys.append(value)
            elif name == b"authorization":
                scheme, _, rest = value.partition(b" ")
                bearers.append(rest.strip())
                fault = fault if scheme.lower() == b"bearer" else "malformed"
        if fault or not (keys or bearers):
            return Credentials(fault=fault)
        if len(keys) > 1 or len(bearers) > 1:
            return Credentials(fault="conflict")
        if not all(map(_WORD.fullmatch, (*keys, *bearers))):
            return Credentials(fault="malformed")
        key, token = keys[0] if keys else b"", bearers[0] if bearers else b""
        if token.startswith(PREFIX.encode()):
            fault = "conflict" if key and key != token else ""
            key, token = token, b""
        elif key and token and not self._both:
            fault = "conflict"
        return Credentials(key, token, "malformed" if len(key) > _KEY_BYTES else fault)

    def principal(self, credentials: Credentials, peer: Peer) -> Principal:
        if (
            credentials.era is self._era
            and self._now() < credentials.until
            and (self._certificates is None or credentials.identities == peer.identities)
        ):
            return credentials.principal
        return self._find(credentials, peer)

    async def later(self, credentials: Credentials, peer: Peer, seconds: float) -> Principal:
        try:
            return self.principal(credentials, peer)
        except NotYet:
            if self.tokens is not None and self.tokens.published is not None:
                await self._introductions.wait(self.tokens.published.renewed, seconds)
        try:
            return self.principal(credentials, peer)
        except NotYet:
            self._failed("signing_keys")
            raise Unavailable("the keys of the tokens' issuer cannot be had now", retry_after=1.0) from None

    def denied(self, principal: Principal, peer: Peer, action: str, target: str) -> None:
        self._failed("scope")
        if not NAME.fullmatch(target):  # whatever the caller wrote there
            target = ""
        self._audit(
            AuditEvent(self._clock.now(), action, "refused", principal.name, peer.address, target, reason="scope")
        )

    def _find(self, credentials: Credentials, peer: Peer) -> Principal:
        shown = bool(credentials.key or credentials.token or credentials.fault)
        wait = self._limit.wait(peer.address) if shown else 0.0
        try:
            proof = self._proved(credentials, peer, limited=wait > 0)
        except CredentialFault as fault:
            if wait:
                self._failed("limited")
                raise RateLimited("too many attempts with credentials that do not hold", retry_after=wait) from None
            self._refuse(fault.reason, peer, shown)
        except KeyWanted:
            raise NotYet from None
        now = self._clock.now()
        credentials.principal = proof.principal
        credentials.until = self._now() + min(_REMEMBERED, proof.expires_at - now)
        credentials.identities = peer.identities
        credentials.era = self._era
        return proof.principal

    def _proved(self, credentials: Credentials, peer: Peer, *, limited: bool) -> _Proof:
        """``limited``: the address has failed too often. What costs little is looked at all the same: the failures of a
        neighbour must not shut those out whose credentials hold."""
        if credentials.fault:
            raise CredentialFault(credentials.fault)
        proofs: dict[str, _Proof] = {}
        if credentials.key:
            proofs["key"] = self._by_key(credentials.key)
        if credentials.token:
            proofs["jwt"] = self._by_token(credentials.token, limited=limited)
        if self._certificates is not None and peer.identities:
            known = self._certificates.principal(peer.identities)
            if known is not None:
                proofs["mtls"] = _Proof(known)
        if any(method not in proofs for method in self._require):
            raise CredentialFault("missing")
        first = next((method for method in self._require or METHODS if method in proofs), None)
        if first is None:
            raise CredentialFault("missing")
        return _Proof(proofs[first].principal, min(proof.expires_at for proof in proofs.values()))

    def _by_key(self, key: bytes) -> _Proof:
        if self._ring is None:
            raise CredentialFault("key")
        now = self._clock.now()
        stored, principal = self._ring.find(key, now)
        self._used[stored.id] = now
        return _Proof(principal, float("inf") if stored.expires_at is None else stored.expires_at)

    def _by_token(self, token: bytes, *, limited: bool) -> _Proof:
        if self.tokens is None:
            raise CredentialFault("malformed")
        return _Proof(*self.tokens.find(token, verify=not limited))

    def _refuse(self, reason: str, peer: Peer, shown: bool) -> NoReturn:
        """Nobody is told which part of their credentials does not hold."""
        if shown and reason != "missing":
            self._limit.failed(peer.address)
        self._failed(reason)
        self._audit(AuditEvent(self._clock.now(), "authenticate", "failed", "", peer.address, reason=reason))
        error = Unauthenticated(
            "this server asks for credentials" if reason == "missing" else "the credentials do not hold"
        )
        error.presented = shown and reason != "missing"
        raise error from None

    def _has(self, method: str) -> bool:
        return {"key": self._ring, "jwt": self.tokens, "mtls": self._certificates}[method] is not None

    def _forget(self) -> None:
        if self.tokens is not None:
            self.tokens.forget()
        self._era = object()


def _checked(methods: Sequence[str], configured: Callable[[str], bool]) -> tuple[str, ...]:
    """``InvalidInput`` for a method that there is not, or that is not configured: nobody would be let in."""
    for method in methods:
        if method not in METHODS:
            raise InvalidInput(
                "auth.require names what there is not", field="auth.require", hint=f"write {', '.join(METHODS)}"
            )
        if not configured(method):
            raise InvalidInput(
                f"auth.require asks for {method}, and {_NEEDS[method]} is not set",
                field="auth.require",
                hint="set it, or leave that out of auth.require",
            )
    return tuple(methods)
