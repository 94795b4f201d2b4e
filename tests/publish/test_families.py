"""Every family of models that is promised, published as ``keelway push`` would: the lines of docs/parity.md."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from keelway.publish.families import FAMILIES, Family, data_of
from keelway.publish.parity import Line, page, publish_here

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:The `probability` parameter:FutureWarning"),
]

KEPT_EXACT = {"KNeighborsClassifier", "KNeighborsRegressor"}

QUICK = {
    ("LogisticRegression", "three classes"),
    ("Ridge", "numbers"),
    ("RandomForestClassifier", "two classes"),
    ("RandomForestClassifier, impure leaves", "three classes"),
    ("HistGradientBoostingClassifier", "missing values"),
    ("KNeighborsClassifier", "three classes"),
    ("encoders, RandomForest", "mixed columns"),
}


def _parameters() -> list[object]:
    return [
        pytest.param(
            family,
            id=f"{family.name}, {family.data}",
            marks=() if (family.name, family.data) in QUICK else pytest.mark.slow,
        )
        for family in FAMILIES
    ]


@pytest.mark.parametrize("family", _parameters())
def test_a_family_is_converted_with_proof_or_kept_exactly(family: Family, tmp_path: Path) -> None:
    estimator, sample = family.trained()
    prepared = publish_here(estimator, sample, tmp_path)
    report = prepared.report
    assert report.sample_rows == len(sample)
    assert report.perturbed_rows >= 5_000
    assert report.beyond == 0
    assert report.labels_equal in (None, 1.0)
    assert report.worst_difference is not None
    assert report.worst_difference <= 1e-5
    assert report.format == ("skops" if family.name in KEPT_EXACT else "onnx")
    assert [feature.name for feature in prepared.signature.features] == list(sample.columns)
    if report.format == "onnx":
        model = onnx.load(prepared.file("model.onnx"))
        packed = {"numbers": 1}.get(family.data, len(prepared.signature.inputs))
        assert len(model.graph.input) == packed  # one tensor per datatype, however many columns
        assert report.speedup is not None
        assert report.speedup > 2


def test_the_parity_page_has_a_line_for_each_family_and_a_reason_for_each_that_was_kept(tmp_path: Path) -> None:
    families = [family for family in FAMILIES if family.name in ("KNeighborsClassifier", "Ridge")]
    lines = []
    for number, family in enumerate(families):
        (tmp_path / str(number)).mkdir()
        lines.append(Line(family, publish_here(*family.trained(), tmp_path / str(number)).report))
    text = page(lines)
    assert "| Ridge | numbers | ONNX, float32 |" in text
    assert "| KNeighborsClassifier | three classes | skops |" in text
    assert "- **KNeighborsClassifier** not converted: among equally distant neighbours" in text


def test_the_data_of_the_families_are_the_same_in_every_run() -> None:
    for name in ("two classes", "missing values", "mixed columns", "mixed, numbers"):
        first, second = data_of(name), data_of(name)  # type: ignore[arg-type]
        assert first[0].equals(second[0])
        assert (first[1] == second[1]).all()
