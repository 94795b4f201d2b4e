"""The server as a whole: where it listens, the order of its start and its drain, and what signals do to it. # R4 U1

What only a process can show (signals, exit codes) runs in one; the rest runs in a thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.serving import (
    BLOCKING,
    PATIENCE,
    ROW,
    TENSORS,
    GatedRuntime,
    Process,
    Server,
    Shelf,
    Wire,
    ask,
    forest,
    predict_bytes,
    request_bytes,
    score,
    wait_until,
)

from keelway.app import Addresses, App
from keelway.config import load_settings
from keelway.errors import CorruptArtifact, FailedPrecondition, KeelwayError
from keelway.observe.records import JsonLinesSink
from keelway.ports import Runtime
from keelway.types import InferenceRecord

READY_ROUTES = ["/health/ready", "/v2/health/ready", "/ping"]


# Where it listens


def test_an_address_that_is_taken_is_one_line_with_a_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        app = App(load_settings(None, {}, {"http": {"address": address}}), Shelf().serve("m", score))
        with pytest.raises(FailedPrecondition) as refusal:
            app.run()
    assert address in refusal.value.message
    assert "\n" not in refusal.value.message
    assert refusal.value.hint == "choose another port with --http HOST:PORT"


# Start


def test_a_server_that_is_loading_is_alive_and_not_ready() -> None:
    shelf = Shelf().serve("m", score)
    shelf.may_load.clear()
    server = Server(shelf).start()
    try:
        wait_until(lambda: responds(server), "the listener")
        assert server.get("/health/live").status == 200
        for path in (*READY_ROUTES, "/health/startup", "/v2/models/m/ready"):
            assert server.get(path).status == 503, path
        # 503 and not 404: the model is known, and a caller may try again.
        wait_until(lambda: server.post("/v2/models/m/infer", TENSORS).status == 503, "the model to be known")
        assert server.post("/v1/models/m/predict", {"instances": [ROW]}).headers["retry-after"] == "1"
        assert not server.listening.is_set()
    finally:
        shelf.may_load.set()
    with server:
        for path in (*READY_ROUTES, "/health/startup", "/v2/models/m/ready"):
            assert server.get(path).status == 200, path


def responds(server: Server) -> bool:
    try:
        return server.get("/health/live").status == 200
    except OSError:
        return False


def test_a_model_that_cannot_be_loaded_stops_the_start_and_frees_the_port() -> None:
    def broken() -> Runtime:
        raise CorruptArtifact("the file differs from its manifest", hint="push it again")

    shelf = Shelf().serve("good", score).serve("rotten", broken)
    server = Server(shelf)
    with pytest.raises(CorruptArtifact, match="differs"), server:
        pass
    assert not server.listening.is_set()
    assert [runtime.closed for runtime in shelf.runtimes("good")] == [1]
    with socket.create_server(("127.0.0.1", server.port)):
        pass


# Drain


@pytest.fixture
def shelf() -> Shelf:
    return Shelf().serve("m", score).serve("later", lambda: score(delay=0.4)).serve("gated", GatedRuntime)


@pytest.fixture
def server(shelf: Shelf) -> Iterator[Server]:
    with Server(shelf, runtime={"inline_below_ms": 0.0}) as running:
        yield running
        for runtime in shelf.runtimes("gated"):
            runtime.gate.set()


def test_readiness_falls_first_while_requests_are_still_answered(server: Server) -> None:
    with server.wire() as before:
        assert before.ask(predict_bytes()).status == 200
        server.begin_drain(0.5)
        for path in READY_ROUTES:
            wait_until(lambda path=path: server.get(path).status == 503, path)  # type: ignore[misc]
        assert [server.get(path).status for path in ("/health/live", "/health/startup")] == [200, 200]
        reply = before.ask(predict_bytes())
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert before.closed()
    with server.wire() as new:
        refused = new.ask(predict_bytes(path="/v1/models/nobody/predict"))
        assert (refused.status, refused.headers["connection"]) == (404, "close")
    server.wait_stopped()
    with pytest.raises(ConnectionRefusedError):
        server.wire()


def test_what_is_under_way_is_finished_after_the_listener_has_closed(server: Server, shelf: Shelf) -> None:
    (gated,) = shelf.runtimes("gated")
    with server.wire() as running, server.wire() as awaiting, server.wire() as sending, server.wire() as idle:
        assert idle.ask(predict_bytes()).status == 200
        running.send(predict_bytes(path="/v1/models/gated/predict", row=BLOCKING))
        awaiting.send(predict_bytes(path="/v1/models/later/predict"))
        head, body = predict_bytes().split(b"\r\n\r\n")
        sending.send(head + b"\r\n\r\n" + body[:5])
        wait_until(lambda: server.in_flight() == 3, "three requests under way")
        server.begin_drain()
        wait_until(lambda: not responds(server), "the listener to close")
        assert idle.closed()
        sending.send(body[5:])
        gated.gate.set()
        replies = [wire.reply() for wire in (running, awaiting, sending)]
        assert [reply and reply.status for reply in replies] == [200, 200, 200]
        assert all(reply and reply.headers["connection"] == "close" for reply in replies)
        assert all(wire.closed() for wire in (running, awaiting, sending))
    server.wait_stopped()
    assert [runtime.closed for name in ("m", "later", "gated") for runtime in shelf.runtimes(name)] == [1, 1, 1]
    assert not gated.closed_while_running


def test_a_request_whose_head_has_begun_to_arrive_is_answered_at_the_drain(server: Server) -> None:
    data = predict_bytes()
    with server.wire() as wire:
        wire.send(data[:40])
        time.sleep(0.1)
        server.begin_drain()
        wait_until(lambda: not responds(server), "the listener to close")
        reply = wire.ask(data[40:], "POST")
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert wire.closed()
    server.wait_stopped()


def test_a_second_drain_changes_nothing(server: Server) -> None:
    server.begin_drain(0.2)
    server.begin_drain(60.0)
    server.wait_stopped()


def test_a_drain_ends_in_its_time_although_a_request_does_not() -> None:
    shelf = Shelf().serve("later", lambda: score(delay=60.0))
    with Server(shelf, serving={"drain_delay": 0.0, "drain_timeout": 0.3}) as server, server.wire() as wire:
        wire.send(predict_bytes(path="/v1/models/later/predict"))
        wait_until(lambda: server.in_flight() == 1, "the request to begin")
        began = time.monotonic()
        server.begin_drain()
        server.wait_stopped()
        assert time.monotonic() - began < 5


def test_every_answered_request_is_in_the_records_after_the_drain(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    records = {"file": str(file), "flush_interval": 60.0}
    with Server(Shelf().serve("m", score), records=records) as server, server.wire() as wire:
        for _ in range(20):
            assert wire.ask(predict_bytes()).status == 200
        assert wire.ask(predict_bytes(path="/v1/models/nobody/predict")).status == 404
        assert file.read_text() == ""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["code"] for line in lines] == ["OK"] * 20 + ["NOT_FOUND"]
    assert {(line["model"], line["version"], line["transport"]) for line in lines[:-1]} == {("m", "1.0.0", "rest_v1")}
    assert len({line["request_id"] for line in lines}) == 21


def test_records_are_flushed_while_serving_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    records = {"file": str(file), "flush_interval": 0.02}
    with Server(Shelf().serve("m", score), records=records) as server:
        assert server.post("/v1/models/m/predict", {"instances": [ROW]}).status == 200
        wait_until(lambda: server.metric("ml_records_written_total") == 1, "the flush")
        assert len(file.read_text().splitlines()) == 1


def test_records_that_are_being_written_at_the_drain_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "records.jsonl"
    begun = threading.Event()
    write = JsonLinesSink.write

    def slowly(sink: JsonLinesSink, records: Sequence[InferenceRecord]) -> None:
        if not begun.is_set():
            begun.set()
            time.sleep(0.5)
        write(sink, records)

    monkeypatch.setattr(JsonLinesSink, "write", slowly)
    with Server(Shelf().serve("m", score), records={"file": str(file), "flush_interval": 0.01}) as server:
        assert server.post("/v1/models/m/predict", {"instances": [ROW]}).status == 200
        assert begun.wait(PATIENCE)
        assert server.post("/v1/models/m/predict", {"instances": [ROW]}).status == 200
    assert [json.loads(line)["code"] for line in file.read_text().splitlines()] == ["OK", "OK"]


def test_a_records_file_that_cannot_be_opened_is_said_at_the_start(tmp_path: Path) -> None:
    settings = load_settings(None, {}, {"records": {"file": str(tmp_path / "no" / "folder" / "records.jsonl")}})
    with pytest.raises(KeelwayError, match="records file"):
        App(settings, Shelf())


def test_a_drain_says_nothing_of_errors(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with server.wire() as wire:
        assert wire.ask(predict_bytes()).status == 200
        server.begin_drain()
        server.wait_stopped()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_an_app_can_be_served_on_a_loop_of_the_callers() -> None:
    async def scene() -> list[Addresses]:
        urls: list[Addresses] = []
        app = App(load_settings(None, {}, {"http": {"address": "127.0.0.1:0"}}), Shelf().serve("m", score))
        serving = asyncio.create_task(app.serve(urls.append))
        while not urls:  # noqa: ASYNC110 - the callback knows no event
            await asyncio.sleep(0.005)
        await app.drain(0)
        await serving
        return urls

    (url,) = asyncio.run(scene())
    assert int(url.http.rpartition(":")[2]) > 0


# Signals, on a process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_the_process_in_good_order(number: signal.Signals) -> None:
    with Process(serving={"drain_delay": 0.1}) as process, process.wire() as wire:
        wire.send(predict_bytes(path="/v1/models/later/predict"))
        time.sleep(0.1)
        process.signal(number)
        reply = wire.reply()
        assert reply is not None
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        code, log = process.exit()
    assert code == 0
    assert "ERROR" not in log


def test_sigterm_waits_for_the_load_balancer_and_sigint_does_not() -> None:
    with Process(serving={"drain_delay": 60.0}) as process:
        process.signal(signal.SIGTERM)
        time.sleep(0.3)
        with process.wire() as wire:
            assert wire.ask(request_bytes("GET", "/health/ready")).status == 503
            assert wire.ask(predict_bytes()).status == 200
    with Process(serving={"drain_delay": 60.0}) as process:
        process.signal(signal.SIGINT)
        assert process.exit()[0] == 0


@pytest.mark.parametrize("path", ["/v1/models/gated/predict", "/v1/models/later/predict"])
def test_a_second_signal_does_not_wait_for_a_model(path: str) -> None:
    with Process(runtime={"inline_below_ms": 0.0}) as process, process.wire() as wire:
        wire.send(predict_bytes(path=path, row=BLOCKING))
        time.sleep(0.2)
        process.signal(signal.SIGINT)
        time.sleep(0.2)
        began = time.monotonic()
        process.signal(signal.SIGINT)
        process.exit()
        assert time.monotonic() - began < PATIENCE / 4


def test_a_model_that_never_ends_does_not_outlast_the_drain(tmp_path: Path) -> None:
    """And the records of what was answered are on the disk."""
    file = tmp_path / "records.jsonl"
    limits = {"drain_delay": 0.0, "drain_timeout": 0.3}
    with (
        Process(runtime={"inline_below_ms": 0.0}, serving=limits, records={"file": str(file)}) as process,
        process.wire() as wire,
        process.wire() as stuck,
    ):
        assert wire.ask(predict_bytes()).status == 200
        stuck.send(predict_bytes(path="/v1/models/gated/predict", row=BLOCKING))
        time.sleep(0.2)
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        code, log = process.exit()
        assert time.monotonic() - began < PATIENCE / 4
    assert code == 1
    assert "still running" in log
    assert json.loads(file.read_text().splitlines()[0])["code"] == "OK"


class LastCaller(threading.Thread):
    """Asks without a pause until the server is gone, on one connection as long as that may be reused."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.answered = 0
        #: Requests of which not one byte was answered, and that were refused when they were sent again.
        self.unanswered = 0
        self.wrong: list[object] = []
        self._process = process

    def run(self) -> None:
        try:
            self._ask_until_refused()
        except Exception as error:  # noqa: BLE001 - the test's thread looks at it
            self.wrong.append(error)

    def _ask_until_refused(self) -> None:
        wire: Wire | None = None
        pending = False
        while True:
            try:
                wire = wire or self._process.wire()
            except ConnectionRefusedError:
                self.unanswered += pending
                return
            except ConnectionResetError:
                continue  # taken by the listener while it closed
            pending = True
            try:
                wire.send(predict_bytes())
                reply = wire.reply()
            except (ConnectionResetError, BrokenPipeError):
                reply = None
            if reply is not None:
                pending = False
                self.answered += 1
                if reply.status != 200 or reply.json["predictions"] != [3.0]:
                    self.wrong.append(reply)
            if reply is None or reply.headers.get("connection") == "close":
                wire.close()
                wire = None


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_no_accepted_request_is_lost_when_the_process_is_told_to_stop_under_load(tmp_path: Path, delay: float) -> None:
    """Accepted is what the model was run for: the server's own records say how many that were, and each of them has
    reached its caller. A request that was not accepted got not one byte, on a connection that was closed, and is
    refused when it is sent again: there is nothing a caller could mistake for an answer."""
    file = tmp_path / "records.jsonl"
    with Process(serving={"drain_delay": delay}, records={"file": str(file), "flush_interval": 0.001}) as process:
        callers = [LastCaller(process) for _ in range(8)]
        for caller in callers:
            caller.start()
        time.sleep(0.5)
        process.signal(signal.SIGTERM)
        code, log = process.exit()
        for caller in callers:
            caller.join(PATIENCE)
            assert not caller.is_alive()
    assert (code, "ERROR" in log) == (0, False)
    assert [wrong for caller in callers for wrong in caller.wrong] == []
    answered = sum(caller.answered for caller in callers)
    assert answered > 100
    assert sum(caller.unanswered for caller in callers) <= len(callers)
    accepted = [json.loads(line)["code"] for line in file.read_text().splitlines()]
    assert accepted == ["OK"] * answered


def test_a_process_told_to_stop_while_it_loads_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOW_START", "1")
    with Process(wait=False, serving={"drain_delay": 0.0, "drain_timeout": 0.5}) as process:
        wait_until(lambda: listens(process), "the listener")
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        code, log = process.exit()
        assert time.monotonic() - began < PATIENCE / 4
    assert code == 1
    assert "Traceback" not in log


def listens(process: Process) -> bool:
    try:
        with process.wire() as wire:
            return wire.ask(request_bytes("GET", "/health/ready")).status == 503
    except OSError:
        return False


# The command line


def keelway(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from keelway.cli.main import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_file_is_served_from_the_command_line_until_sigterm() -> None:
    path, _, samples, labels, _ = forest()
    with keelway("serve", str(path), "--http", "127.0.0.1:0") as process:
        try:
            assert process.stdout is not None
            url = next(word for word in process.stdout.readline().split() if word.startswith("http://"))
            reply = ask(f"{url}/predict", "POST", {"instances": samples[::50].tolist()})
            assert (reply.status, reply.json["predictions"]) == (200, labels[::50].tolist())
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE)
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("address", "words"), [("taken", "cannot listen"), ("0.0.0.0:0", "refusing to listen beyond loopback")]
)
def test_a_server_that_may_not_listen_says_so_in_a_line_and_not_in_a_traceback(address: str, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if address == "taken":
            address = f"127.0.0.1:{taken.getsockname()[1]}"
        with keelway("serve", str(forest()[0]), "--http", address) as process:
            output, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (1, "")
    assert words in error
    assert "Traceback" not in error
    assert len(error.splitlines()) <= 3
