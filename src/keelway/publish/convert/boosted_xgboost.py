"""XGBoost's own JSON, as the installed version writes it, read into ``Boosted``.

A row goes left if its value is below the threshold in float32, which is at most the float32 below it. A category of a
split's set goes right, all others left. The trees are added in float32, one after another, from the base score on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from keelway.publish.convert.boosted import Boosted, Link, Treated
from keelway.publish.convert.graph import NotTranslated
from keelway.publish.convert.trees import Tree
from keelway.types import Array

_LINKS: Final[Mapping[str, Link]] = {
    "reg:squarederror": "identity",
    "reg:linear": "identity",
    "reg:squaredlogerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:absoluteerror": "identity",
    "reg:quantileerror": "identity",
    "rank:pairwise": "identity",
    "rank:ndcg": "identity",
    "rank:map": "identity",
    "count:poisson": "exp",
    "reg:gamma": "exp",
    "reg:tweedie": "exp",
    "survival:cox": "exp",
    "survival:aft": "exp",
    "reg:logistic": "logistic",
    "binary:logistic": "logistic",
    "multi:softprob": "softmax",
    "multi:softmax": "softmax",
}

#: XGBoost's numbers for the types of whole numbers that categories may have.
_INTEGERS: Final[Mapping[int, str]] = {
    9: "int8",
    10: "uint8",
    11: "int16",
    12: "uint16",
    13: "int32",
    14: "uint32",
    15: "int64",
    16: "uint64",
}


def read(document: Mapping[str, Any], *, classifies: bool, missing: float | None = None) -> Boosted:
    """The model in ``document``, of which all trees count. Raises ``NotTranslated``."""
    learner = document["learner"]
    objective = learner["objective"]["name"]
    link = _LINKS.get(objective)
    if link is None:
        raise NotTranslated(f"the objective {objective}")
    forest, weights = _forest(learner["gradient_booster"])
    if classifies and link == "logistic":
        link = "binary"
    if classifies != (link in ("binary", "softmax")):
        raise NotTranslated(f"the objective {objective} in this place")
    trees, values = [], []
    for tree, weight in zip(forest["trees"], weights, strict=True):
        found, leaves = _tree(tree)
        trees.append(found)
        values.append(leaves if weight == 1 else leaves * np.float32(weight))
    return Boosted(
        columns=_columns(learner),
        trees=tuple(trees),
        values=tuple(values),
        targets=tuple(int(target) for target in forest["tree_info"]),
        start=_start(learner["learner_model_param"], link),
        link=link,
        number="FP32",
        missing=missing,
    )


def categories_of(learner: Mapping[str, Any]) -> list[tuple[str | int | float, ...] | None]:
    """The categories of each feature, in the order of their codes; None for numbers and for codes without names."""
    model = learner["gradient_booster"].get("gbtree", learner["gradient_booster"]).get("model", {})
    known = (model.get("cats") or {}).get("enc") or []
    found: list[tuple[str | int | float, ...] | None] = [None] * int(learner["learner_model_param"]["num_feature"])
    for at, encoded in enumerate(known):
        if "offsets" in encoded and encoded["values"]:
            found[at] = _texts(encoded["values"], encoded["offsets"])
        elif "type" in encoded:
            found[at] = tuple(encoded["values"])
    return found


def category_dtypes(learner: Mapping[str, Any]) -> list[str]:
    """The type of whole number that each feature's categories had, empty where there is none."""
    model = learner["gradient_booster"].get("gbtree", learner["gradient_booster"]).get("model", {})
    known = (model.get("cats") or {}).get("enc") or []
    return [_INTEGERS.get(encoded.get("type"), "") for encoded in known]


def _texts(values: Sequence[int], offsets: Sequence[int]) -> tuple[str, ...]:
    buffer = bytes(value & 0xFF for value in values)
    return tuple(buffer[start:stop].decode() for start, stop in pairwise(offsets))


def _forest(booster: Mapping[str, Any]) -> tuple[Mapping[str, Any], Sequence[float]]:
    if booster["name"] == "gbtree":
        return booster["model"], [1.0] * len(booster["model"]["trees"])
    if booster["name"] == "dart":
        return booster["gbtree"]["model"], booster["weight_drop"]
    raise NotTranslated(f"an XGBoost model of the kind {booster['name']}")


def _columns(learner: Mapping[str, Any]) -> tuple[Treated, ...]:
    categories = categories_of(learner)
    kinds = learner["feature_types"] or ["float"] * len(categories)
    return tuple(
        Treated(known, whole="down" if kind == "c" and known is None else "")
        for known, kind in zip(categories, kinds, strict=True)
    )


def _tree(tree: Mapping[str, Any]) -> tuple[Tree, Array]:
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise NotTranslated("trees with several values in a leaf (multi_output_tree)")
    left, right = np.array(tree["left_children"], np.int64), np.array(tree["right_children"], np.int64)
    conditions = np.array(tree["split_conditions"], np.float32)
    missing_left = np.array(tree["default_left"], bool)
    members = {}
    starts = zip(tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True)
    for node, start, size in starts:
        members[int(node)] = [float(code) for code in tree["categories"][start : start + size]] or [-1.0]
        # Those of the set go right; here they go left.
        left[node], right[node] = right[node], left[node]
        missing_left[node] = not missing_left[node]
    leaf = left == -1
    below = np.nextafter(conditions, np.float32(-np.inf)).astype(np.float64)
    thresholds = np.where(leaf, 0.0, below)
    found = Tree(np.array(tree["split_indices"], np.int64), thresholds, left, right, missing_left, members)
    return found, conditions[leaf]


def _start(parameters: Mapping[str, Any], link: Link) -> Array:
    """The base score of each output, as the sums know it."""
    texts = str(parameters["base_score"]).strip("[]").split(",")
    scores = np.array([np.float32(text) for text in texts], np.float32)
    if link in ("logistic", "binary"):
        scores = -np.log((np.float32(1) / scores - np.float32(1)).astype(np.float64))
    elif link == "exp":
        scores = np.log(scores.astype(np.float64))
    width = max(int(parameters["num_class"]), int(parameters.get("num_target", 1)), 1)
    start: Array = np.broadcast_to(scores.astype(np.float32), width).copy()
    return start
