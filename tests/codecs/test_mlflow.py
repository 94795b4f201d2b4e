"""MLflow's scoring format: its four forms, and one answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from keelway.codecs.mlflow import MlflowCodec
from keelway.errors import InvalidInput, MalformedRequest
from keelway.types import ColumnRequest, InferenceRequest, InferenceResponse, OutputRoles, RowRequest, Tensor

CODEC = MlflowCodec()
NAMED = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def parse(document: Any) -> InferenceRequest:
    return CODEC.parse(json.dumps(document).encode(), None)


@pytest.mark.parametrize(
    "document",
    [
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1, "x"], [2, "y"]]}},
        {"dataframe_split": {"columns": ["b", "a"], "index": [7, 8], "data": [["x", 1], ["y", 2]]}},
        {"dataframe_records": NAMED},
        {"instances": NAMED},
        {"inputs": NAMED},
        {"dataframe_records": NAMED, "params": {"any": 1}},
    ],
)
def test_every_form_of_a_frame_is_the_same_rows(document: Any) -> None:
    # R7
    assert parse(document) == RowRequest(NAMED, atomic=True)


def test_what_pandas_writes_is_understood() -> None:
    # R7: a frame without names has numbers for columns, and features of such a sample are called "0", "1".
    frame = pd.DataFrame(NAMED)
    assert parse({"dataframe_split": frame.to_dict(orient="split")}) == RowRequest(NAMED, atomic=True)
    assert parse({"dataframe_records": frame.to_dict(orient="records")}) == RowRequest(NAMED, atomic=True)
    nameless = pd.DataFrame([[1, 2]]).to_dict(orient="split")
    assert parse({"dataframe_split": nameless}) == RowRequest([{"0": 1, "1": 2}], atomic=True)


def test_rows_without_names_stay_in_the_order_of_the_model() -> None:
    # R7
    rows = [[1, 2], [3, 4]]
    for document in ({"dataframe_split": {"data": rows}}, {"instances": rows}, {"inputs": rows}):
        assert parse(document) == RowRequest(rows, atomic=True)


def test_named_inputs_and_bare_values_are_columns() -> None:
    # R7
    assert parse({"inputs": {"a": [1, 2]}}) == ColumnRequest({"a": [1, 2]})
    assert parse({"inputs": [1, 2]}) == ColumnRequest([1, 2])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "the body must have exactly one of dataframe_split, dataframe_records, instances and inputs"),
        (
            {"instances": [[1]], "inputs": [[1]]},
            "the body must have exactly one of dataframe_split, dataframe_records, instances and inputs",
        ),
        ({"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}, "dataframe_split names a column twice"),
        ({"dataframe_split": {"columns": [1, "1"], "data": [[1, 2]]}}, "dataframe_split names a column twice"),
        (
            {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [3]]}},
            "a row of dataframe_split.data differs in length from its columns",
        ),
        ({"dataframe_split": {"columns": ["a"]}}, "missing required field `data`"),
        ({"dataframe_split": [[1]]}, "Expected `object | null`, got `array` - at `$.dataframe_split`"),
        ({"dataframe_records": [[1]]}, "Expected `object`, got `array` - at `$.dataframe_records[0]`"),
        ("text", "Expected `object`, got `str`"),
    ],
)
def test_what_is_no_request_says_what_is_wrong(document: Any, message: str) -> None:
    # R3 R7
    with pytest.raises(InvalidInput) as refused:
        parse(document)
    assert message in refused.value.message


def test_no_rows_reach_binding_as_no_rows() -> None:
    for document in ({"dataframe_records": []}, {"instances": []}, {"inputs": []}, {"dataframe_split": {"data": []}}):
        assert parse(document) == RowRequest([], atomic=True)


def test_bodies_are_capped_and_binary_tensors_refused() -> None:
    # R3
    with pytest.raises(MalformedRequest, match="deeper than 3 levels"):
        MlflowCodec(max_nesting=3).parse(b'{"instances": [[[1]]]}', None)
    with pytest.raises(MalformedRequest, match="/v2 routes only"):
        CODEC.parse(b'{"instances": [[1]]}', 4)


def test_the_answer_is_one_list_of_predictions() -> None:
    # R7
    label = Tensor("label", "INT64", np.array([0, 1]))
    share = Tensor("share", "FP64", np.array([0.5, np.nan]))

    def answer(roles: OutputRoles, *outputs: Tensor) -> Any:
        response = InferenceResponse("m", "1", "sha256:d", 0, "r-1", 0.0, outputs, roles, rows=2)
        return json.loads(CODEC.encode(response, RowRequest([])).body)

    assert answer(OutputRoles("label"), label, share) == {"predictions": [0, 1]}
    assert answer(OutputRoles(), share) == {"predictions": [0.5, None]}
    assert answer(OutputRoles(), label, share) == {
        "predictions": [{"label": 0, "share": 0.5}, {"label": 1, "share": None}]
    }
