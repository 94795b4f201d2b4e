"""Categories: the model's own codes, whatever order or type the sample's come in; unknown and missing ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from tests.publish.boosting import classes, classifier, rows, saved, target
from tests.publish.conftest import Push
from tests.publish.test_boosters_files import answered

from keelway.errors import InvalidInput

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.filterwarnings("ignore:Failed to import numba:UserWarning")]

SETTINGS: dict[str, dict[str, Any]] = {
    "xgboost": {"enable_categorical": True, "max_cat_to_onehot": 2},
    "lightgbm": {"min_data_per_group": 5, "cat_smooth": 1},
}


def with_categories(seed: int = 0) -> pd.DataFrame:
    frame = rows(seed).astype({"city": "category", "floor": "category"})
    frame["city"] = frame["city"].cat.reorder_categories(["Oslo", "Bonn", "Lima"])
    return frame


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("in_file", [pytest.param(False, marks=pytest.mark.slow), True])
def test_codes_are_those_of_the_training_even_from_plain_text(
    push: Push, tmp_path: Path, library: str, in_file: bool
) -> None:
    frame = with_categories()
    model = classifier(library, **SETTINGS[library]).fit(frame, classes(frame))
    suffix = ".json" if library == "xgboost" else ".txt"
    source = saved(model, tmp_path / f"model{suffix}") if in_file else model
    for sample in (frame, rows()):  # the second knows nothing of categories, as a CSV file does not
        prepared = push(source, sample)
        assert prepared.runtime == "onnx", prepared.report.reason
        fresh = with_categories(1)
        found = answered(prepared, fresh)
        assert np.array_equal(found["label"], model.predict(fresh))
        assert np.abs(found["probabilities"] - model.predict_proba(fresh)).max() < 1e-5


def test_lightgbm_takes_an_unknown_category_for_a_missing_one_and_so_does_the_conversion(push: Push) -> None:
    frame = with_categories()
    model = classifier("lightgbm", **SETTINGS["lightgbm"]).fit(frame, classes(frame))
    prepared = push(model, frame)
    unknown = frame.assign(city=pd.Categorical(["Rome"] * len(frame)))
    expected = model.predict_proba(frame.assign(city=pd.Categorical([None] * len(frame), categories=["Bonn"])))
    assert np.abs(answered(prepared, unknown)["probabilities"] - expected).max() < 1e-5


def test_xgboost_refuses_unknown_categories_and_the_report_says_that_the_conversion_does_not(push: Push) -> None:
    frame = with_categories()
    model = classifier("xgboost", **SETTINGS["xgboost"]).fit(frame, classes(frame))
    report = push(model, frame).report
    assert report.refused_rows > 0
    assert any("unknown categories" in warning for warning in report.warnings)


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_a_missing_category_goes_where_the_library_sends_it(push: Push, library: str) -> None:
    frame = with_categories()
    frame["city"] = frame["city"].mask(np.random.default_rng(5).random(len(frame)) < 0.2)
    model = classifier(library, **SETTINGS[library]).fit(frame, classes(frame))
    prepared = push(model, frame)
    assert prepared.runtime == "onnx"
    missing = frame[frame["city"].isna()]
    assert np.array_equal(answered(prepared, missing)["label"], model.predict(missing))


def test_codes_without_names_are_cut_to_whole_numbers_as_each_library_cuts_them(push: Push) -> None:
    frame = rows()[["floor", "size"]]
    values = np.array([[code, 0.1] for code in (-1.5, -0.5, 0.5, 1.0, 1.9, 3.7, 99.0)])
    codes = frame.to_numpy()
    by_code = xgboost.DMatrix(codes, target(rows()), feature_types=["c", "q"], enable_categorical=True)
    boosted = xgboost.train({"max_cat_to_onehot": 2, "nthread": 1}, by_code, 8)
    light = lightgbm.train(
        {"min_data_per_group": 5, "cat_smooth": 1, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1},
        lightgbm.Dataset(codes, target(rows()), categorical_feature=[0]),
        8,
    )
    expected = {
        boosted: boosted.predict(xgboost.DMatrix(values, feature_types=["c", "q"], enable_categorical=True)),
        light: light.predict(values),
    }
    for model, numbers in expected.items():
        prepared = push(model, frame)
        assert prepared.runtime == "onnx", prepared.report.reason
        found = answered(prepared, pd.DataFrame(values, columns=["floor", "size"]))["prediction"]
        assert np.abs(found - numbers).max() < 1e-5


def test_catboost_categories_are_found_behind_their_hashes(push: Push, tmp_path: Path) -> None:
    frame = rows()
    model = classifier("catboost", cat_features=["city", "floor"], one_hot_max_size=10).fit(frame, classes(frame))
    prepared = push(saved(model, tmp_path / "model.cbm"), frame)
    assert prepared.runtime == "onnx", prepared.report.reason
    found = answered(prepared, rows(1))
    assert np.array_equal(found["label"], model.predict(rows(1)))


def test_a_catboost_model_with_a_category_the_sample_lacks_is_kept(push: Push) -> None:
    frame = rows()
    model = classifier("catboost", cat_features=["city", "floor"], one_hot_max_size=10).fit(frame, classes(frame))
    report = push(model, frame[frame["city"] != "Lima"]).report
    assert report.format == "boosters"
    assert report.reason.startswith("not converted: the file keeps categories as hashes")


def test_catboost_statistics_of_categories_are_kept_with_the_reason(push: Push) -> None:
    frame = rows()
    quiet = {"iterations": 5, "verbose": False, "allow_writing_files": False, "thread_count": 1}
    model = catboost.CatBoostRegressor(cat_features=["city"], **quiet).fit(frame, target(frame))
    prepared = push(model, frame)
    assert (prepared.runtime, prepared.options["library"]) == ("boosters", "catboost")
    assert "statistics of the target" in prepared.report.reason
    assert [path.name for path in prepared.folder.iterdir()] == ["model.cbm"]


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_categories_of_another_type_are_refused(push: Push, library: str) -> None:
    frame = with_categories()
    model = classifier(library, **SETTINGS[library]).fit(frame, classes(frame))
    with pytest.raises(
        InvalidInput, match="the column 'city' holds numbers, and the model knows its categories as text"
    ):
        push(model, frame.assign(city=1.0))
    with pytest.raises(InvalidInput, match="the column 'floor' holds text"):
        push(model, frame.assign(floor="first"))
