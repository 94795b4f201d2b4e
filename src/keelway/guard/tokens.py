"""JSON Web Tokens: which signatures are accepted, by which keys, and what a token's claims are worth.

The algorithm is chosen by the settings, and the key by the algorithm: a token only says which of them it means. A token
that was verified is remembered until it expires, by its digest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

from keelway.access import JwtSettings
from keelway.clock import Clock
from keelway.errors import FailedPrecondition, InvalidInput
from keelway.guard.faults import CredentialFault
from keelway.guard.jwks import LEAST_RSA_BITS, PublishedKeys
from keelway.guard.keys import folded, is_scope, read_secret
from keelway.types import Principal

_SYMMETRIC: Final = frozenset({"HS256", "HS384", "HS512"})
#: What kind of key each signature takes.
_KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "OKP",
}
_REMEMBERED: Final = 4096
_LONGEST_NAME: Final = 256


class Verified(NamedTuple):
    """Who has a token, and until when, in seconds since the Unix epoch."""

    principal: Principal
    expires_at: float


class KeyWanted(Exception):
    """The issuer has to be asked for the key of a token first: ``Tokens.published.renewed``."""


class Tokens:
    """Raises ``FailedPrecondition`` or ``InvalidInput`` if the settings do not fit together, and if PyJWT is not
    installed."""

    def __init__(
        self, settings: JwtSettings, clock: Clock, fetch: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        try:
            import jwt
        except ImportError as error:
            raise FailedPrecondition("tokens need PyJWT", hint='pip install "keelway[jwt]"') from error
        check_settings(settings)
        self._jwt = jwt
        self._settings = settings
        self._clock = clock
        self._algorithms = frozenset(settings.algorithms)
        self._secret = b""
        if settings.secret or settings.secret_file:
            self._secret = read_secret(settings.secret, settings.secret_file, "jwt.secret")
            if b"-----BEGIN" in self._secret:
                raise InvalidInput("jwt.secret is a key of another kind", field="jwt.secret", hint="set jwt.key_file")
        self._key = _public_key(settings.key_file) if settings.key_file else None
        self.published = PublishedKeys(settings, clock, self.forget, fetch) if settings.jwks_url else None
        self._known: OrderedDict[bytes, Verified] = OrderedDict()

    def forget(self) -> None:
        """Verify every token anew: the issuer's keys have changed."""
        self._known.clear()

    def find(self, token: bytes, *, verify: bool = True) -> Verified:
        """Who has ``token``. ``CredentialFault`` if it does not hold, ``KeyWanted`` if that is not known yet. Without
        ``verify`` one that was not seen before does not hold."""
        if len(token) > self._settings.max_bytes or token.count(b".") != 2 or not token.isascii():
            raise CredentialFault("malformed")
        digest = blake2b(token, digest_size=32).digest()
        known = self._known.get(digest)
        if known is not None:
            if known.expires_at <= self._clock.now():
                del self._known[digest]
                raise CredentialFault("expired")
            return known
        if not verify:
            raise CredentialFault("limited")
        verified = self._verify(token.decode("ascii"))
        self._known[digest] = verified
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return verified

    def _verify(self, token: str) -> Verified:
        jwt, settings = self._jwt, self._settings
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise CredentialFault("malformed") from None
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms or "crit" in header or "b64" in header:
            raise CredentialFault("signature")
        try:
            claims = jwt.decode(
                token,
                self._key_of(algorithm, header),
                algorithms=[algorithm],
                audience=list(settings.audience),
                issuer=settings.issuer,
                leeway=settings.leeway,
                options={"require": ["exp", "aud", "iss", "sub"]},
            )
            expires_at = float(claims["exp"]) + settings.leeway
        except jwt.ExpiredSignatureError:
            raise CredentialFault("expired") from None
        except (jwt.InvalidSignatureError, jwt.InvalidKeyError, jwt.InvalidAlgorithmError, TypeError):
            raise CredentialFault("signature") from None
        except (jwt.DecodeError, RecursionError):
            raise CredentialFault("malformed") from None
        except (jwt.PyJWTError, ValueError, OverflowError):
            raise CredentialFault("claims") from None
        return Verified(self._principal(claims), expires_at)

    def _key_of(self, algorithm: str, header: Mapping[str, Any]) -> Any:
        if algorithm in _SYMMETRIC:
            return self._secret
        if self._key is not None:
            return self._key
        if self.published is None:
            raise CredentialFault("signature")
        keys, wanted = self.published.by_id, header.get("kid", "")
        found = keys.get(wanted) if isinstance(wanted, str) else None
        if found is None and wanted == "" and len(keys) == 1:
            found = next(iter(keys.values()))
        if found is None:
            if self.published.may_help:
                raise KeyWanted
            raise CredentialFault("signature" if self.published.fetched else "signing_keys")
        if found.document["kty"] != _KINDS[algorithm] or found.algorithm not in ("", algorithm):
            raise CredentialFault("signature")
        return found.key

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        settings, name = self._settings, claims["sub"]
        if not isinstance(name, str) or not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise CredentialFault("claims")
        tenant = None
        if settings.tenant_claim:
            tenant = claims.get(settings.tenant_claim)
            if not isinstance(tenant, str) or not tenant or len(tenant) > _LONGEST_NAME:
                raise CredentialFault("claims")
        given = claims.get(settings.scopes_claim, ())
        words = given.split() if isinstance(given, str) else given if isinstance(given, list) else ()
        prefix = settings.scopes_prefix
        scopes = [word[len(prefix) :] for word in words if isinstance(word, str) and word.startswith(prefix)]
        return Principal(f"jwt:{name}", frozenset(folded(scope) for scope in scopes if is_scope(scope)), tenant)


def check_settings(settings: JwtSettings) -> None:
    """``InvalidInput`` for settings that would let nobody in, or too many."""
    unknown = set(settings.algorithms) - _SYMMETRIC - _KINDS.keys()
    if unknown or not settings.algorithms:
        raise InvalidInput(
            "jwt.algorithms has one that is not accepted, or none", field="jwt.algorithms", hint='such as ["RS256"]'
        )
    if not settings.issuer or not settings.audience:
        missing = "jwt.audience" if settings.issuer else "jwt.issuer"
        raise InvalidInput(
            f"tokens need {missing}, which is not set", field=missing, hint="set jwt.issuer and jwt.audience"
        )
    if not (settings.secret or settings.secret_file or settings.key_file or settings.jwks_url):
        raise InvalidInput(
            "tokens need a key that they are verified by",
            field="jwt.jwks_url",
            hint="set jwt.jwks_url, jwt.key_file or jwt.secret_file",
        )
    if settings.key_file and settings.jwks_url:
        raise InvalidInput("jwt.key_file and jwt.jwks_url are both set", field="jwt.key_file", hint="set one of them")
    symmetric = bool(_SYMMETRIC & set(settings.algorithms))
    if symmetric != bool(settings.secret or settings.secret_file):
        raise InvalidInput(
            "jwt.secret goes with HS256, HS384 or HS512 in jwt.algorithms, and they with it", field="jwt.algorithms"
        )


def _public_key(file: str) -> Any:
    """The public key in a PEM file. ``FailedPrecondition`` if there is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(Path(file).read_bytes())
    except OSError as error:
        raise FailedPrecondition(
            f"the file of jwt.key_file cannot be read: {error.strerror}", field="jwt.key_file"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise FailedPrecondition(
            "the file of jwt.key_file holds no public key", field="jwt.key_file", hint="PEM, beginning BEGIN PUBLIC KEY"
        ) from None
    if isinstance(key, RSAPublicKey) and key.key_size < LEAST_RSA_BITS:
        raise FailedPrecondition(f"the key of jwt.key_file has fewer than {LEAST_RSA_BITS} bits", field="jwt.key_file")
    return key
