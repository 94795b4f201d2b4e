"""The push: a trained file, or a pipeline of registered models, becomes a stored manifest and a registered version.

Joins what ``push.py`` proves and ``compose.py`` wires with the blob store and the registry. The command line calls it;
so may a training script.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from keelway.artifacts.archives import extract
from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.formats import Format, detect
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import put_manifest, store_folder
from keelway.contract.baseline import Baseline
from keelway.contract.names import check_name
from keelway.contract.semver import Version
from keelway.contract.signature import validate_signature
from keelway.errors import InvalidInput, NotFound
from keelway.publish.compose import compose
from keelway.registry.models import ModelVersion
from keelway.registry.store import Registry

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
    }
)


@dataclass(frozen=True, slots=True)
class Source:
    """What is pushed. ``trust_pickle`` is the caller's consent to running the code inside ``file``; ``trusted_types``
    are type names a skops file may contain. ``tolerance`` is the largest accepted difference of a probability, or of a
    value relative to the scale of the target."""

    file: Path
    sample: Path | None = None
    target: str | None = None
    trust_pickle: bool = False
    tolerance: float = 1e-5
    trusted_types: frozenset[str] = frozenset()


def release(
    registry: Registry,
    blobs: BlobStore,
    name: str,
    version: str | None,
    source: Source,
    *,
    who: str,
    why: str,
    progress: Progress = lambda message: None,
) -> ModelVersion:
    """Prove, store and register. Files are stored before the registry names them, so an interrupted push is invisible.

    Raises ``KeelwayError``: the file is no model, may not be opened, cannot be proved or kept, or the version is taken.
    """
    check_name(name)
    if version is not None:
        Version.parse(version)
    if not source.file.exists():
        raise NotFound(f"there is no file {source.file.name}", hint="give the path of the trained model")
    if source.file.suffix == ".toml":
        progress(f"wiring the pipeline {source.file.name}")
        manifest = compose(source.file, registry, blobs)
        report: dict[str, Any] = {"format": "pipeline"}
        baseline: Baseline | None = None
    else:
        manifest, report, baseline = _convert(blobs, source, progress)
    validate_signature(manifest.signature)
    progress("registering")
    digest = put_manifest(blobs, manifest)
    return registry.push(name, version, digest, report=report, baseline=baseline, who=who, why=why)


def _convert(blobs: BlobStore, source: Source, progress: Progress) -> tuple[Manifest, dict[str, Any], Baseline | None]:
    from keelway.contract.sample import read_sample
    from keelway.publish.push import prepare

    sample = None
    if source.sample is not None:
        progress(f"reading the sample {source.sample.name}")
        sample = read_sample(source.sample)
    with TemporaryDirectory(prefix="keelway-push-") as workspace:
        prepared = prepare(
            _unpacked(source.file, Path(workspace) / "unpacked"),
            sample,
            source.target,
            trust_pickle=source.trust_pickle,
            trusted_types=source.trusted_types,
            tolerance=source.tolerance,
            workspace=Path(workspace),
            progress=progress,
        )
        progress("storing the files")
        files = store_folder(blobs, prepared.folder)
    manifest = Manifest(files, prepared.signature, prepared.runtime, prepared.options)
    return manifest, msgspec.to_builtins(prepared.report), prepared.baseline


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
