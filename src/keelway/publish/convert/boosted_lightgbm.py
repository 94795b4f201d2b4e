"""LightGBM's model text, read into ``Boosted``.

A row goes left if its value is at most the threshold, both in float64. What is missing goes where the bits of a node's
``decision_type`` say: bit 0 is set for a split on categories (those in the set go left, missing ones right), bit 1 if
missing values go left, bits 2 and 3 say what is missing: nothing (NaN counts as 0), zeros, or NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from keelway.publish.convert.boosted import Boosted, Link, Treated
from keelway.publish.convert.graph import NotTranslated
from keelway.publish.convert.trees import Tree
from keelway.types import Array

_LINKS: Final[Mapping[str, Link]] = {
    "regression": "identity",
    "regression_l1": "identity",
    "huber": "identity",
    "fair": "identity",
    "quantile": "identity",
    "mape": "identity",
    "lambdarank": "identity",
    "rank_xendcg": "identity",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "cross_entropy": "logistic",
    "binary": "binary",
    "multiclass": "softmax",
    "multiclassova": "one_against_rest",
}
#: A number at most this far from zero is zero to LightGBM.
_ZERO: Final = float(np.float32(1e-35))

_CATEGORICAL: Final = 1
_DEFAULT_LEFT: Final = 2
_ZERO_MISSING: Final = 1


def header_of(text: str) -> dict[str, str]:
    """The lines before the first tree, as names and values."""
    return _fields(text.partition("\nTree=")[0])


def read(text: str, categories: list[tuple[str | int | float, ...] | None], *, classifies: bool) -> Boosted:
    """The model in ``text``, of which all trees count; ``categories`` of each feature. Raises ``NotTranslated``."""
    header = header_of(text)
    objective, *settings = header["objective"].split()
    link, factor = _link(objective, settings, classifies)
    per_iteration = int(header["num_tree_per_iteration"])
    blocks = text.partition("\nend of trees")[0].split("\nTree=")[1:]
    read_trees = [_tree(_fields(block)) for block in blocks]
    if "average_output" in header:
        factor /= len(blocks) // per_iteration
    zero, cut = _treatments([(tree, kinds) for tree, _, kinds in read_trees], len(categories))
    return Boosted(
        columns=tuple(
            Treated(known, zero_is_missing=at in zero, whole="towards zero" if known is None and at in cut else "")
            for at, known in enumerate(categories)
        ),
        trees=tuple(tree for tree, _, _ in read_trees),
        values=tuple(values for _, values, _ in read_trees),
        targets=tuple(at % per_iteration for at in range(len(blocks))),
        start=np.zeros(per_iteration),
        link=link,
        number="FP64",
        rounds=False,
        factor=factor,
    )


def _fields(block: str) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition("=") for line in block.splitlines()) if name}


def _link(objective: str, settings: list[str], classifies: bool) -> tuple[Link, float]:
    """The link, and what the sums are multiplied by before it."""
    link = _LINKS.get(objective)
    if link is None:
        raise NotTranslated(f"the objective {objective}")
    named = dict(setting.split(":") for setting in settings if ":" in setting)
    factor = float(named.get("sigmoid", 1.0))
    if link == "binary" and not classifies:
        link = "logistic"
    if classifies != (link in ("binary", "softmax", "one_against_rest")):
        raise NotTranslated(f"the objective {objective} in this place")
    return ("signed_square" if "sqrt" in settings else link), factor


def _tree(fields: Mapping[str, str]) -> tuple[Tree, Array, Array]:
    """A tree, the values of its leaves, and the kind of missing value of each node, -1 for a split on categories."""
    if fields.get("is_linear", "0") == "1":
        raise NotTranslated("trees with linear functions in their leaves (linear_tree)")
    values = _array(fields["leaf_value"], np.float64)
    leaves = len(values)
    inner = leaves - 1
    feature, bits = (_array(fields.get(name, ""), np.int64) for name in ("split_feature", "decision_type"))
    thresholds = _array(fields.get("threshold", ""), np.float64)
    sides = []
    for name in ("left_child", "right_child"):
        child = _array(fields.get(name, ""), np.int64)
        sides.append(np.concatenate([np.where(child < 0, inner + ~child, child), np.full(leaves, -1)]))
    categorical = (bits & _CATEGORICAL) != 0
    kinds = np.where(categorical, -1, bits >> 2 & 3)
    # NaN counts as zero where nothing is missing.
    missing_left = np.where(kinds == 0, thresholds >= 0, (bits & _DEFAULT_LEFT) != 0) & ~categorical
    members = {int(node): _members(fields, int(thresholds[node])) for node in np.flatnonzero(categorical)}
    tree = Tree(
        np.concatenate([feature, np.zeros(leaves, np.int64)]),
        np.concatenate([np.where(categorical, 0.0, _beside_zero(thresholds)), np.zeros(leaves)]),
        sides[0],
        sides[1],
        np.concatenate([missing_left, np.zeros(leaves, bool)]),
        members,
    )
    return tree, values, kinds


def _beside_zero(thresholds: Array) -> Array:
    """Thresholds for numbers as they are that decide as LightGBM's do for numbers of which the smallest became zero."""
    near = np.abs(thresholds) <= _ZERO
    moved = np.where(thresholds < 0, np.nextafter(-_ZERO, -np.inf), _ZERO)
    return np.where(near, moved, thresholds)


def _array(text: str, dtype: Any) -> Array:
    return np.array(text.split(), dtype)


def _members(fields: Mapping[str, str], number: int) -> list[float]:
    bounds, words = _array(fields["cat_boundaries"], np.int64), _array(fields["cat_threshold"], np.int64)
    chosen = words[bounds[number] : bounds[number + 1]]
    return [float(32 * at + bit) for at, word in enumerate(chosen) for bit in range(32) if int(word) >> bit & 1] or [
        -1.0
    ]


def _treatments(trees: list[tuple[Tree, Array]], features: int) -> tuple[set[int], set[int]]:
    """The features whose zeros are missing, and those that hold numbers of categories."""
    kinds: list[set[int]] = [set() for _ in range(features)]
    for tree, found in trees:
        for feature, kind in zip(tree.feature[: len(found)], found, strict=True):
            kinds[feature].add(int(kind))
    zero = {at for at, found in enumerate(kinds) if _ZERO_MISSING in found}
    if any(kinds[at] != {_ZERO_MISSING} for at in zero):
        raise NotTranslated("a feature whose zeros are missing in some splits only")
    return zero, {at for at, found in enumerate(kinds) if -1 in found}
