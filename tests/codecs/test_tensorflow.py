"""TensorFlow Serving's and KServe V1's format: rows and columns, base64, and answers as their clients expect them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from keelway.codecs.tensorflow import TensorFlowCodec
from keelway.errors import MalformedRequest, Unsupported
from keelway.types import (
    Array,
    ColumnRequest,
    InferenceRequest,
    InferenceResponse,
    OutputRoles,
    RowRequest,
    Tensor,
    datatype_of,
)

CODEC = TensorFlowCodec()
NO_ROLES = OutputRoles()


def parse(document: Any) -> InferenceRequest:
    return CODEC.parse(json.dumps(document).encode(), None)


def answer(request: InferenceRequest, outputs: Mapping[str, Array], roles: OutputRoles = NO_ROLES) -> Any:
    tensors = [Tensor(name, datatype_of(data.dtype), data) for name, data in outputs.items()]
    response = InferenceResponse("m", "1", "sha256:d", 0, "r-1", 0.0, tensors, roles, rows=2)
    return json.loads(CODEC.encode(response, request).body)


ROWS = RowRequest([[1], [2]], atomic=True)
COLUMNS = ColumnRequest([[1], [2]])


def test_instances_are_rows_and_succeed_or_fail_together() -> None:
    # R7
    for rows in ([[1, 2]], [{"a": 1}], [1.5, 2.5], []):
        assert parse({"instances": rows}) == RowRequest(rows, atomic=True)


def test_inputs_are_columns_by_name_or_one_bare_list() -> None:
    # R7
    for columns in ({"a": [1, 2], "b": [3, 4]}, [[1, 2], [3, 4]], {}):
        assert parse({"inputs": columns}) == ColumnRequest(columns)


def test_the_default_signature_may_be_named_and_no_other() -> None:
    # R7
    assert parse({"instances": [1], "signature_name": "serving_default"}) == RowRequest([1], atomic=True)
    with pytest.raises(Unsupported, match="one signature here, serving_default"):
        parse({"instances": [1], "signature_name": "train"})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, 'the body must be an object with "instances" or "inputs"'),
        ({"instances": [1], "inputs": [1]}, 'the body must be an object with "instances" or "inputs"'),
        ({"instances": {"a": 1}}, "the body does not fit: Expected `array | null`, got `object` - at `$.instances`"),
        ({"inputs": 1}, "the body does not fit: Expected `object | array | null`, got `int` - at `$.inputs`"),
        ([1], "the body does not fit: Expected `object`, got `array`"),
        ({"instances": [{"b64": "%%%"}]}, "a b64 value is not valid base64"),
        ({"instances": [{"b64": "YQ"}]}, "a b64 value is not valid base64"),
        ({"instances": [{"b64": 7}]}, "a b64 value is not valid base64"),
        ({"inputs": {"t": [{"b64": "ü"}]}}, "a b64 value is not valid base64"),
    ],
)
def test_what_is_no_request_is_malformed(document: Any, message: str) -> None:
    # R3 R7
    with pytest.raises(MalformedRequest) as refused:
        parse(document)
    assert refused.value.message == message


def test_base64_becomes_bytes_wherever_it_stands() -> None:
    # R7
    raw = bytes(range(256))
    encoded = {"b64": base64.b64encode(raw).decode()}
    assert parse({"instances": [encoded, {"t": encoded, "n": 1}, [encoded, "b64"]]}) == RowRequest(
        [raw, {"t": raw, "n": 1}, [raw, "b64"]], atomic=True
    )
    assert parse({"inputs": {"t": [encoded], "n": [1]}}) == ColumnRequest({"t": [raw], "n": [1]})
    assert parse({"instances": [{"b64": "", "other": 1}]}) == RowRequest([{"b64": "", "other": 1}], atomic=True)


def test_bodies_are_capped_and_binary_tensors_refused() -> None:
    # R3
    with pytest.raises(MalformedRequest, match="deeper than 3 levels"):
        TensorFlowCodec(max_nesting=3).parse(b'{"instances": [[[1]]]}', None)
    with pytest.raises(MalformedRequest, match="/v2 routes only"):
        CODEC.parse(b'{"instances": [1]}', 4)


def test_rows_are_answered_by_predictions_and_columns_by_outputs() -> None:
    # R7
    output = {"y": np.array([[1.5], [2.5]])}
    assert answer(ROWS, output) == {"predictions": [[1.5], [2.5]]}
    assert answer(COLUMNS, output) == {"outputs": [[1.5], [2.5]]}


def test_several_outputs_are_answered_by_row_or_by_column() -> None:
    # R7
    outputs = {"y": np.array([1.5, 2.5]), "t": np.array(["a", "b"], object)}
    assert answer(ROWS, outputs) == {"predictions": [{"y": 1.5, "t": "a"}, {"y": 2.5, "t": "b"}]}
    assert answer(COLUMNS, outputs) == {"outputs": {"y": [1.5, 2.5], "t": ["a", "b"]}}


def test_a_classifier_answers_its_predicted_values() -> None:
    # R7: as KServe's scikit-learn server does.
    outputs = {"label": np.array(["no", "yes"], object), "probabilities": np.ones((2, 2))}
    roles = OutputRoles("label", "probabilities", ("no", "yes"))
    assert answer(ROWS, outputs, roles) == {"predictions": ["no", "yes"]}
    assert answer(COLUMNS, outputs, roles) == {"outputs": ["no", "yes"]}


def test_numbers_that_json_has_no_word_for_become_null() -> None:
    # R3
    assert answer(ROWS, {"y": np.array([np.nan, -np.inf])}) == {"predictions": [None, None]}
