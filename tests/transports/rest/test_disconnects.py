"""Callers that leave, at every point of a request: nothing stays in flight, nothing is an error of the server's. # M2

They leave in good order (FIN) and in bad (RST).
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tests.serving import (
    BLOCKING,
    PATIENCE,
    ROW,
    GatedRuntime,
    Server,
    Shelf,
    Wire,
    predict_bytes,
    request_bytes,
    score,
    wait_until,
)

from keelway.contract.signature import Feature, ModelSignature
from keelway.edge.protocol import LimitedProtocol
from keelway.testing import FakeRuntime
from keelway.types import TensorSpec

GATED = "/v1/models/gated/predict"
LARGE = ModelSignature(
    (Feature("x", "FP32"),), (TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1, 1 << 22)),)
)


def large() -> FakeRuntime:
    return FakeRuntime(LARGE.inputs, LARGE.outputs, lambda inputs: {"y": np.zeros((1, 1 << 22), np.float32)})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    shelf = Shelf().serve("m", score).serve("later", lambda: score(delay=0.3)).serve("large", large, LARGE)
    shelf.serve("gated", GatedRuntime)
    with Server(shelf, runtime={"slots": 1, "inline_below_ms": 0.0}, http={"max_body_bytes": 100_000}) as running:
        running.shelf = shelf  # type: ignore[attr-defined]
        yield running
        for runtime in shelf.runtimes("gated"):
            runtime.gate.set()


def before_a_byte(wire: Wire) -> None:
    """Has only connected."""


def in_the_head(wire: Wire) -> None:
    wire.send(predict_bytes()[:30])


def before_the_body(wire: Wire) -> None:
    wire.send(predict_bytes().split(b"\r\n\r\n")[0] + b"\r\n\r\n")


def instead_of_continuing(wire: Wire) -> None:
    reply = wire.ask(predict_bytes(("Expect", "100-continue")).split(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert reply.status == 100


def in_a_declared_body(wire: Wire) -> None:
    wire.send(predict_bytes()[:-5])


def in_a_chunked_body(wire: Wire) -> None:
    head = request_bytes("POST", "/v1/models/m/predict", b"", ("Transfer-Encoding", "chunked"), length=False)
    wire.send(head + b"5\r\n{")


def in_a_body_that_is_too_large(wire: Wire) -> None:
    wire.send(request_bytes("POST", "/v1/models/m/predict", b" " * 500_000)[:-10_000])


def in_a_body_for_the_repository(wire: Wire) -> None:
    wire.send(request_bytes("POST", "/v2/repository/index", b'{"ready": true}')[:-5])


def as_soon_as_it_has_asked(wire: Wire) -> None:
    wire.send(predict_bytes())


def while_an_awaited_model_runs(wire: Wire) -> None:
    wire.send(predict_bytes(path="/v1/models/later/predict"))
    time.sleep(0.05)


def while_a_worker_thread_runs(wire: Wire) -> None:
    wire.send(predict_bytes(path=GATED, row=BLOCKING))
    time.sleep(0.05)


def while_a_worker_thread_runs_and_another_request_is_behind(wire: Wire) -> None:
    wire.send(predict_bytes(path=GATED, row=BLOCKING) + predict_bytes(path=GATED))
    time.sleep(0.05)


def with_pipelined_requests_unanswered(wire: Wire) -> None:
    wire.send(predict_bytes(path="/v1/models/later/predict") * 5 + predict_bytes()[:20])
    time.sleep(0.05)


def in_the_answer(wire: Wire) -> None:
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}'
    wire.send(request_bytes("POST", "/v2/models/large/infer", body))
    assert wire.socket.recv(1000)


def in_the_metrics(wire: Wire) -> None:
    wire.send(request_bytes("GET", "/metrics"))


def between_requests(wire: Wire) -> None:
    assert wire.ask(predict_bytes()).status == 200


POINTS: list[Callable[[Wire], None]] = [
    before_a_byte,
    in_the_head,
    before_the_body,
    instead_of_continuing,
    in_a_declared_body,
    in_a_chunked_body,
    in_a_body_that_is_too_large,
    in_a_body_for_the_repository,
    as_soon_as_it_has_asked,
    while_an_awaited_model_runs,
    while_a_worker_thread_runs,
    while_a_worker_thread_runs_and_another_request_is_behind,
    with_pipelined_requests_unanswered,
    in_the_answer,
    in_the_metrics,
    between_requests,
]


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__)
def test_a_caller_that_leaves_harms_nobody(
    server: Server, caplog: pytest.LogCaptureFixture, point: Callable[[Wire], None], leave: str
) -> None:
    (gated,) = server.shelf.runtimes("gated")  # type: ignore[attr-defined]
    gated.gate.clear()
    for _ in range(3):
        wire = server.wire()
        point(wire)
        getattr(wire, leave)()
    wait_until(lambda: server.in_flight() == 0, "requests in flight")
    gated.gate.set()
    for name in ("m", "gated"):
        assert server.post(f"/v1/models/{name}/predict", {"instances": [ROW]}).json["predictions"] == [3.0]
    wait_until(lambda: gated.running == 0, "the worker thread")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_every_one_of_many_callers_may_leave(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """One request in sixteen has its stages timed, the cancelled ones too."""
    before = server.metric("ml_requests_total", model="later", code="CANCELLED")
    wires = [server.wire() for _ in range(20)]
    for wire in wires:
        wire.send(predict_bytes(path="/v1/models/later/predict"))
    wait_until(lambda: server.in_flight() == 20, "the requests to begin")
    for wire in wires:
        wire.reset()
    wait_until(lambda: server.in_flight() == 0, "requests in flight")
    assert server.metric("ml_requests_total", model="later", code="CANCELLED") == before + 20
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def kept() -> int:
    """Connections that something still holds."""
    gc.collect()
    return sum(isinstance(thing, LimitedProtocol) for thing in gc.get_objects())


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_connection_that_has_ended_is_forgotten_before_it_would_have_been_idle_too_long(
    server: Server, leave: str
) -> None:
    wires = [server.wire() for _ in range(10)]
    assert [wire.ask(predict_bytes()).status for wire in wires] == [200] * 10
    before = kept()
    time.sleep(1.1)  # the server looks at all connections, and must not keep the last it has looked at
    for wire in wires:
        getattr(wire, leave)()
    wait_until(lambda: kept() <= before - 10, "the connections to be forgotten", patience=10)


@pytest.mark.parametrize("model", ["m", "later", "gated"])
def test_requests_are_not_read_ahead_of_a_caller_that_takes_no_answers(server: Server, model: str) -> None:
    """A thousandth of what it could send is read at one go."""
    (gated,) = server.shelf.runtimes("gated")  # type: ignore[attr-defined]
    gated.gate.set()
    data = predict_bytes(path=f"/v1/models/{model}/predict") * 500_000
    with server.wire(timeout=0.5) as wire, pytest.raises(TimeoutError):
        wire.send(data)
    wait_until(lambda: server.in_flight() == 0, "requests in flight", patience=PATIENCE)
