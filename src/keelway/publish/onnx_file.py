"""An ONNX file that is pushed: checked, its ZipMap outputs turned into tensors, stored with its external data.

A model that keelway converts itself passes the same check. Nothing is optimised or rounded: what was exported is what
is served. Large weights, which may be most of it, are read only where the model is run. ``push.py``, ``network.py`` and
``sklearn_file.py`` call it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import numpy as np

from keelway.artifacts.external_data import outline
from keelway.artifacts.onnx_files import confine
from keelway.contract.baseline import observe
from keelway.contract.signature import ModelSignature
from keelway.contract.tensors import signature_from_tensors
from keelway.errors import CorruptArtifact, FailedPrecondition, InvalidInput, PayloadTooLarge
from keelway.ports import RuntimeOptions
from keelway.publish.in_place import InPlace
from keelway.publish.onnx_signature import with_labels, with_sample
from keelway.publish.proving import micros
from keelway.publish.report import ConversionReport, Prepared
from keelway.publish.rows import Rows, rows_of, tensors
from keelway.runtimes.onnx import OnnxRuntime
from keelway.types import NUMPY_DTYPES, Array

if TYPE_CHECKING:
    import pandas as pd
    from onnx import GraphProto, ModelProto, NodeProto

MODEL: Final = "model.onnx"

#: Protobuf holds no larger message; weights beyond it belong in external data.
MAX_MODEL_BYTES: Final = 2 * 1024**3
MAX_EXTERNAL_BYTES: Final = 64 * 1024**3

#: The operator domains that every ONNX Runtime has.
_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

#: Domains that ONNX Runtime writes into models it has optimised for one kind of machine.
_OPTIMISED: Final = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc"})

_TRIED_ROWS: Final = 256


def prepare_onnx(file: Path, sample: pd.DataFrame | None, workspace: Path, progress: Callable[[str], None]) -> Prepared:
    """``file`` as a model to store. With a sample its columns are named and it is run on some rows of it.

    Raises ``CorruptArtifact`` for files that are damaged or refer to files outside their folder, ``InvalidInput`` for
    models that cannot be served or do not fit the sample, ``PayloadTooLarge`` beyond the size caps.
    """
    file = file.resolve()
    progress(f"checking {file.name}")
    as_it_is = InPlace.of(_files(file))
    light = _outlined(file, workspace)
    model = _checked(file, light)
    labels, probabilities = _without_zipmaps(model)
    _check_tensors(model)
    folder = workspace / "artifact"
    folder.mkdir()
    kept = InPlace.of(_rewritten(as_it_is.files, folder)) if probabilities else as_it_is
    # A model that will not be run need not have its weights in memory.
    loaded = light if sample is None and kept is as_it_is else kept.files[MODEL]
    runtime = OnnxRuntime(loaded, RuntimeOptions(share_weights=sample is None))
    try:
        signature = with_labels(signature_from_tensors(runtime.inputs, runtime.outputs), labels, probabilities)
        rows: Rows | None = None
        if sample is not None:
            signature = with_sample(signature, sample)
            rows = rows_of(sample)
            progress(f"running the model on {min(len(rows), _TRIED_ROWS)} rows of the sample")
        took = _tried(runtime, signature, rows)
    finally:
        runtime.close()
    report = ConversionReport(
        format="onnx",
        source="an ONNX model",
        reason="pushed as ONNX" + (", its maps of probabilities rewritten as tensors" if probabilities else ""),
        tolerance=0.0,
        size=kept.size,
        framework=model.producer_name,
        versions={"opset" if not entry.domain else entry.domain: str(entry.version) for entry in model.opset_import},
        sample_rows=0 if rows is None else len(rows),
        micros_after=took,
    )
    baseline = None if sample is None else observe(sample, signature.features)
    return Prepared(folder, signature, baseline, "onnx", {}, report, in_place=kept)


def _files(file: Path) -> dict[str, Path]:
    """The model and its external data, by what they are called in the artifact."""
    beside = {location: file.parent / location for location in confine(file, file.parent)}
    if beside.get(MODEL, file) != file:
        raise InvalidInput(
            f"external data of the model is called {MODEL}, as the model itself will be", field="file", hint="rename it"
        )
    return {**beside, MODEL: file}


def check_model(file: Path) -> None:
    """Every check of the model in ``file`` that needs no runtime.

    Raises ``CorruptArtifact``, ``InvalidInput`` or ``PayloadTooLarge``; ``FailedPrecondition`` without ``onnx``.
    """
    with TemporaryDirectory(prefix="keelway-check-") as folder:
        _checked(file, _outlined(file, Path(folder)))


def _outlined(file: Path, workspace: Path) -> Path:
    """The model as it is, but that its large weights are a hole; ``file`` if they are external data, or small."""
    light = workspace / "outline" / file.name  # errors name it
    light.parent.mkdir()
    return file if confine(file, file.parent) or not outline(file, light, Path(f"{light}.weights")) else light


def _checked(file: Path, light: Path) -> ModelProto:
    """The model in ``file``, read from ``light``, which ``_outlined`` has made; as ``check_model``."""
    try:
        import onnx
        from onnx.checker import ValidationError, check_model
    except ImportError as error:
        raise FailedPrecondition("pushing ONNX files needs onnx", hint='pip install "keelway[onnx]"') from error
    if file.stat().st_size > MAX_MODEL_BYTES:
        raise PayloadTooLarge(
            "the ONNX file is larger than 2 GiB", field="file", hint="save it with its weights as external data"
        )
    external = confine(file, file.parent)
    if sum((file.parent / location).stat().st_size for location in external) > MAX_EXTERNAL_BYTES:
        raise PayloadTooLarge("the external data of the ONNX file is larger than 64 GiB", field="file")
    try:
        model = onnx.load(str(light), load_external_data=False)
        _check_domains(model)
        check_model(str(light))
    except ValidationError as error:
        raise CorruptArtifact(
            f"this is no valid ONNX model: {_first_line(error)}", field="file", hint="export it again"
        ) from error
    except (KeyError, ValueError, RuntimeError) as error:  # protobuf's DecodeError is a ValueError
        raise CorruptArtifact("the ONNX file is damaged", field="file", hint="export it again") from error
    return model


def _check_domains(model: ModelProto) -> None:
    own = {function.domain for function in model.functions}
    used = {node.domain for node in _nodes(model.graph)}
    used |= {node.domain for function in model.functions for node in function.node}
    unknown = sorted(used - own - _DOMAINS)
    if not unknown:
        return
    if _OPTIMISED & set(unknown):
        raise InvalidInput(
            "the model was optimised by ONNX Runtime for one kind of machine",
            field="file",
            hint="push the model as it was exported; ONNX Runtime optimises it when it is loaded",
        )
    raise InvalidInput(
        f"the model uses operators of the domain '{unknown[0]}', which ONNX Runtime does not know",
        field="file",
        hint="export it with standard operators only, or leave custom steps to the caller",
    )


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node, those of subgraphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _nodes(inner)


def _check_tensors(model: ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        if value.type.WhichOneof("value") != "tensor_type":
            raise InvalidInput(
                f"'{value.name}' is a sequence, a map or an optional value, not a tensor",
                field=value.name,
                hint="export the model with tensors as inputs and outputs",
            )


def _without_zipmaps(model: ModelProto) -> tuple[tuple[str | int, ...], str]:
    """Let the tensor in front of each ZipMap be the output. The labels and name of the only one, if there is one."""
    from onnx import TensorProto, helper

    graph = model.graph
    found: list[tuple[tuple[str | int, ...], str]] = []
    for node in [node for node in graph.node if node.op_type == "ZipMap" and node.domain == "ai.onnx.ml"]:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        texts = [text.decode() for text in attributes.get("classlabels_strings", ())]
        labels: tuple[str | int, ...] = tuple(texts or attributes.get("classlabels_int64s", ()))
        source, old = node.input[0], node.output[0]
        new = _free_name(graph, source, old)
        position = next((at for at, value in enumerate(graph.output) if value.name == old), None)
        if position is None:
            raise InvalidInput("the model uses a ZipMap inside", field="file", hint="export it with zipmap=False")
        place = list(graph.node).index(node)
        graph.node.remove(node)
        if source != new:
            graph.node.insert(place, helper.make_node("Identity", [source], [new]))
        value = helper.make_tensor_value_info(new, TensorProto.FLOAT, ["rows", len(labels)])
        graph.output[position].CopyFrom(value)
        found.append((labels, new))
    if len(found) == 1:
        return found[0]
    return (), ", ".join(name for _, name in found)


def _free_name(graph: GraphProto, source: str, old: str) -> str:
    """``probabilities``, unless another tensor has that name."""
    wanted = "probabilities"
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    outputs = {value.name for value in graph.output}
    if wanted not in taken or (source == wanted and wanted not in outputs):
        return wanted
    return old


def _rewritten(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The model without ZipMaps, and its external data, in ``folder``."""
    import onnx

    model = onnx.load(str(files[MODEL]), load_external_data=False)
    _without_zipmaps(model)
    (folder / MODEL).write_bytes(model.SerializeToString())
    for path in files.keys() - {MODEL}:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[path], folder / path)
    return {path: folder / path for path in files}


def _tried(runtime: OnnxRuntime, signature: ModelSignature, rows: Rows | None) -> float | None:
    """Median microseconds of a run with one row of the sample, after it has answered several at once."""
    if rows is None:
        return None
    names = [spec.name for spec in runtime.outputs]
    given = given_tensors(signature, rows.take(np.arange(min(len(rows), _TRIED_ROWS))))
    one = {name: array[:1] for name, array in given.items()}
    _run(runtime, one, names, "the model fails on a row of the sample", "check the order and meaning of its columns")
    if signature.batched:
        hint = "export it with a free batch axis all the way through, or with a batch of 1"
        several = "the model says that it takes any number of rows, and fails on several"
        answered = _run(runtime, given, names, several, hint)
        rows_given = len(next(iter(given.values())))
        if any(len(array) != rows_given for array in answered):
            raise InvalidInput(several, field="sample", hint=hint)
    return micros(lambda: runtime.run(one, names))


def given_tensors(signature: ModelSignature, rows: Rows) -> dict[str, Array]:
    """``rows`` as the input tensors of ``signature``."""
    packed = [spec for spec in signature.inputs if spec.columns]
    given = tensors(rows, packed)
    for spec in signature.inputs:
        if not spec.columns:
            values = rows.columns[spec.name].astype(NUMPY_DTYPES[spec.datatype])
            given[spec.name] = values.reshape(-1, 1) if len(spec.shape) == 2 else values
    return given


def _run(runtime: OnnxRuntime, given: dict[str, Array], names: list[str], message: str, hint: str) -> Sequence[Array]:
    try:
        return runtime.run(given, names)
    except Exception as error:
        raise InvalidInput(message, field="sample", hint=hint) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
