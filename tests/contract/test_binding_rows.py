"""Rows as people send them, bound to a model: every row is judged alone, and what remains is exactly what was sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keelway.contract import binding, values
from keelway.contract.binding import Binding
from keelway.contract.signature import Feature, ModelSignature, pack, validate_signature
from keelway.errors import InvalidInput, PayloadTooLarge
from keelway.types import NUMPY_DTYPES, BoundRequest, RowRequest, TensorSpec

OUTPUT = TensorSpec("y", "FP32", (-1,))
PACKED = ModelSignature(
    (Feature("age", "FP32"), Feature("income", "FP32", nullable=True), Feature("visits", "FP32")),
    (TensorSpec("input", "FP32", (-1, 3), ("age", "income", "visits")),),
    (OUTPUT,),
)
MIXED_FEATURES = (
    Feature("age", "FP32"),
    Feature("city", "BYTES", nullable=True),
    Feature("owner", "BOOL"),
    Feature("count", "INT64"),
    Feature("pair", "FP32", shape=(2,)),
)
MIXED = ModelSignature(MIXED_FEATURES, pack(MIXED_FEATURES), (OUTPUT,))


def bind(model: ModelSignature, rows: Sequence[Any], *, atomic: bool = False, max_rows: int = 100) -> BoundRequest:
    return Binding(model, max_rows).bind(RowRequest(rows, atomic))


def refusal(model: ModelSignature, rows: Sequence[Any], *, atomic: bool = False) -> InvalidInput:
    with pytest.raises(InvalidInput) as refused:
        bind(model, rows, atomic=atomic)
    return refused.value


def messages(bound: BoundRequest) -> dict[int, str]:
    return {position: str(error) for position, error in bound.row_errors.items()}


GOOD = {"age": 41, "income": 1500.5, "visits": 2}


def test_named_and_positional_rows_are_the_same_rows() -> None:
    # R2
    expected = np.array([[41, 1500.5, 2]] * 2, "<f4")
    shuffled = {name: GOOD[name] for name in ("visits", "age", "income")}
    for rows in ([GOOD, shuffled], [[41, 1500.5, 2]] * 2, [GOOD, [41, 1500.5, 2]]):
        bound = bind(PACKED, rows)
        assert bound.inputs["input"].dtype == expected.dtype
        assert bound.inputs["input"].tolist() == expected.tolist()
        assert (bound.rows, bound.positions, bound.row_errors) == (2, None, {})


def test_what_may_be_missing_may_be_left_out_at_the_end_of_a_list() -> None:
    # S2: whoever was written before the input was added is answered.
    features = (
        Feature("age", "FP32"),
        Feature("income", "FP32", nullable=True),
        Feature("debt", "FP32", nullable=True),
    )
    model = ModelSignature(features, pack(features), (OUTPUT,))
    bound = bind(model, [[41], [41, 2], [41, 2, 3], [], [1, 2, 3, 4], [None]])
    np.testing.assert_array_equal(bound.inputs["input"], [[41, np.nan, np.nan], [41, 2, np.nan], [41, 2, 3]])
    assert messages(bound) == {
        3: "a row has 3 values, not 0",
        4: "a row has 3 values, not 4",
        5: "'age' is missing and may not be",
    }


def test_rows_of_every_kind_of_feature_reach_their_tensors() -> None:
    # R2
    row = {"age": 41, "city": "Bonn", "owner": True, "count": 2**53 + 1, "pair": [1, 2.5]}
    bound = bind(MIXED, [row, [1.5, None, False, -1, [0, 0]]])
    assert {name: array.tolist() for name, array in bound.inputs.items()} == {
        "input_fp32": [[41.0], [1.5]],
        "input_bytes": [["Bonn"], [None]],
        "input_bool": [[True], [False]],
        "input_int64": [[2**53 + 1], [-1]],
        "pair": [[1.0, 2.5], [0.0, 0.0]],
    }
    assert {name: array.dtype for name, array in bound.inputs.items()} == {
        spec.name: NUMPY_DTYPES[spec.datatype] for spec in MIXED.inputs
    }


def test_a_nullable_feature_may_be_left_out_or_null_and_no_other() -> None:
    # R2 V1
    for row in ({"age": 1, "visits": 2}, {"age": 1, "income": None, "visits": 2}, [1, None, 2]):
        assert np.isnan(bind(PACKED, [row]).inputs["input"]).tolist() == [[False, True, False]]
    for row in ({"income": 1, "visits": 2}, {"age": None, "income": 1, "visits": 2}, [None, 1, 2], {}):
        error = refusal(PACKED, [row])
        assert (error.message, error.field) == ("'age' is missing and may not be", "age")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "age": True}, "'age' must be a number, not a boolean"),
        ({**GOOD, "age": "sentinel-4711"}, "'age' must be a number, not text"),
        ({**GOOD, "age": [41]}, "'age' must be a number, not a list"),
        ({**GOOD, "age": {"sentinel-4711": 1}}, "'age' must be a number, not an object"),
        ({**GOOD, "age": 10**400}, "'age' holds a number too large for FP32"),
        ({**GOOD, "age": 1e39}, "'age' holds a number too large for FP32"),
        ([41, 1500.5], "a row has 3 values, not 2"),
        ([41, 1500.5, 2, 3], "a row has 3 values, not 4"),
        ([[41, 1500.5, 2]], "a row has 3 values, not 1"),
        ([], "a row has 3 values, not 0"),
        (41, "a row must be an object of named values or a list in the order of the features"),
        ("abc", "a row must be an object of named values or a list in the order of the features"),
        (None, "a row must be an object of named values or a list in the order of the features"),
        (True, "a row must be an object of named values or a list in the order of the features"),
    ],
)
def test_a_bad_row_says_what_is_wrong_and_never_what_was_sent(row: Any, message: str) -> None:
    # R2 R3 V1: among them a number that is a boolean, and a wrong length that is never reshaped.
    assert refusal(PACKED, [row]).message == message
    assert messages(bind(PACKED, [GOOD, row])) == {1: message}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("city", 1, "'city' must be text, not a number"),
        ("owner", 1, "'owner' must be a boolean, not a number"),
        ("owner", None, "'owner' is missing and may not be"),
        ("count", 1.0, "'count' holds a number with a fraction or exponent, which is no INT64"),
        ("count", 2**63, "'count' holds a number out of the range of INT64"),
        ("pair", 1, "'pair' must be a list"),
        ("pair", None, "'pair' must be a list"),
        ("pair", [1, 2, 3], "'pair' has shape [2] in a row, not [3]"),
        ("pair", [[1, 2]], "'pair' has shape [2] in a row, not [1, 2]"),
        ("pair", [1, [2]], "'pair' mixes values and lists at one level"),
        ("pair", [1, "2"], "'pair' holds text, which is no FP32"),
    ],
)
def test_every_datatype_takes_its_own_kind_of_value_only(name: str, value: Any, message: str) -> None:
    # R2 V1
    row = {"age": 41, "city": "Bonn", "owner": True, "count": 2, "pair": [1, 2.5]}
    assert refusal(MIXED, [{**row, name: value}]).message == message


def test_an_unknown_name_is_answered_with_the_near_one_and_not_with_the_callers_text() -> None:
    # R2 R3
    assert refusal(PACKED, [{**GOOD, "incomme": 1}]).message == "this model has no such feature; did you mean 'income'?"
    far = refusal(PACKED, [{**GOOD, "sentinel-4711": 1}]).message
    assert far == "this model has no such feature; this model takes age, income, visits"


def test_looking_for_near_names_costs_a_bounded_time_however_many_rows_are_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # R3: a row of ten bytes must not buy a millisecond of the event loop.
    looked = []
    monkeypatch.setattr(binding, "get_close_matches", lambda name, known, n: looked.append(name) or ["age"])
    bound = bind(PACKED, [GOOD, *({**GOOD, f"agee{position}": 1} for position in range(50))])
    assert len(looked) == 5
    assert len(bound.row_errors) == 50
    assert messages(bound)[1].endswith("did you mean 'age'?")
    assert messages(bound)[50].endswith("this model takes age, income, visits")


def test_bad_rows_stand_apart_and_the_good_ones_keep_their_order() -> None:
    # R2
    bound = bind(PACKED, [[0, 1, 2], {"age": None}, [10, 11, 12], [True, 1, 2], [20, 21, 22]])
    assert bound.inputs["input"].tolist() == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert (bound.rows, bound.positions) == (3, [0, 2, 4])
    assert messages(bound) == {1: "'age' is missing and may not be", 3: "'age' must be a number, not a boolean"}


def test_all_rows_bad_is_an_error_and_the_first_is_told() -> None:
    # R2
    assert refusal(PACKED, [[1], {"age": "x"}]).message == "a row has 3 values, not 1"


def test_an_atomic_request_is_refused_with_the_number_of_its_first_bad_row() -> None:
    # R1 R7
    error = refusal(PACKED, [GOOD, {**GOOD, "age": "x"}, []], atomic=True)
    assert (error.message, error.field) == ("row 1: 'age' must be a number, not text", "age")


def test_no_rows_and_too_many_rows_are_refused() -> None:
    # R3
    assert refusal(PACKED, []).message == "there are no rows"
    assert bind(PACKED, [GOOD] * 3, max_rows=3).rows == 3
    for rows in ([GOOD] * 4, [[]] * 4, [True] * 4):
        with pytest.raises(PayloadTooLarge, match="more than 3 rows in one request"):
            bind(PACKED, rows, max_rows=3)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_model_of_one_scalar_takes_bare_values(shape: tuple[int, ...]) -> None:
    # R2 R7
    text = ModelSignature((Feature("text", "BYTES"),), (TensorSpec("text", "BYTES", shape),), (OUTPUT,))
    bound = bind(text, ["a", ["b"], {"text": b"c"}, 4])
    assert bound.inputs["text"].tolist() == np.array(["a", "b", b"c"], object).reshape(shape).tolist()
    assert messages(bound) == {3: "'text' must be text, not a number"}


def test_a_model_of_one_vector_takes_it_bare_or_named() -> None:
    # R2 R7
    vector = ModelSignature(
        (Feature("signal", "FP32", shape=(3,)),), (TensorSpec("signal", "FP32", (-1, 3)),), (OUTPUT,)
    )
    bound = bind(vector, [[1, 2, 3], {"signal": [4, 5, 6]}, [1, 2], [[1, 2, 3]]])
    assert bound.inputs["signal"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert messages(bound) == {
        2: "'signal' has shape [3] in a row, not [2]",
        3: "'signal' has shape [3] in a row, not [1, 3]",
    }


def test_an_image_is_one_nested_list_a_row() -> None:
    # R2
    image = ModelSignature(
        (Feature("image", "UINT8", shape=(3, 8, 8)),), (TensorSpec("image", "UINT8", (-1, 3, 8, 8)),), (OUTPUT,)
    )
    pixels = np.arange(192).reshape(3, 8, 8)
    bound = bind(image, [pixels.tolist(), {"image": pixels.tolist()}, pixels.ravel().tolist()])
    assert np.array_equal(bound.inputs["image"], np.stack([pixels, pixels]).astype("u1"))
    assert messages(bound) == {2: "'image' has shape [3, 8, 8] in a row, not [192]"}


def test_rows_that_differ_in_an_open_axis_cannot_share_a_run() -> None:
    word = ModelSignature((Feature("word", "INT64", shape=(-1,)),), (TensorSpec("word", "INT64", (-1, -1)),), (OUTPUT,))
    assert bind(word, [[1, 2, 3], [4, 5, 6]]).inputs["word"].shape == (2, 3)
    assert refusal(word, [[1, 2, 3], [4]]).message == "'word' differs in shape between rows of one request"


def test_plain_rows_make_one_array_per_input_and_none_per_value(monkeypatch: pytest.MonkeyPatch) -> None:
    # Z1: an array for each value made a row of 30 features with one text cost 250 microseconds instead of 14.
    made = []
    real = values.to_array
    monkeypatch.setattr(values, "to_array", lambda *args: made.append("value") or real(*args))
    monkeypatch.setattr(binding, "to_array", lambda *args: made.append("input") or real(*args))
    row = {"age": 41, "city": "Bonn", "owner": True, "count": 2, "pair": [1, 2.5]}
    bind(ModelSignature(MIXED_FEATURES[:4], pack(MIXED_FEATURES[:4]), (OUTPUT,)), [list(row.values())[:4]] * 20)
    assert made == ["input"] * 4


ONE_TEXT = ModelSignature((Feature("t", "BYTES", nullable=True),), (TensorSpec("t", "BYTES", (-1,)),), (OUTPUT,))


def test_bytes_are_objects_of_base64_text() -> None:
    # R2 R7
    sent = [{"t": {"b64": "/9g="}}, {"t": "/9g="}, {"b64": "AA=="}, [{"b64": ""}], {"t": None}]
    assert bind(ONE_TEXT, sent).inputs["t"].tolist() == [b"\xff\xd8", "/9g=", b"\0", b"", None]
    features = (Feature("n", "FP32"), Feature("words", "BYTES", shape=(2,)))
    pair = ModelSignature(features, pack(features), (OUTPUT,))
    bound = bind(pair, [{"n": 1, "words": ["a", {"b64": "/9g="}]}, [2, [{"b64": ""}, {"b64": "YQ=="}]]])
    assert bound.inputs["words"].tolist() == [["a", b"\xff\xd8"], [b"", b"a"]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"b64": "%%%"}, "'t' is not valid base64"),
        ({"b64": "YQ"}, "'t' is not valid base64"),
        ({"b64": "YQ==\n"}, "'t' is not valid base64"),
        ({"b64": "ü"}, "'t' is not valid base64"),
        ({"b64": 7}, "'t' is not valid base64"),
        ({"b64": None}, "'t' is not valid base64"),
        ({}, "'t' must be text, or bytes as {'b64': ...}, not an object"),
        ({"b64": "", "more": 1}, "'t' must be text, or bytes as {'b64': ...}, not an object"),
    ],
    ids=str,
)
def test_an_object_that_is_no_bytes_is_a_bad_row_of_its_own(value: Any, message: str) -> None:
    bound = bind(ONE_TEXT, [{"t": "good"}, {"t": value}])
    assert (bound.inputs["t"].tolist(), messages(bound)) == (["good"], {1: message})


def test_only_bytes_may_be_objects_and_a_feature_may_be_called_b64() -> None:
    assert refusal(PACKED, [GOOD | {"age": {"b64": "YQ=="}}]).message == "'age' must be a number, not an object"
    named = ModelSignature((Feature("b64", "BYTES"),), (TensorSpec("b64", "BYTES", (-1,)),), (OUTPUT,))
    assert bind(named, [{"b64": "YQ=="}, {"b64": {"b64": "YQ=="}}]).inputs["b64"].tolist() == ["YQ==", b"a"]


def unbatched(feature: Feature, shape: tuple[int, ...]) -> ModelSignature:
    return ModelSignature((feature,), (TensorSpec(feature.name, feature.datatype, shape),), (OUTPUT,))


FIXED_ROW = ModelSignature(PACKED.features, (TensorSpec("input", "FP32", (1, 3), PACKED.inputs[0].columns),), (OUTPUT,))
FIXED_ANSWER = ModelSignature(PACKED.features, PACKED.inputs, (TensorSpec("y", "FP32", (2,)),))


@pytest.mark.parametrize(
    ("model", "row", "shape"),
    [
        (unbatched(Feature("v", "FP32", shape=(30,)), (30,)), [1] * 30, (30,)),
        (unbatched(Feature("x", "FP32"), ()), 1, ()),
        (unbatched(Feature("x", "FP32"), (1,)), [1], (1,)),
        (FIXED_ROW, GOOD, (1, 3)),
        (FIXED_ANSWER, [1, 2, 3], (1, 3)),
        (FIXED_ANSWER, [1, None, 3], (1, 3)),
    ],
)
def test_a_model_without_a_batch_axis_takes_one_row_and_counts_none(
    model: ModelSignature, row: Any, shape: tuple[int, ...]
) -> None:
    # R2: the plain way and the careful one alike.
    validate_signature(model)
    bound = bind(model, [row])
    assert (bound.inputs[model.inputs[0].name].shape, bound.rows) == (shape, None)
    message = "this model has no batch axis: it takes one row a request"
    assert refusal(model, [row, row]).message == message


# The same, the slow way


def naive_value(feature: Feature, value: Any) -> Any:
    """``value`` as ``feature``'s datatype holds it; ``ValueError`` if it does not fit."""
    if feature.shape:
        if type(value) is not list or len(value) != feature.shape[0]:
            raise ValueError
        return [naive_value(Feature(feature.name, feature.datatype, nullable=True), item) for item in value]
    if value is None:
        if not feature.nullable:
            raise ValueError
        return None if feature.datatype == "BYTES" else math.nan
    kind = {"BOOL": (bool,), "BYTES": (str,), "INT64": (int,)}.get(feature.datatype, (int, float))
    if type(value) not in kind:
        raise ValueError
    if feature.datatype == "INT64" and not -(2**63) <= value < 2**63:
        raise ValueError
    if feature.datatype.startswith("FP"):
        if abs(value) > float(np.finfo(NUMPY_DTYPES[feature.datatype]).max):
            raise ValueError
        return NUMPY_DTYPES[feature.datatype].type(value).item()
    return value


def naive_row(features: Sequence[Feature], row: Any) -> list[Any]:
    if len(features) == 1 and type(row) is not dict and (type(row) is not list or features[0].shape):
        row = [row]
    if type(row) is dict:
        if not row.keys() <= {feature.name for feature in features}:
            raise ValueError
        row = [row.get(feature.name) for feature in features]
    if type(row) is not list or not 1 <= len(row) <= len(features):
        raise ValueError
    row = row + [None] * (len(features) - len(row))  # which only what may be missing takes
    return [naive_value(feature, value) for feature, value in zip(features, row, strict=True)]


def features_of(kinds: Sequence[tuple[Any, ...]]) -> st.SearchStrategy[list[Feature]]:
    return st.lists(st.sampled_from(kinds), min_size=1, max_size=5).map(
        lambda chosen: [Feature(f"f{position}", *kind) for position, kind in enumerate(chosen)]
    )


FP32, FP64 = [("FP32",), ("FP32", True)], [("FP64",), ("FP64", True)]
OTHERS = [("INT64",), ("BOOL",), ("BYTES",), ("BYTES", True), ("FP32", False, (2,))]
# Models of numbers alone have a way of their own.
FEATURES = st.one_of(features_of(FP32), features_of(FP64), features_of([*FP32, *FP64, *OTHERS]))
PLAIN = {
    "FP32": st.floats(-1e6, 1e6) | st.integers(-(2**70), 2**70),
    "FP64": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "BOOL": st.booleans(),
    "BYTES": st.text(max_size=3),
}
ODD = st.sampled_from([None, True, 1, 0.5, "a", 1e39, -1e39, 10**400, 2**63, [1, 2], [1, "a"], [1], [[1, 2]], {"a": 1}])


def values_of(feature: Feature, odd: int) -> st.SearchStrategy[Any]:
    plain = PLAIN[feature.datatype]
    fitting = st.lists(plain, min_size=2, max_size=2) if feature.shape else plain
    return st.integers(0, 9).flatmap(lambda dice: ODD if dice < odd else fitting)


@st.composite
def rows_for(draw: st.DrawFn, features: Sequence[Feature]) -> Any:
    odd = draw(st.sampled_from([0, 0, 3]))
    values = [draw(values_of(feature, odd)) for feature in features]
    if draw(st.booleans()):
        return values if draw(st.integers(0, 9)) else values[:-1]
    row = dict(zip((feature.name for feature in features), values, strict=True))
    if not draw(st.integers(0, 9)):
        row.pop(draw(st.sampled_from(sorted(row))))
    if not draw(st.integers(0, 9)):
        row["stranger"] = 1
    return row


@settings(max_examples=500)
@given(st.data())
def test_random_rows_bind_to_what_a_slow_and_simple_reading_gives(data: st.DataObject) -> None:
    # R2 V1
    features = data.draw(FEATURES)
    rows = data.draw(st.lists(rows_for(features), min_size=1, max_size=5))
    model = ModelSignature(tuple(features), pack(features), (OUTPUT,))
    good: dict[int, list[Any]] = {}
    for position, row in enumerate(rows):
        try:
            good[position] = naive_row(features, row)
        except ValueError:
            continue
    bad = sorted(set(range(len(rows))) - set(good))
    if bad:
        message = refusal(model, rows, atomic=True).message
        assert message.startswith(f"row {bad[0]}: ")
    if not good:
        refusal(model, rows)
        return
    bound = bind(model, rows)
    assert sorted(bound.row_errors) == bad
    assert bound.rows == len(good)
    assert (list(range(len(rows))) if bound.positions is None else list(bound.positions)) == list(good)
    order = [feature.name for feature in features]
    for spec in model.inputs:
        expected: Any
        if spec.columns:
            expected = [[row[order.index(column)] for column in spec.columns] for row in good.values()]
        else:
            expected = [row[order.index(spec.name)] for row in good.values()]
        dtype = NUMPY_DTYPES[spec.datatype]
        array = bound.inputs[spec.name]
        assert array.dtype == dtype
        assert repr(array.tolist()) == repr(np.array(expected, dtype).tolist())


def test_errors_of_rows_hold_no_frames() -> None:
    """They would hold the request that holds them, and the collector does not look into requests: 27 objects a row."""
    bound = bind(PACKED, [[1, 2, 3], [1, 2], [1, "x", 3], [1e300, 2, 3], {"other": 1}])
    assert sorted(bound.row_errors) == [1, 2, 3, 4]
    for error in bound.row_errors.values():
        assert (error.__traceback__, error.__context__, error.__cause__) == (None, None, None)
