"""``python -m benchmarks.pushing``: a whole ``keelway push`` of a large ONNX file, beside a copy forced to the disk.

The copy does less: a push starts Python, loads libraries, and hashes. With a sample ONNX Runtime also runs the model,
what is stored is read back, verified and asked for a golden sample. "Its weights" is the copy beside what they add to a
push of a model of two numbers, ``+`` what they add to its largest process. It writes no page, and judges nothing:
``benchmarks.registry`` does, of the storing alone.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tarfile
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.commands import KEELWAY, Process, median, run
from benchmarks.registry import copied

MIB = 1024 * 1024
ROUNDS = 3
_WIDE = 2048  # a matrix of so many rows and columns has 16 MiB


class Pushed(NamedTuple):
    """``ours`` is the push, ``copy`` the copy of as many bytes, ``small`` the push of next to nothing."""

    what: str
    ours: Process
    copy: float
    small: Process


def network(path: Path, layers: int, *, beside: bool) -> Path:
    """``layers`` of 16 MiB each, of four features; ``beside``: as external data."""
    random = np.random.default_rng(0)
    shapes = [(4, _WIDE), *[(_WIDE, _WIDE)] * layers, (_WIDE, 1)] if layers else [(4, 1)]
    weights = [random.standard_normal(shape, np.float32) / np.float32(64) for shape in shapes]
    nodes = [
        helper.make_node("MatMul", [f"x{at}" if at else "x", f"w{at}"], [f"x{at + 1}"]) for at in range(len(shapes))
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info(f"x{len(shapes)}", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(array, f"w{at}") for at, array in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.parent.mkdir()
    onnx.save(model, path, save_as_external_data=beside, location="model.onnx.data" if beside else None)
    return path


def all_copied(source: Path, target: Path) -> float:
    """Seconds of a copy of every file in the folder ``source``."""
    target.mkdir()
    took = sum(copied(path, target / path.name) for path in source.iterdir())
    shutil.rmtree(target)
    return took


def measured(folder: Path, layers: int, rounds: int = ROUNDS) -> list[Pushed]:
    sample = folder / "sample.csv"
    rows = np.random.default_rng(1).standard_normal((300, 4))
    np.savetxt(sample, rows, delimiter=",", header="a,b,c,d", comments="")
    # A process begins with the memory of the one that starts it, as the system counts its highest: this stays small.
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        small = apart.submit(network, folder / "small" / "model.onnx", 0, beside=False).result()
        inside = apart.submit(network, folder / "inside" / "model.onnx", layers, beside=False).result()
        beside = apart.submit(network, folder / "beside" / "model.onnx", layers, beside=True).result()
    archive = folder / "archive" / "model.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as packed:
        for path in sorted(beside.parent.iterdir()):
            packed.add(path, path.name)

    def push(file: Path, *more: str) -> Process:
        for left in (folder / ".keelway", folder / "copy"):
            shutil.rmtree(left, ignore_errors=True)
        return run([*KEELWAY, "push", "network", str(file), *more], folder)

    push(small)  # compiles
    found = []
    for what, file, more in (
        ("weights as external data", beside, ()),
        ("weights in the file", inside, ()),
        ("external data, and a sample", beside, ("--sample", str(sample))),
        ("an archive of both files", archive, ()),
    ):
        pairs = [
            (push(file, *more), all_copied(file.parent, folder / "copy"), push(small, *more)) for _ in range(rounds)
        ]
        ours, copies, next_to_nothing = zip(*pairs, strict=True)
        found.append(Pushed(what, median(ours), statistics.median(copies), median(next_to_nothing)))
    return found


def line(found: Pushed) -> str:
    ours, small = found.ours, found.small
    return (
        f"{found.what:<28} {ours.wall:6.2f} s, a model of two numbers {small.wall:4.2f} s, a copy {found.copy:4.2f} s: "
        f"{found.copy / ours.wall:4.2f} ×, its weights {found.copy / (ours.wall - small.wall):4.2f} ×   "
        f"memory {ours.peak / MIB:5,.0f} MiB, + {(ours.peak - small.peak) / MIB:,.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--size", type=int, default=512, help="MiB of weights, a multiple of 16")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keelway-bench-") as name:
        print(*map(line, measured(Path(name), options.size // 16)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
