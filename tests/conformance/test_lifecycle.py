"""Health, metadata and the repository, asked by every client that can, over both transports. # R1 G1 G2"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.conformance.cases import VALUES, Case, Got, Sent
from tests.conformance.clients import Addresses, Operator, Refused
from tests.conformance.models import MODELS
from tests.conformance.topologies import Topology, served
from tests.conformance.ways import TYPED_MESSAGES, WAYS, Way, each

from keelway import __version__
from keelway.errors import ErrorCode

OPERATORS = [way for way in WAYS if way.asks]
SUM = Case("", "sums", [Sent("input", "FP32", [[1.0, 2.0]])], [Got("sum", "FP32", [3.0])])


@pytest.fixture(scope="module")
def controlled(topology: Topology) -> Iterator[Addresses]:
    """A server that may be told to load and unload."""
    with served(topology, serving={"allow_model_control": True}) as running:
        yield running.addresses


@each(OPERATORS)
def test_the_server_is_live_and_ready(client: Operator) -> None:
    assert client.live()
    assert client.ready()


@pytest.mark.parametrize(
    ("model", "version", "ready"),
    [
        ("sums", "", True),
        ("sums", "2.0.0", True),
        ("sums", "challenger", True),
        ("sums", "9.9.9", False),
        ("nobody", "", False),
    ],
)
@each(OPERATORS)
def test_a_model_is_ready_or_not(client: Operator, model: str, version: str, ready: bool) -> None:
    assert client.model_ready(model, version) is ready


@each(OPERATORS)
def test_server_metadata(way: Way, client: Operator) -> None:
    extensions = {"REST": ["binary_tensor_data", "model_repository"], "gRPC": ["model_repository"]}
    assert client.server() == ("keelway", __version__, extensions[way.transport])


@each(OPERATORS)
def test_model_metadata_describes_every_tensor(client: Operator) -> None:
    for datatype in VALUES:
        model = client.model(f"identity-{datatype.lower()}", "")
        assert model.inputs == [("x", datatype, [-1, 2])]
        assert model.outputs == [("y", datatype, [-1, 2])]
    assert client.model("fixed", "").outputs == [("y", "FP64", [2, 2])]


@each(OPERATORS)
def test_model_metadata_of_a_version(client: Operator) -> None:
    assert client.model("sums", "").versions == ["1.0.0", "2.0.0"]
    assert client.model("sums", "2.0.0").versions == ["2.0.0"]
    assert client.model("sums", "challenger").versions == ["2.0.0"]
    for model, version in (("nobody", ""), ("sums", "9.9.9")):
        with pytest.raises(Refused) as refusal:
            client.model(model, version)
        assert refusal.value.code == ErrorCode.NOT_FOUND
        assert refusal.value.message == "no such model or version is served here"


@each(OPERATORS)
def test_the_repository_index(client: Operator) -> None:
    index = client.index()
    assert {("sums", "1.0.0", "READY"), ("sums", "2.0.0", "READY")} <= set(index)
    assert {name for name, _, _ in index} == {*MODELS, "sums"}


@pytest.mark.parametrize("action", ["load", "unload"])
@each(OPERATORS)
def test_control_is_refused_where_it_is_not_allowed(client: Operator, action: str) -> None:
    with pytest.raises(Refused, match="start with --allow-model-control") as refusal:
        getattr(client, action)("sums")
    assert refusal.value.code == ErrorCode.PERMISSION_DENIED
    assert client.model_ready("sums", "")


@each(OPERATORS)
def test_control_where_it_is_allowed(way: Way, controlled: Addresses, record_client: Callable[[Way], None]) -> None:
    record_client(way)
    with contextlib.closing(way.open(controlled)) as client:
        client.unload("sums")
        assert not client.model_ready("sums", "")
        assert ("sums", "1.0.0", "READY") not in client.index()
        client.load("sums")
        assert client.model_ready("sums", "")
        assert client.infer(SUM, "").version == "1.0.0"
        with pytest.raises(Refused) as refusal:
            client.load("nobody")
        assert refusal.value.code == ErrorCode.NOT_FOUND


@each([TYPED_MESSAGES])
def test_both_dialects_of_load_and_unload(way: Way, controlled: Addresses) -> None:
    """NVIDIA's messages have the model's name in field 2, KServe's in field 1; the answer has it in field 1."""
    from tests.conformance.grpc_clients import messages

    from keelway.wire import open_inference_pb2 as ours

    with contextlib.closing(way.open(controlled)) as client:
        for field in ("model_name", "repository_name"):
            asked: Any = messages.RepositoryModelUnloadRequest(**{field: "fixed"})
            answer = client.call("RepositoryModelUnload", asked, ours.RepositoryModelUnloadResponse)
            assert (answer.model_name, answer.is_unloaded) == ("fixed", True)
            assert not client.model_ready("fixed", "")
            asked = messages.RepositoryModelLoadRequest(**{field: "fixed"})
            answer = client.call("RepositoryModelLoad", asked, ours.RepositoryModelLoadResponse)
            assert (answer.model_name, answer.is_loaded) == ("fixed", True)
            assert client.model_ready("fixed", "")


@each([way for way in WAYS if way.client.startswith("kserve")])
def test_what_kserves_client_can_ask(client: Any) -> None:
    """It asks for the champion only, and for no metadata."""
    assert client.live()
    assert client.ready()
    assert client.model_ready("sums", "")
    assert not client.model_ready("nobody", "")


@each([way for way in WAYS if (way.client, way.encoding) == ("kserve", "raw")])
def test_kserves_own_messages_load_and_unload(way: Way, controlled: Addresses) -> None:
    """Its client has no method for them, its stub has; the answers say so in its fields."""
    with contextlib.closing(way.open(controlled)) as client:
        assert client.ask("unload", model="mixed") is True
        assert not client.model_ready("mixed", "")
        assert client.ask("load", model="mixed") is True
        assert client.model_ready("mixed", "")


def test_requests_of_one_client_at_once(connect: Callable[[Way], Any]) -> None:
    """Several at once over the client's own pool of connections."""
    from tests.conformance.rest_clients import triton

    client = connect(WAYS[0]).client
    tensor = triton.InferInput("input", [1, 2], "FP32")
    pending = []
    for number in range(20):
        tensor.set_data_from_numpy(Sent("input", "FP32", [[float(number), 1.0]]).array)
        pending.append(client.async_infer("sums", [tensor]))
    assert [request.get_result().as_numpy("sum").tolist() for request in pending] == [[n + 1.0] for n in range(20)]
