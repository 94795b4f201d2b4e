"""One small trained model per family of scikit-learn, on small data: what the parity page shows and the tests run.

Data are scikit-learn's own or drawn from a fixed seed; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from keelway.types import Array

Data = Literal[
    "two classes",
    "three classes",
    "numbers",
    "missing values",
    "mixed columns",
    "mixed, numbers",
    "categories",
    "ranked rows",
]

_ROWS: Final = 400


@dataclass(frozen=True, slots=True)
class Family:
    """``make`` builds the unfitted estimator; ``data`` names what it is trained on, ``fit`` what else it is given."""

    name: str
    data: Data
    make: Callable[[], Any]
    fit: Mapping[str, Any] = field(default_factory=dict)

    def trained(self) -> tuple[Any, pd.DataFrame]:
        """The fitted estimator and its features."""
        features, target = data_of(self.data)
        return self.make().fit(features, target, **self.fit), features


def data_of(name: Data) -> tuple[pd.DataFrame, Array]:
    """Features and target of the data called ``name``: 400 rows each, 442 of "numbers" and "ranked rows"."""
    import pandas as pd
    from sklearn.datasets import load_diabetes, make_classification

    if name == "numbers":
        diabetes = load_diabetes(as_frame=True)
        return diabetes.data, diabetes.target.to_numpy()
    if name == "ranked rows":  # three grades
        diabetes = load_diabetes(as_frame=True)
        return diabetes.data, np.digitize(diabetes.target, [100, 200])
    if name == "categories":
        frame, target = _mixed(numbers=False)
        texts = {"city": frame["city"].fillna("unknown").astype("category"), "plan": frame["plan"].astype("category")}
        return frame.assign(**texts), (target == "yes").astype(int)
    if name in ("mixed columns", "mixed, numbers"):
        return _mixed(numbers=name == "mixed, numbers")
    x, y = make_classification(_ROWS, 8, n_informative=5, n_classes=3, random_state=1)
    frame = pd.DataFrame(x, columns=[f"x{column}" for column in range(x.shape[1])])
    if name == "missing values":
        frame = frame.mask(np.random.default_rng(2).random(frame.shape) < 0.1)
    return frame, np.where(y > 0, 1, 0) if name == "two classes" else y


def _mixed(*, numbers: bool) -> tuple[pd.DataFrame, Array]:
    """Whole numbers, skewed numbers with gaps, text with gaps, text without, and a boolean."""
    import pandas as pd

    random = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "age": random.integers(18, 80, _ROWS),
            "income": random.lognormal(10, 1, _ROWS),
            "city": random.choice(["Bonn", "Lima", "Oslo", "Rome"], _ROWS),
            "plan": random.choice(["a", "b", "c"], _ROWS),
            "member": random.random(_ROWS) < 0.4,
        }
    )
    amount = frame["age"] / 10 + np.log(frame["income"]) + 2 * (frame["plan"] == "a") + random.normal(size=_ROWS)
    for column in ("income", "city"):
        frame[column] = frame[column].mask(random.random(_ROWS) < 0.1)
    return frame, amount.to_numpy() if numbers else np.where(amount > amount.median(), "yes", "no")


def _prepared(model: Any, *, ordinal: bool = False) -> Any:
    """Impute, scale and encode the mixed columns, then ``model``."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    encoder: Any = OneHotEncoder(handle_unknown="ignore")
    if ordinal:
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), ["age", "income"]),
            ("texts", make_pipeline(SimpleImputer(strategy="most_frequent"), encoder), ["city", "plan"]),
        ],
        remainder="passthrough",
    )
    return make_pipeline(columns, model)


def _linear(name: str, **settings: Any) -> Callable[[], Any]:
    return _made("linear_model", name, **settings)


def _made(module: str, name: str, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        from importlib import import_module

        return getattr(import_module(f"sklearn.{module}"), name)(**settings)

    return make


def _scaled(make: Callable[[], Any]) -> Callable[[], Any]:
    def scaled() -> Any:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), make())

    return scaled


def _forest(name: str, **settings: Any) -> Callable[[], Any]:
    return _made("ensemble", name, random_state=0, **settings)


def _calibrated(method: str) -> Callable[[], Any]:
    def make() -> Any:
        from sklearn.calibration import CalibratedClassifierCV

        inner = _made("svm", "LinearSVC") if method == "sigmoid" else _forest("RandomForestClassifier", n_estimators=20)
        return CalibratedClassifierCV(inner(), method=method, cv=3)

    return make


def _voting(name: str, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        from sklearn import ensemble

        classifies = name.endswith("Classifier")
        linear = _linear("LogisticRegression") if classifies else _linear("Ridge")
        kind = "Classifier" if classifies else "Regressor"
        members = [("linear", linear()), ("forest", _forest(f"RandomForest{kind}", n_estimators=20)())]
        return getattr(ensemble, name)(members, **settings)

    return make


def _family(data: Data, name: str, make: Callable[[], Any]) -> Family:
    return Family(name, data, make)


FAMILIES: Final[tuple[Family, ...]] = (
    _family("two classes", "LogisticRegression", _linear("LogisticRegression")),
    _family("three classes", "LogisticRegression", _linear("LogisticRegression")),
    _family("two classes", "LinearSVC", _made("svm", "LinearSVC")),
    _family("three classes", "SGDClassifier", _linear("SGDClassifier", loss="log_loss", random_state=0)),
    _family("three classes", "RidgeClassifier", _linear("RidgeClassifier")),
    _family("numbers", "LinearRegression", _linear("LinearRegression")),
    _family("numbers", "Ridge", _linear("Ridge")),
    _family("numbers", "ElasticNet", _linear("ElasticNet", alpha=0.01)),
    _family("two classes", "MLPClassifier", _made("neural_network", "MLPClassifier", max_iter=50, random_state=0)),
    _family("numbers", "MLPRegressor", _scaled(_made("neural_network", "MLPRegressor", max_iter=50, random_state=0))),
    _family("three classes", "DecisionTreeClassifier", _made("tree", "DecisionTreeClassifier", random_state=0)),
    _family("numbers", "DecisionTreeRegressor", _made("tree", "DecisionTreeRegressor", random_state=0)),
    _family("two classes", "RandomForestClassifier", _forest("RandomForestClassifier")),
    _family(
        "three classes", "RandomForestClassifier, impure leaves", _forest("RandomForestClassifier", min_samples_leaf=3)
    ),
    _family("missing values", "RandomForestClassifier", _forest("RandomForestClassifier")),
    _family("numbers", "RandomForestRegressor", _forest("RandomForestRegressor")),
    _family("three classes", "ExtraTreesClassifier", _forest("ExtraTreesClassifier")),
    _family("numbers", "ExtraTreesRegressor", _forest("ExtraTreesRegressor")),
    _family("two classes", "GradientBoostingClassifier", _forest("GradientBoostingClassifier")),
    _family("three classes", "GradientBoostingClassifier", _forest("GradientBoostingClassifier", n_estimators=30)),
    _family("numbers", "GradientBoostingRegressor", _forest("GradientBoostingRegressor")),
    _family("missing values", "HistGradientBoostingClassifier", _forest("HistGradientBoostingClassifier")),
    _family("numbers", "HistGradientBoostingRegressor", _forest("HistGradientBoostingRegressor")),
    _family(
        "mixed columns",
        "HistGradientBoostingClassifier, categories",
        _forest("HistGradientBoostingClassifier", categorical_features=["city", "plan"]),
    ),
    _family("two classes", "CalibratedClassifierCV, sigmoid", _calibrated("sigmoid")),
    _family("three classes", "CalibratedClassifierCV, isotonic", _calibrated("isotonic")),
    _family("three classes", "KNeighborsClassifier", _made("neighbors", "KNeighborsClassifier")),
    _family("numbers", "KNeighborsRegressor", _made("neighbors", "KNeighborsRegressor")),
    _family("three classes", "GaussianNB", _made("naive_bayes", "GaussianNB")),
    _family("two classes", "SVC", _made("svm", "SVC")),
    _family("three classes", "SVC", _made("svm", "SVC")),
    _family("two classes", "SVC, probabilities", _made("svm", "SVC", probability=True, random_state=0)),
    _family("numbers", "SVR", _made("svm", "SVR")),
    _family("three classes", "VotingClassifier, soft", _voting("VotingClassifier", voting="soft")),
    _family("three classes", "VotingClassifier, hard", _voting("VotingClassifier")),
    _family("numbers", "VotingRegressor", _voting("VotingRegressor")),
    _family("three classes", "StackingClassifier", _voting("StackingClassifier")),
    _family("three classes", "BaggingClassifier", _forest("BaggingClassifier", max_features=0.6)),
    _family("two classes", "AdaBoostClassifier", _forest("AdaBoostClassifier", n_estimators=20)),
    _family("two classes", "StandardScaler, RandomForest", _scaled(_forest("RandomForestClassifier"))),
    _family("two classes", "StandardScaler, GradientBoosting", _scaled(_forest("GradientBoostingClassifier"))),
    _family("mixed columns", "encoders, LogisticRegression", lambda: _prepared(_linear("LogisticRegression")())),
    _family("mixed columns", "encoders, RandomForest", lambda: _prepared(_forest("RandomForestClassifier")())),
    _family(
        "mixed columns",
        "ordinal codes, HistGradientBoosting",
        lambda: _prepared(_forest("HistGradientBoostingClassifier")(), ordinal=True),
    ),
    _family("mixed, numbers", "encoders, Ridge", lambda: _prepared(_linear("Ridge")())),
)
