"""A pipeline as one model: reads its TOML, resolves the members, and derives the signature.

The file::

    [[step]]
    name = "prepare"
    image = { size = [224, 224] }          # a step of the pipeline's own; or: tokenizer = "tokenizer.json"
    inputs = { picture = "photo" }         # the member's tensor = an input of the pipeline, or step.tensor

    [[step]]
    name = "classify"
    model = "resnet@1.0.0"                 # a version, a range, an alias, or the champion: pinned by digest when pushed
    inputs = { input = "prepare.pixels" }

    [outputs]
    label = "classify.label"               # an output of the pipeline = step.tensor

The pipeline's inputs are what no step makes; their datatypes and shapes are those of the tensors they feed. Whether
the wiring holds is the runtime's to say (``keelway.runtimes.pipeline``), here and at every start.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import put_manifest, read_manifest
from keelway.artifacts.paths import check_relative
from keelway.artifacts.statement import SignaturePolicy
from keelway.contract.names import parse_reference
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import CorruptArtifact, InvalidInput
from keelway.plugins import runtime_loader
from keelway.ports import RuntimeOptions
from keelway.publish.steps import image_step, tokens_step
from keelway.registry.store import Registry
from keelway.runtimes.image import ImageOptions
from keelway.runtimes.tokens import TokensOptions
from keelway.types import Array, TensorSpec


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    model: str | None = None
    image: dict[str, Any] | None = None
    tokenizer: str | None = None
    tokens: dict[str, Any] | None = None
    inputs: dict[str, str] | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    step: list[_Step]
    outputs: dict[str, str]


@dataclass(frozen=True, slots=True)
class Member:
    """A step of a pipeline: ``manifest`` is that of a model or of a step of its own (``publish.steps``), whose files
    are stored. ``inputs`` maps each of its tensors to an input of the pipeline or to ``<step>.<tensor>``."""

    name: str
    manifest: Manifest
    inputs: Mapping[str, str]


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


def compose(file: Path, registry: Registry, blobs: BlobStore, signed: SignaturePolicy | None = None) -> Manifest:
    """The manifest of the pipeline in ``file``. Its digest covers its members, because their digests are in it.

    Files that it names are read relative to its folder, and from nowhere else. ``signed`` is what is demanded of its
    members: whoever signs the pipeline vouches for them, and a server does not ask again. Raises ``InvalidInput``
    naming the step or tensor at fault, ``NotFound`` for a member that is not registered, ``UntrustedArtifact`` for one
    that is not signed as demanded.
    """
    wiring = _read(file)
    members = [_member(step, file.parent, registry, blobs, signed) for step in wiring.step]
    return wire(members, wiring.outputs, blobs)


def wire(members: Sequence[Member], outputs: Mapping[str, str], blobs: BlobStore) -> Manifest:
    """The manifest of a pipeline of ``members``, in the order of their runs; ``outputs`` maps each of its outputs to
    ``<step>.<tensor>``. The members' manifests are stored, the pipeline's own is not yet.

    Raises ``InvalidInput`` naming the step or tensor that does not fit.
    """
    signatures: dict[str, ModelSignature] = {}
    for member in members:
        if member.name in signatures:
            raise InvalidInput(f"two steps are called {member.name!r}", field=member.name, hint="rename one")
        signatures[member.name] = member.manifest.signature
    inputs, features = _inputs(members)
    specs = tuple(_output(name, source, signatures) for name, source in outputs.items())
    signature = _signature(outputs, signatures, inputs, features, specs)
    steps = [{"name": m.name, "model_digest": m.manifest.digest, "inputs": dict(m.inputs)} for m in members]
    options = {"steps": steps, "outputs": dict(outputs), "inputs": msgspec.to_builtins(inputs)}
    by_digest = {member.manifest.digest: _Described(member.manifest.signature) for member in members}
    runtime_loader("pipeline")(Path(), "", options, RuntimeOptions(), by_digest.__getitem__)
    for member in members:
        put_manifest(blobs, member.manifest)
    return Manifest((), signature, "pipeline", options)


def text_pipeline(
    tokenizer: Path, options: TokensOptions, model: Manifest, blobs: BlobStore, *, text: str = "text"
) -> Manifest:
    """The manifest of ``model`` behind a tokenizer: it takes ``text``, BYTES [-1], instead of ``input_ids``,
    ``attention_mask`` and ``token_type_ids``, of which ``model`` may lack the last two. What else ``model`` takes, the
    pipeline takes; what it answers, the pipeline answers.

    ``tokenizer`` is a ``tokenizer.json``; it and the manifests of both steps are stored. The files of ``model`` have to
    be. Raises ``InvalidInput`` if the two do not fit, and what ``tokens_step`` raises.
    """
    taken = {spec.name for spec in model.signature.inputs}
    options = msgspec.structs.replace(options, token_type_ids="token_type_ids" in taken)
    step = tokens_step(tokenizer, options, blobs)
    return _before(Member("tokens", step, {"text": text}), "model", model, {name: name for name in taken}, blobs)


def picture_pipeline(
    options: ImageOptions, model: Manifest, blobs: BlobStore, *, tensor: str, picture: str = "picture"
) -> Manifest:
    """The manifest of ``model`` behind a decoder: it takes encoded pictures as ``picture``, BYTES [-1], instead of the
    tensor ``tensor``. As ``text_pipeline`` otherwise."""
    taken = {spec.name: spec.name for spec in model.signature.inputs} | {tensor: "pixels"}
    return _before(Member("image", image_step(options), {"picture": picture}), "model", model, taken, blobs)


def _before(step: Member, name: str, model: Manifest, taken: Mapping[str, str], blobs: BlobStore) -> Manifest:
    """``model`` behind ``step``: each of its tensors in ``taken`` comes from the step's output of that name, if there
    is one, and from outside if not."""
    made = {spec.name for spec in step.manifest.signature.outputs}
    inputs = {tensor: f"{step.name}.{source}" if source in made else tensor for tensor, source in taken.items()}
    outputs = {spec.name: f"{name}.{spec.name}" for spec in model.signature.outputs}
    return wire([step, Member(name, model, inputs)], outputs, blobs)


def _read(file: Path) -> _File:
    try:
        return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), _File)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InvalidInput(
            f"{file.name} is no pipeline: {error}", hint="see docs/how-to/compose-a-pipeline.md"
        ) from None


def _member(step: _Step, folder: Path, registry: Registry, blobs: BlobStore, signed: SignaturePolicy | None) -> Member:
    given = [kind for kind in ("model", "image", "tokenizer") if getattr(step, kind) is not None]
    if len(given) != 1 or (step.tokens is not None and step.tokenizer is None):
        raise InvalidInput(
            f"step {step.name!r} says {' and '.join(given) or 'nothing'} of model, image and tokenizer",
            field=step.name,
            hint="a step is one of them; tokens goes with tokenizer",
        )
    if step.model is not None:
        reference = parse_reference(step.model)
        version = registry.resolve(reference.name, reference.selector)
        if signed is not None:
            signatures = registry.signatures(version.model, version.version)
            signed.check(version.model, version.version, version.model_digest, signatures)
        return Member(step.name, read_manifest(blobs, version.model_digest), step.inputs or {})
    try:
        manifest = _own(step, folder, blobs)
    except (InvalidInput, msgspec.ValidationError) as error:
        hint = (isinstance(error, InvalidInput) and error.hint) or "see docs/how-to/serve-pictures-and-text.md"
        raise InvalidInput(f"step {step.name!r}: {error}", field=step.name, hint=hint) from None
    # Its only input may go without saying.
    (taken,) = manifest.signature.inputs
    return Member(step.name, manifest, {taken.name: taken.name} if step.inputs is None else step.inputs)


def _own(step: _Step, folder: Path, blobs: BlobStore) -> Manifest:
    if step.tokenizer is not None:
        path = _beside(folder, step.tokenizer)
        return tokens_step(path, msgspec.convert(step.tokens or {}, TokensOptions), blobs)
    return image_step(msgspec.convert(step.image or {}, ImageOptions))


def _beside(folder: Path, name: str) -> Path:
    """The file ``name`` below ``folder``, links followed. ``InvalidInput`` if it lies elsewhere."""
    try:
        path = (folder / check_relative(name)).resolve()
    except CorruptArtifact:
        path = Path()
    if not path.is_relative_to(folder.resolve()):
        raise InvalidInput("its file lies outside the pipeline's folder; copy it beside the TOML file")
    if not path.is_file():
        raise InvalidInput("its file is not there; the path begins at the TOML file's folder")
    return path


def _inputs(members: Sequence[Member]) -> tuple[tuple[TensorSpec, ...], tuple[Feature, ...]]:
    """The pipeline's own inputs, in the order of their first use, with the features of the members they feed."""
    inputs: dict[str, TensorSpec] = {}
    features: dict[str, Feature] = {}
    for step in members:
        signature = step.manifest.signature
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
    wanted: Mapping[str, str],
    members: dict[str, ModelSignature],
    inputs: tuple[TensorSpec, ...],
    features: tuple[Feature, ...],
    outputs: tuple[TensorSpec, ...],
) -> ModelSignature:
    """Label and probabilities keep their meaning when the pipeline passes them on."""
    label = probabilities = ""
    chosen: ModelSignature | None = None
    for name, source in wanted.items():
        step, _, tensor = source.partition(".")
        member = members[step]
        if tensor and tensor == member.label_output:
            label, chosen = name, member
        if tensor and tensor == member.probability_output:
            probabilities = name
    if chosen is None:
        return ModelSignature(features, inputs, outputs)
    return ModelSignature(features, inputs, outputs, chosen.task, chosen.labels, label, probabilities)
