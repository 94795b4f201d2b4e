"""LiteRT, the interpreter of TensorFlow Lite models. Loads ``model.tflite`` from a verified folder.

A model answers in the tensors that it has: those of a quantised one are integers, and what they stand for is the
caller's business. Texts are UTF-8; a missing text is the empty one. ``hosting`` loads it by its entry point,
``publish`` runs it before a model is kept so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from keelway.artifacts.paths import check_relative
from keelway.errors import CorruptArtifact, FailedPrecondition, InvalidInput
from keelway.ports import MemberLoader, RuntimeOptions
from keelway.types import Array, TensorSpec, datatype_of

MODEL: Final = "model.tflite"

#: What LiteRT says of an operator that it does not have: somebody's own, or one of TensorFlow's ("Flex").
_CUSTOM: Final = re.compile(r"unresolved custom op: ?(\w+)")
_FLEX: Final = "Select TensorFlow op"


class LiteRTRuntime:
    """One interpreter. Not thread-safe: it keeps the tensors of a run, and their sizes, until the next.

    Memory is planned for one set of input shapes. A run with other shapes plans anew, which takes longer than the run
    of a small model; runs of the same shapes do not.
    """

    thread_safe = False

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        """Raises ``CorruptArtifact`` if LiteRT cannot load ``path``, ``InvalidInput`` if the model needs operators or
        tensors that are not served, ``FailedPrecondition`` if LiteRT is not installed."""
        interpreter = _import_interpreter()
        try:
            self._interpreter = interpreter(model_path=str(path), num_threads=options.threads)
            named = _named(self._interpreter)
        except (OSError, RuntimeError, ValueError) as error:  # UnicodeDecodeError, of a name, is a ValueError
            raise _unloadable(path, error) from None
        inputs, outputs = named
        self.inputs = tuple(_spec(name, details) for name, details in inputs.items())
        self.outputs = tuple(_spec(name, details) for name, details in outputs.items())
        #: Scale and zero point of each tensor that holds integers for numbers, by its name.
        self.quantised: dict[str, tuple[float, int]] = {
            name: (float(details["quantization"][0]), int(details["quantization"][1]))
            for name, details in (*inputs.items(), *outputs.items())
            if details["quantization"][0]
        }
        self._places = tuple((name, int(details["index"])) for name, details in inputs.items())
        self._results = {name: int(details["index"]) for name, details in outputs.items()}
        self._texts = frozenset(spec.name for spec in self.inputs if spec.datatype == "BYTES")
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        self._try_one(path)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        """Arrays of the model's dtypes in, one new array for each name out. Raises ``RuntimeError`` or ``ValueError``,
        LiteRT's own, for shapes and values that the model does not take."""
        shapes = tuple([inputs[name].shape for name, _ in self._places])
        if shapes != self._shapes:
            self._plan(shapes)
        interpreter = self._interpreter
        for name, index in self._places:
            interpreter.set_tensor(index, _text(inputs[name]) if name in self._texts else inputs[name])
        # What a recurrent layer remembers belongs to the request before this one.
        interpreter.reset_all_variables()
        interpreter.invoke()
        return [interpreter.get_tensor(self._results[name]) for name in outputs]

    def close(self) -> None:
        """The interpreter's memory goes with its last reference."""
        del self._interpreter

    def _try_one(self, path: Path) -> None:
        """Plan for one row, which shows operators that LiteRT does not have, and damage."""
        try:
            self._plan(tuple(tuple(abs(size) for size in spec.shape) for spec in self.inputs))
        except (RuntimeError, ValueError) as error:
            found = _unloadable(path, error)
            # Some models with other open axes than that of the rows take nothing as short as one.
            if isinstance(found, InvalidInput) or not any(-1 in spec.shape[1:] for spec in self.inputs):
                raise found from None

    def _plan(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        self._shapes = None  # until it has worked
        for (_, index), shape in zip(self._places, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape, strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def load(
    folder: Path,
    model_digest: str,
    manifest_options: Mapping[str, Any],
    options: RuntimeOptions,
    load_member: MemberLoader,
) -> LiteRTRuntime:
    """The entry point ``litert``. The manifest option ``file`` names the model file, ``model.tflite`` by default. A
    run uses ``options.threads`` threads.

    Raises ``CorruptArtifact`` if there is no such file in ``folder`` or LiteRT cannot load it, ``InvalidInput`` and
    ``FailedPrecondition`` as ``LiteRTRuntime``."""
    path = folder / check_relative(str(manifest_options.get("file", MODEL)))
    if not path.is_file():
        raise CorruptArtifact("the artifact has no LiteRT file of that name", field="file", hint="push it again")
    return LiteRTRuntime(path, options)


def _import_interpreter() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise FailedPrecondition(
            "LiteRT models need LiteRT, which is not installed", hint='pip install "keelway[litert]"'
        ) from error
    return Interpreter


def _named(interpreter: Any) -> tuple[dict[str, Mapping[str, Any]], dict[str, Mapping[str, Any]]]:
    """The inputs and outputs of the main graph by name, in order: as its signature calls them, where it has one."""
    given, answered = interpreter.get_input_details(), interpreter.get_output_details()
    for key in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(key)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        # Another signature's tensors are those of another graph; indices alone would not tell.
        if _places(inputs.values()) == _places(given) and _places(outputs.values()) == _places(answered):
            return inputs, outputs
    return _by_tensor(given, "input"), _by_tensor(answered, "output")


def _places(details: Any) -> set[tuple[int, str]]:
    return {(int(tensor["index"]), tensor["name"]) for tensor in details}


def _by_tensor(details: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Mapping[str, Any]]:
    """By the tensors' own names; where those are missing or not unique, numbered."""
    names = [tensor["name"] for tensor in details]
    if len(set(names)) < len(names) or not all(names):
        names = [f"{kind}_{position}" for position in range(len(names))]
    return dict(zip(names, details, strict=True))


def _spec(name: str, details: Mapping[str, Any]) -> TensorSpec:
    try:
        datatype = datatype_of(np.dtype(details["dtype"]))
    except KeyError:
        raise InvalidInput(
            f"the tensor '{name}' is of the type {np.dtype(details['dtype']).name}, which cannot be served",
            field=name,
            hint="convert the model with inputs and outputs of another type",
        ) from None
    sizes = details["shape_signature"]
    # A model written before there were signatures has sizes alone.
    return TensorSpec(name, datatype, tuple(int(size) for size in (sizes if len(sizes) else details["shape"])))


def _unloadable(path: Path, error: Exception) -> CorruptArtifact | InvalidInput:
    said = str(error)
    custom = _CUSTOM.search(said)
    if custom is not None:
        return InvalidInput(
            f"the model needs the custom operator {custom[1]}, which LiteRT does not have",
            field="file",
            hint="convert it without allow_custom_ops, and leave such steps to the caller",
        )
    if _FLEX in said:
        return InvalidInput(
            "the model needs operators of TensorFlow, which LiteRT does not have",
            field="file",
            hint="convert it with TFLITE_BUILTINS alone, or push the Keras model: it may convert to ONNX",
        )
    return CorruptArtifact(f"LiteRT cannot load {path.name}: {_reason(said)}", hint="convert the model again")


def _reason(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[0][:200] if lines else "it does not say why"


def _text(array: Array) -> Array:
    flat = [b"" if element is None else element for element in array.ravel().tolist()]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(array.shape)
