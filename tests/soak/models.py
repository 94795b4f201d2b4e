"""The models of a soak and what they have to answer: each is asked here, row by row, without any server.

``Subject`` is one served model with rows to ask it, ``Question`` one request drawn from them. Two versions of the
forest answer every row differently, so that an answer tells which version it is from.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tests.supervise.served import Shop, spec_document

from keelway.contract.signature import Feature, ModelSignature
from keelway.types import Array, TensorSpec

FOREST, SLOW, SKOPS, PICTURES = "forest", "slow", "logistic", "pictures"
VERSIONS = ("1.0.0", "2.0.0")
NAMES = ("a", "b", "c", "d")
#: First values of rows that the slow model refuses (400) and at which it breaks (500).
REFUSED, BROKEN = -1.0, -2.0
MOST_ROWS = 32
_ROWS = 400
_POPULAR = 20
_OPSET, _IR = 18, 9
_FEATURES = tuple(Feature(name, "FP32") for name in NAMES)
_INPUT = TensorSpec("input", "FP32", (-1, 4), NAMES)
_SLOW = """
import time
import numpy as np
from keelway.errors import InvalidInput

class Model:
    thread_safe = True

    def predict(self, inputs):
        rows = inputs["input"]
        time.sleep(0.002 + 0.0002 * len(rows))
        if (rows[:, 0] == {refused}).any():
            raise InvalidInput("a guilty row")
        if (rows[:, 0] == {broken}).any():
            raise ValueError("a row that breaks the model")
        return {{"total": rows @ np.array([1, 10, 100, 1000], np.float32)}}
"""


@dataclass(frozen=True)
class Pool:
    """Rows of one shape, [n, ...], and by version what the model answers to each, by output: [n, ...]."""

    rows: Array
    answers: Mapping[str, Mapping[str, Array]]


@dataclass(frozen=True)
class Subject:
    """``tensor`` is its input, of ``datatype``. ``label`` and ``probabilities`` are outputs that people's answers name
    otherwise; without a label they are the rows of the only output. ``has_rows``: people may ask it by columns."""

    name: str
    tensor: str
    datatype: str
    pools: Sequence[Pool]
    label: str = ""
    has_rows: bool = True


@dataclass(frozen=True)
class Question:
    """``places`` are rows of ``pool``; ``guilty`` stands in the first column of the row at ``spoilt``, 0: no row is."""

    subject: Subject
    pool: Pool
    places: Sequence[int]
    guilty: float = 0.0
    spoilt: int = 0
    deadline: float | None = None
    batch: bool = False

    @property
    def rows(self) -> Array:
        rows: Array = self.pool.rows[list(self.places)]
        if self.guilty:
            rows[self.spoilt, 0] = self.guilty
        return rows

    def expected(self, version: str) -> Mapping[str, Array] | None:
        """What ``version`` answers, ``None`` where there is no such version."""
        answers = self.pool.answers.get(version)
        return answers and {name: values[list(self.places)] for name, values in answers.items()}


def draw(random: Random, subjects: Sequence[Subject]) -> Question:
    """A request as dice say: half of them are of one row, and half of these of the few that many ask for; nearly one in
    three has a deadline."""
    subject = random.choice(subjects)
    pool = random.choice(subject.pools)
    count = 1 if random.random() < 0.5 else random.randint(2, MOST_ROWS)
    among = _POPULAR if count == 1 and random.random() < 0.5 else len(pool.rows)
    guilty = random.choice((REFUSED, BROKEN)) if subject.name == SLOW and random.random() < 0.05 else 0.0
    return Question(
        subject,
        pool,
        [random.randrange(among) for _ in range(count)],
        guilty,
        random.randrange(count),
        random.choice((0.02, 0.1, 1.0)) if random.random() < 0.3 else None,
        random.random() < 0.2,
    )


def push(shop: Shop, seed: int) -> list[Subject]:
    """All models, trained, pushed into ``shop`` and asked directly."""
    random = np.random.default_rng(seed)
    return [_forest(shop, random, seed), _slow(shop, random), _logistic(shop, random), _pictures(shop, random)]


def _forest(shop: Shop, random: np.random.Generator, seed: int) -> Subject:
    from sklearn.ensemble import RandomForestClassifier

    rows = random.normal(size=(_ROWS, 4)).astype(np.float32)
    signature = ModelSignature(
        _FEATURES,
        (_INPUT,),
        (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 3))),
        "classification",
        (0, 1, 2),
        "label",
        "probabilities",
    )
    answers = {}
    for place, version in enumerate(VERSIONS):
        target = np.digitize(rows @ np.array([1, -1, 1, -1]), (-1, 1))
        model = RandomForestClassifier(40, max_depth=8, random_state=seed + place).fit(rows, (target + place) % 3)
        folder = _folder(shop, f"{FOREST}-{version}")
        _write_onnx(model, folder / "model.onnx")
        shop.push_onnx(version, folder, signature, FOREST)
        answers[version] = ask_onnx(folder / "model.onnx", "input", rows)
    shop.promote(VERSIONS[0], FOREST)
    first, second = (answers[version]["probabilities"] for version in VERSIONS)
    assert (np.abs(first - second).max(axis=1) > 0.01).all(), "some rows do not tell the versions apart"
    return Subject(FOREST, "input", "FP32", [Pool(rows, answers)], "label")


def _write_onnx(model: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        kind = [("input", FloatTensorType([None, 4]))]
        made = to_onnx(model, initial_types=kind, options={id(model): {"zipmap": False}}, target_opset=_OPSET)
    path.write_bytes(made.SerializeToString())


def _slow(shop: Shop, random: np.random.Generator) -> Subject:
    """Two milliseconds, and a fifth of one for each row, as ``benchmarks.heavy``; its answer is a formula."""
    rows = random.integers(1, 50, size=(_ROWS, 4)).astype(np.float32)
    folder = _folder(shop, SLOW)
    (folder / "model.py").write_text(_SLOW.format(refused=REFUSED, broken=BROKEN))
    signature = ModelSignature(_FEATURES, (_INPUT,), (TensorSpec("total", "FP32", (-1,)),))
    options = {
        "module": "model.py",
        "class": "Model",
        "inputs": [spec_document(spec) for spec in signature.inputs],
        "outputs": [spec_document(spec) for spec in signature.outputs],
    }
    shop.digests.append(shop.push_folder(VERSIONS[0], folder, signature, SLOW, "python", options))
    total = sum(rows[:, place] * np.float32(10**place) for place in range(4))
    return Subject(SLOW, "input", "FP32", [Pool(rows, {VERSIONS[0]: {"total": np.asarray(total, np.float32)}})])


def _logistic(shop: Shop, random: np.random.Generator) -> Subject:
    import msgspec
    import pandas as pd
    import skops.io
    from sklearn.linear_model import LogisticRegression

    from keelway.runtimes.skops import SkopsColumn, SkopsOptions

    rows = random.normal(size=(_ROWS, 4)).round(6)
    frame = pd.DataFrame(rows, columns=list(NAMES))
    folder = _folder(shop, SKOPS)
    skops.io.dump(LogisticRegression().fit(frame, (rows.sum(axis=1) > 0).astype(int)), folder / "model.skops")
    spec = TensorSpec("input_fp64", "FP64", (-1, 4), NAMES)
    outputs = (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP64", (-1, 2)))
    features = tuple(Feature(name, "FP64") for name in NAMES)
    signature = ModelSignature(features, (spec,), outputs, "classification", (0, 1), "label", "probabilities")
    options = SkopsOptions(tuple(SkopsColumn(name, "float64") for name in NAMES), (spec,), outputs)
    shop.push_folder(VERSIONS[0], folder, signature, SKOPS, "skops", msgspec.to_builtins(options))
    estimator = skops.io.load(folder / "model.skops", trusted=["numpy.dtype"])
    one_by_one = [frame.iloc[[place]] for place in range(_ROWS)]
    answers = {
        "label": np.concatenate([estimator.predict(row) for row in one_by_one]),
        "probabilities": np.concatenate([estimator.predict_proba(row) for row in one_by_one]),
    }
    return Subject(SKOPS, "input_fp64", "FP64", [Pool(rows, {VERSIONS[0]: answers})], "label")


def _pictures(shop: Shop, random: np.random.Generator) -> Subject:
    """The mean colour and the brightest of a picture, of any size: shapes that cannot share a run."""
    from onnx import TensorProto, checker, helper, numpy_helper

    folder = _folder(shop, PICTURES)
    nodes = [
        helper.make_node("ReduceMean", ["picture", "axes"], ["mean"], keepdims=0),
        helper.make_node("ReduceMax", ["picture", "axes"], ["brightest"], keepdims=0),
        helper.make_node("Concat", ["mean", "brightest"], ["colours"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        PICTURES,
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["rows", "height", "width", 3])],
        [helper.make_tensor_value_info("colours", TensorProto.FLOAT, ["rows", 6])],
        [numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    checker.check_model(made)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    signature = ModelSignature(
        (Feature("picture", "FP32", shape=(-1, -1, 3)),),
        (TensorSpec("picture", "FP32", (-1, -1, -1, 3)),),
        (TensorSpec("colours", "FP32", (-1, 6)),),
    )
    shop.push_onnx(VERSIONS[0], folder, signature, PICTURES)
    pools = []
    for height, width in ((2, 2), (4, 3), (3, 4), (8, 8)):
        rows = random.random((100, height, width, 3)).astype(np.float32)
        pools.append(Pool(rows, {VERSIONS[0]: ask_onnx(folder / "model.onnx", "picture", rows)}))
    return Subject(PICTURES, "picture", "FP32", pools, has_rows=False)


def ask_onnx(path: Path, tensor: str, rows: Array) -> dict[str, Array]:
    """What the file answers to ``rows``, one by one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    runs = [session.run(names, {tensor: rows[place : place + 1]}) for place in range(len(rows))]
    return {name: np.concatenate([run[place] for run in runs]) for place, name in enumerate(names)}


def _folder(shop: Shop, name: str) -> Path:
    folder = shop.folder / name
    folder.mkdir()
    return folder
