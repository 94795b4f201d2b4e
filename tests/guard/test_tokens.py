"""Tokens: what is accepted is what the settings say, and nothing that a token says of itself. # U1"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.credentials import (
    AUDIENCE,
    HS,
    ISSUER,
    JWT,
    Published,
    claims,
    jwk,
    private_pem,
    public_pem,
    token,
)

from keelway.access import AuthSettings, JwtSettings
from keelway.clock import SystemClock
from keelway.errors import FailedPrecondition, InvalidInput, KeelwayError, Unauthenticated, Unavailable
from keelway.guard.auth import Guarded, NotYet
from keelway.guard.faults import CredentialFault
from keelway.guard.jwks import PublishedKeys, check_url, parse_keys
from keelway.guard.tokens import Tokens
from keelway.testing import FakeClock
from keelway.types import Peer, Principal

PEER = Peer("192.0.2.1")


def tokens(clock: Any = None, **settings: Any) -> Tokens:
    return Tokens(JwtSettings(**{**HS, **settings}), clock or SystemClock())


def fault(text: str, **settings: Any) -> str:
    with pytest.raises(CredentialFault) as refused:
        tokens(**settings).find(text.encode())
    return refused.value.reason


def signed_by_hand(header: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(body).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_a_good_token_is_its_subject_with_its_scopes() -> None:
    assert tokens().find(token().encode()).principal == Principal("jwt:ada", frozenset({"predict:*"}))
    found = tokens(scopes_claim="roles", scopes_prefix="kw:", tenant_claim="org")
    text = token(roles=["kw:predict:lead_scoring", "admin", "kw:nonsense", 7], org="acme")
    assert found.find(text.encode()).principal == Principal("jwt:ada", frozenset({"predict:lead-scoring"}), "acme")
    assert tokens().find(token(scope={"admin": 1}).encode()).principal.scopes == frozenset()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"exp": time.time() - 60}, "expired"),
        ({"exp": "soon"}, "malformed"),
        # Far ahead: these are reckoned when the tests are collected, and may be run much later.
        ({"nbf": time.time() + 86_400}, "claims"),
        ({"iat": time.time() + 86_400}, "claims"),
        ({"aud": "other"}, "claims"),
        ({"aud": [AUDIENCE + "x"]}, "claims"),
        ({"iss": "https://other.example"}, "claims"),
        ({"sub": ""}, "claims"),
        ({"sub": "a" * 300}, "claims"),
        ({"sub": "a\nb"}, "claims"),
        *(({claim: None}, "claims") for claim in ("exp", "aud", "iss", "sub")),
    ],
)
def test_claims_that_are_missing_or_wrong(changed: dict[str, Any], reason: str) -> None:
    assert fault(token(**changed)) == reason


def test_a_token_of_a_tenant_that_is_missing_is_refused() -> None:
    assert fault(token(), tenant_claim="org") == "claims"
    assert fault(token(org=["a"]), tenant_claim="org") == "claims"


def test_clocks_may_differ_by_the_leeway_and_no_more() -> None:
    assert tokens(leeway=30).find(token(exp=time.time() - 20).encode())
    assert fault(token(exp=time.time() - 40), leeway=30) == "expired"


def test_the_algorithm_none_is_never_taken() -> None:
    for name in ("none", "None", "NONE", "nOnE", "", None, 1, ["HS256"]):
        assert fault(signed_by_hand({"alg": name}, claims())) in ("signature", "malformed")
    assert fault(jwt.encode(claims(), None, "none")) == "signature"
    with pytest.raises(InvalidInput):
        tokens(algorithms=["none", "HS256"])


def test_an_algorithm_beyond_the_list_is_not_taken() -> None:
    assert fault(token("HS512", "h" * 64)) == "signature"
    assert fault(token("RS256")) == "signature"


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_a_public_key_of_a_file_verifies_its_kind(tmp_path: Path, algorithm: str) -> None:
    kind = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}[algorithm]
    file = tmp_path / "key.pem"
    file.write_bytes(public_pem(kind))
    settings = {"secret": "", "key_file": str(file), "algorithms": [algorithm]}
    assert tokens(**settings).find(token(algorithm).encode()).principal.name == "jwt:ada"
    assert fault(token(algorithm, name="another"), **settings) == "signature"
    assert fault(token(algorithm)[:-4] + "AAAA", **settings) == "signature"


def hand_signed_with_public_key(pem: bytes) -> str:
    head = signed_by_hand({"alg": "HS256"}, claims()).rpartition(".")[0]
    digest = hmac.digest(pem, head.encode(), "sha256")
    return f"{head}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def test_a_public_key_is_never_taken_for_a_secret(tmp_path: Path) -> None:
    pem = public_pem("RSA")
    file = tmp_path / "key.pem"
    file.write_bytes(pem)
    confused = hand_signed_with_public_key(pem)
    assert fault(confused, secret="", key_file=str(file), algorithms=["RS256"]) == "signature"
    # Where both kinds are configured, each has its own key.
    assert fault(confused, key_file=str(file), algorithms=["RS256", "HS256"]) == "signature"
    with pytest.raises(InvalidInput, match=r"jwt\.secret"):
        tokens(secret=pem.decode())


def test_a_key_of_another_kind_does_not_verify(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(public_pem("EC"))
    assert fault(token("RS256"), secret="", key_file=str(file), algorithms=["RS256", "ES256"]) == "signature"


def test_what_a_header_points_to_is_not_looked_at() -> None:
    for extra in ({"jku": "http://127.0.0.1:1/keys"}, {"jwk": jwk("RS256", "x")}, {"x5u": "http://127.0.0.1:1"}):
        assert fault(jwt.encode(claims(), "x" * 32, "HS256", extra)) == "signature"
    for extra in ({"crit": ["exp"]}, {"b64": False}):
        assert fault(signed_by_hand({"alg": "HS256", **extra}, claims(), b"x")) in ("signature", "malformed")


@pytest.mark.parametrize("text", ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "é.b.c", "." * 5000, "{}.{}.{}"])
def test_what_is_no_token_is_malformed(text: str) -> None:
    assert fault(text) == "malformed"


def test_a_token_beyond_the_cap_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tokens()
    monkeypatch.setattr(found._jwt, "get_unverified_header", lambda _: pytest.fail("it was looked at"))
    with pytest.raises(CredentialFault, match="malformed"):
        found.find(token(pad="a" * 1_000_000).encode())


def test_a_token_is_verified_once_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(time.time())
    found, text, seen = tokens(clock), token(exp=time.time() + 5).encode(), []
    decode = jwt.decode
    monkeypatch.setattr(found._jwt, "decode", lambda *args, **more: seen.append(1) or decode(*args, **more))
    assert found.find(text) is found.find(text)
    assert len(seen) == 1
    clock.advance(20)
    with pytest.raises(CredentialFault, match="expired"):
        found.find(text)
    for number in range(5000):
        found._known[str(number).encode()] = found._known.get(b"", None)  # type: ignore[assignment]
    found.find(token(sub="eve").encode())
    assert len(found._known) < 5010


@pytest.mark.parametrize(
    "settings",
    [
        {"issuer": ""},
        {"audience": []},
        {"algorithms": []},
        {"algorithms": ["RS256"]},
        {"secret": "", "jwks_url": "https://issuer.example/keys"},
        {"secret": "short"},
        {"secret": "h" * 31},
        {"secret_file": "elsewhere"},
        {"secret": "", "algorithms": ["RS256"], "key_file": "/nowhere"},
        {"secret": "", "algorithms": ["RS256"], "jwks_url": "http://issuer.example/keys"},
        {"secret": "", "algorithms": ["RS256"], "jwks_url": "file:///etc/passwd"},
        {"secret": "", "algorithms": ["RS256"], "jwks_url": "https:///keys"},
    ],
)
def test_settings_that_would_let_in_nobody_or_too_many_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises((InvalidInput, FailedPrecondition)) as refused:
        tokens(**settings)
    assert "h" * 31 not in str(refused.value)


def test_a_private_key_or_a_weak_one_is_no_public_key(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    file = tmp_path / "key.pem"
    weak = rsa.generate_private_key(65537, 1024).public_key()
    for pem in (private_pem("RSA"), weak.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), b"x"):
        file.write_bytes(pem)
        with pytest.raises(FailedPrecondition):
            tokens(secret="", key_file=str(file), algorithms=["RS256"])


# Published keys


@pytest.mark.parametrize("url", ["https://a.example/k", "http://127.0.0.1:1/k", "http://[::1]/k", "http://localhost/k"])
def test_keys_are_fetched_from_where_nobody_can_change_them(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": "aGVsbG8", "kid": "1"},
        {"kty": "RSA", "kid": "1"},
        jwk("RS256", "1") | {"use": "enc"},
        jwk("RS256", "1") | {"key_ops": ["encrypt"]},
        jwk("RS256", "1") | {"d": "AQAB"},
        "no key",
        None,
    ],
)
def test_what_is_no_public_key_for_signatures_is_left_out(entry: Any) -> None:
    assert parse_keys({"keys": [entry]}) == {}
    assert parse_keys({"keys": [entry, jwk("RS256", "2")]}).keys() == {"2"}


@pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, "keys"])
def test_what_is_no_key_set_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="no key set"):
        parse_keys(document)


def guarded(issuer: Published, clock: Any = None, **settings: Any) -> Guarded:
    given = {**JWT, "algorithms": ["RS256"], "jwks_url": issuer.url, "jwks_pause": 0.2, **settings}
    return Guarded(AuthSettings(max_failures=10**6), JwtSettings(**given), clock or SystemClock())


def shown(guard: Guarded, text: str) -> Any:
    return guard.present([(b"authorization", f"Bearer {text}".encode())])


async def following(guard: Guarded) -> asyncio.Task[None]:
    assert guard.tokens is not None
    assert guard.tokens.published is not None
    task = asyncio.create_task(guard.tokens.published.follow())
    await asyncio.sleep(0)
    return task


async def outcome(guard: Guarded, text: str) -> str:
    try:
        return (await guard.later(shown(guard, text), PEER, 5.0)).name
    except KeelwayError as error:
        return type(error).__name__


def test_keys_that_rotate_are_fetched_when_a_token_names_one(issuer: Published) -> None:
    async def scene() -> None:
        guard = guarded(issuer)
        task = await following(guard)
        old = token("RS256", kid="first")
        remembered = shown(guard, old)
        assert (await guard.later(remembered, PEER, 5.0)).name == "jwt:ada"
        issuer.document = {"keys": [jwk("RS256", "second", "other")]}
        await asyncio.sleep(0.25)
        assert await outcome(guard, token("RS256", kid="second", name="other")) == "jwt:ada"
        assert issuer.asked == 2
        # The key that went is no key any more, of a token that was verified by it neither.
        assert await outcome(guard, old) == "Unauthenticated"
        with pytest.raises(Unauthenticated):
            await guard.later(remembered, PEER, 5.0)
        task.cancel()

    asyncio.run(scene())


def test_a_storm_of_unknown_keys_asks_the_issuer_once(issuer: Published) -> None:
    async def scene() -> None:
        guard = guarded(issuer, jwks_pause=30.0)
        task = await following(guard)
        assert await outcome(guard, token("RS256", kid="first")) == "jwt:ada"
        assert guard.tokens is not None
        assert guard.tokens.published is not None
        guard.tokens.published._tried_at -= 60
        issuer.delay = 0.1
        names = [outcome(guard, token("RS256", kid=f"unknown-{number}")) for number in range(200)]
        assert set(await asyncio.gather(*names)) == {"Unauthenticated"}
        assert await outcome(guard, token("RS256", kid="unknown")) == "Unauthenticated"
        assert issuer.asked == 2
        task.cancel()

    asyncio.run(scene())


def test_an_issuer_that_is_away_leaves_its_keys_standing(issuer: Published) -> None:
    async def scene() -> None:
        guard = guarded(issuer, jwks_ttl=0.05)
        task = await following(guard)
        assert await outcome(guard, token("RS256", kid="first")) == "jwt:ada"
        issuer.status = 500
        await asyncio.sleep(0.3)
        assert issuer.asked > 2
        assert await outcome(guard, token("RS256", kid="first", sub="eve")) == "jwt:eve"
        task.cancel()

    asyncio.run(scene())


def test_an_issuer_that_answers_in_drops_is_given_up() -> None:
    listener, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip() -> None:
        near, _ = listener.accept()
        with near, contextlib.suppress(OSError):
            near.recv(65536)
            near.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not ended.wait(0.02):
                near.sendall(b" ")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/keys"
        published, began = PublishedKeys(JwtSettings(jwks_url=url, jwks_timeout=0.3), SystemClock()), time.monotonic()
        with pytest.raises(TimeoutError):
            published._download()
        assert time.monotonic() - began < 5
    finally:
        ended.set()
        thread.join()
        listener.close()


def test_nobody_waits_for_an_issuer_longer_than_its_time_and_none_is_asked_twice_at_once() -> None:
    asked, answers = [], threading.Event()

    def fetch() -> dict[str, Any]:
        asked.append(1)
        answers.wait(30)
        return {}

    async def scene() -> None:
        settings = JwtSettings(jwks_url="https://issuer.example/keys", jwks_timeout=0.1, jwks_pause=0.1)
        published = PublishedKeys(settings, SystemClock(), fetch=fetch)
        task = asyncio.create_task(published.follow())
        await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.wait_for(published.renewed(), 10)
            await asyncio.sleep(0.15)
        assert (len(asked), published.fetched) == (1, False)
        answers.set()
        for _ in range(100):
            if published.fetched:
                break
            await asyncio.sleep(0.05)
        assert published.fetched
        task.cancel()

    try:
        asyncio.run(scene())
    finally:
        answers.set()


def test_before_there_are_keys_callers_wait_and_then_hear_that_they_may_try_again(issuer: Published) -> None:
    async def scene() -> None:
        issuer.status = 500
        guard = guarded(issuer)
        with pytest.raises(NotYet):
            guard.principal(shown(guard, token("RS256", kid="first")), PEER)
        with pytest.raises(Unavailable):
            await guard.later(shown(guard, token("RS256", kid="first")), PEER, 5.0)
        task = await following(guard)
        assert await outcome(guard, token("RS256", kid="first")) in ("Unauthenticated", "Unavailable")
        issuer.status = 200
        await asyncio.sleep(0.3)
        assert await outcome(guard, token("RS256", kid="first")) == "jwt:ada"
        task.cancel()

    asyncio.run(scene())


def test_a_key_verifies_only_what_it_is_for(issuer: Published) -> None:
    async def scene() -> None:
        issuer.document = {"keys": [jwk("RS256", "rsa"), jwk("ES256", "ec")]}
        guard = guarded(issuer, algorithms=["RS256", "PS256", "ES256"])
        task = await following(guard)
        assert await outcome(guard, token("RS256", kid="rsa")) == "jwt:ada"
        assert await outcome(guard, token("ES256", kid="ec")) == "jwt:ada"
        assert await outcome(guard, token("PS256", kid="rsa")) == "Unauthenticated"
        assert await outcome(guard, token("RS256", kid="ec")) == "Unauthenticated"
        assert await outcome(guard, token("RS256")) == "Unauthenticated"
        confused = hand_signed_with_public_key(public_pem("RSA"))
        assert await outcome(guard, confused) == "Unauthenticated"
        task.cancel()

    asyncio.run(scene())


def test_a_refusal_tells_nobody_why() -> None:
    guard = Guarded(AuthSettings(), JwtSettings(**HS), SystemClock())
    words = set()
    for text in (token(exp=1), token(aud="x"), token(key="x" * 32), "a.b.c", "nonsense"):
        with pytest.raises(Unauthenticated) as refused:
            guard.principal(shown(guard, text), PEER)
        words.add(refused.value.message)
    assert words == {"the credentials do not hold"}
    assert ISSUER not in words.pop()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just(10**400)
    | st.just(time.time() + 60),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "sub", "scope", "org", "jti"])


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_whatever_a_signed_token_claims_is_let_in_or_a_fault(changed: dict[str, Any]) -> None:
    body = {**claims(org="acme"), **changed}
    head = signed_by_hand({"alg": "HS256"}, body).rpartition(".")[0]
    digest = hmac.digest(HS["secret"].encode(), head.encode(), "sha256")
    text = f"{head}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
    with contextlib.suppress(CredentialFault):
        found = tokens(tenant_claim="org", max_bytes=10**6).find(text.encode())
        assert found.principal.name.startswith("jwt:")
        assert body["iss"] == ISSUER


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "cty", "crit", "x5c"]), VALUES), st.binary(max_size=40))
def test_whatever_a_header_holds_is_a_fault(header: dict[str, Any], signature: bytes) -> None:
    assert fault(signed_by_hand(header, claims(), signature), max_bytes=10**6) in ("malformed", "signature")


@given(st.binary(max_size=200))
def test_no_other_bytes_are_a_token(text: bytes) -> None:
    with pytest.raises(CredentialFault):
        SHARED.find(text)


SHARED = Tokens(JwtSettings(**HS), SystemClock())
