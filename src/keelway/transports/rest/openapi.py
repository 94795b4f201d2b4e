"""The OpenAPI 3.1 document, written for the models that are served now: their own feature names and types.

Pure: from snapshot to document. Describes the people's routes and the Open Inference Protocol; the drop-in routes of
other servers are described by those servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keelway import __version__
from keelway.contract.signature import Feature, ModelSignature
from keelway.routing.snapshot import ServedModel
from keelway.types import TensorSpec

_JSON_TYPES = {"BOOL": "boolean", "BYTES": "string", "FP16": "number", "FP32": "number", "FP64": "number"}
_PROBLEM = {"$ref": "#/components/responses/Problem"}
_ERROR = {"$ref": "#/components/responses/Error"}


def openapi_document(models: Sequence[ServedModel]) -> dict[str, Any]:
    """One path of each kind per model, with schemas from its default version."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for model in models:
        signature = model.versions[model.default].signature
        row, body = f"{model.name}.Row", f"{model.name}.Tensors"
        schemas[row] = row_schema(signature)
        schemas[body] = tensors_schema(signature.inputs)
        predict = predict_operation(model.name, row, signature)
        infer = infer_operation(model.name, body)
        paths[f"/v1/models/{model.name}/predict"] = {"post": predict}
        paths[f"/v1/models/{model.name}/versions/{{version}}/predict"] = {
            "parameters": [_version_parameter(model)],
            "post": predict | {"operationId": f"predict_version_{model.name}"},
        }
        paths[f"/v2/models/{model.name}/infer"] = {"post": infer}
        paths[f"/v2/models/{model.name}/versions/{{version}}/infer"] = {
            "parameters": [_version_parameter(model)],
            "post": infer | {"operationId": f"infer_version_{model.name}"},
        }
        paths[f"/v2/models/{model.name}"] = {
            "get": _read(f"metadata_{model.name}", "Metadata of the model", model.name)
        }
        paths[f"/v2/models/{model.name}/ready"] = {"get": _read(f"ready_{model.name}", "Is it ready?", model.name)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "keelway",
            "version": __version__,
            "summary": "The models served here, and how to call them.",
        },
        "paths": paths | _SERVER_PATHS,
        "components": {"schemas": schemas | _SCHEMAS, "responses": _RESPONSES},
    }


def row_schema(signature: ModelSignature) -> dict[str, Any]:
    """A row as an object: one property per feature; those that may be missing are not required."""
    return {
        "type": "object",
        "properties": {feature.name: feature_schema(feature) for feature in signature.features},
        "required": [feature.name for feature in signature.features if not feature.nullable],
        "additionalProperties": False,
    }


def feature_schema(feature: Feature) -> dict[str, Any]:
    kind: Any = _JSON_TYPES.get(feature.datatype, "integer")
    schema: dict[str, Any] = {"type": [kind, "null"] if feature.nullable and not feature.shape else kind}
    for size in reversed(feature.shape):
        schema = {"type": "array", "items": schema}
        if size != -1:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def tensors_schema(inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """An Open Inference Protocol request for exactly these inputs."""
    tensors = [
        {
            "type": "object",
            "required": ["name", "shape", "datatype", "data"],
            "properties": {
                "name": {"const": spec.name},
                "datatype": {"const": spec.datatype},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "data": {"type": "array"},
            },
        }
        for spec in inputs
    ]
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": {"anyOf": tensors}, "minItems": 1},
            "outputs": {
                "type": "array",
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
            },
        },
    }


def predict_operation(name: str, row: str, signature: ModelSignature) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["instances"],
        "properties": {"instances": {"type": "array", "items": {"$ref": f"#/components/schemas/{row}"}}},
    }
    example = {"instances": [{feature.name: example_value(feature) for feature in signature.features}]}
    return {
        "operationId": f"predict_{name}",
        "summary": "Predict from named rows",
        "tags": [name],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}},
        "responses": {
            "200": {
                "description": "Predictions in the order of the rows; bad rows are null and stand in errors.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Predictions"}}},
            },
            **dict.fromkeys(("400", "404", "408", "413", "415", "429", "500", "503", "504"), _PROBLEM),
        },
    }


def infer_operation(name: str, body: str) -> dict[str, Any]:
    return {
        "operationId": f"infer_{name}",
        "summary": "Infer from tensors (Open Inference Protocol)",
        "tags": [name],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}},
        },
        "responses": {
            "200": {
                "description": "The outputs, as JSON or as binary tensors behind it.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            **dict.fromkeys(("400", "404", "408", "413", "415", "429", "500", "501", "503", "504"), _ERROR),
        },
    }


def example_value(feature: Feature) -> Any:
    """A value of the right kind, for the example of the documentation page."""
    value: Any = {"BOOL": False, "BYTES": "text"}.get(feature.datatype, 0)
    for size in reversed(feature.shape):
        value = [value] * (1 if size == -1 else min(size, 8))
    return value


def _version_parameter(model: ServedModel) -> dict[str, Any]:
    return {
        "name": "version",
        "in": "path",
        "required": True,
        "description": "A version or an alias.",
        "schema": {"type": "string", "examples": [*model.versions, *model.aliases]},
    }


def _read(operation: str, summary: str, tag: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "tags": [tag],
        "responses": {"200": {"description": "Yes.", "content": {"application/json": {}}}, "404": _ERROR},
    }


_SERVER_PATHS: dict[str, Any] = {
    path: {
        "get": {
            "operationId": operation,
            "summary": summary,
            "tags": ["server"],
            "responses": {"200": {"description": "Yes."}, **({"503": {"description": "Not now."}} if waits else {})},
        }
    }
    for path, operation, summary, waits in (
        ("/health/live", "live", "Is the process alive?", False),
        ("/health/ready", "ready", "Are all models loaded, and is the server not draining?", True),
        ("/health/startup", "startup", "Has the server ever been ready?", True),
        ("/v1/models", "models", "The models served", False),
        ("/v2", "server_metadata", "The server and its extensions", False),
        ("/metrics", "metrics", "Prometheus metrics", False),
    )
}

_SCHEMAS: dict[str, Any] = {
    "Predictions": {
        "type": "object",
        "required": ["model", "model_version", "model_digest", "request_id", "time", "predictions"],
        "properties": {
            "model": {"type": "string"},
            "model_version": {"type": "string"},
            "model_digest": {"type": "string"},
            "policy_revision": {"type": "integer"},
            "request_id": {"type": "string"},
            "time": {"type": "string", "format": "date-time"},
            "predictions": {"type": "array"},
            "labels": {"type": "array"},
            "probabilities": {"type": "array"},
            "flags": {"type": "array", "items": {"type": "string"}},
            "errors": {"type": "array", "items": {"type": "object"}},
        },
    }
}

_RESPONSES: dict[str, Any] = {
    "Problem": {
        "description": "What is wrong, as a problem document (RFC 9457).",
        "content": {"application/problem+json": {"schema": {"type": "object", "required": ["status", "detail"]}}},
    },
    "Error": {
        "description": "What is wrong.",
        "content": {"application/json": {"schema": {"type": "object", "required": ["error"]}}},
    },
}
