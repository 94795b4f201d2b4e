"""The Open Inference Protocol V2 as protobuf messages: ``inference.ModelInferRequest`` and its response.

An answer carries its tensors as the request did: raw bytes for raw bytes, typed lists for typed lists. FP16 has no
list, so an answer with one is raw. Unlike a JSON body, the message itself names the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from keelway.codecs.binary import decode_tensor, encode_tensor
from keelway.codecs.shapes import check_shape, shaped
from keelway.contract.values import MAX_AXES, float_array, numpy_dtype, to_array
from keelway.errors import InvalidInput, MalformedRequest, Unsupported
from keelway.ports import Encoded
from keelway.types import Array, InferenceRequest, InferenceResponse, RequestedOutput, Tensor, TensorRequest, WireTensor
from keelway.wire.open_inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)

PROTOBUF = b"application/grpc+proto"

#: Names stand in error messages, so a caller must not be able to make them long.
_MAX_NAME = 256

#: The list of ``InferTensorContents`` that holds the elements of a datatype.
_LISTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

_Output = ModelInferResponse.InferOutputTensor


class OpenInferenceProtobufCodec:
    """Bytes of a ``ModelInferRequest`` in, bytes of a ``ModelInferResponse`` out."""

    def parse(self, body: bytes, header_length: int | None) -> InferenceRequest:
        try:
            message = ModelInferRequest.FromString(body)
        except DecodeError:
            raise MalformedRequest("the message is not a ModelInferRequest") from None
        raw = message.raw_input_contents
        tensors = message.inputs
        if raw and len(raw) != len(tensors):
            raise MalformedRequest(f"there are {len(tensors)} inputs and {len(raw)} raw_input_contents")
        inputs = [_raw_input(tensor, raw[at]) if raw else _typed_input(tensor) for at, tensor in enumerate(tensors)]
        outputs = [_requested(output) for output in message.outputs] if message.outputs else ()
        return TensorRequest(inputs, outputs, message.id, bool(raw), message.model_name, message.model_version or None)

    def encode(self, response: InferenceResponse, request: InferenceRequest) -> Encoded:
        message = ModelInferResponse(
            model_name=response.model,
            model_version=response.version,
            id=request.id if isinstance(request, TensorRequest) else "",
            parameters=_parameters(response),
        )
        outputs = response.outputs
        raw = isinstance(request, TensorRequest) and request.binary_outputs
        if raw or any(tensor.datatype == "FP16" for tensor in outputs):
            message.outputs.extend([_head(tensor) for tensor in outputs])
            message.raw_output_contents.extend([encode_tensor(tensor.data) for tensor in outputs])
        else:
            message.outputs.extend([_typed_output(tensor) for tensor in outputs])
        return Encoded(message.SerializeToString(), PROTOBUF)


def _raw_input(tensor: ModelInferRequest.InferInputTensor, raw: bytes) -> WireTensor:
    name, shape = _described(tensor)
    if tensor.HasField("contents"):
        raise MalformedRequest(f"input {name!r} has both contents and raw_input_contents")
    check_shape(shape, name)
    return WireTensor(name, tensor.datatype, shape, decode_tensor(memoryview(raw), tensor.datatype, shape, name))


def _typed_input(tensor: ModelInferRequest.InferInputTensor) -> WireTensor:
    name, shape = _described(tensor)
    datatype = tensor.datatype
    numpy_dtype(datatype, name)
    wanted = _LISTS.get(datatype)
    if wanted is None:
        raise InvalidInput(f"input {name!r}: {datatype} travels in raw_input_contents", field=name)
    if any(field.name != wanted for field, _ in tensor.contents.ListFields()):
        raise InvalidInput(f"input {name!r}: the values of a {datatype} belong in {wanted}", field=name)
    return WireTensor(name, datatype, shape, shaped(_elements(tensor.contents, wanted, datatype, name), shape, name))


def _elements(contents: InferTensorContents, wanted: str, datatype: str, name: str) -> Array:
    values: Sequence[Any] = getattr(contents, wanted)
    if datatype == "FP32":
        return float_array(values, datatype, name)
    # Lists of the wire are wider than some datatypes: what does not fit is refused.
    return to_array(list(values), datatype, name)


def _described(tensor: ModelInferRequest.InferInputTensor) -> tuple[str, tuple[int, ...]]:
    name = tensor.name
    if len(name) > _MAX_NAME:
        raise MalformedRequest(f"an input has a name of more than {_MAX_NAME} characters")
    if tensor.parameters and "shared_memory_region" in tensor.parameters:
        raise Unsupported("shared memory is not supported; send the tensor itself")
    if len(tensor.shape) > MAX_AXES:
        raise MalformedRequest(f"input {name!r} has more than {MAX_AXES} axes")
    return name, tuple(tensor.shape)


def _requested(output: ModelInferRequest.InferRequestedOutputTensor) -> RequestedOutput:
    if output.parameters:
        if "classification" in output.parameters:
            raise Unsupported("the classification extension is not supported; ask for the probabilities")
        if "shared_memory_region" in output.parameters:
            raise Unsupported("shared memory is not supported")
    return RequestedOutput(output.name)


def _parameters(response: InferenceResponse) -> dict[str, InferParameter]:
    parameters = {
        "model_digest": InferParameter(string_param=response.model_digest),
        "policy_revision": InferParameter(int64_param=response.policy_revision),
        "request_id": InferParameter(string_param=response.request_id),
    }
    if response.tags:
        parameters["tags"] = InferParameter(string_param=",".join(response.tags))
    return parameters


def _head(tensor: Tensor) -> _Output:
    return _Output(name=tensor.name, datatype=tensor.datatype, shape=tensor.data.shape)


def _typed_output(tensor: Tensor) -> _Output:
    elements = tensor.data.ravel().tolist()
    if tensor.datatype == "BYTES":
        elements = [element if isinstance(element, bytes) else str(element).encode() for element in elements]
    output = _head(tensor)
    getattr(output.contents, _LISTS[tensor.datatype]).extend(elements)
    return output
