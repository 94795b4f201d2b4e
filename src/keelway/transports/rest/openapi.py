"""The OpenAPI 3.1 document, written for the models that are served now: their own feature names, types and examples.

Pure: from snapshot to document. Describes the people's routes, the Open Inference Protocol and the server's own routes;
the drop-in routes of other servers are described by those servers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from keelway import __version__
from keelway.contract.constraints import Constraint
from keelway.contract.semver import by_precedence
from keelway.contract.signature import Feature, ModelSignature
from keelway.routing.snapshot import ServedModel, ServedVersion
from keelway.transports.rest.declared import constrained, constraint_schema
from keelway.transports.rest.errors import error_body_of, problem
from keelway.types import TensorSpec

#: A row of more values than this gets no example: nobody sends it as JSON by hand.
EXAMPLE_LIMIT: Final = 4096

_JSON_TYPES = {"BOOL": "boolean", "BYTES": "string", "FP16": "number", "FP32": "number", "FP64": "number"}
_FORMATS = {"FP32": "float", "FP64": "double"}
#: Bytes in a row: text, or an object for what is no text.
_B64 = {"properties": {"b64": {"type": "string"}}, "required": ["b64"], "additionalProperties": False}
_TIMEOUT = {"$ref": "#/components/parameters/RequestTimeout"}
_PRIORITY = {"$ref": "#/components/parameters/RequestPriority"}


def openapi_document(models: Sequence[ServedModel]) -> dict[str, Any]:
    """One path of each kind per model, with schemas and examples from its default version."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for model in models:
        paths |= model_paths(model)
        served = model.versions[model.default]
        schemas |= model_schemas(model.name, served.signature, served.metadata.get("constraints", ()))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "keelway",
            "version": __version__,
            "summary": "The models served here, and how to call them.",
        },
        "tags": [*({"name": model.name} for model in models), {"name": "Server"}],
        "paths": paths | _SERVER_PATHS,
        "components": {"schemas": schemas | _SCHEMAS, "responses": _RESPONSES, "parameters": _PARAMETERS},
    }


def model_paths(model: ServedModel) -> dict[str, Any]:
    """The routes of one model. A dot in an operation's name keeps it apart from every other: model names have none."""
    name = model.name
    served = model.versions[model.default]
    predict, infer = predict_operation(name, served), infer_operation(name, served)
    people, protocol = f"/v1/models/{name}", f"/v2/models/{name}"
    paths: dict[str, Any] = {
        f"{people}/predict": {"post": predict},
        f"{protocol}/infer": {"post": infer},
        f"{people}/versions/{{version}}/predict": {
            "post": predict | {"operationId": f"{name}.predict_version", "summary": "Predict with one version"}
        },
        f"{protocol}/versions/{{version}}/infer": {
            "post": infer | {"operationId": f"{name}.infer_version", "summary": "Infer with one version"}
        },
    }
    for path, operation, summary in (
        (people, "status", "Which versions answer, and the features of the default one"),
        (protocol, "metadata", "The tensors of the model"),
        (f"{protocol}/ready", "ready", "Is the model ready?"),
        (f"{protocol}/versions/{{version}}", "metadata_version", "The tensors of one version"),
        (f"{protocol}/versions/{{version}}/ready", "ready_version", "Is this version ready?"),
    ):
        paths[path] = {"get": _read(path, name, operation, summary)}
    version = {"parameters": [_version_parameter(model)]}
    return {path: version | item if "{version}" in path else item for path, item in paths.items()}


def model_schemas(name: str, signature: ModelSignature, constraints: Sequence[Constraint] = ()) -> dict[str, Any]:
    """``<name>.Row``, ``.Predictions``, ``.Tensors`` and ``.Outputs``."""
    return {
        f"{name}.Row": row_schema(signature, constraints),
        f"{name}.Predictions": predictions_schema(signature),
        f"{name}.Tensors": tensors_schema(signature.inputs),
        f"{name}.Outputs": outputs_schema(signature.outputs),
    }


def row_schema(signature: ModelSignature, constraints: Sequence[Constraint] = ()) -> dict[str, Any]:
    """A row as an object: one property per feature; those that may be missing are not required."""
    declared = {constraint.feature: constraint for constraint in constraints}
    features = [constrained(feature, declared.get(feature.name)) for feature in signature.features]
    return {
        "type": "object",
        "properties": {
            feature.name: feature_schema(feature) | constraint_schema(feature, declared.get(feature.name))
            for feature in features
        },
        "required": [feature.name for feature in features if feature.shape or not feature.nullable],
        "additionalProperties": False,
    }


def feature_schema(feature: Feature) -> dict[str, Any]:
    """One value of a row. Arrays of a fixed length say so; the datatype itself stands in ``x-datatype``."""
    kind = _JSON_TYPES.get(feature.datatype, "integer")
    kinds = [kind, *(["object"] if feature.datatype == "BYTES" else []), *(["null"] if feature.nullable else [])]
    schema: dict[str, Any] = {"type": kinds if len(kinds) > 1 else kind}
    if feature.datatype == "BYTES":
        schema |= _B64
    if kind == "integer" or feature.datatype in _FORMATS:
        schema["format"] = _FORMATS.get(feature.datatype, feature.datatype.lower())
    for size in reversed(feature.shape):
        schema = {"type": "array", "items": schema}
        if size != -1:
            schema |= {"minItems": size, "maxItems": size}
    return schema | {"x-datatype": feature.datatype}


def predictions_schema(signature: ModelSignature) -> dict[str, Any]:
    """What the people's routes answer: ``labels`` and ``probabilities`` only for a model that has them."""
    properties: dict[str, Any] = {
        "model": {"type": "string"},
        "model_version": {"type": "string"},
        "model_digest": {"type": "string"},
        "policy_revision": {"type": "integer"},
        "request_id": {"type": "string"},
        "time": {"type": "string", "format": "date-time"},
        "predictions": {"type": "array", "description": "One a row, in the order of the rows; null for a bad row."},
    }
    if signature.label_output and signature.labels:
        properties["labels"] = {"const": list(signature.labels), "description": "The columns of the probabilities."}
    if signature.label_output and signature.probability_output:
        row = {"type": ["array", "null"], "items": {"type": "number"}}
        properties["probabilities"] = {"type": "array", "items": row}
    properties["flags"] = {
        "type": "array",
        "items": {"type": "string"},
        "description": "What was unusual, such as out_of_range:age. A flag never refuses anything.",
    }
    properties["errors"] = {"type": "array", "items": {"$ref": "#/components/schemas/RowError"}}
    required = ["model", "model_version", "model_digest", "policy_revision", "request_id", "time", "predictions"]
    return {"type": "object", "required": required, "properties": properties}


def tensors_schema(inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """An Open Inference Protocol request for exactly these inputs."""
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": {"anyOf": [tensor_schema(spec) for spec in inputs]}, "minItems": 1},
            "outputs": {
                "type": "array",
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
                "description": "The outputs wanted; all of them if left out.",
            },
        },
    }


def outputs_schema(outputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """An Open Inference Protocol answer with these outputs."""
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"anyOf": [tensor_schema(spec) for spec in outputs]}},
        },
    }


def tensor_schema(spec: TensorSpec) -> dict[str, Any]:
    """One tensor as JSON; -1 in its described shape is an open axis."""
    axes = [{"const": size} if size != -1 else {"type": "integer", "minimum": 0} for size in spec.shape]
    schema: dict[str, Any] = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": spec.datatype},
            "shape": {"type": "array", "prefixItems": axes, "minItems": len(axes), "maxItems": len(axes)},
            "data": {"type": "array", "description": "Flat in row-major order, or nested."},
        },
    }
    if spec.datatype == "BYTES":
        words = "content_type base64: the elements are base64 text of bytes."
        schema["properties"]["parameters"] = {"type": "object", "description": words}
    if spec.columns:
        schema["description"] = f"Columns in this order: {', '.join(spec.columns)}."
    return schema


def predict_operation(name: str, served: ServedVersion) -> dict[str, Any]:
    row = {"$ref": f"#/components/schemas/{name}.Row"}
    width = len(served.signature.features)
    ordered = {"type": "array", "minItems": width, "maxItems": width, "description": "The values in the model's order."}
    schema = {
        "type": "object",
        "oneOf": [{"required": ["instances"]}, {"required": ["features"]}],
        "properties": {
            "instances": {"type": "array", "minItems": 1, "items": {"anyOf": [row, ordered]}},
            "features": {"description": "One row, or many, by another name.", "anyOf": [row, {"type": "array"}]},
        },
    }
    example = example_row(served)
    return {
        "operationId": f"{name}.predict",
        "summary": "Predict from named rows",
        "description": "Rows in, predictions out. Rows succeed or fail one by one: bad rows are answered beside the "
        "good ones, and only if all are bad is the request refused.",
        "tags": [name],
        "parameters": [_TIMEOUT, _PRIORITY],
        "requestBody": _body(schema, None if example is None else {"instances": [example]}),
        "responses": {
            "200": _answer(
                "Predictions in the order of the rows; bad rows are null and stand in errors.", f"{name}.Predictions"
            ),
            **_failures("Problem", 400, 403, 404, 408, 413, 415, 429, 500, 503, 504),
        },
    }


def infer_operation(name: str, served: ServedVersion) -> dict[str, Any]:
    row = example_row(served)
    example = None if row is None else {"inputs": example_tensors(served.signature.inputs, row)}
    return {
        "operationId": f"{name}.infer",
        "summary": "Infer from tensors (Open Inference Protocol)",
        "description": "Tensors in, tensors out, as JSON or as binary tensors behind it. The request succeeds or fails "
        "as a whole.",
        "tags": [name],
        "parameters": [_TIMEOUT, _PRIORITY],
        "requestBody": _body({"$ref": f"#/components/schemas/{name}.Tensors"}, example),
        "responses": {
            "200": _answer("The outputs, as JSON or as binary tensors behind it.", f"{name}.Outputs"),
            **_failures("Error", 400, 403, 404, 408, 413, 415, 429, 500, 501, 503, 504),
        },
    }


def example_row(served: ServedVersion) -> dict[str, Any] | None:
    """One row to try: what the hosting side has put in ``metadata["example"]`` (feature name -> JSON value), zeros and
    empty words where it has put nothing. ``None`` for a row of more than ``EXAMPLE_LIMIT`` values."""
    features = served.signature.features
    if sum(math.prod(max(size, 1) for size in feature.shape) for feature in features) > EXAMPLE_LIMIT:
        return None
    known: Mapping[str, Any] = served.metadata.get("example") or {}
    return {feature.name: known.get(feature.name, placeholder(feature)) for feature in features}


def placeholder(feature: Feature) -> Any:
    """A value of the right kind and shape, open axes of length 1."""
    value: Any = {"BOOL": False, "BYTES": "text"}.get(feature.datatype, 0)
    for size in reversed(feature.shape):
        value = [value] * max(size, 1)
    return value


def example_tensors(inputs: Sequence[TensorSpec], row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``row`` as the model's own tensors, of one row each."""
    tensors = []
    for spec in inputs:
        value = [row[column] for column in spec.columns] if spec.columns else row[spec.name]
        data, shape = [value], [1]
        while isinstance(data[0], list):
            shape.append(len(data[0]))
            data = [element for part in data for element in part]
        # The batch axis counts only where the tensor has one; a scalar's tensor has axes of length one, or none.
        shape = shape[1:] if len(shape) > len(spec.shape) else shape + [1] * (len(spec.shape) - len(shape))
        tensor: dict[str, Any] = {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": data}
        base64 = [element["b64"] for element in data if isinstance(element, dict)]
        if base64:  # bytes, as rows say them
            tensor |= {"data": base64, "parameters": {"content_type": "base64"}}
        tensors.append(tensor)
    return tensors


def _body(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    if example is None:
        note = "No example: a row of this model is too large to be written by hand. Send binary tensors."
        return {"required": True, "description": note, "content": {"application/json": {"schema": schema}}}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _answer(description: str, schema: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _version_parameter(model: ServedModel) -> dict[str, Any]:
    others = [version for version in by_precedence(model.versions) if version != model.default] + sorted(model.aliases)
    return {
        "name": "version",
        "in": "path",
        "required": True,
        "description": "A version, an alias, or a range such as ^1.2.",
        "schema": {"type": "string", "examples": [model.default, *others]},
    }


def _read(path: str, name: str, operation: str, summary: str) -> dict[str, Any]:
    return {
        "operationId": f"{name}.{operation}",
        "summary": summary,
        "tags": [name],
        "responses": {
            "200": {"description": summary, "content": {"application/json": {}}},
            **_failures("Problem" if error_body_of(path) is problem else "Error", 404, 503),
        },
    }


def _failures(form: str, *statuses: int) -> dict[str, Any]:
    """Responses of these statuses; ``form`` is the schema of their body, ``Problem`` or ``Error``."""
    return {str(status): {"$ref": f"#/components/responses/{form}{status}"} for status in statuses}


def _server_operation(
    method: str, path: str, operation: str, summary: str, failures: Mapping[str, Any]
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "operationId": f"Server.{operation}",
        "summary": summary,
        "tags": ["Server"],
        "responses": {"200": {"description": summary}, **failures},
    }
    if "{model}" in path:
        document["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    if method == "post":
        schema = {"type": "object"}
        document["requestBody"] = {"content": {"application/json": {"schema": schema, "example": {}}}}
    return {method: document}


# The tag and the operations of the server itself are capitalised, which no model's name can be.
_NOT_NOW = {"503": {"description": "Not now."}}
_INDEX = _failures("Error", 400, 403, 408, 413, 415)
_CONTROL = _failures("Error", 400, 403, 404, 408, 409, 413, 415, 500, 503)

_SERVER_PATHS: dict[str, Any] = {
    path: _server_operation(method, path, operation, summary, failures)
    for method, path, operation, summary, failures in (
        ("get", "/health/live", "live", "Is the process alive?", {}),
        ("get", "/health/ready", "ready", "Are all models loaded, and is the server not draining?", _NOT_NOW),
        ("get", "/health/startup", "startup", "Has the server ever been ready?", _NOT_NOW),
        ("get", "/ping", "ping", "The same as /health/ready, where MLflow and SageMaker look for it", _NOT_NOW),
        ("get", "/v1/models", "models", "The models served, with their versions and features", {}),
        ("get", "/v2", "metadata", "The server and its extensions", {}),
        ("get", "/v2/health/live", "protocol_live", "Is the process alive? (Open Inference Protocol)", {}),
        ("get", "/v2/health/ready", "protocol_ready", "Is the server ready? (Open Inference Protocol)", _NOT_NOW),
        ("post", "/v2/repository/index", "index", "Every model wanted, with its state", _INDEX),
        ("post", "/v2/repository/models/{model}/load", "load", "Serve a registered model as well", _CONTROL),
        ("post", "/v2/repository/models/{model}/unload", "unload", "Stop serving a model", _CONTROL),
        ("get", "/metrics", "metrics", "Prometheus metrics", {}),
        ("get", "/openapi.json", "openapi", "The models served and how to call them, as OpenAPI", {}),
    )
}

_PARAMETERS: dict[str, Any] = {
    "RequestTimeout": {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "Seconds the caller will wait, such as 0.25 or 250ms; the server's own limit still holds.",
        "schema": {"type": "string"},
    },
    "RequestPriority": {
        "name": "X-Request-Priority",
        "in": "header",
        "description": "A batch request takes what interactive ones leave, and is refused before them.",
        "schema": {"type": "string", "enum": ["interactive", "batch"], "default": "interactive"},
    },
}

_SCHEMAS: dict[str, Any] = {
    "RowError": {
        "type": "object",
        "required": ["row", "code", "message"],
        "properties": {
            "row": {"type": "integer", "description": "Its position in the request, from 0."},
            "code": {"type": "string"},
            "message": {"type": "string"},
            "field": {"type": "string"},
        },
    },
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status", "detail", "request_id"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "request_id": {"type": "string"},
            "code": {"type": "string"},
            "field": {"type": "string", "description": "The feature or setting at fault, where one is known."},
        },
    },
    "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
}

_REFUSALS = {
    400: "The body is not what the format says, or a name, value, shape or datatype does not fit. Names the field.",
    403: "The caller may not do this, or the page that asks may not, or it is switched off.",
    404: "No such model, version or alias is served here.",
    408: "The body did not arrive in time.",
    409: "The request is sound, but the state of the model or of the server does not allow it.",
    413: "The body is larger, or has more rows, than the server accepts.",
    415: "Not a media type or an encoding this route takes.",
    429: "The caller has asked too often. Retry-After says when to try again.",
    500: "The model or the server failed. The reason is in the server's log, under the request id.",
    501: "A valid request for something that is not supported.",
    503: "The server has no room now, the model is not loaded, or the server is shutting down. See Retry-After.",
    504: "The time for the request was up before the answer.",
}

_RESPONSES: dict[str, Any] = {
    f"{form}{status}": {
        "description": words,
        "content": {media_type: {"schema": {"$ref": f"#/components/schemas/{form}"}}},
    }
    for form, media_type in (("Problem", "application/problem+json"), ("Error", "application/json"))
    for status, words in _REFUSALS.items()
}
