"""Declared limits refuse, observed ones only tag, and bad rows leave the good ones alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from keelway.contract.baseline import Baseline, ObservedFeature
from keelway.contract.constraints import Constraint, Policy
from keelway.contract.signature import Feature, ModelSignature, pack
from keelway.errors import InvalidInput
from keelway.guard import texts as text_checks
from keelway.guard.validation import Validator
from keelway.types import NUMPY_DTYPES, BoundRequest, TensorSpec

OUTPUT = TensorSpec("y", "FP32", (-1,))


def model(*features: Feature, inputs: Sequence[TensorSpec] = ()) -> ModelSignature:
    return ModelSignature(features, tuple(inputs) or pack(features), (OUTPUT,))


def validator(
    signature: ModelSignature, constraints: Sequence[Constraint] = (), observed: Sequence[ObservedFeature] = ()
) -> Validator:
    return Validator(signature, Policy(1, tuple(constraints)), Baseline(10, tuple(observed)) if observed else None)


def one_tensor(values: Any, datatype: str = "FP32", name: str = "input") -> BoundRequest:
    array = np.array(values, NUMPY_DTYPES[datatype])
    return BoundRequest({name: array}, len(array))


def refusal(check: Validator, bound: BoundRequest, *, atomic: bool = True) -> InvalidInput:
    with pytest.raises(InvalidInput) as refused:
        check.validate(bound, atomic=atomic)
    return refused.value


PAIR = model(Feature("age", "FP32"), Feature("income", "FP32", nullable=True))
LIMITS = [Constraint("age", 18, 99), Constraint("income", minimum=0)]
SEEN = [
    ObservedFeature("age", 10, minimum=20, maximum=70),
    ObservedFeature("income", 10, minimum=-5, maximum=5000),
]


# Numbers


def test_values_inside_everything_pass_untouched() -> None:
    bound = one_tensor([[20, 0], [70, 5000]])
    assert validator(PAIR, LIMITS, SEEN).validate(bound, atomic=True) is bound


@pytest.mark.parametrize(
    ("row", "message", "field"),
    [
        ([17, 1], "'age' is outside its declared range", "age"),
        ([100, 1], "'age' is outside its declared range", "age"),
        ([50, -0.001], "'income' is outside its declared range", "income"),
        ([math.nan, 1], "'age' is missing and may not be", "age"),
        ([math.inf, 1], "'age' is infinite or too large", "age"),
        ([50, math.inf], "'income' is infinite or too large", "income"),
        ([50, -math.inf], "'income' is infinite or too large", "income"),
        ([100, -1], "'age' is outside its declared range", "age"),
    ],
)
def test_what_is_declared_or_impossible_is_refused_by_name(row: list[float], message: str, field: str) -> None:
    # V1 R3
    check = validator(PAIR, LIMITS)
    error = refusal(check, one_tensor([row]))
    assert (error.message, error.field) == (message, field)
    error = refusal(check, one_tensor([[50, 1], row]))
    assert (error.message, error.field) == (f"row 1: {message}", field)


def test_what_was_only_observed_tags_and_never_refuses() -> None:
    # V1
    check = validator(PAIR, observed=SEEN)
    bound = one_tensor([[1e6, 1], [-1e6, 1], [50, -6]])
    checked = check.validate(bound, atomic=True)
    assert list(checked.tags) == ["out_of_range:age", "out_of_range:income"]
    assert (checked.rows, checked.positions, dict(checked.row_errors)) == (3, None, {})
    assert checked.inputs["input"] is bound.inputs["input"]


def test_declared_and_observed_limits_do_not_mix() -> None:
    # V1: 19 is allowed and was not seen; 17 is neither.
    check = validator(PAIR, LIMITS, SEEN)
    assert list(check.validate(one_tensor([[19, 1]]), atomic=True).tags) == ["out_of_range:age"]
    assert refusal(check, one_tensor([[17, 1]])).field == "age"
    # Wider observation than declaration: -1 was seen and is forbidden.
    assert refusal(check, one_tensor([[50, -1]])).message == "'income' is outside its declared range"


def test_a_missing_value_passes_only_where_the_feature_is_nullable() -> None:
    # V1: and it is inside every range there is.
    check = validator(PAIR, LIMITS, SEEN)
    checked = check.validate(one_tensor([[50, math.nan]]), atomic=True)
    assert (list(checked.tags), checked.rows) == ([], 1)


@pytest.mark.parametrize("nullable", [False, True])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("limited", [False, True])
def test_an_infinity_is_always_refused(datatype: str, nullable: bool, limited: bool) -> None:
    # V1: also what the codec's fast path made of a number too large for FP32, and without any limit declared.
    check = validator(model(Feature("x", datatype, nullable)), [Constraint("x", maximum=1e308)] if limited else [], [])
    for value in (math.inf, -math.inf):
        assert refusal(check, one_tensor([[value]], datatype)).message == "'x' is infinite or too large"


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("limit", [0.1, 0.3, 0.7, 1 / 3, 1e-3, 2.2, 1000.1])
def test_a_limit_itself_is_inside_in_every_datatype(datatype: str, limit: float) -> None:
    # V1: 0.1 rounds to a float32 above 0.1, and is still "at most 0.1".
    check = validator(model(Feature("x", datatype)), [Constraint("x", -limit, limit)])
    assert check.validate(one_tensor([[limit], [-limit]], datatype), atomic=True).rows == 2
    assert refusal(check, one_tensor([[limit * 1.01]], datatype)).field == "x"
    assert refusal(check, one_tensor([[-limit * 1.01]], datatype)).field == "x"
    seen = validator(model(Feature("x", datatype)), observed=[ObservedFeature("x", 1, minimum=-limit, maximum=limit)])
    assert list(seen.validate(one_tensor([[limit], [-limit]], datatype), atomic=True).tags) == []
    assert list(seen.validate(one_tensor([[limit * 1.01]], datatype), atomic=True).tags) == ["out_of_range:x"]


@pytest.mark.parametrize("datatype", ["FP16", "FP32"])
def test_a_limit_beyond_the_datatype_lets_every_finite_value_in(datatype: str) -> None:
    # V1
    check = validator(model(Feature("x", datatype)), [Constraint("x", -1e300, 1e300)])
    largest = float(np.finfo(NUMPY_DTYPES[datatype]).max)
    assert check.validate(one_tensor([[largest], [-largest]], datatype), atomic=True).rows == 2
    assert refusal(check, one_tensor([[math.inf]], datatype)).field == "x"


@pytest.mark.parametrize("datatype", ["UINT8", "INT64", "UINT64"])
def test_integers_have_limits_too(datatype: str) -> None:
    # V1
    check = validator(model(Feature("x", datatype)), [Constraint("x", 3, 7.5)])
    assert check.validate(one_tensor([[3], [7]], datatype), atomic=True).rows == 2
    for value in (2, 8):
        assert refusal(check, one_tensor([[value]], datatype)).message == "'x' is outside its declared range"
    free = validator(model(Feature("x", datatype)))
    assert free.validate(one_tensor([[np.iinfo(NUMPY_DTYPES[datatype]).max]], datatype), atomic=True).rows == 1


def test_booleans_have_nothing_to_check() -> None:
    bound = one_tensor([[True], [False]], "BOOL")
    seen = [ObservedFeature("x", 2, categories={"true": 2})]
    assert validator(model(Feature("x", "BOOL")), observed=seen).validate(bound, atomic=True) is bound


@pytest.mark.parametrize("batched", [False, True])
def test_every_element_of_a_tensor_of_its_own_is_checked(batched: bool) -> None:
    # V1
    spec = TensorSpec("v", "FP32", (-1, 3) if batched else (3,))
    check = validator(
        model(Feature("v", "FP32", shape=(3,)), inputs=[spec]),
        [Constraint("v", 0, 10)],
        [ObservedFeature("v", 1, minimum=0, maximum=5)],
    )

    def bound(*row: float) -> BoundRequest:
        array = np.array([row] if batched else row, "<f4")
        return BoundRequest({"v": array}, 1 if batched else None)

    assert list(check.validate(bound(0, 5, 1), atomic=False).tags) == []
    assert list(check.validate(bound(0, 9, 8), atomic=False).tags) == ["out_of_range:v"]
    for value in (11, math.nan, math.inf):
        assert refusal(check, bound(0, 5, value), atomic=False).field == "v"


def test_a_scalar_without_any_axis_is_checked() -> None:
    # V1
    check = validator(model(Feature("x", "FP32"), inputs=[TensorSpec("x", "FP32", ())]), [Constraint("x", maximum=1)])
    bound = BoundRequest({"x": np.array(1, "<f4")}, None)
    assert check.validate(bound, atomic=True) is bound
    assert refusal(check, BoundRequest({"x": np.array(2, "<f4")}, None)).field == "x"


# Texts


CITY = model(Feature("city", "BYTES"), Feature("plan", "BYTES", nullable=True))
CITIES = [Constraint("city", categories=("Bonn", "Köln"))]
SEEN_TEXTS = [
    ObservedFeature("city", 9, categories={"Bonn": 9}),
    ObservedFeature("plan", 9, categories={"basic": 5, "": 4}),
]


def texts(*rows: Sequence[Any]) -> BoundRequest:
    return one_tensor(rows, "BYTES")


def test_declared_categories_refuse_and_observed_ones_tag() -> None:
    # V1
    check = validator(CITY, CITIES, SEEN_TEXTS)
    bound = texts(["Bonn", "basic"])
    assert check.validate(bound, atomic=True) is bound
    assert list(check.validate(texts(["Köln", "gold"], ["Köln", "gold"]), atomic=True).tags) == [
        "unseen:city",
        "unseen:plan",
    ]
    error = refusal(check, texts(["sentinel-4711", "basic"]))
    assert (error.message, error.field) == ("'city' is not one of its declared categories", "city")


def test_what_was_seen_and_not_declared_is_refused() -> None:
    # V1: having been seen in a sample allows nothing.
    seen = [ObservedFeature("city", 9, categories={"Bonn": 5, "Rom": 4})]
    assert refusal(validator(CITY, CITIES, seen), texts(["Rom", "basic"])).field == "city"


def test_a_missing_text_passes_only_where_the_feature_is_nullable() -> None:
    # V1
    for check in (validator(CITY), validator(CITY, CITIES, SEEN_TEXTS)):
        assert list(check.validate(texts(["Bonn", None]), atomic=True).tags) == []
        error = refusal(check, texts(["Bonn", "basic"], [None, "basic"]))
        assert error.message == "row 1: 'city' is missing and may not be"


def test_bytes_are_compared_as_the_text_they_are() -> None:
    # V1: binary tensors bring bytes where JSON brings text.
    check = validator(CITY, CITIES, SEEN_TEXTS)
    assert list(check.validate(texts([b"Bonn", b"basic"]), atomic=True).tags) == []
    assert list(check.validate(texts(["Köln".encode(), b""]), atomic=True).tags) == ["unseen:city"]
    for wrong in (b"Paris", b"Bonn\xff", "Köln".encode("latin-1")):
        assert refusal(check, texts([wrong, b"basic"])).field == "city"
    assert list(validator(CITY).validate(texts([b"\xff", b"\xff"]), atomic=True).tags) == []


def test_categories_that_were_cut_off_say_nothing() -> None:
    seen = [ObservedFeature("city", 9, categories={"Bonn": 1}, categories_cut=True)]
    assert list(validator(CITY, observed=seen).validate(texts(["Paris", "x"]), atomic=True).tags) == []


def test_every_element_of_a_text_tensor_is_checked() -> None:
    # V1
    words = model(Feature("words", "BYTES", shape=(2,)))
    check = validator(words, [Constraint("words", categories=("a", "b"))])
    assert check.validate(one_tensor([["a", "b"]], "BYTES", "words"), atomic=True).rows == 1
    assert refusal(check, one_tensor([["a", "b"], ["a", "c"]], "BYTES", "words")).message.startswith("row 1: 'words'")
    assert refusal(check, one_tensor([["a", None]], "BYTES", "words")).field == "words"


# Rows


MIXED = model(Feature("age", "FP32"), Feature("city", "BYTES"))


def mixed(ages: Sequence[float], cities: Sequence[Any], **rest: Any) -> BoundRequest:
    inputs = {"input_fp32": np.array([[age] for age in ages], "<f4"), "input_bytes": np.array([[c] for c in cities], object)}  # fmt: skip  # noqa: E501
    return BoundRequest(inputs, len(ages), **rest)


MIXED_CHECK = validator(
    MIXED,
    [Constraint("age", 18, 99), Constraint("city", categories=("Bonn",))],
    [ObservedFeature("age", 9, minimum=20, maximum=70)],
)


def test_bad_rows_are_taken_out_of_every_tensor_and_the_good_ones_keep_their_order() -> None:
    # R2
    checked = MIXED_CHECK.validate(mixed([30, 17, 40, 50], ["Bonn", "Bonn", "Rom", "Bonn"]), atomic=False)
    assert checked.inputs["input_fp32"].tolist() == [[30], [50]]
    assert checked.inputs["input_bytes"].tolist() == [["Bonn"], ["Bonn"]]
    assert (checked.rows, checked.positions) == (2, [0, 3])
    assert {position: str(error) for position, error in checked.row_errors.items()} == {
        1: "'age' is outside its declared range",
        2: "'city' is not one of its declared categories",
    }


def test_rows_already_refused_by_binding_keep_their_places() -> None:
    # R2: positions in the arrays are not positions in the caller's order.
    bound = mixed([30, 17, 40], ["Bonn"] * 3, row_errors={1: InvalidInput("bound")}, positions=[0, 2, 3])
    checked = MIXED_CHECK.validate(bound, atomic=False)
    assert checked.positions == [0, 3]
    assert {position: str(error) for position, error in checked.row_errors.items()} == {
        1: "bound",
        2: "'age' is outside its declared range",
    }


def test_no_row_left_is_an_error_and_so_is_one_bad_row_of_an_atomic_request() -> None:
    # R1 R2
    assert refusal(MIXED_CHECK, mixed([17, 30], ["Bonn", "Rom"]), atomic=False).field == "age"
    assert refusal(MIXED_CHECK, mixed([30, 30], ["Bonn", "Rom"]), atomic=True).message.startswith("row 1: 'city'")


def test_tags_come_once_each_and_join_those_there_are() -> None:
    # V1 M2
    check = validator(PAIR, observed=SEEN)
    bound = BoundRequest({"input": np.full((9, 2), 1e6, "<f4")}, 9, tags=("out_of_range:income", "earlier"))
    assert list(check.validate(bound, atomic=True).tags) == ["out_of_range:income", "earlier", "out_of_range:age"]


def test_refusals_never_quote_a_value() -> None:
    # R3
    for sent in ([[918273645.0, 1]], [[-918273645.0, math.nan]]):
        assert "91827" not in refusal(validator(PAIR, LIMITS), one_tensor(sent)).message


def test_bytes_are_texts_that_nobody_reads_where_nothing_limits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    signature = model(Feature("picture", "BYTES"), inputs=[TensorSpec("picture", "BYTES", (-1,))])
    bound = one_tensor([b"\xff\xd8", "text"], "BYTES", "picture")
    with monkeypatch.context() as patch:
        patch.setattr(text_checks, "_text", lambda value: pytest.fail("it was read"))
        assert validator(signature).validate(bound, atomic=True) is bound
    limited = validator(signature, [Constraint("picture", categories=("text",))])
    assert refusal(limited, bound).message == "row 0: 'picture' is not one of its declared categories"
    missing = one_tensor([b"", None], "BYTES", "picture")
    assert refusal(validator(signature), missing).message == "row 1: 'picture' is missing and may not be"
