"""Estimators beside the families of the parity page: each is translated to the same labels and values on its sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from keelway.contract.signature import infer_features, pack
from keelway.publish.convert.graph import Column, Graph, NotTranslated
from keelway.publish.convert.translate import Translation, classify, translate
from keelway.publish.rows import rows_of, tensors
from keelway.types import Array, TensorSpec


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    random = np.random.default_rng(11)
    x = random.normal(size=(200, 4)).astype(np.float32).astype(np.float64)
    x[:5] = 0.0  # a row of zeros has no direction
    return pd.DataFrame(x, columns=["a", "b", "c", "d"])


@pytest.fixture(scope="module")
def classes(frame: pd.DataFrame) -> Array:
    return np.digitize(frame["a"] + frame["b"] ** 2, [0.0, 1.0])


def translated(estimator: Any, frame: pd.DataFrame, number: Any = "FP64") -> Translation:
    features = infer_features(frame)
    return translate(estimator, pack(features), features, number)


def answered(model: onnx.ModelProto, given: dict[str, Array]) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def check(estimator: Any, frame: pd.DataFrame) -> onnx.ModelProto:
    model = translated(estimator, frame).model
    found = answered(model, tensors(rows_of(frame), pack(infer_features(frame))))
    if "label" not in found:
        assert found["prediction"] == pytest.approx(estimator.predict(frame), rel=1e-6, abs=1e-6)
        return model
    assert found["label"].tolist() == estimator.predict(frame).tolist()
    if "scores" in found:
        scores = estimator.decision_function(frame)
        assert found["scores"] == pytest.approx(scores.reshape(len(frame), -1), rel=1e-5, abs=1e-5)
    if "probabilities" in found:
        assert found["probabilities"] == pytest.approx(estimator.predict_proba(frame), abs=1e-6)
    return model


TRANSFORMERS = [
    MinMaxScaler(feature_range=(-1, 2), clip=True),
    RobustScaler(),
    MaxAbsScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    Normalizer("l1"),
    Normalizer("l2"),
    Normalizer("max"),
    Binarizer(threshold=0.5),
    PolynomialFeatures(3),
    PolynomialFeatures(2, interaction_only=True, include_bias=False),
    KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"),
    KBinsDiscretizer(4, encode="ordinal", strategy="uniform"),
    SelectKBest(k=2),
    FunctionTransformer(np.abs),
    FunctionTransformer(np.expm1),
    FunctionTransformer(np.square),
    FunctionTransformer(),
    FeatureUnion([("scaled", StandardScaler()), ("raw", "passthrough")], transformer_weights={"scaled": 3.0}),
    ColumnTransformer([("a", StandardScaler(), ["c", "a"]), ("b", "drop", ["b"])], remainder="passthrough"),
    ColumnTransformer([("a", "passthrough", slice(1, 3)), ("b", MinMaxScaler(), [0])], transformer_weights={"a": 2.0}),
    PCA(3),
]


@pytest.mark.parametrize("transformer", TRANSFORMERS, ids=repr)
def test_a_transformer_before_a_forest_flips_no_branch(transformer: Any, frame: pd.DataFrame, classes: Array) -> None:
    check(make_pipeline(transformer, RandomForestClassifier(5, random_state=0)).fit(frame, classes), frame)


CLASSIFIERS = [
    LinearDiscriminantAnalysis(),
    SGDClassifier(loss="modified_huber", random_state=0),
    GradientBoostingClassifier(n_estimators=5, random_state=0),
    GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
    SVC(kernel="poly", degree=2),
    SVC(kernel="sigmoid"),
    SVC(kernel="linear", decision_function_shape="ovo"),
    RidgeClassifier(),
    DecisionTreeClassifier(max_leaf_nodes=2),
]


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=repr)
def test_a_classifier_is_translated(classifier: Any, frame: pd.DataFrame, classes: Array) -> None:
    check(classifier.fit(frame, classes), frame)


def test_a_tree_that_is_one_leaf_is_translated(frame: pd.DataFrame) -> None:
    check(RandomForestClassifier(3).fit(frame, np.array([0] * 199 + [1])), frame)
    check(RandomForestRegressor(3).fit(frame, np.ones(200)), frame)


def test_boosting_by_the_exponential_loss_is_translated(frame: pd.DataFrame, classes: Array) -> None:
    check(GradientBoostingClassifier(loss="exponential", n_estimators=5).fit(frame, classes > 0), frame)


REGRESSORS = [
    PoissonRegressor(),
    HistGradientBoostingRegressor(loss="poisson", max_iter=5),
    GradientBoostingRegressor(loss="huber", n_estimators=5),
    TransformedTargetRegressor(LinearRegression(), func=np.log1p, inverse_func=np.expm1),
    TransformedTargetRegressor(Ridge(), func=np.sqrt, inverse_func=np.square),
]


@pytest.mark.parametrize("regressor", REGRESSORS, ids=repr)
def test_a_regressor_is_translated(regressor: Any, frame: pd.DataFrame, classes: Array) -> None:
    check(regressor.fit(frame, classes + 0.5), frame)


def test_several_targets_are_translated(frame: pd.DataFrame) -> None:
    targets = frame[["a", "b"]].to_numpy() ** 2
    for regressor in (RandomForestRegressor(5, min_samples_leaf=3), LinearRegression()):
        model = check(regressor.fit(frame, targets), frame)
        assert [axis.dim_value for axis in model.graph.output[0].type.tensor_type.shape.dim] == [0, 2]


def test_all_columns_in_order_need_no_node_to_choose_them(frame: pd.DataFrame) -> None:
    steps = ColumnTransformer([("scaled", StandardScaler(), ["a", "b", "c", "d"])])
    model = check(make_pipeline(steps, LinearRegression()).fit(frame, frame["a"]), frame)
    assert "Gather" not in {node.op_type for node in model.graph.node}
    assert len(model.graph.input) == 1


def test_columns_of_every_kind_are_packed_by_datatype() -> None:
    frame = pd.DataFrame({"n": [1.0, 2.0, 3.0], "t": ["x", "y", "x"], "f": [True, False, True], "m": [3.0, 2.0, 1.0]})
    steps = ColumnTransformer([("numbers", "passthrough", ["m", "f", "n"])])
    model = check(make_pipeline(steps, LinearRegression()).fit(frame, [1.0, 2.0, 4.0]), frame)
    assert {value.name for value in model.graph.input} == {"input_fp32", "input_bytes", "input_bool"}


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        (make_pipeline(FunctionTransformer(np.round), Ridge()), "a function of its own"),
        (GradientBoostingClassifier(init=LogisticRegression(), n_estimators=2), "starts from another estimator"),
        (TransformedTargetRegressor(Ridge(), transformer=StandardScaler()), "is not a function"),
    ],
)
def test_what_is_not_known_is_said_not_guessed(
    estimator: Any, reason: str, frame: pd.DataFrame, classes: Array
) -> None:
    with pytest.raises(NotTranslated, match=reason):
        translated(estimator.fit(frame, classes > 0), frame)


# libsvm's probabilities


def _coupled(first: float) -> float:
    """libsvm's multiclass_probability for two classes, line by line; the share of the first."""
    a, b = 1 - first, first
    q = np.array([[a * a, -a * b], [-a * b, b * b]])
    p = np.array([0.5, 0.5])
    for _ in range(100):
        qp = q @ p
        pqp = p @ qp
        if np.abs(qp - pqp).max() < 0.005 / 2:
            break
        for t in range(2):
            step = (-qp[t] + pqp) / q[t, t]
            p[t] += step
            pqp = (pqp + step * (step * q[t, t] + 2 * qp[t])) / (1 + step) / (1 + step)
            qp = (qp + step * q[t]) / (1 + step)
            p /= 1 + step
    return float(p[0])


def test_two_rounds_of_libsvms_coupling_are_all_there_are() -> None:
    from types import SimpleNamespace

    from keelway.publish.convert.machines import _platt

    graph = Graph([TensorSpec("pair", "FP64", (-1, 1))], "FP64")
    machine = SimpleNamespace(_probA=np.array([-1.3]), _probB=np.array([0.2]))
    graph.output(_platt(graph, machine, "pair"), TensorSpec("shares", "FP64", (-1, 2)))
    pairs = np.concatenate([np.linspace(-20, 20, 4_001), np.linspace(-0.5, 0.5, 2_001)])
    first = np.clip(1 / (1 + np.exp(-1.3 * pairs + 0.2)), 1e-7, 1 - 1e-7)
    found = answered(graph.model(), {"pair": pairs[:, None]})["shares"]
    assert found[:, 0] == pytest.approx([_coupled(value) for value in first], abs=1e-12)
    assert found.sum(axis=1) == pytest.approx(np.ones(len(pairs)))


@pytest.mark.parametrize(
    "boosting",
    [GradientBoostingClassifier(n_estimators=60, random_state=0), HistGradientBoostingClassifier(max_iter=60)],
    ids=repr,
)
def test_boosted_trees_are_added_in_scikit_learns_order_to_the_last_bit(
    boosting: Any, frame: pd.DataFrame, classes: Array
) -> None:
    boosting.fit(frame, classes > 0)
    (spec,) = pack(infer_features(frame, "FP64"))
    graph = Graph([spec], "FP64")
    decision = classify(graph, boosting, tuple(Column(spec.name, at) for at in range(4))).decision
    assert decision is not None
    graph.output(decision, TensorSpec("decision", "FP64", (-1, 1)))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.model().SerializeToString(), settings, ["CPUExecutionProvider"])
    found = session.run(None, {spec.name: frame.to_numpy()})[0]
    assert found[:, 0].tolist() == boosting.decision_function(frame).tolist()
