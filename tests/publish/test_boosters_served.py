"""From a file to an answer over REST: the same as the library's own, converted or kept."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.publish.boosting import NUMBERS, classes, classifier, rows, saved
from tests.serving import Server

from keelway.artifacts.blobs import BlobStore
from keelway.clock import SystemClock
from keelway.contract.names import parse_reference
from keelway.hosting.registered import RegistrySource
from keelway.publish.release import Source, release
from keelway.registry.store import Registry

pytestmark = pytest.mark.filterwarnings("ignore:Failed to import numba:UserWarning")


def answers(folder: Path, file: Path, sample: pd.DataFrame, asked: pd.DataFrame) -> tuple[str, dict[str, Any]]:
    """Push ``file``, serve it, and ask: the kind of file that is served, and the reply."""
    sample.to_parquet(folder / "sample.parquet", index=False)
    blobs = BlobStore.open(folder / "artifacts")
    with closing(Registry.open(f"sqlite:///{folder}/registry.db", clock=SystemClock())) as registry:
        source = Source(file, folder / "sample.parquet")
        pushed = release(registry, blobs, "model", None, source, who="ada", why="a test")
        with Server(RegistrySource(registry, blobs, [parse_reference("model")])) as server:
            given = asked.astype(object).where(asked.notna(), None).to_dict("records")
            reply = server.post("/v1/models/model/predict", {"instances": given})
            assert reply.status == 200, reply.body
            return str(pushed.report["format"]), reply.json


@pytest.mark.parametrize(
    ("library", "suffix", "columns", "settings", "kept"),
    [
        ("xgboost", ".ubj", [*NUMBERS, "city"], {"enable_categorical": True}, "onnx"),
        pytest.param(
            "xgboost", ".json", NUMBERS, {"booster": "gblinear", "max_depth": None}, "boosters", marks=pytest.mark.slow
        ),
        pytest.param("lightgbm", ".txt", [*NUMBERS, "city"], {}, "onnx", marks=pytest.mark.slow),
        pytest.param("lightgbm", ".txt", NUMBERS, {"linear_tree": True}, "boosters", marks=pytest.mark.slow),
        ("catboost", ".cbm", [*NUMBERS, "city"], {"cat_features": ["city"]}, "boosters"),
        pytest.param("catboost", ".json", NUMBERS, {}, "onnx", marks=pytest.mark.slow),
    ],
)
def test_what_is_served_answers_like_the_library(
    tmp_path: Path, library: str, suffix: str, columns: list[str], settings: dict[str, Any], kept: str
) -> None:
    sample, asked = (rows(seed)[columns] for seed in (0, 1))
    if library != "catboost" and "city" in columns:
        sample, asked = (frame.astype({"city": "category"}) for frame in (sample, asked))
    if settings.get("booster") == "gblinear":
        sample, asked = sample.fillna(0), asked.fillna(0)
    model = classifier(library, **settings).fit(sample, classes(rows()))
    form, reply = answers(tmp_path, saved(model, tmp_path / f"model{suffix}"), sample, asked.head(40))
    assert form == kept
    expected = model.predict_proba(asked.head(40))
    assert reply["predictions"] == np.ravel(model.predict(asked.head(40))).tolist()
    found = reply["probabilities"]
    assert np.abs(np.array(found) - expected).max() < 1e-5
