"""What tests of the server share: models that do as they are told, and a server in a thread or in a process.

``Server`` runs ``keelway.app.App`` on a loopback port of its own; ``Shelf`` is a model source whose wish can be changed
while it runs. The client is in ``tests.wire``.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from tests.wire import BLOCKING, PATIENCE, ROW, TENSORS, Reply, Wire, ask, predict_bytes, request_bytes

from keelway.app import Addresses, App
from keelway.artifacts.manifest import Manifest
from keelway.config import load_settings
from keelway.contract.baseline import Baseline
from keelway.contract.constraints import Policy
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import NotFound
from keelway.hosting.sources import Opened, Release, Wanted
from keelway.ports import KeySource, Runtime, RuntimeOptions
from keelway.runtimes.onnx import OnnxRuntime
from keelway.testing import FakeRuntime
from keelway.types import Array, TensorSpec

SCORE_SIGNATURE = ModelSignature(
    features=(Feature("age", "FP32"), Feature("income", "FP32")),
    inputs=(TensorSpec("input", "FP32", (-1, 2), ("age", "income")),),
    outputs=(TensorSpec("score", "FP32", (-1,)),),
)


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true value of ``condition``, asked again and again. ``AssertionError`` naming ``what`` if late."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"still waiting after {patience} s: {what}")


# Models


def score(offset: float = 0.0, **options: Any) -> FakeRuntime:
    """A runtime of ``SCORE_SIGNATURE``: the sum of a row plus ``offset``. ``options`` are those of ``FakeRuntime``."""
    return FakeRuntime(
        SCORE_SIGNATURE.inputs,
        SCORE_SIGNATURE.outputs,
        lambda inputs: {"score": inputs["input"].sum(axis=1) + np.float32(offset)},
        **options,
    )


class GatedRuntime(FakeRuntime):
    """A synchronous runtime of ``SCORE_SIGNATURE`` for worker threads: a row whose first value is negative waits in
    ``run`` until ``gate`` is opened. ``running`` counts the runs that are inside."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__(SCORE_SIGNATURE.inputs, SCORE_SIGNATURE.outputs, self._wait, thread_safe=True)
        self.gate = threading.Event()
        self.running = 0
        self.finished = 0
        self.closed_while_running = False
        self._offset = offset

    def _wait(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        if float(inputs["input"][0, 0]) < 0:
            self.running += 1
            opened = self.gate.wait(PATIENCE)
            self.running -= 1
            assert opened, "nobody opened the gate"
        self.finished += 1
        return {"score": inputs["input"].sum(axis=1) + np.float32(self._offset)}

    def close(self) -> None:
        self.closed_while_running = self.running > 0
        super().close()


@dataclass
class Item:
    """One version on the shelf. ``opener`` makes its runtime anew at each loading, or raises why it cannot; ``runtime``
    is what its manifest says. Requests share runs of ``onnx`` alone."""

    opener: Callable[[], Runtime]
    signature: ModelSignature = SCORE_SIGNATURE
    policy: Policy = field(default_factory=Policy)
    baseline: Baseline | None = None
    runtime: str = "onnx"

    def release(self, name: str, version: str) -> Release:
        return Release(name, version, f"sha256:{name}-{version}", self.policy, self.baseline)


class Shelf:
    """A ``ModelSource`` of runtimes made by the test. Everything on the shelf can be opened; what is wanted is said by
    ``want``, before the server starts or while it runs."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, str], Item] = {}
        self._wanted: dict[str, Wanted] = {}
        self._followed: dict[str, Wanted] = {}
        self._turn = 0
        self.opened: list[tuple[str, str, Runtime]] = []
        #: Loading waits for it; closed by a test that looks at a server which has not loaded yet.
        self.may_load = threading.Event()
        self.may_load.set()
        self.out_of_reach: Exception | None = None

    def put(self, name: str, version: str, item: Item) -> Shelf:
        self._items[name, version] = item
        return self

    def want(self, name: str, *versions: str, default: str = "", aliases: Mapping[str, str] | None = None) -> Shelf:
        """Want ``versions`` of ``name``; without a ``default`` the first answers. No version: not wanted any more."""
        if versions:
            self._wanted[name] = self._wish(name, versions, default or versions[0], aliases or {})
        else:
            self._wanted.pop(name, None)
        self._turn += 1
        return self

    def serve(self, name: str, runtime: Callable[[], Runtime], signature: ModelSignature = SCORE_SIGNATURE) -> Shelf:
        """Put and want version 1.0.0 of a model."""
        return self.put(name, "1.0.0", Item(runtime, signature)).want(name, "1.0.0", aliases={"champion": "1.0.0"})

    def runtimes(self, name: str) -> list[Any]:
        return [runtime for model, _, runtime in self.opened if model == name]

    # ModelSource

    def token(self) -> object:
        if self.out_of_reach is not None:
            raise self.out_of_reach
        return self._turn

    def wanted(self) -> Sequence[Wanted]:
        return [*self._wanted.values(), *self._followed.values()]

    def open(self, release: Release, options: RuntimeOptions) -> Opened:
        assert self.may_load.wait(PATIENCE)
        item = self._items[release.name, release.version]
        runtime = item.opener()
        self.opened.append((release.name, release.version, runtime))
        return Opened(Manifest((), item.signature, item.runtime), runtime)

    def follow(self, name: str) -> None:
        if name in self._wanted:
            return
        versions = [version for model, version in self._items if model == name]
        if not versions:
            raise NotFound("no such model")
        self._followed[name] = self._wish(name, versions, versions[-1], {})
        self._turn += 1

    def _wish(self, name: str, versions: Sequence[str], default: str, aliases: Mapping[str, str]) -> Wanted:
        releases = [self._items[name, version].release(name, version) for version in versions]
        return Wanted(name, releases, default, aliases)


@cache
def forest() -> tuple[Path, ModelSignature, Array, Array, Array]:
    """A small random forest in ONNX: its file, its signature, and samples with scikit-learn's own labels and
    probabilities."""
    import warnings

    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        samples, labels = load_iris(return_X_y=True)
        samples = samples.astype(np.float32)
        model = RandomForestClassifier(8, max_depth=4, random_state=0).fit(samples, labels)
        kind = [("input", FloatTensorType([None, 4]))]
        onnx = to_onnx(model, initial_types=kind, options={id(model): {"zipmap": False}}, target_opset=18)
    folder = mkdtemp(prefix="keelway-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "forest.onnx"
    path.write_bytes(onnx.SerializeToString())
    names = ("sepal_length", "sepal_width", "petal_length", "petal_width")
    signature = ModelSignature(
        tuple(Feature(name, "FP32") for name in names),
        (TensorSpec("input", "FP32", (-1, 4), names),),
        (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 3))),
        "classification",
        (0, 1, 2),
        "label",
        "probabilities",
    )
    return path, signature, samples, model.predict(samples), model.predict_proba(samples)


def forest_item() -> Item:
    path, signature, *_ = forest()
    return Item(lambda: OnnxRuntime(path, RuntimeOptions()), signature)


# The server


class Server:
    """A server in a thread, for ``with``. ``settings`` are sections of the settings: ``http={"max_rows": 3}``. With
    ``context`` it is asked over TLS."""

    def __init__(
        self,
        source: Any,
        context: ssl.SSLContext | None = None,
        *,
        keys: KeySource | None = None,
        **settings: Mapping[str, Any],
    ) -> None:
        self.port = free_port()
        sections = {
            "registry": {"poll_interval": 0.02},
            "serving": {"drain_delay": 0.0, "drain_timeout": 10.0},
            **settings,
        }
        sections["registry"] = {"poll_interval": 0.02, **settings.get("registry", {})}
        sections["http"] = {"address": f"127.0.0.1:{self.port}", **settings.get("http", {})}
        self.context = context
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self.app = App(load_settings(None, {}, sections), source, keys=keys)
        #: Host and port of gRPC, where ``grpc={"address": "127.0.0.1:0"}`` asks for it and once it is ready.
        self.grpc = ""
        self.error: BaseException | None = None
        self.listening = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="keelway-server")

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self.app.serve(self._heard)

        try:
            uvloop.run(serve())
        except BaseException as error:  # noqa: BLE001 - the test's thread looks at it
            self.error = error

    def _heard(self, addresses: Addresses) -> None:
        self.grpc = addresses.grpc
        self.listening.set()

    def start(self) -> Server:
        """Start without waiting until the models are loaded."""
        self._thread.start()
        return self

    def __enter__(self) -> Server:
        if not self._thread.is_alive():
            self.start()
        try:
            wait_until(lambda: self.listening.is_set() or not self._thread.is_alive(), "the server to load")
            if self.error is not None:
                raise self.error
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.error is not None:
            raise self.error

    def begin_drain(self, delay: float = 0.0) -> None:
        assert self._loop is not None
        # The server may be gone before it could answer: whoever asks wants it gone.
        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(self.app.drain(delay), self._loop)

    def stop(self) -> None:
        if self._thread.is_alive() and self._loop is not None:
            self.begin_drain()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server did not stop"

    def wait_stopped(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server did not stop"

    # Asking it

    def get(self, path: str, **headers: str) -> Reply:
        return ask(self.url + path, "GET", headers=headers, context=self.context)

    def post(self, path: str, document: Any, **headers: str) -> Reply:
        return ask(self.url + path, "POST", document, headers, self.context)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample on the metrics page; the sum where ``labels`` leave several, 0 where none is there."""
        families = text_string_to_metric_families(self.get("/metrics").body.decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def in_flight(self) -> float:
        return self.metric("ml_requests_in_flight")

    def wire(self, timeout: float = PATIENCE) -> Wire:
        return Wire(self.port, timeout, self.context)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]  # type: ignore[no-any-return]


# A server in a process of its own, for what only a process can show: signals and exit codes


class Process:
    """``tests.serving`` as a program, for ``with``: models ``m`` (fast), ``later`` (awaited) and ``gated`` (in a worker
    thread, which a row of ``BLOCKING`` keeps for ``PATIENCE`` seconds). ``wait=False``: before they are loaded."""

    def __init__(self, wait: bool = True, **settings: Mapping[str, Any]) -> None:
        self.port = free_port()
        settings["http"] = {"address": f"127.0.0.1:{self.port}", **settings.get("http", {})}
        self._wait = wait
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving", json.dumps(settings)],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Process:
        if self._wait:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            assert line.startswith("http://"), line + (self._process.communicate()[1] or "")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def running(self) -> bool:
        return self._process.poll() is None

    def exit(self) -> tuple[int, str]:
        """The exit code, once there is one, and what was logged."""
        _, log = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode, log

    def wire(self) -> Wire:
        return Wire(self.port)


def main(settings: str) -> None:
    from keelway.observe.logs import configure

    configure("info", "text")
    shelf = Shelf().serve("m", score).serve("later", lambda: score(delay=0.5)).serve("gated", GatedRuntime)
    if "SLOW_START" in os.environ:
        shelf.may_load.clear()
    App(load_settings(None, {}, json.loads(settings)), shelf).run(lambda addresses: print(*addresses, flush=True))


__all__ = [
    "BLOCKING",
    "PATIENCE",
    "ROW",
    "SCORE_SIGNATURE",
    "TENSORS",
    "GatedRuntime",
    "Item",
    "Process",
    "Reply",
    "Server",
    "Shelf",
    "Wire",
    "ask",
    "forest",
    "forest_item",
    "free_port",
    "predict_bytes",
    "request_bytes",
    "score",
    "wait_until",
]

if __name__ == "__main__":
    main(sys.argv[1])
