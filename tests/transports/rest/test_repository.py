"""The repository routes: what is served, and loading and unloading where the operator allows it. # R1 U1"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.serving import ROW, TENSORS, Item, Server, Shelf, predict_bytes, score

from keelway.errors import CorruptArtifact


@pytest.fixture
def shelf() -> Shelf:
    shelf = Shelf().serve("m", score).serve("other", lambda: score(10))
    return shelf.put("extra", "1.0.0", Item(lambda: score(100)))


@pytest.fixture
def server(shelf: Shelf) -> Iterator[Server]:
    with Server(shelf, serving={"allow_model_control": True, "drain_delay": 0.0}) as running:
        yield running


@pytest.fixture(scope="module")
def calm() -> Iterator[Server]:
    """A server that the tests leave as it was."""
    with Server(Shelf().serve("m", score), serving={"allow_model_control": True, "drain_delay": 0.0}) as running:
        yield running


def states(server: Server, **body: bool) -> dict[str, tuple[str, str]]:
    entries = server.post("/v2/repository/index", body).json
    assert all(entry.keys() == {"name", "version", "state", "reason"} for entry in entries)
    return {entry["name"]: (entry["state"], entry["reason"]) for entry in entries}


def control(server: Server, model: str, action: str, body: object = None) -> int:
    return server.post(f"/v2/repository/models/{model}/{action}", {} if body is None else body).status


def predict(server: Server, model: str) -> int:
    return server.post(f"/v1/models/{model}/predict", {"instances": [ROW]}).status


def test_the_index_lists_every_version_wanted(server: Server) -> None:
    assert states(server) == {"m": ("READY", ""), "other": ("READY", "")}


def test_the_index_takes_no_body_at_all(calm: Server) -> None:
    assert len(calm.post("/v2/repository/index", b"").json) == 1


def test_unload_then_load(server: Server, shelf: Shelf) -> None:
    assert control(server, "m", "unload") == 200
    assert states(server)["m"] == ("UNAVAILABLE", "unloaded")
    assert states(server, ready=True) == {"other": ("READY", "")}
    assert server.get("/v2/models/m/ready").status == 503
    assert predict(server, "m") == 503
    assert server.post("/v2/models/m/infer", TENSORS).status == 503
    assert server.get("/v2/health/ready").status == 200
    assert predict(server, "other") == 200
    assert control(server, "m", "load") == 200
    assert states(server)["m"] == ("READY", "")
    assert predict(server, "m") == 200
    first, second = shelf.runtimes("m")
    assert (first.closed, second.closed) == (1, 0)


def test_load_serves_a_model_that_was_not_asked_for_at_the_start(server: Server) -> None:
    assert predict(server, "extra") == 404
    assert control(server, "extra", "load", {"parameters": {}}) == 200
    assert server.post("/v1/models/extra/predict", {"instances": [ROW]}).json["predictions"] == [103.0]


def test_loading_what_is_loaded_changes_nothing(server: Server, shelf: Shelf) -> None:
    assert control(server, "m", "load") == 200
    assert len(shelf.runtimes("m")) == 1


@pytest.mark.parametrize("action", ["load", "unload"])
def test_a_model_that_is_not_there_is_404(calm: Server, action: str) -> None:
    assert control(calm, "nobody", action) == 404


def broken() -> object:
    raise CorruptArtifact("the file differs from its manifest")


def test_a_model_that_cannot_be_loaded_says_why_and_leaves_the_server_ready(server: Server, shelf: Shelf) -> None:
    shelf.put("rotten", "1.0.0", Item(broken))  # type: ignore[arg-type]
    reply = server.post("/v2/repository/models/rotten/load", {})
    assert (reply.status, reply.json) == (500, {"error": "the file differs from its manifest"})
    assert states(server)["rotten"] == ("UNAVAILABLE", "the file differs from its manifest")
    assert server.get("/health/ready").status == 200
    assert predict(server, "m") == 200


def test_a_load_that_failed_may_be_tried_again_at_once(server: Server, shelf: Shelf) -> None:
    shelf.put("rotten", "1.0.0", Item(broken))  # type: ignore[arg-type]
    assert control(server, "rotten", "load") == 500
    shelf.put("rotten", "1.0.0", Item(score))
    assert control(server, "rotten", "load") == 200
    assert predict(server, "rotten") == 200
    assert server.get("/health/ready").status == 200


def test_a_model_unloaded_and_broken_since_leaves_the_server_ready(server: Server, shelf: Shelf) -> None:
    assert control(server, "m", "unload") == 200
    shelf.put("m", "1.0.0", Item(broken))  # type: ignore[arg-type]
    assert control(server, "m", "load") == 500
    assert server.get("/health/ready").status == 200
    assert predict(server, "m") == 503


@pytest.mark.parametrize("action", ["load", "unload"])
def test_control_is_off_by_default_even_for_models_that_are_not_there(action: str) -> None:
    with Server(Shelf().serve("m", score)) as server:
        for model in ("m", "nobody"):
            reply = server.post(f"/v2/repository/models/{model}/{action}", {})
            assert reply.status == 403
            assert "--allow-model-control" in reply.json["error"]
        assert predict(server, "m") == 200


def test_json_may_come_as_bytes_without_a_type(calm: Server) -> None:
    # R1: as NVIDIA's asynchronous client sends it.
    reply = calm.post("/v2/repository/index", b'{"ready": true}', content_type="application/octet-stream")
    assert (reply.status, reply.json[0]["name"]) == (200, "m")


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/repository/models/m/unload"])
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b"\xff", {}, 400),
        (b"{}", {"content_type": "text/plain"}, 415),
        (b"a=1", {"content_type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", {"origin": "https://evil.example"}, 403),
        (b"{}", {"host": "evil.example"}, 421),
    ],
)
def test_a_page_of_another_site_changes_nothing(
    calm: Server, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    reply = calm.post(path, body, **headers)
    assert (reply.status, reply.json.keys()) == (status, {"error"})
    assert predict(calm, "m") == 200


def test_other_models_lose_no_request_while_one_comes_and_goes(server: Server) -> None:
    failed: list[object] = []
    stop = threading.Event()

    def ask() -> None:
        with server.wire() as wire:
            while not stop.is_set():
                reply = wire.ask(predict_bytes(path="/v1/models/other/predict"))
                if (reply.status, reply.json["predictions"]) != (200, [13.0]):
                    failed.append(reply)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(10):
            assert control(server, "m", "unload") == 200
            assert control(server, "m", "load") == 200
    finally:
        stop.set()
        asking.join()
    assert failed == []
    assert predict(server, "m") == 200
