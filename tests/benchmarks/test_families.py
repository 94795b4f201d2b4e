"""The page of model families: pushed for real, and honest about what is slower than it should be."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.families import FAMILIES, TREES, Line, main, page

from keelway.publish.report import ConversionReport


def line(position: int, before: float | None, after: float | None, **report: str) -> Line:
    found = ConversionReport(
        format="onnx",
        source="a model",
        reason=report.get("reason", "proved equal with float32"),
        tolerance=1e-5,
        size=12_345,
        versions={"numpy": "2.2", "keelway": "0"},
        worst_difference=1.2e-7,
        micros_before=before,
        micros_after=after,
    )
    return Line(FAMILIES[position], found, 0.012)


FOREST = next(at for at, family in enumerate(FAMILIES) if family.least == TREES)


def test_a_row_says_what_was_kept_how_equal_how_fast_and_how_large_it_is() -> None:
    written = page([line(FOREST, 3400.0, 4.25)])
    family = FAMILIES[FOREST]
    assert f"| {family.framework} | {family.what} | ONNX | 1e-07 | 3,400 | 4.2 | 800 | 12 kB | 12 |" in written
    assert "Every model meets its bound." in written
    assert "numpy 2.2." in written


@pytest.mark.parametrize(("before", "missed"), [(19.0, True), (20.0, False)])
def test_a_bound_that_is_missed_is_named(before: float, missed: bool) -> None:
    written = page([line(FOREST, before, 1.0)])
    assert ("Missed: scikit-learn, random forest, 100 trees: 19.00 of 20" in written) is missed


def test_what_was_not_converted_is_listed_with_its_reason() -> None:
    written = page([line(0, 1.0, 1.0, reason="not converted: a step of its own")])
    assert f"- scikit-learn, {FAMILIES[0].what}: a step of its own" in written


def test_a_model_is_really_pushed_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(["--only", "Python, a class", "--write", str(tmp_path / "models.md")]) == 0
    written = (tmp_path / "models.md").read_text()
    assert "| Python | a class | Python |" in written
    assert written.count("\n| ") == 3  # the head, the line below it, and one model
