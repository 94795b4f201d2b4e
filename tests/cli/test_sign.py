"""``keelway sign``, ``verify``, ``push --sign``, and what other commands do where signatures are required. # S4"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Keelway

from keelway.artifacts.signing import SigningKey

pytestmark = pytest.mark.usefixtures("in_one_process")

KEY = SigningKey.generate()
PUSH = ("push", "leads", "model.joblib", "--sample", "sample.csv", "--target", "bought", "--trust-pickle")


@pytest.fixture
def home(tmp_path: Path, trained: Path) -> Path:
    (tmp_path / "key.pem").write_text(KEY.private_pem())
    (tmp_path / "key.pub.pem").write_text(KEY.public_pem())
    (tmp_path / "other.pub.pem").write_text(SigningKey.generate().public_pem())
    (tmp_path / "strict.toml").write_text('[signing]\nrequire_signature = true\ntrusted_keys = ["key.pub.pem"]\n')
    return tmp_path


def test_a_version_is_pushed_signed_shown_and_verified(keelway: Keelway, home: Path) -> None:
    pushed = json.loads(keelway(*PUSH, "--sign", "key.pem", "--json").out)
    assert pushed["key_id"] == KEY.key_id
    shown = json.loads(keelway("show", "leads", "--json").out)
    assert [known["key_id"] for known in shown["signatures"]] == [KEY.key_id]
    assert KEY.key_id in keelway("show", "leads").out
    ran = keelway("verify", "leads@1.0.0", "--trusted", "key.pub.pem", "--json")
    verified = json.loads(ran.out)
    assert (ran.code, verified["key_id"], verified["model_digest"]) == (0, KEY.key_id, pushed["model_digest"])
    assert verified["files"] == len(shown["files"])
    assert verified["bytes"] == sum(file["size"] for file in shown["files"])
    refused = keelway("verify", "leads@1.0.0", "--trusted", "other.pub.pem")
    assert (refused.code, refused.out, refused.err.count("\n")) == (1, "", 1)
    assert "which is not trusted" in refused.err


def test_a_file_that_differs_from_what_was_signed_is_found(keelway: Keelway, home: Path) -> None:
    keelway(*PUSH, "--sign", "key.pem")
    file = json.loads(keelway("show", "leads", "--json").out)["files"][0]["sha256"]
    stored = home / ".keelway" / "artifacts" / "sha256" / file[:2] / file[2:]
    whole = stored.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], whole + b"x"):
        stored.write_bytes(damaged)
        ran = keelway("verify", "leads", "--trusted", "key.pub.pem")
        assert (ran.code, "differs from what was pushed" in ran.err) == (1, True)


def test_where_signatures_are_required_the_offline_prediction_asks_for_one(
    keelway: Keelway, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keelway(*PUSH)
    predict = ("predict", "leads", "--input", "sample.csv", "--config", "strict.toml")
    measure = ("show", "leads", "--measure", "--config", "strict.toml")
    for command in (predict, measure):
        refused = keelway(*command)
        assert (refused.code, "it has no signature · if it is what it should be: keelway sign" in refused.err) == (
            1,
            True,
        )
    monkeypatch.setenv("KEELWAY_SIGNING_KEY", KEY.private_pem())
    signed = keelway("sign", "leads@1.0.0", "--why", "reviewed")
    assert (signed.code, KEY.key_id in signed.out) == (0, True)
    for command in (predict, measure):
        assert keelway(*command).code == 0
    assert keelway("verify", "leads", "--config", "strict.toml").code == 0
    assert "sign 1.0.0" in keelway("show", "leads").out


def test_the_key_of_the_settings_signs_every_push(
    keelway: Keelway, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEELWAY_SIGNING_KEY_FILE", "key.pem")
    ran = keelway(*PUSH)
    assert (ran.code, f"signed with the key {KEY.key_id}" in ran.out) == (0, True)
    assert keelway("verify", "leads", "--trusted", "key.pub.pem").code == 0


def test_only_the_digest_that_was_looked_at_is_signed(keelway: Keelway, home: Path) -> None:
    digest = json.loads(keelway(*PUSH, "--json").out)["model_digest"]
    refused = keelway("sign", "leads@1.0.0", "--key", "key.pem", "--digest", "sha256:" + "0" * 64)
    assert (refused.code, "has another digest" in refused.err) == (1, True)
    assert json.loads(keelway("show", "leads", "--json").out)["signatures"] == []
    assert keelway("sign", "leads@1.0.0", "--key", "key.pem", "--digest", digest).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sign", "leads@1.0.0"), "say --key KEYFILE"),
        (("sign", "leads", "--key", "key.pem"), "say which version"),
        (("sign", "leads@1.0.0", "--key", "key.pub.pem"), "--key holds no private key"),
        (("sign", "leads@9.0.0", "--key", "key.pem"), "no such model"),
        (("verify", "leads@1.0.0"), "say --trusted KEY"),
        (("verify", "leads@1.0.0", "--trusted", "none.pem"), "--trusted cannot be read"),
        (("verify", "leads@1.0.0", "--trusted", "key.pem"), "a private key, which only signers should have"),
        (("predict", "leads", "--input", "sample.csv", "--config", "empty.toml"), "no key is trusted"),
        ((*PUSH, "--sign", "none.pem"), "--sign cannot be read"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    keelway: Keelway, home: Path, arguments: tuple[str, ...], words: str
) -> None:
    (home / "empty.toml").write_text("[signing]\nrequire_signature = true\n")
    ran = keelway(*arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert words in ran.err
