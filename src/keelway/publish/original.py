"""The original model, asked: what it answers for a batch of rows, and which rows it refuses.

Runs only in the short-lived child process that opened the file. Everything is asked single-threaded, because a forest
on several threads adds its trees in the order in which they finish.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from keelway.errors import InvalidInput
from keelway.publish.answers import Answers
from keelway.publish.perturb import Nodes
from keelway.publish.rows import Rows
from keelway.runtimes.skops import Given, in_form
from keelway.types import Array

if TYPE_CHECKING:
    import pandas as pd


#: Calls spent on telling refused rows from accepted ones: for the answers of a proof, and in each round of a search.
_CALLS: Final = 1_500
_SEARCH_CALLS: Final = 32


class Original:
    """A fitted scikit-learn estimator. ``columns`` are its features in its own order, ``given`` the form it takes."""

    def __init__(self, estimator: Any, columns: tuple[str, ...], given: Given = "frame") -> None:
        from sklearn.base import is_classifier

        self.estimator = estimator
        self.columns = columns
        self.is_classifier = is_classifier(estimator) and hasattr(estimator, "classes_")
        self.has_probabilities = self.is_classifier and hasattr(estimator, "predict_proba")
        self._given = given
        scores = "predict_proba" if self.has_probabilities else "decision_function"
        self._scores = getattr(estimator, scores, None) if self.is_classifier else None
        run_alone(estimator)

    def labels(self, rows: Rows) -> tuple[Array, Array]:
        """The predicted classes (classifiers) or values, [n] or [n, m], and which rows were accepted, for a search."""
        found, accepted = self._asked(self._labels, rows.frame(), _SEARCH_CALLS)
        return (np.zeros(len(rows)) if found is None else found), accepted

    def values(self, rows: Rows) -> tuple[Array, Array]:
        """Probabilities or scores [n, k], or predicted values [n, m], as float64, and which rows were accepted."""
        found, accepted = self._asked(self._values, rows.frame(), _SEARCH_CALLS)
        return (np.zeros((len(rows), 1)) if found is None else found), accepted

    def answers(self, frame: pd.DataFrame) -> Answers:
        """Labels and values for every row of ``frame``; rows that the model refuses are marked, not raised.

        Raises ``InvalidInput`` if it refuses them all.
        """
        labels, accepted = self._asked(self._labels, frame, _CALLS)
        if labels is None:
            raise InvalidInput(
                "the model refuses every row of the sample",
                hint="give the columns and types the model was trained on; --target names a column to leave out",
            )
        if not self.is_classifier:
            return Answers(None, _two_dimensional(labels), accepted)
        if self._scores is None:
            return Answers(labels, np.zeros((len(frame), 0)), accepted)
        found, also = self._asked(self._values, frame[accepted], _CALLS)
        values = np.zeros((len(frame), 0 if found is None else found.shape[1]))
        accepted[accepted] = also
        values[accepted] = 0.0 if found is None else found[also]
        return Answers(labels, values, accepted)

    def ask_one(self, given: Any) -> object:
        """What a caller of the original would call: probabilities if it has them, the prediction if not."""
        with _quiet():
            ask = self._scores if self._scores is not None and self.has_probabilities else self.estimator.predict
            return ask(given)

    def given(self, frame: pd.DataFrame) -> Any:
        """The rows of ``frame`` in the form the estimator was fitted on."""
        return in_form(frame[list(self.columns)], self._given)

    def _asked(
        self, ask: Callable[[pd.DataFrame], Array], frame: pd.DataFrame, calls: int
    ) -> tuple[Array | None, Array]:
        return where_accepted(ask, frame, calls)

    def _labels(self, frame: pd.DataFrame) -> Array:
        return np.asarray(self.estimator.predict(self.given(frame)))

    def _values(self, frame: pd.DataFrame) -> Array:
        ask = self.estimator.predict if self._scores is None else self._scores
        return _two_dimensional(np.asarray(ask(self.given(frame))))


def nodes_of(estimator: Any, columns: tuple[str, ...], sample: Rows, most: int, random: np.random.Generator) -> Nodes:
    """Up to ``most`` nodes of trees that read the features themselves, each with a row of the sample that reaches it.

    A row that reaches a node still does with its value moved to the node's threshold. Empty for anything but trees.
    """
    found = Nodes(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    if not all(sample.is_number(column) for column in columns):
        return found
    members = np.ravel(np.asarray(getattr(estimator, "estimators_", [estimator]), dtype=object))
    trees = [member.tree_ for member in members if hasattr(member, "tree_")]
    if trees:
        return _nodes_of_trees(trees, np.stack([sample.columns[name] for name in columns], axis=1), most, random)
    if getattr(estimator, "_preprocessor", None) is not None:
        return found
    inner = [
        p.nodes[~p.nodes["is_leaf"].astype(bool)] for stage in getattr(estimator, "_predictors", ()) for p in stage
    ]
    if not inner:
        return found
    # Nothing says which rows reach a node of these; the bisected pairs find their steps.
    nodes = np.concatenate(inner)
    nodes = nodes[np.isfinite(nodes["num_threshold"])]
    nodes = nodes[random.permutation(len(nodes))[:most]]
    rows = random.integers(len(sample), size=len(nodes))
    return Nodes(rows, nodes["feature_idx"].astype(np.int64), nodes["num_threshold"].astype(np.float64))


def _nodes_of_trees(trees: list[Any], x: Array, most: int, random: np.random.Generator) -> Nodes:
    inner = [(at, node) for at, tree in enumerate(trees) for node in np.flatnonzero(tree.children_left != -1)]
    chosen = sorted(inner[at] for at in random.permutation(len(inner))[:most])
    rows, features, thresholds = [], [], []
    x = x.astype(np.float32)
    for at, group in groupby(chosen, key=lambda pair: pair[0]):
        tree = trees[at]
        if tree.n_features != x.shape[1]:
            continue  # a member of a bag, which sees some of the columns
        reached = tree.decision_path(x).tocsc()
        for _, node in group:
            here = reached.indices[reached.indptr[node] : reached.indptr[node + 1]]
            if len(here) and np.isfinite(tree.threshold[node]):
                rows.append(random.choice(here))
                features.append(tree.feature[node])
                thresholds.append(tree.threshold[node])
    return Nodes(np.array(rows, np.int64), np.array(features, np.int64), np.array(thresholds, np.float64))


def where_accepted(ask: Callable[[pd.DataFrame], Array], frame: pd.DataFrame, calls: int) -> tuple[Array | None, Array]:
    """What ``ask`` answers for the rows it accepts (zeros, or empty text, elsewhere), and which rows those are.

    A batch that is refused is halved until the rows at fault are alone, or ``calls`` are used up: what is left then
    counts as refused. None if no row is accepted.
    """
    found: dict[int, Array] = {}
    pending = deque([(0, len(frame))])
    while pending and calls:
        calls -= 1
        start, stop = pending.popleft()
        try:
            with _quiet():
                part = ask(frame.iloc[start:stop])
            if len(part) != stop - start:
                raise InvalidInput("the model does not answer one value for each row")
            found[start] = part
        except Exception:  # noqa: BLE001 - the model's own code may raise anything for a row it does not like
            if stop - start > 1:
                middle = (start + stop) // 2
                pending += [(start, middle), (middle, stop)]
    accepted = np.zeros(len(frame), bool)
    if not found:
        return None, accepted
    like = next(iter(found.values()))
    # Text of several widths has several dtypes.
    dtype = object if like.dtype == object else np.result_type(*found.values())
    every = np.zeros((len(frame), *like.shape[1:]), dtype)
    for start, part in found.items():
        every[start : start + len(part)] = part
        accepted[start : start + len(part)] = True
    return every, accepted


def _two_dimensional(values: Array) -> Array:
    values = values.astype(np.float64)
    return values.reshape(-1, 1) if values.ndim == 1 else values


def run_alone(model: Any) -> None:
    """One job everywhere inside a fitted model: walked, because its parameters name the unfitted parts only."""
    pending, seen = [model], {id(model)}
    while pending:
        part = pending.pop()
        if isinstance(part, list | tuple | set):
            inner = list(part)
        elif isinstance(part, dict):
            inner = list(part.values())
        elif isinstance(part, np.ndarray):
            inner = list(part.ravel()) if part.dtype == object and part.size < 1_000_000 else []
        elif type(part).__module__.partition(".")[0] == "sklearn" and hasattr(part, "__dict__"):
            if "n_jobs" in vars(part):
                part.n_jobs = 1
            inner = list(vars(part).values())
        else:
            inner = []
        pending += [value for value in inner if id(value) not in seen]
        seen.update(map(id, inner))


def _quiet() -> warnings.catch_warnings[None]:
    return warnings.catch_warnings(action="ignore")
