"""Servers with a cache, over REST and gRPC, alone and with a Redis between them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.serving import ROW, SCORE_SIGNATURE, TENSORS, Item, Process, Server, Shelf, ask, score, wait_until
from tests.valkey import SlowWire, Valkey, suffering

from keelway.app import App
from keelway.cache.entries import from_bytes
from keelway.config import load_settings
from keelway.errors import FailedPrecondition, InvalidInput
from keelway.testing import FakeRuntime
from keelway.types import Array
from keelway.wire.open_inference_pb2 import ModelInferRequest, ModelInferResponse

ON = {"enabled": True}
GRPC = {"address": "127.0.0.1:0"}
V1, V2 = "/v1/models/m/predict", "/v2/models/m/infer"
HIT, MISS, SHARED = "keelway; hit", "keelway; fwd=miss", "keelway; fwd=miss; collapsed"
#: Longer than any answer may take while a Redis fails, and shorter than what it is made to fail by.
SOON = 1.0


def instances(*rows: Any) -> dict[str, Any]:
    return {"instances": list(rows)}


@pytest.fixture
def shelf() -> Shelf:
    return Shelf().serve("m", score).serve("later", lambda: score(delay=0.2))


@pytest.fixture
def server(shelf: Shelf) -> Iterator[Server]:
    with Server(shelf, cache=ON, grpc=GRPC) as running:
        yield running


class Message:
    """A call of gRPC and what came back."""

    def __init__(self, server: Server, *row: float, model: str = "m") -> None:
        array = np.array([row], np.float32)
        tensor = ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=array.shape)
        message = ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()])
        with grpc.insecure_channel(server.grpc) as channel:
            method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            reply, call = method.with_call(message.SerializeToString(), timeout=20)
        self.reply = ModelInferResponse.FromString(reply)
        self.status = dict(call.trailing_metadata()).get("cache-status")

    @property
    def values(self) -> list[float]:
        return np.frombuffer(self.reply.raw_output_contents[0], np.float32).tolist()  # type: ignore[no-any-return]


def test_an_answer_is_the_same_over_every_format_and_transport_and_is_run_once(server: Server, shelf: Shelf) -> None:
    # A2
    runs = shelf.runtimes("m")[0].calls
    warm_ups = len(runs)
    rows = [server.post(V1, instances(ROW)) for _ in range(2)]
    tensors = server.post(V2, TENSORS)
    columns = server.post("/v1/models/m:predict", instances([1.0, 2.0]))
    message = Message(server, 1.0, 2.0)
    assert [reply.headers["cache-status"] for reply in (*rows, tensors, columns)] == [MISS, HIT, HIT, HIT]
    assert message.status == HIT
    assert [row.json["predictions"] for row in rows] == [[3.0], [3.0]]
    assert (tensors.json["outputs"][0]["data"], columns.json["predictions"], message.values) == ([3.0], [3.0], [3.0])
    assert len(runs) == 1 + warm_ups
    ids = {reply.headers["x-request-id"] for reply in (*rows, tensors, columns)}
    assert len(ids) == 4
    assert {row.json["request_id"] for row in rows} < ids


def test_without_the_setting_nothing_is_said_of_a_cache(shelf: Shelf) -> None:
    # A2
    with Server(shelf, grpc=GRPC) as server:
        assert "cache-status" not in server.post(V1, instances(ROW)).headers
        assert Message(server, 1.0, 2.0).status is None
        page = server.get("/metrics").body.decode()
        assert "ml_cache_bytes{" not in page
        assert 'stage="cache"' not in page


def test_fifty_equal_requests_at_once_are_one_run(server: Server, shelf: Shelf) -> None:
    # A2
    def asked(number: int) -> tuple[Any, str]:
        if number % 2:
            message = Message(server, 5.0, 6.0, model="later")
            return message.values, message.status or ""
        reply = server.post("/v2/models/later/infer", TENSORS | {"inputs": [TENSORS["inputs"][0] | {"data": [5, 6]}]})
        return reply.json["outputs"][0]["data"], reply.headers["cache-status"]

    before = len(shelf.runtimes("later")[0].calls)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(asked, range(50)))
    assert [values for values, _ in answers] == [[11.0]] * 50
    # Who came after the answer was there found it.
    statuses = [status for _, status in answers]
    assert statuses.count(MISS) == 1
    assert statuses.count(SHARED) + statuses.count(HIT) == 49
    assert statuses.count(SHARED) > 0
    assert len(shelf.runtimes("later")[0].calls) == before + 1


def test_a_promoted_version_answers_for_itself_at_once(shelf: Shelf) -> None:
    # R6
    shelf.put("m", "2.0.0", Item(lambda: score(100.0)))
    with Server(shelf, cache=ON) as server:
        for _ in range(2):
            assert server.post(V1, instances(ROW)).json["predictions"] == [3.0]
        shelf.want("m", "2.0.0", aliases={"champion": "2.0.0"})
        wait_until(lambda: server.post(V1, instances(ROW)).json["model_version"] == "2.0.0", "the new version")
        reply = server.post(V1, instances(ROW))
        assert reply.headers["cache-status"] == HIT
        assert (reply.json["predictions"], reply.json["model_digest"]) == ([103.0], "sha256:m-2.0.0")
        shelf.want("m", "1.0.0", aliases={"champion": "1.0.0"})
        wait_until(lambda: server.post(V1, instances(ROW)).json["model_version"] == "1.0.0", "the old version")
        assert server.post(V1, instances(ROW)).json["predictions"] == [3.0]


def test_metrics_and_records_tell_hits_from_runs(shelf: Shelf, tmp_path: Path) -> None:
    # A3 M1
    file = tmp_path / "records.jsonl"
    with Server(shelf, cache=ON, records={"file": str(file), "flush_interval": 0.01}) as server:
        for _ in range(3):
            server.post(V1, instances(ROW))
        assert server.metric("ml_requests_total", model="m", code="OK") == 3
        assert server.metric("ml_cache_requests_total", model="m", result="hit") == 2
        assert server.metric("ml_cache_requests_total", model="m", result="miss") == 1
        assert server.metric("ml_cache_entries", store="memory") == 1
        assert 0 < server.metric("ml_cache_bytes", store="memory") < 2000
        assert server.metric("ml_batch_size_count", model="m") == 1
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record.get("cached", False) for record in records] == [False, True, True]


def test_memory_is_bounded_whatever_is_asked(shelf: Shelf) -> None:
    # A2
    with Server(shelf, cache={**ON, "max_bytes": 20_000}) as server:
        for number in range(100):
            server.post(V1, instances([number, 1]))
        assert server.metric("ml_cache_bytes", store="memory") <= 20_000
        assert server.metric("ml_cache_evictions_total", store="memory", reason="size") > 50


def test_a_caller_who_leaves_takes_nobodys_answer_along(server: Server, shelf: Shelf) -> None:
    # A2 R5
    body = json.dumps(instances([8.0, 1.0])).encode()
    head = f"POST /v1/models/later/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with ThreadPoolExecutor(10) as pool:
        with server.wire() as leader:
            leader.send(head + body)
            wait_until(lambda: server.in_flight() == 1, "the leader to be under way")
            others = [pool.submit(server.post, "/v1/models/later/predict", instances([8.0, 1.0])) for _ in range(5)]
            wait_until(lambda: server.in_flight() == 6, "the others to wait")
            leader.reset()
        assert [other.result().json["predictions"] for other in others] == [[9.0]] * 5
    wait_until(lambda: server.metric("ml_requests_total", code="CANCELLED") == 1, "the leader to be counted")


# With a Redis in between


def shared(url: str, **more: Any) -> dict[str, Any]:
    return {**ON, "redis_url": url, "redis_timeout": 0.05, "redis_pause": 0.3, "lease_wait": 5.0, **more}


def test_a_server_finds_what_another_has_answered(shelf: Shelf, valkey: Valkey) -> None:
    # A2
    other_shelf = Shelf().serve("m", score)
    patient = shared(valkey.url, redis_timeout=2.0)
    with Server(shelf, cache=patient) as one, Server(other_shelf, cache=patient) as other:
        assert one.post(V1, instances(ROW)).headers["cache-status"] == MISS
        wait_until(lambda: valkey.client.dbsize() == 1, "the answer to be written")
        reply = other.post(V1, instances(ROW))
        assert (reply.headers["cache-status"], reply.json["predictions"]) == (HIT, [3.0])
        assert other.metric("ml_cache_requests_total", result="stored") == 1
        assert other.metric("ml_batch_size_count", model="m") == 0
        assert other.metric("ml_cache_store_requests_total", operation="look", outcome="ok") == 1
        assert other.metric("ml_cache_store_open", store="redis") == 0


@pytest.mark.slow
def test_two_processes_that_are_asked_the_same_at_once_run_it_once(valkey: Valkey) -> None:
    # A2
    cache = shared(valkey.url, redis_timeout=5.0)
    with Process(cache=cache) as one, Process(cache=cache) as other:
        urls = [f"http://127.0.0.1:{process.port}" for process in (one, other)]
        with ThreadPoolExecutor(20) as pool:
            replies = list(
                pool.map(lambda url: ask(f"{url}/v1/models/later/predict", "POST", instances(ROW)), urls * 10)
            )
        assert [reply.json["predictions"] for reply in replies] == [[3.0]] * 20
        pages = [ask(f"{url}/metrics", "GET").body.decode() for url in urls]
        runs = [line for page in pages for line in page.splitlines() if 'model="later"' in line and 'result="' in line]
        found = {line.partition('result="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in runs}
        assert found["miss"] == 1.0
        assert found["stored"] == 1.0
        assert found["shared"] > 0


@pytest.mark.slow
def test_a_process_that_dies_with_a_lease_keeps_the_others_waiting_for_a_moment_only(valkey: Valkey) -> None:
    # A2
    cache = shared(valkey.url, redis_timeout=5.0, lease=60.0, lease_wait=0.5)
    with Process(cache=cache) as dying, Process(cache=cache) as other:
        lost = threading.Thread(target=ask_in_vain, args=(f"http://127.0.0.1:{dying.port}/v1/models/later/predict",))
        lost.start()
        wait_until(lambda: valkey.client.keys("*lease"), "the lease to be taken")
        dying._process.kill()
        lost.join()
        reply = ask(f"http://127.0.0.1:{other.port}/v1/models/later/predict", "POST", instances(ROW))
        assert (reply.json["predictions"], reply.headers["cache-status"]) == ([3.0], MISS)


def ask_in_vain(url: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - however the connection ends
        ask(url, "POST", instances(ROW))


@pytest.mark.parametrize("fault", ["stopped", "killed", "slow", "full"])
def test_a_redis_that_fails_under_load_costs_milliseconds_and_no_answer(
    shelf: Shelf, tmp_path: Path, fault: str
) -> None:
    # A2
    with (
        Valkey(tmp_path, "--maxmemory-policy", "noeviction") as valkey,
        SlowWire(valkey.port) as wire,
        Server(shelf, cache=shared(wire.url)) as server,
    ):
        worst, wrong, over = 0.0, list[Any](), threading.Event()

        def load(first: int) -> None:
            nonlocal worst
            number = first
            while not over.is_set():
                number += 4
                began = time.perf_counter()
                reply = server.post(V1, instances([number % 500, 1]))
                worst = max(worst, time.perf_counter() - began)
                if reply.status != 200 or reply.json["predictions"] != [number % 500 + 1.0]:
                    wrong.append(reply)

        threads = [threading.Thread(target=load, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: valkey.client.dbsize() > 20, "answers to be shared")
            with suffering(fault, valkey, wire):
                if fault == "full":
                    refused = {"operation": "keep", "outcome": "refused"}
                    wait_until(lambda: server.metric("ml_cache_store_requests_total", **refused), "a refused write")
                else:
                    wait_until(lambda: server.metric("ml_cache_store_open", store="redis") == 1, "the breaker to open")
                time.sleep(0.5)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        assert worst < SOON


def test_garbage_under_our_keys_is_never_answered(shelf: Shelf, valkey: Valkey) -> None:
    # A2
    with Server(shelf, cache=shared(valkey.url, redis_timeout=2.0, max_bytes=1)) as server:
        server.post(V1, instances(ROW))
        wait_until(lambda: valkey.client.dbsize() == 1, "the answer to be written")
        (name,) = valkey.client.keys()
        good = valkey.client.get(name)

        def is_good(value: bytes) -> bool:
            # What a run took is written there too, and is another time's.
            return from_bytes(value, bytes.fromhex(name.decode().partition("{")[2].partition("}")[0]), 1) is not None

        assert is_good(good)
        server.post(V1, instances([7.0, 7.0]))
        wait_until(lambda: valkey.client.dbsize() == 2, "the other answer to be written")
        other = valkey.client.get(next(iter({*valkey.client.keys()} - {name})))
        planted = [b"", b"\x80\x04N.", good[:-1], good + b"\0", b"\0" * len(good), other, b"x" * 5_000_000]
        for value in planted:
            valkey.client.set(name, value, px=60_000)
            reply = server.post(V1, instances(ROW))
            assert (reply.status, reply.json["predictions"]) == (200, [3.0])
            wait_until(lambda: is_good(valkey.client.get(name)), "a good answer in its place")
        assert server.metric("ml_cache_store_requests_total", outcome="garbage") >= 4


def test_a_server_starts_without_its_redis(shelf: Shelf, tmp_path: Path) -> None:
    # A2
    with Server(shelf, cache=shared(Valkey(tmp_path).url)) as server:
        for _ in range(2):
            assert server.post(V1, instances(ROW)).json["predictions"] == [3.0]
        assert server.post(V1, instances(ROW)).headers["cache-status"] == HIT


def test_a_refusal_by_the_model_is_shared_as_one(valkey: Valkey) -> None:
    # A2
    def refuse(inputs: Any) -> dict[str, Array]:
        if len(inputs["input"]) and inputs["input"][0, 0] == 13:
            raise InvalidInput("no such customer", field="age")
        return {"score": inputs["input"].sum(axis=1)}

    def runtime() -> FakeRuntime:
        return FakeRuntime(SCORE_SIGNATURE.inputs, SCORE_SIGNATURE.outputs, refuse)

    shelves = [Shelf().serve("m", runtime) for _ in range(2)]
    patient = shared(valkey.url, redis_timeout=2.0)
    with Server(shelves[0], cache=patient) as one, Server(shelves[1], cache=patient) as other:
        runs = shelves[1].runtimes("m")[0].calls
        warm_ups = len(runs)
        first = one.post(V1, instances([13, 1]))
        wait_until(lambda: valkey.client.dbsize() == 1, "the refusal to be written")
        second = other.post(V1, instances([13, 1]))
        for reply in (first, second):
            assert (reply.status, reply.json["detail"], reply.json["field"]) == (400, "no such customer", "age")
        assert other.metric("ml_cache_requests_total", result="stored") == 1
        assert other.metric("ml_requests_total", code="INVALID_ARGUMENT") == 1
        assert len(runs) == warm_ups


def test_an_address_of_redis_that_is_none_is_said_before_anything_is_served(shelf: Shelf) -> None:
    # A2
    settings = load_settings(None, {}, {"cache": {**ON, "redis_url": "localhost"}})
    with pytest.raises(FailedPrecondition, match=r"cache\.redis_url"):
        App(settings, shelf)
