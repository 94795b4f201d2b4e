"""Models kept in the format of their own library: what they answer is what the library answers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import pytest
import xgboost
from tests.publish.boosting import LIBRARIES, NUMBERS, SUFFIXES, classes, classifier, rows, saved, target

from keelway.errors import CorruptArtifact, FailedPrecondition
from keelway.ports import RuntimeOptions
from keelway.runtimes.boosters import BoosterColumn, BoosterOptions, BoostersRuntime, load
from keelway.types import TensorSpec

INPUT = TensorSpec("input", "FP64", (-1, 2), tuple(NUMBERS))
COLUMNS = tuple(BoosterColumn(name) for name in NUMBERS)
LABEL = TensorSpec("label", "INT64", (-1,))
PREDICTION = TensorSpec("prediction", "FP64", (-1,))


def shares(count: int) -> TensorSpec:
    return TensorSpec("probabilities", "FP64", (-1, count))


def opened(path: Path, options: BoosterOptions, threads: int = 1) -> BoostersRuntime:
    given = msgspec.to_builtins(options)
    return load(path.parent, "digest", given, RuntimeOptions(threads=threads), None)  # type: ignore[arg-type]


def numbers() -> Mapping[str, Any]:
    return {"input": rows(1)[NUMBERS].to_numpy(np.float64)}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("count", [2, 3])
def test_labels_and_probabilities_are_the_librarys_own(tmp_path: Path, library: str, count: int) -> None:
    frame = rows()
    model = classifier(library).fit(frame[NUMBERS], classes(frame, count))
    path = saved(model, tmp_path / f"model{SUFFIXES[library]}")
    outputs = (LABEL, shares(count))
    options = BoosterOptions(library, path.name, COLUMNS, (INPUT,), outputs, tuple(range(count)))  # type: ignore[arg-type]
    runtime = opened(path, options)
    label, probabilities = runtime.run(numbers(), ["label", "probabilities"])
    assert np.array_equal(label, np.ravel(model.predict(rows(1)[NUMBERS])))
    assert np.array_equal(probabilities, model.predict_proba(rows(1)[NUMBERS]))
    assert (label.dtype, probabilities.dtype) == (np.int64, np.float64)
    assert np.array_equal(runtime.run(numbers(), ["probabilities"])[0], probabilities)


def test_threads_are_the_operators_and_only_xgboosts_trees_promise_to_bear_several_callers(tmp_path: Path) -> None:
    safe = {}
    for library in LIBRARIES:
        frame = rows()
        path = saved(classifier(library).fit(frame[NUMBERS], classes(frame)), tmp_path / f"m{SUFFIXES[library]}")
        options = BoosterOptions(library, path.name, COLUMNS, (INPUT,), (LABEL, shares(2)), (0, 1))  # type: ignore[arg-type]
        one, two = opened(path, options), opened(path, options, threads=2)
        safe[library] = one.thread_safe
        for left, right in zip(*(each.run(numbers(), ["label", "probabilities"]) for each in (one, two)), strict=True):
            assert np.array_equal(left, right)
    assert safe == {"xgboost": True, "lightgbm": False, "catboost": False}


def test_categories_become_the_codes_of_the_training_and_others_are_missing(tmp_path: Path) -> None:
    frame = rows()[["city", "size"]].astype({"city": "category"})
    model = lightgbm.LGBMRegressor(n_estimators=9, min_data_per_group=5, min_child_samples=5, n_jobs=1, verbose=-1)
    path = saved(model.fit(frame, target(rows())), tmp_path / "model.txt")
    inputs = (TensorSpec("input_bytes", "BYTES", (-1, 1), ("city",)), TensorSpec("input", "FP64", (-1, 1), ("size",)))
    columns = (BoosterColumn("city", ("Bonn", "Lima", "Oslo")), BoosterColumn("size"))
    runtime = opened(path, BoosterOptions("lightgbm", path.name, columns, inputs, (PREDICTION,)))
    asked = np.array([[b"Lima"], [b"Bonn"], [b"Rome"], [None]], object)
    size = np.full((4, 1), 0.2)
    (found,) = runtime.run({"input_bytes": asked, "input": size}, ["prediction"])
    expected = frame.iloc[:4].assign(size=0.2)
    expected["city"] = ["Lima", "Bonn", None, None]
    assert np.array_equal(found, model.predict(expected.astype({"city": frame["city"].dtype})))


def test_catboost_gets_categories_as_they_are(tmp_path: Path) -> None:
    frame = rows()[["city", "floor"]]
    model = classifier("catboost", cat_features=["city", "floor"]).fit(frame, classes(rows()))
    path = saved(model, tmp_path / "model.cbm")
    inputs = (TensorSpec("input_bytes", "BYTES", (-1, 1), ("city",)), TensorSpec("input", "FP64", (-1, 1), ("floor",)))
    columns = tuple(BoosterColumn(name, as_text=True) for name in ("city", "floor"))
    runtime = opened(path, BoosterOptions("catboost", path.name, columns, inputs, (LABEL, shares(2)), (0, 1)))
    given = {"input_bytes": frame[["city"]].to_numpy(object), "input": frame[["floor"]].to_numpy(np.float64)}
    assert np.array_equal(runtime.run(given, ["probabilities"])[0], model.predict_proba(frame))


def test_a_number_can_stand_for_a_missing_one_and_a_linear_model_is_asked_too(tmp_path: Path) -> None:
    frame = rows()[NUMBERS]
    for booster in ("gbtree", "gblinear"):
        model = xgboost.XGBRegressor(n_estimators=5, booster=booster, missing=-1.0, n_jobs=1)
        path = saved(model.fit(frame.fillna(-1), target(rows())), tmp_path / f"{booster}.ubj")
        runtime = opened(path, BoosterOptions("xgboost", path.name, COLUMNS, (INPUT,), (PREDICTION,), missing=-1.0))
        (found,) = runtime.run({"input": frame.fillna(-1).to_numpy()}, ["prediction"])
        assert np.array_equal(found, model.predict(frame.fillna(-1)).astype(np.float64))


# Refusals


def test_an_absent_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.cbm").write_bytes(b"CBM1")
    monkeypatch.setitem(sys.modules, "catboost", None)
    options = BoosterOptions("catboost", "model.cbm", COLUMNS, (INPUT,), (PREDICTION,))
    with pytest.raises(FailedPrecondition, match="CatBoost models need CatBoost") as raised:
        opened(tmp_path / "model.cbm", options)
    assert raised.value.hint == 'pip install "keelway[catboost]"'


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_damaged_file_is_refused(tmp_path: Path, library: str) -> None:
    (tmp_path / "model").write_bytes(b"nothing of the kind")
    options = BoosterOptions(library, "model", COLUMNS, (INPUT,), (PREDICTION,))  # type: ignore[arg-type]
    with pytest.raises(CorruptArtifact, match="cannot load the model"):
        opened(tmp_path / "model", options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"library": "adaboost"}, "options of the model are not valid"),
        ({"file": "../model"}, "no model file of that name"),
        ({"file": "other"}, "no model file of that name"),
    ],
)
def test_options_and_files_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, str], words: str) -> None:
    (tmp_path / "model").write_bytes(b"")
    options = msgspec.to_builtins(BoosterOptions("xgboost", "model", COLUMNS, (INPUT,), (PREDICTION,)))
    with pytest.raises(CorruptArtifact, match=words):
        load(tmp_path, "digest", options | change, RuntimeOptions(), None)  # type: ignore[arg-type]
