"""What is particular to models of gradient boosting when the child asks, converts and keeps one.

``asking.py`` calls it: the library itself answers as the original, the readers in ``convert`` bring its trees, and a
model that no conversion equals is written in its own format and compared with itself as it will be served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from keelway.contract.signature import Feature
from keelway.publish.boosters.model import BoosterModel
from keelway.publish.convert.boosted import translate_boosted
from keelway.publish.convert.graph import NotTranslated, Number
from keelway.publish.convert.translate import Translation
from keelway.publish.convert.trees import Tree
from keelway.publish.original import Original, where_accepted
from keelway.publish.perturb import Nodes
from keelway.publish.rows import Rows
from keelway.publish.subject import EVERY, Subject
from keelway.runtimes.boosters import NAMES, BoosterOptions
from keelway.types import Array, TensorSpec

if TYPE_CHECKING:
    import pandas as pd

_LARGEST: Final = 3e38


class BoosterOriginal(Original):
    """A library asked as its own users ask it: with a frame whose columns have the types of the training."""

    def __init__(self, model: BoosterModel) -> None:
        self.estimator = model
        self.columns = tuple(column.name for column in model.columns)
        self.is_classifier = model.task == "classification"
        self.has_probabilities = self.is_classifier
        self._given = "frame"
        self._scores = model.probabilities
        self._model = model

    def given(self, frame: pd.DataFrame) -> Any:
        return self._model.in_form(frame[list(self.columns)])

    def _asked(
        self, ask: Callable[[pd.DataFrame], Array], frame: pd.DataFrame, calls: int
    ) -> tuple[Array | None, Array]:
        """Rows that the library is known to refuse are not put to it one by one."""
        known = self._model.knows(frame)
        found, accepted = where_accepted(ask, frame[known], calls)
        every = np.zeros(len(frame), bool)
        every[known] = accepted
        if found is None or known.all():
            return found, every
        answers = np.zeros((len(frame), *found.shape[1:]), found.dtype)
        answers[known] = found
        return answers, every


def subject_of(model: BoosterModel, sample: Rows) -> Subject:
    """``model``, its columns named as those of ``sample``, of which it may learn what its file does not say."""
    boosted = None
    try:
        boosted = model.read(sample)
        reason = ""
    except NotTranslated as error:
        reason = str(error)

    def convert(inputs: Sequence[TensorSpec], features: Sequence[Feature], number: Number) -> Translation:
        if boosted is None:
            raise NotTranslated(reason)
        return translate_boosted(boosted, model.labels, inputs, features, number)

    def nodes(rows: Rows, most: int, random: np.random.Generator) -> Nodes:
        numbers = [rows.columns[column.name] for column in model.columns]
        if boosted is None or any(treated.categories is not None for treated in boosted.columns):
            return _nodes((), np.zeros((0, 0)), most, random)
        return _nodes(boosted.trees, np.stack(numbers, axis=1).astype(np.float64), most, random)

    # What rounds its features to float32 itself gains nothing by more at the door.
    attempts = EVERY if model.library == "lightgbm" else EVERY[:1] if model.library == "xgboost" else EVERY[:2]
    return Subject(
        model=model,
        original=BoosterOriginal(model),
        description=model.description,
        framework=NAMES[model.library],
        task=model.task,
        labels=model.labels,
        given="array" if model.positional else "frame",
        convert=convert,
        nodes=nodes,
        attempts=attempts,
    )


def keep(
    model: BoosterModel, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], folder: Path
) -> BoosterOptions:
    """Write the model into ``folder`` in its own format; how it is to be served."""
    model.save(folder / model.file)
    return BoosterOptions(
        library=model.library,
        file=model.file,
        columns=model.columns,
        inputs=inputs,
        outputs=outputs,
        labels=model.labels,
        missing=model.missing,
        prediction_type=model.prediction_type,
    )


def _nodes(trees: Sequence[Tree], x: Array, most: int, random: np.random.Generator) -> Nodes:
    """Nodes that compare with a threshold, drawn from all trees, and for each a row of ``x`` that reaches it."""
    rows: list[int] = []
    features: list[int] = []
    thresholds: list[float] = []
    counts = np.array([np.count_nonzero(tree.left != -1) for tree in trees], np.int64)
    drawn = np.sort(random.permutation(int(counts.sum()))[:most])
    starts = np.concatenate([[0], np.cumsum(counts)])
    for at, tree in enumerate(trees):
        chosen = drawn[(drawn >= starts[at]) & (drawn < starts[at + 1])] - starts[at]
        if not len(chosen):
            continue
        wanted = set(np.flatnonzero(tree.left != -1)[chosen].tolist()) - set(tree.members)
        # CatBoost parts missing values from others at the lowest float32, beside which there is nothing.
        wanted -= set(np.flatnonzero(np.abs(tree.threshold) > _LARGEST).tolist())
        for node, reached in _reached(tree, x):
            if node in wanted and len(reached):
                rows.append(int(random.choice(reached)))
                features.append(int(tree.feature[node]))
                thresholds.append(float(tree.threshold[node]))
    return Nodes(np.array(rows, np.int64), np.array(features, np.int64), np.array(thresholds, np.float64))


def _reached(tree: Tree, x: Array) -> list[tuple[int, Array]]:
    """Every inner node with the rows of ``x`` that reach it."""
    found = []
    pending = [(0, np.arange(len(x)))]
    while pending:
        node, rows = pending.pop()
        if tree.left[node] == -1:
            continue
        found.append((node, rows))
        values = x[rows, tree.feature[node]]
        left = np.isin(values, tree.members[node]) if node in tree.members else values <= tree.threshold[node]
        left = np.where(np.isnan(values), tree.missing_left[node], left)
        pending += [(int(tree.left[node]), rows[left]), (int(tree.right[node]), rows[~left])]
    return found
