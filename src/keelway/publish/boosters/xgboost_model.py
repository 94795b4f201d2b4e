"""XGBoost: a booster in JSON or UBJSON, a pickled booster, or one of the library's estimators.

A file that an estimator wrote says so inside, and is opened as such an estimator: what counts is what its own
``predict`` answers, with the best iteration of an early stop.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from keelway.errors import ConversionRefused, CorruptArtifact, InvalidInput
from keelway.publish.boosters.model import BoosterModel, custom_objective
from keelway.publish.boosters.versions import check_not_newer
from keelway.publish.convert import boosted_xgboost
from keelway.publish.convert.boosted import Boosted
from keelway.runtimes.boosters import BoosterColumn, import_library
from keelway.types import Array

_JSON_VERSION = re.compile(rb'"version"\s*:\s*\[\s*(\d+)\s*,\s*(\d+)')
_UBJSON_VERSION = re.compile(rb"version\[#?.{0,9}?i(.)i(.)", re.DOTALL)


def open_file(path: Path) -> BoosterModel:
    xgboost = import_library("xgboost")
    data = path.read_bytes()
    found = _JSON_VERSION.search(data[-4096:])
    packed = _UBJSON_VERSION.search(data[-256:])
    if found:
        check_not_newer("xgboost", (int(found[1]), int(found[2])))
    elif packed:
        check_not_newer("xgboost", (packed[1][0], packed[2][0]))
    try:
        booster = xgboost.Booster(model_file=bytearray(data))
    except xgboost.core.XGBoostError as error:
        raise CorruptArtifact(
            "XGBoost cannot read the file: it is damaged or cut short",
            field="file",
            hint="save the model again with save_model, and copy it in binary mode",
        ) from error
    written = json.loads(booster.attr("scikit_learn") or "{}").get("_estimator_type", "")
    names = {"classifier": "XGBClassifier", "regressor": "XGBRegressor", "ranker": "XGBRanker"}
    if written in names:
        estimator = getattr(xgboost, names[written])()
        estimator.load_model(bytearray(data))
        estimator.set_params(enable_categorical=True)
        return _of_estimator(estimator)
    return _of_booster(booster)


def of_object(opened: Any) -> BoosterModel | None:
    xgboost = import_library("xgboost")
    if isinstance(opened, xgboost.Booster):
        return _of_booster(opened)
    return _of_estimator(opened) if isinstance(opened, xgboost.XGBModel) else None


def _of_booster(booster: Any) -> BoosterModel:
    """A classifier where the objective is one, as XGBoost's own estimators decide: above a half, or the largest."""
    xgboost = import_library("xgboost")
    document = _document(booster)
    objective = document["learner"]["objective"]["name"]
    classes = max(int(document["learner"]["learner_model_param"]["num_class"]), 2)
    if objective == "multi:softmax":
        booster = booster.copy()
        booster.set_param({"objective": "multi:softprob"})
    kinds = document["learner"]["feature_types"] or None
    named = bool(document["learner"]["feature_names"])

    def ask(rows: Any) -> Array:
        # A frame says itself what its columns are; codes in an array do not.
        matrix = xgboost.DMatrix(rows, enable_categorical=True, feature_types=None if named else kinds)
        answer: Array = booster.predict(matrix)
        return answer

    booster.set_param({"nthread": 1})
    if objective != "binary:logistic" and not objective.startswith("multi:"):
        return _model(booster, document, "Booster", (), ask, None)
    return _model(
        booster,
        document,
        "Booster",
        tuple(range(classes)),
        lambda rows: _classes(ask(rows)),
        lambda rows: _shares(ask(rows)),
    )


def _classes(answer: Array) -> Array:
    return (answer > 0.5).astype(np.int64) if answer.ndim == 1 else answer.argmax(axis=1)


def _shares(answer: Array) -> Array:
    return np.stack([1 - answer, answer], axis=1) if answer.ndim == 1 else answer


def _of_estimator(estimator: Any) -> BoosterModel:
    xgboost = import_library("xgboost")
    name = type(estimator).__name__
    if callable(estimator.objective):
        raise custom_objective("xgboost")
    if not estimator.__sklearn_is_fitted__():
        raise InvalidInput(f"the {name} was saved before it was trained", field="file", hint="fit it, then save it")
    estimator.set_params(n_jobs=1)
    booster = estimator.get_booster()
    if booster.attr("best_iteration") is not None:  # of an early stop
        booster = booster[: estimator.best_iteration + 1]
    document = _document(booster)
    missing = float(estimator.missing)
    missing_number = None if np.isnan(missing) else missing
    if not isinstance(estimator, xgboost.XGBClassifier):
        return _model(booster, document, name, (), estimator.predict, None, missing_number)
    if int(document["learner"]["learner_model_param"]["num_target"]) > 1:
        raise ConversionRefused(
            "this classifier cannot be served: a classifier with several targets",
            hint="train one model for each target",
        )
    labels = tuple(range(int(estimator.n_classes_)))
    return _model(booster, document, name, labels, estimator.predict, estimator.predict_proba, missing_number)


def _document(booster: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(booster.save_raw("json"))
    return found


def _model(
    booster: Any,
    document: dict[str, Any],
    description: str,
    labels: tuple[int, ...],
    predict: Any,
    probabilities: Any,
    missing: float | None = None,
) -> BoosterModel:
    learner = document["learner"]
    categories = boosted_xgboost.categories_of(learner)
    names = learner["feature_names"] or [f"feature {at}" for at in range(len(categories))]

    def read(sample: Any = None) -> Boosted:
        return boosted_xgboost.read(document, classifies=bool(labels), missing=missing)

    return BoosterModel(
        library="xgboost",
        description=description,
        task="classification" if labels else "regression",
        labels=labels,
        columns=tuple(BoosterColumn(name, known) for name, known in zip(names, categories, strict=True)),
        positional=not learner["feature_names"],
        predict=predict,
        probabilities=probabilities,
        read=read,
        save=booster.save_model,
        file="model.ubj",
        dtypes=tuple(boosted_xgboost.category_dtypes(learner)) or ("",) * len(names),
        missing=missing,
    )
