"""A report in words."""

from __future__ import annotations

import msgspec

from keelway.publish.proof import Comparison
from keelway.publish.report import Attempt, ConversionReport, report_lines

REPORT = ConversionReport(
    format="onnx",
    source="a scikit-learn model in a pickle",
    reason="proved equal with float64 arithmetic",
    tolerance=1e-5,
    size=1_000,
    estimator="Pipeline(StandardScaler, RandomForestClassifier)",
    sample_rows=5_822,
    perturbed_rows=5_100,
    labels_equal=1.0,
    worst_difference=3e-8,
    attempts=(Attempt("float32", "7 labels differ", Comparison(10, 7, 0.1, 3, 0.7, 0)), Attempt("float64 arithmetic")),
    micros_before=4_000.0,
    micros_after=10.0,
    warnings=("look here",),
)


PROOF = (
    "proved on 5,822 rows of the sample and 5,100 made from them: 100.00% of labels equal, "
    "worst difference 3.0e-08 (allowed: 1e-05)"
)


def test_a_report_is_a_few_lines() -> None:
    assert report_lines(msgspec.to_builtins(REPORT)) == [
        "a scikit-learn model in a pickle: Pipeline(StandardScaler, RandomForestClassifier)",
        "kept as onnx: proved equal with float64 arithmetic",
        PROOF,
        "one row takes 10 µs, 4,000 µs before (400.0 times as fast), on one thread of this machine",
        "not kept: float32: 7 labels differ",
        "warning: look here",
    ]


def test_a_report_survives_the_registry() -> None:
    stored = msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(REPORT)))
    assert msgspec.convert(stored, ConversionReport) == REPORT


def test_a_report_of_another_kind_has_its_format() -> None:
    assert report_lines({"format": "pipeline"}) == ["kept as pipeline"]
    assert report_lines({}) == []
