# Y1: keelway check from the command line: exit codes, text, JSON, what is wrong with a call
from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from tests.cli.conftest import Keelway, open_here

from keelway.artifacts.blobs import BlobStore
from keelway.clock import SystemClock
from keelway.publish.release import Source, release
from keelway.registry.store import Registry

pytestmark = pytest.mark.usefixtures("in_one_process")

CHECK = ("check", "buyers", "--sample", "test.csv", "--target", "bought")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``buyers`` 1.0.0, a logistic regression, and 2.0.0, which looks at nothing, pushed once; the rows
    they were trained on, and 1,500 others in ``test.csv``."""
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"age": random.normal(50, 12, 2_000), "income": random.normal(40, 10, 2_000)})
    odds = 0.08 * (frame["age"] - 50) + 0.08 * (frame["income"] - 40)
    frame["bought"] = (random.random(2_000) < 1 / (1 + np.exp(-odds))).astype(int)
    train, test = frame[:500], frame[500:]
    train.to_csv(folder / "train.csv", index=False)
    test.to_csv(folder / "test.csv", index=False)
    (folder / ".keelway").mkdir()
    blobs = BlobStore.open(str(folder / ".keelway" / "artifacts"))
    with (
        closing(Registry.open(f"sqlite:///{folder}/.keelway/registry.db", clock=SystemClock())) as registry,
        pytest.MonkeyPatch.context() as patched,
    ):
        open_here(patched)
        for model in (LogisticRegression(), DummyClassifier(strategy="prior")):
            file = folder / "model.joblib"
            joblib.dump(model.fit(train[["age", "income"]], train["bought"]), file)
            source = Source(file, folder / "train.csv", "bought", trust_pickle=True)
            release(registry, blobs, "buyers", None, source, who="ann", why="test")
    return folder


@pytest.fixture
def pushed(shop: Path, tmp_path: Path) -> Path:
    """A copy of the shop, in the current folder."""
    return Path(shutil.copytree(shop, tmp_path, dirs_exist_ok=True))


def test_a_good_version_passes_with_its_figures_shown(keelway: Keelway, pushed: Path) -> None:
    ran = keelway(*CHECK, "--train", "train.csv")
    assert ran.code == 0, ran.out + ran.err
    assert "✓ roc_auc: 0.7" in ran.out
    assert "at least 0.5, 1,500 rows" in ran.out
    assert "passed: every bound that has to be proved is proved" in ran.out
    assert "fails in at most 5% of checks" in ran.out


def test_a_worse_version_exits_with_1_and_says_by_how_much(keelway: Keelway, pushed: Path) -> None:
    ran = keelway("check", "buyers@2.0.0", *CHECK[2:], "--against", "champion")
    assert ran.code == 1
    assert "buyers 2.0.0 against 1.0.0" in ran.out
    assert "✗ roc_auc, difference: -0.2" in ran.out


def test_what_cannot_be_decided_exits_with_3(keelway: Keelway, pushed: Path) -> None:
    (pushed / "checks.toml").write_text("[metrics]\nroc_auc = 0.77\n")
    ran = keelway(*CHECK, "--checks", "checks.toml")
    assert ran.code == 3, ran.out
    assert "could not be decided" in ran.out


@pytest.mark.parametrize("words", [CHECK, ("diff", "buyers@1.0.0", "buyers@2.0.0")])
def test_where_signatures_are_required_no_unsigned_version_is_run(
    keelway: Keelway, pushed: Path, words: tuple[str, ...]
) -> None:
    key = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (pushed / "key.pem").write_bytes(key)
    (pushed / "strict.toml").write_text('[signing]\nrequire_signature = true\ntrusted_keys = ["key.pem"]\n')
    ran = keelway(*words, "--config", "strict.toml")
    assert (ran.code, "is not signed by a trusted key" in ran.err) == (1, True)


def test_the_json_says_all_that_the_text_says(keelway: Keelway, pushed: Path) -> None:
    document = json.loads(keelway(*CHECK, "--json").out)
    assert document["outcome"] == "passed"
    assert (document["model"], document["version"], document["rows"]) == ("buyers", "1.0.0", 1_500)
    assert document["model_digest"].startswith("sha256:")
    (area,) = [finding for finding in document["findings"] if finding["name"] == "roc_auc"]
    assert area["low"] < area["figure"] < area["high"]
    assert {"at_least", "rows", "verdict", "p_value"} <= area.keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sample", "gone.csv"), "gone.csv"),
        (("--target", "bougth"), "did you mean bought"),
        (("--checks", "gone.toml"), "cannot be read"),
        (("--checks", "train.csv"), "not valid TOML"),
        (("--against", "9.0.0"), "no such version"),
        (("--trained", "guess"), "no column 'guess'"),
    ],
)
def test_what_is_wrong_with_a_call_is_one_line(
    keelway: Keelway, pushed: Path, words: tuple[str, ...], said: str
) -> None:
    ran = keelway(*CHECK, *words)
    assert ran.code == 1
    assert said in ran.err.strip().splitlines()[-1]
    assert ran.err.strip().splitlines()[-1].startswith("keelway: ")


def test_a_call_without_a_sample_is_wrong_usage(keelway: Keelway, pushed: Path) -> None:
    assert keelway("check", "buyers").code == 2


def test_predictions_of_the_training_side_are_held_against_served_ones(keelway: Keelway, pushed: Path) -> None:
    test = pd.read_csv(pushed / "test.csv")
    served = json.loads(keelway("predict", "buyers", "--input", "test.csv", "--json").out)["probabilities"]
    test.assign(trained=[row[1] for row in served]).to_csv(pushed / "test.csv", index=False)
    assert keelway(*CHECK, "--trained", "trained").code == 0
    test.assign(trained=[row[1] + 0.001 for row in served]).to_csv(pushed / "test.csv", index=False)
    ran = keelway(*CHECK, "--trained", "trained")
    assert ran.code == 1
    assert "✗ trained and served agree: 1500 of 1500 rows differ" in ran.out
