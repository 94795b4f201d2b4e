"""What a push learns of its sample as a whole. # X1"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from keelway.contract.signature import ModelSignature, infer_features, pack
from keelway.publish import anomalies
from keelway.publish.anomalies import anomaly_lines, described, learn
from keelway.types import TensorSpec


def frame(rows: int) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": random.normal(50, 10, rows),
            "town": random.choice(["Bonn", "Rom"], rows),
            "owner": random.random(rows) > 0.5,
            "income": random.normal(50, 10, rows),
            "kind": random.integers(0, 2, rows),
        }
    )


def signature(sample: pd.DataFrame) -> ModelSignature:
    features = infer_features(sample)
    return ModelSignature(features, pack(features), (TensorSpec("y", "FP32", (-1,)),))


def test_only_numbers_that_vary_have_a_say_rounded_as_the_model_sees_them() -> None:
    sample = frame(400)
    detector = learn(sample, signature(sample))
    assert detector is not None
    assert detector.features == ("age", "income")
    rounded = learn(sample.astype({"age": "float32", "income": "float32"}), signature(sample))
    assert rounded == detector
    assert learn(sample[["income", "age", "town", "owner", "kind"]], signature(sample)) == detector


def test_a_sample_without_numbers_or_with_few_rows_teaches_nothing_and_the_push_says_so() -> None:
    words = frame(400)[["town", "owner"]]
    assert learn(words, signature(words)) is None
    assert anomaly_lines(described(None, 400)) == [
        "no anomaly detector: no feature is a number with more than two values"
    ]
    few = frame(150)
    assert learn(few, signature(few)) is None
    assert anomaly_lines(described(None, 150)) == ["no anomaly detector: the sample has 150 rows, it takes 198"]


def test_of_a_large_sample_some_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anomalies, "MAX_ROWS", 500)
    sample = frame(3_000)
    detector = learn(sample, signature(sample))
    assert detector is not None
    assert detector.fitted + detector.held_out == 500


def test_what_many_rows_support_is_said_in_one_number() -> None:
    sample = frame(20_000)
    detector = learn(sample, signature(sample))
    assert anomaly_lines(described(detector, 20_000)) == ["anomaly detector on 2 features, false-positive rate 0.001"]


def test_the_values_of_a_target_are_classes_where_that_finds_more() -> None:
    random = np.random.default_rng(0)
    turned = random.random(1_000) > 0.5
    first = random.normal(size=1_000)
    second = np.where(turned, -first, first)
    sample = pd.DataFrame({"a": first, "b": second, "c": second}) + 0.05 * random.normal(size=(1_000, 3))
    target = pd.Series(np.where(turned, "no", "yes"))
    target[:10] = None
    detector = learn(sample, signature(sample), target)
    found = described(detector, 1_000)
    assert found["classes"] == 2
    assert anomaly_lines(found)[0].startswith("anomaly detector on 3 features, 2 classes apart; 500 rows held out")
    assert described(learn(sample, signature(sample), target.sample(frac=1, random_state=0)), 1_000)["classes"] == 0
    assert described(learn(sample, signature(sample), pd.Series(first)), 1_000)["classes"] == 0
