"""A model that is Python code: one class in one file of the artifact, imported only if the operator allows its digest.

The one runtime that runs code out of an artifact. It is for what no model format holds (rules, look-ups, glue between
members of a pipeline); a trained model belongs in ONNX. The class is made without arguments and has
``predict(inputs: dict[str, array]) -> dict[str, array]``, plain or ``async``; ``load(folder: Path)``, called once, and
``close()`` are optional, and ``thread_safe = True`` says that calls may overlap. ``hosting`` loads it by its entry
point.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path, PurePosixPath
from types import CodeType, ModuleType
from typing import Any

import msgspec
import numpy as np

from keelway.errors import CorruptArtifact, KeelwayError, ModelFailed, UntrustedArtifact
from keelway.ports import MemberLoader, RuntimeOptions
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

#: Numbers the modules, so that two loads of one digest do not meet in ``sys.modules``.
_serial = itertools.count()


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``module`` is the file's path in the artifact, ``class`` the name of the class in it."""

    module: str
    class_name: str = msgspec.field(name="class")
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class PythonRuntime:
    """A user's model as a ``Runtime``. Its answers are checked against the declared outputs before they go on."""

    def __init__(
        self, model: Any, module_name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.thread_safe = bool(getattr(model, "thread_safe", False))
        self._model = model
        self._predict: Callable[[dict[str, Array]], Any] = model.predict
        self._module_name = module_name
        self._specs = {spec.name: spec for spec in outputs}
        self._batched = bool(inputs) and all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array] | Awaitable[Sequence[Array]]:
        """Raises ``ModelFailed`` if the answer lacks an output or breaks its datatype, shape or number of rows."""
        rows = len(next(iter(inputs.values()))) if self._batched else None
        try:
            answer = self._predict(dict(inputs))
        except SystemExit as error:
            raise _exit_refused() from error
        if inspect.isawaitable(answer):
            return self._answer_later(answer, outputs, rows)
        return self._checked(answer, outputs, rows)

    async def _answer_later(self, answer: Awaitable[Any], outputs: Sequence[str], rows: int | None) -> Sequence[Array]:
        try:
            answered = await answer
        except SystemExit as error:
            raise _exit_refused() from error
        return self._checked(answered, outputs, rows)

    def _checked(self, answer: Any, outputs: Sequence[str], rows: int | None) -> list[Array]:
        if not isinstance(answer, Mapping):
            raise ModelFailed("the model did not answer a mapping of output names to arrays")
        return [_checked_output(self._specs[name], answer, rows) for name in outputs]

    def close(self) -> None:
        """Call the model's own ``close``, if it has one, once."""
        model, self._model = self._model, None
        sys.modules.pop(self._module_name, None)
        close = getattr(model, "close", None)
        if close is not None:
            close()


def load(
    folder: Path,
    model_digest: str,
    manifest_options: Mapping[str, Any],
    options: RuntimeOptions,
    load_member: MemberLoader,
) -> PythonRuntime:
    """The model in ``folder``. Options of the manifest: ``module``, ``class``, ``inputs`` and ``outputs`` (specs).

    Raises ``UntrustedArtifact`` before anything of the artifact is read unless ``options.allowed_python`` holds
    ``model_digest``; ``CorruptArtifact`` if the options or the file are not there; ``ModelFailed`` if the code raises.
    """
    if model_digest not in options.allowed_python:
        raise UntrustedArtifact(
            "the model runs Python code of its own, which the operator has not allowed",
            field="allowed_python",
            hint=f"read the code, then say --allow-python {model_digest}, or add the digest to allowed_python under "
            "[runtime] in the configuration",
        )
    try:
        declared = msgspec.convert(dict(manifest_options), _Options)
    except msgspec.ValidationError as error:
        raise CorruptArtifact(
            "the runtime options of the Python model are not valid",
            field="options",
            hint="push it again with module, class, inputs and outputs",
        ) from error
    name = f"keelway_model_{model_digest.removeprefix('sha256:')[:12]}_{next(_serial)}"
    path = _module_file(folder, declared.module)
    search_path = list(sys.path)
    try:
        model = _make_model(path, name, declared.class_name, folder)
        return PythonRuntime(model, name, declared.inputs, declared.outputs)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, SystemExit):
            raise _exit_refused() from error
        if isinstance(error, KeelwayError) or not isinstance(error, Exception):
            raise
        raise ModelFailed(
            f"the model's Python code raised {type(error).__name__} while it was loaded",
            hint="see the log; the code is one file, and what it imports must be installed",
        ) from error
    finally:
        sys.path[:] = search_path  # whatever the code did to it: other models import with it too


class _SourceLoader(SourceFileLoader):
    """Compiles the source every time: byte code beside it is neither verified nor wanted in an artifact's folder."""

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True)


def _make_model(path: Path, module_name: str, class_name: str, folder: Path) -> Any:
    factory = getattr(_import_file(path, module_name), class_name, None)
    if not inspect.isclass(factory) or not callable(getattr(factory, "predict", None)):
        raise CorruptArtifact(
            f"'{path.name}' has no class '{class_name}' with a predict method",
            field="class",
            hint="name the class in the options of the model and push it again",
        )
    model = factory()
    if hasattr(model, "load"):
        model.load(folder)
    return model


def _import_file(path: Path, name: str) -> ModuleType:
    loader = _SourceLoader(name, str(path))
    spec = ModuleSpec(name, loader, origin=str(path))
    spec.has_location = True  # sets __file__
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look their module up while it is executed
    loader.exec_module(module)
    return module


def _module_file(folder: Path, module: str) -> Path:
    relative = PurePosixPath(module)
    path = folder / relative
    inside = (
        not relative.is_absolute() and ".." not in relative.parts and path.resolve().is_relative_to(folder.resolve())
    )
    if not inside or relative.suffix != ".py" or not path.is_file():
        raise CorruptArtifact(
            "the artifact has no such Python module as its options name",
            field="module",
            hint="name one .py file of the artifact, by its path in it",
        )
    return path


def _checked_output(spec: TensorSpec, answer: Mapping[str, Any], rows: int | None) -> Array:
    if spec.name not in answer:
        raise ModelFailed(f"the model did not answer its output '{spec.name}'", field=spec.name)
    array = _in_datatype(spec, answer[spec.name])
    shape = array.shape
    if len(shape) != len(spec.shape) or any(
        want not in (-1, have) for want, have in zip(spec.shape, shape, strict=True)
    ):
        raise ModelFailed(f"the model's output '{spec.name}' does not have its declared shape", field=spec.name)
    if rows is not None and shape[0] != rows:
        raise ModelFailed(f"the model's output '{spec.name}' has {shape[0]} rows for {rows}", field=spec.name)
    return array


def _in_datatype(spec: TensorSpec, value: Any) -> Array:
    wanted = NUMPY_DTYPES[spec.datatype]
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise ModelFailed(f"the model's output '{spec.name}' is not an array", field=spec.name) from error
    if spec.datatype == "BYTES":
        array = array.astype(object)
        fits = all(isinstance(element, str | bytes) for element in array.flat)
    else:
        fits = array.dtype == wanted or _is_lossless(array.dtype, wanted)
    if not fits:
        raise ModelFailed(
            f"the model's output '{spec.name}' is not {spec.datatype}",
            field=spec.name,
            hint=f"return it as {spec.datatype}; only casts that lose nothing are made",
        )
    return array.astype(wanted, copy=False)


def _is_lossless(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    # NumPy calls 64-bit integers to float64 safe, although integers beyond 2**53 lose digits.
    return np.can_cast(given, wanted, "safe") and not (
        given.kind in "iu" and given.itemsize == 8 and wanted.kind == "f"
    )


def _exit_refused() -> ModelFailed:
    # SystemExit is no Exception: unhandled, a model could end the server.
    return ModelFailed("the model's Python code asked the process to exit")
