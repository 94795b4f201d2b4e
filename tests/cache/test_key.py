"""What a key tells apart and what it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keelway.cache.key import KEY_BYTES, KeyMaker
from keelway.codecs.rows import RowCodec
from keelway.contract.binding import Binding
from keelway.contract.signature import Feature, ModelSignature
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

COLUMNS = tuple(f"f{position}" for position in range(3))
PACKED = ModelSignature(
    tuple(Feature(name, "FP32", nullable=True) for name in COLUMNS),
    (TensorSpec("input", "FP32", (-1, 3), COLUMNS),),
    (TensorSpec("score", "FP32", (-1,)),),
)
IDENTITY = ("churn", "1.0.0", "sha256:d", "7")
WANTED = ("score",)


def signature(datatype: str, shape: tuple[int, ...] = (-1, 2), count: int = 1) -> ModelSignature:
    specs = tuple(TensorSpec(f"x{position}", datatype, shape) for position in range(count))
    features = tuple(Feature(spec.name, datatype, shape[1:]) for spec in specs)
    return ModelSignature(features, specs, (TensorSpec("score", "FP32", (-1,)),))


def key(inputs: Any, kind: ModelSignature = PACKED, **changed: Any) -> bytes | None:
    """The key of one input (or several, by name) under a version that differs from ``IDENTITY`` as ``changed`` says."""
    given = inputs if isinstance(inputs, dict) else {kind.inputs[0].name: inputs}
    maker = KeyMaker(changed.get("identity", IDENTITY), changed.get("signature", kind))
    return maker.key(given, changed.get("wanted", WANTED), changed.get("tenant"))


def row(*values: float) -> Array:
    return np.array([values], np.float32)


def text(*values: Any) -> Array:
    array = np.empty((1, len(values)), object)
    array[0] = values
    return array


def test_a_key_is_a_hash_and_the_same_each_time() -> None:
    # A1
    made = key(row(1, 2, 3))
    assert made is not None
    assert len(made) == KEY_BYTES
    assert key(row(1, 2, 3)) == made


def test_one_and_one_point_zero_of_the_same_input_agree() -> None:
    # A1: binding has made both the model's own datatype.
    codec, binding = RowCodec(), Binding(PACKED, 10)
    bodies = [b'{"instances": [[1, 2, 3]]}', b'{"features": {"f2": 3.0, "f0": 1.0, "f1": 2e0}}']
    keys = [key(dict(binding.bind(codec.parse(body, None)).inputs)) for body in bodies]
    assert keys[0] == keys[1]


def test_permuted_features_differ() -> None:
    # A1
    assert len({key(row(1, 2, 3)), key(row(3, 2, 1)), key(row(2, 1, 3))}) == 3


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_minus_zero_is_zero_and_a_nan_anywhere_has_no_key(datatype: str) -> None:
    # A1
    kind, dtype = signature(datatype), NUMPY_DTYPES[datatype]
    assert key(np.array([[-0.0, 1.0]], dtype), kind) == key(np.array([[0.0, 1.0]], dtype), kind)
    for at in range(2):
        values = np.array([[1.0, 1.0]], dtype)
        values[0, at] = np.nan
        assert key(values, kind) is None
    assert key(np.array([[np.inf, -np.inf]], dtype), kind) is not None
    largest = np.finfo(dtype).max
    assert key(np.array([[largest, -largest]], dtype), kind) is not None


def test_a_nan_is_found_among_many_numbers_too() -> None:
    # A1
    many = np.zeros((1, 10_000), np.float32)
    kind = signature("FP32", (-1, 10_000))
    assert key(many, kind) is not None
    many[0, 9_999] = np.nan
    assert key(many, kind) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"identity": ("churn", "1.0.0", "sha256:e", "7")},
        {"identity": ("churn", "1.0.1", "sha256:d", "7")},
        {"identity": ("churm", "1.0.0", "sha256:d", "7")},
        {"identity": ("churn", "1.0.0", "sha256:d", "8")},
        {"wanted": ()},
        {"wanted": ("score", "pair")},
        {"tenant": "acme"},
        {"tenant": ""},
        {"signature": ModelSignature(PACKED.features, (TensorSpec("input", "FP32", (-1, 3), COLUMNS[::-1]),), ())},
        {"signature": ModelSignature(PACKED.features, (TensorSpec("input", "FP64", (-1, 3), COLUMNS),), ())},
    ],
    ids=["digest", "version", "model", "policy", "no outputs", "outputs", "tenant", "empty tenant", "names", "dtype"],
)
def test_whatever_else_changes_an_answer_changes_the_key(changed: dict[str, Any]) -> None:
    # A1
    assert key(row(1, 2, 3), **changed) != key(row(1, 2, 3))


def test_no_part_of_a_key_can_be_taken_for_its_neighbour() -> None:
    # A1
    kind = signature("BYTES")
    assert key(row(1, 2, 3), tenant="a", wanted=("b",)) != key(row(1, 2, 3), tenant="b", wanted=("a",))
    assert key(row(1, 2, 3), identity=("ab", "c")) != key(row(1, 2, 3), identity=("a", "bc"))
    assert key(row(1, 2, 3), wanted=("score", "tenant", "a")) != key(row(1, 2, 3), wanted=("score",), tenant="a")
    assert key(text("ab", "c"), kind) != key(text("a", "bc"), kind)
    assert key(text("", "abc"), kind) != key(text("abc", ""), kind)
    assert key(text(None, "a"), kind) != key(text("", "a"), kind)
    assert key(text(None, "a"), kind) != key(text("None", "a"), kind)
    two = signature("BYTES", (-1, 1), 2)
    assert key({"x0": text("a"), "x1": text("b")}, two) != key({"x0": text("b"), "x1": text("a")}, two)


def test_the_shape_is_part_of_it() -> None:
    # A1
    kind = signature("INT64", (-1, -1))
    flat = np.arange(6)
    assert len({key(flat.reshape(shape), kind) for shape in ((1, 6), (2, 3), (3, 2), (6, 1))}) == 4


def test_text_and_bytes_of_the_same_utf_8_agree() -> None:
    # A1
    kind = signature("BYTES")
    assert key(text("grün", "x"), kind) == key(text("grün".encode(), b"x"), kind)
    assert key(text(np.str_("grün"), "x"), kind) == key(text("grün", "x"), kind)
    assert key(text("gru\u0308n", "x"), kind) != key(text("grün", "x"), kind)  # the model sees other bytes, too


@pytest.mark.parametrize("dtype", [">f4", "<f4", "<f8"])
def test_the_order_of_bytes_and_the_layout_do_not_matter(dtype: str) -> None:
    # A1
    plain = row(1, 2, 3)
    assert key(np.asfortranarray(plain.astype(dtype))) == key(plain)
    wide = np.zeros((1, 6), dtype)
    wide[0, ::2] = (1, 2, 3)
    assert key(wide[:, ::2]) == key(plain)
    integers = signature("INT32")
    assert key(np.array([[1, 2]], ">i4"), integers) == key(np.array([[1, 2]], "<i4"), integers)


NUMBERS = arrays.arrays(np.float32, (1, 3), elements=st.floats(width=32, allow_nan=False))


@given(NUMBERS, NUMBERS)
def test_keys_of_numbers_agree_exactly_when_the_numbers_do(one: Array, other: Array) -> None:
    # A1
    assert (key(one) == key(other)) == bool((one == other).all())


WORDS = st.lists(st.none() | st.text() | st.binary(), min_size=2, max_size=2)


@given(WORDS, WORDS)
def test_keys_of_texts_agree_exactly_when_their_bytes_do(one: list[Any], other: list[Any]) -> None:
    # A1
    def plain(words: list[Any]) -> list[Any]:
        return [word.encode() if isinstance(word, str) else word for word in words]

    kind = signature("BYTES")
    assert (key(text(*one), kind) == key(text(*other), kind)) == (plain(one) == plain(other))


@given(st.sampled_from(["BOOL", "UINT8", "INT16", "INT64", "UINT64"]), st.data())
def test_keys_of_whole_numbers_agree_exactly_when_the_numbers_do(datatype: str, data: st.DataObject) -> None:
    # A1
    kind, dtype = signature(datatype), NUMPY_DTYPES[datatype]
    one, other = (data.draw(arrays.arrays(dtype, (1, 2))) for _ in range(2))
    assert (key(one, kind) == key(other, kind)) == bool((one == other).all())


@given(st.lists(st.tuples(st.text(), st.text(), st.none() | st.text()), min_size=2, max_size=2, unique=True))
def test_no_two_identities_outputs_and_tenants_share_a_key(cases: list[tuple[str, str, str | None]]) -> None:
    # A1
    keys = {key(row(1, 2, 3), identity=(name,), wanted=(output,), tenant=tenant) for name, output, tenant in cases}
    assert len(keys) == 2


def test_many_tenants_do_not_pile_up() -> None:
    # A1
    maker = KeyMaker(IDENTITY, PACKED)
    keys = {maker.key({"input": row(1, 2, 3)}, WANTED, f"tenant {number}") for number in range(1000)}
    assert len(keys) == 1000
    assert len(maker._openings) <= 256


def test_warnings_of_numpy_are_not_raised_by_extreme_numbers() -> None:
    # A1
    with np.errstate(all="raise"):
        assert key(row(3e38, -3e38, 1e-45)) is not None
