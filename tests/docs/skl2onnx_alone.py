"""What skl2onnx by itself would have proved: the figures of docs/adr/0006-own-translators.md.

``python -m tests.docs.skl2onnx_alone`` prints them; it takes some ten minutes. The families, the rows and the
verdict are those of every push (``keelway.publish``); only the converter is another one.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import onnxruntime

from keelway.contract.signature import Feature, pack
from keelway.ports import RuntimeOptions
from keelway.publish.convert import translate
from keelway.publish.convert.graph import NotTranslated, Number
from keelway.publish.families import FAMILIES, Family
from keelway.publish.parity import publish_here
from keelway.publish.proving import micros
from keelway.publish.report import ConversionReport
from keelway.runtimes.onnx import OnnxRuntime
from keelway.types import Array, TensorSpec

#: Seconds for one family. skl2onnx does not come back from a float64 forest with missing values.
LIMIT = 120


def converted(
    estimator: Any, inputs: Sequence[TensorSpec], features: Sequence[Feature], number: Number
) -> translate.Translation:
    """``estimator`` converted as a whole by skl2onnx, its outputs called as keelway calls them. It takes one matrix of
    the datatype of its arithmetic, so of keelway's three attempts the one in the middle does not exist."""
    if len(inputs) != 1 or inputs[0].datatype != number:
        raise NotTranslated("skl2onnx takes one matrix, in the datatype of its arithmetic")
    model = plain(estimator, np.zeros((1, len(features)), np.float32 if number == "FP32" else np.float64))
    graph = model.graph
    scores = "probabilities" if hasattr(estimator, "predict_proba") else "scores"
    public = ["label", scores] if hasattr(estimator, "classes_") else ["prediction"]
    names = {graph.input[0].name: inputs[0].name}
    names |= {output.name: name for output, name in zip(graph.output, public, strict=False)}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        runtime = OnnxRuntime(path, RuntimeOptions())
        outputs = runtime.outputs
        runtime.close()
    return translate.Translation(model, outputs)


def plain(estimator: Any, row: Array) -> Any:
    """skl2onnx's own model of ``estimator``, with tensors as its outputs."""
    from skl2onnx import to_onnx

    return to_onnx(estimator, row, options={"zipmap": False} if hasattr(estimator, "predict_proba") else None)


def published(family: Family, converter: Callable[..., translate.Translation]) -> ConversionReport:
    """The report of a push of ``family`` with ``converter``. ``TimeoutError`` after ``LIMIT`` seconds."""
    estimator, sample = family.trained()
    with TemporaryDirectory() as folder, mock.patch.object(translate, "translate", converter), limited():
        return publish_here(estimator, sample, Path(folder)).report


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Ties(NamedTuple):
    """Rows on which two classes of a forest have the same share, and on how many of them a label differs."""

    trees: int
    smallest_leaf: int
    rows: int
    skl2onnx_one_thread: int
    skl2onnx_two_threads: int
    keelway: int


def ties(trees: int, smallest_leaf: int) -> Ties:
    """A forest of two classes on made-up data, asked 20,000 rows it has not seen."""
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier

    x, y = make_classification(4000, 10, n_informative=6, flip_y=0.2, random_state=0)
    x = x.astype(np.float32)
    forest = RandomForestClassifier(trees, min_samples_leaf=smallest_leaf, random_state=0).fit(x[:1000], y[:1000])
    rows = np.random.default_rng(0).permuted(np.repeat(x[1000:], 7, axis=0)[:20000], axis=0)
    shares = forest.predict_proba(rows)
    rows = rows[np.abs(shares[:, 0] - shares[:, 1]) < 1e-9]
    features = tuple(Feature(f"x{column}", "FP32") for column in range(10))
    own = translate.translate(forest, pack(features), features, "FP32").model
    theirs = plain(forest, rows[:1])
    right = forest.predict(rows)

    def wrong(model: Any, threads: int) -> int:
        return int((labels(model, rows, threads) != right).sum())

    ours = wrong(own, 1) + wrong(own, 2)
    return Ties(trees, smallest_leaf, len(rows), wrong(theirs, 1), wrong(theirs, 2), ours)


def labels(model: Any, rows: Array, threads: int) -> Array:
    session = session_of(model, threads)
    answer: Array = session.run(["label"], {session.get_inputs()[0].name: rows})[0]
    return answer


def session_of(model: Any, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


class Packing(NamedTuple):
    """Median microseconds of a run with one row, on one thread, of a forest behind 85 columns."""

    an_input_each: float
    one_input: float


def packing() -> Packing:
    """The same scaler and forest, converted by skl2onnx with its columns named and with its columns counted."""
    import pandas as pd
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    names = [f"x{column}" for column in range(85)]
    values = random.integers(0, 9, (1000, 85)).astype(np.float32)
    target = values[:, 0] + random.normal(size=1000) > 4
    one = values[:1]

    def fitted(columns: list[Any], rows: Any) -> Any:
        scaler = ColumnTransformer([("scaler", StandardScaler(), columns[:2])], remainder="passthrough")
        return make_pipeline(scaler, RandomForestClassifier(min_samples_leaf=10, random_state=0)).fit(rows, target)

    named = fitted(names, pd.DataFrame(values, columns=names))
    kinds = [(name, FloatTensorType([None, 1])) for name in names]
    many = session_of(convert_sklearn(named, initial_types=kinds, options={id(named): {"zipmap": False}}), 1)
    packed = session_of(plain(fitted([*range(85)], values), one), 1)
    single = {name: one[:, column : column + 1] for column, name in enumerate(names)}
    outputs = ["label", "probabilities"]
    return Packing(micros(lambda: many.run(outputs, single)), micros(lambda: packed.run(outputs, {"X": one})))


def main() -> None:
    for trees, smallest_leaf in ((100, 1), (10, 2)):
        print(ties(trees, smallest_leaf))
    print(packing())
    numeric = [family for family in FAMILIES if not family.data.startswith("mixed")]
    for name, converter in (("keelway", translate.translate), ("skl2onnx", converted)):
        proved = 0
        for family in numeric:
            try:
                report = published(family, converter)
            except TimeoutError:
                print(f"{name}  {family.name}, {family.data}: not done after {LIMIT} s", flush=True)
                continue
            proved += report.format == "onnx"
            tried = "; ".join(f"{attempt.name}: {attempt.reason or 'holds'}" for attempt in report.attempts)
            print(f"{name}  {family.name}, {family.data}: {tried}", flush=True)
        print(f"{name}: {proved} of {len(numeric)} families proved")


if __name__ == "__main__":
    # One thread, as in a push, so that scikit-learn adds in the same order every time.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    warnings.simplefilter("ignore")
    main()
