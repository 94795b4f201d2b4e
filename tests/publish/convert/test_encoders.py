"""Encoders and imputers: every way of dropping, grouping and missing, translated by asking the encoder itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from keelway.contract.signature import infer_features, pack
from keelway.ports import RuntimeOptions
from keelway.publish.convert.graph import NotTranslated
from keelway.publish.convert.translate import translate
from keelway.publish.parity import publish_here
from keelway.publish.rows import rows_of, tensors
from keelway.runtimes.onnx import OnnxRuntime

ROWS = 200


@pytest.fixture(scope="module")
def sample() -> pd.DataFrame:
    random = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "city": random.choice(["Bonn", "Lima", "Oslo", "Rome", "Šibenik"], ROWS, p=[0.4, 0.3, 0.2, 0.05, 0.05]),
            "plan": random.choice(["a", "b", "c"], ROWS),
            "rooms": random.integers(1, 6, ROWS),
            "grade": random.choice([0.5, 1.5, 2.5], ROWS),
            "member": random.random(ROWS) < 0.5,
        }
    )
    frame["city"] = frame["city"].mask(random.random(ROWS) < 0.1)
    frame["grade"] = frame["grade"].mask(random.random(ROWS) < 0.1)
    return frame


@pytest.fixture(scope="module")
def target(sample: pd.DataFrame) -> Any:
    signal = sample["rooms"] + 3 * (sample["plan"] == "a") + 2 * (sample["city"] == "Oslo") + sample["member"]
    return np.where(signal + np.random.default_rng(6).normal(size=ROWS) > 4.5, "yes", "no")


ENCODERS = [
    OneHotEncoder(handle_unknown="ignore"),
    OneHotEncoder(handle_unknown="ignore", drop="first"),
    OneHotEncoder(drop="if_binary", handle_unknown="ignore", sparse_output=False),
    OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=30),
    OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=3),
    OneHotEncoder(handle_unknown="error"),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=99, encoded_missing_value=-2, min_frequency=30),
    TargetEncoder(),
]


@pytest.mark.parametrize("encoder", ENCODERS, ids=repr)
@pytest.mark.parametrize("columns", [["city"], ["plan", "grade", "city", "rooms", "member"]], ids=len)
def test_an_encoder_is_translated_exactly(
    encoder: Any, columns: list[str], sample: pd.DataFrame, target: Any, tmp_path: Path
) -> None:
    pipeline = make_pipeline(ColumnTransformer([("encoded", encoder, columns)]), LogisticRegression())
    report = publish_here(pipeline.fit(sample[columns], target), sample[columns], tmp_path).report
    assert report.format == "onnx"
    assert report.labels_equal == 1.0


IMPUTERS = [
    SimpleImputer(strategy="most_frequent"),
    SimpleImputer(strategy="most_frequent", add_indicator=True),
    SimpleImputer(strategy="constant", fill_value=7),
    SimpleImputer(strategy="mean", missing_values=1.5),
]


@pytest.mark.parametrize("imputer", IMPUTERS, ids=repr)
def test_an_imputer_of_numbers_is_translated_exactly(
    imputer: Any, sample: pd.DataFrame, target: Any, tmp_path: Path
) -> None:
    columns = sample[["rooms", "grade"]].fillna(0.5) if imputer.missing_values == 1.5 else sample[["rooms", "grade"]]
    pipeline = make_pipeline(imputer, Ridge()).fit(columns, target == "yes")
    assert publish_here(pipeline, columns, tmp_path).report.format == "onnx"


def test_an_imputer_fills_only_text_that_may_be_missing(sample: pd.DataFrame, target: Any, tmp_path: Path) -> None:
    """An empty text is how a missing one arrives. Where none may be missing, it is a text like any other."""
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    pipeline = make_pipeline(texts, LogisticRegression()).fit(sample[["city", "plan"]], target)
    prepared = publish_here(pipeline, sample[["city", "plan"]], tmp_path)
    assert prepared.report.format == "onnx"
    assert [feature.nullable for feature in prepared.signature.features] == [True, False]
    given = pd.DataFrame({"city": ["Oslo"], "plan": [""]})
    runtime = OnnxRuntime(prepared.file("model.onnx"), RuntimeOptions())
    answered = runtime.run(tensors(rows_of(given), prepared.signature.inputs), ["probabilities"])[0]
    assert answered == pytest.approx(pipeline.predict_proba(given), abs=1e-6)


def test_missing_values_can_be_features_themselves(sample: pd.DataFrame, target: Any, tmp_path: Path) -> None:
    steps = ColumnTransformer(
        [
            ("gaps", MissingIndicator(features="all"), ["grade", "rooms"]),
            ("filled", SimpleImputer(), ["grade", "rooms"]),
        ]
    )
    pipeline = make_pipeline(steps, LogisticRegression()).fit(sample[["grade", "rooms"]], target)
    assert publish_here(pipeline, sample[["grade", "rooms"]], tmp_path).report.format == "onnx"


def test_a_target_encoder_of_several_classes_is_not_translated(sample: pd.DataFrame) -> None:
    features = sample[["plan"]]
    pipeline = make_pipeline(TargetEncoder(), LogisticRegression()).fit(features, np.arange(ROWS) % 3)
    inferred = infer_features(features)
    with pytest.raises(NotTranslated, match="several classes"):
        translate(pipeline, pack(inferred), inferred, "FP64")


@given(st.lists(st.text(max_size=6), min_size=2, max_size=8, unique=True), st.text(max_size=6))
def test_any_text_is_looked_up_as_it_is(categories: list[str], asked: str) -> None:
    """Marks that part columns from values in the lookup must not be mistaken for values, nor the reverse."""
    kept = [text for text in categories if text < "\ud800" or text > "\udfff"] or ["a", "b"]
    frame = pd.DataFrame({"one": pd.Series(kept, dtype=object), "two": pd.Series(kept[::-1], dtype=object)})
    frame = pd.concat([frame, frame])
    encoder = OneHotEncoder(handle_unknown="ignore")
    pipeline = make_pipeline(encoder, Ridge()).fit(frame, np.arange(len(frame), dtype=float))
    features = infer_features(frame)
    model = translate(pipeline, pack(features), features, "FP64").model
    wanted = pd.DataFrame({"one": [asked], "two": [kept[0]]})
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answered = session.run(None, {"input": wanted.to_numpy(object)})[0]
    assert answered == pytest.approx(pipeline.predict(wanted), rel=1e-5, abs=1e-5)
