"""The server under attack, in a process of its own, and what it can say about itself while it is attacked.

``Attacked`` starts ``python -m tests.hostility.served`` and asks it over its standard input and output, so that the
question needs no connection that an attack could take away. Attacks know only its addresses.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import uvloop
from tests.serving import PATIENCE, GatedRuntime, Item, Shelf, forest, score

from keelway.app import Addresses, App
from keelway.config import load_settings
from keelway.contract.constraints import Constraint, Policy
from keelway.contract.signature import Feature, ModelSignature
from keelway.ports import RuntimeOptions
from keelway.runtimes.onnx import OnnxRuntime
from keelway.testing import FakeRuntime
from keelway.types import Array, TensorSpec

#: Short, so that an attack that waits for its end is over in seconds.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "http": {"header_timeout": 2.0, "body_timeout": 2.0, "max_connections": 600, "max_header_bytes": 16_384},
    "grpc": {"address": "127.0.0.1:0"},
    "limits": {"max_in_flight": 512, "request_timeout": 10.0},
    "runtime": {"inline_below_ms": 0.5},
}

#: Words, whole numbers, truth values, a number that may be missing; categories and a range that somebody declared.
ORDERS = ModelSignature(
    (
        Feature("count", "INT32"),
        Feature("colour", "BYTES"),
        Feature("note", "BYTES"),
        Feature("express", "BOOL"),
        Feature("weight", "FP64", nullable=True),
    ),
    (
        TensorSpec("count", "INT32", (-1,)),
        TensorSpec("colour", "BYTES", (-1,)),
        TensorSpec("note", "BYTES", (-1,)),
        TensorSpec("express", "BOOL", (-1,)),
        TensorSpec("weight", "FP64", (-1,)),
    ),
    (TensorSpec("label", "BYTES", (-1,)), TensorSpec("length", "INT32", (-1,))),
)
ORDERS_POLICY = Policy(3, (Constraint("colour", categories=("red", "green")), Constraint("count", 0, 1000)))
#: No batch axis: one request is one item.
FIXED = ModelSignature(
    (Feature("x", "FP64", shape=(3,)),), (TensorSpec("x", "FP64", (3,)),), (TensorSpec("y", "FP64", (2, 2)),)
)
#: Four bytes in, 16 MB out: far more than the buffers of two sockets hold. Had it a batch axis, a start would try
#: dozens of such rows.
LARGE = ModelSignature(
    (Feature("x", "FP32", shape=(1,)),), (TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1 << 22,)),)
)


def orders(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    words = [text if isinstance(text, str) else text.decode(errors="replace") for text in inputs["note"].tolist()]
    labels = [word[::-1] for word in words]
    return {"label": np.array(labels, dtype=object), "length": np.array([len(word) for word in words], np.int32)}


def fixed(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    x = inputs["x"]
    return {"y": np.array([[x.sum(), x.min()], [x.max(), x.mean()]])}


def large(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    return {"y": np.zeros(1 << 22, np.float32)}


def shelf(model: Path, signature: ModelSignature) -> Shelf:
    """A real forest, an awaited model, one that runs in worker threads, and those of the signatures above."""
    source = Shelf().serve("iris", lambda: OnnxRuntime(model, RuntimeOptions()), signature)
    source.serve("m", score).serve("later", lambda: score(delay=0.02)).serve("gated", GatedRuntime)
    described = {"fixed": (FIXED, fixed), "large": (LARGE, large)}
    for name, (contract, function) in described.items():
        source.serve(name, lambda c=contract, f=function: FakeRuntime(c.inputs, c.outputs, f), contract)
    item = Item(lambda: FakeRuntime(ORDERS.inputs, ORDERS.outputs, orders), ORDERS, ORDERS_POLICY)
    return source.put("orders", "1.0.0", item).want("orders", "1.0.0", aliases={"champion": "1.0.0"})


class State(NamedTuple):
    """What a server process holds: ``memory`` in bytes after the garbage is collected, ``objects`` that the collector
    knows, the rest as counts."""

    tasks: int
    threads: int
    descriptors: int
    objects: int
    memory: int


class Attacked:
    """The server, for ``with``. ``settings`` go over ``SETTINGS``."""

    def __init__(self, **settings: Mapping[str, Any]) -> None:
        path, *_ = forest()
        sections = {name: {**SETTINGS.get(name, {}), **settings.get(name, {})} for name in {*SETTINGS, *settings}}
        sections["http"] = {"address": "127.0.0.1:0", **sections["http"]}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in ``__exit__``
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostility.served", json.dumps([sections, str(path)])],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.url = ""
        #: Host and port of gRPC.
        self.grpc = ""

    def __enter__(self) -> Attacked:
        try:
            addresses = self._say("")
            self.url, self.grpc = addresses["http"], addresses["grpc"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close standard input, at which the server drains. ``AssertionError`` if it does not end well."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        log = self.errors()
        self._log.close()
        assert (code, log) == (0, []), log

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def grpc_port(self) -> int:
        return int(self.grpc.rpartition(":")[2])

    def state(self) -> State:
        return State(*self._say("state\n"))

    def tasks(self) -> list[str]:
        """What the tasks of its event loop are at, for a message."""
        tasks: list[str] = self._say("tasks\n")
        return tasks

    def errors(self) -> list[str]:
        """What was logged as an error, and every line that is no log line: a crash of the interpreter, a warning."""
        self._log.seek(0)
        lines = self._log.read().splitlines()
        return [line for line in lines if not line.startswith("{") or '"level":"error"' in line]

    def _say(self, question: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(question)
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the server is gone: {self.errors()}"
        return json.loads(line)


# The process itself


async def state() -> State:
    await asyncio.sleep(0)
    gc.collect()
    # What the allocator keeps for later is not a leak.
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    process = psutil.Process()
    return State(
        len(asyncio.all_tasks()),
        threading.active_count(),
        process.num_fds(),
        len(gc.get_objects()),
        process.memory_info().rss,
    )


async def tasks() -> list[str]:
    return sorted(repr(task) for task in asyncio.all_tasks())


async def serve(app: App) -> None:
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for line in sys.stdin:
            question = tasks() if line == "tasks\n" else state()
            print(json.dumps(asyncio.run_coroutine_threadsafe(question, loop).result()), flush=True)
        asyncio.run_coroutine_threadsafe(app.drain(0.0), loop)

    def announce(addresses: Addresses) -> None:
        print(json.dumps(addresses._asdict()), flush=True)
        threading.Thread(target=listen, daemon=True).start()

    await app.serve(announce)


def main(argument: str) -> None:
    from keelway.observe.logs import configure

    configure("info", "json")
    sections, path = json.loads(argument)
    uvloop.run(serve(App(load_settings(None, {}, sections), shelf(Path(path), forest_signature()))))


def forest_signature() -> ModelSignature:
    """That of ``tests.serving.forest``, which would train the forest again in this process."""
    names = ("sepal_length", "sepal_width", "petal_length", "petal_width")
    return ModelSignature(
        tuple(Feature(name, "FP32") for name in names),
        (TensorSpec("input", "FP32", (-1, 4), names),),
        (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 3))),
        "classification",
        (0, 1, 2),
        "label",
        "probabilities",
    )


if __name__ == "__main__":
    main(sys.argv[1])
