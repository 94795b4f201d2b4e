"""Replies of the Open Inference Protocol V2: always valid JSON, with each output in the form asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from keelway.codecs.binary import decode_tensor
from keelway.codecs.json import JSON, OCTETS, OpenInferenceCodec
from keelway.errors import Unsupported
from keelway.types import (
    NUMPY_DTYPES,
    Array,
    InferenceRequest,
    InferenceResponse,
    RequestedOutput,
    RowRequest,
    Tensor,
    TensorRequest,
    datatype_of,
)

CODEC = OpenInferenceCodec()
TEXTS = ["", "ü", "a\n[", '"']


def sample(datatype: str) -> Array:
    """Four values of ``datatype``, its extremes among them."""
    dtype = NUMPY_DTYPES[datatype]
    if dtype.kind == "b":
        return np.array([True, False, True, False])
    if dtype.kind == "O":
        return np.array(TEXTS, dtype)
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return np.array([limits.min, 0, 1, limits.max], dtype)


def answer(
    outputs: Mapping[str, Array], request: InferenceRequest | None = None, tags: Sequence[str] = ()
) -> tuple[dict[str, Any], memoryview, bytes]:
    """The reply to ``request`` as its JSON document, what follows it, and its content type."""
    tensors = [Tensor(name, datatype_of(data.dtype), data) for name, data in outputs.items()]
    response = InferenceResponse("churn", "1.2.0", "sha256:d", 3, "r-1", 0.0, tensors, tags=tags)
    encoded = CODEC.encode(response, request or TensorRequest(()))
    length = len(encoded.body) if encoded.json_length is None else encoded.json_length

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    document = json.loads(encoded.body[:length], parse_constant=refuse)
    return document, memoryview(encoded.body)[length:], encoded.content_type


@pytest.mark.parametrize("datatype", sorted(NUMPY_DTYPES))
def test_every_datatype_is_answered_in_json_and_in_binary(datatype: str) -> None:
    # R1
    array = sample(datatype).reshape(2, 2)
    document, tail, content_type = answer({"y": array})
    assert (content_type, len(tail)) == (JSON, 0)
    (output,) = document["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", datatype, [2, 2])
    assert np.array(output["data"], array.dtype).tolist() == array.ravel().tolist()
    document, tail, content_type = answer({"y": array}, TensorRequest((), binary_outputs=True))
    assert content_type == OCTETS
    (output,) = document["outputs"]
    assert "data" not in output
    assert output["parameters"] == {"binary_data_size": len(tail)}
    back = decode_tensor(tail, datatype, (2, 2), "y").ravel().tolist()
    assert [value.decode() if isinstance(value, bytes) else value for value in back] == array.ravel().tolist()


def test_the_reply_names_the_model_its_version_and_digest_and_echoes_the_id() -> None:
    # R1 R6
    document, _, _ = answer({"y": np.ones(1)}, TensorRequest((), id="r 7"), tags=["out_of_range:a", "unseen:b"])
    assert (document["model_name"], document["model_version"], document["id"]) == ("churn", "1.2.0", "r 7")
    assert document["parameters"] == {
        "model_digest": "sha256:d",
        "policy_revision": 3,
        "request_id": "r-1",
        "tags": "out_of_range:a,unseen:b",
    }
    document, _, _ = answer({"y": np.ones(1)})
    assert "id" not in document
    assert "tags" not in document["parameters"]


def test_each_output_comes_in_the_form_asked_for() -> None:
    # R1
    outputs = {"a": np.array([1, 2], "<i4"), "b": np.array([3.5]), "c": np.array([b"\xff"], object)}
    asked = [RequestedOutput("a", True), RequestedOutput("b"), RequestedOutput("c", True)]
    document, tail, _ = answer(outputs, TensorRequest((), asked))
    first, second, third = document["outputs"]
    assert second["data"] == [3.5]
    sizes = [output["parameters"]["binary_data_size"] for output in (first, third)]
    assert (sizes, bytes(tail)) == ([8, 5], b"\1\0\0\0\2\0\0\0" + b"\1\0\0\0\xff")


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_numbers_that_json_has_no_word_for_become_null(dtype: str) -> None:
    # R3
    array = np.array([np.nan, np.inf, -np.inf, 0.5], dtype)
    assert answer({"y": array})[0]["outputs"][0]["data"] == [None, None, None, 0.5]
    exact = answer({"y": array}, TensorRequest((), binary_outputs=True))[1]
    assert np.frombuffer(exact, array.dtype.newbyteorder("<")).tolist()[1:] == [np.inf, -np.inf, 0.5]


def test_float32_is_written_in_its_own_few_digits() -> None:
    assert answer({"y": np.array([0.1], "<f4")})[0]["outputs"][0]["data"] == [0.1]


def test_an_output_in_any_memory_order_is_written_row_by_row() -> None:
    array = np.arange(6, dtype="<f4").reshape(2, 3).T[::-1]
    assert answer({"y": array})[0]["outputs"][0] == {
        "name": "y",
        "datatype": "FP32",
        "shape": [3, 2],
        "data": array.ravel().tolist(),
    }


def test_bytes_that_are_no_text_cannot_be_answered_in_json() -> None:
    # R1
    array = np.array([b"ok", b"\xff"], object)
    with pytest.raises(Unsupported, match="not UTF-8 text; ask for it as binary data"):
        answer({"y": array})
    assert answer({"y": np.array(["ü".encode(), "ü", None], object)})[0]["outputs"][0]["data"] == ["ü", "ü", None]
    assert bytes(answer({"y": array}, TensorRequest((), binary_outputs=True))[1]) == b"\2\0\0\0ok\1\0\0\0\xff"


def test_a_request_of_another_format_is_answered_in_json() -> None:
    assert answer({"y": np.ones(1)}, RowRequest([]))[0]["outputs"][0]["data"] == [1.0]


@given(st.data())
def test_a_random_tensor_comes_back_as_it_was(data: st.DataObject) -> None:
    # R1
    datatype = data.draw(st.sampled_from(sorted(set(NUMPY_DTYPES) - {"BYTES"})))
    array: Any = data.draw(npst.arrays(NUMPY_DTYPES[datatype], npst.array_shapes(max_dims=3, min_dims=0, min_side=0)))
    asked = TensorRequest((), [RequestedOutput("y", data.draw(st.booleans()))])
    document, tail, _ = answer({"y": array}, asked)
    (output,) = document["outputs"]
    if tail or "parameters" in output:
        assert bytes(tail) == array.tobytes()
    else:
        back = np.array([np.nan if value is None else value for value in output["data"]], array.dtype)
        assert np.array_equal(np.isfinite(back), np.isfinite(array.ravel()))
        finite = np.isfinite(back)
        assert back[finite].tolist() == array.ravel()[finite].tolist()
