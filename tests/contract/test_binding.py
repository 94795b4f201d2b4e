"""Tensors and columns bound to a model: names, datatypes and shapes must fit, and nothing is reshaped into fitting."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.contract.binding import Binding
from keelway.contract.signature import Feature, ModelSignature, pack, validate_signature
from keelway.errors import InvalidInput, PayloadTooLarge
from keelway.types import Array, BoundRequest, ColumnRequest, TensorRequest, TensorSpec, WireTensor, datatype_of

OUTPUT = TensorSpec("y", "FP32", (-1,))


def signature(
    features: Sequence[Feature], inputs: Sequence[TensorSpec] = (), output: TensorSpec = OUTPUT
) -> ModelSignature:
    built = ModelSignature(tuple(features), tuple(inputs) or pack(features), (output,))
    validate_signature(built)
    return built


#: 3 numbers in one tensor.
PACKED = signature([Feature("age", "FP32"), Feature("income", "FP32"), Feature("visits", "FP32")])
#: One packed tensor for each of FP32, BYTES and BOOL.
MIXED = signature(
    [
        Feature("age", "FP32"),
        Feature("city", "BYTES"),
        Feature("owner", "BOOL"),
        Feature("income", "FP32"),
        Feature("plan", "BYTES"),
    ]
)
#: One vector a request, and no batch axis.
VECTOR = signature(
    [Feature("signal", "FP32", shape=(30,))], [TensorSpec("signal", "FP32", (30,))], TensorSpec("y", "FP32", (1,))
)
IMAGE = signature([Feature("image", "UINT8", shape=(3, 8, 8))])
#: Tensors of their own: an image, a scalar with an axis of its own, and one without.
SEVERAL = signature(
    [Feature("image", "UINT8", shape=(2, 2)), Feature("age", "FP32"), Feature("city", "BYTES")],
    [TensorSpec("image", "UINT8", (-1, 2, 2)), TensorSpec("age", "FP32", (-1, 1)), TensorSpec("city", "BYTES", (-1,))],
)
#: As PyTorch exports it without dynamic axes: one row, always.
ONE_ROW = signature(
    PACKED.features, [TensorSpec("input", "FP32", (1, 3), ("age", "income", "visits"))], TensorSpec("y", "FP32", (1,))
)


def wire(name: str, data: Any) -> WireTensor:
    array = np.asarray(data)
    return WireTensor(name, datatype_of(array.dtype), array.shape, array)


def floats(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype="<f4").reshape(shape)


def bind(model: ModelSignature, *tensors: WireTensor, max_rows: int = 100) -> BoundRequest:
    return Binding(model, max_rows).bind(TensorRequest(tensors))


def bind_columns(model: ModelSignature, columns: Any) -> BoundRequest:
    return Binding(model, 100).bind(ColumnRequest(columns))


def assert_inputs(bound: BoundRequest, expected: Mapping[str, Array]) -> None:
    assert {name: (array.dtype, array.tolist()) for name, array in bound.inputs.items()} == {
        name: (array.dtype, array.tolist()) for name, array in expected.items()
    }


def refused(model: ModelSignature, *tensors: WireTensor) -> str:
    with pytest.raises(InvalidInput) as error:
        bind(model, *tensors)
    return error.value.message


# Tensors


def test_the_packed_tensor_itself_is_taken_as_it_is() -> None:
    # R1
    array = floats(2, 3)
    bound = bind(PACKED, wire("input", array))
    assert bound.inputs["input"] is array
    assert (bound.rows, bound.positions, dict(bound.row_errors), list(bound.tags)) == (2, None, {}, [])


COLUMN_SHAPES = [(2,), (2, 1)]


@pytest.mark.parametrize("shapes", list(itertools.product(COLUMN_SHAPES, repeat=3)))
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_columns_sent_one_by_one_are_packed_in_the_models_order(
    shapes: Sequence[tuple[int, ...]], order: Sequence[int]
) -> None:
    # R1: names order nothing, and [-1] and [-1, 1] are one column alike.
    columns = [wire(name, floats(2).reshape(shape) + 10 * at)
               for at, (name, shape) in enumerate(zip(("age", "income", "visits"), shapes, strict=True))]  # fmt: skip
    bound = bind(PACKED, *(columns[at] for at in order))
    assert_inputs(bound, {"input": np.array([[0, 10, 20], [1, 11, 21]], "<f4")})
    assert bound.rows == 2


def test_columns_of_several_datatypes_go_to_their_tensors() -> None:
    # R1
    expected = {
        "input_fp32": np.array([[1, 2]], "<f4"),
        "input_bytes": np.array([["Bonn", "basic"]], object),
        "input_bool": np.array([[True]]),
    }
    packed = [wire(name, array) for name, array in expected.items()]
    columns = [
        wire("owner", np.array([True])),
        wire("plan", np.array(["basic"], object)),
        wire("age", np.array([1], "<f4")),
        wire("city", np.array(["Bonn"], object)),
        wire("income", np.array([[2]], "<f4")),
    ]
    assert_inputs(bind(MIXED, *packed), expected)
    assert_inputs(bind(MIXED, *columns), expected)
    assert_inputs(bind(MIXED, packed[0], *columns[:2], columns[3]), expected)


#: The last two may be missing, and the second too.
LENIENT = signature([Feature("age", "FP64"), *(Feature(name, "FP64", True) for name in ("income", "visits", "debt"))])


def test_what_may_be_missing_may_be_left_out_of_tensors() -> None:
    # S2: whoever was written before the inputs were added is answered.
    age, missing = wire("age", np.array([41.0, 42.0])), float("nan")
    expected = np.array([[41.0, missing, missing, missing], [42.0, missing, missing, missing]])
    for sent in (age, wire("input", np.array([[41.0], [42.0]]))):
        np.testing.assert_array_equal(bind(LENIENT, sent).inputs["input"], expected)
    between = bind(LENIENT, age, wire("visits", np.array([1.0, 2.0]))).inputs["input"]
    np.testing.assert_array_equal(between, [[41.0, missing, 1.0, missing], [42.0, missing, 2.0, missing]])
    texts = signature([Feature("city", "BYTES"), Feature("plan", "BYTES", nullable=True)])
    assert bind(texts, wire("input", np.array([["Bonn"]], object))).inputs["input"].tolist() == [["Bonn", None]]


def test_what_may_not_be_missing_may_not_be_left_out_of_tensors() -> None:
    assert refused(LENIENT, wire("income", np.ones(1))) == "input 'age' is missing"
    assert refused(LENIENT, wire("input", np.ones((1, 0)))) == "input 'input' has shape [-1, 4], not [1, 0]"
    assert refused(LENIENT, wire("input", np.ones((1, 5)))) == "input 'input' has shape [-1, 4], not [1, 5]"
    assert refused(LENIENT, wire("input", np.ones(4))) == "input 'input' has shape [-1, 4], not [4]"
    late = signature([Feature("age", "FP64", nullable=True), Feature("income", "FP64")])
    assert refused(late, wire("input", np.ones((1, 1)))) == "input 'input' has shape [-1, 2], not [1, 1]"


@pytest.mark.parametrize("sent", ["<f4", "<i4", "u1"])
def test_a_datatype_is_as_good_as_one_that_holds_all_its_values(sent: str) -> None:
    # S2: widening breaks nobody, so whoever sends the narrower one is answered.
    bound = bind(LENIENT, wire("input", np.arange(4).reshape(1, 4).astype(sent)))
    assert_inputs(bound, {"input": np.array([[0.0, 1.0, 2.0, 3.0]])})


def test_a_tensor_of_its_own_keeps_its_shape() -> None:
    # R1
    image = np.arange(192, dtype="u1").reshape(1, 3, 8, 8)
    assert bind(IMAGE, wire("image", image)).inputs["image"] is image
    several = {"image": image[:, 0, :2, :2], "age": floats(1, 1), "city": np.array(["Bonn"], object)}
    assert_inputs(bind(SEVERAL, *(wire(name, array) for name, array in several.items())), several)


def test_a_model_without_a_batch_axis_takes_its_tensor_and_counts_no_rows() -> None:
    # R1
    bound = bind(VECTOR, wire("signal", floats(30)))
    assert (bound.inputs["signal"].shape, bound.rows) == ((30,), None)


@pytest.mark.parametrize(
    ("model", "sent", "message"),
    [
        (PACKED, wire("input", floats(3)), "input 'input' has shape [-1, 3], not [3]"),
        (PACKED, wire("input", floats(1, 4)), "input 'input' has shape [-1, 3], not [1, 4]"),
        (PACKED, wire("input", floats(3, 1)), "input 'input' has shape [-1, 3], not [3, 1]"),
        (PACKED, wire("input", floats(1, 1, 3)), "input 'input' has shape [-1, 3], not [1, 1, 3]"),
        (PACKED, wire("input", floats(0, 3)), "input 'input' has no rows"),
        (PACKED, wire("input", floats(1, 3).astype("<f8")), "input 'input' is FP32, not FP64"),
        (PACKED, wire("input", np.ones((1, 3), "<i8")), "input 'input' is FP32, not INT64"),
        (VECTOR, wire("signal", floats(1, 30)), "input 'signal' has shape [30], not [1, 30]"),
        (VECTOR, wire("signal", floats(29)), "input 'signal' has shape [30], not [29]"),
        (IMAGE, wire("image", np.ones((3, 8, 8), "u1")), "input 'image' has shape [-1, 3, 8, 8], not [3, 8, 8]"),
        (IMAGE, wire("image", np.ones((1, 192), "u1")), "input 'image' has shape [-1, 3, 8, 8], not [1, 192]"),
        (ONE_ROW, wire("input", floats(2, 3)), "input 'input' has shape [1, 3], not [2, 3]"),
        (MIXED, wire("input_fp32", floats(1, 2)), "input 'input_bytes' is missing"),
        (SEVERAL, wire("image", np.ones((1, 2, 2), "u1")), "input 'age' is missing"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_and_never_reshaped(
    model: ModelSignature, sent: WireTensor, message: str
) -> None:
    # R1 R2
    assert refused(model, sent) == message


@pytest.mark.parametrize(
    ("model", "names_and_arrays", "message"),
    [
        (PACKED, [("age", floats(2)), ("income", floats(2)), ("visits", floats(3))], "the columns differ in their"),
        (PACKED, [("age", floats(2)), ("income", floats(2))], "input 'visits' is missing"),
        (PACKED, [("age", floats(2, 2)), ("income", floats(2)), ("visits", floats(2))], "'age' has shape [-1, 1], not"),
        (PACKED, [("age", floats(1, 1, 1)), ("income", floats(1)), ("visits", floats(1))], "'age' has shape [-1], not"),
        (PACKED, [("age", floats(0)), ("income", floats(0)), ("visits", floats(0))], "input 'input' has no rows"),
        (PACKED, [("input", floats(1, 3)), ("input", floats(1, 3))], "two inputs have the same name"),
        (PACKED, [("input", floats(1, 3)), ("age", floats(1))], "input 'age' is sent twice: alone and within"),
        (PACKED, [], "input 'input' is missing"),
        (ONE_ROW, [("age", floats(2)), ("income", floats(2)), ("visits", floats(2))], "'age' has shape [1], not [2]"),
        (
            ONE_ROW,
            [("age", floats(2, 1)), ("income", floats(2)), ("visits", floats(2))],
            "has shape [1, 1], not [2, 1]",
        ),
        (
            SEVERAL,
            [("image", np.ones((2, 2, 2), "u1")), ("age", floats(2, 1)), ("city", np.array(["a"], object))],
            "the inputs differ in their number of rows",
        ),
    ],
)
def test_inputs_that_do_not_add_up_are_refused(
    model: ModelSignature, names_and_arrays: Sequence[tuple[str, Array]], message: str
) -> None:
    # R1: among them a model of exactly one row, which two rows must not reach.
    assert message in refused(model, *(wire(name, array) for name, array in names_and_arrays))


def test_an_unknown_input_is_answered_with_the_near_one_and_not_with_the_callers_text() -> None:
    # R1 R3
    message = refused(PACKED, wire("incomme", floats(1)), wire("age", floats(1)), wire("visits", floats(1)))
    assert message == "this model has no such input; did you mean 'income'?"
    message = refused(PACKED, wire("inputs", floats(1, 3)))
    assert message == "this model has no such input; did you mean 'input'?"
    message = refused(PACKED, wire("input", floats(1, 3)), wire("imput", floats(1, 3)))
    assert message == "this model has no such input; did you mean 'input'?"
    message = refused(PACKED, wire("input", floats(1, 3)), wire("sentinel-4711", floats(1)))
    assert message == "this model has no such input; this model takes input, age, income, visits"
    many = signature([Feature(f"f{position}", "FP32") for position in range(12)])
    message = refused(many, wire("input", floats(1, 12)), wire("sentinel-4711", floats(1)))
    assert message.endswith("this model takes input, f0, f1, f2, f3, f4, f5, f6 and 5 more")


def test_rows_are_capped() -> None:
    # R3
    for model, sent in (
        (PACKED, [wire("input", floats(4, 3))]),
        (PACKED, [wire(name, floats(4)) for name in ("age", "income", "visits")]),
        (IMAGE, [wire("image", np.ones((4, 3, 8, 8), "u1"))]),
    ):
        assert bind(model, *sent, max_rows=4).rows == 4
        with pytest.raises(PayloadTooLarge, match="more than 3 rows in one request"):
            bind(model, *sent, max_rows=3)


# A raw body


def raw(model: ModelSignature, body: bytes) -> BoundRequest:
    return bind(model, WireTensor("", "", (), body))


def test_a_raw_body_is_the_only_input_and_its_size_gives_the_open_axis() -> None:
    # R1
    assert_inputs(raw(PACKED, floats(2, 3).tobytes()), {"input": floats(2, 3)})
    assert raw(PACKED, floats(2, 3).tobytes()).rows == 2
    assert_inputs(raw(VECTOR, floats(30).tobytes()), {"signal": floats(30)})
    assert raw(IMAGE, bytes(2 * 192)).inputs["image"].shape == (2, 3, 8, 8)
    assert raw(ONE_ROW, floats(3).tobytes()).inputs["input"].shape == (1, 3)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_raw_body_of_bytes_is_one_element(shape: tuple[int, ...]) -> None:
    # R1
    text = signature([Feature("text", "BYTES")], [TensorSpec("text", "BYTES", shape)])
    bound = raw(text, b"\xff[")
    assert bound.inputs["text"].ravel().tolist() == [b"\xff["]
    assert bound.rows == 1


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (PACKED, b"", "the body does not make a tensor of shape [-1, 3]"),
        (PACKED, bytes(11), "the body is no whole number of FP32 values"),
        (PACKED, bytes(16), "the body does not make a tensor of shape [-1, 3]"),
        (VECTOR, bytes(240), "the body does not make a tensor of shape [30]"),
        (VECTOR, bytes(60), "the body does not make a tensor of shape [30]"),
        (ONE_ROW, bytes(24), "the body does not make a tensor of shape [1, 3]"),
        (MIXED, bytes(12), "a raw binary body needs a model with one input"),
        (signature([Feature("flag", "BOOL")]), b"\2", "a BOOL is one byte, 0 or 1"),
        (
            signature([Feature("word", "UINT8", shape=(-1, 2))]),
            bytes(4),
            "the body does not make a tensor of shape [-1, -1, 2]",
        ),
    ],
)
def test_a_raw_body_that_does_not_make_the_input_is_refused(model: ModelSignature, body: bytes, message: str) -> None:
    # R1 R3
    with pytest.raises(InvalidInput) as error:
        raw(model, body)
    assert error.value.message == message


def test_a_raw_scalar_is_a_scalar() -> None:
    scalar = signature([Feature("x", "FP32")], [TensorSpec("x", "FP32", ())], TensorSpec("y", "FP32", ()))
    assert raw(scalar, floats(1).tobytes()).inputs["x"].shape == ()
    with pytest.raises(InvalidInput, match="does not make"):
        raw(scalar, floats(2).tobytes())


def test_rows_of_a_raw_body_are_capped() -> None:
    # R3
    with pytest.raises(PayloadTooLarge):
        bind(PACKED, WireTensor("", "", (), floats(3, 3).tobytes()), max_rows=2)


# Columns


def test_columns_by_name_are_packed() -> None:
    # R7
    bound = bind_columns(PACKED, {"visits": [5, 6], "age": [1, 2], "income": [[3], [4.5]]})
    assert_inputs(bound, {"input": np.array([[1, 3, 5], [2, 4.5, 6]], "<f4")})
    assert_inputs(
        bind_columns(MIXED, {"age": [1], "income": [2], "city": ["a"], "plan": [b"b"], "owner": [True]}),
        {
            "input_fp32": np.array([[1, 2]], "<f4"),
            "input_bytes": np.array([["a", b"b"]], object),
            "input_bool": np.array([[True]]),
        },
    )


def test_one_bare_list_is_the_only_input() -> None:
    # R7
    assert_inputs(bind_columns(PACKED, [[1, 2, 3], [4, 5, 6]]), {"input": np.array([[1, 2, 3], [4, 5, 6]], "<f4")})
    assert_inputs(bind_columns(PACKED, {"input": [[1, 2, 3]]}), {"input": np.array([[1, 2, 3]], "<f4")})
    assert_inputs(bind_columns(VECTOR, [0.5] * 30), {"signal": np.full(30, 0.5, "<f4")})


def test_a_bare_value_is_one_row_of_its_column() -> None:
    # R7: as TensorFlow Serving has it, and a missing number is NaN until validation.
    bound = bind_columns(PACKED, {"age": 1, "income": None, "visits": 3})
    assert bound.inputs["input"].shape == (1, 3)
    assert np.isnan(bound.inputs["input"]).tolist() == [[False, True, False]]


@pytest.mark.parametrize(
    ("model", "columns", "message"),
    [
        (PACKED, [1, 2, 3], "input 'input' has shape [-1, 3], not [3]"),
        (PACKED, [[1, 2], [3]], "'input' is ragged: lists at one level differ in length"),
        (PACKED, [], "input 'input' has shape [-1, 3], not [0]"),
        (PACKED, {}, "input 'input' is missing"),
        (PACKED, {"age": [], "income": [], "visits": []}, "input 'input' has no rows"),
        (PACKED, {"age": [True], "income": [1], "visits": [1]}, "'age' holds a boolean, which is no FP32"),
        (PACKED, {"age": [{"a": 1}], "income": [1], "visits": [1]}, "'age' holds an object, which is no FP32"),
        (PACKED, {"age": {"a": 1}, "income": [1], "visits": [1]}, "'age' holds an object, which is no FP32"),
        (PACKED, {"agee": [1]}, "this model has no such input; did you mean 'age'?"),
        (MIXED, [[1]], "this model has several inputs; name them: input_fp32, input_bytes, input_bool"),
    ],
)
def test_columns_that_do_not_fit_are_refused(model: ModelSignature, columns: Any, message: str) -> None:
    # R7 R3
    with pytest.raises(InvalidInput) as error:
        bind_columns(model, columns)
    assert error.value.message == message


@given(
    st.integers(1, 4),
    st.lists(st.sampled_from(["FP32", "FP64", "INT64", "BOOL", "BYTES"]), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_columns_and_the_packed_tensors_bind_to_the_same(rows: int, datatypes: Sequence[str], random: Any) -> None:
    # R1 R7
    model = signature([Feature(f"f{position}", datatype) for position, datatype in enumerate(datatypes)])
    draw = {"BOOL": lambda: random.random() < 0.5, "BYTES": lambda: f"t{random.randrange(9)}"}
    columns = {
        feature.name: [draw.get(feature.datatype, lambda: random.randrange(-99, 99))() for _ in range(rows)]
        for feature in model.features
    }
    packed = {
        spec.name: [[columns[column][row] for column in spec.columns] for row in range(rows)] for spec in model.inputs
    }
    one_by_one, whole = bind_columns(model, columns), bind_columns(model, packed)
    assert_inputs(one_by_one, whole.inputs)
    assert one_by_one.rows == whole.rows == rows
    tensors = [wire(name, array) for name, array in whole.inputs.items()]
    random.shuffle(tensors)
    assert_inputs(bind(model, *tensors), whole.inputs)
