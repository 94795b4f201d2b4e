"""A registry that goes away under a server, and comes back: what is loaded is served, that is said, and what was
promoted meanwhile goes live. And a thousand promotions under load. # S4 S6 R6
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.hosting.test_registered import ROWS, WHO, source, version
from tests.postgresql import PostgreSQL
from tests.serving import Server, forest, predict_bytes, wait_until

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import put_manifest, store_folder
from keelway.clock import SystemClock
from keelway.errors import Unavailable
from keelway.registry import database
from keelway.registry.store import Registry

FLOWER = predict_bytes(path="/v1/models/iris/predict", row=ROWS["instances"][0])


@pytest.fixture(scope="module")
def server_of_databases() -> Iterator[PostgreSQL]:
    with PostgreSQL() as own:
        yield own


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    databases: PostgreSQL = request.getfixturevalue("server_of_databases")
    return databases.new_database()


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    with closing(Registry.open(url, clock=SystemClock())) as opened:
        yield opened


@pytest.fixture
def blobs(registry: Registry, tmp_path: Path) -> BlobStore:
    """With versions 1.0.0, the champion, and 1.1.0 of ``iris``."""
    store = BlobStore.open(tmp_path / "artifacts")
    path, signature, *_ = forest()
    for name in ("1.0.0", "1.1.0"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(path, folder / "model.onnx")
        (folder / "version.txt").write_text(name)
        registry.push(
            "iris", name, put_manifest(store, Manifest(store_folder(store, folder), signature, "onnx")), **WHO
        )
    return store


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("fault", ["killed", "stopped"])
def test_a_registry_that_goes_away_is_said_and_what_is_loaded_is_served(
    server_of_databases: PostgreSQL,
    registry: Registry,
    blobs: BlobStore,
    fault: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 1.0)
    caplog.set_level(logging.INFO, "keelway.hosting")
    with Server(source(registry, blobs, "iris")) as server:
        assert (server.get("/health/ready").json, server.metric("ml_source_up")) == ({"ready": True, "stale": False}, 1)
        server_of_databases.kill() if fault == "killed" else server_of_databases.stop_answering()
        try:
            wait_until(lambda: server.metric("ml_source_up") == 0, "the server to notice")
            ready = server.get("/health/ready")
            assert (ready.status, ready.json) == (200, {"ready": True, "stale": True})
            began = time.monotonic()
            assert [version(server) for _ in range(20)] == ["1.0.0"] * 20
            assert time.monotonic() - began < 5
        finally:
            server_of_databases.start() if fault == "killed" else server_of_databases.answer_again()
        registry.set_alias("iris", "champion", "1.1.0", **WHO)
        wait_until(lambda: version(server) == "1.1.0", "the server to follow again")
        wait_until(lambda: not server.get("/health/ready").json["stale"], "the server to say so")
        assert server.metric("ml_source_up") == 1
        wait_until(lambda: "the registry can be read again" in caplog.messages, "the log to say so")
    said = [message.partition(";")[0] for message in caplog.messages if "registry" in message]
    assert said == ["the registry cannot be read", "the registry can be read again"]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_registry_out_of_reach_at_the_start_is_an_error_that_says_what_to_look_at(
    server_of_databases: PostgreSQL, url: str
) -> None:
    server_of_databases.kill()
    try:
        with pytest.raises(Unavailable) as refusal:
            Registry.open(url, clock=SystemClock())
        assert "address" in str(refusal.value.hint)
    finally:
        server_of_databases.start()


def test_an_artifact_store_that_is_away_leaves_the_version_before_in_place(
    registry: Registry, blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keelway.hosting.fleet.RETRY_AFTER", 0.2)
    with Server(source(registry, blobs, "iris")) as server:
        (tmp_path / "artifacts").rename(tmp_path / "away")
        registry.set_alias("iris", "champion", "1.1.0", **WHO)
        wait_until(lambda: server.app._fleet._failures, "the load to fail")
        assert (version(server), server.get("/health/ready").status) == ("1.0.0", 200)
        (tmp_path / "away").rename(tmp_path / "artifacts")
        wait_until(lambda: version(server) == "1.1.0", "the store to be found again")


class Caller(threading.Thread):
    """Asks on one connection until told to stop."""

    def __init__(self, server: Server, digests: dict[str, str], stop: Callable[[], bool]) -> None:
        super().__init__()
        self.answers = 0
        self.wrong: list[object] = []
        self._server, self._digests, self._told_to_stop = server, digests, stop

    def run(self) -> None:
        try:
            with self._server.wire() as wire:
                while not self._told_to_stop():
                    reply = wire.ask(FLOWER)
                    self.answers += 1
                    if reply.status != 200 or self._digests[reply.json["model_version"]] != reply.json["model_digest"]:
                        self.wrong.append(reply)
        except Exception as error:  # noqa: BLE001 - the test's thread looks at it
            self.wrong.append(error)


@pytest.mark.slow
def test_a_thousand_promotions_under_load_lose_no_request_and_each_is_live_within_two_seconds(
    registry: Registry, blobs: BlobStore
) -> None:
    digests = {known.version: known.model_digest for known in registry.versions("iris")}
    for alias, target in (("blue", "1.0.0"), ("green", "1.1.0")):
        registry.set_alias("iris", alias, target, **WHO)  # both stay loaded: what is timed is the following
    done = threading.Event()
    slowest = 0.0
    # As it comes: the server looks once a second.
    with Server(source(registry, blobs, "iris"), registry={"poll_interval": 1.0}) as server:
        callers = [Caller(server, digests, done.is_set) for _ in range(4)]
        for caller in callers:
            caller.start()
        try:
            for number in range(1, 1001):
                target = ("1.0.0", "1.1.0")[number % 2]
                registry.set_alias("iris", "champion", target, **WHO)
                if number % 25 == 0:
                    began = time.monotonic()
                    wait_until(lambda target=target: version(server) == target, "the promotion")
                    slowest = max(slowest, time.monotonic() - began)
        finally:
            done.set()
            for caller in callers:
                caller.join(60)
        assert [caller.wrong for caller in callers] == [[]] * 4
        assert all(caller.answers > 1000 for caller in callers)
        assert slowest < 2.0
        assert server.metric("ml_requests_total", code="OK") >= sum(caller.answers for caller in callers)
    assert registry.audit().findings == ()
