"""A pipeline of registered models as one model: reads its TOML, resolves the members, and derives the signature.

The file::

    [[step]]
    name = "features"
    model = "lead_features@1.0.0"          # a version, an alias, or the champion: pinned by digest when pushed
    inputs = { input = "raw" }             # the member's tensor = an input of the pipeline, or step.tensor

    [[step]]
    name = "rank"
    model = "lead_ranker"
    inputs = { input = "features.output" }

    [outputs]
    label = "rank.label"                   # an output of the pipeline = step.tensor

The pipeline's inputs are what no step makes; their datatypes and shapes are those of the tensors they feed. Whether
the wiring holds is the runtime's to say (``keelway.runtimes.pipeline``), here and at every start.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import read_manifest
from keelway.contract.names import parse_reference
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import InvalidInput
from keelway.plugins import runtime_loader
from keelway.ports import RuntimeOptions
from keelway.registry.store import Registry
from keelway.types import Array, TensorSpec


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    model: str
    inputs: dict[str, str]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    step: list[_Step]
    outputs: dict[str, str]


class _Described:
    """A member as its signature describes it: enough to check the wiring without loading a model."""

    thread_safe = True

    def __init__(self, signature: ModelSignature) -> None:
        self.inputs = signature.inputs
        self.outputs = signature.outputs

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held."""


def compose(file: Path, registry: Registry, blobs: BlobStore) -> Manifest:
    """The manifest of the pipeline in ``file``. Its digest covers its members, because their digests are in it.

    Raises ``InvalidInput`` naming the step or tensor at fault, ``NotFound`` for a member that is not registered.
    """
    wiring = _read(file)
    members: dict[str, ModelSignature] = {}
    steps: list[dict[str, Any]] = []
    for step in wiring.step:
        reference = parse_reference(step.model)
        version = registry.resolve(reference.name, reference.version or reference.alias)
        if step.name in members:
            raise InvalidInput(f"two steps are called {step.name!r}", field=step.name, hint="rename one")
        members[step.name] = read_manifest(blobs, version.model_digest).signature
        steps.append({"name": step.name, "model_digest": version.model_digest, "inputs": step.inputs})
    inputs, features = _inputs(wiring, members)
    outputs = [_output(name, source, members) for name, source in wiring.outputs.items()]
    signature = _signature(wiring, members, inputs, features, tuple(outputs))
    options = {"steps": steps, "outputs": wiring.outputs, "inputs": msgspec.to_builtins(inputs)}
    by_digest = {step["model_digest"]: _Described(members[step["name"]]) for step in steps}
    runtime_loader("pipeline")(file.parent, "", options, RuntimeOptions(), by_digest.__getitem__)
    return Manifest((), signature, "pipeline", options)


def _read(file: Path) -> _File:
    try:
        return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), _File)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InvalidInput(
            f"{file.name} is no pipeline: {error}", hint="see docs/how-to/compose-a-pipeline.md"
        ) from None


def _inputs(wiring: _File, members: dict[str, ModelSignature]) -> tuple[tuple[TensorSpec, ...], tuple[Feature, ...]]:
    """The pipeline's own inputs, in the order of their first use, with the features of the members they feed."""
    inputs: dict[str, TensorSpec] = {}
    features: dict[str, Feature] = {}
    for step in wiring.step:
        signature = members[step.name]
        specs = {spec.name: spec for spec in signature.inputs}
        for tensor, source in step.inputs.items():
            if "." in source or source in inputs:
                continue
            if tensor not in specs:
                raise InvalidInput(f"step {step.name!r} has no input {tensor!r}", field=step.name)
            spec = specs[tensor]
            inputs[source] = TensorSpec(source, spec.datatype, spec.shape, spec.columns)
            known = {feature.name: feature for feature in signature.features}
            for name in spec.columns or (tensor,):
                feature = known[name]
                own = feature.name if spec.columns else source
                features[own] = msgspec.structs.replace(feature, name=own)
    return tuple(inputs.values()), tuple(features.values())


def _output(name: str, source: str, members: dict[str, ModelSignature]) -> TensorSpec:
    step, _, tensor = source.partition(".")
    for spec in members[step].outputs if step in members else ():
        if spec.name == tensor:
            return TensorSpec(name, spec.datatype, spec.shape)
    raise InvalidInput(f"the output {name!r} names {source!r}, which no step makes", field=name)


def _signature(
    wiring: _File,
    members: dict[str, ModelSignature],
    inputs: tuple[TensorSpec, ...],
    features: tuple[Feature, ...],
    outputs: tuple[TensorSpec, ...],
) -> ModelSignature:
    """Label and probabilities keep their meaning when the pipeline passes them on."""
    label = probabilities = ""
    chosen: ModelSignature | None = None
    for name, source in wiring.outputs.items():
        step, _, tensor = source.partition(".")
        member = members[step]
        if tensor and tensor == member.label_output:
            label, chosen = name, member
        if tensor and tensor == member.probability_output:
            probabilities = name
    if chosen is None:
        return ModelSignature(features, inputs, outputs)
    return ModelSignature(features, inputs, outputs, chosen.task, chosen.labels, label, probabilities)
