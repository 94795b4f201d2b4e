"""A network that is pushed: opened and converted apart, and the fastest of the conversions that the parent has proved.

Calls the child (``asking_network.py``) through ``apart.py`` and judges what it left. ``push.py`` calls it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from keelway.contract.baseline import observe
from keelway.contract.signature import ModelSignature
from keelway.contract.tensors import signature_from_tensors
from keelway.errors import ConversionRefused, CorruptArtifact, InvalidInput, KeelwayError
from keelway.ports import Runtime, RuntimeOptions
from keelway.publish import exchange
from keelway.publish.apart import run_apart
from keelway.publish.examples import Batch, arrays_of, load_batches, read_arrays, save_batches
from keelway.publish.exchange import NetworkCandidate, NetworkRequest, NetworkResult
from keelway.publish.onnx_file import check_model
from keelway.publish.onnx_signature import with_sample
from keelway.publish.proof import Comparison
from keelway.publish.proving import micros, prove_network
from keelway.publish.report import Attempt, ConversionReport, Prepared
from keelway.publish.tensor_proof import Outputs
from keelway.runtimes.litert import LiteRTRuntime
from keelway.runtimes.onnx import OnnxRuntime
from keelway.runtimes.torch import TorchOptions
from keelway.types import Array

if TYPE_CHECKING:
    import pandas as pd

#: The largest accepted difference unless the caller says another: a converted network adds the same float32 numbers in
#: another order, layer after layer.
TOLERANCE: Final = 1e-4


@dataclass(frozen=True, slots=True)
class _Proved:
    """A candidate that holds, with its comparison and its median microseconds for one example."""

    candidate: NetworkCandidate
    comparison: Comparison
    micros: float
    signature: ModelSignature


@dataclass(frozen=True, slots=True)
class _Left:
    """What the child left, read back: its result, the batches of the proof and the original's answers to them."""

    result: NetworkResult
    made: list[Batch]
    answers: list[Outputs]
    workspace: Path
    tolerance: float


def prepare_network(
    file: Path,
    form: Literal["program", "module"],
    sample: pd.DataFrame | Path | None,
    *,
    tolerance: float | None,
    workspace: Path,
    progress: Callable[[str], None],
) -> Prepared:
    """Raises ``InvalidInput`` without a sample, ``ConversionRefused`` if it can neither be proved nor kept, and
    whatever opening the file raises."""
    if sample is None:
        raise InvalidInput(
            "a network cannot be proved without examples to prove it on",
            field="sample",
            hint="give --sample FILE: a .npz file with one array for each input, or a table if it takes one row of "
            "numbers; a few hundred examples",
        )
    allowed = TOLERANCE if tolerance is None else tolerance
    leave_examples(sample_arrays(sample), workspace)
    exchange.write(workspace, exchange.REQUEST, NetworkRequest(str(file.resolve()), form, allowed))
    progress("opening and converting the network, in a process of its own")
    run_apart(workspace)
    progress("proving the conversion")
    result = exchange.read(workspace, exchange.RESULT, NetworkResult)
    held = "an exported program" if form == "program" else "a module in a file"
    return judged_network(result, f"a {result.framework} network, {held}", sample, allowed, workspace)


def sample_arrays(sample: pd.DataFrame | Path) -> dict[str, Array]:
    """The tensors of a table or of a file of arrays. Raises ``InvalidInput`` for what a network does not take."""
    return read_arrays(sample) if isinstance(sample, Path) else arrays_of(sample)


def leave_examples(arrays: Mapping[str, Array], workspace: Path) -> None:
    """Hand ``arrays`` over to the child."""
    save_batches(workspace / exchange.EXAMPLES, [Batch("given", arrays)])


def judged_network(
    result: NetworkResult, source: str, sample: pd.DataFrame | Path | None, tolerance: float, workspace: Path
) -> Prepared:
    """What the child left in ``workspace``, after a proof that takes nothing of it on trust.

    A table given as ``sample`` names the columns of the network's only input, and becomes the baseline.
    """
    left = _read(result, workspace, tolerance)
    attempts: list[Attempt] = []
    proved: list[_Proved] = []
    for candidate in result.candidates:
        attempt, found = _tried(left, candidate, sample)
        attempts.append(attempt)
        proved += [found] if found is not None else []
    if proved:
        return _converted(left, min(proved, key=lambda found: found.micros), attempts, source, sample)
    return _kept(left, attempts, source, sample)


def _read(result: NetworkResult, workspace: Path, tolerance: float) -> _Left:
    try:
        made = load_batches(exchange.answer_file(workspace, exchange.EXAMPLES))
        answers = [batch.arrays for batch in load_batches(exchange.answer_file(workspace, exchange.ANSWERS))]
        if not made or len(made) != len(answers):
            raise ValueError("other batches")
    except (KeyError, ValueError, OSError) as error:
        raise CorruptArtifact("the process that opened the file answered what cannot be read") from error
    return _Left(result, made, answers, workspace, tolerance)


def _tried(
    left: _Left, candidate: NetworkCandidate, sample: pd.DataFrame | Path | None
) -> tuple[Attempt, _Proved | None]:
    if not candidate.files:
        return Attempt(candidate.name, candidate.reason), None
    path, *_ = [exchange.answer_file(left.workspace, name) for name in candidate.files]
    try:
        runtime = _OPENERS[candidate.runtime](path)
    except KeelwayError as error:
        return Attempt(candidate.name, str(error)), None
    try:
        comparison = prove_network(runtime, left.made, left.answers, left.tolerance)
        if not comparison.holds:
            return Attempt(candidate.name, _why_not(comparison), comparison), None
        names = [spec.name for spec in runtime.outputs]
        one = {
            spec.name: left.made[0].arrays[spec.name][: spec.shape[0] if spec.shape[0] != -1 else 1]
            for spec in runtime.inputs
        }
        took = micros(lambda: runtime.run(one, names))
        signature = _signature(signature_from_tensors(runtime.inputs, runtime.outputs), sample)
    except KeelwayError as error:
        return Attempt(candidate.name, str(error)), None
    finally:
        runtime.close()
    return Attempt(candidate.name, "", comparison, took), _Proved(candidate, comparison, took, signature)


def _onnx(path: Path) -> Runtime:
    check_model(path)
    return OnnxRuntime(path, RuntimeOptions())


def _litert(path: Path) -> Runtime:
    return LiteRTRuntime(path, RuntimeOptions())


#: By the runtime that will serve a candidate: how it is opened for the proof.
_OPENERS: Final[Mapping[str, Callable[[Path], Runtime]]] = {"onnx": _onnx, "litert": _litert}


def _why_not(comparison: Comparison) -> str:
    found = []
    if comparison.label_differences:
        found.append(f"{comparison.label_differences:,} of {comparison.rows:,} examples have other whole numbers")
    if comparison.beyond:
        found.append(f"{comparison.beyond:.2%} of examples differ by up to {comparison.worst_difference:.1e}")
    return " and ".join(found)


def _signature(signature: ModelSignature, sample: pd.DataFrame | Path | None) -> ModelSignature:
    return signature if sample is None or isinstance(sample, Path) else with_sample(signature, sample)


def _converted(
    left: _Left, best: _Proved, attempts: list[Attempt], source: str, sample: pd.DataFrame | Path | None
) -> Prepared:
    folder = _moved(left, best.candidate.files)
    slower = [attempt.name for attempt in attempts if not attempt.reason and attempt.name != best.candidate.name]
    faster = f", and faster than {' and '.join(slower)}" if slower else ""
    reason = f"proved equal as {best.candidate.name}{faster}"
    options: dict[str, Any] = {} if best.candidate.files[0] == exchange.ONNX else {"file": best.candidate.files[0]}
    report = _report(left, best.candidate.runtime, source, reason, folder, best.comparison, attempts, best.micros)
    return Prepared(folder, best.signature, _baseline(sample, best.signature), best.candidate.runtime, options, report)


def _kept(left: _Left, attempts: list[Attempt], source: str, sample: pd.DataFrame | Path | None) -> Prepared:
    """The network as a program, which the child has compared with itself."""
    result = left.result
    reasons = "; ".join(f"{attempt.name}: {attempt.reason}" for attempt in attempts)
    if result.kept is None or not result.kept.comparison.holds:
        raise ConversionRefused(
            f"{result.model} was not converted exactly ({reasons})",
            hint="allow a larger difference with --tolerance, or push a Python class that calls it",
        )
    folder = _moved(left, (result.kept.file,))
    signature = _signature(signature_from_tensors(result.inputs, result.outputs), sample)
    own = TorchOptions(result.kept.file, result.inputs, result.outputs)
    report = _report(
        left, "torch", source, f"not converted: {reasons}", folder, result.kept.comparison, attempts, result.kept.micros
    )
    return Prepared(folder, signature, _baseline(sample, signature), "torch", msgspec.to_builtins(own), report)


def _moved(left: _Left, files: Sequence[str]) -> Path:
    folder = left.workspace / "artifact"
    folder.mkdir()
    for name in files:
        shutil.move(exchange.answer_file(left.workspace, name), folder / name)
    return folder


def _baseline(sample: pd.DataFrame | Path | None, signature: ModelSignature) -> Any:
    return None if sample is None or isinstance(sample, Path) else observe(sample, signature.features)


def _report(
    left: _Left,
    kept: Literal["onnx", "litert", "torch"],
    source: str,
    reason: str,
    folder: Path,
    comparison: Comparison,
    attempts: list[Attempt],
    took: float,
) -> ConversionReport:
    result = left.result
    counts = {"sample": 0}
    for batch in left.made:
        counts[batch.kind] = counts.get(batch.kind, 0) + len(batch)
    return ConversionReport(
        format=kept,
        source=source,
        reason=reason,
        tolerance=left.tolerance,
        size=sum(path.stat().st_size for path in folder.iterdir()),
        framework=result.framework,
        estimator=result.model,
        versions=result.versions,
        sample_rows=counts["sample"],
        perturbed_rows=comparison.rows - counts["sample"],
        worst_difference=comparison.worst_difference,
        worst_row=comparison.worst_row,
        worst_kind=_kind_of(left.made, comparison.worst_row),
        beyond=comparison.beyond,
        attempts=tuple(attempts),
        micros_before=result.micros,
        micros_after=took,
    )


def _kind_of(made: Sequence[Batch], row: int) -> str:
    for batch in made:
        if row < len(batch):
            return batch.kind
        row -= len(batch)
    return ""
