"""A scikit-learn model or a booster in a file: opened apart, and the best candidate that the parent has proved is kept.

Calls the child (``asking.py``) through ``apart.py`` and judges what it left. ``push.py`` calls it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from keelway.contract.baseline import observe
from keelway.contract.signature import Feature, ModelSignature, infer_features, pack
from keelway.errors import ConversionRefused, CorruptArtifact, InvalidInput
from keelway.ports import RuntimeOptions
from keelway.publish import exchange
from keelway.publish.answers import Answers
from keelway.publish.apart import run_apart
from keelway.publish.asking import at_door, skops_options
from keelway.publish.exchange import Candidate, EstimatorRequest, EstimatorResult, FileFormat
from keelway.publish.onnx_file import check_model
from keelway.publish.proof import Comparison, spread
from keelway.publish.proving import micros, prove
from keelway.publish.report import Attempt, ConversionReport, Kept, Prepared
from keelway.publish.rows import Rows, rows_of, tensors
from keelway.runtimes.boosters import NAMES
from keelway.runtimes.onnx import OnnxRuntime
from keelway.types import Array, TensorSpec

if TYPE_CHECKING:
    import pandas as pd

MODEL: Final = "model.onnx"

#: The largest accepted difference unless the caller says another.
TOLERANCE: Final = 1e-5

_LIBRARIES: Final = ("scikit-learn", "skl2onnx", "onnx", "onnxruntime", "numpy", "keelway")
#: Distributions that bring a library of boosting; XGBoost comes in two.
_BOOSTERS: Final = {"XGBoost": ("xgboost", "xgboost-cpu"), "LightGBM": ("lightgbm",), "CatBoost": ("catboost",)}


@dataclass(frozen=True, slots=True)
class _Left:
    """What the child left, read back."""

    result: EstimatorResult
    rows: Rows
    answers: Answers
    features: tuple[Feature, ...]
    workspace: Path
    tolerance: float

    @property
    def scale(self) -> Array | None:
        return None if self.result.probabilities else spread(self.answers.values[: self.result.kinds[0][1]])


def prepare_estimator(
    file: Path,
    form: FileFormat,
    sample: pd.DataFrame | None,
    *,
    trusted_types: frozenset[str],
    tolerance: float | None,
    workspace: Path,
    progress: Callable[[str], None],
) -> Prepared:
    """Raises ``InvalidInput`` without a sample, ``ConversionRefused`` if it can neither be proved nor kept, and
    whatever opening the file raises."""
    if sample is None:
        raise InvalidInput(
            f"{_article(NAMES.get(form, 'scikit-learn'))} model cannot be proved without rows to prove it on",
            field="sample",
            hint="give --sample FILE: a few hundred rows like those it was trained on",
        )
    features = infer_features(sample)
    rows_of(sample).save(workspace / exchange.SAMPLE)
    allowed = TOLERANCE if tolerance is None else tolerance
    request = EstimatorRequest(str(file.resolve()), form, features, allowed, trusted_types)
    exchange.write(workspace, exchange.REQUEST, request)
    progress("opening and converting the model, in a process of its own")
    run_apart(workspace)
    progress("proving the conversion")
    return judged(request, sample, workspace)


def judged(request: EstimatorRequest, sample: pd.DataFrame, workspace: Path) -> Prepared:
    """What the child left in ``workspace`` for ``request``, after a proof that takes nothing of it on trust."""
    left = _read(workspace, request.features, request.tolerance)
    held = {"pickle": "in a pickle", "skops": "in a skops file", "factory": f"made by {request.file}"}
    source = f"{_article(left.result.framework)} model {held.get(request.format, 'in its own format')}"
    prepared = _proved(left, source) or _kept(left, source)
    return Prepared(
        prepared.folder,
        prepared.signature,
        observe(sample, prepared.signature.features),
        prepared.runtime,
        prepared.options,
        prepared.report,
    )


def _read(workspace: Path, features: tuple[Feature, ...], tolerance: float) -> _Left:
    result = exchange.read(workspace, exchange.RESULT, EstimatorResult)
    known = {feature.name: feature for feature in features}
    try:
        rows = Rows.load(exchange.answer_file(workspace, exchange.ROWS))
        answers = Answers.load(exchange.answer_file(workspace, exchange.ANSWERS))
        ordered = tuple(known[column] for column in result.columns)
    except (KeyError, ValueError, OSError) as error:
        raise CorruptArtifact("the process that opened the file answered what cannot be read") from error
    if len(rows) != len(answers) or len(rows) != sum(count for _, count in result.kinds):
        raise CorruptArtifact("the process that opened the file answered for other rows than it was given")
    return _Left(result, rows, answers, ordered, workspace, tolerance)


def _proved(left: _Left, source: str) -> Prepared | None:
    """The first candidate that holds, proved here; None if there is none."""
    attempts: list[Attempt] = []
    for candidate in left.result.candidates:
        attempt, comparison = _tried(left, candidate)
        attempts.append(attempt)
        if comparison is not None:
            return _converted(left, candidate, comparison, attempts, source)
    return None


def _tried(left: _Left, candidate: Candidate) -> tuple[Attempt, Comparison | None]:
    if not candidate.file:
        return Attempt(candidate.name, candidate.reason), None
    path = exchange.answer_file(left.workspace, candidate.file)
    check_model(path)
    inputs = pack(at_door(left.features, candidate.door))
    try:
        comparison = prove(path, inputs, left.rows, left.answers, left.scale, left.tolerance)
    except CorruptArtifact as error:
        return Attempt(candidate.name, str(error)), None
    if comparison.holds:
        return Attempt(candidate.name, "", comparison), comparison
    return Attempt(candidate.name, _why_not(comparison), comparison), None


def _why_not(comparison: Comparison) -> str:
    found = []
    if comparison.label_differences:
        found.append(f"{comparison.label_differences:,} of {comparison.rows:,} labels differ")
    if comparison.beyond:
        found.append(f"{comparison.beyond:.2%} of rows differ by up to {comparison.worst_difference:.1e}")
    return " and ".join(found) or "the original refuses every row"


def _converted(
    left: _Left, candidate: Candidate, comparison: Comparison, attempts: list[Attempt], source: str
) -> Prepared:
    folder = left.workspace / "artifact"
    folder.mkdir()
    shutil.move(left.workspace / candidate.file, folder / MODEL)
    features = at_door(left.features, candidate.door)
    inputs = pack(features)
    signature = _signature(left.result, features, inputs, candidate.outputs)
    runtime = OnnxRuntime(folder / MODEL, RuntimeOptions())
    if {spec.name: spec for spec in runtime.outputs} != {spec.name: spec for spec in candidate.outputs}:
        raise CorruptArtifact("the converted model answers other tensors than the process that made it said")
    one = {name: array[:1] for name, array in tensors(left.rows, inputs).items()}
    names = [spec.name for spec in candidate.outputs]
    took = micros(lambda: runtime.run(one, names))
    runtime.close()
    reason = f"proved equal with {candidate.name}"
    report = _report(left, "onnx", source, reason, folder / MODEL, comparison, attempts, took)
    return Prepared(folder, signature, None, "onnx", {}, report)


def _kept(left: _Left, source: str) -> Prepared:
    """The original itself, after a round trip through skops or its own format that the child has compared with it."""
    result = left.result
    attempts = [_tried(left, candidate)[0] for candidate in result.candidates]
    if result.kept is None or not result.kept.holds:
        way = "skops" if result.native is None else "its own format"
        raise ConversionRefused(
            f"{result.estimator} was not converted exactly, and differs from itself after a round trip through {way}",
            hint="push a Python class that does what it does: keelway push NAME model.py",
        )
    folder = left.workspace / "artifact"
    folder.mkdir()
    features = at_door(left.features, "FP64")  # nothing is rounded at the door of an exact model
    inputs = pack(features)
    signature = _signature(result, features, inputs, result.kept_outputs)
    if result.native is None:
        runtime: Kept = "skops"
        name = exchange.SKOPS
        options = msgspec.to_builtins(skops_options(result, inputs, result.kept_outputs))
    else:
        runtime, name = "boosters", result.native.file
        own = msgspec.structs.replace(result.native, inputs=inputs, outputs=result.kept_outputs)
        options = msgspec.to_builtins(own)
    shutil.move(exchange.answer_file(left.workspace, name), folder / name)
    reasons = {attempt.reason for attempt in attempts}
    named = (f"{attempt.name}: {attempt.reason}" for attempt in attempts)
    reason = "not converted: " + (reasons.pop() if len(reasons) == 1 else "; ".join(named))
    report = _report(left, runtime, source, reason, folder / name, result.kept, attempts, result.kept_micros)
    return Prepared(folder, signature, None, runtime, options, report)


def _signature(
    result: EstimatorResult,
    features: tuple[Feature, ...],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> ModelSignature:
    names = {spec.name for spec in outputs}
    return ModelSignature(
        features,
        inputs,
        outputs,
        result.task,
        result.labels,
        "label" if "label" in names else "",
        "probabilities" if "probabilities" in names else "",
    )


def _report(
    left: _Left,
    kept: Kept,
    source: str,
    reason: str,
    file: Path,
    comparison: Comparison,
    attempts: list[Attempt],
    took: float,
) -> ConversionReport:
    result = left.result
    sample_rows = result.kinds[0][1]
    classified = result.task == "classification"
    return ConversionReport(
        format=kept,
        source=source,
        reason=reason,
        tolerance=left.tolerance,
        size=file.stat().st_size,
        framework=result.framework,
        estimator=result.estimator,
        versions=_versions(result.framework),
        saved_with=result.saved_with,
        sample_rows=sample_rows,
        perturbed_rows=len(left.rows) - sample_rows,
        refused_rows=comparison.refused,
        labels_equal=1 - comparison.label_differences / comparison.rows if classified else None,
        worst_difference=comparison.worst_difference,
        worst_row=comparison.worst_row,
        worst_kind=_kind_of_row(result.kinds, comparison.worst_row),
        beyond=comparison.beyond,
        attempts=tuple(attempts),
        micros_before=result.micros,
        micros_after=took,
        untrusted_types=result.untrusted_types if kept == "skops" else (),
        warnings=tuple(_warnings(left, kept, comparison)),
    )


def _warnings(left: _Left, kept: Kept, comparison: Comparison) -> list[str]:
    found = []
    saved, here = left.result.saved_with, _versions(left.result.framework).get("scikit-learn", "")
    if saved and saved != here:
        found.append(
            f"the file was written with scikit-learn {saved} and opened with {here}: what was proved is what {here} "
            f"makes of it; to be sure, push it where scikit-learn {saved} is installed"
        )
    own = int((~left.answers.accepted[: left.result.kinds[0][1]]).sum())
    if own:
        found.append(f"the original refuses {own:,} rows of the sample itself; they prove nothing")
    if comparison.refused > own and kept != "skops":
        found.append(
            f"the original refuses {comparison.refused - own:,} of the rows made for the proof (unknown categories, or "
            "values beyond float32); the served model answers such rows, with what it makes of them"
        )
    return found


def _kind_of_row(kinds: tuple[tuple[str, int], ...], row: int) -> str:
    for kind, count in kinds:
        if row < count:
            return kind
        row -= count
    return ""


def _article(framework: str) -> str:
    return f"{'an' if framework[0] == 'X' else 'a'} {framework}"


def _versions(framework: str) -> dict[str, str]:
    found: dict[str, Any] = {}
    for library in (*_BOOSTERS.get(framework, ()), *_LIBRARIES):
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # an optional one, or keelway run from its sources
            continue
    return found
