"""Health, metadata and the repository, asked by NVIDIA's client as it is. # R1"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.cases import VALUES, Case, Got, Sent
from tests.conformance.clients import InferenceServerException, TritonClient
from tests.conformance.models import shelf
from tests.serving import Server

from keelway import __version__


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[TritonClient]:
    opened = TritonClient(server.url, binary=True)
    yield opened
    opened.close()


def test_the_server_is_live_and_ready(client: TritonClient) -> None:
    assert client.client.is_server_live()
    assert client.client.is_server_ready()


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
def test_a_model_is_ready_or_not(client: TritonClient, model: str, version: str, ready: bool) -> None:
    assert client.client.is_model_ready(model, version) is ready


def test_server_metadata(client: TritonClient) -> None:
    assert client.client.get_server_metadata() == {
        "name": "keelway",
        "version": __version__,
        "extensions": ["binary_tensor_data", "model_repository"],
    }


@pytest.mark.parametrize("datatype", VALUES)
def test_model_metadata_describes_every_tensor(client: TritonClient, datatype: str) -> None:
    document = client.client.get_model_metadata(f"identity-{datatype.lower()}")
    assert document["inputs"] == [{"name": "x", "datatype": datatype, "shape": [-1, 2]}]
    assert document["outputs"] == [{"name": "y", "datatype": datatype, "shape": [-1, 2]}]


def test_model_metadata_of_a_version(client: TritonClient) -> None:
    assert client.client.get_model_metadata("sums")["versions"] == ["1.0.0", "2.0.0"]
    assert client.client.get_model_metadata("sums", "2.0.0")["versions"] == ["2.0.0"]
    with pytest.raises(InferenceServerException) as refusal:
        client.client.get_model_metadata("nobody")
    assert refusal.value.status() == "404"


def test_the_repository_index(client: TritonClient) -> None:
    index = client.client.get_model_repository_index()
    assert {"name": "sums", "version": "2.0.0", "state": "READY", "reason": ""} in index
    assert len(index) == len(VALUES) + 4 + 2


@pytest.mark.parametrize("action", ["load_model", "unload_model"])
def test_control_is_refused_where_it_is_not_allowed(client: TritonClient, action: str) -> None:
    with pytest.raises(InferenceServerException) as refusal:
        getattr(client.client, action)("sums")
    assert refusal.value.status() == "403"
    assert client.client.is_model_ready("sums")


def test_control_where_it_is_allowed() -> None:
    case = Case("", "sums", [Sent("input", "FP32", [[1.0, 2.0]])], [Got("sum", "FP32", [3.0])])
    with Server(shelf(), serving={"allow_model_control": True, "drain_delay": 0.0}) as server:
        client = TritonClient(server.url, binary=True)
        client.client.unload_model("sums")
        assert not client.client.is_model_ready("sums")
        client.client.load_model("sums")
        assert client.client.is_model_ready("sums")
        assert client.infer(case, "").version == "1.0.0"
        client.close()


def test_asynchronous_requests(client: TritonClient) -> None:
    """Several at once over the client's own pool of connections."""
    from tests.conformance.clients import triton

    tensor = triton.InferInput("input", [1, 2], "FP32")
    pending = []
    for number in range(20):
        tensor.set_data_from_numpy(Sent("input", "FP32", [[float(number), 1.0]]).array)
        pending.append(client.client.async_infer("sums", [tensor]))
    assert [request.get_result().as_numpy("sum").tolist() for request in pending] == [[n + 1.0] for n in range(20)]
