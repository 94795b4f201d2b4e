"""Models kept in scikit-learn's own form: what they answer is what the estimator answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from keelway.errors import CorruptArtifact, UntrustedArtifact
from keelway.ports import RuntimeOptions
from keelway.runtimes.skops import SkopsColumn, SkopsOptions, SkopsRuntime, load
from keelway.types import TensorSpec

NUMBERS = TensorSpec("input_fp64", "FP64", (-1, 2), ("age", "score"))
TEXTS = TensorSpec("input_bytes", "BYTES", (-1, 1), ("city",))
LABEL = TensorSpec("label", "BYTES", (-1,))
PROBABILITIES = TensorSpec("probabilities", "FP64", (-1, 2))


@pytest.fixture
def frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": random.integers(18, 80, 60),
            "city": random.choice(["Oslo", "Rome"], 60),
            "score": random.normal(size=60),
        }
    ).assign(city=lambda frame: frame["city"].mask(frame["age"] < 25))


def opened(
    folder: Path, estimator: Any, options: SkopsOptions, trusted: frozenset[str] = frozenset({"numpy.dtype"})
) -> SkopsRuntime:
    skops.io.dump(estimator, folder / "model.skops")
    given = msgspec.to_builtins(options)
    return load(folder, "digest", given, RuntimeOptions(trusted_types=trusted), None)  # type: ignore[arg-type]


def tensors_of(frame: pd.DataFrame) -> dict[str, Any]:
    cities = np.array([[None if pd.isna(city) else city] for city in frame["city"]], dtype=object)
    return {"input_fp64": frame[["age", "score"]].to_numpy(np.float64), "input_bytes": cities}


COLUMNS = (SkopsColumn("age", "int64"), SkopsColumn("city", "str"), SkopsColumn("score", "float64"))


def classifier(frame: pd.DataFrame) -> Any:
    encode = ColumnTransformer([("city", OneHotEncoder(handle_unknown="ignore"), ["city"])], remainder="passthrough")
    return make_pipeline(encode, LogisticRegression(max_iter=500)).fit(frame, np.where(frame["score"] > 0, "yes", "no"))


def test_packed_tensors_become_the_frame_the_estimator_was_fitted_on(tmp_path: Path, frame: pd.DataFrame) -> None:
    estimator = classifier(frame)
    runtime = opened(tmp_path, estimator, SkopsOptions(COLUMNS, (NUMBERS, TEXTS), (LABEL, PROBABILITIES)))
    label, probabilities = runtime.run(tensors_of(frame), ["label", "probabilities"])
    assert label.tolist() == estimator.predict(frame).tolist()
    assert np.array_equal(probabilities, estimator.predict_proba(frame))
    assert np.array_equal(runtime.run(tensors_of(frame), ["probabilities"])[0], probabilities)


def test_bytes_and_unknown_texts_are_taken(tmp_path: Path, frame: pd.DataFrame) -> None:
    estimator = classifier(frame)
    runtime = opened(tmp_path, estimator, SkopsOptions(COLUMNS, (NUMBERS, TEXTS), (LABEL, PROBABILITIES)))
    given = {"input_fp64": np.array([[30.0, 1.0]]), "input_bytes": np.array([[b"Oslo"]], dtype=object)}
    wanted = estimator.predict_proba(pd.DataFrame({"age": [30], "city": ["Oslo"], "score": [1.0]}))
    assert np.array_equal(runtime.run(given, ["probabilities"])[0], wanted)
    given["input_bytes"] = np.array([["Atlantis"]], dtype=object)
    assert runtime.run(given, ["probabilities"])[0].shape == (1, 2)


def test_an_estimator_fitted_on_bare_arrays_gets_one(tmp_path: Path, frame: pd.DataFrame) -> None:
    x = frame[["age", "score"]].to_numpy(np.float64)
    estimator = LinearRegression().fit(x, x[:, 1])
    columns = (SkopsColumn("age", "int64"), SkopsColumn("score", "float64"))
    options = SkopsOptions(columns, (NUMBERS,), (TensorSpec("prediction", "FP64", (-1,)),), given="array")
    answered = opened(tmp_path, estimator, options).run({"input_fp64": x}, ["prediction"])[0]
    assert np.array_equal(answered, estimator.predict(x))


def test_one_score_a_row_has_an_axis_of_its_own(tmp_path: Path, frame: pd.DataFrame) -> None:
    x = frame[["age", "score"]].to_numpy(np.float64)
    estimator = LinearSVC().fit(x, x[:, 1] > 0)
    columns = (SkopsColumn("age", "int64"), SkopsColumn("score", "float64"))
    outputs = (TensorSpec("label", "BOOL", (-1,)), TensorSpec("scores", "FP64", (-1, 1)))
    runtime = opened(tmp_path, estimator, SkopsOptions(columns, (NUMBERS,), outputs, given="array"))
    label, scores = runtime.run({"input_fp64": x}, ["label", "scores"])
    assert (label.dtype, scores.shape) == (np.dtype(bool), (60, 1))


def test_a_type_nobody_trusted_is_refused_before_it_is_made(tmp_path: Path, frame: pd.DataFrame) -> None:
    estimator = DecisionTreeClassifier(max_depth=2).fit(frame[["age", "score"]], frame["score"] > 0)
    options = SkopsOptions(COLUMNS[:1] + COLUMNS[2:], (NUMBERS,), (TensorSpec("label", "BOOL", (-1,)),))
    with pytest.raises(UntrustedArtifact, match=r"sklearn\.tree\._tree\.Tree") as refused:
        opened(tmp_path, estimator, options)
    assert refused.value.hint is not None
    assert "trusted_types" in refused.value.hint
    runtime = opened(tmp_path, estimator, options, frozenset({"sklearn.tree._tree.Tree"}))
    assert runtime.run(tensors_of(frame), ["label"])[0].dtype == bool


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": 1}, "not valid"),
        ({"columns": [], "inputs": [], "outputs": [], "file": "../model.skops"}, "no skops file"),
        ({"columns": [], "inputs": [], "outputs": [], "file": "absent.skops"}, "no skops file"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptArtifact, match=message):
        load(tmp_path, "digest", options, RuntimeOptions(), None)  # type: ignore[arg-type]


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.skops").write_bytes(b"PK\x03\x04 no zip at all")
    options = msgspec.to_builtins(SkopsOptions((), (), ()))
    with pytest.raises(CorruptArtifact, match="not a skops file, or it is damaged"):
        load(tmp_path, "digest", options, RuntimeOptions(), None)  # type: ignore[arg-type]


def test_an_output_the_estimator_has_not_is_refused(tmp_path: Path, frame: pd.DataFrame) -> None:
    estimator = LinearRegression().fit(frame[["age"]], frame["score"])
    options = SkopsOptions((COLUMNS[0],), (NUMBERS,), (PROBABILITIES,))
    with pytest.raises(CorruptArtifact, match="answers no 'probabilities'"):
        opened(tmp_path, estimator, options)
