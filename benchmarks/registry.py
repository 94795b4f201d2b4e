"""``python -m benchmarks.registry``: what the registry costs, each beside the plain way of doing the same, in one run.

*Resolving* a name on the request line is a look into the snapshot; beside it, the same question to the database.
*Storing* a file hashes it, forces it to the disk and makes it appear whole; beside it, a plain copy forced to the disk.
The resident memory of a process that stores is read at its highest. *Listing* ten thousand versions takes three
queries; beside it, three for each model, as a loop over models would ask. ``keelway models --json`` is the same as a
whole process, by the processor's time, which other work on the machine does not lengthen; beside it, a process that
imports SQLAlchemy and ends, as no listing takes less. Python keeps what it has compiled of both, as it does where a
package is installed. It ends with status 1 if a target is missed. It writes no page.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import sqlalchemy as sa

from benchmarks.commands import KEELWAY, Process, in_turns
from keelway.artifacts.blobs import BlobStore
from keelway.clock import SystemClock
from keelway.registry.schema import aliases, models, versions
from keelway.registry.store import Registry
from keelway.routing.snapshot import ServedModel, ServedVersion, ServingSnapshot

MIB = 1024 * 1024
ROUNDS = 5
#: What must hold: seconds to resolve, speed of a copy, growth in bytes, seconds to list and for the whole command.
RESOLVE, SHARE, GROWTH, LIST = 1e-6, 0.5, 64 * MIB, 0.5


class Measured(NamedTuple):
    """``ours`` and the ``plain`` way, in seconds; ``holds`` by the target ``wanted``."""

    what: str
    ours: float
    plain: float
    wanted: str
    holds: bool


def best(work: Callable[[], object], times: int = 1) -> float:
    """Seconds that one of ``times`` calls takes, in the middle one of some rounds."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(times):
            work()
        took.append((time.perf_counter() - began) / times)
    return statistics.median(took)


def resolving(folder: Path) -> Measured:
    registry = Registry.open(f"sqlite:///{folder}/resolving.db", clock=SystemClock())
    served = {}
    for number in range(100):
        registry.push(f"model-{number}", "1.0.0", f"sha256:{number:064x}", who="bench", why="x")
        version = cast("ServedVersion", object())
        served[f"model-{number}"] = ServedModel(f"model-{number}", {"1.0.0": version}, "1.0.0", {"champion": "1.0.0"})
    snapshot = ServingSnapshot(served)
    ways = [partial(snapshot.resolve, "model-42", selector) for selector in (None, "champion", "1.0.0")]
    ours = max(best(way, 100_000) for way in ways)
    plain = best(lambda: registry.resolve("model-42", "champion"), 200)
    registry.close()
    return Measured("resolve a name", ours, plain, "≤ 1 µs", ours <= RESOLVE)


def copied(source: Path, target: Path) -> float:
    """Seconds of a copy of a file, made by the system and forced to the disk."""
    began = time.perf_counter()
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - began


def storing(folder: Path, size: int) -> Measured:
    source = folder / "model.bin"
    with source.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())

    def copy() -> float:
        took = copied(source, folder / "copy")
        (folder / "copy").unlink()
        return took

    def store() -> float:
        blobs = BlobStore.open(folder / "artifacts")
        began = time.perf_counter()
        blobs.put_file(source)
        took = time.perf_counter() - began
        shutil.rmtree(folder / "artifacts")
        return took

    pairs = [(store(), copy()) for _ in range(ROUNDS)]  # in turns: a disk has its moods
    ours, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
    source.unlink()
    return Measured(f"store {size // MIB} MiB", ours, plain, "≥ 0.5 of the copy", plain / ours >= SHARE)


def growth(folder: Path, size: int) -> tuple[int, bool]:
    """Bytes by which the resident memory of a process grows at most while it stores ``size`` bytes."""
    program = f"""
import resource, sys
from pathlib import Path
from keelway.artifacts.blobs import BlobStore
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
store, folder = BlobStore.open(Path(sys.argv[1]) / "artifacts"), Path(sys.argv[1])
for name, size in (("small", 1), ("large", {size})):
    with (folder / name).open("wb") as file:
        file.truncate(size)
store.put_file(folder / "small")
before = peak()
store.put_file(folder / "large")
print(peak() - before)
"""
    command = [sys.executable, "-c", program, str(folder)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return grown, grown <= GROWTH


def listing(folder: Path, count: int) -> tuple[Measured, Process, Process]:
    """The listing of ``count`` versions of a hundredth as many models; ``keelway models --json``; and a process that
    only imports SQLAlchemy."""
    url = f"sqlite:///{folder}/listing.db"
    registry = Registry.open(url, clock=SystemClock())
    names = [f"model-{number}" for number in range(count // 100)]
    of = {"created_at": 0, "created_by": "bench"}
    with registry._engine.begin() as connection:
        connection.execute(models.insert(), [{"name": name, "folded": name, **of} for name in names])
        rows = [
            {"model": name, "version": f"{n // 10 + 1}.{n % 10}.0", "model_digest": f"sha256:{n:064x}", **of}
            for name in names
            for n in range(100)
        ]
        fixed = {"state": "available", "report": {"format": "onnx", "rows": 150}, "metadata": {}}
        connection.execute(versions.insert(), [{**row, **fixed} for row in rows])
        champions = [{"model": name, "alias": "champion", "version": "1.0.0"} for name in names]
        connection.execute(aliases.insert(), champions)
        assert connection.execute(sa.select(sa.func.count()).select_from(versions)).scalar_one() == count

    def one_by_one() -> object:
        return [(registry.versions(model.name), registry.aliases(model.name)) for model in registry.models()]

    ours, plain = best(registry.listing), best(one_by_one)
    registry.close()
    command = [*KEELWAY, "models", "--json", "--store", url]
    whole, floor = in_turns(folder, [command, [sys.executable, "-c", "import sqlalchemy"]], 2 * ROUNDS + 1)
    return Measured(f"list {count:,} versions", ours, plain, "< 0.5 s", ours < LIST), whole, floor


def line(found: Measured) -> str:
    return (
        f"{found.what:<22} {found.ours * 1e6:>12,.2f} µs   the plain way {found.plain * 1e6:>12,.2f} µs   "
        f"{found.plain / found.ours:>10,.2f} ×   wanted {found.wanted}: {'holds' if found.holds else 'MISSED'}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--size", type=int, default=500, help="MiB of the file to store")
    parser.add_argument("--versions", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keelway-bench-") as name:
        folder = Path(name)
        found = [resolving(folder), storing(folder, options.size * MIB)]
        grown, constant = growth(folder, options.size * MIB)
        listed, whole, floor = listing(folder, options.versions)
    print(*map(line, [*found, listed]), sep="\n")
    print(f"memory while storing grows by {grown / MIB:.0f} MiB: {'holds' if constant else 'MISSED'}")
    quick = whole.cpu < LIST
    for what, took in (("keelway models --json, the whole process", whole), ("import sqlalchemy, and end", floor)):
        print(f"{what:<42} {took.cpu:.2f} s of the processor, {took.wall:.2f} s by the clock")
    print(f"wanted of the former < {LIST} s of the processor: {'holds' if quick else 'MISSED'}")
    return 0 if constant and quick and all(one.holds for one in [*found, listed]) else 1


if __name__ == "__main__":
    sys.exit(main())
