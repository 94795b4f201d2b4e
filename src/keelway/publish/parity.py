"""The table of model families and how each is published: ``python -m keelway.publish.parity --write docs/parity.md``.

Trains one small model per family, publishes it as ``keelway push`` would, and writes what came out. The page is made
by this command alone; the numbers of rows and differences are the same on every machine, the times are not.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keelway.contract.signature import infer_features
from keelway.publish import child, exchange
from keelway.publish.apart import environment
from keelway.publish.booster_families import BOOSTERS
from keelway.publish.exchange import EstimatorRequest
from keelway.publish.families import FAMILIES, Family
from keelway.publish.report import ConversionReport, Prepared
from keelway.publish.rows import rows_of
from keelway.publish.sklearn_file import judged

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Line:
    family: Family
    report: ConversionReport


def publish_here(estimator: Any, sample: pd.DataFrame, workspace: Path, tolerance: float = 1e-5) -> Prepared:
    """A fitted estimator through the whole of publishing, but in this process: it was made here, so there is nothing
    to keep apart."""
    import joblib

    file = workspace / "model.joblib"
    joblib.dump(estimator, file)
    request = EstimatorRequest(str(file), "pickle", infer_features(sample), tolerance)
    rows_of(sample).save(workspace / exchange.SAMPLE)
    exchange.write(workspace, exchange.REQUEST, request)
    if child.main(workspace):
        raise exchange.error_of(exchange.read(workspace, exchange.FAILURE, exchange.Failure))
    return judged(request, sample, workspace)


def measure(family: Family) -> Line:
    estimator, sample = family.trained()
    with tempfile.TemporaryDirectory() as workspace:
        return Line(family, publish_here(estimator, sample, Path(workspace)).report)


def page(lines: list[Line]) -> str:
    """The page as Markdown."""
    found = {name: version for line in lines for name, version in line.report.versions.items()}
    versions = ", ".join(f"{name} {version}" for name, version in found.items() if name != "keelway")
    table = [
        "| family | data | kept as | rows | labels differ | worst difference | before, µs | after, µs | ratio |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_row(line) for line in lines),
    ]
    return _PAGE.format(versions=versions, machine=_machine(), table="\n".join(table), kept=_kept(lines))


def _row(line: Line) -> str:
    report = line.report
    rows = report.sample_rows + report.perturbed_rows - report.refused_rows
    labels = "" if report.labels_equal is None else f"{round((1 - report.labels_equal) * rows):,}"
    kept = "its own format" if report.format == "boosters" else report.format
    how = kept if report.format != "onnx" else f"ONNX, {_arithmetic(report)}"
    ratio = report.speedup or 0.0
    times = f"{report.micros_before:,.0f} | {report.micros_after:,.0f} | {ratio:,.{0 if ratio >= 10 else 1}f}"
    worst = report.worst_difference
    return (
        f"| {line.family.name} | {line.family.data} | {how} | {rows:,} | {labels} "
        f"| {'0' if not worst else f'{worst:.0e}'} | {times} |"
    )


def _arithmetic(report: ConversionReport) -> str:
    return report.attempts[-1].name


def _kept(lines: list[Line]) -> str:
    kept = [line for line in lines if line.report.format != "onnx"]
    reasons = "\n".join(f"- **{line.family.name}** {line.report.reason}." for line in kept)
    return reasons or "None."


def _machine() -> str:
    return f"{platform.machine()}, Python {platform.python_version()}"


_PAGE = """\
# Parity: what a push makes of each family of models

Written by `python -m keelway.publish.parity --write docs/parity.md`; do not edit it by hand. {versions}; {machine}.
Times are medians of calls with one row on one thread, of the original before and of what is served after, taken while
other work may have run: read the ratio as an order of magnitude. Everything else is the same on every run.

Each model is compared with its original on every row of its sample and on at least 5,000 rows made from it: values
exchanged between rows, missing values where the sample has any, unseen categories, extreme values, and pairs of
neighbouring float32 values between which the original's answer changes. **A model is converted only if no label
differs on any of them** and no probability by more than 1e-5 (no predicted value or score by more than 1e-5 of the
spread of the original's answers, or of the value itself where that is larger). Rows that the original refuses with an
error prove nothing and are not counted.

*float32* is arithmetic in single precision. *float64 arithmetic* takes single-precision inputs and computes in double
precision, where rounding would have moved a decision. *float64 inputs* takes double precision at the door as well,
where the model compares with values that the rounding of its inputs would move.

{table}

## Kept as they are

Models that no conversion answers equally are written as skops files, or in the format of their own library, and served
by scikit-learn or that library itself.

{kept}
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m keelway.publish.parity", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page here instead of printing it")
    chosen = parser.parse_args(arguments)
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's own, about the small models trained here
        for family in (*FAMILIES, *BOOSTERS):
            lines.append(measure(family))
            sys.stderr.write(f"{family.name}: {lines[-1].report.format}\n")
    text = page(lines)
    if chosen.write is None:
        sys.stdout.write(text)
    else:
        chosen.write.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    # One thread everywhere, as in the child, and read by the libraries when they are first imported.
    import os

    os.environ.update({name: value for name, value in environment(Path()).items() if name.endswith("_THREADS")})
    sys.exit(main())
