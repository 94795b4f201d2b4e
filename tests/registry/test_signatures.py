"""Signatures are kept with their versions, unverified, and each change of them stands in the history. # S4"""

from __future__ import annotations

import hashlib
from functools import partial

import pytest

from keelway.artifacts.signing import Signature, SigningKey
from keelway.artifacts.statement import sign_version
from keelway.errors import NotFound
from keelway.registry.store import Registry

DIGEST = "sha256:" + "a" * 64
WHO = {"who": "ann", "why": "a test"}
KEY = SigningKey.generate()
SIGN = partial(sign_version, KEY)


def test_a_version_is_entered_with_its_signature(registry: Registry) -> None:
    before = registry.state_token()
    pushed = registry.push("churn", None, DIGEST, sign=SIGN, **WHO)
    (found,) = registry.signatures("churn", "1.0.0")
    made = SIGN("churn", pushed.version, DIGEST)
    assert (found.key_id, found.signature, found.created_by) == (made.key_id, made.signature, "ann")
    assert [entry.action for entry in registry.history("churn")] == ["alias", "sign", "push"]
    assert registry.history("churn")[1].evidence == {
        "key_id": KEY.key_id,
        "signature": f"sha256:{hashlib.sha256(made.signature).hexdigest()}",
    }
    assert registry.state_token() > before


def test_a_push_whose_signing_fails_leaves_nothing(registry: Registry) -> None:
    def fail(name: str, version: str, digest: str) -> Signature:
        raise RuntimeError("the key is in a safe")

    with pytest.raises(RuntimeError):
        registry.push("churn", None, DIGEST, sign=fail, **WHO)
    assert registry.models() == ()


def test_the_same_push_again_signs_what_is_there(registry: Registry) -> None:
    registry.push("churn", "1.0.0", DIGEST, **WHO)
    assert registry.signatures("churn", "1.0.0") == ()
    registry.push("churn", "1.0.0", DIGEST, sign=SIGN, **WHO)
    assert [known.key_id for known in registry.signatures("churn", "1.0.0")] == [KEY.key_id]


def test_a_version_is_signed_later_by_any_number_of_keys(registry: Registry) -> None:
    registry.push("churn", "1.0.0", DIGEST, **WHO)
    other = SigningKey.generate()
    signed = registry.sign("churn", "1.0.0", SIGN, **WHO)
    registry.sign("churn", "1.0.0", partial(sign_version, other), **WHO)
    assert signed.model_digest == DIGEST
    assert [known.key_id for known in registry.signatures("churn", "1.0.0")] == [KEY.key_id, other.key_id]


def test_a_key_has_one_signature_of_a_version_and_the_same_again_changes_nothing(registry: Registry) -> None:
    registry.push("churn", "1.0.0", DIGEST, **WHO)
    registry.sign("churn", "1.0.0", lambda *_: Signature(KEY.key_id, b"broken"), **WHO)
    registry.sign("churn", "1.0.0", SIGN, **WHO)
    history = registry.history("churn")
    registry.sign("churn", "1.0.0", SIGN, **WHO)
    assert registry.history("churn") == history
    assert [known.signature for known in registry.signatures("churn", "1.0.0")] == [
        SIGN("churn", "1.0.0", DIGEST).signature
    ]


def test_what_is_not_there_is_not_signed(registry: Registry) -> None:
    registry.push("churn", "1.0.0", DIGEST, **WHO)
    with pytest.raises(NotFound):
        registry.sign("churn", "2.0.0", SIGN, **WHO)
    with pytest.raises(NotFound):
        registry.signatures("chunr", "1.0.0")
