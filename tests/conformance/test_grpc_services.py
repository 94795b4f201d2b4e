"""Reflection and health as gRPC's own clients see them: grpcio-reflection's descriptor database and
grpcio-health-checking's stub. # G2"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tests.conformance.clients import Addresses
from tests.conformance.topologies import Topology, served

PATIENCE = 20.0
SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "inference.GRPCInferenceService",
    "keelway.v1.ModelService",
]
STATUS = health_pb2.HealthCheckResponse


@pytest.fixture(scope="module")
def channel(server: Addresses) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


def check(channel: grpc.Channel, service: str) -> Any:
    asked = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(channel).Check(asked, timeout=PATIENCE).status


def watch(channel: grpc.Channel, service: str) -> Any:
    asked = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(channel).Watch(asked, timeout=PATIENCE)


# Reflection


def test_the_descriptor_database_lists_every_service(channel: grpc.Channel) -> None:
    assert sorted(ProtoReflectionDescriptorDatabase(channel).get_services()) == SERVICES


@pytest.mark.parametrize("service", SERVICES)
def test_every_listed_service_is_described(channel: grpc.Channel, service: str) -> None:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    assert [method.name for method in pool.FindServiceByName(service).methods]


def test_a_client_without_any_file_can_call_the_server(channel: grpc.Channel) -> None:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    kind = GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferRequest"))
    method = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelInfer")
    request = kind(model_name="sums")
    tensor = request.inputs.add(name="input", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1.0, 2.0])
    call = channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=kind.SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    reply = call(request, timeout=PATIENCE)
    assert [list(output.contents.fp32_contents) for output in reply.outputs] == [[3.0], [2.0]]


def test_what_nobody_described_is_a_key_error(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    with pytest.raises(KeyError):
        database.FindFileContainingSymbol("inference.Nothing")
    with pytest.raises(KeyError):
        database.FindFileByName("nothing.proto")


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_names_of_the_service_answer_every_question_of_one_stream(channel: grpc.Channel, version: str) -> None:
    """The public client knows v1alpha only; the messages of v1 are the same."""
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.ModelInferRequest"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.Nothing"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="keelway.v1.ModelService.Predict"),
    ]
    answers = list(ask(iter(questions), timeout=PATIENCE))
    assert [answer.WhichOneof("message_response") for answer in answers] == [
        "list_services_response",
        "file_descriptor_response",
        "error_response",
        "file_descriptor_response",
    ]
    assert [answer.original_request for answer in answers] == questions
    assert sorted(service.name for service in answers[0].list_services_response.service) == SERVICES
    assert answers[2].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


# Health


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_a_service_that_is_there_is_serving(channel: grpc.Channel, service: str) -> None:
    assert check(channel, service) == STATUS.SERVING
    stream = watch(channel, service)
    assert next(stream).status == STATUS.SERVING
    stream.cancel()


def test_an_unknown_service_is_not_found_and_watched_as_unknown(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        check(channel, "nothing")
    assert refusal.value.code() == grpc.StatusCode.NOT_FOUND
    stream = watch(channel, "nothing")
    assert next(stream).status == STATUS.SERVICE_UNKNOWN
    stream.cancel()


def test_a_watch_sees_the_drain(topology: Topology) -> None:
    with (
        served(topology, serving={"drain_delay": 1.0}) as server,
        grpc.insecure_channel(server.addresses.grpc) as channel,
    ):
        streams = [watch(channel, ""), watch(channel, "inference.GRPCInferenceService")]
        assert [next(stream).status for stream in streams] == [STATUS.SERVING] * 2
        server.terminate()
        assert [next(stream).status for stream in streams] == [STATUS.NOT_SERVING] * 2
        # New calls are still answered, so that a balancer has time to look.
        assert check(channel, "") == STATUS.NOT_SERVING
        assert [list(stream) for stream in streams] == [[], []]
