"""What the readers make of the libraries' own documents, where no trained model shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from keelway.publish.convert import boosted_catboost, boosted_lightgbm, boosted_xgboost
from keelway.publish.convert.graph import NotTranslated

ZERO = float(np.float32(1e-35))


def lightgbm_text(thresholds: str, decisions: str, objective: str = "regression") -> str:
    return (
        f"tree\nversion=v4\nnum_tree_per_iteration=1\nobjective={objective}\nfeature_names=a b\n\n"
        f"Tree=0\nnum_leaves=3\nsplit_feature=0 1\nthreshold={thresholds}\ndecision_type={decisions}\n"
        "left_child=1 -1\nright_child=-2 -3\nleaf_value=1 2 3\nis_linear=0\n\nend of trees\n"
    )


def test_lightgbms_bits_say_where_missing_values_go() -> None:
    # Bits 2 and 3: nothing is missing (NaN counts as 0), NaN is. Bit 1: missing goes left.
    nothing = boosted_lightgbm.read(lightgbm_text("0.5 -0.5", "0 0"), [None, None], classifies=False)
    assert nothing.trees[0].missing_left.tolist() == [True, False, False, False, False]
    nan = boosted_lightgbm.read(lightgbm_text("0.5 -0.5", "8 10"), [None, None], classifies=False)
    assert nan.trees[0].missing_left.tolist() == [False, True, False, False, False]
    zeros = boosted_lightgbm.read(lightgbm_text("0.5 -0.5", "4 8"), [None, None], classifies=False)
    assert [column.zero_is_missing for column in zeros.columns] == [True, False]


def test_lightgbms_thresholds_beside_zero_decide_for_numbers_that_it_takes_for_zero() -> None:
    read = boosted_lightgbm.read(lightgbm_text(f"{-ZERO!r} 0", "8 8"), [None, None], classifies=False)
    below, above = read.trees[0].threshold[:2]
    assert below < -ZERO  # the number itself counts as zero, which is above
    assert above == ZERO  # and this one as zero, which is not
    assert read.trees[0].left[:2].tolist() == [1, 2]
    assert read.trees[0].right[:2].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("objective", "classifies", "link", "factor"),
    [
        ("binary sigmoid:0.7", True, "binary", 0.7),
        ("binary sigmoid:1", False, "logistic", 1.0),
        ("regression sqrt", False, "signed_square", 1.0),
        ("tweedie", False, "exp", 1.0),
        ("rank_xendcg", False, "identity", 1.0),
    ],
)
def test_lightgbms_objectives_have_their_links(objective: str, classifies: bool, link: str, factor: float) -> None:
    read = boosted_lightgbm.read(lightgbm_text("0 0", "0 0", objective), [None, None], classifies=classifies)
    assert (read.link, read.factor) == (link, factor)


def xgboost_document(objective: str = "reg:squarederror", base: str = "[5E-1]", **tree: Any) -> dict[str, Any]:
    node = {
        "tree_param": {"size_leaf_vector": "1"},
        "left_children": [1, -1, -1],
        "right_children": [2, -1, -1],
        "split_indices": [0, 0, 0],
        "split_conditions": [0.25, -1.5, 2.0],
        "default_left": [1, 0, 0],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "categories": [],
    }
    return {
        "learner": {
            "feature_types": [],
            "objective": {"name": objective},
            "learner_model_param": {"base_score": base, "num_class": "0", "num_feature": "1", "num_target": "1"},
            "gradient_booster": {"name": "gbtree", "model": {"trees": [node | tree], "tree_info": [0]}},
        }
    }


def test_xgboosts_thresholds_are_the_float_below() -> None:
    read = boosted_xgboost.read(xgboost_document(), classifies=False)
    assert read.trees[0].threshold[0] == np.nextafter(np.float32(0.25), np.float32(0))
    assert read.values[0].tolist() == [-1.5, 2.0]
    assert read.values[0].dtype == np.float32
    assert (read.number, read.start.tolist()) == ("FP32", [0.5])


def test_xgboosts_sets_of_categories_go_right() -> None:
    sets = {"categories_nodes": [0], "categories_segments": [0], "categories_sizes": [2], "categories": [1, 4]}
    tree = boosted_xgboost.read(xgboost_document(**sets), classifies=False).trees[0]
    assert (tree.left[0], tree.right[0], tree.missing_left[0]) == (2, 1, False)
    assert tree.members == {0: [1.0, 4.0]}


@pytest.mark.parametrize(
    ("objective", "base", "start"),
    [("binary:logistic", "[2.5E-1]", -np.log(3)), ("count:poisson", "2E0", np.log(2)), ("rank:ndcg", "5E-1", 0.5)],
)
def test_xgboosts_base_score_is_brought_before_the_link(objective: str, base: str, start: float) -> None:
    read = boosted_xgboost.read(xgboost_document(objective, base), classifies=objective.startswith("binary"))
    assert read.start[0] == pytest.approx(start, rel=1e-6)


def test_unknown_objectives_are_named() -> None:
    with pytest.raises(NotTranslated, match="the objective reg:new"):
        boosted_xgboost.read(xgboost_document("reg:new"), classifies=False)
    with pytest.raises(NotTranslated, match="the objective binary:hinge"):
        boosted_xgboost.read(xgboost_document("binary:hinge"), classifies=True)


def test_catboosts_symmetric_tree_is_written_out_bit_by_bit() -> None:
    borders = [{"border": float(at), "float_feature_index": at, "split_type": "FloatFeature"} for at in range(3)]
    floats = [
        {"feature_index": at, "flat_feature_index": at, "nan_value_treatment": "AsTrue" if at else "AsIs"}
        for at in range(3)
    ]
    document = {
        "features_info": {"float_features": floats},
        "oblivious_trees": [{"splits": borders, "leaf_values": [float(value) for value in range(8)]}],
        "scale_and_bias": [2, [1.0]],
    }
    read = boosted_catboost.read(document, {}, loss="", prediction_type="RawFormulaVal")
    tree = read.trees[0]
    for leaf in range(8):
        node = 0
        while tree.left[node] != -1:
            answered = leaf >> int(tree.feature[node]) & 1
            node = int(tree.right[node] if answered else tree.left[node])
        assert read.values[0][list(tree.leaves).index(node)] == 2.0 * leaf
    assert tree.missing_left[:7].tolist() == [True, False, False, False, False, False, False]
    assert read.start.tolist() == [1.0]
