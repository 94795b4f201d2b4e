"""Memory of several workers with one large dense model: each with weights of its own, and with shared ones."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models import KEELWAY_COMMAND
from benchmarks.processes import cores, server, weight
from benchmarks.results import Notebook

#: Megabytes of weights in the model that is measured.
MEGABYTES = 500
#: Rows, and columns, of each of its matrices; float32.
WIDTH = 1024
WORKERS = 4
_REQUESTS = 64
_PRICE = re.compile(r"a row takes ([\d.]+) ms, ([\d.]+) ms with weights of its own")


def dense_model(path: Path, megabytes: int) -> None:
    """Write an ONNX model of matrices, one after the other, from ``x`` to ``y``, [rows, ``WIDTH``]."""
    random, last = np.random.default_rng(0), "x"
    nodes, initializers = [], []
    count = megabytes * 2**20 // (WIDTH * WIDTH * 4)
    for layer in range(count):
        weights = random.standard_normal((WIDTH, WIDTH), dtype=np.float32) / np.float32(WIDTH**0.5)
        initializers.append(numpy_helper.from_array(weights, f"w{layer}"))
        following = "y" if layer == count - 1 else f"h{layer}"
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [following]))
        last = following
    tensors = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, WIDTH])] for name in ("x", "y")]
    graph = helper.make_graph(nodes, "dense", *tensors, initializers)
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))


def body() -> bytes:
    """A request of one row for that model."""
    tensor = {"name": "x", "shape": [1, WIDTH], "datatype": "FP32", "data": [1.0] * WIDTH}
    return json.dumps({"inputs": [tensor]}).encode()


def measure(scratch: Path, rounds: int, megabytes: int = MEGABYTES) -> Notebook:
    """``pss`` in MiB of the whole process tree, after some requests, of 1 and of 4 workers, with weights of their own
    and shared; and of the latter ``row`` and ``row_own``, milliseconds of a run of one row, as the server measured."""
    model = scratch / f"dense{megabytes}.onnx"
    if not model.exists():
        dense_model(model, megabytes)
    notebook = Notebook()
    for _ in range(rounds):
        for workers in (1, WORKERS):
            for share in (False, True):
                values = _weighed(model, scratch, workers, share=share)
                notebook.add("workers", f"{workers}, {'shared' if share else 'own'}", **values)
    return notebook


def _weighed(model: Path, scratch: Path, workers: int, *, share: bool) -> dict[str, float]:
    command = [str(KEELWAY_COMMAND), "serve", str(model), "--http", "127.0.0.1:{http}", "--workers", str(workers)]
    environment = {"KEELWAY_RUNTIME_SHARE_WEIGHTS": str(share).lower()}
    with server(command, cores()[0], scratch, environment, _ready) as running:
        url = f"http://127.0.0.1:{running.ports['http']}/v2/models/{model.stem}/infer"
        for _ in range(_REQUESTS):  # over new connections, so that all workers answer some
            with urlopen(Request(url, body(), {"Content-Type": "application/json"}), timeout=60) as reply:
                reply.read()
        found = {"pss": weight(running.process).proportional}
    if share:
        priced = _PRICE.search((scratch / "server.log").read_text())
        if priced is None:
            print("bench: the price of shared weights was not logged", file=sys.stderr)
        else:
            found |= {"row": float(priced[1]), "row_own": float(priced[2])}
    return found


def _ready(ports: Mapping[str, int]) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{ports['http']}/health/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except (URLError, OSError):
        return False
