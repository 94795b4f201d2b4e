"""The push: a trained file, or a pipeline of registered models, becomes a stored manifest and a registered version.

Joins what ``push.py`` proves and ``compose.py`` wires with the blob store and the registry. The command line calls it;
so may a training script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import msgspec

from keelway.artifacts.archives import extract
from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.formats import Format, detect
from keelway.artifacts.manifest import FileEntry, Manifest
from keelway.artifacts.materialise import put_manifest, store_folder
from keelway.artifacts.statement import SignaturePolicy
from keelway.contract.anomaly import MIN_HELD_OUT, Detector
from keelway.contract.baseline import Baseline
from keelway.contract.compatibility import Promise
from keelway.contract.names import check_name
from keelway.contract.semver import Version
from keelway.contract.signature import validate_signature
from keelway.errors import InvalidInput, NotFound, Overtaken
from keelway.publish.anomalies import anomaly_lines, described, learn
from keelway.publish.bump import compute
from keelway.publish.compose import compose, text_pipeline
from keelway.publish.golden import GOLDEN
from keelway.publish.judging import Judge
from keelway.publish.lineage import collect
from keelway.publish.report import Prepared
from keelway.publish.running import asking
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
    (``lineage.parse_given``), beside what is found out. ``golden``: some rows of the sample are kept, with the model's
    answers. ``isolation_forest``: its rows train one, for anomaly tags."""

    file: Path | None = None
    sample: Path | None = None
    target: str | None = None
    trust_pickle: bool = False
    tolerance: float | None = None
    factory: str = ""
    trusted_types: frozenset[str] = frozenset()
    python: Path | None = None
    lineage: Mapping[str, Any] = field(default_factory=dict)
    golden: bool = True
    isolation_forest: bool = False


#: How often a push is decided anew because somebody else changed the model meanwhile.
_ATTEMPTS: Final = 5


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
    """Prove, store, compare with what is live and register. Files are stored before the registry names them, so an
    interrupted push is invisible. ``version`` ``None`` is the one that the comparison computes (``bump.py``). ``sign``
    signs the version; ``signed`` is what is demanded of the members of a pipeline, which its signature will vouch for.

    Raises ``KeelwayError``: the file is no model, may not be opened, cannot be proved or kept, the version is taken, or
    it says less than the comparison has found.
    """
    check_name(name)
    declared = None if version is None else Version.parse(version)
    if (source.file is None) == (not source.factory):
        raise InvalidInput("nothing, or two things, to push", field="file", hint="give a file, or --from-python")
    if source.file is not None and not source.file.exists():
        raise NotFound(f"there is no file {source.file.name}", hint="give the path of the trained model")
    if source.isolation_forest:
        _require_table(source)
    if source.file is not None and source.file.suffix == ".toml":
        progress(f"wiring the pipeline {source.file.name}")
        manifest = compose(source.file, registry, blobs, signed)
        report: dict[str, Any] = {"format": "pipeline"}
        baseline: Baseline | None = None
        detector: Detector | None = None
        features, _ = _apart(_sample(source, progress), source.target)
        known: FileEntry | None = None
    else:
        manifest, report, baseline, detector, features, known = _convert(blobs, source, progress)
    validate_signature(manifest.signature)
    digest = put_manifest(blobs, manifest)
    consent = None if source.trust_pickle or source.factory else frozenset[str]()
    trusted = source.trusted_types | frozenset(report.get("untrusted_types", ()))
    with asking(blobs, digest, allowed_python=consent, trusted_types=trusted) as ask:
        judge = Judge(blobs, manifest, digest, report, ask, progress)
        golden, report["golden"] = (
            judge.keep_golden(features) if source.golden else (None, "none: --no-golden was said")
        )
        metadata: dict[str, Any] = {"lineage": collect(known or source.file, source.sample, source.lineage)}
        if golden is not None:
            metadata[GOLDEN] = golden
        further = [*([golden] if golden else []), *(detector.blobs if detector else ())]
        for _ in range(_ATTEMPTS):
            standing = registry.standing(name)
            bump = None
            if declared is None or declared not in map(Version.parse, standing.numbers):
                bump = compute(standing, Promise(manifest.signature), declared, judge.promise_of, judge.behave)
            progress("registering")
            with suppress(Overtaken):
                return registry.push(
                    name,
                    bump.version if bump else version,  # one that is there is the same, or taken: the registry tells
                    digest,
                    report=report,
                    baseline=baseline,
                    detector=detector,
                    metadata=metadata | ({"bump": msgspec.to_builtins(bump)} if bump else {}),
                    stored=partial(require_stored, blobs, digest, *further),
                    sign=sign,
                    decided_on=standing,
                    who=who,
                    why=why,
                )
            progress("the model was changed meanwhile: comparing anew")
    raise Overtaken("the model is changed again and again", field="version", hint="push it when nobody else does")


def _require_table(source: Source) -> None:
    """Said before the model is proved, which may take minutes."""
    from keelway.publish.examples import ARRAY_FILES

    if source.file is not None and source.file.suffix == ".toml":
        raise _no_forest("a pipeline has no anomaly detector")
    if source.sample is None or source.sample.suffix in ARRAY_FILES:
        raise _no_forest("an isolation forest is trained on the rows of a table")


def _no_forest(why: str) -> InvalidInput:
    hint = f"give --sample a table of {2 * MIN_HELD_OUT} rows or more with numbers in it, or no --isolation-forest"
    return InvalidInput(why, field="isolation_forest", hint=hint)


def _sample(source: Source, progress: Progress) -> pd.DataFrame | Path | None:
    """The sample as a table, or as the file of arrays that it is."""
    from keelway.contract.sample import read_sample
    from keelway.publish.examples import ARRAY_FILES

    if source.sample is None or source.sample.suffix in ARRAY_FILES:
        return source.sample
    progress(f"reading the sample {source.sample.name}")
    return read_sample(source.sample)


def _apart(
    sample: pd.DataFrame | Path | None, target: str | None
) -> tuple[pd.DataFrame | Path | None, pd.Series[Any] | None]:
    """What a model is given of the sample, and what it predicts, where that is a column of a table."""
    from keelway.contract.sample import split_target

    if sample is None or isinstance(sample, Path) or target is None:
        return sample, None
    return split_target(sample, target)


def _convert(
    blobs: BlobStore, source: Source, progress: Progress
) -> tuple[Manifest, dict[str, Any], Baseline | None, Detector | None, pd.DataFrame | Path | None, FileEntry | None]:
    """Also what is stored of the file itself, if it is stored as it is."""
    from keelway.publish.isolation import grow
    from keelway.publish.push import prepare, without_target

    sample = _sample(source, progress)
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
        files = prepared.in_place.store(blobs) if prepared.in_place else store_folder(blobs, prepared.folder)
        itself = prepared.in_place.entry_of(source.file, files) if prepared.in_place and source.file else None
        manifest = Manifest(files, prepared.signature, prepared.runtime, prepared.options)
        if prepared.tokenized is not None:
            manifest = text_pipeline(prepared.tokenized.file, prepared.tokenized.options, manifest, blobs)
    report = msgspec.to_builtins(prepared.report)
    detector = None
    features, classes = _apart(sample, source.target)
    if features is not None and not isinstance(features, Path):
        progress("learning what rows look like")
        detector = learn(
            features, manifest.signature, classes, partial(grow, blobs) if source.isolation_forest else None
        )
        report["anomalies"] = described(detector, len(features))
        if source.isolation_forest and detector is None:
            raise _no_forest(anomaly_lines(report["anomalies"])[0])
    return manifest, report, prepared.baseline, detector, features, itself


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
