"""The people's format: rows by name or by position, answers in the caller's order, bad rows beside good ones."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.codecs.rows import RowCodec
from keelway.errors import InvalidInput, MalformedRequest, Unsupported
from keelway.types import Array, InferenceResponse, OutputRoles, RowRequest, Tensor, datatype_of

CODEC = RowCodec()
NO_ROLES = OutputRoles()
ROLES = OutputRoles("label", "probabilities", ("no", "yes"))


def rows_of(document: Any) -> Sequence[Any]:
    request = CODEC.parse(json.dumps(document).encode(), None)
    assert isinstance(request, RowRequest)
    assert not request.atomic
    return request.rows


def answer(
    outputs: Mapping[str, Array],
    roles: OutputRoles = NO_ROLES,
    rows: int | None = None,
    row_errors: Mapping[int, Exception] = {},
    positions: Sequence[int] | None = None,
    tags: Sequence[str] = (),
) -> Any:
    tensors = [Tensor(name, datatype_of(data.dtype), data) for name, data in outputs.items()]
    response = InferenceResponse(
        "churn", "1.2.0", "sha256:d", 3, "r-1", 1_769_860_800.25, tensors, roles, rows, row_errors, positions, tags
    )

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(CODEC.encode(response, RowRequest([])).body, parse_constant=refuse)


# Requests


@pytest.mark.parametrize(
    ("document", "rows"),
    [
        ({"instances": [{"a": 1}, {"a": 2}]}, [{"a": 1}, {"a": 2}]),
        ({"instances": [[1, 2], [3, 4]]}, [[1, 2], [3, 4]]),
        ({"instances": [1.5, None, "x"]}, [1.5, None, "x"]),
        ({"instances": []}, []),
        ({"features": {"a": 1}}, [{"a": 1}]),
        ({"features": [1, "x", None]}, [[1, "x", None]]),
        ({"features": [[1, 2], [3, 4]]}, [[1, 2], [3, 4]]),
        ({"features": [{"a": 1}, {"a": 2}]}, [{"a": 1}, {"a": 2}]),
        ({"features": []}, [[]]),
        ({"features": {}}, [{}]),
        ({"instances": [[1]], "features": None, "note": "ignored"}, [[1]]),
    ],
)
def test_one_row_or_many_by_name_or_by_position(document: Any, rows: Any) -> None:
    # R2
    assert rows_of(document) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the body is not valid JSON"),
        (b'{"instances": [[1]]', "the body is not valid JSON"),
        (b'{"instances": [[NaN]]}', "the body is not valid JSON"),
        (b'{"instances": [["\xff"]]}', "the body is not valid JSON"),
        (b'{"instances": [{"\xff": 1}]}', "the body is not valid JSON"),
        (b"[[1, 2]]", "the body does not fit: Expected `object`, got `array`"),
        (b'{"instances": 5}', "the body does not fit: Expected `array | null`, got `int` - at `$.instances`"),
        (b'{"features": 5}', "the body does not fit: Expected `object | array | null`, got `int` - at `$.features`"),
        (b"{}", 'the body must be an object with "instances" (a list of rows) or "features" (one row or many)'),
        (
            b'{"instances": [[1]], "features": [1]}',
            'the body must be an object with "instances" (a list of rows) or "features" (one row or many)',
        ),
    ],
)
def test_what_is_no_request_is_malformed_and_says_what_is_wanted(content: bytes, message: str) -> None:
    # R3
    with pytest.raises(MalformedRequest) as refused:
        CODEC.parse(content, None)
    assert refused.value.message == message


def test_nesting_is_capped_before_parsing() -> None:
    # R3
    assert RowCodec(max_nesting=4).parse(b'{"instances": [[[1]]]}', None) == RowRequest([[[1]]])
    with pytest.raises(MalformedRequest, match="deeper than 4 levels"):
        RowCodec(max_nesting=4).parse(b'{"instances": [[[[1]]]]}', None)
    with pytest.raises(MalformedRequest, match="not valid JSON"):
        RowCodec(max_nesting=10**6).parse(b'{"instances": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", None)


def test_binary_tensors_belong_to_another_route() -> None:
    with pytest.raises(MalformedRequest, match="understood on the /v2 routes only"):
        CODEC.parse(b'{"instances": [[1]]}', 20)


# Answers


def test_a_classifier_answers_labels_and_probabilities_and_says_which_version_it_is() -> None:
    # R2 R6
    document = answer(
        {"label": np.array(["yes", "no"], object), "probabilities": np.array([[0.1, 0.9], [0.8, 0.2]], "<f4")},
        ROLES,
        rows=2,
    )
    assert document == {
        "model": "churn",
        "model_version": "1.2.0",
        "model_digest": "sha256:d",
        "policy_revision": 3,
        "request_id": "r-1",
        "time": "2026-01-31T12:00:00.250000Z",
        "predictions": ["yes", "no"],
        "labels": ["no", "yes"],
        "probabilities": [[0.1, 0.9], [0.8, 0.2]],
    }


def test_bad_rows_leave_a_null_at_their_place_and_an_entry_among_the_errors() -> None:
    # R2
    document = answer(
        {"label": np.array([10, 30], "<i8"), "probabilities": np.array([[0.5, 0.5], [1, 0]])},
        ROLES,
        rows=2,
        row_errors={3: ValueError("its own text"), 1: InvalidInput("'age' is missing", field="age")},
        positions=[0, 2],
        tags=["out_of_range:age"],
    )
    assert document["predictions"] == [10, None, 30, None]
    assert document["probabilities"] == [[0.5, 0.5], None, [1.0, 0.0], None]
    assert document["errors"] == [
        {"row": 1, "code": "INVALID_ARGUMENT", "message": "'age' is missing", "field": "age"},
        {"row": 3, "code": "INTERNAL", "message": "this row could not be answered"},
    ]
    assert document["flags"] == ["out_of_range:age"]


@given(st.data())
def test_answers_stand_at_the_place_of_their_row(data: st.DataObject) -> None:
    # R2
    total = data.draw(st.integers(1, 8))
    bad = data.draw(st.sets(st.integers(0, total - 1), max_size=total - 1))
    good = [row for row in range(total) if row not in bad]
    dtype = data.draw(st.sampled_from(["<i8", "<f4", "<f8", "?", object]))
    values = np.array([str(row) if dtype is object else row for row in good], dtype)
    array = np.stack([values, values], axis=1) if data.draw(st.booleans()) else values
    document = answer(
        {"y": array}, rows=len(good), row_errors={row: InvalidInput("bad") for row in bad}, positions=good
    )
    expected: list[Any] = [None] * total
    for row, value in zip(good, array.tolist(), strict=True):
        expected[row] = value
    assert document["predictions"] == expected
    assert [entry["row"] for entry in document.get("errors", [])] == sorted(bad)


def test_a_model_without_roles_answers_its_only_output_by_row() -> None:
    # R2
    assert answer({"y": np.array([[1.5], [2.5]])}, rows=2)["predictions"] == [[1.5], [2.5]]


def test_a_model_of_several_outputs_answers_an_object_a_row() -> None:
    # R2
    outputs = {"y": np.array([1.5, 2.5]), "t": np.array(["a", b"b"], object), "v": np.array([[1, 2], [3, 4]])}
    assert answer(outputs, rows=2)["predictions"] == [
        {"y": 1.5, "t": "a", "v": [1, 2]},
        {"y": 2.5, "t": "b", "v": [3, 4]},
    ]
    beside = answer(outputs, rows=2, row_errors={0: InvalidInput("bad")}, positions=[1, 2])
    assert beside["predictions"] == [None, {"y": 1.5, "t": "a", "v": [1, 2]}, {"y": 2.5, "t": "b", "v": [3, 4]}]


def test_a_model_without_a_batch_axis_answers_its_one_row_in_a_list_as_others_do() -> None:
    # R2
    assert answer({"y": np.arange(3)})["predictions"] == [[0, 1, 2]]
    assert answer({"y": np.array(2.5, "<f4")})["predictions"] == [2.5]
    assert answer({"y": np.array("a", object)})["predictions"] == ["a"]
    assert answer({"y": np.arange(2), "z": np.ones(())})["predictions"] == [{"y": [0, 1], "z": 1.0}]


def test_numbers_that_json_has_no_word_for_become_null() -> None:
    # R3
    values = np.array([np.nan, np.inf, 0.1], "<f4")
    assert answer({"y": values}, rows=3)["predictions"] == [None, None, 0.1]
    beside = answer({"y": values}, rows=3, row_errors={0: InvalidInput("bad")}, positions=[1, 2, 3])
    assert beside["predictions"] == [None, None, None, 0.1]
    pairs = answer({"y": values, "z": values}, rows=3)["predictions"]
    assert pairs[1:] == [{"y": None, "z": None}, {"y": 0.1, "z": 0.1}]


def test_every_memory_order_is_written_row_by_row() -> None:
    values = np.arange(6, dtype="<f4").reshape(2, 3).T
    assert answer({"y": values}, rows=3)["predictions"] == [[0, 3], [1, 4], [2, 5]]
    beside = answer({"y": values}, rows=3, row_errors={1: InvalidInput("bad")}, positions=[0, 2, 3])
    assert beside["predictions"] == [[0, 3], None, [1, 4], [2, 5]]


def test_bytes_that_are_no_text_are_said_to_be_unsupported() -> None:
    with pytest.raises(Unsupported, match="not UTF-8 text"):
        answer({"y": np.array([b"\xff"], object)}, rows=1)


def test_the_time_is_rfc_3339_in_utc() -> None:
    # R2
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", answer({"y": np.ones(1)})["time"])
