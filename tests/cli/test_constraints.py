"""``keelway constraints``: proposed from the sample, declared by a person, told in the history. # V1 X1"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from keelway.contract.policy_file import parse_policy

if TYPE_CHECKING:
    from tests.cli.conftest import Keelway

pytestmark = pytest.mark.usefixtures("in_one_process")


@pytest.fixture
def churn(keelway: Keelway, trained: Path) -> Keelway:
    """The command line with a model ``churn`` that was pushed with 80 rows: no detector."""
    assert (
        keelway("push", "churn", "model.joblib", "--sample", "sample.csv", "--target", "bought", "--trust-pickle")[0]
        == 0
    )
    return keelway


def document(keelway: Keelway, *arguments: str) -> Any:
    ran = keelway("constraints", *arguments, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_a_proposal_is_edited_declared_shown_and_told(churn: Keelway, tmp_path: Path) -> None:
    proposal = churn("constraints", "propose", "churn@1.0.0")
    assert proposal.code == 0
    policy = parse_policy(proposal.out)
    assert [rule.feature for rule in policy.constraints] == ["age", "income"]
    assert document(churn, "show", "churn")["policy_revision"] == 1  # nothing was declared by that
    (tmp_path / "policy.toml").write_text(proposal.out.replace('"flag"', '"clip"'))
    ran = churn("constraints", "edit", "churn@1.0.0", "--file", "policy.toml", "--yes", "--why", "no typos")
    assert ran.code == 0, ran.err
    assert '+on_violation = "clip"' in ran.out
    assert "has policy revision 2 now" in ran.out
    shown = churn("constraints", "show", "churn").out
    assert "# churn 1.0.0, policy revision 2" in shown
    assert [rule.on_violation for rule in parse_policy(shown).constraints] == ["clip", "clip"]
    history = json.loads(churn("show", "churn", "--json").out)["history"]
    assert (history[0]["action"], history[0]["why"]) == ("policy", "no typos")


def test_what_is_declared_already_is_no_new_revision(churn: Keelway, tmp_path: Path) -> None:
    (tmp_path / "same.toml").write_text(churn("constraints", "show", "churn").out)
    answer = document(churn, "edit", "churn", "--file", "same.toml")
    assert (answer["changed"], answer["policy_revision"]) == (False, 1)


def test_it_asks_unless_told_not_to(churn: Keelway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    (tmp_path / "policy.toml").write_text("[features.age]\nminimum = 0\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert churn("constraints", "edit", "churn", "--file", "policy.toml").code == 1
    assert document(churn, "show", "churn")["policy_revision"] == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert churn("constraints", "edit", "churn", "--file", "policy.toml").code == 0
    assert document(churn, "show", "churn")["constraints"] == [{"feature": "age", "minimum": 0.0}]


def test_an_editor_is_opened_on_what_is_declared(
    churn: Keelway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\ngrep -q "action = \\"tag\\"" "$1" && echo "[features.age]\nmaximum = 99" >> "$1"\n')
    editor.chmod(0o700)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert churn("constraints", "edit", "churn", "--yes").code == 0
    assert document(churn, "show", "churn")["constraints"] == [{"feature": "age", "maximum": 99.0}]


MISTAKES = [
    ("[features.aeg]\nminimum = 0", "'aeg', which is no feature"),
    ("[features.age", "not valid TOML"),
    ("[features.age]\nminimum = inf", "not a finite number"),
    ('[features.age]\ncategories = ["a"]', "has no categories"),
    ('[features.age]\non_violation = "clip"', "no range to clip"),
    ('[anomaly]\naction = "reject"', "no anomaly detector"),
    ('[probing]\naction = "tag"', "no anomaly detector"),
]


def test_what_cannot_be_enforced_is_refused_and_changes_nothing(churn: Keelway, tmp_path: Path) -> None:
    for text, expected in MISTAKES:
        (tmp_path / "policy.toml").write_text(text)
        ran = churn("constraints", "edit", "churn", "--file", "policy.toml", "--yes")
        assert (ran.code, ran.out) == (1, "")
        assert expected in ran.err
        assert " · " in ran.err  # what to do next
    assert document(churn, "show", "churn")["policy_revision"] == 1


def test_without_a_terminal_and_a_file_it_says_what_to_do(churn: Keelway) -> None:
    ran = churn("constraints", "edit", "churn")
    assert ran.code == 1
    assert "--file" in ran.err
    assert "there is no file" in churn("constraints", "edit", "churn", "--file", "nowhere.toml").err


def test_a_push_says_what_its_detector_can_do(keelway: Keelway, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(400, 3)), columns=["a", "b", "c"]).astype(np.float32)
    label = (frame["a"] > 0).astype(int)
    joblib.dump(LogisticRegression().fit(frame, label), tmp_path / "model.joblib")
    frame.assign(label=label).to_csv(tmp_path / "sample.csv", index=False)
    pushed = keelway("push", "m", "model.joblib", "--sample", "sample.csv", "--target", "label", "--trust-pickle")
    assert pushed.code == 0, pushed.err
    assert "anomaly detector on 3 features; 200 rows held out support a false-positive rate of" in pushed.out
    shown = document(keelway, "show", "m")
    assert shown["anomaly"]["false_positive_rate"] == 0.001
    assert 1 / 201 <= shown["anomaly"]["rate_in_force"] <= 2 / 201
    assert "anomaly detector (robust_z, mahalanobis) on 3 features" in keelway("constraints", "show", "m").out


def test_a_push_that_is_asked_for_an_isolation_forest_has_one_and_says_so(keelway: Keelway, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(400, 2)), columns=["a", "b"])
    label = (frame["a"] > 0).astype(int)
    joblib.dump(LogisticRegression().fit(frame, label), tmp_path / "model.joblib")
    frame.assign(label=label).to_csv(tmp_path / "sample.csv", index=False)
    push = ("push", "m", "model.joblib", "--trust-pickle", "--isolation-forest")
    refused = keelway(*push)
    assert (refused.code, refused.out) == (1, "")
    assert "--isolation-forest" in refused.err.rpartition(" · ")[2]
    pushed = keelway(*push, "--sample", "sample.csv", "--target", "label")
    assert pushed.code == 0, pushed.err
    assert "anomaly detector on 2 features, with an isolation forest; 200 rows held out" in pushed.out
    assert "with an isolation forest" in keelway("show", "m").out
    shown = keelway("constraints", "show", "m").out
    assert "anomaly detector (robust_z, mahalanobis, isolation_forest) on 2 features" in shown
    assert keelway("predict", "m", "--input", "sample.csv").code == 0


def test_a_small_sample_has_no_detector_and_the_push_says_so(churn: Keelway) -> None:
    assert "no anomaly detector: the sample has 80 rows, it takes 198" in churn("show", "churn").out
    assert "no anomaly detector" in churn("constraints", "show", "churn").out
