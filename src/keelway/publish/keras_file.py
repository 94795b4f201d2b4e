"""A Keras model that is pushed: opened where TensorFlow is, and the faster of the conversions that are proved.

``keras_script.py`` runs in another environment, in a process each for two steps, since what the model is asked depends
on what it takes. ``network.py`` judges what was left; ``push.py`` calls it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np

from keelway.errors import (
    CorruptArtifact,
    FailedPrecondition,
    InvalidInput,
    KeelwayError,
    ModelFailed,
    UntrustedArtifact,
)
from keelway.publish import exchange, keras_script
from keelway.publish.apart import run_apart
from keelway.publish.examples import SAMPLE_KIND, Batch, batches, chosen, load_batches, save_batches
from keelway.publish.exchange import NetworkCandidate, NetworkResult
from keelway.publish.fitting import fitted
from keelway.publish.network import TOLERANCE, judged_network
from keelway.publish.report import Prepared
from keelway.types import Array, TensorSpec, datatype_of

if TYPE_CHECKING:
    import pandas as pd

_MAKE_ONE: Final = (
    "make an environment for it, python3 -m venv keras-env && keras-env/bin/pip install tensorflow-cpu tf2onnx, "
    "then say --python keras-env/bin/python"
)
_EXPORT: Final = (
    "if it is your own, export the model where its code is, model.export('model.onnx', format='onnx'), and push that; "
    "if it is Keras's, save the model as .keras"
)

#: What Keras says of a class that it does not know, of code in a file, and what TensorFlow says of operators.
_FOREIGN: Final = re.compile(r"Could not locate (?:class|function) '([^']+)'|Unknown (?:layer|object): '?([\w>]+)'?")
_CODE: Final = re.compile(r"[Ll]ambda|unsafe deserialization|safe_mode")
_OPERATORS: Final = re.compile(r"'tf\.(\w+)' op|\btf\.(\w+)\(")

_FORMATS: Final = {"litert": "LiteRT", "onnx": "ONNX"}
_LIBRARIES: Final = ("onnxruntime", "ai-edge-litert", "numpy", "keelway")

#: The kind of those batches that a model may refuse, since shorter is not always long enough.
_OPTIONAL: Final = "other lengths"


class KerasRequest(msgspec.Struct, frozen=True):
    """Open ``file``, code in it too if it is ``trusted``."""

    file: str
    trusted: bool


class KerasTensor(msgspec.Struct, frozen=True):
    """An input or output; ``dtype`` as TensorFlow calls it, ``shape`` with -1 where it is open."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class KerasDescription(msgspec.Struct, frozen=True):
    """What the first step leaves. ``saved_with`` is the version of Keras that wrote the file, if it says so."""

    model: str
    inputs: tuple[KerasTensor, ...]
    outputs: tuple[KerasTensor, ...]
    versions: dict[str, str]
    saved_with: str


class KerasCandidate(msgspec.Struct, frozen=True):
    """A ``file`` in the folder, or what its converter ``said``."""

    runtime: Literal["onnx", "litert"]
    file: str
    said: str


class KerasConversion(msgspec.Struct, frozen=True):
    """What the second step leaves. ``unanswered`` maps the position of a batch to the exception that it raised;
    ``micros`` is the median of one example by the faster way of asking, ``called``."""

    unanswered: dict[int, str]
    called: str
    micros: float
    candidates: tuple[KerasCandidate, ...]


class KerasFailure(exchange.Failure, frozen=True):
    """A failure with what Keras said."""

    said: str = ""


def prepare_keras(
    file: Path,
    sample: pd.DataFrame | Path | None,
    *,
    trusted: bool,
    python: Path | None,
    tolerance: float | None,
    workspace: Path,
    progress: Callable[[str], None],
) -> Prepared:
    """``python`` is the interpreter of an environment with TensorFlow, this one by default.

    Raises ``InvalidInput`` without a sample or for a model that cannot be served, ``FailedPrecondition`` without
    TensorFlow, ``UntrustedArtifact`` for a file with code in it, ``ConversionRefused`` if no conversion holds.
    """
    if sample is None:
        raise InvalidInput(
            "a Keras model cannot be proved without examples to prove it on",
            field="sample",
            hint="give --sample FILE: a .npz file with an array for each input, a .npy file for a single one, or a "
            "table if it takes rows of numbers; a few hundred examples",
        )
    interpreter = _interpreter(python)
    exchange.write(workspace, exchange.REQUEST, KerasRequest(str(file.resolve()), trusted))
    progress("opening the model, in an environment of its own")
    _run(interpreter, "describe", workspace, trusted)
    described = exchange.read(workspace, "described.json", KerasDescription)
    inputs, outputs = [tuple(map(_spec, tensors)) for tensors in (described.inputs, described.outputs)]
    made = _batches(fitted(sample, inputs), inputs)
    save_batches(workspace / exchange.EXAMPLES, made)
    progress("asking and converting it")
    _run(interpreter, "convert", workspace, trusted)
    converted = exchange.read(workspace, "converted.json", KerasConversion)
    _pair(made, converted, workspace)
    progress("proving the conversions")
    result = NetworkResult(
        model=described.model,
        framework="Keras",
        inputs=inputs,
        outputs=outputs,
        candidates=tuple(map(_candidate, converted.candidates)),
        micros=converted.micros,
        versions={**described.versions, **_versions()},
    )
    allowed = TOLERANCE if tolerance is None else tolerance
    prepared = judged_network(result, "a Keras model", sample, allowed, workspace)
    saved = described.saved_with if described.saved_with != described.versions.get("keras") else ""
    return replace(prepared, report=msgspec.structs.replace(prepared.report, saved_with=saved))


def _interpreter(python: Path | None) -> Path:
    if python is not None:
        if not os.access(python, os.X_OK) or python.is_dir():
            raise FailedPrecondition(
                f"{python} is no program that can be run", field="python", hint="name the Python of an environment"
            )
        return python.absolute()  # not resolved: an environment is found beside the link
    if find_spec("keras") is None or find_spec("tensorflow") is None:
        raise FailedPrecondition("pushing Keras models needs TensorFlow, which is not installed here", hint=_MAKE_ONE)
    return Path(sys.executable)


def _run(interpreter: Path, step: str, workspace: Path, trusted: bool) -> None:
    # -I: neither this folder nor the user's packages are searched; -B: nothing is written beside the script.
    command = [str(interpreter), "-I", "-B", str(Path(keras_script.__file__)), step, str(workspace)]
    try:
        run_apart(workspace, command=command)
    except CorruptArtifact as error:
        try:
            said = exchange.read(workspace, exchange.FAILURE, KerasFailure).said
        except CorruptArtifact:
            said = ""
        raise unopened(error, said, trusted) from None


def unopened(error: CorruptArtifact, said: str, trusted: bool) -> KeelwayError:
    """The error for a file that Keras did not open, by what it ``said``; ``error`` itself if that says nothing."""
    foreign = _FOREIGN.search(said)
    if foreign is not None:
        name = (foreign[1] or foreign[2]).rpartition(">")[2]
        return InvalidInput(
            f"the model uses '{name}', which Keras does not find, and whose code the file does not hold",
            field="file",
            hint=_EXPORT,
        )
    if "No model config found" in said:
        return InvalidInput(
            "the file holds weights without a model", field="file", hint="save the model: model.save('model.keras')"
        )
    if _CODE.search(said) and not trusted:
        return UntrustedArtifact(
            "the model has a Lambda layer, or another piece of Python code in it",
            field="file",
            hint="use layers and keras.ops instead, or say --trust-pickle if you trust whoever made the file",
        )
    return error


def _spec(tensor: KerasTensor) -> TensorSpec:
    try:
        datatype = "BYTES" if tensor.dtype == "string" else datatype_of(np.dtype(tensor.dtype))
    except (KeyError, TypeError):
        datatype = ""
    if datatype in ("", "BYTES"):
        raise InvalidInput(
            f"'{tensor.name}' is of the type {tensor.dtype}, which a converted model does not take",
            field=tensor.name,
            hint="cast it in the model; leave the lookup of texts to the caller, or to a Python class",
        )
    return TensorSpec(tensor.name, datatype, tensor.shape)


# The examples


def _batches(arrays: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> list[Batch]:
    free = {spec.name: [axis for axis, size in enumerate(spec.shape) if axis and size == -1] for spec in inputs}
    return batches(chosen(arrays), free, None)


def _pair(made: Sequence[Batch], converted: KerasConversion, workspace: Path) -> None:
    """Leave the batches that were answered, and the answers, for the proof: those that were asked, not those that the
    child may have put in their place."""
    for place, raised in converted.unanswered.items():
        kind = made[place].kind if place < len(made) else _OPTIONAL
        if kind != _OPTIONAL:
            what = "on the sample" if kind == SAMPLE_KIND else f"on {kind} of the sample"
            raise ModelFailed(
                f"the model raised {raised} {what}",
                field="sample",
                hint="give examples as in training; let it take any number of them, and values like those",
            )
    try:
        answers = load_batches(exchange.answer_file(workspace, exchange.ANSWERS))
    except (KeyError, ValueError, OSError) as error:
        raise CorruptArtifact("the process that opened the file answered what cannot be read") from error
    if len(answers) != len(made):
        raise CorruptArtifact("the process that opened the file answered for other examples than it was given")
    kept = [place for place in range(len(made)) if place not in converted.unanswered]
    save_batches(workspace / exchange.EXAMPLES, [made[place] for place in kept])
    save_batches(workspace / exchange.ANSWERS, [answers[place] for place in kept])


# The candidates


def _candidate(found: KerasCandidate) -> NetworkCandidate:
    files = (found.file,) if found.file else ()
    return NetworkCandidate(_FORMATS[found.runtime], found.runtime, files, "" if files else reason(found.said))


def reason(said: str) -> str:
    """Why a converter gave up, in a line, by what it ``said``: the class of an exception, a colon, and its text."""
    kind, _, text = said.partition(": ")
    if kind in ("ImportError", "ModuleNotFoundError"):
        missing = re.search(r"'(\w+)", text)
        return f"{missing[1] if missing else 'its converter'} is not installed in that environment"
    if "TensorList" in text:
        return "LiteRT has no loop over a sequence for an open number of examples"
    if "SELECT_TF_OPS" in text or "TF Select" in text:
        names = sorted({found[1] or found[2] for found in _OPERATORS.finditer(text)})
        return f"LiteRT lacks operators of the model{': ' if names else ''}{', '.join(names[:3])}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"the converter raised {kind}{': ' if lines else ''}{lines[-1][:160] if lines else ''}"


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # an optional one, or keelway run from its sources
            continue
    return found
