"""CatBoost's JSON, read into ``Boosted``.

A row goes right if its value, rounded to float32, is above the border. In a symmetric tree all nodes of a level share
one split, and bit i of a leaf's number says what split i answered. The trees are added in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from keelway.publish.convert.boosted import Boosted, Link, Treated
from keelway.publish.convert.graph import NotTranslated
from keelway.publish.convert.trees import Tree
from keelway.types import Array

_CLASSIFYING: Final[Mapping[str, Link]] = {
    "Logloss": "binary",
    "CrossEntropy": "binary",
    "MultiClass": "softmax",
    "MultiClassOneVsAll": "one_against_rest",
}
#: What CatBoost calls the kinds of answers, for models that predict numbers.
_PREDICTING: Final[Mapping[str, Link]] = {"RawFormulaVal": "identity", "Exponent": "exp"}

#: The categories of each categorical feature (by its flat position), in the order of the hashes the model holds.
Categories = Mapping[int, tuple[str | int, ...]]


@dataclass(frozen=True, slots=True)
class _Split:
    """``at`` most ``border`` goes left, missing too unless it goes right; or the category ``code`` goes right."""

    feature: int
    border: float = 0.0
    missing_left: bool = True
    code: int | None = None


def read(document: Mapping[str, Any], categories: Categories, *, loss: str, prediction_type: str) -> Boosted:
    """The model in ``document``. ``loss`` is that of a classifier, empty elsewhere. Raises ``NotTranslated``."""
    link = _CLASSIFYING.get(loss) if loss else _PREDICTING.get(prediction_type)
    if link is None:
        raise NotTranslated(f"CatBoost's {loss or prediction_type}")
    features = _Features(document["features_info"], categories)
    scale, bias = document["scale_and_bias"]
    width = len(bias)
    read_trees = [_symmetric(tree, features) for tree in document.get("oblivious_trees", ())]
    read_trees += [_other(tree, features) for tree in document.get("trees", ())]
    values = [(np.asarray(leaves, np.float64) * scale).reshape(-1, width) for _, leaves in read_trees]
    return Boosted(
        columns=features.columns(),
        trees=tuple(tree for tree, _ in read_trees),
        values=tuple(value if width > 1 else value[:, 0] for value in values),
        targets=(0,) * len(read_trees),
        start=np.array(bias, np.float64),
        link=link,
        number="FP64",
        class_by_sum=True,
    )


class _Features:
    """Where the features of each kind stand among all, and what a split of theirs asks."""

    def __init__(self, info: Mapping[str, Any], categories: Categories) -> None:
        self._floats = {feature["feature_index"]: feature for feature in info.get("float_features", ())}
        self._named = {feature["feature_index"]: feature for feature in info.get("categorical_features", ())}
        self._categories = categories
        if info.get("text_features") or info.get("embedding_features"):
            raise NotTranslated("features of texts or embeddings")

    def columns(self) -> tuple[Treated, ...]:
        found = [Treated()] * (len(self._floats) + len(self._named))
        for feature in self._named.values():
            at = feature["flat_feature_index"]
            found[at] = Treated(self._categories.get(at, ()))
        return tuple(found)

    def split(self, split: Mapping[str, Any]) -> _Split:
        kind = split["split_type"]
        if kind == "FloatFeature":
            feature = self._floats[split["float_feature_index"]]
            goes_left = feature["nan_value_treatment"] != "AsTrue"
            return _Split(feature["flat_feature_index"], split["border"], goes_left)
        if kind == "OneHotFeature":
            feature = self._named[split["cat_feature_index"]]
            if feature["flat_feature_index"] not in self._categories:
                raise NotTranslated(
                    "the file keeps categories as hashes, and the sample does not hold every one of them"
                )
            return _Split(feature["flat_feature_index"], code=feature["values"].index(split["value"]))
        if kind == "OnlineCtr":
            raise NotTranslated("CatBoost turns categories into statistics of the target, which only it computes")
        raise NotTranslated(f"a split of the kind {kind}")


def _symmetric(tree: Mapping[str, Any], features: _Features) -> tuple[Tree, Array]:
    """The tree written out, nodes level by level; its leaves in the order in which they stand there."""
    splits = [features.split(split) for split in tree["splits"] or ()]
    depth, leaves = len(splits), 1 << len(splits)
    inner = leaves - 1
    number = np.arange(inner)
    level = np.repeat(np.arange(depth), 1 << np.arange(depth)) if depth else np.zeros(0, np.int64)
    asked = [splits[at] for at in level]
    left = np.concatenate([2 * number + 1, np.full(leaves, -1)])
    right = np.concatenate([2 * number + 2, np.full(leaves, -1)])
    path = np.arange(leaves)
    reached = sum(((path >> (depth - 1 - at) & 1) << at for at in range(depth)), np.zeros(leaves, np.int64))
    values = np.asarray(tree["leaf_values"], np.float64).reshape(leaves, -1)
    return _as_tree([*asked, *[None] * leaves], left, right), values[reached]


def _other(tree: Mapping[str, Any], features: _Features) -> tuple[Tree, Array]:
    """A tree that is no symmetric one: nodes within nodes."""
    asked: list[_Split | None] = []
    left: list[int] = []
    right: list[int] = []
    values: list[Any] = []
    pending: list[tuple[Mapping[str, Any], list[int] | None, int]] = [(tree, None, 0)]
    while pending:
        node, side, parent = pending.pop()
        if side is not None:
            side[parent] = len(asked)
        inner = "split" in node
        asked.append(features.split(node["split"]) if inner else None)
        left.append(-1)
        right.append(-1)
        if inner:
            here = len(asked) - 1
            pending += [(node["right"], right, here), (node["left"], left, here)]
        else:
            values.append(np.ravel(node["value"]))
    return _as_tree(asked, np.array(left), np.array(right)), np.stack(values)


def _as_tree(asked: Sequence[_Split | None], left: Array, right: Array) -> Tree:
    """``asked`` is the split of every node, None for leaves."""
    found = [split or _Split(0) for split in asked]
    named = np.array([split.code is not None for split in found])
    # The category of a split goes right; here the members of a set go left.
    left, right = np.where(named, right, left), np.where(named, left, right)
    return Tree(
        np.array([split.feature for split in found], np.int64),
        np.array([split.border for split in found], np.float64),
        left,
        right,
        np.array([split.missing_left and split.code is None for split in found], bool),
        {at: [float(split.code)] for at, split in enumerate(found) if split.code is not None},
    )
