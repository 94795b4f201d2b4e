"""Calls and replies in protobuf: rows by keelway's own service, tensors by the Open Inference Protocol. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from google.protobuf.message import DecodeError, Message

from keelway.client.exchange import Call, Reply
from keelway.client.refusals import no_keelway
from keelway.client.results import Inference, ModelMetadata, Predictions, RowError, ServerMetadata
from keelway.codecs.binary import decode_tensor, encode_tensor
from keelway.codecs.protobuf_rows import CODE_NUMBERS, python_value, wire_value
from keelway.errors import KeelwayError
from keelway.types import Array, TensorSpec, datatype_of
from keelway.wire import model_service_pb2 as rows_wire
from keelway.wire import open_inference_pb2 as wire

_INFERENCE = "/inference.GRPCInferenceService/"
_NESTING = 64
_CODES = {number: code for code, number in CODE_NUMBERS.items()}

Answered = TypeVar("Answered", bound=Message)
Result = TypeVar("Result")


class GrpcFormat:
    """``address`` is named in errors."""

    def __init__(self, address: str) -> None:
        self._address = address

    def predict(self, model: str, rows: Sequence[Mapping[str, Any]], version: str | None) -> Call[Predictions]:
        request = rows_wire.BatchPredictRequest(
            model=model,
            version=version or "",
            rows=[rows_wire.Row(features={name: wire_value(value) for name, value in row.items()}) for row in rows],
        )
        path = "/keelway.v1.ModelService/BatchPredict"
        return self._call(path, request, rows_wire.BatchPredictResponse, _predictions)

    def infer(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None, version: str | None, id_: str
    ) -> Call[Inference]:
        request = wire.ModelInferRequest(
            model_name=model,
            model_version=version or "",
            id=id_,
            inputs=[
                wire.ModelInferRequest.InferInputTensor(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
                for name, array in inputs.items()
            ],
            outputs=[wire.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs or ()],
            raw_input_contents=[encode_tensor(array) for array in inputs.values()],
        )
        return self._call(_INFERENCE + "ModelInfer", request, wire.ModelInferResponse, _inference)

    def metadata(self, model: str, version: str | None) -> Call[ModelMetadata]:
        request = wire.ModelMetadataRequest(name=model, version=version or "")
        return self._call(_INFERENCE + "ModelMetadata", request, wire.ModelMetadataResponse, _metadata)

    def server_metadata(self) -> Call[ServerMetadata]:
        def read(answer: wire.ServerMetadataResponse) -> ServerMetadata:
            return ServerMetadata(answer.name, answer.version, list(answer.extensions))

        request = wire.ServerMetadataRequest()
        return self._call(_INFERENCE + "ServerMetadata", request, wire.ServerMetadataResponse, read)

    def ready(self, model: str | None) -> Call[bool]:
        if model is None:
            request: Message = wire.ServerReadyRequest()
            return self._call(_INFERENCE + "ServerReady", request, wire.ServerReadyResponse, _is_ready)
        request = wire.ModelReadyRequest(name=model)
        return self._call(_INFERENCE + "ModelReady", request, wire.ModelReadyResponse, _is_ready)

    def live(self) -> Call[bool]:
        def read(answer: wire.ServerLiveResponse) -> bool:
            return answer.live

        return self._call(_INFERENCE + "ServerLive", wire.ServerLiveRequest(), wire.ServerLiveResponse, read)

    def _call(
        self, path: str, request: Message, kind: type[Answered], read: Callable[[Answered], Result]
    ) -> Call[Result]:
        def checked(reply: Reply) -> Result:
            try:
                return read(kind.FromString(reply.body))
            except (DecodeError, KeyError, ValueError, KeelwayError):
                raise no_keelway(self._address) from None

        return Call(path, checked, request.SerializeToString())


def _is_ready(answer: wire.ServerReadyResponse | wire.ModelReadyResponse) -> bool:
    return answer.ready


def _predictions(answer: rows_wire.BatchPredictResponse) -> Predictions:
    served = answer.served
    predictions: list[Any] = []
    probabilities: list[Sequence[float] | None] = []
    confidences: list[float | None] = []
    errors: dict[int, RowError] = {}
    for position, result in enumerate(answer.results):
        if result.WhichOneof("outcome") == "error":
            error = result.error
            errors[position] = RowError(_CODES[error.code], error.message, error.field)
        found = result.prediction if position not in errors else None
        predictions.append(None if found is None else _prediction(found))
        probabilities.append(None if found is None else list(found.probabilities))
        has_confidence = found is not None and found.HasField("confidence")
        confidences.append(found.confidence if found is not None and has_confidence else None)
    has_probabilities = any(probabilities)
    return Predictions(
        served.model,
        served.version,
        served.digest,
        served.policy_revision,
        served.request_id,
        served.time,
        predictions,
        [python_value(label, _NESTING) for label in served.labels],
        probabilities if has_probabilities else (),
        confidences if has_probabilities else (),
        errors,
        list(served.flags),
    )


def _prediction(found: rows_wire.Prediction) -> Any:
    if found.HasField("value"):
        return python_value(found.value, _NESTING)
    outputs = {name: python_value(value, _NESTING) for name, value in found.outputs.items()}
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _inference(answer: wire.ModelInferResponse) -> Inference:
    raw = answer.raw_output_contents
    outputs = {
        output.name: decode_tensor(memoryview(raw[at]), output.datatype, tuple(output.shape), output.name)
        for at, output in enumerate(answer.outputs)
    }
    parameters = answer.parameters
    tags = parameters["tags"].string_param if "tags" in parameters else ""
    return Inference(
        answer.model_name,
        answer.model_version,
        parameters["model_digest"].string_param,
        parameters["policy_revision"].int64_param,
        parameters["request_id"].string_param,
        answer.id,
        outputs,
        tags.split(",") if tags else (),
    )


def _metadata(answer: wire.ModelMetadataResponse) -> ModelMetadata:
    return ModelMetadata(
        answer.name,
        list(answer.versions),
        answer.platform,
        [_spec(tensor) for tensor in answer.inputs],
        [_spec(tensor) for tensor in answer.outputs],
        answer.parameters["model_digest"].string_param,
        answer.parameters["policy_revision"].int64_param,
    )


def _spec(tensor: wire.ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    columns = orjson.loads(tensor.parameters["columns"].string_param) if "columns" in tensor.parameters else ()
    return TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape), tuple(columns))
