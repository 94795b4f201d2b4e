"""Messages that no client would write, to every method: each is answered, and none is a failure. # G1 R3"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st
from tests.hostility.attack import Attack, for_each, sizes
from tests.hostility.grpc_peers import INFER, infer_message

from keelway.wire import health_pb2, model_service_pb2, open_inference_pb2, reflection_pb2

FILES = (open_inference_pb2, model_service_pb2, health_pb2, reflection_pb2)
#: Path -> its descriptor, of every method there is.
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
PEOPLE = "/keelway.v1.ModelService/Predict"
WORDS = st.sampled_from(["", "m", "iris", "orders", "fixed", "nobody", "input", "1.0.0", "champion", "FP32", "BYTES"])
NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 255, 2**31 - 1])
DEEP = 4


def value(field: Any, depth: int) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        return message(field.message_type._concrete_class, depth + 1)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return st.binary(max_size=20) if field.type == FieldDescriptor.TYPE_BYTES else WORDS | st.text(max_size=10)
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf"), 3e38])
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return st.sampled_from([0, 1])
    signed = kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
    return NUMBERS | (st.just(-1) if signed else st.nothing())


@st.composite
def message(draw: st.DrawFn, kind: Any, depth: int = 0) -> Any:
    """A message of ``kind`` with some of its fields, of the right types and with any values."""
    built = kind()
    for field in kind.DESCRIPTOR.fields:
        if depth > DEEP or draw(st.integers(0, 3)) == 0:
            continue
        repeated = field.is_repeated
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            for key in draw(st.lists(value(entry["key"], depth), max_size=3)):
                content = draw(value(entry["value"], depth))
                target = getattr(built, field.name)
                if entry["value"].message_type is not None:
                    target[key].CopyFrom(content)
                else:
                    target[key] = content
        elif repeated:
            getattr(built, field.name).extend(draw(st.lists(value(field, depth), max_size=3)))
        elif field.message_type is not None:
            getattr(built, field.name).CopyFrom(draw(value(field, depth)))
        else:
            setattr(built, field.name, draw(value(field, depth)))
    return built


@pytest.fixture
def channel(grpc_attack: Attack) -> Iterator[grpc.Channel]:
    grpc_attack.count(connections=1)
    with grpc.insecure_channel(f"127.0.0.1:{grpc_attack.port}") as opened:
        yield opened


def ask(attack: Attack, channel: grpc.Channel, path: str, body: bytes, **options: Any) -> str:
    """The status of one call, by name. Of a stream only the first answer is awaited."""
    attack.count(requests=1, bytes_sent=len(body))
    method = METHODS[path]
    try:
        if method.client_streaming:
            next(channel.stream_stream(path)(iter([body]), timeout=5, **options))
        elif method.server_streaming:
            stream = channel.unary_stream(path)(body, timeout=5, **options)
            next(stream)
            stream.cancel()
        else:
            channel.unary_unary(path)(body, **{"timeout": 5, **options})
    except grpc.RpcError as error:
        status = error.code().name
    else:
        status = "OK"
    attack.answered(status)
    return status


@sizes("examples", quick=10, slow=400)
def test_garbage_for_every_method(grpc_attack: Attack, channel: grpc.Channel, examples: int) -> None:
    garbage = st.tuples(st.sampled_from(list(METHODS)), st.binary(max_size=300))
    for_each(examples * len(METHODS), garbage, lambda pair: ask(grpc_attack, channel, *pair))


@sizes("examples", quick=20, slow=300)
def test_any_message_for_every_method(grpc_attack: Attack, channel: grpc.Channel, examples: int) -> None:
    for path, method in METHODS.items():
        of_its_kind = message(method.input_type._concrete_class).map(lambda built: built.SerializeToString())
        for_each(examples, of_its_kind, partial(ask, grpc_attack, channel, path))


@sizes("examples", quick=60, slow=2000)
@pytest.mark.parametrize("path", [INFER, PEOPLE])
def test_right_messages_with_slips(grpc_attack: Attack, channel: grpc.Channel, path: str, examples: int) -> None:
    value_of = model_service_pb2.Value(number=1.0)
    people = model_service_pb2.PredictRequest(model="m", features={"age": value_of, "income": value_of})
    whole = infer_message() if path == INFER else people.SerializeToString()
    assert ask(grpc_attack, channel, path, whole) == "OK"

    @st.composite
    def slips(draw: st.DrawFn) -> bytes:
        start = draw(st.integers(0, len(whole) - 1))
        return whole[:start] + draw(st.binary(max_size=3)) + whole[start + draw(st.integers(0, 3)) :]

    for_each(examples, slips(), lambda body: ask(grpc_attack, channel, path, body))


def test_messages_that_are_too_large(grpc_attack: Attack, channel: grpc.Channel) -> None:
    for size in (16 << 20, 17 << 20, 64 << 20):
        assert ask(grpc_attack, channel, INFER, bytes(size)) in ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")


def test_groups_within_groups_without_an_end(grpc_attack: Attack, channel: grpc.Channel) -> None:
    for path in METHODS:
        for body in (
            b"\x0b" * 5000,
            b"\x0a\xff\xff\xff\xff\x0f",
            b"\xff" * 12,
            b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02",
        ):
            ask(grpc_attack, channel, path, body)


def test_tensors_that_state_other_sizes_than_they_have(grpc_attack: Attack, channel: grpc.Channel) -> None:
    kind = open_inference_pb2.ModelInferRequest
    for shape in ([-1, 2], [2**62, 2**62], [0, 2], [2**31, 2], [1] * 70, [], [1, 2, 2**63 - 1]):
        tensor = kind.InferInputTensor(name="input", datatype="FP32", shape=shape)
        for raw in (b"", b"\0" * 7, np.zeros(2, np.float32).tobytes()):
            body = kind(model_name="m", inputs=[tensor], raw_input_contents=[raw] * (1 + len(raw) % 2))
            status = ask(grpc_attack, channel, INFER, body.SerializeToString())
            assert status in ("INVALID_ARGUMENT", "OUT_OF_RANGE", "OK")


METADATA = {
    "huge": [("x-huge", "a" * 100_000)],
    "many": [(f"x-{number}", "1") for number in range(2000)],
    "binary": [("x-bin", bytes(range(256)) * 4)],
    "the same": [("x-same", str(number)) for number in range(200)],
    "ours": [("x-request-id", "a" * 1000), ("grpc-status", "13"), ("authorization", "Bearer " + "a" * 1000)],
}


def test_metadata_that_is_too_much(grpc_attack: Attack, channel: grpc.Channel) -> None:
    for metadata in METADATA.values():
        try:
            status = ask(grpc_attack, channel, INFER, infer_message(), metadata=metadata)
        except (ValueError, SystemError):
            continue  # the client refuses to send it
        assert status in ("OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"), status
