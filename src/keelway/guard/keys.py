"""API keys: how one is written, what is stored of it, and the ring that knows those that hold.

A key is ``kw_ID_SECRET``. ``ID`` is public and finds its row; what is stored is a hash of the whole key, keyed by a
secret that lives outside the registry: who reads the registry can neither use a key nor try out guesses.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from keelway.errors import FailedPrecondition, InvalidInput
from keelway.guard.faults import CredentialFault
from keelway.types import Principal, StoredKey

PREFIX: Final = "kw_"
LEAST_SECRET: Final = 32

_KEY: Final = re.compile(rb"kw_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_ACTIONS: Final = ("predict", "feedback")
_PLAIN: Final = ("admin", "metrics")
NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
#: What an unknown key is compared with, so that it takes as long as a known one.
_NOBODYS: Final = "0" * 64


class NewKey(NamedTuple):
    """``text`` is the key, to be shown once."""

    id: str
    text: str


def make_key() -> NewKey:
    """A key of 256 random bits."""
    public = secrets.token_hex(6)
    return NewKey(public, f"{PREFIX}{public}_{secrets.token_urlsafe(32)}")


def digest_of(key: bytes, secret: bytes) -> str:
    """What is stored of a key: HMAC-SHA256 in hexadecimal digits."""
    return hmac.digest(secret, key, sha256).hex()


def check_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    """``scopes`` in order, each once, as principals have them. ``InvalidInput`` for one that there is not."""
    for scope in scopes:
        if not is_scope(scope):
            raise InvalidInput(
                "that is no scope",
                field="scope",
                hint="predict:MODEL or predict:*, feedback:MODEL or feedback:*, metrics, admin",
            )
    if not scopes:
        raise InvalidInput("a key without a scope may do nothing", field="scope", hint="--scope predict:*")
    return tuple(sorted({folded(scope) for scope in scopes}))


def is_scope(text: str) -> bool:
    action, colon, model = text.partition(":")
    if not colon:
        return text in _PLAIN
    return action in _ACTIONS and (model == "*" or NAME.fullmatch(model) is not None)


def folded(scope: str) -> str:
    """``scope`` with its model's name as names are compared."""
    return scope.replace("_", "-")


def read_secret(text: str, file: str, setting: str) -> bytes:
    """The secret in ``text``, or in ``file``, without the end of its line. ``FailedPrecondition`` if there are both, or
    it is too short to be one, blanks around it not counted, or the file cannot be read."""
    if text and file:
        raise FailedPrecondition(f"{setting} and {setting}_file are both set", field=setting, hint="set one of them")
    try:
        secret = Path(file).read_bytes().rstrip(b"\r\n") if file else text.encode()
    except OSError as error:
        raise FailedPrecondition(
            f"the file of {setting}_file cannot be read: {error.strerror}", field=f"{setting}_file"
        ) from None
    if len(secret.strip()) < LEAST_SECRET:
        raise FailedPrecondition(
            f"the secret of {setting} has fewer than {LEAST_SECRET} bytes",
            field=setting,
            hint="make one: keelway keys secret",
        )
    return secret


class KeyRing:
    """The keys that hold, by their ids."""

    def __init__(self, secret: bytes, keys: Sequence[StoredKey]) -> None:
        self._secret = secret
        self._by_id = {key.id.encode(): (key, _principal(key)) for key in keys}

    def find(self, key: bytes, now: float) -> tuple[StoredKey, Principal]:
        """What ``key`` is, and who has it. ``now`` is the time since the Unix epoch, in seconds. ``CredentialFault`` if
        it does not hold."""
        written = _KEY.fullmatch(key)
        if written is None:
            raise CredentialFault("malformed")
        stored, principal = self._by_id.get(written[1], (None, None))
        matches = hmac.compare_digest(digest_of(key, self._secret), stored.digest if stored else _NOBODYS)
        if not matches or stored is None or principal is None:
            raise CredentialFault("key")
        if stored.expires_at is not None and now >= stored.expires_at:
            raise CredentialFault("expired")
        return stored, principal


def _principal(key: StoredKey) -> Principal:
    return Principal(f"key:{key.name}", frozenset(map(folded, key.scopes)), key.tenant)
