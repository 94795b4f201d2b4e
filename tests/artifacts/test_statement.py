"""What a signature of a version says, and which versions may be loaded. # S4"""

from __future__ import annotations

import json

import pytest

from keelway.access import SigningSettings
from keelway.artifacts.signing import Signature, SigningKey, TrustedKeys
from keelway.artifacts.statement import PAYLOAD_TYPE, SignaturePolicy, sign_version, statement
from keelway.errors import FailedPrecondition, UntrustedArtifact

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
KEY = SigningKey.generate()
SIGNED = sign_version(KEY, "churn", "1.2.0", DIGEST)
POLICY = SignaturePolicy(TrustedKeys.of([KEY.public_pem()], "test"))


def test_the_statement_is_canonical_and_says_its_format() -> None:
    said = statement("churn", "1.2.0", DIGEST)
    assert said == b'{"format":1,"model_digest":"%b","name":"churn","version":"1.2.0"}' % DIGEST.encode()
    assert said == json.dumps(json.loads(said), sort_keys=True, separators=(",", ":")).encode()


def test_a_signature_of_a_trusted_key_vouches_for_its_version() -> None:
    assert POLICY.check("churn", "1.2.0", DIGEST, [SIGNED]) == KEY.key_id


@pytest.mark.parametrize(
    ("name", "version", "digest"),
    [("fraud", "1.2.0", DIGEST), ("churn", "1.3.0", DIGEST), ("churn", "1.2.0", OTHER), ("churn", "1.2.0+b", DIGEST)],
)
def test_it_vouches_for_no_other_model_version_or_digest(name: str, version: str, digest: str) -> None:
    with pytest.raises(UntrustedArtifact, match="does not hold") as refused:
        POLICY.check(name, version, digest, [SIGNED])
    assert f"{name} {version} is not signed by a trusted key" in refused.value.message


@pytest.mark.parametrize(
    ("signatures", "reason"),
    [
        ([], "it has no signature"),
        ([Signature(KEY.key_id, SIGNED.signature[:40])], "does not hold"),
        ([Signature(KEY.key_id, b"")], "does not hold"),
        ([sign_version(SigningKey.generate(), "churn", "1.2.0", DIGEST)], "not trusted"),
        ([Signature(KEY.key_id, KEY.sign("text/plain", statement("churn", "1.2.0", DIGEST)).signature)], "not hold"),
    ],
)
def test_anything_else_vouches_for_nothing(signatures: list[Signature], reason: str) -> None:
    with pytest.raises(UntrustedArtifact, match=reason) as refused:
        POLICY.check("churn", "1.2.0", DIGEST, signatures)
    assert refused.value.hint is not None
    assert "keelway sign churn@1.2.0" in refused.value.hint


def test_signatures_of_others_neither_help_nor_harm() -> None:
    stranger = sign_version(SigningKey.generate(), "churn", "1.2.0", DIGEST)
    broken = Signature(KEY.key_id, b"broken")
    assert POLICY.check("churn", "1.2.0", DIGEST, [stranger, broken, SIGNED]) == KEY.key_id


def test_the_settings_say_what_is_demanded() -> None:
    assert SignaturePolicy.of(SigningSettings(trusted_keys=("nowhere.pem",))) is None
    demanding = SignaturePolicy.of(SigningSettings(require_signature=True, trusted_keys=(KEY.public_pem(),)))
    assert demanding is not None
    assert demanding.check("churn", "1.2.0", DIGEST, [SIGNED]) == KEY.key_id


def test_a_demand_that_nothing_could_meet_is_refused_at_once() -> None:
    with pytest.raises(FailedPrecondition, match="no key is trusted"):
        SignaturePolicy.of(SigningSettings(require_signature=True))
    with pytest.raises(FailedPrecondition, match=r"file of signing\.trusted_keys cannot be read"):
        SignaturePolicy.of(SigningSettings(require_signature=True, trusted_keys=("nowhere.pem",)))


def test_the_settings_name_one_key_to_sign_with() -> None:
    made = SigningKey.of(SigningSettings(key=KEY.private_pem(b"pass"), passphrase="pass"))
    assert made is not None
    assert made.sign(PAYLOAD_TYPE, statement("churn", "1.2.0", DIGEST)) == SIGNED
    assert SigningKey.of(SigningSettings()) is None
    with pytest.raises(FailedPrecondition, match="both set"):
        SigningKey.of(SigningSettings(key=KEY.private_pem(), key_file="key.pem"))
    assert "PRIVATE" not in repr(SigningSettings(key=KEY.private_pem()))
