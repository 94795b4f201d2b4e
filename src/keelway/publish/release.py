"""The push: a trained file, or a pipeline of registered models, becomes a stored manifest and a registered version.

Joins what ``push.py`` proves and ``compose.py`` wires with the blob store and the registry. The command line calls it;
so may a training script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec

from keelway.artifacts.archives import extract
from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.formats import Format, detect
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import put_manifest, store_folder
from keelway.artifacts.statement import SignaturePolicy
from keelway.contract.anomaly import Detector
from keelway.contract.baseline import Baseline
from keelway.contract.names import check_name
from keelway.contract.semver import Version
from keelway.contract.signature import validate_signature
from keelway.errors import InvalidInput, NotFound
from keelway.publish.anomalies import described, learn
from keelway.publish.compose import compose, text_pipeline
from keelway.publish.lineage import collect
from keelway.publish.report import Prepared
from keelway.registry.models import ModelVersion
from keelway.registry.references import require_stored
from keelway.registry.store import Registry, Signing

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str], None]

_MODELS = frozenset(
    {
        Format.ONNX,
        Format.PICKLE,
        Format.JOBLIB,
        Format.SKOPS,
        Format.XGBOOST,
        Format.LIGHTGBM,
        Format.CATBOOST,
        Format.TORCH_PROGRAM,
        Format.TORCH,
        Format.KERAS,
        Format.HDF5,
        Format.LITERT,
    }
)


@dataclass(frozen=True, slots=True)
class Source:
    """What is pushed: a ``file``, or what the function ``factory`` makes (``package.module:function``).

    ``trust_pickle`` is the caller's consent to running the code inside ``file``; ``trusted_types`` are type names a
    skops file may contain. ``tolerance`` is the largest accepted difference of a probability, or of a value relative to
    the scale of what is predicted; None is the default for the kind of model. ``python`` is the interpreter of an
    environment with TensorFlow, for Keras models; None is this one. ``lineage`` is what the author says of it
    (``lineage.parse_given``), beside what is found out."""

    file: Path | None = None
    sample: Path | None = None
    target: str | None = None
    trust_pickle: bool = False
    tolerance: float | None = None
    factory: str = ""
    trusted_types: frozenset[str] = frozenset()
    python: Path | None = None
    lineage: Mapping[str, Any] = field(default_factory=dict)


def release(
    registry: Registry,
    blobs: BlobStore,
    name: str,
    version: str | None,
    source: Source,
    *,
    sign: Signing | None = None,
    signed: SignaturePolicy | None = None,
    who: str,
    why: str,
    progress: Progress = lambda message: None,
) -> ModelVersion:
    """Prove, store and register. Files are stored before the registry names them, so an interrupted push is invisible.
    ``sign`` signs the version; ``signed`` is what is demanded of the members of a pipeline, which its signature will
    vouch for.

    Raises ``KeelwayError``: the file is no model, may not be opened, cannot be proved or kept, or the version is taken.
    """
    check_name(name)
    if version is not None:
        Version.parse(version)
    if (source.file is None) == (not source.factory):
        raise InvalidInput("nothing, or two things, to push", field="file", hint="give a file, or --from-python")
    if source.file is not None and not source.file.exists():
        raise NotFound(f"there is no file {source.file.name}", hint="give the path of the trained model")
    if source.file is not None and source.file.suffix == ".toml":
        progress(f"wiring the pipeline {source.file.name}")
        manifest = compose(source.file, registry, blobs, signed)
        report: dict[str, Any] = {"format": "pipeline"}
        baseline: Baseline | None = None
        detector: Detector | None = None
    else:
        manifest, report, baseline, detector = _convert(blobs, source, progress)
    validate_signature(manifest.signature)
    progress("registering")
    digest = put_manifest(blobs, manifest)
    return registry.push(
        name,
        version,
        digest,
        report=report,
        baseline=baseline,
        detector=detector,
        stored=partial(require_stored, blobs, digest),
        metadata={"lineage": collect(source.file, source.sample, source.lineage)},
        sign=sign,
        who=who,
        why=why,
    )


def _convert(
    blobs: BlobStore, source: Source, progress: Progress
) -> tuple[Manifest, dict[str, Any], Baseline | None, Detector | None]:
    from keelway.contract.sample import read_sample, split_target
    from keelway.publish.examples import ARRAY_FILES
    from keelway.publish.push import prepare, without_target

    sample: pd.DataFrame | Path | None = source.sample
    if source.sample is not None and source.sample.suffix not in ARRAY_FILES:
        progress(f"reading the sample {source.sample.name}")
        sample = read_sample(source.sample)
    with TemporaryDirectory(prefix="keelway-push-") as folder:
        workspace = Path(folder)

        def prepare_file(file: Path, *, trusted: bool = source.trust_pickle) -> Prepared:
            return prepare(
                _unpacked(file, workspace / "unpacked"),
                sample,
                source.target,
                trust_pickle=trusted,
                trusted_types=source.trusted_types,
                tolerance=source.tolerance,
                python=source.python,
                workspace=workspace,
                progress=progress,
            )

        if source.file is not None:
            prepared = prepare_file(source.file)
        else:
            from keelway.publish.factory import prepare_factory

            prepared = prepare_factory(
                source.factory,
                without_target(sample, source.target),
                tolerance=source.tolerance,
                workspace=workspace,
                progress=progress,
                prepare_file=partial(prepare_file, trusted=True),
            )
        progress("storing the files")
        manifest = Manifest(
            store_folder(blobs, prepared.folder), prepared.signature, prepared.runtime, prepared.options
        )
        if prepared.tokenized is not None:
            manifest = text_pipeline(prepared.tokenized.file, prepared.tokenized.options, manifest, blobs)
    report = msgspec.to_builtins(prepared.report)
    detector = None
    if sample is not None and not isinstance(sample, Path):
        progress("learning what rows look like")
        features, classes = (sample, None) if source.target is None else split_target(sample, source.target)
        detector = learn(features, manifest.signature, classes)
        report["anomalies"] = described(detector, len(sample))
    return manifest, report, prepared.baseline, detector


def _unpacked(file: Path, folder: Path) -> Path:
    """``file``, or the one model inside it when it is an archive (an ONNX file with its external data, say)."""
    if detect(file) not in {Format.ZIP, Format.TAR}:
        return file
    folder.mkdir()
    extract(file, folder)
    models = [path for path in sorted(folder.rglob("*")) if path.is_file() and detect(path) in _MODELS]
    if len(models) != 1:
        raise InvalidInput(
            f"{file.name} holds {len(models)} model files", hint="pack exactly one, or push it without an archive"
        )
    return models[0]
