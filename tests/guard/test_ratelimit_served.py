"""Servers with rate limits, over every way in: the fast lane of REST, its usual way, and gRPC."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from tests.serving import PATIENCE, ROW, Server, Shelf, Wire, predict_bytes, request_bytes, score, wait_until
from tests.valkey import SlowWire, Valkey, suffering

from keelway.app import App
from keelway.config import load_settings
from keelway.errors import FailedPrecondition, InvalidInput
from keelway.supervise.supervisor import Supervisor
from keelway.wire.health_pb2 import HealthCheckRequest
from keelway.wire.open_inference_pb2 import ModelInferRequest, ServerMetadataRequest

GRPC = {"address": "127.0.0.1:0"}
V1 = "/v1/models/m/predict"
#: Longer than any answer may take while a store fails, and shorter than what it is made to fail by.
SOON = 1.0


class Told(NamedTuple):
    """What a caller hears: whether it was answered, ``limited`` or something else, and the headers or trailers."""

    outcome: str
    headers: Mapping[str, str]
    message: str = ""


def by_lane(server: Server, rows: int = 1, model: str = "m", **headers: str) -> Told:
    return by_rest(server, rows, model, headers)


def by_asgi(server: Server, rows: int = 1, model: str = "m", **headers: str) -> Told:
    """What takes the usual way: a body in chunks."""
    return by_rest(server, rows, model, headers, chunked=True)


def by_rest(server: Server, rows: int, model: str, headers: Mapping[str, str], *, chunked: bool = False) -> Told:
    body = json.dumps({"instances": [ROW] * rows}).encode()
    more = [(name.replace("_", "-"), value) for name, value in headers.items()]
    if chunked:
        more.append(("Transfer-Encoding", "chunked"))
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with server.wire() as wire:
        reply = wire.ask(request_bytes("POST", f"/v1/models/{model}/predict", body, *more, length=not chunked))
    outcome = {200: "answered", 429: "limited"}.get(reply.status, str(reply.status))
    return Told(outcome, reply.headers, reply.json.get("detail", ""))


def by_grpc(server: Server, rows: int = 1, model: str = "m", **headers: str) -> Told:
    array = np.ones((rows, 2), np.float32)
    tensor = ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=array.shape)
    message = ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()])
    metadata = [(name.replace("_", "-"), value) for name, value in headers.items()]
    with grpc.insecure_channel(server.grpc) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            _, call = method.with_call(message.SerializeToString(), timeout=PATIENCE, metadata=metadata)
        except grpc.RpcError as error:
            limited = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return Told("limited" if limited else str(error.code()), dict(error.trailing_metadata()), error.details())
        return Told("answered", dict(call.trailing_metadata()))


Way = Callable[..., Told]
WAYS = pytest.mark.parametrize("way", [by_lane, by_asgi, by_grpc])


def shelf() -> Shelf:
    return Shelf().serve("m", score).serve("other", score).serve("later", lambda: score(delay=0.5))


def limited(*rules: str, **more: Any) -> Server:
    """A server with ``rules``; ``more`` are further settings of rate limits, or, in a mapping, of another section."""
    sections = {name: value for name, value in more.items() if isinstance(value, dict)}
    given = {name: value for name, value in more.items() if name not in sections}
    return Server(shelf(), grpc=GRPC, rate_limits={"rules": rules, **given}, **sections)


def outcomes(way: Way, server: Server, times: int, **request: Any) -> list[str]:
    return [way(server, **request).outcome for _ in range(times)]


# What is counted


@WAYS
def test_beyond_the_limit_a_caller_hears_when_to_come_back(way: Way) -> None:
    # W1: Retry-After and RateLimit fields, over every way in
    with limited("3 requests/hour per address") as server:
        told = [way(server) for _ in range(5)]
    assert [one.outcome for one in told] == ["answered"] * 3 + ["limited"] * 2
    assert [one.headers["ratelimit"].partition(";t=")[0] for one in told] == [
        f'"3 requests/hour per address";r={left}' for left in (2, 1, 0, 0, 0)
    ]
    for one in told[3:]:
        assert 0 < int(one.headers["retry-after"]) <= 7200
        assert one.headers["ratelimit-policy"] == '"3 requests/hour per address";q=3;w=3600;qu="requests"'
        assert "3 requests/hour per address" in one.message
        if way is by_grpc:
            assert int(one.headers["grpc-retry-pushback-ms"]) > 0


@WAYS
def test_a_request_costs_as_many_as_it_has_rows(way: Way) -> None:
    # W1
    with limited("100 rows/hour per principal") as server:
        assert outcomes(way, server, 4, rows=32) == ["answered"] * 3 + ["limited"]
        assert outcomes(way, server, 5) == ["answered"] * 4 + ["limited"]
        told = way(server, rows=101)
        assert told.outcome == "limited"


@WAYS
def test_a_rule_on_one_model_leaves_the_others_alone(way: Way) -> None:
    # W1
    with limited("2 requests/hour per principal on m") as server:
        assert outcomes(way, server, 3) == ["answered", "answered", "limited"]
        told = way(server, model="other")
        assert told.outcome == "answered"
        assert "ratelimit" not in told.headers


def test_all_ways_in_count_for_one_caller() -> None:
    # W1
    with limited("4 requests/hour per address") as server:
        told = [way(server).outcome for way in (by_lane, by_asgi, by_grpc, by_lane, by_asgi, by_grpc, by_lane)]
    assert told == ["answered"] * 4 + ["limited"] * 3


def test_rows_that_are_refused_cost_too() -> None:
    # W1
    with limited("10 rows/hour per address") as server:
        reply = server.post(V1, {"instances": [ROW] * 3 + [{"age": "old"}] * 4})
        assert reply.status == 200
        assert outcomes(by_lane, server, 4) == ["answered"] * 3 + ["limited"]


@pytest.mark.parametrize("rule", ["3 requests/hour per address", "3 rows/hour per address"])
def test_a_stranger_buys_no_parsing(rule: str) -> None:
    # W1 R3: what is no request at all is counted, and then not looked at any more.
    with limited(rule) as server, server.wire() as wire:
        garbage = request_bytes("POST", V1, b"{" * 1000)
        assert [wire.ask(garbage).status for _ in range(6)] == [400] * 3 + [429] * 3
        unknown = request_bytes("POST", "/v1/models/nobody/predict", b"{}")
        assert wire.ask(unknown).status == 429


def test_an_answer_from_the_cache_costs_too() -> None:
    # W1 A3
    with limited("3 rows/hour per principal", cache={"enabled": True}) as server:
        told = [by_lane(server) for _ in range(4)]
    assert [one.headers.get("cache-status") for one in told[:3]] == ["keelway; fwd=miss"] + ["keelway; hit"] * 2
    assert [one.outcome for one in told] == ["answered"] * 3 + ["limited"]


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_whatever_its_priority_a_request_costs_the_same(priority: str) -> None:
    # W1
    with limited("2 requests/hour per principal") as server:
        told = outcomes(by_lane, server, 3, x_request_priority=priority)
    assert told == ["answered", "answered", "limited"]


def test_requests_in_a_row_on_one_connection_are_counted_one_by_one_and_answered_in_order() -> None:
    # W1: requests sent before the answers have come
    with limited("5 requests/hour per address") as server, server.wire() as wire:
        other = request_bytes("POST", "/v1/models/later/predict", json.dumps({"instances": [ROW]}).encode())
        wire.send(predict_bytes() + other + predict_bytes() * 8)
        replies = [wire.reply() for _ in range(10)]
    assert [reply.status for reply in replies if reply] == [200] * 5 + [429] * 5


# Who is exempt


def test_probes_and_metrics_are_never_limited_and_other_routes_are() -> None:
    # W1: whoever watches the server must not be locked out when callers are.
    with limited("3 requests/hour per address") as server:
        assert outcomes(by_lane, server, 4) == ["answered"] * 3 + ["limited"]
        probes = ("/health/live", "/health/ready", "/health/startup", "/ping", "/v2/health/live", "/v2/health/ready")
        for path in (*probes, "/metrics"):
            assert {server.get(path).status for _ in range(5)} == {200}, path
        for path in ("/v2/models/m", "/v1/models", "/openapi.json", "/docs", "/nothing"):
            reply = server.get(path)
            assert reply.status == 429, path
            assert reply.headers["retry-after"]
        with grpc.insecure_channel(server.grpc) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            for _ in range(5):
                check(HealthCheckRequest().SerializeToString(), timeout=PATIENCE)
                live(b"", timeout=PATIENCE)
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")(
                    ServerMetadataRequest().SerializeToString(), timeout=PATIENCE
                )
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_other_routes_cost_a_request() -> None:
    # W1
    with limited("3 requests/hour per address", "100 rows/hour per address") as server:
        assert [server.get("/v1/models").status for _ in range(4)] == [200] * 3 + [429]


# Whose address


@WAYS
def test_a_spoofed_address_counts_for_nothing(way: Way) -> None:
    # W1: X-Forwarded-For from whoever is no trusted proxy
    with limited("2 requests/hour per address") as server:
        told = [way(server, x_forwarded_for=f"198.51.100.{n}", forwarded=f"for=192.0.2.{n}").outcome for n in range(4)]
        assert told == ["answered", "answered", "limited", "limited"]


@WAYS
def test_behind_a_trusted_proxy_each_caller_has_its_own(way: Way) -> None:
    # W1
    with limited("2 requests/hour per address", trusted_proxies=["127.0.0.0/8", "10.0.0.0/8"]) as server:
        assert outcomes(way, server, 3, x_forwarded_for="198.51.100.9") == ["answered", "answered", "limited"]
        # What a caller has written itself stands left of what the proxy has added.
        spoofed = [way(server, x_forwarded_for=f"192.0.2.{n}, 198.51.100.9, 10.1.1.1").outcome for n in range(3)]
        assert spoofed == ["limited"] * 3
        assert outcomes(way, server, 2, x_forwarded_for="198.51.100.10") == ["answered"] * 2
        same_network = [way(server, x_forwarded_for=f"2001:db8::{n:x}").outcome for n in range(4)]
        assert same_network == ["answered", "answered", "limited", "limited"]
        assert way(server, x_forwarded_for="unknown").outcome == "answered"


def test_a_header_given_twice_is_read_from_its_last_line_on() -> None:
    # W1
    with limited("1 request/hour per address", trusted_proxies=["127.0.0.1"]) as server, server.wire() as wire:
        for number, status in ((1, 200), (2, 429)):
            lines = [("X-Forwarded-For", f"192.0.2.{number}"), ("X-Forwarded-For", "198.51.100.9")]
            assert wire.ask(predict_bytes(*lines)).status == status


@pytest.mark.slow
def test_a_hundred_thousand_addresses_neither_fill_the_memory_nor_free_a_busy_one() -> None:
    # W1
    with limited("50 requests/hour per address", trusted_proxies=["127.0.0.1"], max_callers=1000) as server:
        assert outcomes(by_lane, server, 51, x_forwarded_for="198.51.100.9")[-1] == "limited"
        told: Counter[int] = Counter()
        with server.wire() as wire:
            for start in range(0, 100_000, 16):
                addresses = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(start, start + 16)]
                wire.send(b"".join(predict_bytes(("X-Forwarded-For", address)) for address in addresses))
                told.update(reply.status for reply in (wire.reply() for _ in addresses) if reply)
        assert told[200] > 98_000, "who shares a counter shares it with few"
        assert told.total() == 100_000
        assert server.metric("ml_rate_limit_callers") <= 1000
        assert by_lane(server, x_forwarded_for="198.51.100.9").outcome == "limited"
        assert by_lane(server, x_forwarded_for="198.51.100.10").outcome == "answered"


# Under way at once


@WAYS
def test_one_principal_may_not_have_more_under_way_than_it_may(way: Way) -> None:
    # W1
    with limited(limits={"max_in_flight_per_principal": 2}) as server:
        told: list[Told] = []
        threads = [threading.Thread(target=lambda: told.append(way(server, model="later"))) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.in_flight() == 2, "both to be under way")
        refused = way(server)
        for thread in threads:
            thread.join()
        assert refused.outcome == "limited"
        assert int(refused.headers["retry-after"]) == 1
        assert [one.outcome for one in told] == ["answered"] * 2
        assert outcomes(way, server, 3) == ["answered"] * 3
        labels = {"rule": "max_in_flight_per_principal", "scope": "principal"}
        assert server.metric("ml_rate_limited_total", **labels) == 1


def test_a_place_is_given_back_however_a_request_ends() -> None:
    # W1 R5
    with limited(limits={"max_in_flight_per_principal": 1}, http={"body_timeout": 0.5}) as server:
        half = predict_bytes()[:-3]
        late = predict_bytes(("X-Request-Timeout", "50ms"), path="/v1/models/later/predict")
        for data, leave in (
            (half, Wire.close),  # abandoned with half a body
            (half, Wire.reset),
            (half, lambda wire: wire.reply()),  # too slow
            (predict_bytes(path="/v1/models/later/predict"), Wire.reset),  # leaves while it waits
            (late, lambda wire: wire.reply()),
            (request_bytes("POST", V1, b"garbage"), lambda wire: wire.reply()),
            (predict_bytes(path="/v1/models/nobody/predict"), lambda wire: wire.reply()),
            (request_bytes("POST", V1, b"{}", ("Transfer-Encoding", "chunked"), length=False), Wire.close),
        ):
            with server.wire() as wire:
                wire.send(data)
                time.sleep(0.05)
                leave(wire)
            wait_until(lambda: server.in_flight() == 0, "the permit to be back")
            assert by_lane(server).outcome == "answered", data
        channel = grpc.insecure_channel(server.grpc)
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(b"\x0a\x05later", timeout=20)
        call.cancel()
        channel.close()
        wait_until(lambda: by_grpc(server).outcome == "answered", "the place to be back")


# Shared


def shared(valkey: Any, **more: Any) -> dict[str, Any]:
    return {"store": valkey.url, "redis_timeout": 5.0, **more}


@WAYS
def test_two_servers_let_through_as_much_as_one(way: Way, tmp_path: Path) -> None:
    # W1
    with (
        Valkey(tmp_path) as valkey,
        limited("20 rows/hour per principal", **shared(valkey)) as one,
        limited("20 rows/hour per principal", **shared(valkey)) as two,
    ):
        told = [way(server, rows=3) for _ in range(5) for server in (one, two)]
        assert [item.outcome for item in told] == ["answered"] * 6 + ["limited"] * 4
        assert told[-1].headers["ratelimit-policy"].startswith('"20 rows/hour per principal";q=20')
        questions = one.metric("ml_rate_limit_store_requests_total", operation="take", outcome="ok")
        assert outcomes(way, one, 5, rows=3) == ["limited"] * 5
        assert one.metric("ml_rate_limit_store_requests_total", operation="take", outcome="ok") == questions


def test_what_is_no_request_is_counted_in_the_store_too(tmp_path: Path) -> None:
    # W1 R3
    with Valkey(tmp_path) as valkey, limited("5 requests/hour per address", **shared(valkey)) as server:
        garbage = request_bytes("POST", V1, b"{" * 1000)

        def told() -> int:
            with server.wire() as wire:
                return wire.ask(garbage).status

        wait_until(lambda: told() == 429, "the garbage to be counted")
        assert by_lane(server).outcome == "limited"


@pytest.mark.parametrize(
    ("on_failure", "told"),
    [("open", {"answered"}), ("closed", {"503"}), ("local", {"answered", "limited"})],
)
@pytest.mark.parametrize("fault", ["stopped", "killed", "slow", "full"])
def test_while_the_store_fails_answers_come_in_time_and_the_setting_decides(
    tmp_path: Path, fault: str, on_failure: str, told: set[str]
) -> None:
    # W1
    with (
        Valkey(tmp_path, "--maxmemory-policy", "noeviction") as valkey,
        SlowWire(valkey.port) as wire,
        limited("30 requests/hour per principal", store=wire.url, on_failure=on_failure, redis_timeout=0.1) as server,
    ):
        asked = {"operation": "take", "outcome": "ok"}
        wait_until(lambda: by_lane(server) and server.metric("ml_rate_limit_store_requests_total", **asked), "Redis")
        valkey.client.flushall()
        with suffering(fault, valkey, wire):
            worst, heard = 0.0, []
            for way in (by_lane, by_asgi, by_grpc) * 20:
                began = time.perf_counter()
                heard.append(way(server).outcome)
                worst = max(worst, time.perf_counter() - began)
    assert worst < SOON
    assert {"503" if "UNAVAILABLE" in one else one for one in heard} == told
    if on_failure == "local":
        assert heard.count("answered") == 30, "each server counts for itself"


def test_who_leaves_while_the_store_is_asked_holds_nothing(tmp_path: Path) -> None:
    # W1 R5
    with Valkey(tmp_path) as valkey, SlowWire(valkey.port) as wire:
        rules = ("1000 requests/hour per principal",)
        with limited(*rules, store=wire.url, redis_timeout=30.0) as server:
            by_lane(server)
            wire.delay = 0.5
            for leave in (Wire.close, Wire.reset):
                with server.wire() as caller:
                    caller.send(predict_bytes())
                    wait_until(lambda: server.in_flight() == 1, "the store to be asked")
                    leave(caller)
                wait_until(lambda: server.in_flight() == 0, "the permit to be back")
            wire.delay = 0.0
            assert server.metric("ml_requests_total", code="CANCELLED") == 2
            assert by_lane(server).outcome == "answered"


def test_the_caller_s_time_ends_the_question_too(tmp_path: Path) -> None:
    # W1 R5
    slow = {"redis_timeout": 30.0, "on_failure": "open"}
    with Valkey(tmp_path) as valkey, limited("9 rows/hour per principal", store=valkey.url, **slow) as server:
        by_lane(server)
        valkey.stop_answering()
        try:
            began = time.perf_counter()
            by_lane(server, x_request_timeout="100ms")
            assert time.perf_counter() - began < SOON
        finally:
            valkey.answer_again()


# Settings and metrics


def test_refusals_are_counted_by_rule_and_never_by_caller() -> None:
    # W1 M1
    with limited("1 request/hour per address", trusted_proxies=["127.0.0.1"]) as server:
        for number in range(20):
            outcomes(by_lane, server, 2, x_forwarded_for=f"198.51.100.{number}")
        assert server.metric("ml_rate_limited_total", rule="1 request/hour per address", scope="address") == 20
        page = server.get("/metrics").body
        assert b"198.51.100" not in page
        assert server.metric("ml_requests_total", code="RESOURCE_EXHAUSTED") == 20
        assert server.metric("ml_requests_shed_total") == 0


def test_several_workers_need_a_store_that_they_share() -> None:
    # W1: each would let through the whole amount.
    def app(**settings: Any) -> App:
        rules = {"rules": ["1 request/hour per address"], **settings}
        return App(load_settings(None, {}, {"rate_limits": rules, "serving": {"workers": 2}}), shelf())

    with pytest.raises(FailedPrecondition, match="count rate limits for itself") as refused:
        app()
    assert refused.value.hint
    app(store="memory")
    app(store="redis://127.0.0.1:1/0")


def test_a_supervisor_says_so_itself_instead_of_its_workers() -> None:
    # W1
    rules = {"rules": ["1 request/hour per address"]}
    settings = load_settings(None, {}, {"rate_limits": rules, "serving": {"workers": 2}})
    with pytest.raises(FailedPrecondition, match="count rate limits for itself"):
        Supervisor(settings, shelf())


@pytest.mark.parametrize(
    "settings", [{"rules": ["fast"]}, {"trusted_proxies": ["proxy"]}, {"on_failure": "maybe"}, {"proxy_header": "x"}]
)
def test_settings_that_mean_nothing_are_refused_at_the_start(settings: dict[str, Any]) -> None:
    # W1
    with pytest.raises(InvalidInput, match="rate_limits"):
        App(load_settings(None, {}, {"rate_limits": settings}), shelf())


def test_rules_may_come_from_the_environment() -> None:
    # W1
    rules = "5 rows/day per principal, 6 requests/10 seconds per address"
    settings = load_settings(None, {"KEELWAY_RATE_LIMITS_RULES": rules})
    assert settings.rate_limits.rules == ("5 rows/day per principal", "6 requests/10 seconds per address")


@pytest.fixture
def unanswering() -> Iterator[str]:
    """An address where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def test_a_server_starts_without_its_store(unanswering: str) -> None:
    # W1
    with limited("3 requests/hour per address", store=unanswering) as server:
        assert outcomes(by_lane, server, 5) == ["answered"] * 3 + ["limited"] * 2
        wait_until(lambda: server.metric("ml_rate_limit_store_open", store="redis") == 1, "the breaker to open")
