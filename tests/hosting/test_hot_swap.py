"""Versions that change under load: no request fails, every answer is of the version it names, and a runtime is closed
after its last run and not before. # R6 C1
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from tests.serving import (
    BLOCKING,
    ROW,
    SCORE_SIGNATURE,
    TENSORS,
    GatedRuntime,
    Item,
    Reply,
    Server,
    Shelf,
    predict_bytes,
    request_bytes,
    score,
    wait_until,
)

from keelway.contract.constraints import Constraint, Policy
from keelway.errors import CorruptArtifact
from keelway.ports import Runtime
from keelway.testing import FakeRuntime
from keelway.types import Array

SECONDS = 0.6
VERSIONS = 12


class Watched(FakeRuntime):
    """Answers a row's sum plus 1000 times its version, and notes whatever must not happen to a runtime."""

    def __init__(self, version: int, kind: str, wrongs: list[str]) -> None:
        super().__init__(SCORE_SIGNATURE.inputs, SCORE_SIGNATURE.outputs, lambda inputs: {}, thread_safe=True)
        self._version = version
        self._kind = kind
        self._wrongs = wrongs
        self._running = 0
        self._count = threading.Lock()

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> object:  # type: ignore[override]
        return self._later(inputs) if self._kind == "awaited" else self._run(inputs)

    def _run(self, inputs: Mapping[str, Array]) -> list[Array]:
        self._begin()
        if self._kind == "threads":
            time.sleep(0.002)
        self._end()
        return [inputs["input"].sum(axis=1) + np.float32(1000 * self._version)]

    async def _later(self, inputs: Mapping[str, Array]) -> list[Array]:
        self._begin()
        try:
            await asyncio.sleep(0.002)
        finally:
            self._end()
        return [inputs["input"].sum(axis=1) + np.float32(1000 * self._version)]

    def _begin(self) -> None:
        with self._count:
            self._running += 1
            if self.closed:
                self._wrongs.append(f"version {self._version} was run after it was closed")

    def _end(self) -> None:
        with self._count:
            self._running -= 1

    def close(self) -> None:
        if self._running:
            self._wrongs.append(f"version {self._version} was closed while it ran")
        super().close()


def number(version: str) -> int:
    return int(version.partition(".")[0])


def answered_by(reply: Reply) -> tuple[str, str, list[float]]:
    """Version, digest and scores of a reply of any route."""
    document = reply.json
    if "model_version" in document:
        version, digest = document["model_version"], document.get("model_digest")
        if "outputs" in document:
            digest = document["parameters"]["model_digest"]
            return version, digest, document["outputs"][0]["data"]
        return version, digest, document["predictions"]
    return reply.headers["keelway-model-version"], reply.headers["keelway-model-digest"], document["predictions"]


REQUESTS = [
    predict_bytes(),
    predict_bytes(path="/v1/models/m:predict"),
    predict_bytes(path="/v1/models/m/versions/champion/predict"),
    request_bytes("POST", "/v2/models/m/infer", str(TENSORS).replace("'", '"').encode()),
]


def ask(server: Server) -> dict[str, object]:
    return server.post("/v1/models/m/predict", {"instances": [ROW]}).json  # type: ignore[no-any-return]


class Caller(threading.Thread):
    """Asks on one connection until told to stop, and notes every answer that is not right."""

    def __init__(self, server: Server, request: bytes, stop: threading.Event) -> None:
        super().__init__()
        self.wrong: list[object] = []
        self.versions: list[int] = []
        self._server = server
        self._request = request
        self._stop_asking = stop

    def run(self) -> None:
        try:
            with self._server.wire() as wire:
                while not self._stop_asking.is_set():
                    self._check(wire.ask(self._request))
        except Exception as error:  # noqa: BLE001 - the test's thread looks at it
            self.wrong.append(error)

    def _check(self, reply: Reply) -> None:
        if reply.status != 200:
            self.wrong.append(reply)
            return
        version, digest, scores = answered_by(reply)
        if digest != f"sha256:m-{version}" or scores != [3.0 + 1000 * number(version)]:
            self.wrong.append(reply)
        self.versions.append(number(version))


@pytest.mark.parametrize("kind", ["inline", "threads", "awaited"])
def test_versions_change_under_load_without_a_wrong_answer(kind: str) -> None:
    wrongs: list[str] = []
    shelf = Shelf()

    def opener(version: int) -> Callable[[], Runtime]:
        return lambda: Watched(version, kind, wrongs)  # type: ignore[return-value]

    for version in range(1, VERSIONS + 1):
        shelf.put("m", f"{version}.0.0", Item(opener(version)))
    shelf.want("m", "1.0.0", aliases={"champion": "1.0.0"})
    inline = {"inline_below_ms": 1000.0 if kind == "inline" else 0.0}
    with Server(shelf, runtime=inline) as server:
        stop = threading.Event()
        callers = [Caller(server, request, stop) for request in REQUESTS]
        for caller in callers:
            caller.start()
        for version in range(2, VERSIONS + 1):
            time.sleep(SECONDS / VERSIONS)
            shelf.want("m", f"{version}.0.0", aliases={"champion": f"{version}.0.0"})
        wait_until(
            lambda: all(VERSIONS in caller.versions for caller in callers) or any(c.wrong for c in callers), kind
        )
        stop.set()
        for caller in callers:
            caller.join()
        assert [wrong for caller in callers for wrong in caller.wrong] == []
        # A server that is busy looks less often than versions change, and passes over some of them.
        wait_until(
            lambda: sum(runtime.closed for runtime in shelf.runtimes("m")) >= len(shelf.runtimes("m")) - 1,
            "old versions to close",
        )
        assert server.metric("ml_requests_total", code="OK") == sum(len(caller.versions) for caller in callers)
    for caller in callers:
        assert caller.versions == sorted(caller.versions), "a caller was answered by an older version than before"
        assert len(set(caller.versions)) > 2
    assert wrongs == []
    assert [runtime.closed for runtime in shelf.runtimes("m")] == [1] * len(shelf.runtimes("m"))


@pytest.mark.parametrize("kind", ["inline", "threads", "awaited"])
def test_policies_change_under_load_without_a_wrong_answer_and_without_loading(kind: str) -> None:
    # V1: what is clipped, the revision that is named and the tag are of one policy.
    wrongs: list[str] = []
    wrong: list[object] = []
    seen: list[list[int]] = []
    shelf = Shelf()
    stop = threading.Event()

    def declare(revision: int) -> None:
        policy = Policy(revision, (Constraint("age", minimum=revision, on_violation="clip"),))
        shelf.put("m", "1.0.0", Item(lambda: Watched(0, kind, wrongs), policy=policy)).want("m", "1.0.0")  # type: ignore[arg-type, return-value]

    def call(revisions: list[int]) -> None:
        try:
            with server.wire() as wire:
                while not stop.is_set():
                    reply = wire.ask(predict_bytes())
                    document = reply.json
                    revision = document["policy_revision"]
                    revisions.append(revision)
                    flags = ["clipped:age"] if revision > 1 else []
                    if (document["predictions"], document.get("flags", [])) != ([revision + 2.0], flags):
                        wrong.append(document)
        except Exception as error:  # noqa: BLE001 - the test's thread looks at it
            wrong.append(error)

    declare(1)
    inline = {"inline_below_ms": 1000.0 if kind == "inline" else 0.0}
    with Server(shelf, runtime=inline) as server:
        callers = []
        for _ in range(4):
            seen.append([])
            callers.append(threading.Thread(target=call, args=(seen[-1],)))
            callers[-1].start()
        for revision in range(2, VERSIONS + 1):
            time.sleep(SECONDS / VERSIONS)
            declare(revision)
        wait_until(lambda: all(VERSIONS in revisions for revisions in seen) or wrong, kind)
        stop.set()
        for caller in callers:
            caller.join()
        assert wrong == []
        assert [runtime.closed for runtime in shelf.runtimes("m")] == [0]
        assert server.metric("ml_model_load_seconds_count") == 1
    assert all(revisions == sorted(revisions) and len(set(revisions)) > 2 for revisions in seen)
    assert wrongs == []
    assert [runtime.closed for runtime in shelf.runtimes("m")] == [1]


def test_a_run_in_a_worker_thread_is_finished_by_the_version_that_began_it() -> None:
    shelf = Shelf().put("m", "1.0.0", Item(lambda: GatedRuntime(1000))).put("m", "2.0.0", Item(lambda: score(2000)))
    shelf.want("m", "1.0.0")
    with Server(shelf, runtime={"inline_below_ms": 0.0}) as server, server.wire() as patient:
        (old,) = shelf.runtimes("m")
        patient.send(predict_bytes(row=BLOCKING))
        wait_until(lambda: old.running == 1, "the run to begin")
        shelf.want("m", "2.0.0")
        wait_until(
            lambda: server.post("/v1/models/m/predict", {"instances": [ROW]}).json["predictions"] == [2003.0],
            "version 2",
        )
        assert old.closed == 0
        old.gate.set()
        reply = patient.reply()
        assert reply is not None
        assert (reply.json["model_version"], reply.json["predictions"]) == ("1.0.0", [999.0])
        wait_until(lambda: old.closed == 1, "the old version to be closed")
        assert not old.closed_while_running


def test_a_run_whose_caller_has_left_is_not_cut_off_either() -> None:
    """A thread cannot be stopped: the runtime below it must outlive the request."""
    shelf = Shelf().put("m", "1.0.0", Item(GatedRuntime)).put("m", "2.0.0", Item(score)).want("m", "1.0.0")
    with Server(shelf, runtime={"inline_below_ms": 0.0}) as server:
        (old,) = shelf.runtimes("m")
        with server.wire() as impatient:
            impatient.send(predict_bytes(row=BLOCKING))
            wait_until(lambda: old.running == 1, "the run to begin")
        wait_until(lambda: server.in_flight() == 0, "the caller's leaving to be noticed")
        shelf.want("m", "2.0.0")
        wait_until(
            lambda: server.post("/v1/models/m/predict", {"instances": [ROW]}).json["model_version"] == "2.0.0", "2"
        )
        time.sleep(0.1)
        assert old.closed == 0
        old.gate.set()
        wait_until(lambda: old.closed == 1, "the old version to be closed")
        assert not old.closed_while_running


def test_a_new_version_that_cannot_be_loaded_leaves_the_old_one_answering_and_says_why() -> None:
    def broken() -> Runtime:
        raise CorruptArtifact("the file differs from its manifest")

    shelf = Shelf().put("m", "1.0.0", Item(score)).put("m", "2.0.0", Item(broken)).want("m", "1.0.0")
    with Server(shelf) as server:
        shelf.want("m", "2.0.0", aliases={"champion": "2.0.0"})
        entry = wait_until(
            lambda: next(
                (entry for entry in server.post("/v2/repository/index", {}).json if "differs" in entry["reason"]), None
            ),
            "the failure in the index",
        )
        assert (entry["version"], entry["state"]) == ("2.0.0", "UNAVAILABLE")
        assert ask(server)["model_version"] == "1.0.0"
        assert server.get("/health/ready").status == 200
        assert server.get("/v2/models/m").json["versions"] == ["1.0.0"]


def test_a_model_that_is_no_longer_wanted_is_gone() -> None:
    shelf = Shelf().serve("m", score).serve("other", score)
    with Server(shelf) as server:
        shelf.want("m")
        wait_until(lambda: server.post("/v1/models/m/predict", {"instances": [ROW]}).status == 404, "the model to go")
        wait_until(lambda: shelf.runtimes("m")[0].closed == 1, "its runtime to be closed")
        assert server.post("/v1/models/other/predict", {"instances": [ROW]}).status == 200
        assert server.get("/health/ready").status == 200
