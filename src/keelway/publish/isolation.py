"""An isolation forest of a sample, for anomaly tags: trained by scikit-learn, written as one ONNX node, and proved.

``contract/anomaly.py`` calls ``grow`` with the rows that the other detectors learn from, and those held out.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.isolation import forest_of, tensors
from keelway.contract.anomaly import Floats
from keelway.errors import FailedPrecondition
from keelway.publish.convert.graph import Graph
from keelway.publish.convert.trees import Tree, ensemble, of_sklearn

#: The largest accepted difference of a score, which is between 0 and 1. Rows reach the same leaves; what differs is the
#: sum of a hundred of them in float32.
TOLERANCE: Final = 1e-5
_SEED: Final = 20_040_101


def grow(blobs: BlobStore, seen: Floats, held_out: Floats) -> tuple[str, Floats]:
    """Train on ``seen``, store, and answer the digest and the scores of ``held_out``, both (rows, features) without
    missing values.

    Raises ``FailedPrecondition`` if scikit-learn is not installed, or answers anything else for ``held_out``.
    """
    try:
        from sklearn.ensemble import IsolationForest
    except ImportError as error:
        raise FailedPrecondition(
            "an isolation forest is trained by scikit-learn, which is not installed",
            hint='pip install "keelway[sklearn]", or leave out --isolation-forest',
        ) from error
    forest = IsolationForest(random_state=_SEED, n_jobs=1).fit(seen)
    model = written(forest)
    scores = forest_of(model, seen.shape[1])(held_out)
    difference = float(np.abs(scores + forest.score_samples(held_out)).max())
    if not difference <= TOLERANCE:
        raise FailedPrecondition(
            f"the isolation forest differs from scikit-learn's by {difference:.2g}, more than {TOLERANCE:g}",
            hint="leave out --isolation-forest, and report this",
        )
    return blobs.put_bytes(model), scores


def written(forest: Any) -> bytes:
    """A fitted ``IsolationForest`` as ONNX. A leaf weighs its depth and the depth that is to be expected below it,
    over that of the whole forest, so that the sum is the exponent of the score."""
    rows, depth = tensors(forest.n_features_in_)
    graph = Graph([rows], "FP32")
    trees = [of_sklearn(estimator.tree_) for estimator in forest.estimators_]
    expected = len(trees) * float(expected_depth(np.array([forest.max_samples_]))[0])
    weights = [
        (_depths(tree) + expected_depth(estimator.tree_.n_node_samples))[tree.leaves] / expected
        for tree, estimator in zip(trees, forest.estimators_, strict=True)
    ]
    targets = [np.zeros(len(weight), np.int64) for weight in weights]
    graph.output(ensemble(graph, rows.name, trees, weights, targets, 1), depth)
    model: bytes = graph.model().SerializeToString(deterministic=True)
    return model


def expected_depth(rows: npt.NDArray[np.integer]) -> Floats:
    """c(n) of the paper (F. T. Liu, K. M. Ting, Z.-H. Zhou, "Isolation forest", ICDM 2008, equation 1): the mean depth
    of the leaves of a random tree over n rows."""
    found: Floats = np.where(rows == 2, 1.0, 0.0)
    many = rows[rows > 2].astype(np.float64)
    found[rows > 2] = 2 * (np.log(many - 1) + np.euler_gamma) - 2 * (many - 1) / many
    return found


def _depths(tree: Tree) -> Floats:
    """Of each node; scikit-learn numbers parents before their children."""
    depths = np.zeros(len(tree.left))
    for node in np.flatnonzero(tree.left != -1):
        depths[[tree.left[node], tree.right[node]]] = depths[node] + 1
    return depths
