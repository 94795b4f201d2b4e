"""The gRPC server: where it listens, whom it lets in, what ends a call, and how it stops. # G2 R4 R5

What clients send and get stands in ``tests/conformance``.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hpack import Encoder
from hyperframe.frame import HeadersFrame, SettingsFrame
from tests.serving import GatedRuntime, Server, Shelf, score, wait_until

from keelway.app import App
from keelway.config import load_settings
from keelway.errors import FailedPrecondition, InvalidInput, KeelwayError
from keelway.testing import FakeRuntime
from keelway.wire.health_pb2 import HealthCheckRequest, HealthCheckResponse
from keelway.wire.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ServerLiveRequest,
    ServerReadyResponse,
)

GRPC = {"address": "127.0.0.1:0"}
INFER = "/inference.GRPCInferenceService/ModelInfer"
SECRET = "sentinel-4711"
PATIENCE = 10.0


def infer_bytes(model: str, *row: float, rows: int = 1) -> bytes:
    array = np.array([row or (1.0, 2.0)] * rows, np.float32)
    tensor = ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=array.shape)
    message = ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()])
    return message.SerializeToString()


class Asker:
    """A channel to a server, for ``with``, and calls over it in bytes."""

    def __init__(self, server: Server, credentials: grpc.ChannelCredentials | None = None, **options: Any) -> None:
        arguments = [(f"grpc.{name}", value) for name, value in options.items()]
        if credentials is None:
            self.channel = grpc.insecure_channel(server.grpc, options=arguments)
        else:
            self.channel = grpc.secure_channel(server.grpc, credentials, options=arguments)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def infer(self, model: str = "m", *row: float, timeout: float | None = PATIENCE, **more: Any) -> ModelInferResponse:
        return ModelInferResponse.FromString(self.call(INFER, infer_bytes(model, *row), timeout, **more))

    def call(self, path: str, body: bytes, timeout: float | None = PATIENCE, **more: Any) -> bytes:
        return self.channel.unary_unary(path)(body, timeout=timeout, **more)  # type: ignore[no-any-return]

    def start(self, model: str, *row: float, timeout: float | None = PATIENCE) -> Any:
        """A call under way."""
        return self.channel.unary_unary(INFER).future(infer_bytes(model, *row), timeout=timeout)

    def refusal(self, path: str, body: bytes, timeout: float | None = PATIENCE, **more: Any) -> Any:
        with pytest.raises(grpc.RpcError) as refused:
            self.call(path, body, timeout, **more)
        return refused.value


@pytest.fixture
def shelf() -> Shelf:
    def boom(inputs: Any) -> Any:
        raise ValueError(f"cannot score {SECRET}")

    sums = score()
    return (
        Shelf()
        .serve("m", score)
        .serve("later", lambda: score(delay=5.0))
        .serve("gated", GatedRuntime)
        .serve("broken", lambda: FakeRuntime(sums.inputs, sums.outputs, boom))
    )


@pytest.fixture
def server(shelf: Shelf) -> Iterator[Server]:
    with Server(shelf, grpc=GRPC, runtime={"slots": 1, "inline_below_ms": 0.0}) as running:
        yield running
        for runtime in shelf.runtimes("gated"):
            runtime.gate.set()


# Where it listens, and with whom it speaks


def test_an_address_that_is_taken_is_one_line_and_frees_the_other_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = Server(Shelf().serve("m", score), grpc={"address": address})
        with pytest.raises(FailedPrecondition) as refusal, server:
            pass
    assert address in refusal.value.message
    assert refusal.value.hint == "choose another port with --grpc HOST:PORT"
    with socket.create_server(("127.0.0.1", server.port)):
        pass


@pytest.mark.parametrize(("address", "kind"), [("0.0.0.0:0", FailedPrecondition), ("9090", InvalidInput)])
def test_beyond_loopback_and_no_address_are_refused_as_for_rest(address: str, kind: type[KeelwayError]) -> None:  # U1
    settings = load_settings(None, {}, {"http": {"address": "127.0.0.1:0"}, "grpc": {"address": address}})
    with pytest.raises(kind, match=r"beyond loopback|grpc\.address"):
        App(settings, Shelf().serve("m", score)).run()


def test_without_an_address_there_is_no_grpc() -> None:
    with Server(Shelf().serve("m", score)) as server:
        assert server.grpc == ""


# What ends a call


def test_a_deadline_ends_a_call_and_its_work_is_skipped(server: Server, shelf: Shelf) -> None:  # R5
    with Asker(server) as asker:
        blocking = asker.start("gated", -1.0, 0.0)
        (gated,) = shelf.runtimes("gated")
        wait_until(lambda: gated.running, "the slot to be taken")
        before = gated.finished
        assert asker.refusal(INFER, infer_bytes("gated"), 0.1).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gated.gate.set()
        assert blocking.result().startswith(b"")
    wait_until(lambda: server.in_flight() == 0, "the permits to be back")
    assert gated.finished == before + 1


def test_the_servers_own_limit_ends_a_call_without_a_deadline(shelf: Shelf) -> None:
    with Server(shelf, grpc=GRPC, limits={"request_timeout": 0.1}) as server, Asker(server) as asker:
        refusal = asker.refusal(INFER, infer_bytes("later"), None)
        assert refusal.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "before the model answered" in refusal.details()


def test_a_call_that_is_cancelled_gives_its_permit_back(server: Server) -> None:
    with Asker(server) as asker:
        call = asker.start("later")
        wait_until(lambda: server.in_flight() == 1, "the call")
        call.cancel()
        wait_until(lambda: server.in_flight() == 0, "its end")
    wait_until(lambda: server.metric("ml_requests_total", model="later", code="CANCELLED") == 1, "its count")


def test_a_failing_model_tells_the_caller_nothing(server: Server) -> None:
    with Asker(server) as asker:
        refusal = asker.refusal(INFER, infer_bytes("broken"))
    assert refusal.code() is grpc.StatusCode.INTERNAL
    assert SECRET not in refusal.details() + repr(refusal.trailing_metadata())
    assert dict(refusal.trailing_metadata())["x-request-id"]


def test_more_calls_than_permits_are_told_to_come_again(shelf: Shelf) -> None:  # T2
    with Server(shelf, grpc=GRPC, limits={"max_in_flight": 1}) as server, Asker(server) as asker:
        call = asker.start("later")
        wait_until(lambda: server.in_flight() == 1, "the permit to be taken")
        refusal = asker.refusal(INFER, infer_bytes("m"))
        assert refusal.code() is grpc.StatusCode.UNAVAILABLE
        assert ("grpc-retry-pushback-ms", "1000") in [(item.key, item.value) for item in refusal.trailing_metadata()]
        call.cancel()


def test_a_message_beyond_the_limit_is_refused_before_it_is_parsed(shelf: Shelf) -> None:  # R3
    with Server(shelf, grpc=GRPC, http={"max_body_bytes": 1000}) as server, Asker(server) as asker:
        assert asker.refusal(INFER, b"\0" * 1001).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert asker.infer().model_name == "m"


def test_a_small_message_that_inflates_beyond_the_limit_is_refused(shelf: Shelf) -> None:  # R3
    with Server(shelf, grpc=GRPC, http={"max_body_bytes": 100_000}) as server, Asker(server) as asker:
        refusal = asker.refusal(INFER, b"\0" * 10_000_000, compression=grpc.Compression.Gzip)
        assert refusal.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
        assert asker.call(INFER, infer_bytes("m", rows=200), compression=grpc.Compression.Gzip)


@pytest.mark.parametrize(
    "path", [INFER, "/keelway.v1.ModelService/Predict", "/inference.GRPCInferenceService/ModelReady"]
)
def test_what_is_no_message_is_the_callers_fault(server: Server, path: str) -> None:
    with Asker(server) as asker:
        refusal = asker.refusal(path, b"\xff\xff\xff")
    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the message is not a" in refusal.details()


def test_a_method_that_there_is_not_is_unimplemented(server: Server) -> None:
    with Asker(server) as asker:
        for path in ("/inference.GRPCInferenceService/Nothing", "/nobody.Service/ModelInfer", "/"):
            assert asker.refusal(path, b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_calls_are_counted_beside_those_of_rest(server: Server) -> None:  # M1
    with Asker(server) as asker:
        asker.infer()
        asker.refusal(INFER, infer_bytes("nobody"))
        asker.refusal("/keelway.v1.ModelService/BatchPredict", b"\n\x01m\x1a\x00")
    assert server.metric("ml_requests_total", model="m", transport="grpc_v2", code="OK") == 1
    assert server.metric("ml_requests_total", model="", transport="grpc_v2", code="NOT_FOUND") == 1
    assert server.metric("ml_requests_total", transport="grpc_v1", code="INVALID_ARGUMENT") == 1


# How it stops


def test_readiness_falls_first_and_calls_under_way_finish(server: Server, shelf: Shelf) -> None:
    with Asker(server) as asker:
        call = asker.start("gated", -1.0, 0.0)
        (gated,) = shelf.runtimes("gated")
        wait_until(lambda: gated.running, "the call to run")
        server.begin_drain(delay=0.5)
        wait_until(lambda: not ready(asker), "readiness to fall")
        assert asker.infer().model_name == "m"
        time.sleep(0.6)
        gated.gate.set()
        assert ModelInferResponse.FromString(call.result()).model_name == "gated"
    server.wait_stopped()


def ready(asker: Asker) -> bool:
    body = asker.call("/inference.GRPCInferenceService/ServerReady", ServerLiveRequest().SerializeToString())
    return ServerReadyResponse.FromString(body).ready


def test_idle_streams_do_not_hold_up_a_drain(server: Server) -> None:
    never = threading.Event()

    def silence() -> Iterator[bytes]:
        never.wait(PATIENCE)
        yield from ()

    with Asker(server) as asker:
        watch = asker.channel.unary_stream("/grpc.health.v1.Health/Watch")(HealthCheckRequest().SerializeToString())
        reflection = asker.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(silence())
        assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.SERVING
        began = time.monotonic()
        server.begin_drain()
        assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.NOT_SERVING
        assert list(watch) == []
        assert list(reflection) == []
        server.wait_stopped()
        assert time.monotonic() - began < 5.0  # drain_timeout is 10
        never.set()


def test_a_call_that_outlasts_the_drain_is_cut_off(shelf: Shelf) -> None:
    settings = {"drain_delay": 0.0, "drain_timeout": 0.3}
    with Server(shelf, grpc=GRPC, serving=settings) as server, Asker(server) as asker:
        call = asker.start("later")
        wait_until(lambda: server.in_flight() == 1, "the call")
        server.begin_drain()
        assert call.exception(PATIENCE).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        server.wait_stopped()


def test_a_server_that_is_loading_is_alive_and_not_ready() -> None:
    shelf = Shelf().serve("m", score)
    shelf.may_load.clear()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    server = Server(shelf, grpc={"address": address}).start()
    server.grpc = address
    try:
        with Asker(server) as asker:
            live = asker.call("/inference.GRPCInferenceService/ServerLive", b"", wait_for_ready=True)
            assert live == b"\x08\x01"
            assert not ready(asker)
            refusal = asker.refusal(INFER, infer_bytes("m"))
            assert refusal.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND)
    finally:
        shelf.may_load.set()
    with server:
        pass


def test_a_path_that_is_no_text_is_one_more_method_that_there_is_not(server: Server) -> None:
    host, _, port = server.grpc.rpartition(":")
    headers = [(":method", "POST"), (":scheme", "http"), (b":path", b"/\xd7"), (":authority", "localhost")]
    block = Encoder().encode([*headers, ("te", "trailers"), ("content-type", "application/grpc")], huffman=False)
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as stranger, Asker(server) as asker:
        frame = HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"])
        stranger.sendall(greeting + frame.serialize())
        heard = b""
        while b"grpc-status" not in heard:
            heard += stranger.recv(1000)
        assert b"grpc-status\x0212" in heard
        assert asker.infer().model_name == "m"


# Priority


def test_a_priority_travels_in_the_metadata_and_only_known_ones_are_taken(server: Server) -> None:  # T2
    with Asker(server) as asker:
        for known in ("batch", "Interactive"):
            assert asker.infer("m", metadata=(("x-request-priority", known),)).outputs
        error = asker.refusal(INFER, infer_bytes("m"), metadata=(("x-request-priority", "urgent"),))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == "x-request-priority must be interactive or batch"


def test_who_would_be_late_is_refused_as_unavailable_with_a_time_to_come_back(shelf: Shelf) -> None:  # T2
    slow = score()

    def sleeps(inputs: Any) -> Any:
        time.sleep(0.05 * len(inputs["input"]))
        return {"score": inputs["input"].sum(axis=1)}

    shelf.serve("slow", lambda: FakeRuntime(slow.inputs, slow.outputs, sleeps))
    with Server(shelf, grpc=GRPC) as server, Asker(server) as asker:
        calls = [asker.start("slow") for _ in range(12)]
        wait_until(lambda: server.metric("ml_queue_rows", model="slow") >= 8, "a queue")
        error = asker.refusal(INFER, infer_bytes("slow"), timeout=0.3)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        assert server.metric("ml_requests_shed_total", reason="late") == 1
        for call in calls:
            assert call.result()
