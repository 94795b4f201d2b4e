"""PyTorch itself, for networks that could not be converted to ONNX with proof: an exported program, run on the CPU.

PyTorch's own format is code: opening it may evaluate what is written there. It is therefore loaded only if the operator
allows the model's digest, as the code of a ``python`` model is, and a program that holds pickles is refused even then.
``hosting`` loads it by its entry point.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from keelway.errors import CorruptArtifact, FailedPrecondition, KeelwayError, UntrustedArtifact
from keelway.ports import MemberLoader, RuntimeOptions
from keelway.types import Array, TensorSpec

#: What to install. A package index may answer with a build of several gigabytes for GPUs.
EXTRA_HINT = 'pip install "keelway[torch]"; where there is no GPU, install the CPU build of torch first'


class TorchOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest options. ``inputs`` and ``outputs`` are in the program's order."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class TorchRuntime:
    """A program as a ``Runtime``. Calls may overlap: it holds no state, which publishing checked."""

    thread_safe = True

    def __init__(
        self, path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], threads: int = 1
    ) -> None:
        import torch

        refuse_pickles(path)
        torch.set_num_threads(threads)  # one number for the whole process
        program = torch.export.load(path)
        self.inputs = inputs
        self.outputs = outputs
        self._torch = torch
        self._call: Any = flat(program)
        self._order = {spec.name: position for position, spec in enumerate(outputs)}

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        given = [self._torch.from_numpy(np.ascontiguousarray(inputs[spec.name])) for spec in self.inputs]
        with self._torch.inference_mode():
            found = [value for value in self._call(*given) if value is not None]
        return [np.ascontiguousarray(found[self._order[name]].numpy()) for name in outputs]

    def close(self) -> None:
        self._call = None


def flat(program: Any) -> Callable[..., list[Any]]:
    """``program`` as a function from its input tensors to its output tensors, both in order; None for an output that
    is none.

    Without its guards, which would refuse one example where it was made from several, and without what else stands
    around it to take apart and check its arguments, five times as long as a small network takes.
    """
    from torch.fx.graph import CodeGen

    module = program.module(check_guards=False)
    module.graph.set_codegen(CodeGen())
    module.recompile()
    forward = module.forward
    return lambda *given: list(forward(*given))


def refuse_pickles(path: Path) -> None:
    """Raise ``CorruptArtifact`` if the program in ``path`` holds anything that PyTorch would unpickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = any(_is_pickled(archive, entry) for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, AttributeError) as error:
        raise CorruptArtifact("the program is damaged", field="file", hint="push it again") from error
    if found:
        raise CorruptArtifact("the program holds pickled objects", field="file", hint="push it again")


def _is_pickled(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    """Weights and constants say in a table beside them whether they are pickles; examples are, unless empty."""
    if entry.filename.endswith("_config.json"):
        table = json.loads(archive.read(entry))
        return any(payload.get("use_pickle") for payload in table["config"].values())
    folder, _, name = entry.filename.rpartition("/")
    return bool(entry.file_size) and (
        folder.endswith("/sample_inputs") or name.startswith(("custom_obj_", "opaque_obj_"))
    )


def load(
    folder: Path,
    model_digest: str,
    manifest_options: Mapping[str, Any],
    options: RuntimeOptions,
    load_member: MemberLoader,
) -> TorchRuntime:
    """The entry point ``torch``. A run uses ``options.threads`` threads.

    Raises ``UntrustedArtifact`` before anything is read unless ``options.allowed_python`` holds ``model_digest``,
    ``CorruptArtifact`` for a file or options that cannot be read, ``FailedPrecondition`` if torch is not installed.
    """
    if model_digest not in options.allowed_python:
        raise UntrustedArtifact(
            "the model is a PyTorch program, which may run code of its own, and the operator has not allowed it",
            field="allowed_python",
            hint=f"if you trust whoever pushed it, say --allow-python {model_digest}, or add the digest to "
            "allowed_python under [runtime] in the configuration",
        )
    try:
        declared = msgspec.convert(dict(manifest_options), TorchOptions)
    except msgspec.ValidationError as error:
        raise CorruptArtifact("the runtime options of the model are not valid", hint="push it again") from error
    path = folder / declared.file
    if path.name != declared.file or not path.is_file():
        raise CorruptArtifact("the artifact has no program of that name", field="file", hint="push it again")
    if find_spec("torch") is None:
        raise FailedPrecondition("this model needs PyTorch, which is not installed", hint=EXTRA_HINT)
    try:
        return TorchRuntime(path, declared.inputs, declared.outputs, options.threads)
    except KeelwayError:
        raise
    except Exception as error:  # PyTorch raises what it likes for a file of another version
        raise CorruptArtifact(
            "PyTorch cannot load the program with the version installed here",
            hint="install the PyTorch version it was pushed with, or push it again",
        ) from error
