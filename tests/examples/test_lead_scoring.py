"""The lead-scoring example: its split is fair, its scores are probabilities, and the demo fails when it should."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "lead_scoring"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"lead_scoring_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train = load("train")
demo = load("demo")


@pytest.fixture(scope="module")
def leads() -> pd.DataFrame:
    """600 made-up customers, every third one the twin of another, of whom some fifteen in a hundred buy."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.integers(0, 9, size=(400, 6)), columns=["MOSTYPE", "MOSHOOFD", "A", "B", "C", "D"])
    frame = pd.concat([frame, frame.iloc[:200]], ignore_index=True)
    return frame.assign(Purchase=np.where(frame["A"] + random.normal(size=600) > 7, "Yes", "No"))


def test_twins_never_stand_on_both_sides_of_the_split(leads: pd.DataFrame) -> None:
    fitted, held_out = train.split(leads)
    features = [column for column in leads.columns if column != "Purchase"]
    assert len(fitted) + len(held_out) == len(leads)
    assert len(fitted.merge(held_out, on=features)) == 0


def test_the_scores_are_probabilities_of_buying(leads: pd.DataFrame) -> None:
    fitted, _ = train.split(leads)
    features = fitted.drop(columns="Purchase")
    scores = np.array(train.probability_of_buying(train.fit(fitted), features))
    bought = (fitted["Purchase"] == "Yes").to_numpy()
    assert scores.mean() == pytest.approx(bought.mean(), abs=0.02)
    assert scores[bought].mean() > scores[~bought].mean() + 0.1


def test_what_is_written_is_what_the_demo_reads(leads: pd.DataFrame, tmp_path: Path) -> None:
    fitted, held_out = train.split(leads)
    train.write(tmp_path, train.fit(fitted), fitted, held_out)
    read = demo.HeldOut(**json.loads((tmp_path / "held_out.json").read_text()))
    assert len(read.rows) == len(read.probabilities) == min(200, len(held_out))
    assert "Purchase" not in read.columns
    assert "Purchase" in pd.read_parquet(tmp_path / "leads.parquet").columns
    assert (tmp_path / "model.joblib").is_file()


def test_missing_data_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(_: str) -> None:
        raise train.PackageNotFoundError

    monkeypatch.setattr(train, "files", not_installed)
    with pytest.raises(SystemExit, match="make demo does it"):
        train.load_leads()


@pytest.mark.parametrize("served", [[0.1, 0.2001], [0.1, float("nan")]], ids=["another number", "no number"])
def test_the_demo_fails_when_an_answer_differs_from_scikit_learn(served: list[float]) -> None:
    held_out = demo.HeldOut(["A"], [[1.0], [2.0]], [0.1, 0.2])
    demo.compare(held_out, {"/v1": [0.1, 0.2 + 1e-6]})
    with pytest.raises(SystemExit, match="answers differently"):
        demo.compare(held_out, {"/v1": served})


def test_a_server_that_ends_by_itself_fails_the_demo_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = tmp_path / "keelway"
    crashing.write_text("#!/bin/sh\necho no such model >&2\nexit 3\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(demo, "KEELWAY", crashing)
    monkeypatch.setattr(demo, "SCRATCH", tmp_path)
    with pytest.raises(SystemExit, match="push failed"):
        demo.run("push", demo.KEELWAY, "push")
    monkeypatch.setattr(demo, "HERE", tmp_path / "examples" / "lead_scoring")
    with pytest.raises(SystemExit, match="no such model"), demo.serving():
        pytest.fail("nothing is served")


@pytest.mark.slow
def test_the_demo_runs_from_the_data_to_a_clean_stop() -> None:
    # Needs the data of requirements/demo.txt: `make test-slow` installs it.
    command = [sys.executable, str(EXAMPLE / "demo.py"), "--once"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "/v1 predict  largest difference" in result.stdout
    assert "/v2 infer    largest difference" in result.stdout
    assert "the server drained and stopped" in result.stdout
