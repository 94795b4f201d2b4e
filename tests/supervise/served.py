"""``keelway serve --workers`` as a process over a registry of its own, and models that say which worker answered.

The model ``m`` is Python: it answers ``score``, the sum of a row plus a thousand times its version, and ``pid``. A row
whose first value is negative takes that many seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families
from tests.serving import PATIENCE, SCORE_SIGNATURE, wait_until
from tests.wire import Reply, Wire, ask, predict_bytes

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import put_manifest, store_folder
from keelway.clock import SystemClock
from keelway.contract.signature import ModelSignature
from keelway.registry.store import Registry
from keelway.types import TensorSpec

COMMAND = Path(sys.executable).with_name("keelway")
WHO = {"who": "ada", "why": "a test"}
SIGNATURE = ModelSignature(
    SCORE_SIGNATURE.features,
    SCORE_SIGNATURE.inputs,
    (TensorSpec("score", "FP32", (-1,)), TensorSpec("pid", "INT64", (-1,))),
)
CODE = """
import os, pathlib, time
import numpy as np

class Model:
    thread_safe = True

    def load(self, folder):
        {load}

    def predict(self, inputs):
        x = inputs["input"]
        if x[0, 0] < 0:
            time.sleep(-float(x[0, 0]))
        pid = np.full(len(x), os.getpid(), dtype=np.int64)
        return {{"score": x.sum(axis=1) + np.float32({offset}), "pid": pid}}
"""
#: Starting several processes takes its time on a busy machine.
START = 60.0


class Shop:
    """A registry and its artifacts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = f"sqlite:///{folder}/registry.db"
        self._blobs = BlobStore.open(folder / "artifacts")
        #: Digests of the Python models, which a server has to allow.
        self.digests: list[str] = []
        with self.registry():
            pass

    @contextlib.contextmanager
    def registry(self) -> Iterator[Registry]:
        with closing(Registry.open(self.store, clock=SystemClock())) as registry:
            yield registry

    def push(self, version: str, load: str = "pass", name: str = "m") -> str:
        """A version of the model; ``load`` is the code that it runs when it is loaded."""
        source = self.folder / f"{name}-{version}"
        source.mkdir()
        offset = 1000 * int(version.partition(".")[0])
        (source / "model.py").write_text(CODE.format(load=load, offset=offset))
        tensors = {"inputs": SIGNATURE.inputs, "outputs": SIGNATURE.outputs}
        options: dict[str, Any] = {name: [spec_document(spec) for spec in specs] for name, specs in tensors.items()}
        options |= {"module": "model.py", "class": "Model"}
        self.digests.append(
            self.register(version, Manifest(store_folder(self._blobs, source), SIGNATURE, "python", options), name)
        )
        return self.digests[-1]

    def push_onnx(self, version: str, folder: Path, signature: ModelSignature, name: str) -> str:
        return self.push_folder(version, folder, signature, name, "onnx")

    def push_folder(
        self,
        version: str,
        folder: Path,
        signature: ModelSignature,
        name: str,
        runtime: str,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """A version of any kind; the digest. ``options`` are those of its runtime."""
        return self.register(
            version, Manifest(store_folder(self._blobs, folder), signature, runtime, dict(options or {})), name
        )

    def register(self, version: str, manifest: Manifest, name: str) -> str:
        digest = put_manifest(self._blobs, manifest)
        with self.registry() as registry:
            registry.push(name, version, digest, **WHO)
        return digest

    def promote(self, version: str, name: str = "m", alias: str = "champion") -> None:
        with self.registry() as registry:
            registry.set_alias(name, alias, version, **WHO)

    def served(self, *options: str, workers: int = 3, model: str = "m", **settings: Mapping[str, Any]) -> Served:
        """A server of it, for ``with``."""
        return Served(self, [model], options, workers, settings)


def spec_document(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape), "columns": list(spec.columns)}


class Served:
    """The server as a process. ``with`` waits until it serves; the log is read all the time. It is asked over TLS where
    ``context`` is set."""

    context: ssl.SSLContext | None = None

    def __init__(
        self,
        shop: Shop,
        models: Sequence[str],
        options: Sequence[str],
        workers: int,
        settings: Mapping[str, Any],
        name: str = "keelway",
    ) -> None:
        self._shop = shop
        sections = {
            "registry": {"store": shop.store, "artifacts": str(shop.folder / "artifacts"), "poll_interval": 0.2},
            "http": {"address": "127.0.0.1:0"},
            "runtime": {"allowed_python": shop.digests},
            "logs": {"format": "json"},
        }
        for section, values in {"serving": {"drain_delay": 0.2, "drain_timeout": 10.0}, **settings}.items():
            sections[section] = {**sections.get(section, {}), **values}
        self.config = shop.folder / f"{name}.toml"
        self.write(sections)
        self._command = [
            str(COMMAND),
            "serve",
            *models,
            "--config",
            str(self.config),
            "--workers",
            str(workers),
            *options,
        ]
        self.lines: list[dict[str, Any]] = []
        self.url = self.grpc = ""
        self._seen: dict[int, psutil.Process] = {}

    def write(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the settings file anew."""
        tables = [
            f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
            for section, values in sections.items()
        ]
        self.config.write_text("\n".join(tables))
        self.sections = {section: dict(values) for section, values in sections.items()}

    def start(self) -> Served:
        """Start without waiting until it serves."""
        self.process = subprocess.Popen(
            self._command, cwd=self._shop.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __enter__(self) -> Served:
        self.start()
        assert self.process.stdout is not None
        try:
            line = self.process.stdout.readline()
            assert line, f"it does not serve: {self.lines}"
        except BaseException:  # Ctrl-C among them
            self.__exit__()
            raise
        words = line.split()
        self.url = words[words.index("at") + 1]
        self.grpc = next((word.partition("://")[2] for word in words if word.startswith("grpc")), "")
        self.port = int(self.url.rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        if self.running():
            self.workers()
        self.process.kill()
        self.process.wait()
        for worker in self._seen.values():  # a supervisor that has died may have left them
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                try:
                    self.lines.append(json.loads(line))
                except json.JSONDecodeError:
                    self.lines.append({"message": line.rstrip()})

    def running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit(self, patience: float = PATIENCE) -> int:
        return self.process.wait(patience)

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        found = [child for child in children if _is_worker(child)]
        self._seen |= {worker.pid: worker for worker in found}
        return found

    def pids(self) -> set[int]:
        return {worker.pid for worker in self.workers()}

    def said(self, part: str) -> bool:
        return any(part in line["message"] for line in self.lines)

    # Asking it

    def wire(self) -> Wire:
        return Wire(self.port, context=self.context)

    def get(self, path: str) -> Reply:
        return ask(self.url + path, "GET", context=self.context)

    def metric(self, name: str, **labels: str) -> float:
        return read_metric(self.get("/metrics").body.decode(), name, **labels)

    def answers(self, count: int = 12, model: str = "m") -> list[dict[str, Any]]:
        """Answers over as many new connections, open at the same time: every worker has some of them."""
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(self.wire()) for _ in range(count)]
            return [wire.ask(predict_bytes(path=f"/v1/models/{model}/predict")).json for wire in wires]


def read_metric(page: str, name: str, **labels: str) -> float:
    """The sum of the samples; 0 where there is none."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


def pid_of(answer: Mapping[str, Any]) -> int:
    return int(answer["predictions"][0]["pid"])


def score_of(answer: Mapping[str, Any]) -> float:
    return float(answer["predictions"][0]["score"])


@dataclass
class Caller(threading.Thread):
    """Asks on one connection until told to stop, and opens a new one when the server has closed it in good order.
    ``broken`` counts the connections that ended without an answer, ``wrong`` holds every answer that is not right."""

    served: Served
    stop: threading.Event
    pause: float = 0.0
    right: int = 0
    broken: list[str] = field(default_factory=list)
    wrong: list[object] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)
    versions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                with self.served.wire() as wire:
                    while not self.stop.is_set() and self._asked(wire):
                        time.sleep(self.pause)
            except (OSError, AssertionError, ValueError) as error:
                self.broken.append(repr(error))

    def _asked(self, wire: Wire) -> bool:
        """Whether the connection may be used again."""
        reply = wire.ask(predict_bytes())
        if reply.status != 200:
            self.wrong.append(reply)
            return True
        version = reply.json["model_version"]
        if score_of(reply.json) != 3.0 + 1000 * int(version.partition(".")[0]):
            self.wrong.append(reply)
        self.right += 1
        self.pids.add(pid_of(reply.json))
        self.versions.append(version)
        return reply.headers.get("connection") != "close"


@contextlib.contextmanager
def load(served: Served, callers: int = 6, pause: float = 0.0) -> Iterator[list[Caller]]:
    """``callers`` that ask for the length of the block."""
    stop = threading.Event()
    asking = [Caller(served, stop, pause) for _ in range(callers)]
    for caller in asking:
        caller.start()
    try:
        yield asking
    finally:
        stop.set()
        for caller in asking:
            caller.join()


def gone(pid: int) -> bool:
    """Whether there is no such process any more, or only what nobody has waited for yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_workers(served: Served, count: int, patience: float = START) -> set[int]:
    """The processes, once as many are serving."""
    wait_until(lambda: served.metric("ml_workers", state="ready") == count, f"{count} workers", patience)
    return served.pids()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is a worker, alive: one that has just ended has no command line any more."""
    try:
        return "keelway.supervise.worker" in process.cmdline()
    except psutil.NoSuchProcess:
        return False
