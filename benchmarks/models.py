"""The models that are measured: a forest of 100 trees, the lead-scoring example's pipeline of 85 columns, and one that
gains from batches (``heavy``).

Made once and pushed into a registry of their own. Every server runs the file that keelway's conversion made, and
what it answers is compared with scikit-learn's own answer to the rows as they are sent.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

from benchmarks import heavy

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "lead_scoring" / "train.py"
FOREST, LEADS, HEAVY = "forest", "leads", "heavy"
KEELWAY_COMMAND = Path(sys.executable).with_name("keelway")
ROWS = 32


@dataclass(frozen=True)
class Model:
    """``rows`` are sent; ``probabilities``, [rows, 2], is what scikit-learn answers to them."""

    registry: Path
    onnx: Path
    pipeline: Path
    rows: pd.DataFrame
    probabilities: np.ndarray[Any, Any]


def make_models(folder: Path, names: tuple[str, ...] = (FOREST, LEADS, HEAVY)) -> dict[str, Model]:
    """The models, trained and pushed into the registry of ``folder`` unless they are there already."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    makers = {FOREST: _make_forest, LEADS: _make_leads, HEAVY: _make_heavy}
    for name in names:
        if not (folder / f".{name}").exists():
            makers[name](folder)
            (folder / f".{name}").touch()
    return {name: _open(folder, name) for name in names}


def _make_forest(folder: Path) -> None:
    features, target = load_breast_cancer(return_X_y=True, as_frame=True)
    features = features.astype(np.float32).astype(float)
    features.columns = [name.replace(" ", "_") for name in features.columns]
    _push(folder, FOREST, RandomForestClassifier(100, random_state=0).fit(features, target), features, target)


def _make_leads(folder: Path) -> None:
    example = runpy.run_path(str(EXAMPLE))
    train, _ = example["split"](example["load_leads"]())
    columns, bought = train.drop(columns=example["TARGET"]), train[example["TARGET"]]
    _push(folder, LEADS, example["fit"](train), columns, bought)


def _make_heavy(folder: Path) -> None:
    heavy.make(folder, HEAVY).to_parquet(folder / f"{HEAVY}.parquet")
    words = ["push", HEAVY, f"{HEAVY}.onnx", "--sample", f"{HEAVY}.parquet"]
    subprocess.run([str(KEELWAY_COMMAND), *words], cwd=folder, check=True, stdout=sys.stderr)


def _push(folder: Path, name: str, model: object, features: pd.DataFrame, target: pd.Series[Any]) -> None:
    joblib.dump(model, folder / f"{name}.joblib")
    features.assign(target=target).to_parquet(folder / f"{name}.parquet")
    words = ["push", name, f"{name}.joblib", "--sample", f"{name}.parquet", "--target", "target", "--trust-pickle"]
    subprocess.run([str(KEELWAY_COMMAND), *words], cwd=folder, check=True, stdout=sys.stderr)


def _open(folder: Path, name: str) -> Model:
    if name == HEAVY:
        rows = pd.read_parquet(folder / f"{name}.parquet").iloc[:ROWS]
        onnx = _onnx_file(folder, name)
        return Model(folder, onnx, onnx, rows, heavy.answers(onnx, rows))
    # Four decimals, as the data has them, and no float32 written out in full.
    rows = pd.read_parquet(folder / f"{name}.parquet").drop(columns="target").iloc[:ROWS].round(4)
    pipeline = folder / f"{name}.joblib"
    return Model(folder, _onnx_file(folder, name), pipeline, rows, joblib.load(pipeline).predict_proba(rows))


def _onnx_file(folder: Path, name: str) -> Path:
    """The converted file out of the registry's artifacts, so that every server runs the same bytes."""
    command = [str(KEELWAY_COMMAND), "show", name, "--json"]
    shown = json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout)
    digest = next(file["sha256"] for file in shown["files"] if file["path"].endswith(".onnx"))
    artifacts = (folder / ".keelway" / "artifacts").rglob("*")
    return next(path for path in artifacts if path.is_file() and digest.endswith(path.name))
