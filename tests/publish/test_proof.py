"""The proof can fail: every way of being wrong that is worth naming is shown to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from keelway.contract.signature import infer_features, pack
from keelway.publish.answers import Answers, joined
from keelway.publish.convert.translate import translate
from keelway.publish.original import Original, nodes_of
from keelway.publish.perturb import NODES, Perturbation
from keelway.publish.proof import Comparison, compare, spread
from keelway.publish.proving import prove
from keelway.publish.rows import Rows, rows_of
from keelway.publish.rows import joined as joined_rows
from keelway.types import Array, TensorSpec


def answers(values: list[Any], labels: list[Any] | None = None, accepted: list[bool] | None = None) -> Answers:
    array = np.array(values, dtype=np.float64).reshape(len(values), -1)
    return Answers(
        None if labels is None else np.array(labels), array, np.array(accepted or [True] * len(values), dtype=bool)
    )


def test_equal_answers_hold() -> None:
    found = compare(answers([[0.2, 0.8]], ["b"]), answers([[0.2, 0.8]], ["b"]), None, 1e-5)
    assert found.holds
    assert (found.rows, found.worst_difference, found.beyond) == (1, 0.0, 0.0)


def test_one_different_label_fails_whatever_the_tolerance() -> None:
    found = compare(answers([[0.5], [0.5]], [0, 1]), answers([[0.5], [0.5]], [0, 0]), None, 1.0)
    assert not found.holds
    assert (found.label_differences, found.worst_row) == (1, 1)


def test_a_difference_beyond_the_tolerance_fails_and_names_its_row() -> None:
    found = compare(answers([[0.5]] * 4), answers([[0.5], [0.5], [0.6], [0.5]]), None, 1e-5)
    assert not found.holds
    assert (found.worst_row, found.beyond) == (2, 0.25)
    assert found.worst_difference == pytest.approx(0.1)


def test_a_predicted_value_is_judged_by_the_scale_of_the_target() -> None:
    original, candidate = answers([[1e6], [2e6], [3e6]]), answers([[1e6 + 1], [2e6], [3e6]])
    assert compare(original, candidate, spread(original.values), 1e-5).holds
    assert not compare(original, candidate, spread(original.values), 1e-7).holds


def test_what_is_no_number_on_one_side_only_is_an_infinite_difference() -> None:
    assert not compare(answers([[np.nan]]), answers([[0.0]]), np.ones(1), 1e3).holds
    assert not compare(answers([[0.0]]), answers([[np.nan]]), np.ones(1), 1e3).holds
    assert compare(answers([[np.nan]]), answers([[np.nan]]), np.ones(1), 1e-5).holds


def test_a_value_beyond_float32_may_arrive_as_infinite_but_a_finite_one_may_not() -> None:
    assert compare(answers([[1e39]]), answers([[np.inf]]), np.ones(1), 1e-5).holds
    assert not compare(answers([[1e30]]), answers([[np.inf]]), np.ones(1), 1e-5).holds


def test_rows_that_the_original_refuses_prove_nothing() -> None:
    found = compare(answers([[0.5], [0.5]], None, [True, False]), answers([[0.5], [9.0]]), None, 1e-5)
    assert found.holds
    assert (found.rows, found.refused) == (1, 1)
    assert not compare(answers([[0.5]], None, [False]), answers([[0.5]]), None, 1e-5).holds


def test_the_spread_of_constant_answers_is_their_size() -> None:
    assert spread(np.array([[5.0, 0.0], [5.0, 0.0]])).tolist() == [5.0, 1.0]


# A conversion that is wrong on purpose


class Case:
    """A fitted estimator with the rows of its proof and what it answers to them."""

    def __init__(self, estimator: Any, sample: pd.DataFrame) -> None:
        self.estimator = estimator
        self.features = infer_features(sample)
        self.inputs: tuple[TensorSpec, ...] = pack(self.features)
        rows = rows_of(sample)
        original = Original(estimator, tuple(sample.columns))
        nodes = nodes_of(estimator, original.columns, rows, NODES, np.random.default_rng(0))
        made = Perturbation(rows, frozenset()).rows(original.labels, original.values, nodes)
        perturbed = joined_rows([part for _, part in made])
        self.rows: Rows = joined_rows([rows, perturbed])
        self.answers = joined([original.answers(sample), original.answers(perturbed.frame())])

    def model(self, number: Any = "FP32") -> onnx.ModelProto:
        return translate(self.estimator, self.inputs, self.features, number).model

    def compared(self, model: onnx.ModelProto, folder: Path) -> Comparison:
        path = folder / "model.onnx"
        onnx.save(model, path)
        return prove(path, self.inputs, self.rows, self.answers, None, 1e-5)

    def holds(self, model: onnx.ModelProto, folder: Path) -> bool:
        return self.compared(model, folder).holds


@pytest.fixture(scope="module")
def tree(table: tuple[pd.DataFrame, Array]) -> Case:
    sample, target = table
    return Case(DecisionTreeClassifier(max_depth=4, random_state=0).fit(sample, target), sample)


def _nudged(model: onnx.ModelProto, position: int, direction: float) -> onnx.ModelProto:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "nodes_splits":
                splits = numpy_helper.to_array(attribute.t).copy()
                splits[position] = np.nextafter(splits[position], np.float32(direction))
                attribute.t.CopyFrom(numpy_helper.from_array(splits))
    return model


def test_a_right_conversion_holds(tree: Case, tmp_path: Path) -> None:
    assert tree.holds(tree.model(), tmp_path)


@pytest.mark.parametrize("direction", [-np.inf, np.inf])
def test_every_threshold_moved_to_the_next_float32_is_caught(tree: Case, tmp_path: Path, direction: float) -> None:
    inner = int((tree.estimator.tree_.children_left != -1).sum())
    missed = [at for at in range(inner) if tree.holds(_nudged(tree.model(), at, direction), tmp_path)]
    assert missed == []


def test_one_threshold_of_a_whole_forest_moved_to_the_next_float32_is_caught(
    table: tuple[pd.DataFrame, Array], tmp_path: Path
) -> None:
    sample, target = table
    case = Case(RandomForestClassifier(20, max_depth=5, random_state=0).fit(sample, target), sample)
    assert case.holds(case.model(), tmp_path)
    assert not case.holds(_nudged(case.model(), 137, np.inf), tmp_path)


def test_swapped_classes_are_caught(tree: Case, tmp_path: Path) -> None:
    model = tree.model()
    gather = next(node for node in model.graph.node if "label" in node.output)
    classes = next(tensor for tensor in model.graph.initializer if tensor.name == gather.input[0])
    classes.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(classes)[::-1].copy(), classes.name))
    assert not tree.holds(model, tmp_path)


def test_swapped_probabilities_are_caught(tree: Case, tmp_path: Path) -> None:
    model = tree.model()
    node = next(node for node in model.graph.node if "probabilities" in node.output)
    node.output[0] = "other_way_round"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 0]), "order"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["other_way_round", "order"], ["probabilities"], axis=1))
    assert not tree.holds(model, tmp_path)


def test_a_coefficient_that_is_rounded_to_single_precision_is_caught(
    table: tuple[pd.DataFrame, Array], tmp_path: Path
) -> None:
    sample, target = table
    case = Case(LogisticRegression().fit(sample, target), sample)
    assert case.holds(case.model("FP64"), tmp_path)
    assert not case.holds(case.model("FP32"), tmp_path)


def test_a_naive_conversion_of_a_scaled_forest_is_caught(table: tuple[pd.DataFrame, Array], tmp_path: Path) -> None:
    """Why this package has translators of its own: float32 arithmetic before a tree flips branches."""
    sample, target = table
    estimator = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(sample, target)
    case = Case(estimator, sample)
    naive = to_onnx(estimator, sample.to_numpy(np.float32)[:1], options={"zipmap": False}, target_opset=18)
    _rename(naive, "X", "input")
    found = case.compared(naive, tmp_path)
    assert 0 < found.label_differences < 0.1 * found.rows  # right nearly everywhere, which is the danger
    assert case.holds(case.model("FP64"), tmp_path)


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            changed = [new if name == old else name for name in names]
            del names[:]
            names.extend(changed)


@pytest.mark.parametrize("leaf", [1, 4])
def test_ties_of_a_forest_fall_as_they_do_in_scikit_learn(leaf: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sample = pd.DataFrame(random.normal(size=(300, 3)), columns=["a", "b", "c"])
    target = random.integers(0, 2, 300)  # noise: half the trees say one thing, half the other
    case = Case(RandomForestClassifier(10, min_samples_leaf=leaf, random_state=0).fit(sample, target), sample)
    if leaf == 1:
        assert (case.answers.values[:, 0] == case.answers.values[:, 1]).sum() > 100
    assert case.holds(case.model(), tmp_path)
