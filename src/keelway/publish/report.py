"""What publishing found out: the result that a push stores, and the report that goes into the registry beside it.

A report describes; it takes no part in the model digest. It names rows by position and kind, never by their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from keelway.contract.baseline import Baseline
from keelway.contract.signature import ModelSignature
from keelway.publish.anomalies import anomaly_lines
from keelway.publish.in_place import InPlace
from keelway.publish.proof import Comparison
from keelway.runtimes.tokens import TokensOptions

Kept = Literal["onnx", "litert", "skops", "boosters", "torch", "python"]


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One way of converting that was tried. ``name`` says how; ``reason`` why it was not kept, empty if it was.

    ``comparison`` is absent where there was nothing to compare: the model could not be translated or loaded.
    ``micros`` is the median of a call with one row or example, where the model held and was measured.
    """

    name: str
    reason: str = ""
    comparison: Comparison | None = None
    micros: float | None = None


class ConversionReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """``format`` is what was kept and ``reason`` why. ``source`` says what was pushed, in words.

    ``estimator`` is the class, with the steps of a pipeline in brackets. ``versions`` are of the libraries that took
    part; ``saved_with`` the scikit-learn version the file was written with, where it differs.

    The proof, on ``sample_rows`` and ``perturbed_rows`` rows: ``refused_rows`` of them the original refuses, and they
    prove nothing. ``labels_equal`` is the share of rows with the same label (absent for regression).
    ``worst_difference`` and ``beyond`` (the share of rows beyond ``tolerance``) are as in ``proof.py``; ``worst_row``
    is the position of the worst row and ``worst_kind`` says among which rows it is. All absent if there was no original
    to compare with.

    ``micros_before`` and ``micros_after`` are median microseconds of a call with one row on one thread, before and
    after; ``size`` is the size of the stored files in bytes. ``untrusted_types`` must be trusted by whoever serves it.
    """

    format: Kept
    source: str
    reason: str
    tolerance: float
    size: int
    framework: str = ""
    estimator: str = ""
    versions: dict[str, str] = {}
    saved_with: str = ""
    sample_rows: int = 0
    perturbed_rows: int = 0
    refused_rows: int = 0
    labels_equal: float | None = None
    worst_difference: float | None = None
    worst_row: int | None = None
    worst_kind: str = ""
    beyond: float | None = None
    attempts: tuple[Attempt, ...] = ()
    micros_before: float | None = None
    micros_after: float | None = None
    untrusted_types: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def speedup(self) -> float | None:
        """How many times as fast one row is answered, if both were measured."""
        if not self.micros_before or not self.micros_after:
            return None
        return self.micros_before / self.micros_after


@dataclass(frozen=True, slots=True)
class Tokenized:
    """The ``tokenizer.json`` whose tokens a model takes, so that people may send text."""

    file: Path
    options: TokensOptions


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model ready to be stored: ``folder`` holds exactly its files, or they are ``in_place``; the caller makes the
    manifest of the rest.

    With ``tokenized`` it is stored as a pipeline, behind that tokenizer."""

    folder: Path
    signature: ModelSignature
    baseline: Baseline | None
    runtime: Kept
    options: dict[str, Any]
    report: ConversionReport
    tokenized: Tokenized | None = None
    in_place: InPlace | None = None

    def file(self, path: str) -> Path:
        """Where the file lies that is ``path`` in the artifact."""
        return self.in_place.files[path] if self.in_place else self.folder / path


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """A report, as the registry holds it (builtins), in a few lines for people."""
    known = {key: value for key, value in report.items() if key in ConversionReport.__struct_fields__}
    try:
        found = msgspec.convert(known, ConversionReport)
    except msgspec.ValidationError:  # another kind of report, a pipeline's for one
        lines = [f"kept as {report['format']}"] if "format" in report else []
        return lines + ([f"golden sample: {report['golden']}"] if "golden" in report else [])
    what = f"{found.source}: {found.estimator}" if found.estimator else found.source
    kept = f"{found.framework}'s own format" if found.format in ("boosters", "torch") else found.format
    lines = [what, f"kept as {kept}: {found.reason}", *_proof_lines(found)]
    if found.speedup is not None:
        lines.append(
            f"one row takes {found.micros_after:,.0f} µs, {found.micros_before:,.0f} µs before "
            f"({found.speedup:,.1f} times as fast), on one thread of this machine"
        )
    if found.format in ("onnx", "litert"):  # elsewhere the reason says it already
        lines += [f"not kept: {attempt.name}: {attempt.reason}" for attempt in found.attempts if attempt.reason]
    if found.untrusted_types:
        lines.append(f"whoever serves it must trust: {', '.join(found.untrusted_types)}")
    lines += anomaly_lines(report["anomalies"]) if "anomalies" in report else []
    lines += [f"golden sample: {report['golden']}"] if "golden" in report else []
    return lines + [f"warning: {warning}" for warning in found.warnings]


def _proof_lines(report: ConversionReport) -> list[str]:
    if report.worst_difference is None:
        return []
    proved = f"proved on {report.sample_rows:,} rows of the sample and {report.perturbed_rows:,} made from them"
    labels = "" if report.labels_equal is None else f"{report.labels_equal:.2%} of labels equal, "
    return [f"{proved}: {labels}worst difference {report.worst_difference:.1e} (allowed: {report.tolerance:g})"]
