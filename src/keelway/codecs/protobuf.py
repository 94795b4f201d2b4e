"""The Open Inference Protocol V2 as protobuf messages: ``inference.ModelInferRequest`` and its response.

An answer carries its tensors as the request did: raw bytes for raw bytes, typed lists for typed lists. FP16 has no
list, so an answer with one is raw. Unlike a JSON body, the message itself names the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from keelway.codecs.binary import BASE64, decode_tensor, encode_tensor, from_base64
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

#: Parts of answers that are kept: one for each version and each shape of an output.
_KEPT = 4096

# Tags of fields of bytes, which is number << 3 | 2: of ModelInferResponse, of an entry of its map, of InferParameter.
_ID, _PARAMETERS, _RAW_CONTENTS, _VALUE, _TEXT = b"\x1a", b"\x22", b"\x32", b"\x12", b"\x1a"
_REQUEST_ID_KEY = b"\x0a\x0arequest_id"
_ONE_BYTE = [bytes((size,)) for size in range(0x80)]


class OpenInferenceProtobufCodec:
    """Bytes of a ``ModelInferRequest`` in, bytes of a ``ModelInferResponse`` out."""

    def __init__(self) -> None:
        self._parts: dict[tuple[object, ...], bytes] = {}
        self._kept = self._parts.get

    def parse(self, body: bytes, header_length: int | None) -> InferenceRequest:
        try:
            message = ModelInferRequest.FromString(body)
        except DecodeError:
            raise MalformedRequest("the message is not a ModelInferRequest") from None
        raw = message.raw_input_contents
        tensors = message.inputs
        if raw and len(raw) != len(tensors):
            raise MalformedRequest(f"there are {len(tensors)} inputs and {len(raw)} raw_input_contents")
        inputs = [
            _plain(_raw_input(tensor, raw[at]) if raw else _typed_input(tensor), tensor)
            for at, tensor in enumerate(tensors)
        ]
        outputs = [_requested(output) for output in message.outputs] if message.outputs else ()
        return TensorRequest(inputs, outputs, message.id, bool(raw), message.model_name, message.model_version or None)

    def encode(self, response: InferenceResponse, request: InferenceRequest) -> Encoded:
        # A message is the concatenation of its fields, so what is the same in every answer is written once and kept.
        outputs = response.outputs
        parts = [self._served(response), _request_part(response, request)]
        raw = isinstance(request, TensorRequest) and request.binary_outputs
        if raw or any(tensor.datatype == "FP16" for tensor in outputs):
            parts += [self._head(tensor) for tensor in outputs]
            parts += [delimited(_RAW_CONTENTS, encode_tensor(tensor.data)) for tensor in outputs]
        else:
            message = ModelInferResponse(outputs=[_typed_output(tensor) for tensor in outputs])
            parts.append(message.SerializeToString())
        return Encoded(b"".join(parts), PROTOBUF)

    def _served(self, response: InferenceResponse) -> bytes:
        """The fields that name what answered."""
        key = (response.model, response.version, response.model_digest, response.policy_revision)
        return self._kept(key) or self._keep(
            key,
            ModelInferResponse(
                model_name=response.model,
                model_version=response.version,
                parameters={
                    "model_digest": InferParameter(string_param=response.model_digest),
                    "policy_revision": InferParameter(int64_param=response.policy_revision),
                },
            ),
        )

    def _head(self, tensor: Tensor) -> bytes:
        """The fields that describe a raw output."""
        key = (tensor.name, tensor.datatype, tensor.data.shape)
        return self._kept(key) or self._keep(key, ModelInferResponse(outputs=[_described_output(tensor)]))

    def _keep(self, key: tuple[object, ...], message: ModelInferResponse) -> bytes:
        if len(self._parts) >= _KEPT:
            self._parts.clear()
        part: bytes = message.SerializeToString()
        self._parts[key] = part
        return part


def _plain(read: WireTensor, tensor: ModelInferRequest.InferInputTensor) -> WireTensor:
    """``read``, with the bytes that its elements stand for where the parameter ``content_type`` says base64."""
    parameters = tensor.parameters
    if not parameters or "content_type" not in parameters or parameters["content_type"].string_param != BASE64:
        return read
    data = from_base64(read.data, read.datatype, read.name)
    return WireTensor(read.name, read.datatype, read.shape, data)


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


def _request_part(response: InferenceResponse, request: InferenceRequest) -> bytes:
    """The fields that differ from answer to answer: the ids, and the tags where there are some."""
    caller_id = request.id if isinstance(request, TensorRequest) else ""
    if not response.tags:
        own = delimited(
            _PARAMETERS, _REQUEST_ID_KEY + delimited(_VALUE, delimited(_TEXT, response.request_id.encode()))
        )
        return own + delimited(_ID, caller_id.encode()) if caller_id else own
    parameters = {
        "request_id": InferParameter(string_param=response.request_id),
        "tags": InferParameter(string_param=",".join(response.tags)),
    }
    return ModelInferResponse(id=caller_id, parameters=parameters).SerializeToString()  # type: ignore[no-any-return]


def delimited(tag: bytes, payload: bytes) -> bytes:
    """A field of bytes: its tag, the length as a varint, and ``payload``."""
    size = len(payload)
    if size < 0x80:
        return tag + _ONE_BYTE[size] + payload
    varint = bytearray()
    while size >= 0x80:
        varint.append(size & 0x7F | 0x80)
        size >>= 7
    varint.append(size)
    return b"".join((tag, varint, payload))


def _described_output(tensor: Tensor) -> _Output:
    return _Output(name=tensor.name, datatype=tensor.datatype, shape=tensor.data.shape)


def _typed_output(tensor: Tensor) -> _Output:
    elements = tensor.data.ravel().tolist()
    if tensor.datatype == "BYTES":
        elements = [element if isinstance(element, bytes) else str(element).encode() for element in elements]
    output = _described_output(tensor)
    getattr(output.contents, _LISTS[tensor.datatype]).extend(elements)
    return output
