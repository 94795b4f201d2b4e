"""Trained models for the page of families, as users would write them: each function is one for ``--from-python``.

Data are scikit-learn's own: 569 rows of 30 numbers, two classes. The child process of a push imports this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer


def rows() -> tuple[pd.DataFrame, Any]:
    found = load_breast_cancer(as_frame=True)
    return found.data.rename(columns=lambda name: name.replace(" ", "_")), found.target


def mixed() -> tuple[pd.DataFrame, Any]:
    """Five of the numbers, some missing, and a category."""
    data, target = rows()
    data = data.iloc[:, :5].copy()
    random = np.random.default_rng(0)
    data["clinic"] = random.choice(["north", "south", "west"], len(data))
    data["mean_area"] = data["mean_area"].mask(random.random(len(data)) < 0.05)
    return data, target


def texts() -> tuple[pd.DataFrame, Any]:
    random = np.random.default_rng(0)
    words = ["the", "room", "was", "good", "bad", "clean", "loud", "quiet", "and", "very", "breakfast", "staff", "rude"]
    made = [" ".join(random.choice(words, random.integers(3, 20))) for _ in range(400)]
    return pd.DataFrame({"review": made}), np.array(["good" in text for text in made]).astype(int)


def _fitted(estimator: Any, data: tuple[pd.DataFrame, Any]) -> Any:
    return estimator.fit(*data)


def logistic_regression() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _fitted(make_pipeline(StandardScaler(), LogisticRegression()), rows())


def column_pipeline() -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    data, target = mixed()
    numbers = [name for name in data if name != "clinic"]
    columns = ColumnTransformer([("n", SimpleImputer(), numbers), ("c", OneHotEncoder(), ["clinic"])])
    return make_pipeline(columns, GradientBoostingClassifier(random_state=0)).fit(data, target)


def forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return _fitted(RandomForestClassifier(100, random_state=0), rows())


def hist_gradient_boosting() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return _fitted(HistGradientBoostingClassifier(random_state=0), rows())


def support_vectors() -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return _fitted(make_pipeline(StandardScaler(), SVC()), rows())


def bag_of_words() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    data, target = texts()
    return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(data["review"], target)


def xgboost() -> Any:
    import xgboost

    return _fitted(xgboost.XGBClassifier(n_estimators=100, n_jobs=1, random_state=0), rows())


def xgboost_linear() -> Any:
    import xgboost

    return _fitted(xgboost.XGBClassifier(booster="gblinear", n_jobs=1, random_state=0), rows())


def lightgbm() -> Any:
    import lightgbm

    return _fitted(lightgbm.LGBMClassifier(n_estimators=100, n_jobs=1, verbose=-1), rows())


def catboost() -> Any:
    import catboost

    return _fitted(catboost.CatBoostClassifier(iterations=100, thread_count=1, **_SILENT), rows())


def catboost_categories() -> Any:
    import catboost

    model = catboost.CatBoostClassifier(iterations=100, thread_count=1, cat_features=["clinic"], **_SILENT)
    return _fitted(model, mixed())


_SILENT: dict[str, Any] = {"verbose": False, "allow_writing_files": False}


class Rules:
    """A plain Python class."""

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"prediction": (inputs["input"][:, 0] > 15).astype(np.int64)}


def rules() -> Any:
    return Rules()
