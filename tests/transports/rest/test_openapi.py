"""The OpenAPI document is true: its references resolve, its examples are answered, replies are as described. # R4"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from tests.serving import ROW, SCORE_SIGNATURE, Item, Reply, Server, Shelf, ask, forest_item, score, wait_until

from keelway.contract.constraints import Constraint, Policy
from keelway.contract.signature import Feature, ModelSignature, pack
from keelway.testing import FakeRuntime
from keelway.types import NUMPY_DTYPES, TensorSpec

DATATYPES = list(NUMPY_DTYPES)
EVERYTHING = ModelSignature(
    features=(
        *(Feature(f"a_{datatype.lower()}", datatype) for datatype in DATATYPES),
        Feature("perhaps", "FP32", nullable=True),
        Feature("vector", "FP64", shape=(3,)),
        Feature("image", "UINT8", shape=(2, 2, 3)),
        Feature("words", "BYTES", shape=(-1,)),
    ),
    inputs=(
        *(TensorSpec(f"a_{datatype.lower()}", datatype, (-1, 1)) for datatype in DATATYPES if datatype != "FP32"),
        TensorSpec("packed", "FP32", (-1, 2), ("a_fp32", "perhaps")),
        TensorSpec("vector", "FP64", (-1, 3)),
        TensorSpec("image", "UINT8", (-1, 2, 2, 3)),
        TensorSpec("words", "BYTES", (-1, -1)),
    ),
    outputs=(TensorSpec("y", "FP32", (-1,)), TensorSpec("z", "BYTES", (-1, 2))),
)


def everything() -> FakeRuntime:
    def answer(inputs: Mapping[str, Any]) -> dict[str, Any]:
        rows = len(inputs["packed"])
        return {"y": np.zeros(rows, np.float32), "z": np.array([["a", "b"]] * rows, dtype=object)}

    return FakeRuntime(EVERYTHING.inputs, EVERYTHING.outputs, answer)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    shelf = Shelf().put("iris", "1.0.0", forest_item()).put("iris", "2.0.0", forest_item())
    shelf.want("iris", "1.0.0", "2.0.0", aliases={"champion": "1.0.0"})
    # Names made to collide with others: of operations, of schemas, of the server itself.
    for name in ("m", "server", "version_m", "m_version", "predict", "problem"):
        shelf.serve(name, score)
    shelf.put("everything", "1.0.0", Item(everything, EVERYTHING)).want("everything", "1.0.0")
    with Server(shelf, serving={"allow_model_control": True, "drain_delay": 0.0}) as running:
        yield running


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    reply = server.get("/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    return reply.json  # type: ignore[no-any-return]


METHODS = frozenset({"get", "post", "put", "delete", "patch", "head", "options", "trace"})


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], list[dict[str, Any]]]]:
    """Path, method, operation and its parameters, those of the path among them."""
    for path, item in document["paths"].items():
        for method in METHODS & item.keys():
            yield path, method, item[method], [*item.get("parameters", []), *item[method].get("parameters", [])]


def resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        target: Any = document
        for key in node["$ref"].removeprefix("#/").split("/"):
            target = target[key.replace("~1", "/").replace("~0", "~")]
        node = target
    return node


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from nodes(child)


def test_it_has_what_openapi_3_1_requires(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document.keys() <= {"openapi", "info", "servers", "paths", "components", "tags", "jsonSchemaDialect"}
    assert document["info"].keys() >= {"title", "version"}
    for path, item in document["paths"].items():
        assert path.startswith("/")
        assert item.keys() <= METHODS | {"parameters", "summary", "description", "servers", "$ref"}
    for path, method, operation, parameters in operations(document):
        where = f"{method} {path}"
        assert operation["responses"], where
        assert all(re.fullmatch(r"[1-5]\d\d|default", status) for status in operation["responses"]), where
        for response in operation["responses"].values():
            assert resolve(document, response)["description"], where
        resolved = [resolve(document, parameter) for parameter in parameters]
        assert all({"name", "in"} <= parameter.keys() for parameter in resolved), where
        in_path = {parameter["name"] for parameter in resolved if parameter["in"] == "path" and parameter["required"]}
        assert in_path == set(re.findall(r"{(\w+)}", path)), where
        assert "requestBody" not in operation or method == "post", where


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = [node for node in nodes(document) if "$ref" in node]
    assert references
    for reference in references:
        assert reference.keys() == {"$ref"}
        assert resolve(document, reference)


def test_nothing_is_described_that_nothing_refers_to(document: dict[str, Any]) -> None:
    used = {node["$ref"] for node in nodes(document) if "$ref" in node}
    for kind in ("responses", "parameters", "schemas"):
        unused = {name for name in document["components"][kind] if f"#/components/{kind}/{name}" not in used}
        assert kind == "responses" or not unused, kind


def test_names_of_components_are_legal(document: dict[str, Any]) -> None:
    for kind, entries in document["components"].items():
        assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in entries), kind


def test_no_two_operations_share_a_name(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation, _ in operations(document)]
    assert len(names) == len(set(names))


def test_every_tag_is_declared(document: dict[str, Any]) -> None:
    declared = {tag["name"] for tag in document["tags"]}
    assert {tag for _, _, operation, _ in operations(document) for tag in operation["tags"]} <= declared


def call(server: Server, path: str, method: str, operation: dict[str, Any], version: str) -> Reply:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    url = server.url + path.replace("{version}", version).replace("{model}", "m")
    return ask(url, method.upper(), content.get("example"))


def test_every_operation_answers_as_described(server: Server, document: dict[str, Any]) -> None:
    """Each example is sent as it stands, to every version that is given as an example; unload comes before load."""
    checked = 0
    for path, method, operation, parameters in sorted(operations(document), key=lambda entry: entry[0], reverse=True):
        versions = [p["schema"]["examples"] for p in parameters if p.get("name") == "version"]
        for version in versions[0] if versions else [""]:
            where = f"{method} {path} {version}"
            reply = call(server, path, method, operation, version)
            assert reply.status == 200, f"{where}: {reply.body!r}"
            described = resolve(document, operation["responses"]["200"])
            missing = {name.lower() for name in described.get("headers", {})} - reply.headers.keys()
            assert not missing, f"{where} promises the headers {missing}"
            for media_type, content in described.get("content", {}).items():
                assert reply.headers["content-type"] == media_type, where
                if "schema" in content:
                    check(document, content["schema"], reply.json, where)
            checked += 1
    assert checked > 40


def test_examples_fit_their_own_schemas(document: dict[str, Any]) -> None:
    examples = 0
    for path, _, operation, _ in operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            if "example" in content:
                check(document, content["schema"], content["example"], path)
                examples += 1
    assert examples > 20


def test_errors_are_as_described(server: Server, document: dict[str, Any]) -> None:
    for path, body in (("/v1/models/m/predict", {}), ("/v2/models/m/infer", {}), ("/v2/repository/index", [])):
        reply = server.post(path, body)
        assert reply.status == 400
        described = resolve(document, document["paths"][path]["post"]["responses"]["400"])
        ((media_type, content),) = described["content"].items()
        assert reply.headers["content-type"] == media_type
        check(document, content["schema"], reply.json, path)


def test_what_is_declared_stands_in_the_schema_of_a_row() -> None:
    # V1: as JSON Schema where it refuses, in words where it clips or flags; another policy is another document.
    names = ("age", "income", "town", "plate")
    features = tuple(Feature(name, "FP32" if name in ("age", "income") else "BYTES", True) for name in names)
    signature = ModelSignature(features, pack(features), SCORE_SIGNATURE.outputs)
    rules = (
        Constraint("age", 18, 120),
        Constraint("income", minimum=0, nullable=False, on_violation="clip"),
        Constraint("town", categories=("Bonn", "Rom")),
        Constraint("plate", pattern="[A-Z]+", on_violation="flag"),
    )
    shelf = Shelf().put("m", "1.0.0", Item(score, signature)).want("m", "1.0.0")
    with Server(shelf) as server:
        assert "minimum" not in str(server.get("/openapi.json").json["components"]["schemas"]["m.Row"])
        shelf.put("m", "1.0.0", Item(score, signature, Policy(2, rules))).want("m", "1.0.0")
        row = wait_until(lambda: _declared(server.get("/openapi.json").json), "the policy")
    age, income, town, plate = (row["properties"][name] for name in names)
    assert (age["minimum"], age["maximum"]) == (18, 120)
    assert "minimum" not in income
    assert income["description"] == "Declared: minimum 0; what is outside is clipped."
    assert town["enum"] == ["Bonn", "Rom", None]
    assert plate["description"] == "Declared: matches [A-Z]+; what is outside is flagged."
    assert row["required"] == ["income"]


def _declared(document: dict[str, Any]) -> dict[str, Any] | None:
    row: dict[str, Any] = document["components"]["schemas"]["m.Row"]
    return row if "minimum" in row["properties"]["age"] else None


def test_it_follows_what_is_served() -> None:
    shelf = Shelf().serve("m", score).put("other", "1.0.0", Item(score))
    with Server(shelf, serving={"allow_model_control": True, "drain_delay": 0.0}) as server:
        assert "/v1/models/other/predict" not in server.get("/openapi.json").json["paths"]
        assert server.post("/v2/repository/models/other/load", {}).status == 200
        assert "/v1/models/other/predict" in server.get("/openapi.json").json["paths"]


def test_a_row_too_large_for_an_example_has_none() -> None:
    signature = ModelSignature(
        (Feature("image", "UINT8", shape=(64, 64, 3)),),
        (TensorSpec("image", "UINT8", (-1, 64, 64, 3)),),
        (TensorSpec("y", "FP32", (-1,)),),
    )
    runtime = FakeRuntime(signature.inputs, signature.outputs, lambda inputs: {"y": np.zeros(1, np.float32)})
    with Server(Shelf().serve("vision", lambda: runtime, signature)) as server:
        body = server.get("/openapi.json").body
        assert len(body) < 100_000
        (content,) = json.loads(body)["paths"]["/v1/models/vision/predict"]["post"]["requestBody"]["content"].values()
        assert "example" not in content


# The part of JSON Schema that the document uses

KNOWN = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems", "const"}
    | {"anyOf", "oneOf", "minimum", "format", "description", "examples", "x-datatype", "$ref"}
)
TYPES: Mapping[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def is_a(value: Any, kind: str) -> bool:
    # Python's booleans are integers, JSON's are not.
    return isinstance(value, TYPES[kind]) and isinstance(value, bool) == (kind == "boolean")


def fits(document: dict[str, Any], schema: dict[str, Any], value: Any) -> bool:
    try:
        check(document, schema, value, "")
    except AssertionError:
        return False
    return True


def check(document: dict[str, Any], schema: dict[str, Any], value: Any, where: str) -> None:
    """``AssertionError`` if ``value`` does not fit ``schema``, or ``schema`` uses a word this does not know."""
    schema = resolve(document, schema)
    assert schema.keys() <= KNOWN, f"{where}: {schema.keys() - KNOWN}"
    if "const" in schema:
        assert value == schema["const"], where
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        # JSON's booleans are Python's integers.
        assert any(
            isinstance(value, TYPES[kind]) and (kind == "boolean") == isinstance(value, bool) for kind in kinds
        ), f"{where}: {value!r} is no {kinds}"
    if "anyOf" in schema:
        assert any(fits(document, option, value) for option in schema["anyOf"]), f"{where}: {value!r} fits no option"
    if "oneOf" in schema:
        assert sum(fits(document, option, value) for option in schema["oneOf"]) == 1, f"{where}: {value!r}"
    if "minimum" in schema:
        assert value >= schema["minimum"], where
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        assert set(schema.get("required", ())) <= value.keys(), f"{where}: {schema.get('required')} of {value.keys()}"
        assert schema.get("additionalProperties") is not False or value.keys() <= properties.keys(), where
        for name in properties.keys() & value.keys():
            check(document, properties[name], value[name], f"{where}.{name}")
    if isinstance(value, list):
        assert schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)), where
        for position, item in enumerate(value):
            prefix = schema.get("prefixItems", [])
            item_schema = prefix[position] if position < len(prefix) else schema.get("items", {})
            check(document, item_schema, item, f"{where}[{position}]")


def test_the_schema_of_a_row_refuses_what_the_server_refuses(server: Server, document: dict[str, Any]) -> None:
    """They need not agree on everything, but what the schema forbids the server must not answer."""
    schema = document["components"]["schemas"]["m.Row"]
    for row in ({"age": 1.0}, {"age": "1", "income": 1}, ROW | {"more": 1}, {"age": None, "income": 1}, {"age": True}):
        assert not fits(document, schema, row)
        assert server.post("/v1/models/m/predict", {"instances": [row]}).status == 400
    assert fits(document, schema, ROW)


# The documentation page


def test_the_documentation_page_works_without_a_network(server: Server) -> None:
    reply = server.get("/docs")
    page = reply.body.decode()
    assert reply.headers["content-type"].startswith("text/html")
    assert len(page) > 1000
    for attribute in ("src", "href", "action", "data", "poster", "srcset", "formaction"):
        values = re.findall(rf"""\s{attribute}\s*=\s*["']?([^"'\s>]+)""", page)
        assert not [value for value in values if re.match(r"(?i)([a-z]+:)?//", value)], attribute
    assert not re.findall(r"""(?i)(?:@import|url\()\s*["']?(?:[a-z]+:)?//""", page)
    assert not re.findall(r"""(?i)(?:fetch|import|XMLHttpRequest|open)\(\s*["'`](?:[a-z]+:)?//""", page)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "http" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["x-frame-options"] == "DENY"


def test_the_documentation_page_reads_the_document_of_this_server(server: Server) -> None:
    assert b"openapi.json" in server.get("/docs").body
