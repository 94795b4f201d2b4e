"""Every route of the server: its status, its body, and its errors in the form its family promises. # R1 R2 R4 R6 R7"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.serving import (
    ROW,
    SCORE_SIGNATURE,
    TENSORS,
    Reply,
    Server,
    Shelf,
    ask,
    forest,
    forest_item,
    score,
)

from keelway import __version__
from keelway.testing import FakeRuntime

SECRET = "the caller's own value 4711"


def failing() -> FakeRuntime:
    def fail(inputs: object) -> dict[str, np.ndarray]:
        raise ValueError(SECRET)

    return FakeRuntime(SCORE_SIGNATURE.inputs, SCORE_SIGNATURE.outputs, fail)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    shelf = Shelf().put("iris", "1.2.0", forest_item()).put("iris", "2.0.0", forest_item())
    shelf.want("iris", "1.2.0", "2.0.0", default="1.2.0", aliases={"champion": "1.2.0", "challenger": "2.0.0"})
    shelf.serve("m", score).serve("broken", failing).serve("slow", lambda: score(delay=1.0))
    with Server(shelf, limits={"max_rows": 100, "max_nesting": 8}, http={"max_body_bytes": 100_000}) as running:
        yield running


@pytest.fixture(scope="module")
def single() -> Iterator[Server]:
    """A server of one model, where the short routes answer."""
    shelf = Shelf().put("iris", "1.0.0", forest_item()).want("iris", "1.0.0")
    with Server(shelf) as running:
        yield running


def iris_row(position: int) -> dict[str, float]:
    _, signature, samples, *_ = forest()
    return dict(zip((feature.name for feature in signature.features), samples[position].tolist(), strict=True))


# R1: the Open Inference Protocol


def test_server_metadata_advertises_its_extensions(server: Server) -> None:
    assert server.get("/v2").json == {
        "name": "keelway",
        "version": __version__,
        "extensions": ["binary_tensor_data", "model_repository"],
    }


@pytest.mark.parametrize(
    ("path", "versions"),
    [
        ("/v2/models/iris", ["1.2.0", "2.0.0"]),
        ("/v2/models/iris/versions/2.0.0", ["2.0.0"]),
        ("/v2/models/iris/versions/challenger", ["2.0.0"]),
    ],
)
def test_model_metadata(server: Server, path: str, versions: list[str]) -> None:
    document = server.get(path).json
    assert document["name"] == "iris"
    assert document["versions"] == versions
    assert document["platform"] == "keelway_onnx"
    assert document["inputs"] == [
        {
            "name": "input",
            "datatype": "FP32",
            "shape": [-1, 4],
            "parameters": {"columns": ["sepal_length", "sepal_width", "petal_length", "petal_width"]},
        }
    ]
    assert document["outputs"] == [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/ping",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/iris/ready",
        "/v2/models/iris/versions/2.0.0/ready",
        "/v2/models/iris/versions/champion/ready",
    ],
)
def test_health_routes_say_yes(server: Server, path: str) -> None:  # R4
    reply = server.get(path)
    assert reply.status == 200
    said = dict(reply.json)
    assert said.pop("stale", False) is False
    assert list(said.values()) == [True]


@pytest.mark.parametrize("path", ["/v2/models/m", "/health/live", "/metrics", "/openapi.json", "/docs", "/v1/models"])
def test_head_is_get_without_its_body(server: Server, path: str) -> None:
    reply = ask(server.url + path, "HEAD")
    whole = server.get(path)
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-type"] == whole.headers["content-type"]


def infer_body(**fields: object) -> dict[str, object]:
    samples = forest()[2]
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": samples[[0, 100]].ravel().tolist()}
    return {"inputs": [tensor], **fields}


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/v2/models/iris/infer", "1.2.0"),
        ("/v2/models/iris/versions/2.0.0/infer", "2.0.0"),
        ("/v2/models/iris/versions/challenger/infer", "2.0.0"),
        ("/v2/models/iris/versions/champion/infer", "1.2.0"),
    ],
)
def test_infer_names_the_version_and_digest_that_answered(server: Server, path: str, version: str) -> None:  # R6
    reply = server.post(path, infer_body(id="call-7"))
    document = reply.json
    assert reply.status == 200
    assert (document["model_name"], document["model_version"], document["id"]) == ("iris", version, "call-7")
    assert document["parameters"]["model_digest"] == f"sha256:iris-{version}"
    assert document["parameters"]["request_id"] == reply.headers["x-request-id"]
    labels, probabilities = document["outputs"]
    assert labels == {"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 2]}
    assert probabilities["shape"] == [2, 3]
    assert np.allclose(np.reshape(probabilities["data"], (2, 3)), forest()[4][[0, 100]], atol=1e-6)


def test_infer_answers_the_outputs_asked_for_in_their_order(server: Server) -> None:
    body = infer_body(outputs=[{"name": "probabilities"}, {"name": "label"}])
    outputs = server.post("/v2/models/iris/infer", body).json["outputs"]
    assert [output["name"] for output in outputs] == ["probabilities", "label"]


def test_infer_without_an_id_answers_none(server: Server) -> None:
    assert "id" not in server.post("/v2/models/iris/infer", infer_body()).json


def test_infer_takes_nested_data(server: Server) -> None:
    nested = [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [[1.0, 2.0]]}]
    assert server.post("/v2/models/m/infer", {"inputs": nested}).json["outputs"][0]["data"] == [3.0]


# R2: the people's routes


def test_predict_answers_everything_a_person_asks_for(server: Server) -> None:
    before = datetime.now(UTC)
    reply = server.post("/v1/models/iris/predict", {"instances": [iris_row(0), iris_row(100)]})
    document = reply.json
    assert reply.status == 200
    assert document["model"] == "iris"
    assert (document["model_version"], document["model_digest"]) == ("1.2.0", "sha256:iris-1.2.0")
    assert document["request_id"] == reply.headers["x-request-id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", document["time"])
    assert before <= datetime.fromisoformat(document["time"]) <= datetime.now(UTC)
    assert document["predictions"] == [0, 2]
    assert document["labels"] == [0, 1, 2]
    assert np.allclose(document["probabilities"], forest()[4][[0, 100]], atol=1e-6)
    assert "errors" not in document


@pytest.mark.parametrize("selector", ["2.0.0", "challenger"])
def test_predict_takes_a_version_or_an_alias(server: Server, selector: str) -> None:
    reply = server.post(f"/v1/models/iris/versions/{selector}/predict", {"instances": [iris_row(0)]})
    assert (reply.json["model_version"], reply.json["model_digest"]) == ("2.0.0", "sha256:iris-2.0.0")


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [ROW]},
        {"instances": [[1.0, 2.0]]},
        {"features": [1.0, 2.0]},
        {"features": [[1.0, 2.0]]},
        {"features": ROW},
        {"features": [ROW]},
    ],
    ids=str,
)
def test_predict_takes_one_row_or_many_by_name_or_in_order(server: Server, body: object) -> None:
    assert server.post("/v1/models/m/predict", body).json["predictions"] == [3.0]


def test_predict_answers_bad_rows_beside_good_ones(server: Server) -> None:
    rows = [ROW, {"age": SECRET, "income": 1.0}, ROW, {"age": 1.0}]
    reply = server.post("/v1/models/m/predict", {"instances": rows})
    assert reply.status == 200
    assert reply.json["predictions"] == [3.0, None, 3.0, None]
    errors = reply.json["errors"]
    assert [(error["row"], error["code"], error["field"]) for error in errors] == [
        (1, "INVALID_ARGUMENT", "age"),
        (3, "INVALID_ARGUMENT", "income"),
    ]
    assert SECRET.encode() not in reply.body


def test_predict_refuses_when_every_row_is_bad(server: Server) -> None:
    reply = server.post("/v1/models/m/predict", {"instances": [{"age": 1.0}, {"income": 1.0}]})
    assert reply.status == 400
    assert reply.json["field"] == "income"


@pytest.mark.parametrize("row", [[1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]], 1.0], ids=str)
def test_predict_never_reshapes_a_wrong_row(server: Server, row: object) -> None:
    assert server.post("/v1/models/m/predict", {"instances": [row]}).status == 400


def test_infer_is_atomic(server: Server) -> None:
    tensor = {"name": "input", "shape": [2, 2], "datatype": "FP32", "data": [1.0, 2.0, 3.0, None]}
    reply = server.post("/v2/models/m/infer", {"inputs": [tensor]})
    assert reply.status == 400
    assert "income" in reply.json["error"]


def test_the_short_routes_answer_where_one_model_is_served(single: Server) -> None:
    reply = single.post("/predict", {"instances": [iris_row(100)]})
    assert (reply.status, reply.json["model"], reply.json["predictions"]) == (200, "iris", [2])
    reply = single.post("/invocations", {"instances": [iris_row(100)]})
    assert (reply.status, reply.json) == (200, {"predictions": [2]})
    assert reply.headers["keelway-model-version"] == "1.0.0"  # R6


@pytest.mark.parametrize("path", ["/predict", "/invocations"])
def test_the_short_routes_do_not_guess_among_several_models(server: Server, path: str) -> None:
    assert server.post(path, {"instances": [ROW]}).status == 404


# R7: the drop-in routes


@pytest.mark.parametrize("name", ["champion", "challenger"])
def test_tensorflow_servings_paths_of_versions_and_labels(server: Server, name: str) -> None:
    for kind in ("versions", "labels"):
        reply = server.post(f"/v1/models/iris/{kind}/{name}:predict", {"instances": [iris_row(0)]})
        assert reply.json == {"predictions": [0]}
        version = {"champion": "1.2.0", "challenger": "2.0.0"}[name]
        assert reply.headers["keelway-model-version"] == version  # R6: the body has no place for it
        assert reply.headers["keelway-model-digest"] == f"sha256:iris-{version}"


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"instances": [ROW, ROW]}, {"predictions": [3.0, 3.0]}),
        ({"instances": [[1.0, 2.0]]}, {"predictions": [3.0]}),
        ({"signature_name": "serving_default", "instances": [ROW]}, {"predictions": [3.0]}),
        ({"inputs": {"age": [1.0, 5.0], "income": [2.0, 2.0]}}, {"outputs": [3.0, 7.0]}),
        ({"inputs": [[1.0, 2.0]]}, {"outputs": [3.0]}),
    ],
    ids=str,
)
def test_tensorflow_serving_requests(server: Server, body: object, answer: object) -> None:
    reply = server.post("/v1/models/m:predict", body)
    assert (reply.status, reply.json) == (200, answer)
    assert reply.headers["content-type"] == "application/json"


def test_tensorflow_servings_model_status(server: Server) -> None:
    document = server.get("/v1/models/iris").json
    state = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert document["model_version_status"] == [{"version": "1.2.0", **state}, {"version": "2.0.0", **state}]
    assert (document["name"], document["ready"]) == ("iris", True)  # KServe V1 asks for these two


def test_the_list_of_models_for_people(server: Server) -> None:
    models = {model["name"]: model for model in server.get("/v1/models").json["models"]}
    assert models.keys() == {"iris", "m", "broken", "slow"}
    assert models["iris"]["version"] == "1.2.0"
    assert models["iris"]["versions"] == ["1.2.0", "2.0.0"]
    assert models["iris"]["aliases"] == {"champion": "1.2.0", "challenger": "2.0.0"}
    assert models["m"]["features"] == [
        {"name": "age", "datatype": "FP32", "nullable": False},
        {"name": "income", "datatype": "FP32", "nullable": False},
    ]


@pytest.mark.parametrize("key", ["dataframe_split", "dataframe_records", "instances", "inputs"])
def test_mlflow_requests(single: Server, key: str) -> None:
    records = [iris_row(0), iris_row(60), iris_row(100)]
    columns = [*reversed(records[0])]
    split = {"columns": columns, "data": [[record[column] for column in columns] for record in records]}
    by_column = {column: [record[column] for record in records] for column in columns}
    forms = {"dataframe_split": split, "inputs": by_column}
    reply = single.post("/invocations", {key: forms.get(key, records)})
    assert (reply.status, reply.json) == (200, {"predictions": [0, 1, 2]})


# Errors, in the form of each family


def protocol_form(reply: Reply) -> None:
    assert reply.headers["content-type"] == "application/json"
    assert reply.json.keys() == {"error"}
    assert isinstance(reply.json["error"], str)
    assert reply.json["error"]


def mlflow_form(reply: Reply) -> None:
    assert reply.headers["content-type"] == "application/json"
    assert reply.json.keys() == {"error_code", "message"}
    assert re.fullmatch(r"[A-Z_]+", reply.json["error_code"])


def problem_form(reply: Reply) -> None:
    document = reply.json
    assert reply.headers["content-type"] == "application/problem+json"
    assert document["status"] == reply.status
    assert document["request_id"] == reply.headers["x-request-id"]
    assert document["title"]
    assert document["detail"]


Form = Callable[[Reply], None]
INFERENCE: dict[str, tuple[Form, object]] = {
    "/v2/models/{}/infer": (protocol_form, TENSORS),
    "/v2/models/{}/versions/1.0.0/infer": (protocol_form, TENSORS),
    "/v1/models/{}/predict": (problem_form, {"instances": [ROW]}),
    "/v1/models/{}/versions/1.0.0/predict": (problem_form, {"instances": [ROW]}),
    "/v1/models/{}:predict": (protocol_form, {"instances": [ROW]}),
    "/v1/models/{}/versions/1.0.0:predict": (protocol_form, {"instances": [ROW]}),
}
NAMED = pytest.mark.parametrize("path", INFERENCE)


@NAMED
def test_an_unknown_model_is_404(server: Server, path: str) -> None:
    form, body = INFERENCE[path]
    reply = server.post(path.format("nobody"), body)
    assert reply.status == 404
    form(reply)


@pytest.mark.parametrize("path", [path for path in INFERENCE if "versions" in path])
def test_an_unknown_version_is_404_in_the_same_words_as_an_unknown_model(server: Server, path: str) -> None:
    form, body = INFERENCE[path]
    reply = server.post(path.format("m").replace("1.0.0", "9.9.9"), body)
    assert reply.status == 404
    form(reply)
    other = server.post(path.format("nobody"), body)
    assert without_ids(reply) == without_ids(other)


def without_ids(reply: Reply) -> dict[str, object]:
    return {name: value for name, value in reply.json.items() if name != "request_id"}


BAD_BODIES = {
    "no JSON": b"{",
    "an empty body": b"",
    "no object": b"[1]",
    "no text": b"\xff\xfe",
    "none of the keys": b"{}",
    "too deep": b'{"instances": ' + b"[" * 9 + b"]" * 9 + b', "inputs": ' + b"[" * 9 + b"]" * 9 + b"}",
    "a huge number": b'{"instances": [[1e999, 1]], "inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", '
    b'"data": [1e999, 1]}]}',
    "text for a number": b'{"instances": [["the caller\'s own value 4711", 1]], "inputs": [{"name": "input", '
    b'"shape": [1, 2], "datatype": "FP32", "data": ["the caller\'s own value 4711", 1]}]}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
@NAMED
def test_a_bad_body_is_400_without_the_callers_values(server: Server, path: str, body: bytes) -> None:  # R3
    reply = server.post(path.format("m"), body)
    assert reply.status == 400
    INFERENCE[path][0](reply)
    assert SECRET.encode() not in reply.body


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_bad_body_is_400_on_the_short_routes(single: Server, body: bytes) -> None:
    for path, form in (("/predict", problem_form), ("/invocations", mlflow_form)):
        reply = single.post(path, body)
        assert reply.status == 400
        form(reply)
        assert SECRET.encode() not in reply.body


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
@NAMED
def test_another_method_is_405_with_the_one_allowed(server: Server, path: str, method: str) -> None:
    reply = ask(server.url + path.format("m"), method)
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    if method != "HEAD":
        INFERENCE[path][0](reply)


@pytest.mark.parametrize("header", [{"content_type": "text/csv"}, {"content_encoding": "gzip"}], ids=str)
@NAMED
def test_another_media_type_or_encoding_is_415(server: Server, path: str, header: dict[str, str]) -> None:
    form, body = INFERENCE[path]
    reply = server.post(path.format("m"), body, **header)
    assert reply.status == 415
    form(reply)


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
@NAMED
def test_json_by_any_spelling_is_taken(server: Server, path: str, media_type: str) -> None:
    assert server.post(path.format("m"), INFERENCE[path][1], content_type=media_type).status == 200


@NAMED
def test_too_large_a_body_is_413(server: Server, path: str) -> None:
    reply = server.post(path.format("m"), b" " * 100_001)
    assert reply.status == 413
    INFERENCE[path][0](reply)


@NAMED
def test_too_many_rows_are_413(server: Server, path: str) -> None:
    values = [1.0] * 202
    body = (
        {"inputs": [{"name": "input", "shape": [101, 2], "datatype": "FP32", "data": values}]}
        if path.startswith("/v2")
        else {"instances": [ROW] * 101}
    )
    reply = server.post(path.format("m"), body)
    assert reply.status == 413
    INFERENCE[path][0](reply)


@NAMED
def test_a_model_that_fails_is_500_without_a_word_of_its_own(server: Server, path: str) -> None:
    form, body = INFERENCE[path]
    reply = server.post(path.format("broken"), body)
    assert reply.status == 500
    form(reply)
    assert SECRET.encode() not in reply.body


@NAMED
def test_a_deadline_that_passes_is_504(server: Server, path: str) -> None:  # R5
    form, body = INFERENCE[path]
    reply = server.post(path.format("slow"), body, x_request_timeout="50ms")
    assert reply.status == 504
    form(reply)


@NAMED
def test_a_refused_host_is_421_and_a_refused_origin_403_in_the_same_form(server: Server, path: str) -> None:
    form, body = INFERENCE[path]
    for status, header in ((421, {"host": "evil.example"}), (403, {"origin": "https://evil.example"})):
        reply = server.post(path.format("m"), body, **header)
        assert reply.status == status
        form(reply)


def test_errors_of_the_mlflow_route(single: Server) -> None:
    url = single.url + "/invocations"
    for status, reply in (
        (405, ask(url, "GET")),
        (415, single.post("/invocations", b"a,b\n1,2\n", content_type="text/csv")),
        (400, single.post("/invocations", {"dataframe_split": {"columns": ["a"], "data": [[1]]}})),
        (400, single.post("/invocations", {"instances": [iris_row(0)]}, x_request_timeout="soon")),
    ):
        assert reply.status == status
        mlflow_form(reply)


@pytest.mark.parametrize(
    ("method", "path", "status", "form"),
    [
        ("GET", "/nowhere", 404, problem_form),
        ("GET", "/v1", 404, problem_form),
        ("GET", "/v2/nowhere", 404, protocol_form),
        ("GET", "/v2/models/nobody", 404, protocol_form),
        ("GET", "/v2/models/nobody/ready", 404, protocol_form),
        ("GET", "/v2/models/m/versions/9.9.9", 404, protocol_form),
        ("GET", "/v2/models/m/versions/9.9.9/ready", 404, protocol_form),
        ("GET", "/v1/models/nobody", 404, protocol_form),
        ("POST", "/v1/models/m:classify", 405, protocol_form),
        ("POST", "/health/live", 405, problem_form),
        ("POST", "/v2", 405, protocol_form),
        ("DELETE", "/v2/models/m", 405, protocol_form),
        ("GET", "/v2/repository/index", 405, protocol_form),
        ("GET", "/v2/repository/models/m/load", 405, protocol_form),
        ("POST", "/v1/models", 405, problem_form),
        ("DELETE", "/v1/models/m", 405, protocol_form),
        ("POST", "/metrics", 405, problem_form),
        ("POST", "/openapi.json", 405, problem_form),
    ],
)
def test_errors_of_the_other_routes(server: Server, method: str, path: str, status: int, form: Form) -> None:
    reply = ask(server.url + path, method)
    assert reply.status == status
    form(reply)
    if status == 405:
        assert reply.headers["allow"]


def test_the_root_leads_to_the_documentation(server: Server) -> None:
    reply = server.get("/")  # urllib follows
    assert reply.headers["content-type"].startswith("text/html")


def test_a_request_id_is_never_given_twice(server: Server) -> None:
    ids = {server.post("/v1/models/m/predict", {"instances": [ROW]}).headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20
