"""Calls that are given up: at once, half-way, by their deadline, with their connection. No work is left. # G2 R5"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import grpc
import pytest
from tests.hostility.attack import Attack, sizes
from tests.hostility.grpc_peers import GREETING, INFER, call, call_headers, infer_message, raw_frame
from tests.hostility.http_peers import leaves

MODELS = ("m", "later", "gated")


@sizes("count", quick=60, slow=1000)
def test_calls_cancelled_at_every_point(grpc_attack: Attack, count: int) -> None:
    random = Random(count)
    grpc_attack.count(connections=1)
    with grpc.insecure_channel(f"127.0.0.1:{grpc_attack.port}") as channel:
        infer = channel.unary_unary(INFER)
        for _ in range(count):
            grpc_attack.count(requests=1)
            future = infer.future(infer_message(random.choice(MODELS)), timeout=10)
            time.sleep(random.choice([0.0, 0.0, 0.001, 0.005, 0.03]))
            future.cancel()
            try:
                grpc_attack.answered(future.code().name)
            except grpc.FutureCancelledError:
                grpc_attack.answered("CANCELLED")


@sizes("count", quick=60, slow=2000)
def test_deadlines_from_nothing_to_years(grpc_attack: Attack, count: int) -> None:
    random = Random(count)
    grpc_attack.count(connections=1)
    with grpc.insecure_channel(f"127.0.0.1:{grpc_attack.port}") as channel:
        infer = channel.unary_unary(INFER)

        def ask(seconds: float) -> str:
            try:
                infer(infer_message(random.choice(MODELS)), timeout=seconds)
            except grpc.RpcError as error:
                return str(error.code().name)
            return "OK"

        choices = [0.0, 1e-9, 0.001, 0.01, 0.019, 0.021, 0.05, 3e8]
        with ThreadPoolExecutor(8) as pool:
            grpc_attack.count(requests=count)
            found = list(pool.map(ask, [random.choice(choices) for _ in range(count)]))
    grpc_attack.answered(*found)
    assert set(found) <= {"OK", "DEADLINE_EXCEEDED", "CANCELLED"}


@sizes("count", quick=20, slow=600)
def test_connections_lost_with_calls_under_way(grpc_attack: Attack, count: int) -> None:
    random = Random(count)
    for _ in range(count):
        peer = grpc_attack.connect()
        calls = b"".join(call(2 * n + 1, infer_message(random.choice(MODELS))) for n in range(20))
        peer.send(GREETING + calls, requests=20)
        time.sleep(random.choice([0.0, 0.002, 0.02]))
        leaves(peer, random)


@sizes("count", quick=15, slow=300)
@pytest.mark.usefixtures("may_shed")
def test_streams_reset_with_calls_under_way(grpc_attack: Attack, count: int) -> None:
    for _ in range(count):
        with grpc_attack.peer() as peer:
            peer.send(GREETING)
            for number in range(20):
                stream = 2 * number + 1
                reset = raw_frame(3, 0, stream, b"\0\0\0\x08")
                peer.send(call(stream, infer_message(MODELS[number % 3])) + reset, requests=1)
            peer.read(1000)


@sizes("count", quick=100, slow=3000)
@pytest.mark.usefixtures("may_shed")
def test_watches_that_are_left_open(grpc_attack: Attack, count: int) -> None:
    """Health watches never end by themselves: they end with their connection."""
    with grpc_attack.peer() as peer:
        headers = call_headers("/grpc.health.v1.Health/Watch")
        watches = b"".join(call(2 * number + 1, b"", headers) for number in range(count))
        peer.send(GREETING + watches, requests=count)
        time.sleep(0.5)
