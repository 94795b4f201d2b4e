"""The clients against a real server: the same answers and errors over REST and gRPC, blocking and awaiting. # G0"""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st
from tests.conformance.cases import VALUES
from tests.conformance.models import shelf
from tests.serving import Server, forest, forest_item

from keelway.client import AsyncClient, Client
from keelway.errors import InvalidInput, ModelFailed, NotFound, PayloadTooLarge, Unavailable
from keelway.types import NUMPY_DTYPES, Array

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    source = shelf().put("forest", "1.0.0", forest_item()).want("forest", "1.0.0", aliases={"champion": "1.0.0"})
    with Server(source, grpc={"address": "127.0.0.1:0"}, limits={"max_rows": 2000}) as running:
        yield running


@pytest.fixture(scope="module", params=["rest", "grpc"])
def address(server: Server, request: pytest.FixtureRequest) -> str:
    return server.url if request.param == "rest" else f"grpc://{server.grpc}"


@pytest.fixture(scope="module", params=["blocking", "awaiting"])
def ask(address: str, request: pytest.FixtureRequest) -> Iterator[Ask]:
    """``ask(method, ...)``: the answer of that method of a client."""
    if request.param == "blocking":
        with Client(address) as client:
            yield lambda method, *args, **more: getattr(client, method)(*args, **more)
        return
    with asyncio.Runner() as runner:

        async def opened() -> AsyncClient:
            return AsyncClient(address)

        awaiting = runner.run(opened())

        async def asked(method: str, *args: Any, **more: Any) -> Any:
            return await getattr(awaiting, method)(*args, **more)

        yield lambda method, *args, **more: runner.run(asked(method, *args, **more))
        runner.run(awaiting.close())


FLOWER = {"sepal_length": 6.0, "sepal_width": 2.7, "petal_length": 5.1, "petal_width": 1.6}


def test_rows_are_predicted_with_labels_probabilities_and_what_answered(ask: Ask) -> None:
    _, _, samples, labels, probabilities = forest()
    names = list(FLOWER)
    rows = [dict(zip(names, map(float, sample), strict=True)) for sample in samples[::10]]
    answer = ask("predict", "forest", rows)
    assert list(answer.predictions) == labels[::10].tolist()
    assert np.allclose(answer.probabilities, probabilities[::10], atol=1e-5)
    assert np.allclose(answer.confidences, probabilities[::10].max(axis=1), atol=1e-5)
    assert (answer.model, answer.version, answer.digest) == ("forest", "1.0.0", "sha256:forest-1.0.0")
    assert list(answer.labels) == [0, 1, 2]
    assert answer.policy_revision == 1
    assert answer.errors == {}
    assert len(answer.request_id) == 24
    assert answer.time.endswith("Z")


def test_one_row_needs_no_list(ask: Ask) -> None:
    assert len(ask("predict", "forest", FLOWER).predictions) == 1


def test_bad_rows_are_refused_beside_good_ones(ask: Ask) -> None:  # R2
    answer = ask("predict", "forest", [FLOWER, {**FLOWER, "petal_width": "wide"}, FLOWER])
    assert [prediction is None for prediction in answer.predictions] == [False, True, False]
    assert answer.probabilities[1] is answer.confidences[1] is None
    error = answer.errors[1]
    assert (error.code, error.field) == ("INVALID_ARGUMENT", "petal_width")
    assert error.message == "'petal_width' must be a number, not text"


def test_if_every_row_is_bad_the_call_fails(ask: Ask) -> None:
    with pytest.raises(InvalidInput, match="no such feature") as refusal:
        ask("predict", "forest", [{"petals": 1.0}])
    assert type(refusal.value) is InvalidInput
    with pytest.raises(InvalidInput) as named:
        ask("predict", "forest", [{**FLOWER, "petal_width": True}])
    assert named.value.field == "petal_width"


def test_values_of_numpy_are_values(ask: Ask) -> None:
    row = {name: np.float32(value) for name, value in FLOWER.items()}
    assert list(ask("predict", "forest", row).predictions) == list(ask("predict", "forest", FLOWER).predictions)


def test_a_model_without_roles_answers_its_outputs_by_name(ask: Ask) -> None:
    answer = ask("predict", "sums", [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}])
    assert list(answer.predictions) == [{"sum": 3.0, "product": 2.0}, {"sum": 7.0, "product": 12.0}]
    assert list(answer.probabilities) == list(answer.confidences) == []


def test_a_model_without_a_batch_axis_answers_its_one_row(ask: Ask) -> None:
    assert list(ask("predict", "fixed", {"x": [1.0, 2.0, 4.0]}).predictions) == [[[7.0, 1.0], [4.0, 3.0]]]


@pytest.mark.parametrize("version", ["2.0.0", "challenger"])
def test_a_version_or_an_alias_is_asked_for_by_name(ask: Ask, version: str) -> None:
    assert ask("predict", "sums", {"a": 1.0, "b": 2.0}, version=version).version == "2.0.0"
    rows = np.array([[1.0, 2.0]], np.float32)
    assert ask("infer", "sums", {"input": rows}, version=version).outputs["sum"].tolist() == [103.0]
    assert ask("metadata", "sums", version=version).versions == ["2.0.0"]


@pytest.mark.parametrize("datatype", VALUES)
def test_every_datatype_goes_there_and_back(ask: Ask, datatype: str) -> None:
    array = np.array(VALUES[datatype], dtype=NUMPY_DTYPES[datatype])
    back = ask("infer", f"identity-{datatype.lower()}", {"x": array}, id="42")
    assert back.id == "42"
    (output,) = back.outputs.values()
    if datatype == "BYTES":
        assert output.tolist() == [[text.encode() for text in row] for row in array.tolist()]
    else:
        assert output.dtype == array.dtype
        assert output.tobytes() == array.tobytes()


def test_outputs_come_in_the_order_asked_for(ask: Ask) -> None:
    rows = np.array([[1.0, 2.0]], np.float32)
    assert list(ask("infer", "sums", {"input": rows}, outputs=["product", "sum"]).outputs) == ["product", "sum"]
    assert list(ask("infer", "sums", {"input": rows}, outputs=["product"]).outputs) == ["product"]


def test_what_a_model_takes_is_told(ask: Ask) -> None:
    metadata = ask("metadata", "sums")
    assert (metadata.name, metadata.versions, metadata.digest) == ("sums", ["1.0.0", "2.0.0"], "sha256:sums-1.0.0")
    (packed,) = metadata.inputs
    assert (packed.name, packed.datatype, packed.shape, packed.columns) == ("input", "FP32", (-1, 2), ("a", "b"))
    assert [output.name for output in metadata.outputs] == ["sum", "product"]
    assert ask("server_metadata").name == "keelway"


def test_the_server_and_its_models_are_ready_or_not(ask: Ask) -> None:
    assert ask("live") is ask("ready") is ask("ready", "sums") is True
    assert ask("ready", "nobody") is False


TWO = np.array([[1.0, 2.0]], np.float32)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (NotFound, ("nobody", {"input": TWO}), "no such model"),
        (InvalidInput, ("sums", {"input": TWO.astype(float)}), "is FP32, not FP64"),
        (InvalidInput, ("sums", {"input": TWO[0]}), "has shape"),
        (PayloadTooLarge, ("sums", {"input": np.repeat(TWO, 2001, axis=0)}), "2000 rows"),
        (ModelFailed, ("broken", {"input": TWO}), "could not answer"),
    ],
)
def test_a_refusal_is_the_error_it_was_on_the_server(ask: Ask, kind: type, arguments: Any, words: str) -> None:
    with pytest.raises(kind, match=words) as refusal:
        ask("infer", *arguments)
    assert type(refusal.value) is kind


@given(
    st.sampled_from(["FP32", "FP64", "INT64", "UINT8", "BOOL", "FP16"]).flatmap(
        lambda datatype: numpy_st.arrays(NUMPY_DTYPES[datatype], st.tuples(st.integers(1, 5), st.just(2)))
    )
)
def test_any_finite_array_survives(server: Server, array: Array) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return
    name = {"f4": "fp32", "f8": "fp64", "i8": "int64", "u1": "uint8", "b1": "bool", "f2": "fp16"}[array.dtype.str[1:]]
    for place in (server.url, f"grpc://{server.grpc}"):
        with Client(place) as client:
            assert client.infer(f"identity-{name}", {"x": array}).outputs["y"].tobytes() == array.tobytes()


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, Any]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: inspect.signature(function) for name, function in members if not name.startswith("_")}

    assert calls(Client) == calls(AsyncClient)
    assert inspect.signature(Client.__init__) == inspect.signature(AsyncClient.__init__)


@pytest.mark.parametrize("address", ["", "127.0.0.1:8080", "ftp://127.0.0.1", "http://"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match="an address starts with"):
        Client(address)


def test_nothing_of_the_server_and_only_the_protocol_in_use_is_imported() -> None:
    script = "import sys; from keelway.client import Client; Client({!r}).close(); print(*sys.modules)"

    def imported(address: str) -> set[str]:
        command = [sys.executable, "-c", script.format(address)]
        return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())

    server = {
        "onnxruntime",
        "uvicorn",
        "starlette",
        "sqlalchemy",
        "prometheus_client",
        "keelway.dataplane",
        "keelway.app",
    }
    rest, grpc = imported("http://127.0.0.1:9"), imported("grpc://127.0.0.1:9")
    assert not server & (rest | grpc)
    assert "httpx" in rest
    assert "grpc" not in rest
    assert "grpc" in grpc
    assert "httpx" not in grpc


def test_without_a_server_the_address_is_named_and_nothing_else() -> None:
    for address in ("http://127.0.0.1:9", "grpc://127.0.0.1:9"):
        with Client(address, retries=0) as client, pytest.raises(Unavailable) as refusal:
            client.predict("m", {"secret": "sentinel-4711"})
        assert refusal.value.message == f"no server answers at {address}"
