"""What a gRPC call has besides its message: a deadline, metadata, compression, an end before its time; and many of them
at once on one connection. Each library sees it as it does with any server. # R4 R5 G1 G2"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from benchmarks.load import parse_h2load
from tests.conformance.cases import CASES, Case, Got, Sent
from tests.conformance.clients import Addresses, Beginner, Caller, Options, Refused
from tests.conformance.command_clients import CALL_HEADERS, CommandMessageClient, framed, raise_status, run, unframed
from tests.conformance.exact import assert_exact
from tests.conformance.grpc_clients import messages, path_of, request_of
from tests.conformance.grpc_libraries import GrpcioClient
from tests.conformance.topologies import Topology, served
from tests.conformance.ways import BEGINNERS, CALLERS, Way, each
from tests.serving import wait_until
from tests.wire import ask

from keelway.errors import ErrorCode

AT_ONCE = 1000
SMALL = next(case for case in CASES if case.id == "a packed tensor")
MANY_ROWS = next(case for case in CASES if case.id == "many rows")
INFERRERS = [way for way in CALLERS if way.client != "kserve"]  # its client has no such options
BY_HAND = [way for way in CALLERS if way.client in ("curl", "nghttp")]
SHORT = 0.3


def after(seconds: float) -> Case:
    """A case that is answered after that long."""
    row = np.array([[seconds, 2.0]], np.float32)
    answer = [Got("sum", "FP32", row.sum(axis=1)), Got("product", "FP32", row.prod(axis=1))]
    return Case(f"after {seconds} s", "patient", [Sent("input", "FP32", row)], answer)


def in_flight(server: Addresses) -> int:
    page = ask(f"{server.http}/metrics", "GET").body.decode()
    return next(int(float(line.split()[1])) for line in page.splitlines() if line.startswith("ml_requests_in_flight "))


# Deadlines


@each(INFERRERS)
def test_a_deadline_ends_the_call_and_gives_its_permit_back(client: Caller, server: Addresses) -> None:
    began = time.monotonic()
    with pytest.raises(Refused) as refusal:
        client.infer(after(15.0), "", Options(timeout=SHORT))
    assert refusal.value.code == ErrorCode.DEADLINE_EXCEEDED
    assert SHORT * 0.9 <= time.monotonic() - began < 10
    wait_until(lambda: in_flight(server) == 0, "the permit to be back", patience=5.0)


@each(INFERRERS)
def test_a_deadline_that_is_long_enough_is_kept(way: Way, client: Caller) -> None:
    case = after(0.25)
    assert_exact(client.infer(case, "7", Options(timeout=10.0)), case, way, "7")


@each(BY_HAND)
@pytest.mark.parametrize("timeout", ["300m", "300000u", "99999999n"])  # eight digits at most
def test_the_server_itself_says_that_a_deadline_is_over(client: CommandMessageClient, timeout: str) -> None:
    """These two do not count the time, as the libraries do."""
    body = framed(request_of(after(15.0), "", True).SerializeToString())
    said = client.say("ModelInfer", body, {"grpc-timeout": timeout})
    with pytest.raises(Refused) as refusal:
        raise_status(said.headers)
    assert refusal.value.code == ErrorCode.DEADLINE_EXCEEDED


# Metadata

BYTES = bytes(range(256))
PAIRS: list[tuple[str, str | bytes]] = [
    ("trace-bin", BYTES),
    ("tenant", "a b"),
    ("empty-bin", b""),
    ("trace-bin", b"2"),
]
#: More than a frame of HTTP/2 holds by default, as base64: the rest comes in a second one.
LONG: tuple[str, str | bytes] = ("long-bin", b"\xff\x00" * 7000)
#: NVIDIA's takes texts only.
WITH_BYTES = [way for way in INFERRERS if not way.client.startswith("tritonclient")]


@each(WITH_BYTES)
def test_binary_metadata_disturb_no_call(way: Way, client: Caller) -> None:
    # A header without a value is nothing that a command could be told to send.
    pairs = [item for item in PAIRS if item[1] or way not in BY_HAND]
    for metadata in (pairs, [LONG]):
        assert_exact(client.infer(SMALL, "7", Options(metadata=metadata)), SMALL, way, "7")


@each(INFERRERS)
def test_metadata_are_read_whatever_stands_beside_them(way: Way, client: Caller) -> None:
    beside = [*PAIRS[:2], LONG] if way in WITH_BYTES else [("tenant", "a b")]
    good = Options(metadata=[*beside, ("x-request-priority", "batch")])
    assert_exact(client.infer(SMALL, "7", good), SMALL, way, "7")
    with pytest.raises(Refused) as refusal:
        client.infer(SMALL, "7", Options(metadata=[*beside, ("x-request-priority", "urgent")]))
    expected = (ErrorCode.INVALID_ARGUMENT, "x-request-priority must be interactive or batch")
    assert (refusal.value.code, refusal.value.message) == expected


# Compression


@each([way for way in INFERRERS if way.client != "grpclib"])
def test_a_compressed_request_is_answered_exactly(way: Way, client: Caller) -> None:
    for case in (SMALL, MANY_ROWS):
        assert_exact(client.infer(case, "7", Options(gzip=True)), case, way, "7")


@each(BY_HAND)
def test_a_reply_is_compressed_for_nobody_who_has_not_asked_for_it(client: CommandMessageClient) -> None:
    body = framed(request_of(MANY_ROWS, "7", True).SerializeToString(), compressed=True)
    for accepted in ({}, {"grpc-accept-encoding": "identity"}):
        said = client.say("ModelInfer", body, {"grpc-encoding": "gzip", **accepted})
        assert messages.ModelInferResponse.FromString(unframed(said)).id == "7"


@each(BY_HAND)
@pytest.mark.parametrize("headers", [{"grpc-encoding": "snappy"}, {"grpc-encoding": "identity"}, {}])
def test_a_message_in_an_encoding_that_was_not_named_is_no_answer(
    client: CommandMessageClient, headers: dict[str, str]
) -> None:
    """The standard says UNIMPLEMENTED of an encoding that there is not and INTERNAL of a flag without one; grpcio says
    INTERNAL of both."""
    body = framed(request_of(SMALL, "7", True).SerializeToString(), compressed=True)
    with pytest.raises(Refused) as refusal:
        raise_status(client.say("ModelInfer", body, headers).headers)
    unknown = headers.get("grpc-encoding") == "snappy"
    assert refusal.value.code in {ErrorCode.INTERNAL, *([ErrorCode.UNIMPLEMENTED] if unknown else [])}


# The end before its time, and streams


@each(BEGINNERS)
def test_a_cancelled_call_gives_its_permit_back(way: Way, client: Beginner, server: Addresses) -> None:
    cancel = client.begin(after(15.0))
    wait_until(lambda: in_flight(server) == 1, "the call")
    cancel()
    wait_until(lambda: in_flight(server) == 0, "its end", patience=5.0)
    assert_exact(client.infer(SMALL, "7"), SMALL, way, "7")


@each(BEGINNERS)
def test_calls_are_answered_beside_a_watch(way: Way, client: Beginner) -> None:
    watches = [client.watch("") for _ in range(3)]
    assert [next(watch) for watch in watches] == ["SERVING"] * 3
    assert_exact(client.infer(SMALL, "7"), SMALL, way, "7")
    unknown = client.watch("nothing")
    assert next(unknown) == "SERVICE_UNKNOWN"
    for watch in (*watches, unknown):
        watch.close()  # type: ignore[attr-defined]
    assert_exact(client.infer(SMALL, "8"), SMALL, way, "8")


@each(BEGINNERS)
def test_every_library_sees_the_drain_and_the_end_of_its_stream(
    way: Way, topology: Topology, record_client: Callable[[Way], None]
) -> None:
    record_client(way)
    with (
        served(topology, serving={"drain_delay": 0.5}) as server,
        contextlib.closing(way.open(server.addresses)) as client,
    ):
        watch = client.watch("inference.GRPCInferenceService")
        assert next(watch) == "SERVING"
        server.terminate()
        assert list(watch) == ["NOT_SERVING"]


# Many at once


@contextmanager
def peak(server: Addresses) -> Iterator[list[int]]:
    """How many calls were under way at each look."""
    looks, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            looks.append(in_flight(server))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield looks
    finally:
        done.set()
        looking.join()


@each([way if way.client == "grpc.aio" else way._replace(slow=True) for way in BEGINNERS])
def test_a_thousand_calls_at_once_on_one_connection(way: Way, client: Beginner, server: Addresses) -> None:
    case = after(3.0)
    with peak(server) as looks:
        answers = client.at_once(case, AT_ONCE)
    assert len(answers) == AT_ONCE
    for answered in answers:
        assert_exact(answered, case, way, "")
    assert max(looks) == AT_ONCE
    wait_until(lambda: in_flight(server) == 0, "the permits to be back")


@pytest.mark.slow
@pytest.mark.parametrize(("connections", "streams"), [(1, AT_ONCE), (100, 10), (1, 1)])
def test_h2load_gets_every_answer(server: Addresses, tmp_path: Path, connections: int, streams: int) -> None:
    request = request_of(SMALL, "7", True)
    body, log = tmp_path / "body", tmp_path / "log"
    body.write_bytes(framed(request.SerializeToString()))
    with contextlib.closing(GrpcioClient(server, raw=True)) as client:
        size = client.call("ModelInfer", request, messages.ModelInferResponse).ByteSize()
    headers = [word for name, value in CALL_HEADERS.items() for word in ("-H", f"{name}: {value}")]
    amount = ["-n", str(2 * AT_ONCE), "-c", str(connections), "-m", str(streams), "-t1"]
    url = f"http://{server.grpc}{path_of('ModelInfer')}"
    output = run(["h2load", *amount, *headers, "-d", str(body), f"--log-file={log}", url]).decode()
    assert parse_h2load(output, log.read_text(), size, connections).requests == 2 * AT_ONCE
