"""Rows of named values as protobuf: what goes in comes out, and bad rows stand beside good ones. # G1"""

from __future__ import annotations

import contextlib
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.codecs.protobuf_rows import (
    CODE_NUMBERS,
    BatchPredictCodec,
    PredictCodec,
    python_value,
    wire_value,
)
from keelway.errors import ErrorCode, InvalidInput, MalformedRequest
from keelway.types import InferenceResponse, OutputRoles, RowRequest, Tensor
from keelway.wire.model_service_pb2 import (
    NULL,
    BatchPredictRequest,
    BatchPredictResponse,
    List,
    PredictRequest,
    PredictResponse,
    Row,
    Value,
)

ONE, MANY = PredictCodec(), BatchPredictCodec()
ROLES = OutputRoles("label", "probabilities", ("No", "Yes"))
LABELS = Tensor("label", "BYTES", np.array(["Yes", "No"], dtype=object))
PROBABILITIES = Tensor("probabilities", "FP32", np.array([[0.25, 0.75], [0.5, 0.5]], np.float32))


def response(*tensors: Tensor, **more: Any) -> InferenceResponse:
    return InferenceResponse("m", "1.2.0", "sha256:abc", 7, "r-1", 1.5, tensors, **{"rows": 2} | more)


def batch(*tensors: Tensor, **more: Any) -> BatchPredictResponse:
    return BatchPredictResponse.FromString(MANY.encode(response(*tensors, **more), RowRequest(())).body)


def test_every_code_has_grpcs_own_number() -> None:
    assert {code: grpc.StatusCode[code.name].value[0] for code in ErrorCode} == CODE_NUMBERS


KINDS = {
    "number": (Value(number=0.1), 0.1),
    "integer": (Value(integer=-(2**63)), -(2**63)),
    "unsigned": (Value(unsigned=2**64 - 1), 2**64 - 1),
    "text": (Value(text="Zürich"), "Zürich"),
    "flag": (Value(flag=False), False),
    "data": (Value(data=b"\xff"), b"\xff"),
    "null": (Value(null=NULL), None),
    "list": (Value(list=List(values=[Value(integer=1), Value(list=List())])), [1, []]),
}


@pytest.mark.parametrize(("wire", "value"), KINDS.values(), ids=KINDS)
def test_a_value_is_the_same_on_both_sides(wire: Value, value: Any) -> None:
    assert python_value(wire, 32) == value
    assert type(python_value(wire, 32)) is type(value)
    assert wire_value(value) == wire


def test_a_value_without_a_kind_is_missing() -> None:
    assert python_value(Value(), 32) is None


def test_values_of_arrays_are_plain_ones() -> None:
    assert wire_value(np.float32(0.5)) == Value(number=0.5)
    assert wire_value(np.array([[1, 2]])) == wire_value([[1, 2]])
    assert wire_value(b"text") == Value(text="text")


def test_a_row_is_parsed_with_the_model_it_names() -> None:
    message = PredictRequest(model="m", version="champion", features={"age": Value(number=41)})
    request = ONE.parse(message.SerializeToString(), None)
    assert request == RowRequest([{"age": 41.0}], model="m", selector="champion")
    many = BatchPredictRequest(model="m", rows=[Row(features={"age": Value(integer=1)}), Row()])
    assert MANY.parse(many.SerializeToString(), None) == RowRequest([{"age": 1}, {}], model="m")


@pytest.mark.parametrize("codec", [ONE, MANY], ids=["one", "many"])
def test_what_is_no_message_is_refused(codec: PredictCodec | BatchPredictCodec) -> None:
    with pytest.raises(MalformedRequest, match="PredictRequest"):
        codec.parse(b"\xff\xff", None)


def test_lists_nest_as_deep_as_allowed_and_no_deeper() -> None:  # R3
    def nested(depth: int) -> bytes:
        value = Value(integer=1)
        for _ in range(depth):
            value = Value(list=List(values=[value]))
        return PredictRequest(model="m", features={"x": value}).SerializeToString()

    codec = PredictCodec(max_nesting=3)
    assert codec.parse(nested(3), None)
    with pytest.raises(MalformedRequest, match="too deep"):
        codec.parse(nested(4), None)


def test_a_prediction_has_its_confidence_and_says_what_gave_it() -> None:  # R6
    answer = PredictResponse.FromString(
        ONE.encode(
            response(
                Tensor("label", "BYTES", LABELS.data[:1]),
                Tensor("probabilities", "FP32", PROBABILITIES.data[:1]),
                rows=1,
                roles=ROLES,
                tags=("out_of_range:age",),
                latency=0.0012345,
            ),
            RowRequest(()),
        ).body
    )
    assert answer.prediction.value.text == "Yes"
    assert answer.prediction.confidence == 0.75
    assert list(answer.prediction.probabilities) == [0.25, 0.75]
    served = answer.served
    assert (served.model, served.version, served.digest, served.policy_revision) == ("m", "1.2.0", "sha256:abc", 7)
    assert (served.request_id, served.time, served.latency_us) == ("r-1", "1970-01-01T00:00:01.500000Z", 1234)
    assert [label.text for label in served.labels] == ["No", "Yes"]
    assert list(served.flags) == ["out_of_range:age"]


def test_bad_rows_stand_in_their_places_beside_the_good_ones() -> None:  # R2
    error = InvalidInput("'age' must be a number, not text", field="age")
    answer = batch(LABELS, PROBABILITIES, roles=ROLES, positions=[0, 2], row_errors={1: error, 3: ValueError("secret")})
    assert [result.WhichOneof("outcome") for result in answer.results] == ["prediction", "error", "prediction", "error"]
    assert answer.results[2].prediction.value.text == "No"
    bad = answer.results[1].error
    assert (bad.code, bad.message, bad.field) == (3, error.message, "age")
    assert (answer.results[3].error.code, "secret" in answer.results[3].error.message) == (13, False)


def test_a_regression_has_a_value_and_no_confidence() -> None:
    answer = batch(Tensor("value", "FP32", np.array([1.5, 2.5], np.float32)), roles=OutputRoles("value"))
    assert [result.prediction.value.number for result in answer.results] == [1.5, 2.5]
    assert not answer.results[0].prediction.HasField("confidence")


def test_a_label_that_is_not_among_the_labels_has_no_confidence() -> None:
    answer = batch(
        Tensor("label", "INT64", np.array([7, 0])), PROBABILITIES, roles=OutputRoles("label", "probabilities", (0, 1))
    )
    assert not answer.results[0].prediction.HasField("confidence")
    assert answer.results[1].prediction.confidence == 0.5


def test_a_model_without_roles_answers_all_outputs_by_name() -> None:
    answer = batch(Tensor("a", "FP32", np.array([1, 2], np.float32)), Tensor("b", "INT64", np.array([[1], [2]])))
    assert answer.results[1].prediction.outputs["a"].number == 2
    assert python_value(answer.results[1].prediction.outputs["b"], 2) == [2]


def test_a_model_without_a_batch_axis_answers_once() -> None:
    answer = batch(Tensor("y", "FP64", np.array([[1.0, 2.0], [3.0, 4.0]])), rows=None)
    (result,) = answer.results
    assert python_value(result.prediction.outputs["y"], 3) == [[1.0, 2.0], [3.0, 4.0]]


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_an_error_of_the_callers(body: bytes) -> None:
    for codec in (ONE, MANY):
        with contextlib.suppress(InvalidInput):
            codec.parse(body, None)


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8)
)


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=8))
def test_any_value_survives_the_wire(value: Any) -> None:
    assert python_value(Value.FromString(wire_value(value).SerializeToString()), 64) == value
