"""A LiteRT file that is pushed: loaded, tried and copied. Nothing is converted: the file is the model.

``push.py`` calls it. A model that keelway converts itself takes the way of ``network.py``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from keelway.contract.baseline import observe
from keelway.contract.signature import ModelSignature
from keelway.contract.tensors import signature_from_tensors
from keelway.errors import InvalidInput, PayloadTooLarge
from keelway.ports import RuntimeOptions
from keelway.publish.examples import check_examples
from keelway.publish.fitting import fitted
from keelway.publish.network import sample_arrays
from keelway.publish.onnx_file import given_tensors
from keelway.publish.onnx_signature import with_sample
from keelway.publish.proving import micros
from keelway.publish.report import ConversionReport, Prepared
from keelway.publish.rows import rows_of
from keelway.runtimes.litert import MODEL, LiteRTRuntime
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

if TYPE_CHECKING:
    import pandas as pd

#: A flatbuffer's offsets reach no further.
MAX_MODEL_BYTES: Final = 2 * 1024**3

_TRIED_ROWS: Final = 256


def prepare_litert(
    file: Path, sample: pd.DataFrame | Path | None, workspace: Path, progress: Callable[[str], None]
) -> Prepared:
    """``file`` as a model to store. With a table as sample its columns are named; with any sample it is run on it.

    Raises ``CorruptArtifact`` for a damaged file, ``InvalidInput`` for a model that cannot be served or does not fit
    the sample, ``PayloadTooLarge`` beyond 2 GiB, ``FailedPrecondition`` without LiteRT.
    """
    file = file.resolve()
    progress(f"checking {file.name}")
    if file.stat().st_size > MAX_MODEL_BYTES:
        raise PayloadTooLarge("the LiteRT file is larger than 2 GiB", field="file", hint="split or shrink the model")
    folder = workspace / "artifact"
    folder.mkdir()
    shutil.copyfile(file, folder / MODEL)
    runtime = LiteRTRuntime(folder / MODEL, RuntimeOptions())
    try:
        signature = signature_from_tensors(runtime.inputs, runtime.outputs)
        table = None if sample is None or isinstance(sample, Path) else sample
        if table is not None:
            signature = with_sample(signature, table)
        given = _given(sample, signature, runtime.inputs)
        if given is None:
            took = None
            _try_made_up(runtime)
        else:
            progress("running the model on the sample")
            took = _tried(runtime, signature, given)
        warnings = tuple(_quantised(runtime))
    finally:
        runtime.close()
    report = ConversionReport(
        format="litert",
        source="a LiteRT model",
        reason="pushed as LiteRT",
        tolerance=0.0,
        size=(folder / MODEL).stat().st_size,
        sample_rows=0 if given is None else _rows(sample),
        micros_after=took,
        warnings=warnings,
    )
    baseline = None if table is None else observe(table, signature.features)
    return Prepared(folder, signature, baseline, "litert", {}, report)


def _given(
    sample: pd.DataFrame | Path | None, signature: ModelSignature, inputs: Sequence[TensorSpec]
) -> dict[str, Array] | None:
    """Some examples as the model's tensors; one, in a model that takes one at a time."""
    if sample is None:
        return None
    if not isinstance(sample, Path):
        rows = rows_of(sample)
        count = min(len(rows), _TRIED_ROWS) if signature.batched else 1
        return given_tensors(signature, rows.take(np.arange(count)))
    if signature.batched:
        return {name: array[:_TRIED_ROWS] for name, array in fitted(sample, inputs).items()}
    arrays = sample_arrays(sample)
    check_examples(arrays)
    leading = {spec.name: spec.shape[:1] for spec in inputs}
    only = next(iter(leading.values()))
    one = {name: array[:1] if leading.get(name, only) in ((1,), (-1,)) else array[0] for name, array in arrays.items()}
    return fitted(one, inputs)


def _rows(sample: pd.DataFrame | Path | None) -> int:
    if sample is None:
        return 0
    return len(next(iter(sample_arrays(sample).values()))) if isinstance(sample, Path) else len(sample)


def _tried(runtime: LiteRTRuntime, signature: ModelSignature, given: Mapping[str, Array]) -> float:
    """Median microseconds of a run with one example, after it has answered several at once and the same one twice."""
    names = [spec.name for spec in runtime.outputs]
    one = {name: array[:1] for name, array in given.items()} if signature.batched else dict(given)
    first = _run(runtime, one, names, "the model fails on an example of the sample", "give it as the model takes it")
    _check_same(first, _run(runtime, one, names, "the model fails when it is asked again", "convert it again"))
    if signature.batched:
        several = "the model says that it takes any number of examples, and fails on several"
        hint = "convert it with a free batch axis all the way through, or with a batch of 1"
        answered = _run(runtime, given, names, several, hint)
        count = len(next(iter(given.values())))
        if any(array.shape[:1] != (count,) for array in answered):
            raise InvalidInput(several, field="sample", hint=hint)
        first = answered
    floats = [array for array in first if array.dtype.kind == "f"]
    if floats and all(np.isnan(array).all() for array in floats):
        raise InvalidInput(
            "the model answers NaN to every example of the sample",
            field="file",
            hint="its weights may be variables that nobody fills: convert it with the weights as constants",
        )
    return micros(lambda: runtime.run(one, names))


def _try_made_up(runtime: LiteRTRuntime) -> None:
    """Without a sample, zeros: they show a model that remembers, and prove nothing else, since it may refuse them."""
    names = [spec.name for spec in runtime.outputs]
    zeros = {
        spec.name: np.zeros([abs(size) for size in spec.shape], NUMPY_DTYPES[spec.datatype])
        for spec in runtime.inputs
        if spec.datatype != "BYTES"
    }
    if len(zeros) < len(runtime.inputs):
        return
    try:
        first, second = runtime.run(zeros, names), runtime.run(zeros, names)
    except (RuntimeError, ValueError):
        return
    _check_same(first, second)


def _check_same(first: Sequence[Array], second: Sequence[Array]) -> None:
    for one, other in zip(first, second, strict=True):
        if not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            raise InvalidInput(
                "the model answers otherwise when it is asked again: it remembers, or is random",
                field="file",
                hint="convert it without stateful layers and without variables that it changes",
            )


def _run(
    runtime: LiteRTRuntime, given: Mapping[str, Array], names: Sequence[str], message: str, hint: str
) -> Sequence[Array]:
    try:
        return runtime.run(given, names)
    except (RuntimeError, ValueError) as error:
        raise InvalidInput(message, field="sample", hint=hint) from error


def _quantised(runtime: LiteRTRuntime) -> list[str]:
    return [
        f"'{name}' is quantised: the whole number n in it stands for {scale:.6g} × (n {'-' if zero >= 0 else '+'} "
        f"{abs(zero)})"
        for name, (scale, zero) in runtime.quantised.items()
    ]
