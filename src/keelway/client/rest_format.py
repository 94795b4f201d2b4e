"""Calls and replies in REST: rows as JSON, tensors as the binary tensor extension. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
import orjson

from keelway.client.exchange import Call, Reply
from keelway.client.refusals import no_keelway
from keelway.client.results import Inference, ModelMetadata, Predictions, RowError, ServerMetadata, confidence
from keelway.codecs.binary import decode_tensor, encode_tensor
from keelway.errors import ErrorCode, KeelwayError
from keelway.types import NUMPY_DTYPES, Array, TensorSpec, datatype_of

_HEADER_LENGTH = "inference-header-content-length"
_JSON = {"content-type": "application/json"}
#: What a health route answers with when the answer is no.
_NOT_READY = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.NOT_FOUND})

Result = TypeVar("Result")


class RestFormat:
    """``address`` is named in errors."""

    def __init__(self, address: str) -> None:
        self._address = address

    def predict(self, model: str, rows: Sequence[Mapping[str, Any]], version: str | None) -> Call[Predictions]:
        body = orjson.dumps({"instances": list(rows)}, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
        return Call(f"/v1{_model(model, version)}/predict", self._reader(_predictions), body, headers=_JSON)

    def infer(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None, version: str | None, id_: str
    ) -> Call[Inference]:
        tensors, tail = [], []
        for name, array in inputs.items():
            raw = encode_tensor(array)
            head = {"name": name, "datatype": datatype_of(array.dtype), "shape": array.shape}
            tensors.append({**head, "parameters": {"binary_data_size": len(raw)}})
            tail.append(raw)
        document: dict[str, Any] = {"inputs": tensors, "parameters": {"binary_data_output": True}}
        if id_:
            document["id"] = id_
        if outputs is not None:
            document["outputs"] = [{"name": name} for name in outputs]
        head_bytes = orjson.dumps(document)
        headers = {"content-type": "application/octet-stream", _HEADER_LENGTH: str(len(head_bytes))}
        body = b"".join((head_bytes, *tail))
        return Call(f"/v2{_model(model, version)}/infer", self._reader(_inference), body, headers=headers)

    def metadata(self, model: str, version: str | None) -> Call[ModelMetadata]:
        return Call(f"/v2{_model(model, version)}", self._reader(_metadata), method="GET")

    def server_metadata(self) -> Call[ServerMetadata]:
        def read(reply: Reply) -> ServerMetadata:
            document = orjson.loads(reply.body)
            return ServerMetadata(document["name"], document["version"], document["extensions"])

        return Call("/v2", self._reader(read), method="GET")

    def ready(self, model: str | None) -> Call[bool]:
        path = "/v2/health/ready" if model is None else f"/v2{_model(model, None)}/ready"
        return Call(path, _said_yes, method="GET", expected=_NOT_READY)

    def live(self) -> Call[bool]:
        return Call("/v2/health/live", _said_yes, method="GET")

    def _reader(self, read: Callable[[Reply], Result]) -> Callable[[Reply], Result]:
        """``read``; a reply that it cannot read is none of keelway's."""

        def checked(reply: Reply) -> Result:
            try:
                return read(reply)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError, KeelwayError):
                raise no_keelway(self._address) from None

        return checked


def _model(name: str, version: str | None) -> str:
    path = f"/models/{quote(name, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


def _plain(value: Any) -> Any:
    """What orjson does not write by itself."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be sent as JSON")


def _said_yes(reply: Reply) -> bool:
    return reply.error is None


def _predictions(reply: Reply) -> Predictions:
    document = orjson.loads(reply.body)
    predictions, labels = document["predictions"], document.get("labels", ())
    probabilities = document.get("probabilities", ())
    return Predictions(
        document["model"],
        document["model_version"],
        document["model_digest"],
        document["policy_revision"],
        document["request_id"],
        document["time"],
        predictions,
        labels,
        probabilities,
        [confidence(label, labels, row) for label, row in zip(predictions, probabilities, strict=bool(probabilities))],
        {
            error["row"]: RowError(ErrorCode(error["code"]), error["message"], error.get("field", ""))
            for error in document.get("errors", ())
        },
        document.get("flags", ()),
    )


def _inference(reply: Reply) -> Inference:
    length = int(reply.headers.get(_HEADER_LENGTH, len(reply.body)))
    document, tail = orjson.loads(reply.body[:length]), memoryview(reply.body)[length:]
    outputs: dict[str, Array] = {}
    at = 0
    for output in document["outputs"]:
        name, datatype, shape = output["name"], output["datatype"], tuple(output["shape"])
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs[name] = np.array(output["data"], dtype=NUMPY_DTYPES[datatype]).reshape(shape)
        else:
            outputs[name] = decode_tensor(tail[at : at + size], datatype, shape, name)
            at += size
    parameters = document["parameters"]
    tags = parameters.get("tags", "")
    return Inference(
        document["model_name"],
        document["model_version"],
        parameters["model_digest"],
        parameters["policy_revision"],
        parameters["request_id"],
        document.get("id", ""),
        outputs,
        tags.split(",") if tags else (),
    )


def _metadata(reply: Reply) -> ModelMetadata:
    document = orjson.loads(reply.body)
    parameters = document["parameters"]
    return ModelMetadata(
        document["name"],
        document["versions"],
        document["platform"],
        [_spec(tensor) for tensor in document["inputs"]],
        [_spec(tensor) for tensor in document["outputs"]],
        parameters["model_digest"],
        parameters["policy_revision"],
    )


def _spec(tensor: Mapping[str, Any]) -> TensorSpec:
    columns = tensor.get("parameters", {}).get("columns", ())
    return TensorSpec(tensor["name"], tensor["datatype"], tuple(tensor["shape"]), tuple(columns))
