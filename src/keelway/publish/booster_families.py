"""Models of XGBoost, LightGBM and CatBoost as ``families.py`` has those of scikit-learn: small, on the same data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from keelway.publish.families import Data, Family

#: "ranked rows" come in as many groups of so many.
_GROUPS: Final = 17
_IN_GROUP: Final = 26


def _xgboost(name: str, **settings: Any) -> Callable[[], Any]:
    return _made("xgboost", name, {"n_estimators": 50, "random_state": 0, "n_jobs": 1} | settings)


def _lightgbm(name: str, **settings: Any) -> Callable[[], Any]:
    shared = {"n_estimators": 50, "random_state": 0, "n_jobs": 1, "verbose": -1, "deterministic": True}
    return _made("lightgbm", name, shared | settings)


def _catboost(name: str, **settings: Any) -> Callable[[], Any]:
    shared = {"iterations": 50, "random_seed": 0, "thread_count": 1, "verbose": False, "allow_writing_files": False}
    return _made("catboost", name, shared | settings)


def _made(library: str, name: str, settings: dict[str, Any]) -> Callable[[], Any]:
    def make() -> Any:
        from importlib import import_module

        return getattr(import_module(library), name)(**settings)

    return make


def _scaled(make: Callable[[], Any]) -> Callable[[], Any]:
    def scaled() -> Any:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), make())

    return scaled


def _family(data: Data, name: str, make: Callable[[], Any], **fit: Any) -> Family:
    return Family(name, data, make, fit)


_NUMBERS_OF_GROUPS: Final = np.repeat(np.arange(_GROUPS), _IN_GROUP)
_SMALL_CATEGORIES: Final = {"min_child_samples": 5, "min_data_per_group": 5}

BOOSTERS: Final[tuple[Family, ...]] = (
    _family("two classes", "XGBClassifier", _xgboost("XGBClassifier")),
    _family("three classes", "XGBClassifier", _xgboost("XGBClassifier")),
    _family("missing values", "XGBClassifier", _xgboost("XGBClassifier")),
    _family("categories", "XGBClassifier", _xgboost("XGBClassifier", enable_categorical=True, max_cat_to_onehot=2)),
    _family("numbers", "XGBRegressor", _xgboost("XGBRegressor")),
    _family("numbers", "XGBRegressor, Poisson", _xgboost("XGBRegressor", objective="count:poisson")),
    _family("numbers", "XGBRegressor, dart", _xgboost("XGBRegressor", booster="dart", rate_drop=0.3)),
    _family("numbers", "XGBRegressor, gblinear", _xgboost("XGBRegressor", booster="gblinear")),
    _family("ranked rows", "XGBRanker", _xgboost("XGBRanker"), qid=_NUMBERS_OF_GROUPS),
    _family("two classes", "StandardScaler, XGBClassifier", _scaled(_xgboost("XGBClassifier"))),
    _family("two classes", "LGBMClassifier", _lightgbm("LGBMClassifier")),
    _family("three classes", "LGBMClassifier", _lightgbm("LGBMClassifier")),
    _family("missing values", "LGBMClassifier", _lightgbm("LGBMClassifier")),
    _family("missing values", "LGBMClassifier, zeros missing", _lightgbm("LGBMClassifier", zero_as_missing=True)),
    _family("categories", "LGBMClassifier", _lightgbm("LGBMClassifier", **_SMALL_CATEGORIES)),
    _family("numbers", "LGBMRegressor", _lightgbm("LGBMRegressor")),
    _family("numbers", "LGBMRegressor, linear leaves", _lightgbm("LGBMRegressor", linear_tree=True)),
    _family("ranked rows", "LGBMRanker", _lightgbm("LGBMRanker"), group=[_IN_GROUP] * _GROUPS),
    _family("two classes", "StandardScaler, LGBMClassifier", _scaled(_lightgbm("LGBMClassifier"))),
    _family("two classes", "CatBoostClassifier", _catboost("CatBoostClassifier")),
    _family("three classes", "CatBoostClassifier", _catboost("CatBoostClassifier")),
    _family("missing values", "CatBoostClassifier", _catboost("CatBoostClassifier")),
    _family("missing values", "CatBoostClassifier, by leaf", _catboost("CatBoostClassifier", grow_policy="Lossguide")),
    _family(
        "categories",
        "CatBoostClassifier, one-hot",
        _catboost("CatBoostClassifier", cat_features=["city", "plan"], one_hot_max_size=10),
    ),
    _family("categories", "CatBoostClassifier", _catboost("CatBoostClassifier", cat_features=["city", "plan"])),
    _family("numbers", "CatBoostRegressor", _catboost("CatBoostRegressor")),
    _family("ranked rows", "CatBoostRanker", _catboost("CatBoostRanker"), group_id=_NUMBERS_OF_GROUPS),
    _family("two classes", "StandardScaler, CatBoostClassifier", _scaled(_catboost("CatBoostClassifier"))),
)
