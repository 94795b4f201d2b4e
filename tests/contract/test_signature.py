"""Signatures: inferred from a sample, packed into tensors, and judged as a whole."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.contract.signature import Feature, ModelSignature, infer_features, pack, validate_signature
from keelway.errors import InvalidInput
from keelway.types import NUMPY_DTYPES, TensorSpec

MIXED = pd.DataFrame(
    {
        "age": [31, 58],
        "city": ["Bonn", None],
        "income": [1.5, np.nan],
        "owner": [True, False],
        "visits": pd.array([1, None], dtype="Int64"),
        "plan": pd.Categorical(["a", "b"]),
    }
)


def test_columns_become_features_in_their_order() -> None:
    # S2
    assert infer_features(MIXED) == (
        Feature("age", "FP32"),
        Feature("city", "BYTES", nullable=True),
        Feature("income", "FP32", nullable=True),
        Feature("owner", "BOOL"),
        Feature("visits", "FP32", nullable=True),
        Feature("plan", "BYTES"),
    )


def test_numbers_can_be_kept_in_float64() -> None:
    assert [feature.datatype for feature in infer_features(MIXED, number="FP64")] == [
        "FP64", "BYTES", "FP64", "BOOL", "FP64", "BYTES",
    ]  # fmt: skip


def test_a_nan_inside_an_arrow_or_masked_column_is_a_missing_value() -> None:
    arrow = pd.Series(pd.arrays.ArrowExtensionArray(pa.array([1.0, float("nan")])))
    assert infer_features(pd.DataFrame({"a": arrow}))[0].nullable


def test_a_categorical_of_numbers_is_a_number() -> None:
    assert infer_features(pd.DataFrame({"a": pd.Categorical([1, 2])})) == (Feature("a", "FP32"),)


def test_a_column_of_mixed_types_is_refused() -> None:
    with pytest.raises(InvalidInput, match="column 'b' holds values of mixed types"):
        infer_features(pd.DataFrame({"a": [1, 2], "b": [1, "x"]}))


def test_a_datetime_column_is_refused_by_its_name_as_text() -> None:
    with pytest.raises(InvalidInput, match="column '7' holds dates"):
        infer_features(pd.DataFrame({7: pd.to_datetime(["2020-01-01"])}))


def test_a_boolean_with_gaps_is_refused_because_no_tensor_can_hold_it() -> None:
    # V1
    with pytest.raises(InvalidInput, match="booleans and missing values"):
        infer_features(pd.DataFrame({"a": pd.array([True, None], dtype="boolean")}))


def test_number_names_become_text_and_may_then_collide() -> None:
    assert [feature.name for feature in infer_features(pd.DataFrame([[1, 2]]))] == ["0", "1"]
    with pytest.raises(InvalidInput, match="'1' occurs more than once"):
        infer_features(pd.DataFrame([[1, 2]], columns=[1, "1"]))


def test_a_repeated_column_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'a' occurs more than once"):
        infer_features(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_columns_of_one_datatype_share_one_tensor() -> None:
    features = infer_features(MIXED[["age", "income"]])
    assert pack(features) == (TensorSpec("input", "FP32", (-1, 2), ("age", "income")),)


def test_each_datatype_has_a_tensor_of_its_own() -> None:
    assert pack(infer_features(MIXED)) == (
        TensorSpec("input_fp32", "FP32", (-1, 3), ("age", "income", "visits")),
        TensorSpec("input_bytes", "BYTES", (-1, 2), ("city", "plan")),
        TensorSpec("input_bool", "BOOL", (-1, 1), ("owner",)),
    )


def test_a_feature_with_a_shape_is_a_tensor_of_its_own() -> None:
    assert pack([Feature("image", "UINT8", shape=(32, 32, 3)), Feature("age", "FP32")]) == (
        TensorSpec("input", "FP32", (-1, 1), ("age",)),
        TensorSpec("image", "UINT8", (-1, 32, 32, 3)),
    )


def test_a_packed_tensor_is_never_named_like_a_feature() -> None:
    names = [spec.name for spec in pack([Feature("input", "FP32"), Feature("input_", "FP32")])]
    assert names == ["input__"]
    assert [spec.name for spec in pack([Feature("input", "FP32", shape=(2,)), Feature("a", "FP32")])] == [
        "input_",
        "input",
    ]


FEATURES = st.lists(
    st.builds(
        Feature,
        name=st.sampled_from(["input", "input_fp32", "input_", "a", "b", "ü", "c.d"]) | st.text(min_size=1, max_size=5),
        datatype=st.sampled_from(sorted(NUMPY_DTYPES)),
        nullable=st.just(False),
        shape=st.just(()) | st.lists(st.integers(1, 5), max_size=3).map(tuple),
    ),
    min_size=1,
    unique_by=lambda feature: feature.name,
)
OUTPUT = TensorSpec("label", "INT64", (-1,))


@given(FEATURES)
def test_what_is_packed_is_always_valid(features: list[Feature]) -> None:
    validate_signature(ModelSignature(tuple(features), pack(features), (OUTPUT,)))


VALID = ModelSignature(
    features=(
        Feature("a", "FP32", nullable=True),
        Feature("b", "FP32"),
        Feature("t", "BYTES"),
        Feature("v", "FP32", shape=(3,)),
    ),
    inputs=(
        TensorSpec("x", "FP32", (-1, 2), ("a", "b")),
        TensorSpec("t", "BYTES", (-1, 1)),
        TensorSpec("v", "FP32", (-1, 3)),
    ),
    outputs=(TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))),
    label_output="label",
    probability_output="probabilities",
)


def test_a_sound_signature_passes() -> None:
    validate_signature(VALID)
    unbatched = ModelSignature((Feature("x", "FP32", shape=(3,)),), (TensorSpec("x", "FP32", (3,)),), (OUTPUT,))
    validate_signature(unbatched)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"inputs": ()}, "no input"),
        ({"outputs": ()}, "no output"),
        ({"outputs": (OUTPUT, OUTPUT)}, "output 'label' occurs more than once"),
        ({"outputs": (TensorSpec("", "FP32", (-1,)),)}, "nameless output"),
        ({"outputs": (TensorSpec("label", "FLOAT", (-1,)),)}, "unknown datatype"),
        ({"outputs": (TensorSpec("label", "FP32", (-1, 0)),)}, "axis shorter than 1"),
        ({"outputs": (TensorSpec("label", "FP32", (-2,)),)}, "axis shorter than 1"),
        ({"inputs": (*VALID.inputs, VALID.inputs[0])}, "input 'x' occurs more than once"),
        ({"inputs": (*VALID.inputs, TensorSpec("y", "FP32", (-1, 1), ("a",)))}, "column 'a' occurs more than once"),
        ({"inputs": (*VALID.inputs, TensorSpec("y", "FP32", (-1,)))}, "takes 'y', which is no feature"),
        ({"inputs": VALID.inputs[:2]}, "feature 'v' is in no input"),
        ({"inputs": (TensorSpec("x", "FP32", (-1, 3), ("a", "b")), *VALID.inputs[1:])}, "names 2 columns"),
        ({"inputs": (TensorSpec("x", "FP64", (-1, 2), ("a", "b")), *VALID.inputs[1:])}, "FP32, its input 'x' is FP64"),
        ({"inputs": (*VALID.inputs[:2], TensorSpec("v", "FP32", (-1, 4)))}, "shape of the feature 'v'"),
        ({"inputs": (VALID.inputs[0], TensorSpec("t", "BYTES", (-1, 2)), VALID.inputs[2])}, "shape of the feature 't'"),
        ({"features": (*VALID.features, VALID.features[0])}, "feature 'a' occurs more than once"),
        ({"features": (Feature("a", "FP32", shape=(2,)), *VALID.features[1:])}, "shape of the feature 'a'"),
        ({"label_output": "lable"}, "label_output names 'lable'"),
        ({"probability_output": "p"}, "probability_output names 'p'"),
    ],
)  # fmt: skip
def test_a_signature_that_breaks_a_promise_is_refused(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidInput, match=expected) as caught:
        validate_signature(msgspec.structs.replace(VALID, **change))
    assert caught.value.hint


def test_a_nullable_integer_is_refused_because_no_tensor_can_hold_it() -> None:
    # V1
    features = (Feature("a", "INT64", nullable=True),)
    with pytest.raises(InvalidInput, match="'a' is nullable, which INT64 cannot express"):
        validate_signature(ModelSignature(features, pack(features), (OUTPUT,)))
