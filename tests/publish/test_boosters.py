"""Every family of gradient boosting that is promised, published as ``keelway push`` would: lines of docs/parity.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from keelway.publish.booster_families import BOOSTERS
from keelway.publish.families import Family
from keelway.publish.parity import Line, page, publish_here

pytestmark = pytest.mark.filterwarnings("ignore:Failed to import numba:UserWarning")

KEPT = {
    ("XGBRegressor, gblinear", "numbers"),
    ("LGBMRegressor, linear leaves", "numbers"),
    ("CatBoostClassifier", "categories"),
}

QUICK = {
    *KEPT,
    ("XGBClassifier", "two classes"),
    ("XGBClassifier", "categories"),
    ("XGBRegressor, dart", "numbers"),
    ("LGBMClassifier, zeros missing", "missing values"),
    ("LGBMRanker", "ranked rows"),
    ("CatBoostClassifier", "missing values"),
    ("CatBoostClassifier, by leaf", "missing values"),
    ("StandardScaler, CatBoostClassifier", "two classes"),
}


def _parameters() -> list[object]:
    return [
        pytest.param(
            family,
            id=f"{family.name}, {family.data}",
            marks=() if (family.name, family.data) in QUICK else pytest.mark.slow,
        )
        for family in BOOSTERS
    ]


@pytest.mark.parametrize("family", _parameters())
def test_a_family_is_converted_with_proof_or_kept_in_its_own_format(family: Family, tmp_path: Path) -> None:
    estimator, sample = family.trained()
    prepared = publish_here(estimator, sample, tmp_path)
    report = prepared.report
    assert report.sample_rows == len(sample)
    assert report.perturbed_rows >= 5_000
    assert report.beyond == 0
    assert report.labels_equal in (None, 1.0)
    assert report.worst_difference is not None
    assert report.worst_difference <= 1e-5
    assert report.format == ("boosters" if (family.name, family.data) in KEPT else "onnx")
    assert [feature.name for feature in prepared.signature.features] == list(sample.columns)
    ranks = family.data == "ranked rows"
    if ranks or family.data == "numbers":
        assert prepared.signature.task == "regression"
        assert [spec.shape for spec in prepared.signature.outputs] == [(-1,)]
    if report.format == "onnx":
        assert report.speedup is not None
        assert report.speedup > 2


def test_the_parity_page_names_the_libraries_and_why_a_model_was_kept(tmp_path: Path) -> None:
    (kept,) = [family for family in BOOSTERS if family.name == "XGBRegressor, gblinear"]
    text = page([Line(kept, publish_here(*kept.trained(), tmp_path).report)])
    assert "| XGBRegressor, gblinear | numbers | its own format |" in text
    assert "- **XGBRegressor, gblinear** not converted: an XGBoost model of the kind gblinear" in text
    assert "xgboost-cpu 3" in text
