"""The Open Inference Protocol V2 as JSON, with the binary tensor extension.

Non-finite numbers in a JSON answer are ``null`` (JSON has no word for them); ask for binary output to get them exactly.
BYTES are UTF-8 text in JSON, or base64 where the input's parameter ``content_type`` says so, as MLServer has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import orjson

from keelway.codecs.binary import BASE64, Layout, decode_tensor, encode_tensor, from_base64, layout_of, split_body
from keelway.codecs.limits import DEFAULT_MAX_NESTING, check_nesting
from keelway.codecs.shapes import check_shape, shaped
from keelway.contract.values import MAX_AXES, flatten, float_array, numpy_dtype, to_array
from keelway.errors import InvalidInput, MalformedRequest, Unsupported
from keelway.ports import Encoded
from keelway.types import Array, InferenceRequest, InferenceResponse, RequestedOutput, Tensor, TensorRequest, WireTensor

JSON = b"application/json"
OCTETS = b"application/octet-stream"

# Names stand in error messages, so a caller must not be able to make them long.
_Name = Annotated[str, msgspec.Meta(max_length=256)]
# NumPy has no more axes, and multiplying a million of them would take minutes.
_Shape = Annotated[tuple[int, ...], msgspec.Meta(max_length=MAX_AXES)]


class _Parameters(msgspec.Struct, frozen=True):
    binary_data_size: int | None = None
    binary_data: bool | None = None
    binary_data_output: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None
    content_type: str | None = None


class _FloatInput(msgspec.Struct, frozen=True):
    name: _Name
    shape: _Shape
    datatype: str
    data: list[float]


class _Output(msgspec.Struct, frozen=True):
    name: _Name
    parameters: _Parameters | None = None


class _FloatRequest(msgspec.Struct, frozen=True):
    """The usual request: flat float data. Decoded straight to floats, an order faster than through ``Any``."""

    inputs: list[_FloatInput]
    id: str = ""
    outputs: tuple[_Output, ...] = ()
    parameters: _Parameters | None = None


class _AnyInput(msgspec.Struct, frozen=True):
    name: _Name
    shape: _Shape
    datatype: str
    data: list[Any] | None = None
    parameters: _Parameters | None = None


class _AnyRequest(msgspec.Struct, frozen=True):
    inputs: list[_AnyInput]
    id: str = ""
    outputs: tuple[_Output, ...] = ()
    parameters: _Parameters | None = None


_decode_floats = msgspec.json.Decoder(_FloatRequest).decode
_decode_any = msgspec.json.Decoder(_AnyRequest).decode
_FLOATS = frozenset({"FP32", "FP64", "FP16"})
_NUMPY = orjson.OPT_SERIALIZE_NUMPY

#: Pieces of answers that are kept: one for each version and each shape of an output.
_KEPT = 4096
#: JSON parts of binary requests that are remembered, and the most bytes of one.
_REMEMBERED, _REMEMBERED_BYTES = 512, 2048
_ID = b',"request_id":'


class OpenInferenceCodec:
    """``max_nesting`` caps the depth of the JSON part."""

    def __init__(self, max_nesting: int = DEFAULT_MAX_NESTING) -> None:
        self._max_nesting = max_nesting
        self._parts: dict[tuple[object, ...], bytes] = {}
        self._kept = self._parts.get
        self._layouts: dict[bytes, Layout] = {}

    def parse(self, body: bytes, header_length: int | None) -> InferenceRequest:
        if header_length is not None:
            return self._parse_binary(body, header_length)
        check_nesting(body, self._max_nesting)
        try:
            request = _decode_floats(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._parse_any(body, memoryview(b""))
        inputs = []
        for tensor in request.inputs:
            if tensor.datatype not in _FLOATS:
                return self._parse_any(body, memoryview(b""))
            data = float_array(tensor.data, tensor.datatype, tensor.name)
            inputs.append(
                WireTensor(tensor.name, tensor.datatype, tensor.shape, shaped(data, tensor.shape, tensor.name))
            )
        return _request(request, inputs)

    def encode(self, response: InferenceResponse, request: InferenceRequest) -> Encoded:
        binary = _binary_names(request, response.outputs)
        # Written in pieces, of which those are kept that are the same in every answer.
        pieces = [self._served(response), orjson.dumps(response.request_id)]
        if response.tags:
            pieces += [b',"tags":', orjson.dumps(",".join(response.tags))]
        tail: list[bytes] = []
        before = b'},"outputs":['
        for tensor in response.outputs:
            if tensor.name in binary:
                raw = encode_tensor(tensor.data)
                tail.append(raw)
                pieces += [before, self._binary_head(tensor, len(raw))]
            else:
                pieces += [before, self._head(tensor), orjson.dumps(json_data(tensor.data), option=_NUMPY)]
            before = b"},"
        pieces.append(b"}]" if response.outputs else b'},"outputs":[]')
        if isinstance(request, TensorRequest) and request.id:
            pieces += [b',"id":', orjson.dumps(request.id)]
        pieces.append(b"}")
        if not tail:
            return Encoded(b"".join(pieces), JSON)
        length = sum(map(len, pieces))
        return Encoded(b"".join(pieces + tail), OCTETS, length)

    def _served(self, response: InferenceResponse) -> bytes:
        """The members that name what answered, up to the request id."""
        key = (response.model, response.version, response.model_digest, response.policy_revision)
        return self._kept(key) or self._keep(key, {**_named(response), "parameters": _parameters(response)}, b"}}", _ID)

    def _head(self, tensor: Tensor) -> bytes:
        """The members that describe an output, up to its data."""
        key = (tensor.name, tensor.datatype, tensor.data.shape)
        return self._kept(key) or self._keep(key, _described(tensor), b"}", b',"data":')

    def _binary_head(self, tensor: Tensor, size: int) -> bytes:
        """The members that describe an output whose ``size`` bytes follow the JSON."""
        key = (tensor.name, tensor.datatype, tensor.data.shape, size)
        document = {**_described(tensor), "parameters": {"binary_data_size": size}}
        return self._kept(key) or self._keep(key, document, b"}", b"")

    def _keep(self, key: tuple[object, ...], document: dict[str, Any], end: bytes, more: bytes) -> bytes:
        if len(self._parts) >= _KEPT:
            self._parts.clear()
        part = self._parts[key] = orjson.dumps(document).removesuffix(end) + more
        return part

    def _parse_binary(self, body: bytes, header_length: int) -> InferenceRequest:
        if header_length == 0:
            # Raw binary request: the whole body is the model's only input; binding knows its datatype and shape.
            return TensorRequest((WireTensor("", "", (), body),), binary_outputs=True)
        head, tail = split_body(body, header_length)
        layout = self._layouts.get(head)
        if layout is not None and layout.size == len(tail):
            return layout.read(body, header_length)
        check_nesting(head, self._max_nesting)
        request = self._parse_any(head, tail)
        if len(head) <= _REMEMBERED_BYTES:
            self._remember(head, len(tail), request)
        return request

    def _remember(self, head: bytes, size: int, request: TensorRequest) -> None:
        layout = layout_of(request, size)
        if layout is not None:
            if len(self._layouts) >= _REMEMBERED:
                self._layouts.clear()
            self._layouts[head] = layout

    def _parse_any(self, head: bytes, tail: memoryview) -> TensorRequest:
        try:
            request = _decode_any(head)
        except msgspec.ValidationError as error:
            raise MalformedRequest(f"the request does not fit the protocol: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise MalformedRequest("the body is not valid JSON") from None
        inputs = []
        at = 0
        for tensor in request.inputs:
            size = tensor.parameters.binary_data_size if tensor.parameters else None
            if tensor.parameters and tensor.parameters.shared_memory_region:
                raise Unsupported("shared memory is not supported; send the tensor itself")
            if size is None:
                data = _from_json(tensor)
            else:
                if tensor.data is not None:
                    raise MalformedRequest(f"input {tensor.name!r} has both data and binary_data_size")
                if not 0 <= size <= len(tail) - at:
                    raise MalformedRequest(f"input {tensor.name!r}: binary_data_size does not fit the body")
                check_shape(tensor.shape, tensor.name)
                data = decode_tensor(tail[at : at + size], tensor.datatype, tensor.shape, tensor.name)
                at += size
            if tensor.parameters and tensor.parameters.content_type == BASE64:
                data = from_base64(data, tensor.datatype, tensor.name)
            inputs.append(WireTensor(tensor.name, tensor.datatype, tensor.shape, data))
        if at != len(tail):
            raise MalformedRequest("there are bytes in the body that no input accounts for")
        return _request(request, inputs)


def _named(response: InferenceResponse) -> dict[str, Any]:
    return {"model_name": response.model, "model_version": response.version}


def _parameters(response: InferenceResponse) -> dict[str, Any]:
    return {"model_digest": response.model_digest, "policy_revision": response.policy_revision}


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.data.shape}


def json_data(array: Array) -> Any:
    """What ``orjson`` writes for the elements of ``array``, flat, in row-major order."""
    if array.dtype.kind in "OUS":
        return [_text(element) for element in array.ravel().tolist()]
    flat = array.ravel()
    return flat if flat.dtype.isnative else flat.astype(flat.dtype.newbyteorder("="))


def json_rows(array: Array) -> Any:
    """What ``orjson`` writes for ``array`` as nested lists, one element per row."""
    if array.dtype.kind in "OUS":
        return _texts(array.tolist())
    if array.ndim == 0:
        return array[()]
    return array if array.flags.c_contiguous else array.copy()


def _texts(value: Any) -> Any:
    return [_texts(item) for item in value] if isinstance(value, list) else _text(value)


def _text(element: Any) -> Any:
    if isinstance(element, bytes):
        try:
            return element.decode()
        except UnicodeDecodeError:
            raise Unsupported("an output is not UTF-8 text; ask for it as binary data") from None
    return element


def _from_json(tensor: _AnyInput) -> Array:
    if tensor.data is None:
        raise MalformedRequest(f"input {tensor.name!r} has neither data nor binary_data_size")
    numpy_dtype(tensor.datatype, tensor.name)
    scalars, shape = flatten(tensor.data, tensor.name)
    if len(shape) > 1 and shape != tensor.shape:
        raise InvalidInput(f"input {tensor.name!r}: nested data has shape {list(shape)}", field=tensor.name)
    return shaped(to_array(scalars, tensor.datatype, tensor.name), tensor.shape, tensor.name)


def _request(request: _FloatRequest | _AnyRequest, inputs: Sequence[WireTensor]) -> TensorRequest:
    if not request.outputs and request.parameters is None:
        return TensorRequest(inputs, (), request.id)
    binary = bool(request.parameters and request.parameters.binary_data_output)
    outputs = []
    for output in request.outputs:
        parameters = output.parameters or _Parameters()
        if parameters.classification is not None:
            raise Unsupported("the classification extension is not supported; ask for the probabilities")
        if parameters.shared_memory_region:
            raise Unsupported("shared memory is not supported")
        outputs.append(
            RequestedOutput(output.name, binary if parameters.binary_data is None else parameters.binary_data)
        )
    return TensorRequest(inputs, outputs, request.id, binary)


def _binary_names(request: InferenceRequest, outputs: Sequence[Tensor]) -> frozenset[str]:
    """Names of the ``outputs`` that the caller wants as raw bytes."""
    if not isinstance(request, TensorRequest) or not (request.outputs or request.binary_outputs):
        return frozenset()
    explicit = {output.name: output.binary for output in request.outputs}
    return frozenset(tensor.name for tensor in outputs if explicit.get(tensor.name, request.binary_outputs))
