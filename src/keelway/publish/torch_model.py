"""PyTorch in the child process: a module or an exported program opened, asked, converted to ONNX, or kept as a program.

The only module of publishing that imports torch. ``asking_network.py`` calls it and knows no framework.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from keelway.errors import ConversionRefused, CorruptArtifact, FailedPrecondition, InvalidInput
from keelway.runtimes.torch import flat
from keelway.types import Array, TensorSpec, datatype_of

#: Weights beyond this go into external data: protobuf holds no message of 2 GiB.
EXTERNAL_BEYOND: Final = 1_600 * 1024 * 1024

_FORMAT_HINT: Final = (
    "save a program: torch.export.save(torch.export.export(model.eval(), examples, dynamic_shapes=...), 'model.pt2'); "
    "or name a function that makes the model: --from-python package.module:factory"
)


def open_program(path: Path) -> Any:
    """The exported program in ``path``. Raises ``CorruptArtifact``, or ``FailedPrecondition`` for another version's."""
    import torch

    _quiet()
    try:
        return torch.export.load(path)
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"the program needs the module '{error.name}', which is not installed", field="file", hint="install it here"
        ) from error
    except Exception as error:
        raise CorruptArtifact(
            f"PyTorch {torch.__version__} cannot open this program",
            field="file",
            hint="it may be damaged, or of another version: export it again with the version installed here, or push "
            "it where its version is installed",
        ) from error


def open_module(path: Path) -> Any:
    """The whole module that ``torch.save`` put into ``path``. Raises ``InvalidInput`` for weights alone."""
    import torch

    _quiet()
    try:
        found = torch.load(path, map_location="cpu", weights_only=False)
    except (ModuleNotFoundError, AttributeError) as error:
        raise FailedPrecondition(
            "the file names a class that cannot be imported here",
            field="file",
            hint="put the folder of the code that defines the module on PYTHONPATH, or name a function that makes it: "
            "--from-python package.module:factory",
        ) from error
    except Exception as error:
        raise CorruptArtifact(
            "the PyTorch file is damaged, or of another version", field="file", hint=_FORMAT_HINT
        ) from error
    if isinstance(found, torch.nn.Module) and not isinstance(found, torch.jit.ScriptModule):
        return found
    if isinstance(found, torch.jit.ScriptModule):
        raise InvalidInput("this is TorchScript, which PyTorch has given up", field="file", hint=_FORMAT_HINT)
    raise InvalidInput("the file holds weights without the code of their layers", field="file", hint=_FORMAT_HINT)


class Exported(NamedTuple):
    """A ``program``, or a ``refusal``; ``traceable`` says that the network may still be traced."""

    program: Any = None
    refusal: ConversionRefused | None = None
    traceable: bool = False


class TorchNetwork:
    """A module, or an exported program, with named numpy arrays in and out. One thread, so that sums keep their order.

    ``inputs`` have the batch axis as -1, unless the program takes one number of examples only. ``free`` are the other
    axes whose length may vary.
    """

    framework: Final = "PyTorch"

    def __init__(self, model: Any, examples: Mapping[str, Array], free: Mapping[str, Sequence[int]]) -> None:
        import torch

        _quiet()
        torch.set_num_threads(1)
        self._torch = torch
        self._program: Any = None
        if isinstance(model, torch.export.ExportedProgram):
            self._program = model
            self._call = model.module(check_guards=False)
            self._flat: Any = flat(model)
            self.description = "an exported program"
            shapes = _program_shapes(model)
            self.free: Mapping[str, Sequence[int]] = {
                name: [axis for axis, size in enumerate(shape) if axis and size == -1] for name, shape in shapes.items()
            }
            self.size = _batch_size(shapes)
            names, exactly = list(shapes), True
        else:
            self._call = model.to("cpu").eval()
            self._flat = None
            self.description = type(model).__name__
            self.free = free
            self.size = None
            names, exactly = _parameters(model, len(examples)), False
        self._floating = next((p.dtype for p in self._call.parameters() if p.dtype.is_floating_point), torch.float32)
        if self._floating is torch.bfloat16:
            raise InvalidInput(
                f"{self.description} computes in bfloat16, which no tensor of a request holds",
                field="file",
                hint="let it compute in float32: model.float()",
            )
        self.names = _matched(names, examples, exactly=exactly)
        self.inputs = tuple(self._spec(name, array) for name, array in self.named(examples).items())

    def named(self, examples: Mapping[str, Array]) -> dict[str, Array]:
        """``examples`` under the network's own names of its inputs, in its order and datatypes."""
        arrays = list(examples.values()) if len(examples) == 1 else [examples[name] for name in self.names]
        return {name: self._as_taken(array) for name, array in zip(self.names, arrays, strict=True)}

    def ask(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """What the network answers, by output name. Raises whatever its code raises."""
        torch = self._torch
        with torch.inference_mode():
            given = self._given(arrays)
            answer = self._call(**given) if self._flat is None else self._named(self._flat(*given.values()))
        return {name: self._array(value, name) for name, value in named_outputs(answer).items()}

    def export(self, arrays: Mapping[str, Array]) -> Exported:
        """The network as a program that takes any number of examples, or why it is none."""
        if self._program is not None:
            return Exported(self._program)
        torch = self._torch
        given = self._given(arrays)
        dimension = torch.export.Dim.DYNAMIC
        shapes = {name: dict.fromkeys((0, *self.free.get(name, ())), dimension) for name in given}
        try:
            return Exported(torch.export.export(self._call, (), given, dynamic_shapes=shapes, strict=False))
        except Exception as error:  # noqa: BLE001 - the exporter raises anything for what it cannot follow
            return _not_exported(error, self.description)

    def to_onnx(self, program: Any, path: Path, outputs: Sequence[str]) -> list[str]:
        """Write ``program`` as ``path``; the names of all files written. Raises whatever the exporter raises."""
        torch = self._torch
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=list(self.names), output_names=list(outputs)
        )
        _apart(made.model.graph, outputs)
        external = sum(value.nbytes for value in program.state_dict.values()) > EXTERNAL_BEYOND
        made.save(path, external_data=external)
        data = path.with_name(path.name + ".data")
        return [path.name, data.name] if data.exists() else [path.name]

    def trace(self, arrays: Mapping[str, Array], path: Path, outputs: Sequence[TensorSpec]) -> list[str]:
        """Write what the network does with ``arrays`` as ``path``, as ``to_onnx`` does.

        PyTorch's older exporter, for layers whose length its newer one fixes (LSTM). It notes what was done and knows
        nothing of what else might be, so that only the proof on other lengths says whether that is all.
        """
        given = self._given(arrays)
        axes = {name: [0, *self.free.get(name, ())] for name in given}
        axes |= {spec.name: [axis for axis, size in enumerate(spec.shape) if size == -1] for spec in outputs}
        self._torch.onnx.export(
            self._call,
            (),
            str(path),
            kwargs=given,
            dynamo=False,
            input_names=list(given),
            output_names=[spec.name for spec in outputs],
            dynamic_axes=axes,
            opset_version=17,
        )
        return [path.name]

    def save(self, program: Any, path: Path) -> None:
        """Write ``program`` in PyTorch's own format, without the examples it was made from: those would be pickled."""
        program._example_inputs = None
        if program.graph_signature.buffers_to_mutate:
            raise ConversionRefused(
                "the network changes its own state when it is asked, so that an answer depends on those before",
                hint="export it without that state, or take and answer it as a tensor",
            )
        self._torch.export.save(program, path)

    def _given(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        return {name: self._torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def _as_taken(self, array: Array) -> Array:
        if array.dtype.kind == "f":
            return array.astype(np.dtype(str(self._floating).removeprefix("torch.")))
        return array.astype(array.dtype.newbyteorder("="))

    def _named(self, found: list[Any]) -> Any:
        """The outputs of the program as the module it was made from would answer them."""
        return self._torch.utils._pytree.tree_unflatten(found, self._program.call_spec.out_spec)

    def _array(self, value: Any, name: str) -> Array:
        if not isinstance(value, self._torch.Tensor):
            raise InvalidInput(
                f"the output '{name}' of the network is no tensor",
                field=name,
                hint="answer tensors, or a dict of tensors",
            )
        return np.ascontiguousarray(value.detach().numpy())

    def _spec(self, name: str, array: Array) -> TensorSpec:
        varied = self.free.get(name, ())
        shape = [-1 if axis in varied else size for axis, size in enumerate(array.shape)]
        shape[0] = -1 if self.size is None else self.size
        return TensorSpec(name, datatype_of(array.dtype), tuple(shape))


def named_outputs(answer: Any) -> dict[str, Any]:
    """An answer of a module by name: those of a dict or of a named result, ``output``, or ``output_0`` and so on."""
    if isinstance(answer, Mapping):
        return {str(name): value for name, value in answer.items() if value is not None}
    if isinstance(answer, list | tuple):
        names = getattr(answer, "_fields", None) or [f"output_{at}" for at in range(len(answer))]
        return {name: value for name, value in zip(names, answer, strict=True) if value is not None}
    return {"output": answer}


def _apart(graph: Any, outputs: Sequence[str]) -> None:
    """Give values inside ``graph`` that are called like one of its outputs another name: the exporter does not look."""
    own = {id(value) for value in graph.outputs}
    for node in graph:
        for value in node.outputs:
            if value.name in outputs and id(value) not in own:
                value.name = f"{value.name}_inside"
    for value in list(graph.initializers.values()):
        if value.name in outputs:
            value.name = f"{value.name}_inside"


def _parameters(module: Any, count: int) -> list[str]:
    """The names of the first ``count`` inputs of a module."""
    found = [
        parameter.name
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(found) < count:
        raise InvalidInput(
            f"the sample has {count} arrays, the network takes {len(found)} inputs: {', '.join(found)}",
            field="sample",
            hint="give one array for each input, under its name",
        )
    return found


def _matched(names: Sequence[str], examples: Mapping[str, Array], *, exactly: bool) -> tuple[str, ...]:
    """The inputs that ``examples`` are for, in the network's order. A single array is for the first, however named."""
    if len(examples) == 1 and (len(names) == 1 or not exactly):
        return (next(iter(examples)),) if next(iter(examples)) in names else (names[0],)
    unknown = [name for name in examples if name not in names]
    missing = [name for name in names if name not in examples] if exactly else []
    if unknown or missing:
        what = f"an array '{unknown[0]}', which is no input" if unknown else f"no array '{missing[0]}'"
        raise InvalidInput(
            f"the sample has {what}; the network takes {', '.join(names)}",
            field=(unknown or missing)[0],
            hint="give a .npz file with one array for each input, under its name",
        )
    return tuple(name for name in names if name in examples)


def _program_shapes(program: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each input of a program, -1 for what may vary. Raises ``InvalidInput`` for nested inputs."""
    wanted = program.graph_signature.user_inputs
    found = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in wanted:
            value = node.meta.get("val")
            if not hasattr(value, "shape"):
                raise InvalidInput(
                    f"the input '{node.name}' of the program is no tensor",
                    field=node.name,
                    hint="export it with tensors",
                )
            found[node.name] = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    spec = program.call_spec.in_spec
    if spec.num_leaves != spec.child(0).num_children + spec.child(1).num_children or any(not s for s in found.values()):
        raise InvalidInput(
            "the program takes tensors inside lists or dicts, or numbers",
            field="file",
            hint="export a module whose forward takes each tensor by itself",
        )
    return found


def _batch_size(shapes: Mapping[str, Sequence[int]]) -> int | None:
    """How many examples a program takes; None if any number."""
    sizes = {shape[0] for shape in shapes.values()}
    if len(sizes) > 1:
        raise InvalidInput(
            "the inputs of the program differ in their first axis, which is to count the examples",
            field="file",
            hint="export it with one batch axis in front of every input",
        )
    size = sizes.pop()
    return None if size == -1 else size


def _not_exported(error: Exception, description: str) -> Exported:
    text = f"{type(error).__name__} {error}"
    if "data-dependent" in text or "DataDependent" in text or "control flow" in text:
        refusal = ConversionRefused(
            f"{description} decides by the values of its tensors what to do next, which no exported program holds",
            field="file",
            hint="write the choice with torch.where or torch.cond, or push a Python class that calls the module: "
            "keelway push NAME model.py",
        )
        return Exported(refusal=refusal)
    if "specialized" in text or "ConstraintViolation" in text:
        refusal = ConversionRefused(
            f"{description} works for one number of examples, or one length, only",
            field="file",
            hint="use x.shape instead of numbers where it reshapes; or export it yourself for that one shape and push "
            "the .pt2 file",
        )
        return Exported(refusal=refusal, traceable=True)
    refusal = ConversionRefused(
        f"torch.export cannot follow {description} ({type(error).__name__})",
        field="file",
        hint="see what torch.export.export(model, examples, strict=False) says, or push a Python class that calls the "
        "module: keelway push NAME model.py",
    )
    return Exported(refusal=refusal, traceable=True)


def _quiet() -> None:
    """The exporter tells of itself in warnings and logs, which nobody sees in this process."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
