"""The OpenAPI document: complete, consistent, and its examples are requests that the models accept. # R4"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.codecs.json import OpenInferenceCodec
from keelway.codecs.rows import RowCodec
from keelway.contract.binding import Binding
from keelway.contract.constraints import Policy
from keelway.contract.signature import Feature, ModelSignature, pack, validate_signature
from keelway.guard.validation import Validator
from keelway.routing.snapshot import ServedModel, ServedVersion
from keelway.testing import FakeRuntime
from keelway.transports.rest.openapi import EXAMPLE_LIMIT, openapi_document
from keelway.transports.rest.service import Service
from keelway.types import NUMPY_DTYPES, TensorSpec

SCORE = (TensorSpec("score", "FP32", (-1,)),)
FEATURES = (Feature("age", "FP32", nullable=True), Feature("country", "BYTES"), Feature("prices", "FP64", False, (3,)))
LEADS = ModelSignature(FEATURES, pack(FEATURES), SCORE)


def served(signature: ModelSignature, name: str = "m", **metadata: Any) -> ServedVersion:
    runtime = FakeRuntime(signature.inputs, signature.outputs, lambda inputs: {})
    validator = Validator(signature, Policy(), None)
    about = {"runtime": "onnx", **metadata}
    binding = Binding(signature, 10)
    return ServedVersion(name, "1.0.0", "sha256:0", 1, signature, binding, validator, runtime, None, about)


def document(*versions: ServedVersion) -> dict[str, Any]:
    models = [ServedModel(v.name, {v.version: v}, v.version, {"champion": v.version}) for v in versions]
    # What a caller gets, keys and all.
    return orjson.loads(orjson.dumps(openapi_document(models)))  # type: ignore[no-any-return]


def operations(described: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in described["paths"].items():
        for method in ("get", "post"):
            if method in item:
                yield path, method, item[method]


def example(described: Mapping[str, Any], path: str) -> Any:
    return described["paths"][path]["post"]["requestBody"]["content"]["application/json"].get("example")


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def test_every_route_of_the_server_is_described() -> None:
    nothing: Any = None  # the routes do not depend on what the service is given
    service = Service(nothing, nothing, nothing, allow_model_control=False, draining=lambda: False)
    paths = [(method.upper(), path) for path, method, _ in operations(document(served(LEADS)))]
    described = {(method, path.replace("/models/m", "/models/{model}")) for method, path in paths}
    routes = {(method, route.path) for route in service.application.routes for method in route.methods - {"HEAD"}}  # type: ignore[attr-defined]
    assert routes - described == {("GET", "/"), ("GET", "/docs")}  # pages for people


def test_every_reference_resolves() -> None:
    described = document(served(LEADS), served(LEADS, "n"))
    for reference in set(references(described)):
        node: Any = described
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_no_two_operations_have_one_name_even_if_models_are_called_like_them() -> None:
    names = ("m", "version_m", "server", "predict")
    ids = [
        operation["operationId"] for _, _, operation in operations(document(*(served(LEADS, name) for name in names)))
    ]
    assert len(set(ids)) == len(ids)


def test_a_path_parameter_is_declared_wherever_it_stands_in_a_path() -> None:
    described = document(served(LEADS))
    for path, _, operation in operations(described):
        declared = [*described["paths"][path].get("parameters", ()), *operation.get("parameters", ())]
        in_path = {parameter["name"] for parameter in declared if parameter.get("in") == "path"}
        assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_only_a_value_that_must_be_there_is_required() -> None:
    row = document(served(LEADS))["components"]["schemas"]["m.Row"]
    assert row["required"] == ["country", "prices"]
    assert row["properties"]["age"]["type"] == ["number", "null"]
    assert row["properties"]["prices"]["maxItems"] == row["properties"]["prices"]["minItems"] == 3


def test_the_example_is_the_row_that_hosting_has_put_into_the_metadata() -> None:
    row = {"age": 41.5, "country": "NL", "prices": [1.5, 2.5, 3.5]}
    described = document(served(LEADS, example=row))
    assert example(described, "/v1/models/m/predict") == {"instances": [row]}
    tensors = {tensor["name"]: tensor for tensor in example(described, "/v2/models/m/infer")["inputs"]}
    assert tensors["input_bytes"] == {"name": "input_bytes", "shape": [1, 1], "datatype": "BYTES", "data": ["NL"]}
    assert tensors["prices"] == {"name": "prices", "shape": [1, 3], "datatype": "FP64", "data": [1.5, 2.5, 3.5]}


def test_a_row_too_large_to_read_has_no_example() -> None:
    feature = Feature("pixels", "FP32", False, (EXAMPLE_LIMIT + 1,))
    described = document(served(ModelSignature((feature,), pack((feature,)), SCORE)))
    assert example(described, "/v1/models/m/predict") is None
    assert "No example" in described["paths"]["/v2/models/m/infer"]["post"]["requestBody"]["description"]


shapes = st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=2).map(tuple)
kinds = st.lists(st.tuples(st.sampled_from(sorted(NUMPY_DTYPES)), shapes), min_size=1, max_size=5)


@given(kinds, st.sampled_from(["packed", "apart", "without a batch axis"]))
def test_the_model_accepts_its_own_examples(kinds: list[tuple[str, tuple[int, ...]]], layout: str) -> None:
    features = tuple(Feature(f"f{n}", datatype, False, shape) for n, (datatype, shape) in enumerate(kinds))
    if layout == "packed":
        inputs, outputs = pack(features), SCORE
    else:
        batch = (-1,) if layout == "apart" else ()
        inputs = tuple(TensorSpec(feature.name, feature.datatype, (*batch, *feature.shape)) for feature in features)
        outputs = (TensorSpec("score", "FP32", batch),)
    signature = ModelSignature(features, inputs, outputs)
    validate_signature(signature)
    version = served(signature)
    described = document(version)
    for path, codec in (("/v1/models/m/predict", RowCodec()), ("/v2/models/m/infer", OpenInferenceCodec())):
        body = orjson.dumps(example(described, path))
        bound = version.binding.bind(codec.parse(body, None))
        assert not bound.row_errors
        assert {name: array.ndim for name, array in bound.inputs.items()} == {s.name: len(s.shape) for s in inputs}


@pytest.mark.parametrize("labels", [(), ("no", "yes")])
def test_labels_are_promised_only_by_a_model_that_has_them(labels: tuple[str, ...]) -> None:
    outputs = (TensorSpec("label", "BYTES", (-1,)), TensorSpec("p", "FP32", (-1, 2)))
    signature = ModelSignature(LEADS.features, LEADS.inputs, outputs, "classification", labels, "label", "p")
    promised = document(served(signature))["components"]["schemas"]["m.Predictions"]["properties"]
    assert promised.get("labels", {}).get("const") == (list(labels) or None)
    assert "probabilities" in promised
