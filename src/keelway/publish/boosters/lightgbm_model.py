"""LightGBM: a model text, a pickled booster, or one of the library's estimators."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from keelway.errors import ConversionRefused, CorruptArtifact, FailedPrecondition, InvalidInput
from keelway.publish.boosters.model import BoosterModel, custom_objective
from keelway.publish.convert import boosted_lightgbm, translate
from keelway.publish.convert.boosted import Boosted
from keelway.publish.convert.graph import NotTranslated
from keelway.runtimes.boosters import BoosterColumn, import_library
from keelway.types import Array

#: The version of the text that the libraries this was written for read and write.
_TEXT_VERSION = 4

_CLASSIFYING = ("binary", "multiclass", "multiclassova")
_PARAMETER = re.compile(r"^\[categorical_feature: ([\d,]*)\]$", re.MULTILINE)


def open_file(path: Path) -> BoosterModel:
    lightgbm = import_library("lightgbm")
    text = path.read_bytes().decode(errors="replace").replace("\r\n", "\n")
    version = re.match(r"tree\nversion=v(\d+)", text)
    if version and int(version[1]) > _TEXT_VERSION:
        raise FailedPrecondition(
            f"the file is in version {version[1]} of LightGBM's text, newer than LightGBM {lightgbm.__version__} reads",
            field="file",
            hint=f"save the model with LightGBM {lightgbm.__version__}, or install a newer one and a newer keelway",
        )
    # LightGBM itself reads what is left of a file in silence.
    if "\nend of trees" not in text or not _ends_well(text):
        raise CorruptArtifact(
            "the LightGBM file is cut short: its end is missing", field="file", hint="save or copy the model again"
        )
    if "\nobjective=" not in text.partition("\nTree=")[0]:
        raise custom_objective("lightgbm")
    try:
        booster = lightgbm.Booster(model_str=text)
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise CorruptArtifact(
            "LightGBM cannot read the file: it is damaged", field="file", hint="save the model again with save_model"
        ) from error
    return _of_booster(booster)


def _ends_well(text: str) -> bool:
    """Whether the parameters, and the categories behind them, are whole. Other programs than Python write no
    categories."""
    if "\nparameters:" in text and "\nend of parameters" not in text:
        return False
    rest = text.rpartition("\nend of parameters")[2].strip() if "\nparameters:" in text else ""
    if not rest:
        return True
    name, _, categories = rest.partition(":")
    try:
        json.loads(categories)
    except ValueError:
        return False
    return name == "pandas_categorical"


def of_object(opened: Any) -> BoosterModel | None:
    lightgbm = import_library("lightgbm")
    if isinstance(opened, lightgbm.Booster):
        return _of_booster(opened)
    return _of_estimator(opened) if isinstance(opened, lightgbm.LGBMModel) else None


def _of_booster(booster: Any) -> BoosterModel:
    """A classifier where the objective is one, as LightGBM's own estimators decide: the first largest probability."""
    text = _text(booster)
    objective, *settings = boosted_lightgbm.header_of(text)["objective"].split()

    def ask(rows: Any) -> Array:
        answer: Array = booster.predict(rows, num_threads=1)
        return answer

    if objective not in _CLASSIFYING:
        return _model(booster, text, "Booster", (), ask, None)
    counts = [int(setting.partition(":")[2]) for setting in settings if setting.startswith("num_class:")]
    labels = tuple(range(counts[0] if counts else 2))
    return _model(
        booster,
        text,
        "Booster",
        labels,
        lambda rows: _shares(ask(rows)).argmax(axis=1),
        lambda rows: _shares(ask(rows)),
    )


def _shares(answer: Array) -> Array:
    return np.stack([1 - answer, answer], axis=1) if answer.ndim == 1 else answer


def _of_estimator(estimator: Any) -> BoosterModel:
    lightgbm = import_library("lightgbm")
    name = type(estimator).__name__
    if callable(estimator.objective):
        raise custom_objective("lightgbm")
    if not estimator.__sklearn_is_fitted__():
        raise InvalidInput(f"the {name} was saved before it was trained", field="file", hint="fit it, then save it")
    estimator.set_params(n_jobs=1)
    booster = estimator.booster_
    text = _text(booster)
    if not isinstance(estimator, lightgbm.LGBMClassifier):
        return _model(booster, text, name, (), estimator.predict, None)
    try:
        labels = translate.class_values(estimator.classes_)
    except NotTranslated as error:
        raise ConversionRefused(
            f"this classifier cannot be served: {error}", hint="train it with plain class labels"
        ) from error
    return _model(booster, text, name, labels, estimator.predict, estimator.predict_proba)


def _text(booster: Any) -> str:
    """The model as text, up to its best iteration, which is what it predicts with."""
    text: str = booster.model_to_string()
    if "\nobjective=" not in text.partition("\nTree=")[0]:
        raise custom_objective("lightgbm")
    return text


def _model(
    booster: Any,
    text: str,
    description: str,
    labels: tuple[str | int | float | bool, ...],
    predict: Any,
    probabilities: Any,
) -> BoosterModel:
    header = boosted_lightgbm.header_of(text)
    names = header["feature_names"].split(" ")
    categories = _categories(booster, text, len(names))

    def read(sample: Any = None) -> Boosted:
        return boosted_lightgbm.read(text, categories, classifies=bool(labels))

    def save(path: Path) -> None:
        path.write_text(text)

    return BoosterModel(
        library="lightgbm",
        description=description,
        task="classification" if labels else "regression",
        labels=labels,
        columns=tuple(BoosterColumn(name, known) for name, known in zip(names, categories, strict=True)),
        positional=names == [f"Column_{at}" for at in range(len(names))],
        predict=predict,
        probabilities=probabilities,
        read=read,
        save=save,
        file="model.txt",
    )


def _categories(booster: Any, text: str, features: int) -> list[tuple[str | int | float, ...] | None]:
    """The categories of each column that was one of categories in the frame of the training, in the order of codes."""
    known = booster.pandas_categorical or []
    found: list[tuple[str | int | float, ...] | None] = [None] * features
    if not known:
        return found
    declared = _PARAMETER.search(text)
    positions = [int(at) for at in declared[1].split(",") if at] if declared else []
    if len(positions) != len(known):
        raise ConversionRefused(
            f"the model has {len(known)} columns of pandas' dtype category and {len(positions)} that it takes for "
            "categories; which is which is not in the file",
            hint="train it with categorical_feature='auto' and exactly those columns of the dtype category",
        )
    for at, categories in zip(sorted(positions), known, strict=True):
        found[at] = tuple(categories)
    return found
