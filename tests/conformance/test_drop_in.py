"""The request shapes of TensorFlow Serving, KServe V1 and MLflow, as data: what their own clients send, and what they
get. Paths of versions, model status and the forms of errors are in tests/transports/rest. # R7"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from tests.conformance.clients import Addresses
from tests.conformance.row_cases import GOOD, loan
from tests.conformance.row_models import ROW_MODELS
from tests.serving import Server, Shelf
from tests.wire import ask


class Shape(NamedTuple):
    """A body and its answer, or a word of the error's text where the status is another than 200."""

    id: str
    model: str
    body: Any
    answer: Any
    status: int = 200


B64 = {"b64": base64.b64encode("Zürich".encode()).decode()}
OUTSIDE = "'age' is outside its declared range"

TENSORFLOW = [
    Shape("instances by name", "loan", {"instances": [loan(), loan(member=False)]}, {"predictions": ["yes", "no"]}),
    Shape("a text in base64", "loan", {"instances": [loan(city=B64)]}, {"predictions": ["yes"]}),
    Shape("null where it may stand", "loan", {"instances": [loan(income=None)]}, {"predictions": ["yes"]}),
    Shape(
        "columns by name",
        "loan",
        {"inputs": {"age": [40, 50], "income": [1, None], "city": ["Basel", B64], "member": [True, False]}},
        {"outputs": ["yes", "no"]},
    ),
    Shape(
        "instances of a model of several outputs",
        "sums",
        {"instances": [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}]},
        {"predictions": [{"sum": 3.0, "product": 2.0}, {"sum": 7.0, "product": 12.0}]},
    ),
    Shape(
        "columns of a model of several outputs",
        "sums",
        {"inputs": {"a": [1.0, 3.0], "b": [2.0, 4.0]}},
        {"outputs": {"sum": [3.0, 7.0], "product": [2.0, 12.0]}},
    ),
    Shape(
        "rows in the order of the model",
        "sums",
        {"instances": [[1.0, 2.0]]},
        {"predictions": [{"sum": 3.0, "product": 2.0}]},
    ),
    Shape(
        "instances that are tensors",
        "identity-int64",
        {"instances": [[1, 2], [3, 4]]},
        {"predictions": [[1, 2], [3, 4]]},
    ),
    Shape("named tensors", "identity-int64", {"instances": [{"x": [1, 2]}]}, {"predictions": [[1, 2]]}),
    Shape("a column of tensors", "identity-int64", {"inputs": {"x": [[1, 2], [3, 4]]}}, {"outputs": [[1, 2], [3, 4]]}),
    Shape(
        "the only column without its name",
        "identity-int64",
        {"inputs": [[1, 2], [3, 4]]},
        {"outputs": [[1, 2], [3, 4]]},
    ),
    Shape("scalars for the only feature", "halves", {"instances": [1.0, 3.0]}, {"predictions": [0.5, 1.5]}),
    Shape("a column of scalars", "halves", {"inputs": [1.0, 3.0]}, {"outputs": [0.5, 1.5]}),
    Shape("numbers JSON has no word for", "strange", {"instances": [1.0]}, {"predictions": [[None, None, None, 1.0]]}),
    Shape("one bad row of two", "loan", {"instances": [loan(), loan(age=130)]}, f"row 1: {OUTSIDE}", 400),
    Shape("columns of different lengths", "sums", {"inputs": {"a": [1.0], "b": [2.0, 3.0]}}, "rows", 400),
    Shape("a column that is missing", "sums", {"inputs": {"a": [1.0]}}, "'b'", 400),
    Shape("a column nobody asked for", "sums", {"inputs": {"a": [1.0], "b": [1.0], "c": [1.0]}}, "no such", 400),
    Shape("another signature", "sums", {"instances": [[1.0, 2.0]], "signature_name": "train"}, "serving_default", 501),
]

COLUMNS = ["member", "city", "age", "income"]


def split(*rows: Mapping[str, Any], **more: Any) -> Any:
    return {"dataframe_split": {"columns": COLUMNS, "data": [[row[name] for name in COLUMNS] for row in rows], **more}}


NO = loan(member=False)
IN_ORDER = [list(GOOD.values()), list(NO.values())]

MLFLOW = [
    Shape("a split frame", "", split(loan(), NO), ["yes", "no"]),
    Shape("a split frame with an index", "", split(loan(), NO, index=["x", "y"]), ["yes", "no"]),
    Shape("a split frame without names", "", {"dataframe_split": {"data": IN_ORDER}}, ["yes", "no"]),
    Shape("records", "", {"dataframe_records": [loan(), NO]}, ["yes", "no"]),
    Shape("records with null", "", {"dataframe_records": [loan(income=None)]}, ["yes"]),
    Shape("instances by name", "", {"instances": [loan(), NO]}, ["yes", "no"]),
    Shape("instances in order", "", {"instances": IN_ORDER}, ["yes", "no"]),
    Shape("inputs by row", "", {"inputs": [loan(), NO]}, ["yes", "no"]),
    Shape(
        "inputs by column",
        "",
        {"inputs": {name: [GOOD[name], NO[name]] for name in COLUMNS}},
        ["yes", "no"],
    ),
    Shape("parameters, which no model here takes", "", {"dataframe_records": [loan()], "params": {"a": 1}}, ["yes"]),
    Shape("one bad row of two", "", {"dataframe_records": [loan(), loan(age=130)]}, f"row 1: {OUTSIDE}", 400),
    Shape("a column that is missing", "", {"dataframe_records": [{"age": 1}]}, "is missing", 400),
    Shape("two forms at once", "", {"instances": [loan()], "inputs": [loan()]}, "exactly one", 400),
]


@pytest.fixture(scope="module")
def single() -> Iterator[str]:
    """The URL of a server of one model: MLflow's route names none."""
    shelf = Shelf().put("loan", "1.0.0", ROW_MODELS["loan"]).want("loan", "1.0.0")
    with Server(shelf) as running:
        yield running.url


@pytest.mark.parametrize("shape", TENSORFLOW, ids=lambda shape: shape.id)
def test_tensorflow_servings_shapes(server: Addresses, shape: Shape) -> None:
    reply = ask(f"{server.http}/v1/models/{shape.model}:predict", "POST", shape.body)
    assert reply.status == shape.status, reply.body
    if shape.status == 200:
        assert reply.json == shape.answer
    else:
        assert reply.json.keys() == {"error"}
        assert shape.answer in reply.json["error"]


@pytest.mark.parametrize("shape", MLFLOW, ids=lambda shape: shape.id)
def test_mlflows_shapes(single: str, shape: Shape) -> None:
    reply = ask(f"{single}/invocations", "POST", shape.body)
    assert reply.status == shape.status, reply.body
    if shape.status == 200:
        assert reply.json == {"predictions": shape.answer}
    else:
        assert reply.json["error_code"] == "BAD_REQUEST"
        assert shape.answer in reply.json["message"]


def test_the_columns_of_a_frame_need_not_be_json_numbers_of_one_kind(single: str) -> None:
    """pandas writes whole numbers of a column of floats as 40.0 and others' as 40."""
    body = json.dumps(split(loan(age=40), loan(age=40.0))).encode()
    assert ask(f"{single}/invocations", "POST", body).json == {"predictions": ["yes", "yes"]}
