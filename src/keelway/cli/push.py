"""``keelway push``: a trained file becomes a proved, verified, versioned model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    open_blobs,
    open_registry,
    registry_settings,
    signing_key,
    whoami,
)
from keelway.cli.output import print_json, progress

if TYPE_CHECKING:
    from keelway.artifacts.signing import SigningKey
    from keelway.config import Settings
    from keelway.publish.release import Source

HELP = """Convert a trained model, prove the conversion, and register it as a version.

Takes ONNX files, scikit-learn models (pickle, joblib, skops), XGBoost, LightGBM and CatBoost models (their own files,
or pickled), PyTorch programs (.pt2) and modules (.pt), Keras models (.keras, .h5), LiteRT models (.tflite), Python
classes (.py), pipelines of registered models and steps (.toml), and whatever a function of yours makes (--from-python).
A pickle, a Python class or a PyTorch file runs code when it is opened: say --trust-pickle if you trust its author. That
is consent, not a sandbox.

Without --version the version is computed: the signature, what is declared and the answers to the golden sample are
compared with those of the versions that are live. MAJOR where a caller could break, PATCH where predictions are
equivalent, else MINOR. A version that says less is refused, with the reasons.

\b
Examples:
  keelway push lead_scoring model.joblib --sample leads.parquet --target Purchase --trust-pickle
  keelway push digits model.onnx
  keelway push churn model.skops --sample churn.csv --target left --version 2.0.0
  keelway push price model.ubj --sample houses.parquet --target price
  keelway push flowers flowers.keras --sample flowers.npz --python keras-env/bin/python
  keelway push churn churn.skops --sample churn.csv --lineage seed=42 --lineage metric.auc=0.91
  keelway push churn churn.skops --sample churn.csv --target left --sign signing-key.pem
  keelway push churn churn.skops --sample churn.csv --target left --isolation-forest
  keelway push digits --from-python digits.train:make --sample digits.npz
"""


def push(
    name: Annotated[str, typer.Argument(help="Name of the model: a-z, 0-9, - and _.")],
    file: Annotated[Path | None, typer.Argument(help="The trained file.")] = None,
    from_python: Annotated[
        str | None,
        typer.Option(
            "--from-python", metavar="MODULE:FUNCTION", help="Call this function, in a child process, for the model."
        ),
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(
            "--sample", metavar="FILE", help="What it will see: a table (Parquet, CSV, Arrow, JSON), or arrays (.npz)."
        ),
    ] = None,
    target: TargetOption = None,
    version: VersionOption = None,
    trust_pickle: TrustPickleOption = False,
    trust_type: TrustTypeOption = None,
    tolerance: ToleranceOption = None,
    python: Annotated[
        Path | None,
        typer.Option("--python", metavar="FILE", help="Python of an environment with TensorFlow, for Keras models."),
    ] = None,
    lineage: Annotated[
        list[str] | None,
        typer.Option(
            "--lineage",
            metavar="KEY=VALUE",
            help="What made it: seed=42, parameter.depth=6, metric.auc=0.91; may be repeated.",
        ),
    ] = None,
    sign: SignOption = None,
    no_golden: Annotated[
        bool, typer.Option("--no-golden", help="Keep no rows of the sample with the version, to compare the next with.")
    ] = False,
    isolation_forest: Annotated[
        bool,
        typer.Option(
            "--isolation-forest", help="Train one on the sample: anomaly tags find rows in empty places between others."
        ),
    ] = False,
    why: WhyOption = "pushed from the command line",
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.publish.lineage import parse_given
    from keelway.publish.release import Source

    settings = registry_settings(config, store, artifacts)
    given = parse_given(lineage or ())
    key = signing_key(settings, sign, "--sign")
    source = Source(
        file,
        sample,
        target,
        trust_pickle,
        tolerance,
        from_python or "",
        frozenset(trust_type or ()),
        python or (Path(named) if (named := settings.publish.keras_python) else None),
        given,
        not no_golden,
        isolation_forest,
    )
    release_and_print(settings, name, version, source, key, why, json=json)


def release_and_print(
    settings: Settings, name: str, version: str | None, source: Source, key: SigningKey | None, why: str, *, json: bool
) -> None:
    """Push ``source``, signed if there is a ``key``, and print what became of it."""
    from keelway.artifacts.statement import SignaturePolicy, sign_version
    from keelway.publish.bump import bump_lines
    from keelway.publish.release import release
    from keelway.publish.report import report_lines

    pushed = release(
        open_registry(settings),
        open_blobs(settings),
        name,
        version,
        source,
        sign=partial(sign_version, key) if key else None,
        signed=SignaturePolicy.of(settings.signing),
        who=whoami(),
        why=why,
        progress=progress,
    )
    report = pushed.report
    if json:
        print_json(
            {
                "model": pushed.model,
                "version": pushed.version,
                "model_digest": pushed.model_digest,
                "key_id": key.key_id if key else None,
                "bump": pushed.metadata.get("bump"),
                "report": report,
            }
        )
        return
    typer.echo(f"{pushed.model} {pushed.version}  {pushed.model_digest}")
    if key:
        typer.echo(f"  signed with the key {key.key_id}")
    for line in (*bump_lines(pushed.metadata.get("bump", {})), *report_lines(report)):
        typer.echo(f"  {line}")
    consent = f" --allow-python {pushed.model_digest}" if report.get("format") in ("python", "torch") else ""
    consent += "".join(f" --trust-type {name}" for name in report.get("untrusted_types", ()))
    typer.echo(f"  serve it: keelway serve {pushed.model}{consent}")
