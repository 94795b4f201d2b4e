"""CatBoost: a model in its binary form or in JSON, or one of the library's objects out of a pickle.

Its files say what they were trained for, so all are opened by the class that fits the loss.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import numpy as np

from keelway.errors import ConversionRefused, CorruptArtifact, InvalidInput
from keelway.publish.boosters.model import BoosterModel, category_codes, custom_objective
from keelway.publish.boosters.versions import check_not_newer
from keelway.publish.convert import boosted_catboost, translate
from keelway.publish.convert.boosted import Boosted
from keelway.publish.convert.graph import NotTranslated
from keelway.publish.rows import Rows
from keelway.runtimes.boosters import BoosterColumn, import_library
from keelway.types import Array

_CLASSIFYING: Final = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll")
_SEVERAL_LABELS: Final = ("MultiLogloss", "MultiCrossEntropy")
#: What CatBoostRegressor answers where it is not the sum itself.
_TYPES: Final[Mapping[str, str]] = {
    "Poisson": "Exponent",
    "Tweedie": "Exponent",
    "LogLinQuantile": "Exponent",
    "RMSEWithUncertainty": "RMSEWithUncertainty",
}
_RELEASE: Final = re.compile(r"CatBoost release (\d+)\.(\d+)")


def open_file(path: Path) -> BoosterModel:
    catboost = import_library("catboost")
    with path.open("rb") as file:
        form: Literal["cbm", "json"] = "cbm" if file.read(4) == b"CBM1" else "json"
    try:
        if form == "json":
            json.loads(path.read_bytes())  # CatBoost itself takes what is left of a file
        model = catboost.CatBoost().load_model(str(path), format=form)
    except (ValueError, catboost.CatBoostError) as error:
        raise CorruptArtifact(
            "CatBoost cannot read the file: it is damaged, cut short, or of a newer version",
            field="file",
            hint="save it again with save_model and copy it in binary mode, or install the CatBoost it was made with",
        ) from error
    return _of_model(model, "CatBoost")


def of_object(opened: Any) -> BoosterModel | None:
    catboost = import_library("catboost")
    if not isinstance(opened, catboost.CatBoost):
        return None
    name = type(opened).__name__
    if not opened.is_fitted():
        raise InvalidInput(f"the {name} was saved before it was trained", field="file", hint="fit it, then save it")
    return _of_model(opened, name)


def _of_model(model: Any, description: str) -> BoosterModel:
    metadata = dict(model.get_metadata())
    release = _RELEASE.search(metadata.get("catboost_version_info", ""))
    if release:
        check_not_newer("catboost", (int(release[1]), int(release[2])))
    loss = str(json.loads(metadata.get("params", "{}")).get("loss_function", {}).get("type", ""))
    if loss.startswith("PythonUserDefined"):
        raise custom_objective("catboost")
    if loss in _SEVERAL_LABELS:
        raise ConversionRefused(
            "this classifier cannot be served: a classifier with several targets",
            hint="train one model for each target",
        )
    classifies = loss in _CLASSIFYING
    asked, document = _reopened(model, classifies)
    names = tuple(str(name) for name in asked.feature_names_)
    categorical = set(asked.get_cat_feature_indices())
    kind = _TYPES.get(loss, "RawFormulaVal")
    own_threshold = "binclass_probability_threshold" in metadata

    def read(sample: Rows | None = None) -> Boosted:
        if own_threshold:
            raise NotTranslated("a classifier with a threshold of its own")
        categories = _categories(document, sample)
        return boosted_catboost.read(document, categories, loss=loss if classifies else "", prediction_type=kind)

    def predict(rows: Any) -> Array:
        wanted = "Class" if classifies else kind
        answer = np.asarray(asked.predict(rows, prediction_type=wanted, thread_count=1))
        return np.ravel(answer) if classifies else answer

    def probabilities(rows: Any) -> Array:
        return np.asarray(asked.predict(rows, prediction_type="Probability", thread_count=1))

    return BoosterModel(
        library="catboost",
        description=description,
        task="classification" if classifies else "regression",
        labels=_labels(asked) if classifies else (),
        columns=tuple(BoosterColumn(name, as_text=at in categorical) for at, name in enumerate(names)),
        positional=names == tuple(str(at) for at in range(len(names))),
        predict=predict,
        probabilities=probabilities if classifies else None,
        read=read,
        save=lambda path: asked.save_model(str(path)),
        file="model.cbm",
        prediction_type=kind,
    )


def _reopened(model: Any, classifies: bool) -> tuple[Any, dict[str, Any]]:
    """The model, opened by the class that knows its labels, and its JSON (empty if it has none)."""
    catboost = import_library("catboost")
    with TemporaryDirectory() as folder:
        binary, text = Path(folder) / "model.cbm", Path(folder) / "model.json"
        model.save_model(str(binary))
        asked = (catboost.CatBoostClassifier if classifies else catboost.CatBoost)().load_model(str(binary))
        try:
            model.save_model(str(text), format="json")
            return asked, json.loads(text.read_bytes())
        except catboost.CatBoostError:
            return asked, {}


def _labels(model: Any) -> tuple[str | int | float | bool, ...]:
    try:
        return translate.class_values(np.asarray(model.classes_))
    except NotTranslated as error:
        raise ConversionRefused(
            f"this classifier cannot be served: {error}", hint="train it with plain class labels"
        ) from error


def _categories(document: dict[str, Any], sample: Rows | None) -> dict[int, tuple[str | int, ...]]:
    """The categories behind the hashes that the model compares with, for the features of which all are in the sample.

    A model keeps hashes alone, and only CatBoost computes them. So it is asked: a model of one tree that answers one
    for one hash is put to every category of the sample."""
    if not document:
        raise NotTranslated("a model that CatBoost cannot write as JSON")
    found: dict[int, tuple[str | int, ...]] = {}
    for feature in document["features_info"].get("categorical_features", ()):
        if sample is None or "values" not in feature:
            continue
        at = feature["flat_feature_index"]
        values = category_codes(sample, list(sample.columns)[at])
        named = [_behind(document, feature, value, values) for value in feature["values"]]
        known = [name for name in named if name is not None]
        if len(known) == len(named):
            found[at] = tuple(known)
    return found


def _behind(document: dict[str, Any], feature: dict[str, Any], value: int, candidates: Array) -> str | int | None:
    catboost = import_library("catboost")
    alone = {"feature_index": 0, "flat_feature_index": 0, "feature_id": "0", "values": [value]}
    split = {"cat_feature_index": 0, "split_index": 0, "split_type": "OneHotFeature", "value": value}
    probe = {
        "features_info": {"categorical_features": [alone]},
        "model_info": document["model_info"],
        "oblivious_trees": [{"leaf_values": [0.0, 1.0], "leaf_weights": [1, 1], "splits": [split]}],
        "scale_and_bias": [1, [0]],
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "probe.json"
        path.write_text(json.dumps(probe))
        asked = catboost.CatBoost().load_model(str(path), format="json")
    answers = np.ravel(asked.predict(candidates.reshape(-1, 1), prediction_type="RawFormulaVal", thread_count=1))
    matching = candidates[answers == 1]
    return matching[0] if len(matching) == 1 else None
