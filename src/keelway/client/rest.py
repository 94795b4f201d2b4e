"""The server's REST routes: requests as method, path, headers and body, and what is read from the replies.

Rows go to the people's route, tensors in the binary form of the Open Inference Protocol. Nothing is sent here; see
``over_httpx.py``.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http.client import responses
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from keelway.client.attempts import Call
from keelway.client.failures import CLASSES, error_of, refused, strange
from keelway.client.results import Inference, ModelMetadata, Predictions, ServerMetadata, confidence_of
from keelway.client.retries import Failure, Repeat
from keelway.codecs.binary import decode_tensor, encode_tensor
from keelway.errors import ErrorCode, KeelwayError
from keelway.types import Array, Tensor, TensorSpec

Result = TypeVar("Result")

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
HEADER_LENGTH: Final = "inference-header-content-length"

#: The code that a status stands for, where the body does not name one. The rest of 4xx is the caller's fault.
CODES: Final[Mapping[int, ErrorCode]] = {
    401: ErrorCode.UNAUTHENTICATED,
    403: ErrorCode.PERMISSION_DENIED,
    404: ErrorCode.NOT_FOUND,
    408: ErrorCode.DEADLINE_EXCEEDED,
    409: ErrorCode.FAILED_PRECONDITION,
    413: ErrorCode.OUT_OF_RANGE,
    429: ErrorCode.RESOURCE_EXHAUSTED,
    431: ErrorCode.OUT_OF_RANGE,
    499: ErrorCode.CANCELLED,
    501: ErrorCode.UNIMPLEMENTED,
    502: ErrorCode.UNAVAILABLE,
    503: ErrorCode.UNAVAILABLE,
    504: ErrorCode.DEADLINE_EXCEEDED,
}


class HttpRequest(msgspec.Struct, frozen=True):
    """``path`` is quoted and begins with a slash."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = {}


class HttpReply(msgspec.Struct, frozen=True):
    """Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _RowError(msgspec.Struct, frozen=True):
    row: int
    code: ErrorCode
    message: str
    field: str = ""


class _Predicted(msgspec.Struct, frozen=True):
    model: str
    model_version: str
    model_digest: str
    policy_revision: int
    request_id: str
    time: str
    predictions: Any
    labels: tuple[Any, ...] = ()
    probabilities: tuple[list[float | None] | None, ...] = ()
    errors: tuple[_RowError, ...] = ()
    flags: tuple[str, ...] = ()


class _AnswerParameters(msgspec.Struct, frozen=True):
    model_digest: str
    policy_revision: int
    request_id: str = ""
    tags: str = ""


class _BinaryData(msgspec.Struct, frozen=True):
    binary_data_size: int


class _Output(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _BinaryData


class _Inferred(msgspec.Struct, frozen=True):
    model_name: str
    model_version: str
    parameters: _AnswerParameters
    outputs: tuple[_Output, ...]
    id: str = ""


class _Columns(msgspec.Struct, frozen=True):
    columns: tuple[str, ...] = ()


class _Spec(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _Columns = _Columns()


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[_Spec, ...]
    outputs: tuple[_Spec, ...]
    parameters: _AnswerParameters


class _Refusal(msgspec.Struct, frozen=True):
    """Either form of an error: a problem document, or ``{"error": text}``."""

    detail: str = ""
    error: str = ""
    code: str = ""
    field: str = ""


class RestProtocol:
    """``address`` is named in errors."""

    def __init__(self, address: str) -> None:
        self._address = address

    def predict(self, model: str, rows: Sequence[Mapping[str, Any]], version: str) -> Call[Predictions]:
        body = msgspec.json.encode({"instances": _in_json(rows) if _has_bytes(rows) else rows})
        path = f"/v1/models/{quote(model)}{_version(version)}/predict"
        request = HttpRequest("POST", path, body, {"content-type": JSON})
        return Call(request, self._reader(partial(_predictions, count=len(rows))))

    def infer(
        self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str], version: str, id: str
    ) -> Call[Inference]:
        raw = [encode_tensor(tensor.data) for tensor in inputs]
        document = {
            "id": id,
            "inputs": [
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": tensor.data.shape,
                    "parameters": {"binary_data_size": len(part)},
                }
                for tensor, part in zip(inputs, raw, strict=True)
            ],
            "outputs": [{"name": name} for name in outputs],
            "parameters": {"binary_data_output": True},
        }
        head = msgspec.json.encode(document)
        headers = {"content-type": OCTETS, HEADER_LENGTH: str(len(head))}
        path = f"/v2/models/{quote(model)}{_version(version)}/infer"
        return Call(HttpRequest("POST", path, b"".join((head, *raw)), headers), self._reader(_inference))

    def metadata(self, model: str, version: str) -> Call[ModelMetadata]:
        request = HttpRequest("GET", f"/v2/models/{quote(model)}{_version(version)}")
        return Call(request, self._reader(_metadata))

    def ready(self, model: str, version: str) -> Call[bool]:
        path = f"/v2/models/{quote(model)}{_version(version)}/ready" if model else "/v2/health/ready"
        # 404: a model that is not there is not ready, as over gRPC.
        return Call(HttpRequest("GET", path), self._asked("ready", (404, 503) if model else (503,)), unreachable=False)

    def live(self) -> Call[bool]:
        return Call(HttpRequest("GET", "/v2/health/live"), self._asked("live", ()), unreachable=False)

    def server_metadata(self) -> Call[ServerMetadata]:
        return Call(HttpRequest("GET", "/v2"), self._reader(lambda reply: _decode_server(reply.body)))

    def _reader(self, decode: Callable[[HttpReply], Result]) -> Callable[[HttpReply], Result | Failure]:
        """``decode`` of an answer; a ``Failure`` for a refusal, or for what is no answer of a server of ours."""

        def read(reply: HttpReply) -> Result | Failure:
            if reply.status != 200:
                return refusal(reply, self._address)
            try:
                return decode(reply)
            except (msgspec.MsgspecError, KeelwayError, ValueError, RecursionError):
                return strange(self._address)

        return read

    def _asked(self, word: str, no: Sequence[int]) -> Callable[[HttpReply], bool | Failure]:
        """The answer to a yes-or-no question, which the statuses in ``no`` deny."""
        decode = self._reader(lambda reply: _decode_flags(reply.body)[word])
        return lambda reply: False if reply.status in no else decode(reply)


_decode_predicted = msgspec.json.Decoder(_Predicted).decode
_decode_inferred = msgspec.json.Decoder(_Inferred).decode
_decode_metadata = msgspec.json.Decoder(_Metadata).decode
_decode_server = msgspec.json.Decoder(ServerMetadata).decode
_decode_refusal = msgspec.json.Decoder(_Refusal).decode
_decode_flags = msgspec.json.Decoder(dict[str, bool]).decode


def refusal(reply: HttpReply, address: str) -> Failure:
    """What a status other than 200 means: the server's own words if it has some."""
    status = reply.status
    if status < 400:
        return strange(address)
    try:
        words = _decode_refusal(reply.body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        words = _Refusal()
    code = ErrorCode(words.code) if words.code in CLASSES else CODES.get(status)
    if code is None:
        code = ErrorCode.INTERNAL if status >= 500 else ErrorCode.INVALID_ARGUMENT
    message = words.detail or words.error or f"{address} answers with status {status} {responses.get(status, '')}"
    wait = reply.headers.get("retry-after", "")
    # Seconds; a date, which the header may be too, is not worth a clock.
    retry_after = float(wait) if wait.isdecimal() and len(wait) < 10 else None
    error = error_of(code, message, words.field, retry_after, reply.headers.get("x-request-id", ""))
    if status == 502:
        # A proxy lost its connection to the server, as we may lose ours.
        return Failure(error, Repeat.IF_HARMLESS)
    return refused(error) if status in (429, 503) else Failure(error, Repeat.NEVER)


def _version(version: str) -> str:
    return f"/versions/{quote(version)}" if version else ""


def _has_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return isinstance(value, bytes)
    return any(map(_has_bytes, value))


def _in_json(value: Any) -> Any:
    """``value`` with bytes as the objects that stand for them: ``{"b64": text}``."""
    if isinstance(value, bytes):
        return {"b64": b64encode(value).decode()}
    if isinstance(value, dict):
        return {name: _in_json(item) for name, item in value.items()}
    return [_in_json(item) for item in value] if isinstance(value, list) else value


def _predictions(reply: HttpReply, count: int) -> Predictions:
    answer = _decode_predicted(reply.body)
    predictions = answer.predictions
    if count == 1 and (not isinstance(predictions, list) or len(predictions) != 1):
        # The one row of a model without a batch axis is answered by its bare output.
        predictions = [predictions]
    if len(predictions) != count or (answer.probabilities and len(answer.probabilities) != count):
        raise ValueError("not one prediction for each row")
    return Predictions(
        model=answer.model,
        version=answer.model_version,
        digest=answer.model_digest,
        policy_revision=answer.policy_revision,
        request_id=answer.request_id,
        time=answer.time,
        predictions=tuple(predictions),
        labels=answer.labels,
        probabilities=answer.probabilities,
        confidence=confidence_of(predictions, answer.labels, answer.probabilities) if answer.probabilities else (),
        errors={entry.row: error_of(entry.code, entry.message, entry.field) for entry in answer.errors},
        flags=answer.flags,
    )


def _inference(reply: HttpReply) -> Inference:
    length = int(reply.headers.get(HEADER_LENGTH, len(reply.body)))
    answer = _decode_inferred(reply.body[:length])
    tail = memoryview(reply.body)[length:]
    outputs: dict[str, Array] = {}
    at = 0
    for output in answer.outputs:
        end = at + output.parameters.binary_data_size
        outputs[output.name] = decode_tensor(tail[at:end], output.datatype, output.shape, output.name)
        at = end
    parameters = answer.parameters
    return Inference(
        model=answer.model_name,
        version=answer.model_version,
        digest=parameters.model_digest,
        policy_revision=parameters.policy_revision,
        request_id=parameters.request_id,
        outputs=outputs,
        id=answer.id,
        flags=tuple(parameters.tags.split(",")) if parameters.tags else (),
    )


def _metadata(reply: HttpReply) -> ModelMetadata:
    answer = _decode_metadata(reply.body)
    return ModelMetadata(
        name=answer.name,
        versions=answer.versions,
        platform=answer.platform,
        inputs=tuple(map(_spec, answer.inputs)),
        outputs=tuple(map(_spec, answer.outputs)),
        digest=answer.parameters.model_digest,
        policy_revision=answer.parameters.policy_revision,
    )


def _spec(spec: _Spec) -> TensorSpec:
    return TensorSpec(spec.name, spec.datatype, spec.shape, spec.parameters.columns)
