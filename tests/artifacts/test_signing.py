"""Signatures over bytes: only those of trusted keys count, and each for its own kind of statement. # S4"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from keelway.artifacts.signing import Signature, SigningKey, TrustedKeys, encoded, from_text, to_text
from keelway.errors import FailedPrecondition, InvalidInput, UntrustedArtifact

KIND = "application/vnd.keelway.test+json"
PAYLOAD = b'{"name":"lead_scoring"}'


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture(scope="module")
def trusted(key: SigningKey) -> TrustedKeys:
    return TrustedKeys.of([key.public_pem()], "signing.trusted_keys")


def elliptic_pem(*, private: bool) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    if private:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_what_a_trusted_key_signed_is_verified(key: SigningKey, trusted: TrustedKeys) -> None:
    trusted.verify(KIND, PAYLOAD, key.sign(KIND, PAYLOAD))
    assert trusted.ids == (key.key_id,)


def test_what_is_signed_is_dsse_s_encoding(key: SigningKey) -> None:
    # The example of the specification: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
    assert encoded("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    public = load_pem_public_key(key.public_pem().encode())
    assert isinstance(public, ed25519.Ed25519PublicKey)
    made = key.sign(KIND, PAYLOAD)
    public.verify(made.signature, b"DSSEv1 33 " + KIND.encode() + b" 23 " + PAYLOAD)
    with pytest.raises(InvalidSignature):
        public.verify(made.signature, PAYLOAD)


@given(st.text(max_size=8), st.binary(max_size=8), st.text(max_size=8), st.binary(max_size=8))
def test_different_statements_are_never_signed_as_the_same_bytes(a: str, b: bytes, c: str, d: bytes) -> None:
    assert (encoded(a, b) == encoded(c, d)) == ((a, b) == (c, d))


def test_a_signature_over_one_kind_of_statement_is_none_over_another(key: SigningKey, trusted: TrustedKeys) -> None:
    with pytest.raises(UntrustedArtifact, match="does not hold"):
        trusted.verify(KIND + "x", PAYLOAD, key.sign(KIND, PAYLOAD))


def test_changed_bytes_and_changed_or_cut_signatures_do_not_hold(key: SigningKey, trusted: TrustedKeys) -> None:
    made = key.sign(KIND, PAYLOAD)
    with pytest.raises(UntrustedArtifact, match="does not hold"):
        trusted.verify(KIND, PAYLOAD + b" ", made)
    for wrong in (made.signature[:-1], b"", made.signature + b"\0", bytes(64), made.signature[::-1]):
        with pytest.raises(UntrustedArtifact, match="does not hold"):
            trusted.verify(KIND, PAYLOAD, Signature(made.key_id, wrong))


def test_a_key_that_is_not_trusted_does_not_count_whatever_it_says_it_is(key: SigningKey, trusted: TrustedKeys) -> None:
    made = SigningKey.generate().sign(KIND, PAYLOAD)
    with pytest.raises(UntrustedArtifact, match=f"of the key {made.key_id}, which is not trusted"):
        trusted.verify(KIND, PAYLOAD, made)
    with pytest.raises(UntrustedArtifact, match="does not hold"):
        trusted.verify(KIND, PAYLOAD, Signature(key.key_id, made.signature))
    with pytest.raises(UntrustedArtifact, match="not trusted") as refused:
        trusted.verify(KIND, PAYLOAD, Signature("\x1b[31m anything", made.signature))
    assert "\x1b" not in refused.value.message


def test_keys_come_from_files_and_from_text(key: SigningKey, tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    private.write_text(key.private_pem())
    other = SigningKey.generate()
    public.write_text("two keys\n" + key.public_pem() + "\n" + other.public_pem())
    assert SigningKey.from_file(private, "signing.key_file").key_id == key.key_id
    assert SigningKey.from_pem(key.private_pem().encode(), "signing.key").key_id == key.key_id
    assert TrustedKeys.of([str(public)], "signing.trusted_keys").ids == (key.key_id, other.key_id)
    one_line = key.public_pem().splitlines()[1]
    assert TrustedKeys.of([one_line, other.public_pem()], "signing.trusted_keys").ids == (key.key_id, other.key_id)


def test_keys_that_openssl_makes_are_read(tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, timeout=30)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, timeout=30)
    key = SigningKey.from_file(private, "signing.key_file")
    TrustedKeys.of([str(public)], "signing.trusted_keys").verify(KIND, PAYLOAD, key.sign(KIND, PAYLOAD))


def test_a_key_with_a_passphrase_opens_with_it_alone(key: SigningKey) -> None:
    pem = key.private_pem(b"correct horse").encode()
    assert SigningKey.from_pem(pem, "signing.key", passphrase=b"correct horse").key_id == key.key_id
    with pytest.raises(FailedPrecondition, match="has a passphrase"):
        SigningKey.from_pem(pem, "signing.key")
    with pytest.raises(FailedPrecondition, match="passphrase does not open"):
        SigningKey.from_pem(pem, "signing.key", passphrase=b"battery staple")
    # A passphrase that is set is no trouble to a key without one.
    assert SigningKey.from_pem(key.private_pem().encode(), "signing.key", passphrase=b"x").key_id == key.key_id


def test_what_is_no_private_key_of_ed25519_is_refused_with_what_to_do(key: SigningKey, tmp_path: Path) -> None:
    for pem in (b"", b"nonsense", key.public_pem().encode(), b"-----BEGIN PRIVATE KEY-----\nAAAA\n"):
        with pytest.raises(FailedPrecondition, match="holds no private key") as refused:
            SigningKey.from_pem(pem, "signing.key")
        assert refused.value.hint is not None
        assert "openssl genpkey" in refused.value.hint
    with pytest.raises(FailedPrecondition, match="not of Ed25519"):
        SigningKey.from_pem(elliptic_pem(private=True).encode(), "signing.key")
    with pytest.raises(FailedPrecondition, match=r"file of signing\.key_file cannot be read: No such file"):
        SigningKey.from_file(tmp_path / "none.pem", "signing.key_file")


def test_only_public_keys_of_ed25519_can_be_trusted(key: SigningKey, tmp_path: Path) -> None:
    for text, message in (
        (key.private_pem(), "has a private key"),
        (elliptic_pem(private=False), "not of Ed25519"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not of Ed25519"),
        ("-----BEGIN PUBLIC KEY-----\n", "holds no public key"),
        (str(tmp_path / "none.pem"), "cannot be read: No such file"),
        ("a\0b", "cannot be read: no path"),
    ):
        with pytest.raises(FailedPrecondition, match=message):
            TrustedKeys.of([text], "signing.trusted_keys")
    assert TrustedKeys.of([], "signing.trusted_keys").ids == ()


def test_signatures_travel_as_text(key: SigningKey) -> None:
    made = key.sign(KIND, PAYLOAD).signature
    assert from_text(to_text(made)) == made
    for wrong in ("", to_text(made)[:-4], to_text(made)[:-1], to_text(made) + "AAAA", "é" * 88, "*" * 88):
        with pytest.raises(InvalidInput, match="no Ed25519 signature"):
            from_text(wrong)


def test_a_private_key_is_not_shown_where_it_is_printed(key: SigningKey) -> None:
    body = key.private_pem().splitlines()[1]
    assert body not in repr(key)
    assert body not in str(vars(key))


def test_without_the_package_the_extra_to_install_is_named() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from keelway.artifacts.signing import SigningKey\n"
        "try: SigningKey.generate()\n"
        "except Exception as error: print(error.hint)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "keelway[signing]" in run.stdout
