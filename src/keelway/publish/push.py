"""``prepare``: from a trained file and a sample to the files, the signature and the report of a model.

It finds out what the file is by its content and hands it to whoever publishes that. ``release.py`` stores the result;
nothing here talks to the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from keelway.artifacts.formats import Format, describe, detect
from keelway.contract.sample import read_sample, split_target
from keelway.errors import FailedPrecondition, InvalidInput, UntrustedArtifact
from keelway.publish.exchange import FileFormat
from keelway.publish.report import Prepared
from keelway.publish.text_encoder import is_encoder, prepare_encoder
from keelway.runtimes.boosters import EXTRAS, NAMES
from keelway.runtimes.torch import EXTRA_HINT

if TYPE_CHECKING:
    import pandas as pd

_Sample = TypeVar("_Sample", "pd.DataFrame | Path | None", "pd.DataFrame | None")


def prepare(
    file: Path,
    sample: pd.DataFrame | Path | None,
    target: str | None,
    *,
    trust_pickle: bool,
    trusted_types: frozenset[str] = frozenset(),
    tolerance: float | None = None,
    python: Path | None = None,
    workspace: Path,
    progress: Callable[[str], None] = lambda message: None,
) -> Prepared:
    """The model in ``file``, converted and proved, or kept exactly as it is.

    ``sample`` holds rows like those the model will see, or is a file of arrays (.npz, .npy), which are tensors to a
    network and a table to any other model; ``target`` names a column to leave out. ``trust_pickle`` is the caller's
    consent to running the code in ``file``: a pickle, a Python class, a PyTorch file. ``trusted_types`` may stand in a
    skops file beyond skops' own. ``tolerance`` is the largest accepted difference (``proof.py``, ``tensor_proof.py``);
    None is 1e-5, and 1e-4 for networks. ``python`` is the interpreter of an environment with TensorFlow, for Keras
    models; None is this one. ``workspace`` is an empty folder; the files to store are in ``Prepared.folder``
    below it.

    Raises ``UntrustedArtifact`` without the consent a file needs, ``InvalidInput`` for files and samples that are none
    or do not fit, ``CorruptArtifact`` for damaged files, ``ConversionRefused`` for a model that can neither be proved
    nor kept, ``FailedPrecondition`` if a library is missing; all with a hint.
    """
    form = detect(file)
    if form is Format.FOLDER and is_encoder(file):
        require_encoder_libraries()
        table = read_sample(sample) if isinstance(sample, Path) else sample
        return prepare_encoder(
            file,
            without_target(table, target),
            trust_pickle=trust_pickle,
            tolerance=tolerance,
            workspace=workspace,
            progress=progress,
        )
    if form in _NETWORKS:
        _require_consent(trust_pickle, f"{describe(file)} may run code when it is opened")
        require_libraries(form)
        from keelway.publish.network import prepare_network

        return prepare_network(
            file,
            _NETWORKS[form],
            without_target(sample, target),
            tolerance=tolerance,
            workspace=workspace,
            progress=progress,
        )
    if form in (Format.KERAS, Format.HDF5):
        from keelway.publish.keras_file import prepare_keras

        return prepare_keras(
            file,
            without_target(sample, target),
            trusted=trust_pickle,
            python=python,
            tolerance=tolerance,
            workspace=workspace,
            progress=progress,
        )
    if form is Format.LITERT:
        from keelway.publish.litert_file import prepare_litert

        return prepare_litert(file, without_target(sample, target), workspace, progress)
    sample = without_target(read_sample(sample) if isinstance(sample, Path) else sample, target)
    if form is Format.ONNX:
        from keelway.publish.onnx_file import prepare_onnx

        return prepare_onnx(file, sample, workspace, progress)
    if form in _ESTIMATORS:
        if form in (Format.PICKLE, Format.JOBLIB):
            _require_consent(trust_pickle, f"{describe(file)} runs code when it is opened")
        require_libraries(form)
        from keelway.publish.sklearn_file import prepare_estimator

        return prepare_estimator(
            file,
            _ESTIMATORS[form],
            sample,
            trusted_types=trusted_types,
            tolerance=tolerance,
            workspace=workspace,
            progress=progress,
        )
    if form is Format.PYTHON and file.suffix == ".py":
        _require_consent(trust_pickle, "a Python class has to be run to learn what it answers")
        from keelway.publish.python_class import prepare_class

        return prepare_class(file, sample, workspace, progress)
    raise InvalidInput(f"this is {describe(file)}, not a model", field="file", hint=_hint(form, describe(file)))


#: Files that hold a trained estimator, and how the child opens each.
_ESTIMATORS: Final[Mapping[Format, FileFormat]] = {
    Format.PICKLE: "pickle",
    Format.JOBLIB: "pickle",
    Format.SKOPS: "skops",
    Format.XGBOOST: "xgboost",
    Format.LIGHTGBM: "lightgbm",
    Format.CATBOOST: "catboost",
}
#: Files that hold a network, and how the child opens each.
_NETWORKS: Final[Mapping[Format, Literal["program", "module"]]] = {
    Format.TORCH_PROGRAM: "program",
    Format.TORCH: "module",
}
_FORMATS = (
    "push an ONNX file, a scikit-learn model saved with pickle, joblib or skops, an XGBoost, LightGBM or CatBoost "
    "model, a PyTorch program (.pt2), a Keras or LiteRT model, a .py file with a class, or say "
    "--from-python package.module:function"
)
_SAVE_AGAIN = "load it with XGBoost 3.0 or older and save it as JSON: booster.save_model('model.json')"
_HINTS = {
    Format.FOLDER: "push one file, or a folder that save_pretrained() of transformers wrote, with its config.json",
    Format.ZIP: "unpack it and push the model inside",
    Format.TAR: "unpack it and push the model inside",
    Format.PYTHON: "a Python class must be in a file whose name ends with .py",
}


#: By what ``describe`` says, for what is no format of its own.
_OLD: Final = {
    "an XGBoost model in its old binary form": _SAVE_AGAIN,
    "a dump of a LightGBM model, which cannot be loaded again": "save it with booster.save_model('model.txt')",
}


def require_encoder_libraries() -> None:
    """As ``require_libraries``, for folders of text encoders."""
    _require_modules("text encoders", ("torch", "onnxscript", "onnx", "transformers", "tokenizers"))


def _require_modules(what: str, names: tuple[str, ...]) -> None:
    for name in names:
        if find_spec(name) is None:
            raise FailedPrecondition(f"pushing {what} needs {name}", hint=EXTRA_HINT)


def _hint(form: Format, description: str) -> str:
    return _OLD.get(description) or _HINTS.get(form, _FORMATS)


def _require_consent(given: bool, why: str) -> None:
    if not given:
        raise UntrustedArtifact(
            why,
            field="file",
            hint="if you trust whoever made it, say --trust-pickle; ONNX, skops and boosters' own files need no trust",
        )


def without_target(sample: _Sample, target: str | None) -> _Sample:
    """``sample`` without the column ``target``. Raises ``InvalidInput`` if there is none."""
    if target is None:
        return sample
    if sample is None or isinstance(sample, Path):
        raise InvalidInput("there is no table to find the target in", field="target", hint="give --sample a table")
    frame, _ = split_target(sample, target)
    return frame


def require_libraries(form: Format) -> None:
    """Raise ``FailedPrecondition``, with the extra to install, unless what pushing ``form`` needs is installed."""
    if form in _NETWORKS:
        _require_modules("PyTorch networks", ("torch", "onnxscript", "onnx"))
        return
    own = form.value if form.value in EXTRAS else ""
    needed = ("pandas", "sklearn", "onnx", own) if own else ("pandas", "sklearn", "skl2onnx", "onnx", "skops")
    extra = EXTRAS[own] if own else "sklearn"
    for name in needed:
        if find_spec(name) is None:
            what = NAMES.get(own, "scikit-learn")
            raise FailedPrecondition(f"pushing {what} models needs {name}", hint=f'pip install "keelway[{extra}]"')
