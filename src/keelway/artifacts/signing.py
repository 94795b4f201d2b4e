"""Ed25519 signatures over bytes: keys from PEM, signatures that say what kind of statement they are over, and the keys
that an operator trusts.

What is signed is the pre-authentication encoding of DSSE (https://github.com/secure-systems-lab/dsse), so that a
signature over one kind of statement is none over another that happens to have the same bytes. Nothing here knows what
a statement says. Whoever signs or verifies versions and histories calls it.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from keelway.access import SigningSettings
from keelway.errors import FailedPrecondition, InvalidInput, UntrustedArtifact

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

#: More than a PEM file of many keys has.
MAX_KEY_BYTES: Final = 1024 * 1024
SIGNATURE_BYTES: Final = 64

_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \1-----")
#: A public key on one line: what stands between the first and the last line of its PEM. All of Ed25519 begin so.
_ONE_LINE: Final = re.compile(r"MCowBQYDK2VwAyEA[0-9A-Za-z+/]{43}=", re.ASCII)
_NEW_KEY: Final = "make one: openssl genpkey -algorithm ed25519 -out signing-key.pem"
_PUBLIC_PART: Final = "take its public part: openssl pkey -in signing-key.pem -pubout -out signing-key.pub.pem"


class Signature(msgspec.Struct, frozen=True):
    """``key_id`` says which key made ``signature``, 64 bytes. It is a hint for finding the key, and proves nothing."""

    key_id: str
    signature: bytes


class SigningKey:
    """A private key, which is never shown and never stored."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id: Final = _key_id(key.public_key())

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key. Raises ``FailedPrecondition`` if the package ``cryptography`` is not installed."""
        _require_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes, source: str, *, passphrase: bytes | None = None) -> SigningKey:
        """The key in ``pem``, PKCS #8. ``source`` is what errors call it: a setting, an option.

        Raises ``FailedPrecondition`` if it holds no private key of Ed25519, or is encrypted and ``passphrase`` is not
        its own.
        """
        _require_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        encrypted = b"ENCRYPTED" in pem
        try:
            key = load_pem_private_key(pem, passphrase if encrypted else None)
        except TypeError:
            raise FailedPrecondition(
                f"the key of {source} has a passphrase", field=source, hint="set signing.passphrase"
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            if encrypted:
                raise FailedPrecondition(
                    f"the passphrase does not open the key of {source}", field=source, hint="set signing.passphrase"
                ) from None
            raise FailedPrecondition(f"{source} holds no private key in PEM", field=source, hint=_NEW_KEY) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise FailedPrecondition(f"the key of {source} is not of Ed25519", field=source, hint=_NEW_KEY)
        return cls(key)

    @classmethod
    def from_file(cls, path: Path, source: str, *, passphrase: bytes | None = None) -> SigningKey:
        """The key in the PEM file ``path``, as ``from_pem``, and ``FailedPrecondition`` if it cannot be read."""
        return cls.from_pem(_read(path, source), source, passphrase=passphrase)

    @classmethod
    def of(cls, settings: SigningSettings) -> SigningKey | None:
        """The key that ``settings`` name, ``None`` if they name none. ``FailedPrecondition`` if it is none, or there
        are two."""
        if settings.key and settings.key_file:
            raise FailedPrecondition(
                "signing.key and signing.key_file are both set", field="signing.key", hint="set one of them"
            )
        passphrase = settings.passphrase.encode() or None
        if settings.key:
            return cls.from_pem(settings.key.encode(), "signing.key", passphrase=passphrase)
        if settings.key_file:
            return cls.from_file(Path(settings.key_file), "signing.key_file", passphrase=passphrase)
        return None

    def sign(self, payload_type: str, payload: bytes) -> Signature:
        """The signature over ``payload`` as a statement of the kind ``payload_type``, a media type. Equal statements
        give equal signatures."""
        return Signature(self.key_id, self._key.sign(encoded(payload_type, payload)))

    def public_pem(self) -> str:
        """What those who verify need: the public key as PEM."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def private_pem(self, passphrase: bytes | None = None) -> str:
        """The private key as PEM, for the file of a new one; encrypted if there is a ``passphrase``."""
        from cryptography.hazmat.primitives.serialization import (
            BestAvailableEncryption,
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        secrecy = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secrecy).decode()


class TrustedKeys:
    """Public keys whose signatures count, by their ids."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def of(cls, given: Iterable[str], source: str) -> TrustedKeys:
        """Each of ``given`` is a PEM text, the one line between PEM's first and last, or the path of a file with one
        or more public keys. ``source`` is what errors call them.

        Raises ``FailedPrecondition`` for a file that cannot be read, and for anything but public keys of Ed25519.
        """
        _require_cryptography()
        keys: dict[str, Ed25519PublicKey] = {}
        for text in given:
            for key in _public_keys(_public_pem(text, source), source):
                keys[_key_id(key)] = key
        return cls(keys)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys, in the order given."""
        return tuple(self._keys)

    def verify(self, payload_type: str, payload: bytes, signature: Signature) -> None:
        """Raise ``UntrustedArtifact`` unless ``signature`` is that of a trusted key over ``payload`` as a statement of
        the kind ``payload_type``."""
        from cryptography.exceptions import InvalidSignature

        key = self._keys.get(signature.key_id)
        if key is None:
            raise UntrustedArtifact(f"the signature is of the key {shown(signature.key_id)}, which is not trusted")
        try:
            key.verify(signature.signature, encoded(payload_type, payload))
        except InvalidSignature:
            raise UntrustedArtifact(f"the signature of the key {signature.key_id} does not hold") from None


def encoded(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: DSSE's pre-authentication encoding. Different pairs never give the same bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def to_text(signature: bytes) -> str:
    """A signature as JSON and databases carry it: base64."""
    return b64encode(signature).decode()


def from_text(text: str) -> bytes:
    """The inverse of ``to_text``. ``InvalidInput`` for what is no signature, one cut short among them."""
    try:
        signature = b64decode(text, validate=True)
    except ValueError:
        signature = b""
    if len(signature) != SIGNATURE_BYTES:
        raise InvalidInput("this is no Ed25519 signature", field="signature", hint="base64 of 64 bytes")
    return signature


def shown(key_id: str) -> str:
    """A key id that came from outside, fit to stand in a message."""
    return key_id if re.fullmatch(r"ed25519:[0-9a-f]{32}", key_id) else "of no valid id"


def _key_id(key: Ed25519PublicKey) -> str:
    """``ed25519:`` and the first 128 bits, in hex, of the SHA-256 of the 32 bytes of the public key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return "ed25519:" + hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:32]


def _public_pem(text: str, source: str) -> bytes:
    if "-----BEGIN" in text:
        return text.encode()
    if _ONE_LINE.fullmatch(text.strip()):
        return f"-----BEGIN PUBLIC KEY-----\n{text.strip()}\n-----END PUBLIC KEY-----\n".encode()
    return _read(Path(text), source)


def _public_keys(pem: bytes, source: str) -> list[Ed25519PublicKey]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys: list[Ed25519PublicKey] = []
    for block in _PEM.finditer(pem):
        if b"PRIVATE" in block[1]:
            raise FailedPrecondition(
                f"{source} has a private key, which only signers should have", field=source, hint=_PUBLIC_PART
            )
        try:
            key: Any = load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise FailedPrecondition(f"{source} has a key that is not of Ed25519", field=source, hint=_PUBLIC_PART)
        keys.append(key)
    if not keys:
        raise FailedPrecondition(f"{source} holds no public key in PEM", field=source, hint=_PUBLIC_PART)
    return keys


def _read(path: Path, source: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no path"
        raise FailedPrecondition(f"the file of {source} cannot be read: {reason}", field=source) from None


def _require_cryptography() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401
    except ImportError as error:
        raise FailedPrecondition(
            "signing and verifying need the package cryptography", hint='pip install "keelway[signing]"'
        ) from error
