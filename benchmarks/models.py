"""The models that are measured: a forest of 100 trees, and the lead-scoring example's pipeline of 85 columns.

Trained once and pushed into a registry of their own."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "lead_scoring" / "train.py"
FOREST, LEADS = "forest", "leads"
KEELWAY = Path(sys.executable).with_name("keelway")


def make_models(folder: Path) -> None:
    """Train, save and push both models into the registry of ``folder``, unless they are there already."""
    if (folder / ".done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    features, target = load_breast_cancer(return_X_y=True, as_frame=True)
    features = features.astype(np.float32).astype(float)
    features.columns = [name.replace(" ", "_") for name in features.columns]
    _push(folder, FOREST, RandomForestClassifier(100, random_state=0).fit(features, target), features, target)
    example = runpy.run_path(str(EXAMPLE))
    train, _ = example["split"](example["load_leads"]())
    columns, bought = train.drop(columns=example["TARGET"]), train[example["TARGET"]]
    _push(folder, LEADS, example["fit"](train), columns, bought)
    (folder / ".done").touch()


def _push(folder: Path, name: str, model: object, features: pd.DataFrame, target: pd.Series) -> None:
    joblib.dump(model, folder / f"{name}.joblib")
    features.assign(target=target).to_parquet(folder / f"{name}.parquet")
    subprocess.run(
        [
            KEELWAY,
            "push",
            name,
            f"{name}.joblib",
            "--sample",
            f"{name}.parquet",
            "--target",
            "target",
            "--trust-pickle",
        ],
        cwd=folder,
        check=True,
    )
