"""Several workers on one port, as processes: what callers see while workers work, die, are replaced and stop.

Everything here starts processes. # M1 M2 R4 R5 R6 C1
"""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from benchmarks.workers import body, dense_model
from tests.serving import PATIENCE, wait_until
from tests.supervise.served import (
    START,
    Shop,
    gone,
    kill,
    load,
    pid_of,
    read_metric,
    score_of,
    wait_workers,
)
from tests.wire import Reply, Wire, ask, predict_bytes

from keelway.contract.constraints import Constraint, Policy

pytestmark = pytest.mark.slow


# Serving


def test_requests_are_spread_over_workers_and_all_answered_right(shop: Shop) -> None:
    with shop.served() as served:
        answers = served.answers(24)
        assert {score_of(answer) for answer in answers} == {1003.0}
        shares = Counter(pid_of(answer) for answer in answers)
        assert set(shares) == served.pids()
        # The one with the fewest connections takes the next: nobody has all of them, and nobody none.
        assert max(shares.values()) <= 14
        assert min(shares.values()) >= 4
        assert len({answer["request_id"] for answer in answers}) == 24


def test_it_serves_only_once_all_workers_are_ready(shop: Shop) -> None:
    with shop.served() as served:
        for _ in range(9):
            for path in ("/health/live", "/health/ready", "/health/startup", "/v2/health/ready"):
                assert served.get(path).status == 200
        loaded = [line for line in served.lines if "loaded m 1.0.0" in line["message"]]
        assert sorted(line["worker"] for line in loaded) == [1, 2, 3]


def test_grpc_is_spread_over_the_workers_too(shop: Shop) -> None:
    import grpc

    from keelway.wire.open_inference_pb2 import ModelInferRequest, ModelInferResponse

    request = ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="input", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1.0, 2.0])
    pids = set()
    with shop.served("--grpc", "127.0.0.1:0") as served:
        for _ in range(40):
            with grpc.insecure_channel(served.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                infer = channel.unary_unary(
                    "/inference.GRPCInferenceService/ModelInfer",
                    ModelInferRequest.SerializeToString,
                    ModelInferResponse.FromString,
                )
                reply = infer(request, timeout=PATIENCE)
            raw = dict(zip([output.name for output in reply.outputs], reply.raw_output_contents, strict=False))
            outputs = {output.name: output for output in reply.outputs}
            score = outputs["score"].contents.fp32_contents or memoryview(raw["score"]).cast("f")
            pid = outputs["pid"].contents.int64_contents or memoryview(raw["pid"]).cast("q")
            assert list(score) == [1003.0]
            pids.add(int(pid[0]))
        assert pids == served.pids()


# Starting


@pytest.mark.parametrize("option", ["--http", "--grpc"])
def test_a_port_that_is_taken_is_one_line_with_a_way_out(shop: Shop, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        served = shop.served(option, address).start()
        assert served.exit(START) == 1
        served.__exit__()
    (line,) = served.lines
    assert line["message"].startswith(f"keelway: cannot listen on {address}: ")
    assert f"choose another port with {option} HOST:PORT" in line["message"]


def test_a_worker_that_cannot_start_fails_the_start_with_its_own_error(shop: Shop) -> None:
    shop.push("2.0.0", "raise OSError('no such drive')")
    shop.promote("2.0.0")
    served = shop.served().start()
    assert served.exit(START) == 1
    served.__exit__()
    errors = [line["message"] for line in served.lines if line["message"].startswith("keelway: ")]
    assert len(errors) == 1
    assert "the model" in errors[0]
    assert "Traceback" not in "".join(line["message"] for line in served.lines)


def test_model_control_is_refused_because_it_would_reach_one_worker_only(shop: Shop) -> None:
    served = shop.served("--allow-model-control").start()
    assert served.exit(START) == 1
    served.__exit__()
    (line,) = served.lines
    assert "serve with --workers 1" in line["message"]


# Dying


def test_a_killed_worker_costs_what_was_under_way_in_it_and_nothing_else(shop: Shop) -> None:
    with shop.served() as served, load(served) as callers:
        wait_until(lambda: all(caller.right > 50 for caller in callers), "all callers to be answered")
        (victim, *_) = served.pids()
        before = sum(victim in caller.pids for caller in callers)
        kill(victim)
        wait_until(lambda: gone(victim), "the worker to die")
        began = time.monotonic()
        wait_workers(served, 3)
        assert time.monotonic() - began < 10
        marks = [caller.right for caller in callers]
        wait_until(lambda: all(c.right > mark + 50 for c, mark in zip(callers, marks, strict=True)), "to go on")
        assert [caller.wrong for caller in callers] == [[]] * len(callers)
        # One connection each, one request at a time: those of the victim lost one, the others none.
        assert sum(len(caller.broken) for caller in callers) <= before
        assert all(len(caller.broken) <= int(victim in caller.pids) for caller in callers)
        assert served.said("has ended (signal 9); started again in 0 s")
        assert served.metric("ml_worker_restarts_total", cause="died") == 1


def test_a_new_worker_serves_what_the_others_serve_now(shop: Shop) -> None:
    shop.push("2.0.0")
    with shop.served() as served:
        shop.promote("2.0.0")
        wait_until(lambda: {a["model_version"] for a in served.answers()} == {"2.0.0"}, "the promotion", START)
        (victim, *_) = served.pids()
        kill(victim)
        wait_until(lambda: gone(victim), "the worker to die")
        wait_workers(served, 3)
        answers = served.answers(24)
        assert {pid_of(answer) for answer in answers} == served.pids()
        assert {answer["model_version"] for answer in answers} == {"2.0.0"}


def test_a_worker_that_dies_again_and_again_is_started_ever_later(shop: Shop) -> None:
    once = "p = pathlib.Path(r'%s'); p.exists() and os._exit(7)"
    flag = shop.folder / "broken"
    shop.push("2.0.0", once % flag)
    shop.promote("2.0.0")
    with shop.served(workers=2) as served:
        flag.touch()
        (victim, *_) = served.pids()
        kill(victim)
        wait_until(lambda: served.said("started again in 1 s"), "three deaths", START)
        pauses = [line["message"].rpartition("in ")[2] for line in served.lines if "started again" in line["message"]]
        assert pauses[:3] == ["0 s", "0.5 s", "1 s"]
        assert {score_of(answer) for answer in served.answers(6)} == {2003.0}
        flag.unlink()
        wait_workers(served, 2)


def test_when_the_supervisor_dies_so_do_the_workers_and_the_port_is_free(shop: Shop) -> None:
    with shop.served() as served, served.wire() as wire:
        pids = served.pids()
        assert wire.ask(predict_bytes()).status == 200
        wire.send(predict_bytes(row={"age": -1.0, "income": 4.0}))
        time.sleep(0.3)
        kill(served.process.pid)
        reply = wire.reply()  # what is under way is finished
        assert reply is not None
        assert score_of(reply.json) == 1003.0
        wait_until(lambda: all(map(gone, pids)), "the workers to end")
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", served.port))
            again.listen()


def test_a_worker_inside_a_model_does_not_outlive_its_supervisor_for_long(shop: Shop) -> None:
    with shop.served(serving={"drain_timeout": 0.5}) as served, served.wire() as wire:
        pids = served.pids()
        wire.send(predict_bytes(row={"age": -100.0, "income": 4.0}))
        time.sleep(0.3)
        kill(served.process.pid)
        wait_until(lambda: all(map(gone, pids)), "the workers to end")


# Replacing


def test_a_reload_replaces_every_worker_without_a_lost_request(shop: Shop) -> None:
    with (
        shop.served("--grpc", "127.0.0.1:0", serving={"drain_delay": 1.0}) as served,
        load(served, 4) as busy,
        load(served, 6, pause=0.4) as calm,  # their connections have nothing to do most of the time
    ):
        callers = [*busy, *calm]
        wait_until(lambda: all(caller.right > 5 for caller in callers), "all callers to be answered")
        before = served.pids()
        served.signal(signal.SIGHUP)
        wait_until(lambda: served.said("every worker has been replaced"), "the reload", START)
        marks = [caller.right for caller in callers]
        wait_until(lambda: all(c.right > mark + 5 for c, mark in zip(callers, marks, strict=True)), "to go on")
        assert [caller.broken for caller in callers] == [[]] * len(callers)
        assert [caller.wrong for caller in callers] == [[]] * len(callers)
        assert len(served.pids()) == 3
        assert not served.pids() & before
        assert served.metric("ml_worker_restarts_total", cause="reload") == 3
        assert served.metric("ml_requests_total", code="OK") >= sum(marks)


def test_a_reload_reads_the_settings_anew(shop: Shop) -> None:
    with shop.served(workers=2) as served:
        served.write({**served.sections, "http": {"address": "127.0.0.1:9", "max_body_bytes": 10}})
        assert {reply["model"] for reply in served.answers(4)} == {"m"}
        served.signal(signal.SIGHUP)
        wait_until(lambda: served.said("every worker has been replaced"), "the reload", START)
        with served.wire() as wire:
            assert wire.ask(predict_bytes()).status == 413
        served.config.write_text("[http]\nmisspelt = 1\n")
        served.signal(signal.SIGHUP)
        wait_until(lambda: served.said("nothing is reloaded"), "the refusal")
        assert len(served.pids()) == 2


def test_a_reload_ends_at_a_worker_that_cannot_start(shop: Shop) -> None:
    flag = shop.folder / "broken"
    shop.push("2.0.0", f"if os.path.exists(r'{flag}'): raise OSError('no such drive')")
    shop.promote("2.0.0")
    with shop.served(workers=2) as served:
        before = served.pids()
        flag.touch()
        served.signal(signal.SIGHUP)
        wait_until(lambda: served.said("the reload ends here"), "the failure", START)
        wait_until(lambda: served.pids() == before, "the new one to go")
        assert {score_of(answer) for answer in served.answers(6)} == {2003.0}


# Stopping


def test_sigterm_drains_all_workers(shop: Shop) -> None:
    with shop.served(serving={"drain_delay": 1.0}, runtime={"inline_below_ms": 0.0}) as served:
        with ThreadPoolExecutor(6) as pool:
            slow = [pool.submit(_slowly, served.wire) for _ in range(6)]
            wait_until(lambda: served.metric("ml_requests_in_flight") > 0, "requests under way")
            served.signal(signal.SIGTERM)
            wait_until(lambda: served.get("/health/ready").status == 503, "readiness to fall")
            replies = [one.result() for one in slow]
        assert [score_of(reply.json) for reply in replies] == [1003.0] * 6
        assert served.exit() == 0
        with pytest.raises(OSError, match="refused"):
            served.wire()


def _slowly(wire: Callable[[], Wire]) -> Reply:
    with wire() as connection:
        return connection.ask(predict_bytes(row={"age": -1.5, "income": 4.5}))


def test_a_second_signal_stops_at_once(shop: Shop) -> None:
    with shop.served(serving={"drain_timeout": 60.0}, runtime={"inline_below_ms": 0.0}) as served:
        pids = served.pids()
        with served.wire() as wire:
            wire.send(predict_bytes(row={"age": -50.0, "income": 4.5}))
            time.sleep(0.5)
            served.signal(signal.SIGINT)
            time.sleep(1.0)
            assert served.running()
            served.signal(signal.SIGINT)
            assert served.exit() == 1  # a model was still running
        wait_until(lambda: all(map(gone, pids)), "the workers to end")


# One wish


def test_a_promotion_is_seen_by_all_within_two_seconds_without_a_lost_request(shop: Shop) -> None:
    shop.push("2.0.0")
    with shop.served(registry={"poll_interval": 1.0}) as served, load(served, pause=0.002) as callers:
        wait_until(lambda: all(caller.right > 20 for caller in callers), "all callers to be answered")
        shop.promote("2.0.0")
        began = time.monotonic()
        wait_until(lambda: all(caller.versions[-1] == "2.0.0" for caller in callers), "the promotion")
        assert time.monotonic() - began < 2.0
        time.sleep(0.3)
    for caller in callers:
        assert (caller.broken, caller.wrong) == ([], [])
        assert caller.versions == sorted(caller.versions), "an older version answered after a newer one"


def test_a_new_policy_is_enforced_by_all_within_two_seconds_without_a_restart_or_a_lost_request(tmp_path: Path) -> None:
    # V1
    shop, loads = Shop(tmp_path), tmp_path / "loads"
    shop.push("1.0.0", f"os.write(os.open(r'{loads}', os.O_CREAT | os.O_APPEND | os.O_WRONLY), b'x')")
    policy = Policy(constraints=(Constraint("age", minimum=100, on_violation="flag"),))
    with shop.served(workers=2, registry={"poll_interval": 1.0}) as served, load(served, pause=0.002) as callers:
        wait_until(lambda: all(caller.right > 20 for caller in callers), "all callers to be answered")
        pids = served.pids()
        with shop.registry() as registry:
            registry.set_policy("m", "1.0.0", policy, who="ada", why="a test", expected_revision=1)
        began = time.monotonic()
        wait_until(lambda: {a["policy_revision"] for a in served.answers(6)} == {2}, "the policy")
        assert time.monotonic() - began < 2.0
        answers = served.answers(24)
        assert {(answer["policy_revision"], *answer["flags"]) for answer in answers} == {(2, "outside:age")}
        assert {pid_of(answer) for answer in answers} == served.pids() == pids
        assert loads.read_bytes() == b"xx"
    assert [(caller.broken, caller.wrong) for caller in callers] == [([], [])] * len(callers)


def test_a_version_that_one_worker_cannot_load_waits_in_all_of_them(shop: Shop) -> None:
    # The file can be made once: the second worker fails.
    marker = shop.folder / "marker"
    shop.push("2.0.0", f"os.close(os.open(r'{marker}', os.O_CREAT | os.O_EXCL))")
    shop.push("3.0.0")
    with shop.served() as served:
        shop.promote("2.0.0")
        wait_until(lambda: served.said("m 2.0.0 waits in all workers"), "the failure", START)
        answers = served.answers(24)
        assert {answer["model_version"] for answer in answers} == {"1.0.0"}
        assert {pid_of(answer) for answer in answers} == served.pids()
        for _ in range(6):
            index = ask(served.url + "/v2/repository/index", "POST", {}).json
            states = {entry["version"]: entry["state"] for entry in index}
            assert states == {"1.0.0": "READY", "2.0.0": "UNAVAILABLE"}
        shop.promote("3.0.0")
        wait_until(lambda: {a["model_version"] for a in served.answers()} == {"3.0.0"}, "the next promotion", START)


def test_the_registry_is_asked_by_one(shop: Shop) -> None:
    with shop.served() as served:
        served.answers(6)
        # No worker has as much as loaded the library that speaks to databases.
        assert {pid for pid in served.pids() if "/sqlalchemy/" in Path(f"/proc/{pid}/maps").read_text()} == set()
        assert "/sqlalchemy/" in Path(f"/proc/{served.process.pid}/maps").read_text()


# Metrics and records


def test_any_worker_answers_the_metrics_of_all_and_counts_never_fall(shop: Shop) -> None:
    with shop.served() as served, load(served, pause=0.002) as callers:
        seen: list[float] = []
        stop = threading.Event()

        def scrape() -> None:
            while not stop.is_set():
                try:
                    page = served.get("/metrics").body.decode()
                except OSError:
                    continue  # asked of the one that died
                seen.append(read_metric(page, "ml_requests_total"))
                assert read_metric(page, "ml_request_duration_seconds_count") == seen[-1]

        with ThreadPoolExecutor(1) as pool:
            scraping = pool.submit(scrape)
            wait_until(lambda: all(caller.right > 50 for caller in callers), "all callers to be answered")
            time.sleep(1.5)  # every worker has reported
            (victim, *_) = served.pids()
            kill(victim)
            wait_until(lambda: gone(victim), "the worker to die")
            wait_workers(served, 3)
            stop.set()
            scraping.result()
        assert seen == sorted(seen)
        assert len(seen) > 20
    answered = sum(caller.right for caller in callers)
    # What the victim had counted since its last report is lost: a second's worth at most.
    assert seen[-1] > 0.5 * answered


def test_counts_are_exact_while_nobody_dies_and_in_flight_is_the_sum(shop: Shop) -> None:
    with shop.served(runtime={"inline_below_ms": 0.0}) as served:
        served.answers(24)
        assert [served.metric("ml_requests_total", code="OK") for _ in range(9)] == [24.0] * 9
        assert served.metric("ml_model_loaded", model="m") == 1
        assert served.metric("ml_build_info") == 1
        assert "ml_cache_bytes{" not in served.get("/metrics").body.decode()  # not set anywhere: absent
        with ThreadPoolExecutor(5) as pool:
            slow = [pool.submit(_slowly, served.wire) for _ in range(5)]
            wait_until(lambda: served.metric("ml_requests_in_flight") == 5, "five under way")
            assert [one.result().status for one in slow] == [200] * 5
        assert served.metric("ml_requests_in_flight") == 0
        served.signal(signal.SIGHUP)
        wait_until(lambda: served.said("every worker has been replaced"), "the reload", START)
        assert served.metric("ml_requests_total", code="OK") == 29


def test_records_of_all_workers_are_whole_lines_of_one_file(shop: Shop) -> None:
    with shop.served(records={"file": str(shop.folder / "records.jsonl"), "flush_interval": 0.05}) as served:
        with load(served) as callers:
            wait_until(lambda: all(caller.right > 200 for caller in callers), "requests")
        served.signal(signal.SIGTERM)
        assert served.exit() == 0
    records = [json.loads(line) for line in (shop.folder / "records.jsonl").read_text().splitlines()]
    assert len(records) == sum(caller.right for caller in callers)
    assert len({record["request_id"] for record in records}) == len(records)
    assert {record["code"] for record in records} == {"OK"}


# Memory


def test_shared_weights_are_in_memory_once(shop: Shop) -> None:
    # T3
    megabytes = 60
    model = shop.folder / "dense.onnx"
    dense_model(model, megabytes)
    outputs: list[list[float]] = []
    weights: dict[bool, float] = {}
    for share in (False, True):
        with shop.served(model=str(model), workers=4, runtime={"share_weights": share}) as served:
            for _ in range(16):
                reply = ask(f"{served.url}/v2/models/dense/infer", "POST", body())
                outputs.append(reply.json["outputs"][0]["data"])
            weights[share] = sum(worker.memory_full_info().pss for worker in served.workers()) / 2**20
            mapped = [any("dense-weights" in m.path for m in worker.memory_maps()) for worker in served.workers()]
            assert mapped == [share] * 4
            priced = [line for line in served.lines if "with weights of its own" in line["message"]]
            assert len(priced) == int(share)
        served.process.wait()
    assert all(output == pytest.approx(outputs[0], rel=1e-3, abs=1e-3) for output in outputs)
    # Three copies of four are not there any more, at the least.
    assert weights[False] - weights[True] > 3 * megabytes
