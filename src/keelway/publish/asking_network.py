"""What the child does with a network: ask it on the examples of the proof, convert it, and keep it where that fails.

``asking.py`` does the same for models of rows. The verdict on a conversion is the parent's (``network.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from keelway.errors import ConversionRefused, InvalidInput, KeelwayError, ModelFailed
from keelway.ports import RuntimeOptions
from keelway.publish import exchange
from keelway.publish.examples import SAMPLE_KIND, Batch, batches, check_examples, chosen, load_batches, save_batches
from keelway.publish.exchange import KeptNetwork, NetworkCandidate, NetworkRequest, NetworkResult
from keelway.publish.proving import micros, prove_network
from keelway.publish.tensor_proof import Outputs
from keelway.publish.torch_model import TorchNetwork, open_module, open_program
from keelway.runtimes.onnx import OnnxRuntime
from keelway.runtimes.torch import TorchRuntime
from keelway.types import Array, TensorSpec, datatype_of

#: How far a program may be from the module it was made from, which adds in the same order.
_ITSELF: Final = 1e-6

_LIBRARIES: Final = ("torch", "onnxscript", "onnx", "onnxruntime", "numpy", "keelway")


def ask_file(request: NetworkRequest, folder: Path) -> NetworkResult:
    """Open the file of ``request`` and publish what it holds."""
    opened = (open_program if request.format == "program" else open_module)(Path(request.file))
    return ask_network(opened, given_examples(folder), {}, request.tolerance, folder)


def given_examples(folder: Path) -> Mapping[str, Array]:
    """The arrays that the parent left in ``folder``."""
    return load_batches(folder / exchange.EXAMPLES)[0].arrays


def ask_network(
    model: Any,
    examples: Mapping[str, Array],
    free: Mapping[str, Sequence[int]],
    tolerance: float,
    folder: Path,
    made: Sequence[Batch] | None = None,
) -> NetworkResult:
    """Ask ``model``, a module or an exported program, and convert it; the batches and answers are left in ``folder``.

    ``free`` are the axes beside the batch's whose length may vary, by input. ``made`` are the batches of the proof, if
    the caller knows better than to vary the examples, as with tokens and their mask. Raises ``KeelwayError`` if it
    cannot be asked, exported or kept.
    """
    network = TorchNetwork(model, examples, free)
    arrays = chosen(network.named(examples))
    check_examples(arrays)
    made = batches(arrays, network.free, network.size) if made is None else made
    answers = [_answer(network, batch, len(made[0])) for batch in made]
    _check_again(network, made[0], answers[0])
    outputs = _outputs(network, made, answers)
    save_batches(folder / exchange.EXAMPLES, made)
    save_batches(folder / exchange.ANSWERS, [Batch(b.kind, a) for b, a in zip(made, answers, strict=True)])
    given = _for_export(made[0].arrays, network.size)
    exported = network.export(given)
    if exported.refusal is not None and not exported.traceable:
        raise exported.refusal
    path = folder / exchange.ONNX
    if exported.refusal is None:
        names = [spec.name for spec in outputs]
        candidate, holds = _tried(
            "ONNX", lambda: network.to_onnx(exported.program, path, names), path, made, answers, tolerance
        )
    else:
        candidate, holds = _tried(
            "ONNX by tracing", lambda: network.trace(given, path, outputs), path, made, answers, tolerance
        )
        if not holds:
            raise exported.refusal
    one = {name: array[: network.size or 1] for name, array in made[0].arrays.items()}
    result = NetworkResult(
        model=network.description,
        framework=network.framework,
        inputs=network.inputs,
        outputs=outputs,
        candidates=(candidate,),
        micros=micros(lambda: network.ask(one)),
        versions=_versions(),
    )
    if holds:
        return result
    return _kept(network, exported.program, result, made, answers, folder)


def _answer(network: TorchNetwork, batch: Batch, first: int) -> Outputs:
    """What the network answers to ``batch``; the first one, of the sample itself, had ``first`` examples."""
    try:
        return network.ask(batch.arrays)
    except KeelwayError:
        raise
    except Exception as error:
        if batch.kind == SAMPLE_KIND:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in batch.arrays.items())
            raise ModelFailed(
                f"the network raised {type(error).__name__} on the sample, given as {shapes}",
                field="sample",
                hint="axis 0 counts the examples; the other axes, the datatypes and the names must be what it takes",
            ) from error
        if len(batch) != first:
            raise ConversionRefused(
                f"{network.description} answers {first} examples and raises {type(error).__name__} on {len(batch)}",
                field="file",
                hint="use x.shape[0] instead of a number where it reshapes; or export it yourself for that one shape "
                "and push the .pt2 file",
            ) from error
        raise ModelFailed(
            f"the network answers the sample and raises {type(error).__name__} on examples made from it ({batch.kind})",
            field="sample",
            hint="let it take any values of the kind of the sample's; give a larger sample if its numbers are ids",
        ) from error


def _check_again(network: TorchNetwork, batch: Batch, answer: Outputs) -> None:
    again = network.ask(batch.arrays)
    if any(not np.allclose(answer[name], again[name], equal_nan=True) for name in answer):
        raise ConversionRefused(
            f"{network.description} answers the same examples differently when it is asked again",
            field="file",
            hint="switch off what is random, and take and answer as tensors what it remembers",
        )


def _for_export(arrays: Mapping[str, Array], size: int | None) -> Mapping[str, Array]:
    """Two examples or more: what is one long, the exporter takes for always one long."""
    count = len(next(iter(arrays.values())))
    places = np.arange(count if size or count > 1 else 2) % count
    return {name: array[places] for name, array in arrays.items()}


def _outputs(network: TorchNetwork, made: Sequence[Batch], answers: Sequence[Outputs]) -> tuple[TensorSpec, ...]:
    """The outputs, with an axis as -1 where it follows the number of examples or differed between two batches."""
    found = []
    for name, first in answers[0].items():
        arrays = [answer[name] for answer in answers]
        if any(array.ndim != first.ndim or array.dtype != first.dtype for array in arrays):
            raise ModelFailed(f"the output '{name}' changes its rank or datatype", field=name)
        follows = first.ndim > 0 and all(len(a) == len(b) for a, b in zip(arrays, made, strict=True))
        if network.size is None and not follows:
            raise InvalidInput(
                f"the output '{name}' does not have one entry for each example",
                field=name,
                hint="answer tensors with the batch axis in front, or export it for one example and push the .pt2 file",
            )
        shape = [size if all(a.shape[axis] == size for a in arrays) else -1 for axis, size in enumerate(first.shape)]
        if network.size is None:
            shape[0] = -1
        found.append(TensorSpec(name, datatype_of(first.dtype), tuple(shape)))
    return tuple(found)


def _tried(
    name: str,
    convert: Callable[[], list[str]],
    path: Path,
    made: Sequence[Batch],
    answers: Sequence[Outputs],
    tolerance: float,
) -> tuple[NetworkCandidate, bool]:
    """The network as ONNX at ``path``, and whether it held here."""
    try:
        files = convert()
        runtime = OnnxRuntime(path, RuntimeOptions())
        try:
            holds = prove_network(runtime, made, answers, tolerance).holds
        finally:
            runtime.close()
    except KeelwayError as error:
        return NetworkCandidate(name, "onnx", reason=str(error)), False
    except Exception as error:  # noqa: BLE001 - the exporter raises anything for what it cannot do
        return NetworkCandidate(name, "onnx", reason=_reason(error)), False
    return NetworkCandidate(name, "onnx", tuple(files)), holds


def _reason(error: BaseException) -> str:
    """Why the exporter gave up, in a line: the operator it does not know, if it says so."""
    found: BaseException | None = error
    while found is not None:
        text = str(found)
        operator = re.search(r"No ONNX function found for <?(?:OpOverload\(op=')?([\w.]+)", text)
        if operator is not None:
            return f"ONNX has no form of the operator {operator[1]}"
        found = found.__cause__ or found.__context__
    return f"the exporter raised {type(error).__name__}"


def _kept(
    network: TorchNetwork,
    program: Any,
    result: NetworkResult,
    made: Sequence[Batch],
    answers: Sequence[Outputs],
    folder: Path,
) -> NetworkResult:
    """The network as a program in PyTorch's own format, loaded again and compared with itself."""
    path = folder / exchange.PROGRAM
    network.save(program, path)
    runtime = TorchRuntime(path, result.inputs, result.outputs)
    comparison = prove_network(runtime, made, answers, _ITSELF)
    one = {name: array[: network.size or 1] for name, array in made[0].arrays.items()}
    names = [spec.name for spec in result.outputs]
    kept = KeptNetwork(path.name, comparison, micros(lambda: runtime.run(one, names)))
    return msgspec.structs.replace(result, kept=kept)


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # keelway run from its sources
            continue
    return found
