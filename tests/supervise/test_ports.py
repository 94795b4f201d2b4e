"""The ports that workers share, gRPC's own among them and both with TLS: nothing is lost while workers are replaced.

Everything here starts processes. # M1 R4 R6 G2
"""

from __future__ import annotations

import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.certificates import Authority
from tests.serving import PATIENCE, wait_until
from tests.supervise.served import START, Served, Shop, load
from tests.transports.grpc.test_server import INFER, infer_bytes

from keelway.wire.open_inference_pb2 import ModelInferResponse

pytestmark = pytest.mark.slow
GRPC = ("--grpc", "127.0.0.1:0")


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> dict[str, Any]:
    certificate, key = authority.sign("server", to=tmp_path)
    return {"certificate": str(certificate), "private_key": str(key), "poll_interval": 0.2}


class GrpcCaller(threading.Thread):
    """Calls until told to stop, by a new connection after ``turns`` calls. ``lost`` has every call without the right
    answer."""

    def __init__(self, served: Served, stop: threading.Event, turns: int, authority: Authority | None) -> None:
        super().__init__()
        self._address = served.grpc
        self._stop_asking = stop
        self._turns = turns
        self._authority = authority
        self.right = 0
        self.lost: list[str] = []

    def _channel(self) -> grpc.Channel:
        own = [("grpc.use_local_subchannel_pool", 1)]
        if self._authority is None:
            return grpc.insecure_channel(self._address, own)
        return grpc.secure_channel(
            self._address, grpc.ssl_channel_credentials(self._authority.certificate.read_bytes()), own
        )

    def run(self) -> None:
        while not self._stop_asking.is_set():
            with self._channel() as channel:
                infer = channel.unary_unary(INFER)
                for _ in range(self._turns):
                    if self._stop_asking.is_set():
                        break
                    self._ask(infer)

    def _ask(self, infer: Callable[..., bytes]) -> None:
        try:
            reply = ModelInferResponse.FromString(infer(infer_bytes("m"), timeout=PATIENCE))
        except grpc.RpcError as error:
            self.lost.append(f"{error.code()}: {error.details()}")
            return
        score = next(
            raw for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True) if output.name == "score"
        )
        if memoryview(score).cast("f").tolist() == [1003.0]:
            self.right += 1
        else:
            self.lost.append(str(reply))


@contextmanager
def grpc_load(served: Served, authority: Authority | None = None) -> Iterator[list[GrpcCaller]]:
    """Callers that keep their connections, and callers that open a new one for every call."""
    stop = threading.Event()
    callers = [GrpcCaller(served, stop, turns, authority) for turns in (100_000, 100_000, 1, 1, 1, 1)]
    for caller in callers:
        caller.start()
    try:
        yield callers
    finally:
        stop.set()
        for caller in callers:
            caller.join()


@pytest.mark.parametrize("secured", [False, True], ids=["cleartext", "TLS"])
def test_a_reload_loses_no_call_on_a_port_of_grpcs_own(
    shop: Shop, secured: bool, authority: Authority, tls: dict[str, Any]
) -> None:
    settings = {"tls": tls} if secured else {}
    with ExitStack() as stack:
        served = shop.served(*GRPC, workers=2, serving={"drain_delay": 1.0, "drain_timeout": 10.0}, **settings)
        served.context = ssl.create_default_context(cafile=str(authority.certificate)) if secured else None
        stack.enter_context(served)
        callers = stack.enter_context(grpc_load(served, authority if secured else None))
        others = stack.enter_context(load(served, 2))
        for _ in range(2):
            before = [caller.right for caller in callers]
            wait_until(lambda: all(c.right > b + 5 for c, b in zip(callers, before, strict=True)), "answers", START)  # noqa: B023
            pids = served.pids()
            served.signal(signal.SIGHUP)
            wait_until(lambda: len(served.pids() - pids) == 2 and not served.pids() & pids, "the reload", START)  # noqa: B023
        before = [caller.right for caller in callers]
        wait_until(lambda: all(c.right > b + 5 for c, b in zip(callers, before, strict=True)), "answers", START)
        assert [caller.lost for caller in callers] == [[]] * len(callers)
        assert [caller.broken + caller.wrong for caller in others] == [[], []]


def test_connections_of_grpcs_own_port_are_shared_out_evenly(shop: Shop) -> None:
    with shop.served(*GRPC, workers=2) as served, ExitStack() as stack:
        pids = []
        for _ in range(8):
            channel = stack.enter_context(grpc.insecure_channel(served.grpc, [("grpc.use_local_subchannel_pool", 1)]))
            reply = ModelInferResponse.FromString(channel.unary_unary(INFER)(infer_bytes("m"), timeout=PATIENCE))
            raw = dict(zip((output.name for output in reply.outputs), reply.raw_output_contents, strict=True))
            pids.append(memoryview(raw["pid"]).cast("q")[0])
        assert set(pids) == served.pids()
        assert {pids.count(pid) for pid in set(pids)} <= {3, 4, 5}


def test_every_worker_takes_a_new_certificate_and_shows_it_in_the_metrics(
    shop: Shop, authority: Authority, tls: dict[str, Any], tmp_path: Path
) -> None:
    name = "ml_tls_certificate_expiry_timestamp_seconds"
    served = shop.served(workers=2, tls=tls)
    served.context = ssl.create_default_context(cafile=str(authority.certificate))
    with served, load(served, 2) as callers:
        assert served.url.startswith("https://")
        assert 0 < served.metric(name) - time.time() <= 86400
        fresh = tmp_path / "fresh"
        fresh.mkdir()
        certificate, key = authority.sign("server", days=30, to=fresh)
        key.rename(tls["private_key"])
        certificate.rename(tls["certificate"])
        # The metric is of the worker whose certificate expires first.
        wait_until(lambda: served.metric(name) > time.time() + 20 * 86400, "all workers to have it", START)
        marks = [caller.right for caller in callers]
        wait_until(lambda: all(c.right > mark for c, mark in zip(callers, marks, strict=True)), "to go on")
        assert [caller.broken + caller.wrong for caller in callers] == [[], []]


def test_files_that_cannot_be_used_are_the_servers_one_line(shop: Shop, tls: dict[str, Any]) -> None:
    served = shop.served(workers=2, tls={**tls, "certificate": "nowhere.pem"}).start()
    assert served.exit(START) == 1
    served.__exit__()
    assert any("tls.certificate cannot be read" in line["message"] for line in served.lines)
