"""Requests and answers in each wire format."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from benchmarks import bodies

from keelway.wire.open_inference_pb2 import ModelInferRequest, ModelInferResponse

ROWS = pd.DataFrame({"a": [1.5, 2.0], "b": [3.0, 4.25]})
PROBABILITIES = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


def test_a_framed_message_says_its_length() -> None:
    assert bodies.framed(b"abc") == b"\0\0\0\0\3abc"


def test_v2_json_and_v2_binary_carry_the_same_tensor() -> None:
    plain = json.loads(bodies.V2.write(ROWS).content)["inputs"][0]
    content, headers = bodies.V2_BINARY.write(ROWS)
    length = int(headers[bodies.BINARY_LENGTH])
    described = json.loads(content[:length])["inputs"][0]
    assert plain["shape"] == described["shape"] == [2, 2]
    assert np.frombuffer(content[length:], np.float32).tolist() == plain["data"] == [1.5, 3.0, 2.0, 4.25]


def test_a_v2_answer_is_read_with_null_parameters_and_with_binary_outputs() -> None:
    labels = {"name": "label", "shape": [2], "datatype": "INT64"}
    found = {"name": "probabilities", "shape": [2, 2], "datatype": "FP32"}
    plain = {"outputs": [labels | {"data": [1, 0]}, found | {"parameters": None, "data": [0.25, 0.75, 0.5, 0.5]}]}
    assert bodies.V2.read is not None
    assert np.array_equal(bodies.V2.read(json.dumps(plain).encode(), {}), PROBABILITIES)

    sized = [labels | {"parameters": {"binary_data_size": 16}}, found | {"parameters": {"binary_data_size": 16}}]
    header = json.dumps({"outputs": sized}).encode()
    content = header + np.array([1, 0]).tobytes() + PROBABILITIES.tobytes()
    assert np.array_equal(bodies.V2.read(content, {"inference-header-content-length": str(len(header))}), PROBABILITIES)


@pytest.mark.parametrize("is_raw", [True, False])
def test_a_grpc_answer_is_read_raw_or_typed(is_raw: bool) -> None:
    reply = ModelInferResponse()
    output = reply.outputs.add(name="probabilities", datatype="FP32", shape=[2, 2])
    if is_raw:
        reply.raw_output_contents.append(PROBABILITIES.tobytes())
    else:
        output.contents.fp32_contents.extend(PROBABILITIES.ravel().tolist())
    assert bodies.GRPC.read is not None
    assert np.array_equal(bodies.GRPC.read(reply.SerializeToString(), {}), PROBABILITIES)


def test_a_grpc_request_names_the_model_and_carries_raw_rows() -> None:
    request = ModelInferRequest.FromString(bodies.GRPC.write(ROWS).content)
    assert request.model_name == "forest"
    assert np.frombuffer(request.raw_input_contents[0], np.float32).tolist() == [1.5, 3.0, 2.0, 4.25]


def test_an_answer_without_probabilities_is_no_answer() -> None:
    assert bodies.V2.read is not None
    with pytest.raises(ValueError, match="no probabilities"):
        bodies.V2.read(b'{"outputs": []}', {})
