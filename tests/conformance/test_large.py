"""Messages beyond every window of flow control, both ways; readers and senders who take their time. # R3 G1"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.conformance.cases import DTYPES, Case, Got, Sent
from tests.conformance.clients import Addresses
from tests.conformance.command_clients import CALL_HEADERS, Folder, curl, framed, unframed
from tests.conformance.exact import assert_exact
from tests.conformance.grpc_clients import answer_of, messages, path_of, request_of
from tests.conformance.rest_clients import HttpxClient, decode, encode, infer_path
from tests.conformance.topologies import Topology, served
from tests.conformance.ways import CALLERS, WAYS, Way, each

MIB = 2**20
RATE = "4M"
SENDERS = [way for way in WAYS if way.encoding in ("binary", "raw")]


def large(mebibytes: float, datatype: str = "FP64") -> Case:
    """A case of so much input, and as much output: numbers that no two positions share."""
    size = np.dtype(DTYPES[datatype]).itemsize
    values = np.arange(int(mebibytes * MIB) // size, dtype=DTYPES[datatype]).reshape(-1, 2)
    model = f"identity-{datatype.lower()}"
    return Case(f"{mebibytes} MiB", model, [Sent("x", datatype, values)], [Got("y", datatype, values)])


ONE, FOUR, LARGEST = large(1), large(4), large(32)


@pytest.fixture(scope="module")
def generous(topology: Topology) -> Iterator[Addresses]:
    """A server that takes more than it does by default."""
    with served(
        topology, http={"address": "127.0.0.1:0", "max_body_bytes": 64 * MIB}, limits={"max_rows": 10**7}
    ) as one:
        yield one.addresses


@pytest.fixture(scope="module")
def connect_generous(generous: Addresses) -> Iterator[Callable[[Way], Any]]:
    opened: dict[Way, Any] = {}
    with contextlib.ExitStack() as stack:

        def connected(way: Way) -> Any:
            if way not in opened:
                opened[way] = stack.enter_context(contextlib.closing(way.open(generous)))
            return opened[way]

        yield connected


@each(SENDERS, ONE, FOUR)
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # NVIDIA's client is told so
def test_a_large_message_comes_back_whole(
    way: Way, case: Case, connect_generous: Callable[[Way], Any], record_client: Callable[[Way], None]
) -> None:
    record_client(way)
    assert_exact(connect_generous(way).infer(case, "7"), case, way, "7")


@each([way._replace(slow=True) for way in SENDERS], LARGEST)
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
def test_the_largest_message_comes_back_whole(
    way: Way, case: Case, connect_generous: Callable[[Way], Any], record_client: Callable[[Way], None]
) -> None:
    record_client(way)
    assert_exact(connect_generous(way).infer(case, "7"), case, way, "7")


@each([way for way in WAYS if way.encoding in ("json", "typed") and way.client in ("httpx", "grpcio", "curl")])
def test_a_megabyte_of_numbers_one_by_one(
    way: Way, connect_generous: Callable[[Way], Any], record_client: Callable[[Way], None]
) -> None:
    record_client(way)
    case = large(1, "INT32")
    assert_exact(connect_generous(way).infer(case, "7"), case, way, "7")


@each([way._replace(slow=True) for way in CALLERS if way.client in ("grpcio", "grpclib")])
def test_large_calls_at_once_share_the_window_of_one_connection(
    way: Way, connect_generous: Callable[[Way], Any], record_client: Callable[[Way], None]
) -> None:
    record_client(way)
    for answered in connect_generous(way).at_once(FOUR, 8):
        assert_exact(answered, FOUR, way, "")


# Those who take their time. Only curl can be told to.


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["REST", "gRPC"])
def test_a_slow_peer_gets_its_answer_and_keeps_nobody_waiting(generous: Addresses, transport: str) -> None:
    """It sends 8 MiB at 4 MiB a second, and reads as many as slowly."""
    case, small = large(8), large(1 / 1024)
    results: list[Any] = []

    def slow() -> None:
        with contextlib.closing(Folder()) as folder:
            if transport == "REST":
                body, headers = encode(case, "7", binary=True)
                said = curl(folder, generous.http + infer_path(case.model), body, headers, "--limit-rate", RATE)
                results.append(decode(said.body, {name.title(): value for name, value in said.headers.items()}))
            else:
                body = framed(request_of(case, "7", True).SerializeToString())
                url = f"http://{generous.grpc}{path_of('ModelInfer')}"
                said = curl(folder, url, body, CALL_HEADERS, "--http2-prior-knowledge", "--limit-rate", RATE)
                results.append(answer_of(messages.ModelInferResponse.FromString(unframed(said))))

    way = next(way for way in WAYS if way.client == "httpx" and way.encoding == "binary")
    began, thread, longest, asked = time.monotonic(), threading.Thread(target=slow), 0.0, 0
    thread.start()
    with contextlib.closing(HttpxClient(generous, binary=True)) as neighbour:
        while thread.is_alive():
            start = time.monotonic()
            assert_exact(neighbour.infer(small, "8"), small, way, "8")
            longest, asked = max(longest, time.monotonic() - start), asked + 1
            time.sleep(0.02)
    thread.join()
    assert time.monotonic() - began > 2.0, "it was not slow"
    assert longest < 1.0
    assert asked > 20
    assert_exact(results[0], case, way, "7")
