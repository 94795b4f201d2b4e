"""What the tests of gradient boosting share: small models of each library, in small files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import catboost
import lightgbm
import numpy as np
import pandas as pd
import xgboost

from keelway.types import Array

LIBRARIES: Final = ("xgboost", "lightgbm", "catboost")


def rows(seed: int = 0, count: int = 200) -> pd.DataFrame:
    """Two numbers, one of them with gaps, and two columns of categories."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({"size": random.normal(size=count), "age": random.integers(0, 60, count).astype(float)})
    frame.loc[random.random(count) < 0.1, "age"] = np.nan
    frame["city"] = random.choice(["Bonn", "Lima", "Oslo"], count)
    frame["floor"] = random.integers(1, 5, count)
    return frame


def target(frame: pd.DataFrame) -> Array:
    value = frame["size"] + frame["age"].fillna(30) / 30 + (frame["city"] == "Lima") + (frame["floor"] == 3)
    return value.to_numpy()


def classes(frame: pd.DataFrame, count: int = 2) -> Array:
    value = target(frame)
    return np.digitize(value, np.quantile(value, np.arange(1, count) / count))


NUMBERS: Final = ["size", "age"]


def classifier(library: str, **settings: Any) -> Any:
    """A small unfitted classifier of ``library``, single-threaded and silent."""
    if library == "xgboost":
        return xgboost.XGBClassifier(**{"n_estimators": 12, "max_depth": 3, "n_jobs": 1} | settings)
    if library == "lightgbm":
        small = {"n_estimators": 12, "num_leaves": 6, "min_child_samples": 5, "n_jobs": 1, "verbose": -1}
        return lightgbm.LGBMClassifier(**small | settings)
    quiet = {"iterations": 12, "depth": 3, "thread_count": 1, "verbose": False, "allow_writing_files": False}
    return catboost.CatBoostClassifier(**quiet | settings)


def saved(estimator: Any, path: Path) -> Path:
    """The estimator in its library's own file, by the library's own means."""
    if hasattr(estimator, "booster_"):
        estimator.booster_.save_model(path)
    elif path.suffix == ".json" and isinstance(estimator, catboost.CatBoost):
        estimator.save_model(str(path), format="json")
    else:
        estimator.save_model(str(path))
    return path


SUFFIXES: Final = {"xgboost": ".ubj", "lightgbm": ".txt", "catboost": ".cbm"}
