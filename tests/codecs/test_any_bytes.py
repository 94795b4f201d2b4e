"""Whatever bytes arrive, a codec answers with a request or with an error of the caller's that quotes no value of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keelway.codecs.json import OpenInferenceCodec
from keelway.codecs.mlflow import MlflowCodec
from keelway.codecs.rows import RowCodec
from keelway.codecs.tensorflow import TensorFlowCodec
from keelway.errors import InvalidInput, KeelwayError, Unsupported
from keelway.ports import Codec
from keelway.types import NUMPY_DTYPES

CODECS: dict[str, Codec] = {
    "open inference": OpenInferenceCodec(),
    "rows": RowCodec(),
    "tensorflow": TensorFlowCodec(),
    "mlflow": MlflowCodec(),
}
EVERY_CODEC = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)

#: Values that would be recognised anywhere.
TEXT = "sentinel-4711"
NUMBER = 918273645546372819


def refusal(codec: Codec, body: bytes, header_length: int | None) -> KeelwayError | None:
    """The error that ``codec`` answers ``body`` with; any that is not meant for the caller passes through."""
    try:
        codec.parse(body, header_length)
    except (InvalidInput, Unsupported) as error:
        return error
    return None


def assert_discreet(error: KeelwayError | None) -> None:
    if error is not None:
        text = f"{error.message} {error.hint} {error.field}"
        assert "sentinel" not in text
        assert str(NUMBER)[:8] not in text.replace(".", "")
        assert len(text) < 1000


SCALARS = (
    st.none()
    | st.booleans()
    | st.just(TEXT)
    | st.sampled_from([NUMBER, -NUMBER, NUMBER * 10**30, float(NUMBER) * 1e250, NUMBER / 10**18])
    | st.sampled_from([0, 1, 2, -1, 1.5, 2**70])
)
MEMBERS = st.sampled_from(
    [
        "inputs", "outputs", "name", "shape", "datatype", "data", "id", "parameters", "binary_data_size", "binary_data",
        "binary_data_output", "classification", "shared_memory_region", "instances", "features", "signature_name",
        "b64", "dataframe_split", "dataframe_records", "columns", "params", TEXT,
    ]
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS | st.sampled_from(sorted(NUMPY_DTYPES)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(MEMBERS, inner, max_size=4),
    max_leaves=15,
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, -1, 2**70]), max_size=3)
DATA = st.lists(SCALARS | st.lists(SCALARS, max_size=3), max_size=4)


def near_tensor() -> st.SearchStrategy[Any]:
    """Nearly a tensor of the protocol: most of it right, so that the parser comes far."""
    size = st.fixed_dictionaries({}, optional={"binary_data_size": st.sampled_from([0, 1, 4, 8, 12, -1, 2**70, None])})
    return st.fixed_dictionaries(
        {"name": st.sampled_from(["x", "y"]), "datatype": st.sampled_from([*NUMPY_DTYPES, "FP8"]), "shape": SHAPES},
        optional={"data": DATA, "parameters": size},
    )


BODIES = {
    "bytes": st.binary(max_size=60),
    "JSON": ANYTHING.map(lambda value: json.dumps(value).encode()),
    "members": st.dictionaries(MEMBERS, ANYTHING, max_size=4).map(lambda value: json.dumps(value).encode()),
    "tensors": st.lists(near_tensor(), max_size=3).map(lambda value: json.dumps({"inputs": value}).encode()),
}


@EVERY_CODEC
@given(st.one_of(*BODIES.values()), st.binary(max_size=16), st.none() | st.integers(-2, 30), st.booleans())
@example(b'{"inputs": [{"name": "\xff"}]}', b"", None, False)
@example(b'{"instances": ["\xff"]}', b"", None, False)
@example(b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": ' + str([1] * 65).encode() + b', "data": [1]}]}', b"", None, False)  # fmt: skip  # noqa: E501
@example(b'{"inputs": [{"name": "x", "datatype": "INT8", "shape": [0, 1180591620717411303424], "data": []}]}', b"", None, False)  # fmt: skip  # noqa: E501
def test_any_bytes_parse_or_are_refused_without_a_word_of_them(
    codec: Codec, body: bytes, tail: bytes, header_length: int | None, honest: bool
) -> None:
    # R3: an exception of any other kind would be a 500, and its text might be anything.
    length = len(body) if honest and header_length is not None else header_length
    assert_discreet(refusal(codec, body + tail, length))


def nearly(document: Any) -> Callable[[st.DrawFn], bytes]:
    """A right request with one byte changed, cut or doubled."""
    whole = json.dumps(document).encode()

    def draw(draw_from: st.DrawFn) -> bytes:
        at = draw_from(st.integers(0, len(whole) - 1))
        byte = draw_from(st.binary(max_size=2))
        return whole[:at] + byte + whole[at + draw_from(st.integers(0, 2)) :]

    return draw


TENSOR = {"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [[1.5], [NUMBER]], "parameters": {"a": TEXT}}
RIGHT = {
    "open inference": {"id": TEXT, "inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
    "rows": {"instances": [{"a": NUMBER, "b": TEXT}, {"a": None, "b": "\n"}]},
    "tensorflow": {"instances": [{"a": NUMBER, "b": {"b64": "c2VudGluZWw="}}], "signature_name": "serving_default"},
    "mlflow": {"dataframe_split": {"columns": ["a", "b"], "index": [0], "data": [[NUMBER, TEXT]]}},
}


@pytest.mark.parametrize("form", RIGHT)
@given(st.data())
def test_a_right_request_with_a_slip_is_refused_without_a_word_of_it(form: str, data: st.DataObject) -> None:
    # R3
    whole = json.dumps(RIGHT[form]).encode()
    assert refusal(CODECS[form], whole, None) is None
    assert_discreet(refusal(CODECS[form], data.draw(st.composite(nearly(RIGHT[form]))()), None))
