"""Credentials for the tests: a source of API keys that can be changed while a server runs, and an issuer of tokens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from keelway.access import AuthSettings
from keelway.errors import Unavailable
from keelway.guard.keys import digest_of, make_key
from keelway.types import StoredKey

SECRET = "the secret that keys are hashed with in tests"
KEYS = {"key_secret": SECRET}
ISSUER, AUDIENCE = "https://issuer.example", "keelway"
JWT = {"issuer": ISSUER, "audience": [AUDIENCE]}
HS = {**JWT, "algorithms": ["HS256"], "secret": "h" * 32}


class Keys:
    """A ``KeySource`` in memory."""

    def __init__(self) -> None:
        self._keys: dict[str, StoredKey] = {}
        self._turn = 0
        self.used: dict[str, float] = {}
        self.out_of_reach = False

    def add(self, name: str, *scopes: str, expires_at: float | None = None, tenant: str | None = None) -> str:
        """A new key; what its caller sends."""
        made = make_key()
        digest = digest_of(made.text.encode(), SECRET.encode())
        self._keys[made.id] = StoredKey(made.id, name, digest, scopes or ("predict:*",), tenant, expires_at)
        self._turn += 1
        return made.text

    def revoke(self, key: str) -> None:
        del self._keys[key.split("_")[1]]
        self._turn += 1

    def token(self) -> object:
        if self.out_of_reach:
            raise Unavailable("out of reach")
        return self._turn

    def keys(self) -> Sequence[StoredKey]:
        return tuple(self._keys.values())

    def note_used(self, used: Mapping[str, float]) -> None:
        self.used.update(used)


def auth(**more: Any) -> AuthSettings:
    return AuthSettings(**{**KEYS, **more})


@cache
def private(kind: str, name: str = "") -> Any:
    """A private key of ``RSA``, ``EC`` or ``OKP``; another for each ``name``."""
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1()) if kind == "EC" else ed25519.Ed25519PrivateKey.generate()


KINDS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}


def public_pem(kind: str, name: str = "") -> bytes:
    public = private(kind, name).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[no-any-return]


def private_pem(kind: str) -> bytes:
    return private(kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[no-any-return]


def claims(**changed: Any) -> dict[str, Any]:
    """Those of a good token; ``None`` leaves one out."""
    now = time.time()
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": now + 600, "scope": "openid predict:*"}
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


def token(algorithm: str = "HS256", key: Any = None, *, kid: str | None = None, name: str = "", **changed: Any) -> str:
    if key is None:
        key = HS["secret"] if algorithm.startswith("HS") else private(KINDS[algorithm], name)
    return jwt.encode(claims(**changed), key, algorithm, {"kid": kid} if kid is not None else None)


def jwk(algorithm: str, kid: str, name: str = "") -> dict[str, Any]:
    maker: Any = jwt.get_algorithm_by_name(algorithm)
    document = json.loads(maker.to_jwk(private(KINDS[algorithm], name).public_key()))
    return document | {"kid": kid, "use": "sig", "alg": algorithm}


class Published:
    """What an issuer publishes, and how often it was asked."""

    def __init__(self) -> None:
        self.document: Any = {"keys": []}
        self.asked = 0
        self.status = 200
        self.delay = 0.0
        self.url = ""


@contextmanager
def published() -> Iterator[Published]:
    """A server of keys on loopback."""
    told = Published()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked += 1
            time.sleep(told.delay)
            body = json.dumps(told.document).encode()
            self.send_response(told.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_port}/keys"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
