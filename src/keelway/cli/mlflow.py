"""``keelway import mlflow`` and ``export mlflow``: models from and for the folders that MLflow keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keelway.cli.options import (
    ArtifactsOption,
    ConfigOption,
    JsonOption,
    SignOption,
    StoreOption,
    TargetOption,
    ToleranceOption,
    TrustPickleOption,
    TrustTypeOption,
    VersionOption,
    WhyOption,
    find_version,
    open_blobs,
    open_registry,
    registry_settings,
    signing_key,
)
from keelway.cli.output import print_json
from keelway.cli.push import release_and_print

IMPORT_HELP = "Take a model over from another tool."
EXPORT_HELP = "Write a version for another tool."

IMPORT_MLFLOW_HELP = """Push the model of a folder that MLflow has saved: converted, proved and registered as by push.

Takes the flavours onnx, sklearn, xgboost, lightgbm, catboost and pytorch. The declared columns and the input example
are used; better a --sample of a few hundred rows. A pickle runs code when it is opened: say --trust-pickle if you trust
whoever made the folder. MLflow itself is not needed.

\b
Examples:
  keelway import mlflow mlruns/1/models/m-4f0c/artifacts churn
  keelway import mlflow model/ churn --sample churn.parquet --trust-pickle --version 2.0.0
"""

EXPORT_MLFLOW_HELP = """Write a version to a folder that MLflow can load, log and deploy, as its flavour onnx.

For versions that are kept as ONNX, as most are: keelway show says so.

\b
Examples:
  keelway export mlflow churn@2.0.0 churn-mlflow
  keelway export mlflow churn churn-mlflow --json
"""

taking = typer.Typer(name="import", help=IMPORT_HELP, no_args_is_help=True, rich_markup_mode=None)
giving = typer.Typer(name="export", help=EXPORT_HELP, no_args_is_help=True, rich_markup_mode=None)


@taking.callback()
def _taking() -> None:
    """So that the only command of the group has a name."""


@giving.callback()
def _giving() -> None:
    """As above."""


@taking.command("mlflow", short_help="A folder that MLflow has saved.", help=IMPORT_MLFLOW_HELP)
def import_(
    folder: Annotated[Path, typer.Argument(help="The folder with the file MLmodel.")],
    name: Annotated[str, typer.Argument(help="Name of the model: a-z, 0-9, - and _.")],
    sample: Annotated[
        Path | None,
        typer.Option("--sample", metavar="FILE", help="A table of rows. Default: the input example in the folder."),
    ] = None,
    target: TargetOption = None,
    version: VersionOption = None,
    trust_pickle: TrustPickleOption = False,
    trust_type: TrustTypeOption = None,
    tolerance: ToleranceOption = None,
    sign: SignOption = None,
    why: WhyOption = "taken over from MLflow",
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from tempfile import TemporaryDirectory

    from keelway.publish.mlflow_import import read_folder, sample_of
    from keelway.publish.release import Source

    settings = registry_settings(config, store, artifacts)
    key = signing_key(settings, sign, "--sign")
    model = read_folder(folder)
    rows = sample_of(model, sample, target)
    with TemporaryDirectory(prefix="keelway-mlflow-") as place:
        table = None
        if rows is not None:
            table = Path(place) / "sample.parquet"
            rows.to_parquet(table, index=False)
        source = Source(
            model.file,
            table,
            trust_pickle=trust_pickle,
            tolerance=tolerance,
            trusted_types=frozenset(trust_type or ()),
            lineage={"mlflow": dict(model.facts)},
        )
        release_and_print(settings, name, version, source, key, why, json=json)


@giving.command("mlflow", short_help="A folder that MLflow can load.", help=EXPORT_MLFLOW_HELP)
def export(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="What to export.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write: absent or empty.")],
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.artifacts.materialise import read_manifest
    from keelway.artifacts.statement import SignaturePolicy
    from keelway.publish.mlflow_export import export_folder

    settings = registry_settings(config, store, artifacts)
    registry, blobs = open_registry(settings), open_blobs(settings)
    version = find_version(registry, reference)
    if signed := SignaturePolicy.of(settings.signing):
        signatures = registry.signatures(version.model, version.version)
        signed.check(version.model, version.version, version.model_digest, signatures)
    export_folder(version, read_manifest(blobs, version.model_digest), blobs, folder)
    if json:
        print_json(
            {
                "model": version.model,
                "version": version.version,
                "model_digest": version.model_digest,
                "folder": str(folder),
            }
        )
    else:
        typer.echo(f"{version.model} {version.version} is in {folder}")
        typer.echo(f"  load it: mlflow.pyfunc.load_model({str(folder)!r})")
