"""Decision trees and forests, exactly: the same leaves, and the same sums in the same order.

scikit-learn rounds a tree's inputs to float32, compares them with float64 thresholds, adds the leaves of a forest one
tree after another in float64, divides, and takes the first largest. A forest of pure leaves votes in whole numbers, so
exact ties are common, and impure leaves tie by rounding; float32 sums in another order answer other labels there. So:
thresholds are rounded down to float32, which leaves the comparison of float32 inputs as it was; pure leaves are
counted; and the leaves of other forests are looked up by number in a float64 table and added with CumSum, the one
operator of ONNX whose order of addition is given, whatever the batch or the number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keelway.publish.convert.graph import Graph, NotTranslated, Table
from keelway.publish.convert.translate import Classified, Kind, Translator
from keelway.types import Array

#: Numbers of leaves are carried in float32, which holds every whole number up to this.
_MAX_LEAVES: Final = 2**24

#: ai.onnx.ml's modes of a node.
BRANCH_LEQ: Final = 0
BRANCH_MEMBER: Final = 6


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree as arrays over its nodes; node 0 is the root and a node whose ``left`` is -1 is a leaf.

    A row goes left if its value is at most ``threshold``, or is missing and ``missing_left`` holds. ``members`` maps a
    node that splits on categories to those that go left.
    """

    feature: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float64]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    missing_left: npt.NDArray[np.bool_]
    members: Mapping[int, Sequence[float]]

    @property
    def leaves(self) -> npt.NDArray[np.int64]:
        """The nodes that are leaves, in order. Never empty."""
        return np.flatnonzero(self.left == -1)


def of_sklearn(tree: Any) -> Tree:
    """A ``sklearn.tree._tree.Tree``."""
    missing = getattr(tree, "missing_go_to_left", np.zeros(tree.node_count))
    left, right = (side.astype(np.int64) for side in (tree.children_left, tree.children_right))
    return Tree(tree.feature.astype(np.int64), tree.threshold, left, right, missing.astype(bool), {})


def ensemble(
    graph: Graph, x: str, trees: Sequence[Tree], weights: Sequence[Array], targets: Sequence[Array], width: int
) -> str:
    """The sums over ``trees`` of the weights of the leaves reached, by target: [-1, width] in the datatype of ``x``.

    ``weights`` and ``targets`` hold one entry per leaf of each tree, in the order of ``Tree.leaves``.
    """
    from onnx import numpy_helper

    dtype = np.dtype(np.float32 if graph.datatypes[x] == "FP32" else np.float64)
    nodes = _nodes(trees, dtype)
    output = graph.op(
        "TreeEnsemble",
        x,
        domain="ai.onnx.ml",
        n_targets=width,
        leaf_targetids=np.concatenate(list(targets)).tolist(),
        leaf_weights=numpy_helper.from_array(np.concatenate(list(weights)).astype(dtype)),
        **nodes,
    )
    graph.datatypes[output], graph.widths[output] = graph.datatypes[x], width
    return output


def _nodes(trees: Sequence[Tree], dtype: np.dtype[Any]) -> dict[str, Any]:
    """The attributes of TreeEnsemble that describe nodes. A tree that is one leaf gets a node with that leaf twice."""
    from onnx import numpy_helper

    roots: list[int] = []
    parts: dict[str, list[Array]] = {name: [] for name in ("feature", "split", "missing", "mode")}
    branches: dict[str, list[Array]] = {name: [] for name in ("true", "true_leaf", "false", "false_leaf")}
    members: list[float] = []
    node_count = leaf_count = 0
    for tree in trees:
        leaf = tree.left == -1
        inner, leaves = np.flatnonzero(~leaf), tree.leaves
        place = np.empty(len(leaf), np.int64)
        place[inner] = node_count + np.arange(len(inner))
        place[leaves] = leaf_count + np.arange(len(leaves))
        left, right = tree.left[inner], tree.right[inner]
        if not len(inner):
            inner = left = right = np.zeros(1, np.int64)
        roots.append(node_count)
        parts["feature"].append(np.maximum(tree.feature[inner], 0))
        parts["split"].append(np.where(leaf[inner], 0.0, tree.threshold[inner]))
        parts["missing"].append(tree.missing_left[inner].astype(np.int64))
        on_categories = np.isin(inner, list(tree.members))
        parts["mode"].append(np.where(on_categories, BRANCH_MEMBER, BRANCH_LEQ))
        for side, nodes in (("true", left), ("false", right)):
            branches[side].append(place[nodes])
            branches[f"{side}_leaf"].append(leaf[nodes].astype(np.int64))
        for node in inner[on_categories]:
            members += [*tree.members[int(node)], np.nan]
        node_count += len(inner)
        leaf_count += len(leaves)
    flat = {name: np.concatenate(arrays) for name, arrays in (parts | branches).items()}
    attributes: dict[str, Any] = {
        "tree_roots": roots,
        "nodes_featureids": flat["feature"].tolist(),
        "nodes_splits": numpy_helper.from_array(rounded_down(flat["split"], dtype)),
        "nodes_modes": numpy_helper.from_array(flat["mode"].astype(np.uint8)),
        "nodes_missing_value_tracks_true": flat["missing"].tolist(),
        "nodes_truenodeids": flat["true"].tolist(),
        "nodes_trueleafs": flat["true_leaf"].tolist(),
        "nodes_falsenodeids": flat["false"].tolist(),
        "nodes_falseleafs": flat["false_leaf"].tolist(),
    }
    if members:
        attributes["membership_values"] = numpy_helper.from_array(np.array(members, dtype))
    return attributes


def rounded_down(thresholds: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> Array:
    """The largest value of ``dtype`` that is not above each threshold: x <= t means the same for every x of it."""
    with np.errstate(over="ignore"):
        rounded = thresholds.astype(dtype)
    above = rounded.astype(np.float64) > thresholds
    rounded[above] = np.nextafter(rounded[above], dtype.type(-np.inf))
    return rounded


def leaf_sums(graph: Graph, table: Table, trees: Sequence[Any]) -> tuple[str, int]:
    """The sum over ``trees`` (scikit-learn's) of the values of the leaves reached, in float64 and in their order.

    Answers a tensor of shape [-1, k] in FP64 and k, the number of classes or of targets.
    """
    x = graph.matrix(table, "FP32")
    graph.datatypes[x] = "FP32"
    arrays = [of_sklearn(tree) for tree in trees]
    values = [_leaf_values(tree, array) for tree, array in zip(trees, arrays, strict=True)]
    width = values[0].shape[1]
    if all(np.isin(value, (0.0, 1.0)).all() and (value.sum(axis=1) == 1).all() for value in values):
        ones = [np.ones(len(value)) for value in values]
        counts = ensemble(graph, x, arrays, ones, [value.argmax(axis=1) for value in values], width)
        return graph.cast(counts, "FP64"), width
    return sums_by_leaf(graph, x, arrays, values), width


def sums_by_leaf(graph: Graph, x: str, trees: Sequence[Tree], values: Sequence[Array]) -> str:
    """The sum over ``trees`` of the rows of ``values`` ([leaves, k] each) for the leaves reached: FP64 [-1, k].

    Leaves are looked up by number, and added in the order of the trees."""
    starts = np.cumsum([0] + [len(value) for value in values])
    if starts[-1] > _MAX_LEAVES:
        raise NotTranslated(f"a forest of more than {_MAX_LEAVES:,} leaves")
    numbers = [start + np.arange(len(value)) for start, value in zip(starts, values, strict=False)]
    targets = [np.full(len(value), position) for position, value in enumerate(values)]
    reached = graph.cast(ensemble(graph, x, trees, numbers, targets, len(trees)), "INT32")
    found = graph.op("Gather", graph.constant(np.concatenate(values), np.float64), reached, axis=0)
    if len(trees) > 1:
        found = graph.op("CumSum", found, graph.integers(1))
    return graph.op("Gather", found, graph.integers(len(trees) - 1), axis=1)


def _leaf_values(tree: Any, array: Tree) -> npt.NDArray[np.float64]:
    """The values of the leaves: class shares (scikit-learn 1.3 and later keep shares, not counts) or targets."""
    values = tree.value[array.leaves]
    if values.shape[1] > 1 and values.shape[2] > 1:
        raise NotTranslated("a tree with several classification targets")
    flat: npt.NDArray[np.float64] = values[:, 0, :] if values.shape[1] == 1 else values[:, :, 0]
    return flat


def mean_of_leaves(graph: Graph, table: Table, trees: Sequence[Any]) -> tuple[str, int]:
    total, width = leaf_sums(graph, table, trees)
    if len(trees) > 1:
        total = graph.op("Div", total, graph.constant(len(trees), np.float64))
    return total, width


def _classified(graph: Graph, shares: str) -> Classified:
    """The label is taken in float64, before any rounding."""
    index = graph.op("ArgMax", shares, axis=1, keepdims=0)
    return Classified(index, graph.as_number(shares, "FP64"))


def _tree_classifier(graph: Graph, estimator: Any, table: Table) -> Classified:
    return _classified(graph, mean_of_leaves(graph, table, [estimator.tree_])[0])


def _forest_classifier(graph: Graph, estimator: Any, table: Table) -> Classified:
    return _classified(graph, mean_of_leaves(graph, table, [tree.tree_ for tree in estimator.estimators_])[0])


def _predicted(graph: Graph, mean: str, width: int) -> str:
    mean = graph.as_number(mean, "FP64")
    if width == 1:
        return graph.op("Reshape", mean, graph.integers([-1]))
    graph.widths[mean] = width
    return mean


def _tree_regressor(graph: Graph, estimator: Any, table: Table) -> str:
    return _predicted(graph, *mean_of_leaves(graph, table, [estimator.tree_]))


def _forest_regressor(graph: Graph, estimator: Any, table: Table) -> str:
    return _predicted(graph, *mean_of_leaves(graph, table, [tree.tree_ for tree in estimator.estimators_]))


TRANSLATORS: Final[Mapping[tuple[Kind, str], Translator]] = {
    ("classifier", "DecisionTreeClassifier"): _tree_classifier,
    ("classifier", "ExtraTreeClassifier"): _tree_classifier,
    ("classifier", "RandomForestClassifier"): _forest_classifier,
    ("classifier", "ExtraTreesClassifier"): _forest_classifier,
    ("regressor", "DecisionTreeRegressor"): _tree_regressor,
    ("regressor", "ExtraTreeRegressor"): _tree_regressor,
    ("regressor", "RandomForestRegressor"): _forest_regressor,
    ("regressor", "ExtraTreesRegressor"): _forest_regressor,
}
